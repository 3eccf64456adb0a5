"""What the same bytes meant last time: the short way to read and write a Predict.

A client that asks again sends the same message with other numbers.  The numbers of a tensor stand
in one length-delimited run, so a message that agrees with a known one in length and in every byte
outside these runs differs in the numbers only: its parse is known.  The same holds for an answer
whose tensors keep their types and shapes.

Whatever does not agree to the last byte takes the long way, through protobuf, and may be learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Generic, TypeVar

import numpy as np

from salver.apis.grpc_codec import read_predict
from salver.apis.requests import ModelSpec, PredictRequest
from salver.dtypes import DType
from salver.errors import ServingError
from salver.varints import encode_varint

PlanT = TypeVar("PlanT")

MAX_KNOWN: Final = 256
"""Messages remembered; clients that keep changing sizes start over, at no great cost."""

MAX_UNKNOWABLE: Final = 1024
"""Lengths of messages that were tried in vain, and are not tried again."""

MAX_RUN_BYTES: Final = 1 << 20
"""Of a run worth remembering: beyond it, parsing is not what takes time."""

VIEWED_ABOVE_BYTES: Final = 8 << 10
"""Of a message whose numbers are looked at where they are: below it a copy costs less."""

_TYPED_TAG: Final = {
    DType.FLOAT: b"\x2a",  # float_val, field 5
    DType.DOUBLE: b"\x32",  # double_val, field 6
}
_CONTENT_TAG: Final = b"\x22"  # tensor_content, field 4


class _Run:
    """Where the numbers of one tensor stand in a message, and what they are."""

    __slots__ = ("alias", "dtype", "end", "shape", "start")

    def __init__(self, alias: str, array: np.ndarray, start: int) -> None:
        self.alias = alias
        self.dtype = array.dtype
        self.shape = array.shape
        self.start = start
        self.end = start + array.nbytes


class _Pattern:
    """A message but for its runs."""

    __slots__ = ("_fixed", "runs", "size")

    def __init__(self, data: bytes, runs: Sequence[_Run]) -> None:
        self.size = len(data)
        self.runs = runs
        starts = [0, *(run.end for run in runs)]
        ends = [*(run.start for run in runs), len(data)]
        self._fixed = [
            (start, end, data[start:end]) for start, end in zip(starts, ends, strict=True)
        ]

    def fits(self, data: bytes) -> bool:
        """Whether ``data``, of the same length, is the same message with other numbers."""
        for start, end, fixed in self._fixed:  # noqa: SIM110 - a generator would cost more
            if data[start:end] != fixed:
                return False
        return True

    def filled(self, arrays: Sequence[np.ndarray]) -> bytes:
        """The message with the numbers of ``arrays``, which are alike to those it was made of."""
        fixed = self._fixed
        if len(arrays) == 1:  # by far the most frequent
            return b"".join((fixed[0][2], arrays[0].tobytes(), fixed[1][2]))
        parts = [fixed[0][2]]
        for array, (_, _, after) in zip(arrays, fixed[1:], strict=True):
            parts += (array.tobytes(), after)
        return b"".join(parts)


class KnownPredict(Generic[PlanT]):
    """A PredictRequest but for its numbers, and the answer it had, but for its own."""

    __slots__ = ("_answer", "_pattern", "plan", "request", "spec")

    def __init__(self, pattern: _Pattern, spec: ModelSpec, request: PredictRequest) -> None:
        self._pattern = pattern
        self._answer: tuple[int, _Pattern] | None = None  # replaced whole: any thread may read it
        self.spec = spec
        self.request = request
        self.plan: PlanT | None = None
        """What its reader found out about it, kept with it for next time."""

    def inputs(self, data: bytes) -> list[np.ndarray]:
        """The tensors in a message that fits, in the order of ``aliases``: views of it."""
        return [np.ndarray(run.shape, run.dtype, data, run.start) for run in self._pattern.runs]

    def parts(self, data: bytes, order: Sequence[int]) -> list[bytes | np.ndarray]:
        """The numbers of the tensors in a message that fits, in an order of one's own."""
        runs = self._pattern.runs
        if len(data) < VIEWED_ABOVE_BYTES:
            return [data[runs[at].start : runs[at].end] for at in order]
        inputs = self.inputs(data)
        return [inputs[at] for at in order]

    @property
    def aliases(self) -> list[str]:
        """The inputs' aliases, in the order in which they stand in the message."""
        return [run.alias for run in self._pattern.runs]

    def fits(self, data: bytes) -> bool:
        """Whether a message of the same length is this one with other numbers."""
        return self._pattern.fits(data)

    def answer(self, version: int, outputs: Sequence[np.ndarray]) -> bytes | None:
        """The answer with these outputs; None where it is not known how it is written."""
        if self._answer is None:
            return None
        answered_by, pattern = self._answer
        if version != answered_by:
            return None
        for run, output in zip(pattern.runs, outputs):  # noqa: B905 - as many as were learned
            if output.shape != run.shape or output.dtype != run.dtype:
                return None
        return pattern.filled(outputs)

    def learn_answer(
        self, version: int, aliases: Sequence[str], outputs: Sequence[np.ndarray], data: bytes
    ) -> None:
        """Keep how an answer was written; ``outputs`` have to stand in ``data`` in their order."""
        pattern = _pattern(data, dict(zip(aliases, outputs, strict=True)))
        if pattern is not None and [run.alias for run in pattern.runs] == list(aliases):
            self._answer = version, pattern


class PredictMemo(Generic[PlanT]):
    """The messages of one method that are known, by their length."""

    def __init__(self) -> None:
        self._known: dict[int, KnownPredict[PlanT]] = {}
        self._unknowable: set[int] = set()

    def find(self, data: bytes) -> KnownPredict[PlanT] | None:
        """What is known of a message, if it fits one."""
        known = self._known.get(len(data))
        return known if known is not None and known.fits(data) else None

    def of_model(self, name: str) -> list[KnownPredict[PlanT]]:
        """What is known of messages to a model."""
        return [known for known in self._known.values() if known.spec.name == name]

    def learn(
        self, data: bytes, spec: ModelSpec, request: PredictRequest
    ) -> KnownPredict[PlanT] | None:
        """Remember a message that was parsed and is in order, if the short way can read it."""
        size = len(data)
        if size in self._unknowable:
            return None
        pattern = _pattern(data, request.inputs)
        if pattern is None or not _is_true(pattern, data, spec, request):
            if len(self._unknowable) >= MAX_UNKNOWABLE:
                self._unknowable.clear()
            self._unknowable.add(size)
            return None
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        # Without the tensors: those are of this one message.
        kept = PredictRequest({}, request.signature_name, tuple(request.output_filter))
        known: KnownPredict[PlanT] = KnownPredict(pattern, spec, kept)
        self._known[size] = known
        return known


def _is_true(pattern: _Pattern, data: bytes, spec: ModelSpec, request: PredictRequest) -> bool:
    """Whether other bytes in the runs of a message mean these other numbers, and nothing else.

    The numbers of a tensor may stand in a message once and yet be no part of the tensor: in a
    field that nobody knows, say, while the tensor's own stand there in another form.
    """
    changed = bytearray(data)
    for run in pattern.runs:
        octets = np.frombuffer(data, np.uint8, run.end - run.start, run.start)
        changed[run.start : run.end] = (octets ^ 0x55).tobytes()
    try:
        other_spec, other = read_predict(bytes(changed))
        return (
            other_spec == spec
            and list(other.output_filter) == list(request.output_filter)
            and list(other.inputs) == list(request.inputs)
            and all(_says(run, other.inputs[run.alias], changed) for run in pattern.runs)
        )
    except ServingError:
        return False


def _says(run: _Run, array: np.ndarray, data: bytearray) -> bool:
    expected: np.ndarray = np.ndarray(run.shape, run.dtype, data, run.start)
    return (
        array.dtype == run.dtype
        and array.shape == run.shape
        and array.tobytes() == expected.tobytes()
    )


def _pattern(data: bytes, tensors: Mapping[str, np.ndarray]) -> _Pattern | None:
    runs = [_run(data, alias, array) for alias, array in tensors.items()]
    found = [run for run in runs if run is not None]
    if not found or len(found) < len(runs):
        return None
    found.sort(key=lambda run: run.start)
    return _Pattern(data, found)


def _run(data: bytes, alias: str, array: np.ndarray) -> _Run | None:
    """Where the numbers of ``array`` stand in ``data``, if that is beyond doubt.

    A tag, a length and the very numbers that stand there only once are the field itself, where the
    field is written like that at all: then it is there, and nothing else looks like it.
    """
    size = array.nbytes
    if not 0 < size <= MAX_RUN_BYTES or array.dtype.hasobject:
        return None
    dtype = DType.of(array.dtype)
    places = []
    for tag in (_TYPED_TAG.get(dtype), _CONTENT_TAG):
        if tag is not None:
            field = tag + encode_varint(size) + array.tobytes()
            places += [start + len(field) - size for start in _occurrences(data, field)]
    return _Run(alias, array, places[0]) if len(places) == 1 else None


def _occurrences(data: bytes, field: bytes) -> list[int]:
    """The first two places where ``field`` stands, overlapping ones included."""
    first = data.find(field)
    second = data.find(field, first + 1) if first >= 0 else -1
    return [place for place in (first, second) if place >= 0]
