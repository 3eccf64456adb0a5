"""Golden requests: a version whose answers miss those shipped with it never serves.

They are PredictionLogs with request and answer, so TensorFlow Serving's own tools write them.
Numbers may be off by what ``Tolerance`` allows; types, shapes, strings and whole numbers may not.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import numpy as np

from salver.apis.prediction_log import Answer, read_answer, read_prediction_log
from salver.apis.requests import ClassifiedExample
from salver.apis.tfrecord import read_records, unreadable
from salver.dtypes import DType
from salver.errors import (
    Cancelled,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    ServingError,
    error_for,
)
from salver.metrics import Metrics
from salver.model_server.rehearsal import Candidate, Pace
from salver.model_server.replay import Replayer

logger = logging.getLogger(__name__)

GOLDEN_REQUESTS: Final = "salver_golden_requests"
GOLDEN_TOLERANCE: Final = "salver_golden_tolerance.json"

MAX_TOLERANCE_BYTES: Final = 1 << 20

_SHOWN_LETTERS: Final = 200
"""Of a value, in an error text."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How far a number may be off: ``atol + rtol * |expected|``."""

    rtol: float = 1e-4
    atol: float = 1e-5

    def __str__(self) -> str:
        return f"atol {self.atol:g} + rtol {self.rtol:g}"


DEFAULT_ALLOWANCE: Final = Allowance()


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What holds for all outputs, and what for some of them, by name."""

    default: Allowance = DEFAULT_ALLOWANCE
    outputs: Mapping[str, Allowance] = field(default_factory=dict)

    def of(self, output: str) -> Allowance:
        """What holds for an output."""
        return self.outputs.get(output, self.default)


class GoldenRequests:
    """Asks a version its golden requests; the first answer that misses ends its load."""

    def __init__(self, replayer: Replayer, metrics: Metrics) -> None:
        self._replayer = replayer
        self._metrics = metrics

    def __call__(self, candidate: Candidate, pace: Pace) -> None:
        """Ask them, if the version has any.

        Raises:
            FailedPrecondition: an answer misses; the text says which, where and by how much.
            DataLoss: the file is no TFRecord file, a damaged one, or empty.
            InvalidArgument: a record is no request with its answer, or the tolerance is no such.
            ServingError: what the version says to a request.
        """
        path = candidate.extra_asset(GOLDEN_REQUESTS)
        if path is None:
            return
        tolerance = read_tolerance(candidate.extra_asset(GOLDEN_TOLERANCE))
        number = 1
        try:
            for record in read_records(path):
                self._ask(record, candidate, tolerance, pace)
                number += 1
            if number == 1:
                raise DataLoss("the file is empty")
        except Cancelled:
            raise
        except ServingError as error:
            self._metrics.golden_requests.increment(candidate.id.name, "missed")
            text = f"golden request {number} of {path}: {error.message}"
            raise error_for(error.code, text) from error
        logger.info("Servable %s answered %d golden requests right", candidate.id, number - 1)

    def _ask(self, record: bytes, candidate: Candidate, tolerance: Tolerance, pace: Pace) -> None:
        log = read_prediction_log(record)
        answer = None if log is None else read_answer(log)
        if log is None or answer is None:
            raise InvalidArgument("the record has no request with its answer in it")
        expected = _by_output(answer)
        found = _by_output(self._replayer.replay(candidate.servable, log, pace.left_s()))
        for output, array in expected.items():
            miss = difference(output, array, found.get(output), tolerance.of(output))
            if miss is not None:
                raise FailedPrecondition(miss)
        self._metrics.golden_requests.increment(candidate.id.name, "ok")


def read_tolerance(path: Path | None) -> Tolerance:
    """The tolerance in a file, or the usual one where there is none.

    Raises:
        InvalidArgument: the file is no JSON object of numbers under the names that are known.
        ServingError: it cannot be read.
    """
    if path is None:
        return Tolerance()
    try:
        document = json.loads(_text(path))
        outputs = dict(document.pop("outputs", {}))
        default = _allowance(document, DEFAULT_ALLOWANCE)
        return Tolerance(
            default, {name: _allowance(dict(one), default) for name, one in outputs.items()}
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidArgument(
            f'{path} is no tolerance such as {{"rtol": 1e-4, "atol": 1e-5, '
            f'"outputs": {{"scores": {{"rtol": 0.01}}}}}}: {error}'
        ) from error


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOLERANCE_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(data) > MAX_TOLERANCE_BYTES:
        raise ValueError(f"it is longer than {MAX_TOLERANCE_BYTES} bytes")
    return data.decode()


def _allowance(entries: dict[str, object], default: Allowance) -> Allowance:
    unknown = entries.keys() - {"rtol", "atol"}
    if unknown:
        raise ValueError(f"{sorted(unknown)} is not known")
    rtol = _size(entries.get("rtol", default.rtol))
    return Allowance(rtol, _size(entries.get("atol", default.atol)))


def _size(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{value!r} is no size")
    return float(value)


def difference(
    output: str, expected: np.ndarray, found: np.ndarray | None, allowance: Allowance
) -> str | None:
    """How an output misses what is expected of it, in words; None where it does not."""
    if found is None:
        return f"output {output!r} is missing"
    if found.dtype != expected.dtype:
        types = DType.of(found.dtype).label, DType.of(expected.dtype).label
        return f"output {output!r} is of type {types[0]}; expected: {types[1]}"
    if found.shape != expected.shape:
        shapes = list(found.shape), list(expected.shape)
        return f"output {output!r} has the shape {shapes[0]}; expected: {shapes[1]}"
    if DType.of(expected.dtype) in _INEXACT:
        return _numeric_difference(output, expected, found, allowance)
    return _exact_difference(output, expected, found)


_INEXACT: Final = frozenset(
    {
        DType.FLOAT,
        DType.DOUBLE,
        DType.HALF,
        DType.BFLOAT16,
        DType.FLOAT8_E5M2,
        DType.FLOAT8_E4M3FN,
        DType.FLOAT8_E4M3FNUZ,
        DType.FLOAT8_E4M3B11FNUZ,
        DType.FLOAT8_E5M2FNUZ,
        DType.FLOAT4_E2M1FN,
        DType.COMPLEX64,
        DType.COMPLEX128,
    }
)
"""Types whose values depend on the machine in their last digits."""


def _numeric_difference(
    output: str, expected: np.ndarray, found: np.ndarray, allowance: Allowance
) -> str | None:
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    wanted, got = expected.astype(wide), found.astype(wide)
    same = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.where(same, 0.0, np.abs(got - wanted))
        off = np.where(np.isfinite(off), off, np.inf)
        allowed = allowance.atol + allowance.rtol * np.abs(wanted)
    # An infinity or NaN that is expected allows nothing else, whatever the tolerance says.
    missed = (off > allowed) | (~same & ~np.isfinite(wanted))
    if not missed.any():
        return None
    worst = np.unravel_index(int(np.argmax(np.where(missed, off, -1.0))), off.shape)
    return (
        f"output {output!r} is {got[worst]:g} at {_place(worst)}; expected: {wanted[worst]:g}. "
        f"It is off by {off[worst]:g}, and {allowance} allows {allowed[worst]:g}; so are "
        f"{int(missed.sum())} of {missed.size} numbers"
    )


def _exact_difference(output: str, expected: np.ndarray, found: np.ndarray) -> str | None:
    missed = np.asarray(expected != found)
    if not missed.any():
        return None
    first = np.unravel_index(int(np.argmax(missed)), missed.shape)
    return (
        f"output {output!r} is {_shown(found[first])} at {_place(first)}; "
        f"expected: {_shown(expected[first])}. {int(missed.sum())} of {missed.size} values differ"
    )


def _place(index: tuple[np.intp, ...]) -> str:
    return str([int(each) for each in index])


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, bytes) else str(value)
    return text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS] + "…"


def _by_output(answer: Answer) -> dict[str, np.ndarray]:
    """An answer as arrays by name.

    Classify gives ``classes`` and ``scores``, Regress ``outputs``; those of the second task of a
    MultiInference are ``1/classes`` and so on.
    """
    if isinstance(answer, Mapping):
        return dict(answer)
    if answer and isinstance(answer[0], Sequence):
        return {
            f"{task}/{name}": array
            for task, one in enumerate(answer)
            for name, array in _by_output(cast("Answer", one)).items()
        }
    if answer and isinstance(answer[0], ClassifiedExample):
        return _classified(cast("Sequence[ClassifiedExample]", answer))
    return {"outputs": np.array(answer, np.float32)}


def _classified(examples: Sequence[ClassifiedExample]) -> dict[str, np.ndarray]:
    width = len(examples[0].labels)
    if any(len(example.labels) != width for example in examples):
        raise InvalidArgument("the examples have different numbers of classes")
    labels = np.empty((len(examples), width), object)
    for row, example in zip(labels, examples, strict=True):
        row[:] = example.labels
    scores = np.array([example.scores for example in examples], np.float32)
    return {"classes": labels, "scores": scores}
