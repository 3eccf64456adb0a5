"""A Python class as a platform: one object for each version, asked with arrays.

    class Doubler:
        signatures = {
            "serving_default": Call({"x": Tensor("float32", [None])},
                                    {"y": Tensor("float32", [None])}),
        }

        def __init__(self, path: Path) -> None: ...

        def predict(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            return {"y": 2 * inputs["x"]}

    platform = PythonPlatform(Doubler)

What a call says it takes is checked before the class sees it, and what it says it gives before a
client does.  Unless the class says that it can be asked from several threads at once, it is asked
by one after the other; and unless it says that its time follows from the sizes of its inputs, it is
never asked on the event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from salver.core.loader import Loader
from salver.core.servable_id import ServableId
from salver.dtypes import DType
from salver.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ServingError,
)
from salver.protos import saved_model_pb2
from salver.servables.platform import MakeLoader, PlatformContext, version_bytes
from salver.servables.servable import PreparedRun, Servable
from salver.signature import (
    CLASSIFY_METHOD,
    PREDICT_METHOD,
    REGRESS_METHOD,
    Signature,
    read_signature,
)

_METHODS: Final[Mapping[str, str]] = {
    "predict": PREDICT_METHOD,
    "classify": CLASSIFY_METHOD,
    "regress": REGRESS_METHOD,
}

_AMBIGUOUS: Final = frozenset({"float", "int", "uint", "complex"})
"""Names that mean one size to TensorFlow or to C, and another to NumPy."""

Answer = Callable[[Mapping[str, np.ndarray]], Mapping[str, ArrayLike]]


@dataclass(frozen=True, slots=True)
class Tensor:
    """What one input or output is like.

    ``dtype`` is a NumPy type or its name with its size (``"float32"``), or ``"string"``; strings
    are object arrays of ``bytes``.  In ``shape`` None is any size, and a batch if it comes first;
    None for the whole of it is any shape.
    """

    dtype: DTypeLike | DType
    shape: Sequence[int | None] | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One way to ask a model, which is a signature to clients.

    ``answered_by`` is the method of the class that is called; ``api`` is what the signature is for:
    ``predict``, ``classify`` or ``regress``.  The latter two take one input ``inputs`` of
    serialized ``tf.Example``s and give ``classes`` and ``scores``, or ``outputs``.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    answered_by: str = "predict"
    api: str = "predict"


class Model(Protocol):
    """What a class must have.  It may have more:

    ``thread_safe = True``: it can be asked from several threads at once.
    ``predictable = True``: the sizes of its inputs decide how long it takes, and it waits for
    nothing; found to be quick, it is asked right on the event loop.  It has to be thread-safe, too.
    ``close()``: called when the version is unloaded and nobody asks any more.
    ``estimate_memory(path)``, a static method: the bytes a version will need; the size of its files
    by default.
    """

    @property
    def signatures(self) -> Mapping[str, Call]:
        """The ways to ask it, by name; ``serving_default`` is the one that clients need not name.

        Read once, when the version has loaded.
        """


class PythonPlatform:
    """The platform of one class: what an entry point names."""

    def __init__(self, make: Callable[[Path], Model]) -> None:
        """``make`` is called with a version's folder, on a thread for loads: a class, or what
        makes its objects."""
        self._make = make

    def __call__(self, _context: PlatformContext) -> MakeLoader:
        """What makes the loaders of its versions."""
        return self._loader

    def _loader(self, servable_id: ServableId, path: str) -> Loader[Servable]:
        return PythonLoader(self._make, str(servable_id), path)


class PythonLoader:
    """Makes the object of one version, and closes it.  The manager calls it, one call at a time."""

    def __init__(self, make: Callable[[Path], Model], title: str, path: str) -> None:
        self._make = make
        self._title = title
        self._path = path
        self._servable: PythonServable | None = None

    def estimate_resources(self) -> int:
        """The bytes of memory the version will need, as the class says, or else as its files do."""
        estimate: Callable[[Path], int] | None = getattr(self._make, "estimate_memory", None)
        return version_bytes(self._path) if estimate is None else estimate(Path(self._path))

    def load(self) -> None:
        """Make the object; one whose signatures cannot be served is closed at once."""
        model = self._make(Path(self._path))
        try:
            self._servable = PythonServable(model, self._title)
        except BaseException:
            _close(model)
            raise

    def unload(self) -> None:
        """Close the object and let go of it."""
        servable, self._servable = self._servable, None
        if servable is not None:
            servable.close()

    def servable(self) -> PythonServable:
        """What ``load`` made.

        Raises:
            NotFound: nothing is loaded.
        """
        if self._servable is None:
            raise NotFound(f"{self._title} is not loaded")
        return self._servable


class PythonServable:
    """One object as a servable (the contract is ``salver.servables.servable.Servable``).

    In the graph that it has not, an input is called ``alias:0``, so that signatures can share it,
    and an output ``signature/alias:0``.
    """

    def __init__(self, model: Model, title: str) -> None:
        """Take the object as it is.

        Raises:
            FailedPrecondition: its signatures say nothing that could be served.
        """
        self._title = title
        self._model: Model | None = model
        self._calls = {
            name: _checked_call(model, name, call)
            for name, call in _checked_calls(model.signatures).items()
        }
        self.signature_defs: Mapping[str, bytes] = {
            name: call.definition for name, call in self._calls.items()
        }
        self.signatures: Mapping[str, Signature] = {
            name: read_signature(definition) for name, definition in self.signature_defs.items()
        }
        self._outputs = {
            output.graph_name: (name, output)
            for name, call in self._calls.items()
            for output in call.outputs.values()
        }
        thread_safe = bool(getattr(model, "thread_safe", False))
        self.predictable = bool(getattr(model, "predictable", False))
        if self.predictable and not thread_safe:
            raise FailedPrecondition(
                f"model {title} is predictable and not thread_safe: a call on the event loop "
                "could have to wait for another; set both, or neither"
            )
        self._turn = None if thread_safe else threading.Lock()

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        """Ask the object, once for each signature that ``fetches`` belong to.

        Raises:
            InvalidArgument: an input is not what the signature declares.
            Internal: an output is not.
            DeadlineExceeded: its turn did not come in time; a call that began is not interrupted.
        """
        return self.prepare(tuple(feeds), fetches)(list(feeds.values()), timeout_s)

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        """What ``run`` does for these names, to be called again and again with other tensors."""
        wanted: dict[str, list[_Place]] = {}
        for fetch in fetches:
            if fetch not in self._outputs:
                raise NotFound(f"model {self._title} has no output {fetch}")
            name, output = self._outputs[fetch]
            wanted.setdefault(name, []).append(output)
        return partial(self._run, tuple(wanted.items()), tuple(feeds), tuple(fetches))

    def close(self) -> None:
        """Close the object, if it can be closed, and let go of it."""
        model, self._model = self._model, None
        self._calls = {}
        _close(model)

    def _run(
        self,
        asked: Sequence[tuple[str, Sequence[_Place]]],
        feeds: Sequence[str],
        fetches: Sequence[str],
        tensors: Sequence[np.ndarray],
        timeout_s: float | None,
    ) -> list[np.ndarray]:
        given = dict(zip(feeds, tensors, strict=True))
        results: dict[str, np.ndarray] = {}
        for name, outputs in asked:
            call = self._calls[name]  # found anew: what is prepared must not keep the object
            inputs = call.inputs_in(given)
            if self._turn is None:
                answer = call.answer(inputs)
            else:
                answer = self._in_turn(self._turn, call.answer, inputs, timeout_s)
            for output in outputs:
                results[output.graph_name] = call.output_in(answer, output)
        return [results[fetch] for fetch in fetches]

    def _in_turn(
        self,
        turn: threading.Lock,
        answer: Answer,
        inputs: Mapping[str, np.ndarray],
        timeout_s: float | None,
    ) -> Mapping[str, ArrayLike]:
        """Ask when no other thread does."""
        if not turn.acquire(timeout=-1 if timeout_s is None else max(timeout_s, 0.0)):
            raise DeadlineExceeded(f"model {self._title} is asked one call at a time, and was busy")
        try:
            return answer(inputs)
        finally:
            turn.release()


@dataclass(frozen=True, slots=True)
class _Place:
    """An input or output with its types worked out."""

    alias: str
    graph_name: str
    dtype: DType
    shape: tuple[int | None, ...] | None
    numpy: np.dtype

    def fits(self, array: np.ndarray) -> bool:
        """Whether an array is of this type and shape."""
        return array.dtype == self.numpy and self.has_shape(array.shape)

    def has_shape(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape is one that was declared."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            wanted in (None, found) for wanted, found in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        return _described(self.dtype.label, self.shape)


@dataclass(frozen=True, slots=True)
class _Call:
    """A signature of an object, with the method that answers it."""

    name: str
    answer: Answer
    inputs: Mapping[str, _Place]
    outputs: Mapping[str, _Place]
    definition: bytes

    def inputs_in(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs by alias, each as declared."""
        inputs = {}
        for place in self.inputs.values():
            array = given.get(place.graph_name)
            if array is None:
                raise InvalidArgument(f"signature {self.name} needs the input {place.alias}")
            if not place.fits(array):
                raise InvalidArgument(
                    f"input {place.alias} of signature {self.name} is declared as {place}; "
                    f"it came as {_described(DType.of(array.dtype).label, array.shape)}"
                )
            inputs[place.alias] = array
        return inputs

    def output_in(self, answer: Mapping[str, ArrayLike], place: _Place) -> np.ndarray:
        """One output of an answer, as declared."""
        where = f"output {place.alias} of signature {self.name}"
        if not isinstance(answer, Mapping):
            raise Internal(
                f"the model returned a {type(answer).__name__} for signature {self.name}; "
                "it must return a mapping of outputs by name"
            )
        if place.alias not in answer:
            raise Internal(f"the model did not return {where}")
        try:
            found = _array_of(answer[place.alias], place)
        except (ValueError, TypeError) as error:  # rows of different lengths
            raise Internal(f"{where} is no array: {error}") from error
        array = _as_declared(found, place)
        if array is None or not place.has_shape(array.shape):
            raise Internal(
                f"{where} is declared as {place}; "
                f"the model returned {_described(str(found.dtype), found.shape)}"
            )
        return array


def _array_of(value: ArrayLike, place: _Place) -> np.ndarray:
    """An answer as an array; strings as they are, for NumPy's own would lose a zero at the end."""
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(value, object if place.dtype is DType.STRING else None)


def _as_declared(array: np.ndarray, place: _Place) -> np.ndarray | None:
    """The same values with the declared type; None if they are of another kind or do not fit."""
    wanted = place.numpy
    if place.dtype is DType.STRING:
        return _as_strings(array)
    if array.dtype == wanted:
        return array
    if not np.can_cast(array.dtype, wanted, "same_kind"):
        return None
    converted = array.astype(wanted)
    if array.dtype.kind in "iu" and not np.array_equal(converted, array):
        return None
    return converted


def _as_strings(array: np.ndarray) -> np.ndarray | None:
    if array.dtype.kind not in "OSU":
        return None
    items = [item.encode() if isinstance(item, str) else item for item in array.flat]
    if not all(isinstance(item, bytes) for item in items):
        return None
    strings = np.empty(len(items), object)
    strings[:] = items
    return strings.reshape(array.shape)


def _close(model: object) -> None:
    close: Callable[[], object] | None = getattr(model, "close", None)
    if close is not None:
        close()


# What a class says of itself.


def _checked_calls(signatures: object) -> Mapping[str, Call]:
    if not isinstance(signatures, Mapping) or not signatures:
        raise FailedPrecondition(
            "signatures must be a mapping of names to Calls, with at least one in it"
        )
    for name, call in signatures.items():
        if not isinstance(name, str) or not isinstance(call, Call):
            raise FailedPrecondition(
                f"signatures must map names to Calls, not {name!r} to {_type(call)}"
            )
    return signatures


def _checked_call(model: Model, name: str, call: Call) -> _Call:
    answer: Answer | None = getattr(model, call.answered_by, None)
    if not callable(answer):
        raise FailedPrecondition(
            f"signature {name} is answered by {type(model).__name__}.{call.answered_by}, "
            "which is no method"
        )
    if call.api not in _METHODS:
        raise FailedPrecondition(
            f"signature {name} is for {call.api!r}; it can be for {', '.join(_METHODS)}"
        )
    inputs = {
        alias: _place(f"input {alias} of signature {name}", tensor, alias, f"{alias}:0")
        for alias, tensor in call.inputs.items()
    }
    outputs = {
        alias: _place(f"output {alias} of signature {name}", tensor, alias, f"{name}/{alias}:0")
        for alias, tensor in call.outputs.items()
    }
    _check_names(name, call.api, set(inputs), set(outputs))
    definition = _definition(_METHODS[call.api], inputs, outputs)
    return _Call(name, answer, inputs, outputs, definition)


def _check_names(name: str, api: str, inputs: set[str], outputs: set[str]) -> None:
    """See that the APIs that take Examples can make something of the signature."""
    if not outputs:
        raise FailedPrecondition(f"signature {name} has no outputs")
    if api == "classify" and not (inputs == {"inputs"} and outputs <= {"classes", "scores"}):
        raise FailedPrecondition(
            f"signature {name} classifies, so it takes inputs and gives classes, scores or both"
        )
    if api == "regress" and not (inputs == {"inputs"} and outputs == {"outputs"}):
        raise FailedPrecondition(
            f"signature {name} regresses, so it takes inputs and gives outputs"
        )


def _place(where: str, tensor: Tensor, alias: str, graph_name: str) -> _Place:
    if not isinstance(tensor, Tensor):
        raise FailedPrecondition(f"{where} must be a Tensor, not {_type(tensor)}")
    shape = None if tensor.shape is None else tuple(tensor.shape)
    if shape is not None and not all(size is None or _is_size(size) for size in shape):
        raise FailedPrecondition(
            f"{where}: a shape has sizes, or None where any size will do, not {list(shape)}"
        )
    dtype = _dtype(where, tensor.dtype)
    return _Place(alias, graph_name, dtype, shape, dtype.numpy)


def _is_size(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and size >= 0


def _dtype(where: str, given: DTypeLike | DType) -> DType:
    if isinstance(given, DType):
        return given
    if given == "string":
        return DType.STRING
    if given in _AMBIGUOUS:
        raise FailedPrecondition(f"{where}: say which {given}, as in {given}32 or {given}64")
    try:
        dtype = np.dtype(given)
        return DType.STRING if dtype.kind in "OSU" else DType.of(dtype)
    except (TypeError, ServingError) as error:
        raise FailedPrecondition(f"{where}: there is no type {given!r}") from error


def _definition(method: str, inputs: Mapping[str, _Place], outputs: Mapping[str, _Place]) -> bytes:
    """The signature as clients are told it: a serialized ``tensorflow.SignatureDef``."""
    message = saved_model_pb2.SignatureDef(method_name=method)
    for places, field in ((inputs, message.inputs), (outputs, message.outputs)):
        for alias, place in places.items():
            info = field[alias]
            info.name = place.graph_name
            info.dtype = place.dtype.value  # type: ignore[assignment] # an enum's number
            info.tensor_shape.unknown_rank = place.shape is None
            for size in place.shape or ():
                info.tensor_shape.dim.add(size=-1 if size is None else size)
    return message.SerializeToString(deterministic=True)


def _described(dtype: str, shape: Sequence[int | None] | None) -> str:
    if shape is None:
        return f"{dtype} of any shape"
    return f"{dtype} [{', '.join('?' if size is None else str(size) for size in shape)}]"


def _type(value: object) -> str:
    return type(value).__name__
