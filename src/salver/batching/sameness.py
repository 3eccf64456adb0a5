"""Whether a signature answers a row the same in a batch and alone: tried, and not believed.

A batch dimension that a signature declares is a promise of its exporter.  A model may break it: a
normalization that was left in training, a sum over the batch, a random number.  So before calls of
several clients share a run, rows are made up, asked together and one by one, and the answers
compared.  What cannot be tried is not batched, and the verdict says why.

The rows are ours, never a client's: whoever could choose them could have a model found harmless.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from salver.dtypes import DType
from salver.errors import Cancelled, DeadlineExceeded, InvalidArgument, ServingError
from salver.signature import Signature, TensorInfo

ROWS: Final = 5
"""Asked together: few, so that it is soon done, and as many as no kernel's unrolling hides."""

TOLERANCE: Final = 1e-5
"""Of a float's difference, as a share of the largest value in the answer.

A matrix product of several rows adds up in another order than that of one.
"""

MAX_SAMPLE_BYTES: Final = 64 << 20
"""Of rows that are made up, for one input."""

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
    """Try a signature; that ``run`` refuses what was made up is a reason like any other.

    Raises:
        Cancelled, DeadlineExceeded: ``run`` raised it.
    """
    if not declares_batch(signature):
        return Verdict(is_batchable=False, reason=NO_BATCH_DIMENSION)
    for alias, info in signature.inputs.items():
        if not _can_be_made_up(info):
            return Verdict(
                is_batchable=False,
                reason=f"rows of {info.dtype.name} for input {alias!r} cannot be made up",
            )
    first_error: ServingError | None = None
    for inputs in _samples(signature.inputs, np.random.default_rng(seed)):
        try:
            return _compared(signature, run, inputs)
        except (Cancelled, DeadlineExceeded):  # noqa: PERF203 -- each sample may be refused
            raise
        except ServingError as error:
            first_error = first_error or error
    text = "too large" if first_error is None else f"refused: {_quoted(first_error)}"
    return Verdict(is_batchable=False, reason=f"rows that were made up to try it are {text}")


def _compared(signature: Signature, run: Run, inputs: Sequence[np.ndarray]) -> Verdict:
    together = run(inputs)
    alone = [run([each[row : row + 1] for each in inputs]) for row in range(ROWS)]
    worst = 0.0
    tells_rows_apart = False
    for position, alias in enumerate(signature.outputs):
        batch = together[position]
        rows = [each[position] for each in alone]
        if batch.shape[:1] != (ROWS,) or any(row.shape != (1, *batch.shape[1:]) for row in rows):
            return Verdict(
                is_batchable=False,
                reason=f"output {alias!r} has {_shape(batch)} for {ROWS} rows "
                f"and {_shape(rows[0])} for one",
            )
        one_by_one = np.concatenate(rows)
        difference = _difference(batch, one_by_one)
        if difference > TOLERANCE:
            return Verdict(
                is_batchable=False,
                reason=f"output {alias!r} of a row is another in a batch than alone "
                f"(by {difference:.2g} of its largest value, {TOLERANCE:g} is allowed)",
            )
        worst = max(worst, difference)
        tells_rows_apart |= any(not _same(row, rows[0]) for row in rows[1:])
    if not tells_rows_apart:
        return Verdict(
            is_batchable=False,
            reason="it gave the same answer to different rows, which proves nothing",
        )
    if worst == 0:
        return Verdict(is_batchable=True, reason="answers are the same in a batch and alone")
    return Verdict(
        is_batchable=True,
        reason=f"answers in a batch and alone differ by {worst:.1g} of the largest value at most",
    )


def _samples(
    infos: Mapping[str, TensorInfo], random: np.random.Generator
) -> Iterator[list[np.ndarray]]:
    """Inputs of ``ROWS`` different rows; several where a graph may not like the first."""
    is_open = any(-1 in (info.shape or ())[1:] for info in infos.values())
    for size in OPEN_SIZES if is_open else OPEN_SIZES[-1:]:
        shapes = [
            (ROWS, *(size if each < 0 else each for each in (info.shape or ())[1:]))
            for info in infos.values()
        ]
        if any(
            math.prod(shape) * info.dtype.numpy.itemsize > MAX_SAMPLE_BYTES
            for shape, info in zip(shapes, infos.values(), strict=True)
        ):
            continue
        yield [
            _rows(random, shape, info.dtype.numpy)
            for shape, info in zip(shapes, infos.values(), strict=True)
        ]


def _rows(random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Numbers that most graphs take: from 0 to 1, and whole ones of 0 and 1."""
    if dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(dtype)
    return random.random(shape).astype(dtype)


def _can_be_made_up(info: TensorInfo) -> bool:
    if info.dtype is DType.BFLOAT16:
        return True
    try:
        return info.dtype.numpy.kind in "biufc"
    except InvalidArgument:
        return False


def _quoted(error: ServingError) -> str:
    return error.message.partition("\n")[0][:QUOTED]


def _difference(batch: np.ndarray, rows: np.ndarray) -> float:
    """The largest difference, as a share of the largest value; 0 where all bits agree."""
    if _same(batch, rows):
        return 0.0
    if batch.dtype.kind not in "fc" and batch.dtype != DType.BFLOAT16.numpy:
        return math.inf
    one, other = batch.astype(np.complex128), rows.astype(np.complex128)
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return math.inf
    finite = np.isfinite(one)
    if not finite.any():
        return math.inf
    largest = float(np.abs(one[finite]).max())
    difference = float(np.abs(one[finite] - other[finite]).max())
    return difference / largest if largest else math.inf


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.hasobject:
        return one.shape == other.shape and one.tolist() == other.tolist()
    return one.tobytes() == other.tobytes()


def _shape(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"
