"""Whether a signature answers a row the same in a batch and alone: tried, and not believed.

A batch dimension that a signature declares is a promise of its exporter.  A model may break it: a
normalization that was left in training, a sum over the batch, a random number.  So before calls of
several clients share a run, rows are made up and asked: together, one by one, and together with
other neighbours.  With other neighbours a row's answer has to stay the same to the last bit; alone
it may differ by what another order of additions makes.  What cannot be tried is not batched, and
the verdict says why.

The rows are ours, never a client's: whoever could choose them could have a model found harmless.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from salver.dtypes import DType
from salver.errors import InvalidArgument, ServingError
from salver.signature import Signature, TensorInfo

ROWS: Final = 5
"""Asked together: few, so that it is soon done, and as many as no kernel's unrolling hides."""

TOLERANCE: Final = 1e-5
"""Of a float's difference, as a share of the largest value in the answer.

A matrix product of several rows adds up in another order than that of one.
"""

SCALES: Final = (1, 4, 16, 64, 255)
"""The largest number of each row: some models take shares, some the bytes of a picture."""

MAX_SAMPLE_BYTES: Final = 64 << 20
"""Of rows that are made up, for one input; and of what is answered to them, for one output."""

OPEN_SIZES: Final = (8, 64, 224, 1)
"""Tried in turn where other dimensions than the first are open."""

QUOTED: Final = 200
"""Characters of an error."""

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""Runs a signature once: its inputs in their order, its outputs in theirs."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether calls may share a run, and why, in words for people."""

    is_batchable: bool
    reason: str


NO_BATCH_DIMENSION: Final = "not every input and output declares an open first dimension"


def declares_batch(signature: Signature) -> bool:
    """Whether every input and output has an open first dimension."""
    infos = [*signature.inputs.values(), *signature.outputs.values()]
    return bool(signature.inputs) and all(
        info.shape is not None and len(info.shape) > 0 and info.shape[0] == -1 for info in infos
    )


def verdict(signature: Signature, run: Run, *, seed: int = 20) -> Verdict:
    """Try a signature; that ``run`` refuses what was made up is a reason like any other."""
    if not declares_batch(signature):
        return _no(NO_BATCH_DIMENSION)
    for alias, info in signature.inputs.items():
        if not _can_be_made_up(info):
            return _no(f"rows of {info.dtype.name} for input {alias!r} cannot be made up")
    first_error: ServingError | None = None
    for inputs, others in _samples(signature.inputs, np.random.default_rng(seed)):
        try:
            return _tried(signature, run, inputs, others)
        except ServingError as error:  # noqa: PERF203 -- each sample may be refused
            first_error = first_error or error
    text = "too large" if first_error is None else f"refused: {_quoted(first_error)}"
    return _no(f"rows that were made up to try it are {text}")


def _no(reason: str) -> Verdict:
    return Verdict(is_batchable=False, reason=reason)


def _tried(
    signature: Signature, run: Run, inputs: Sequence[np.ndarray], others: Sequence[np.ndarray]
) -> Verdict:
    together = run(inputs)
    for position, alias in enumerate(signature.outputs):
        if together[position].shape[:1] != (ROWS,):
            shape = _shape(together[position])
            return _no(f"output {alias!r} has shape {shape} for {ROWS} rows")
        if together[position].nbytes > MAX_SAMPLE_BYTES:
            return _no(f"output {alias!r} is too large to be tried")
    among_others = run(
        [_first_kept(mine, other) for mine, other in zip(inputs, others, strict=True)]
    )
    alone = [run([each[row : row + 1] for each in inputs]) for row in range(ROWS)]
    worst = 0.0
    for position, alias in enumerate(signature.outputs):
        rows = [each[position] for each in alone]
        reason, difference = _judged(alias, together[position], among_others[position], rows)
        if reason:
            return _no(reason)
        worst = max(worst, difference)
    if worst == 0:
        return Verdict(is_batchable=True, reason="answers are the same in a batch and alone")
    return Verdict(
        is_batchable=True,
        reason=f"answers in a batch and alone differ by {worst:.1g} of the largest value at most",
    )


def _judged(
    alias: str, batch: np.ndarray, among_others: np.ndarray, rows: Sequence[np.ndarray]
) -> tuple[str, float]:
    """Why an output may not be batched, if so; and by how much its rows differ alone."""
    if any(row.shape != (1, *batch.shape[1:]) for row in rows):
        return f"output {alias!r} has shape {_shape(rows[0])} for one row", 0.0
    if among_others.shape != batch.shape or not _same(among_others[0], batch[0]):
        return f"output {alias!r} of a row is another with other rows beside it", 0.0
    if all(_same(row, rows[0]) for row in rows[1:]):
        return f"output {alias!r} is the same for different rows, which proves nothing", 0.0
    difference = _difference(batch, rows)
    if difference > TOLERANCE:
        reason = (
            f"output {alias!r} of a row is another in a batch than alone "
            f"(by {difference:.2g} of its largest value, {TOLERANCE:g} is allowed)"
        )
        return reason, difference
    return "", difference


def _first_kept(mine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Other rows but for the first."""
    return np.concatenate([mine[:1], other[1:]])


def _samples(
    infos: Mapping[str, TensorInfo], random: np.random.Generator
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Two sets of inputs with ``ROWS`` different rows; several where a graph may not like some."""
    is_open = any(-1 in (info.shape or ())[1:] for info in infos.values())
    for size in OPEN_SIZES if is_open else OPEN_SIZES[-1:]:
        shapes = [
            (ROWS, *(size if each < 0 else each for each in (info.shape or ())[1:]))
            for info in infos.values()
        ]
        kinds = [
            (shape, info.dtype.numpy) for shape, info in zip(shapes, infos.values(), strict=True)
        ]
        if all(math.prod(shape) * dtype.itemsize <= MAX_SAMPLE_BYTES for shape, dtype in kinds):
            yield (
                [_rows(random, shape, dtype) for shape, dtype in kinds],
                [_rows(random, shape, dtype) for shape, dtype in kinds],
            )


def _rows(random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Numbers that most graphs take: from 0 to 1, to 4 and so on to 255, and wholes of 0 and 1."""
    if dtype.kind in "iub":
        return random.integers(0, 2, shape, np.uint8).astype(dtype)
    numbers = random.random(shape, np.float32)
    numbers *= np.array(SCALES, np.float32).reshape(-1, *[1] * (len(shape) - 1))
    return numbers.astype(dtype)


def _can_be_made_up(info: TensorInfo) -> bool:
    if info.dtype is DType.BFLOAT16:
        return True
    try:
        return info.dtype.numpy.kind in "biufc"
    except InvalidArgument:
        return False


def _quoted(error: ServingError) -> str:
    return error.message.partition("\n")[0][:QUOTED]


def _difference(batch: np.ndarray, rows: Sequence[np.ndarray]) -> float:
    """The largest difference, as a share of the largest value; 0 where all bits agree."""
    is_exact = batch.dtype.kind not in "fc" and batch.dtype != DType.BFLOAT16.numpy
    wide = np.complex128 if batch.dtype.kind == "c" else np.float64
    largest = difference = 0.0
    for row, alone in zip(batch, rows, strict=True):
        is_same = _same(row, alone[0])
        if is_exact and not is_same:
            return math.inf
        if is_exact:
            continue
        one, other = row.astype(wide), alone[0].astype(wide)
        finite = np.isfinite(one)
        largest = max(largest, float(np.abs(one[finite]).max(initial=0.0)))
        if is_same:
            continue
        if not np.array_equal(finite, np.isfinite(other)):
            return math.inf
        difference = max(difference, float(np.abs(one[finite] - other[finite]).max(initial=0.0)))
    if not difference:
        return 0.0
    return difference / largest if largest else math.inf


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of one shape agree to the last bit; strings letter by letter."""
    if one.dtype.hasobject:
        return bool(one.tolist() == other.tolist())
    one, other = (np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (one, other))
    return bool(np.array_equal(one, other))


def _shape(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"
