"""What a TensorFlow Lite model takes and gives, and how its interpreters are asked for it.

There are two ways to look at a model.  TensorFlow Serving's is the inputs and outputs of its first
graph, with signatures from the metadata of the file, or one made of the tensors' names.  The other
is TensorFlow Lite's own list of signatures, which is younger; each of them may have its own graph.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from salver.dtypes import DType
from salver.errors import AlreadyExists, Internal, InvalidArgument
from salver.protos import saved_model_pb2
from salver.signature import DEFAULT_SERVING_SIGNATURE, PREDICT_METHOD

logger = logging.getLogger(__name__)

MAX_REASON: Final = 1000
"""Letters of what LiteRT says, in an error text."""

_OPS_OF_OTHERS: Final = ("custom op", "Select TensorFlow op")
_ONLY_OWN_OPS: Final = "; convert the model to the operators of TensorFlow Lite alone"

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
Interpreter: TypeAlias = Any
"""LiteRT's, which has no types, and is imported only where models are loaded."""


class Desk:
    """An interpreter, and what it is prepared for.  One run at a time works at it."""

    __slots__ = ("interpreter", "prepared", "runners")

    def __init__(self, interpreter: Interpreter) -> None:
        try:
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            text = reason(error)
            advice = _ONLY_OWN_OPS if any(word in text for word in _OPS_OF_OTHERS) else ""
            raise Internal(f"Failed to allocate tensors: {text}{advice}") from error
        self.interpreter = interpreter
        self.prepared: tuple[Call, Shapes] | None = None
        """The call that ran here last, and the shapes of its inputs."""
        self.runners: dict[str, Any] = {}
        """LiteRT's own objects for the signatures of its list."""


class Call(Protocol):
    """A set of feeds and fetches, resolved."""

    def run(self, desk: Desk, tensors: Sequence[np.ndarray], shapes: Shapes) -> list[np.ndarray]:
        """Run once, with a tensor for each feed, in order.

        Raises:
            InvalidArgument: a tensor is of another type.
            Internal: the model cannot take these shapes, or fails.
        """


class Graph(Protocol):
    """The tensors of a model by name, and its signatures."""

    signature_defs: dict[str, bytes]

    def resolve(self, feeds: Sequence[str], fetches: Sequence[str]) -> Call:
        """What runs these.

        Raises:
            ServingError: there are no such tensors.
        """


def read_graph(
    interpreter: Interpreter, in_metadata: Mapping[str, bytes], *, reads_signatures: bool
) -> Graph:
    """A model with the signatures of its metadata, or of its list, or one made of its tensors.

    Raises:
        ServingError: a signature or a tensor is not what it should be.
    """
    if not in_metadata and reads_signatures and interpreter.get_signature_list():
        return _ListedSignatures(interpreter)
    return _FirstGraph(interpreter, in_metadata)


class _FirstGraph:
    """A model as TensorFlow Serving sees it: the inputs and outputs of its first graph, by name."""

    def __init__(self, interpreter: Interpreter, definitions: Mapping[str, bytes]) -> None:
        inputs = _by_name(interpreter.get_input_details(), "Input")
        outputs = _by_name(interpreter.get_output_details(), "Output")
        self._inputs = {name: _Input(details) for name, details in inputs.items()}
        self._outputs = {name: int(details["index"]) for name, details in outputs.items()}
        if definitions:
            self.signature_defs = {
                key: self._with_known_names(definition)
                for key, definition in sorted(definitions.items())
            }
            return
        logger.warning("No signature def found in TFLite model. Generating one.")
        message = saved_model_pb2.SignatureDef(method_name=PREDICT_METHOD)
        for name, details in inputs.items():
            _fill(message.inputs[_early_name(name)], name, details, details["shape"])
        for name, details in outputs.items():
            _fill(message.outputs[_early_name(name)], name, details, details["shape"])
        self.signature_defs = {DEFAULT_SERVING_SIGNATURE: message.SerializeToString()}

    def resolve(self, feeds: Sequence[str], fetches: Sequence[str]) -> Call:
        """What runs these.

        Raises:
            Internal: there are no such tensors.
        """
        fed = [self._inputs[_known(name, self._inputs, "Missing input")] for name in feeds]
        others = [one for one in self._inputs.values() if one not in fed]
        outputs = [self._outputs[_known(name, self._outputs, "Missing output")] for name in fetches]
        return _FirstGraphCall(fed, others, outputs)

    def _with_known_names(self, definition: bytes) -> bytes:
        """A signature whose tensors have the names that the model has for them."""
        try:
            message = saved_model_pb2.SignatureDef.FromString(definition)
        except DecodeError as error:
            raise InvalidArgument(
                f"Invalid SignatureDefs found in TfLite model: {error}; convert the model again"
            ) from error
        for alias, info in message.inputs.items():
            info.name = _known(info.name, self._inputs, f"Signature input {alias} is an unknown")
        for alias, info in message.outputs.items():
            info.name = _known(info.name, self._outputs, f"Signature output {alias} is an unknown")
        return message.SerializeToString()


class _Input:
    """An input of a model's first graph."""

    __slots__ = ("dtype", "index", "name", "shape")

    def __init__(self, details: Mapping[str, Any]) -> None:
        self.name: str = details["name"]
        self.index = int(details["index"])
        self.dtype = _dtype(details).numpy
        self.shape = tuple(map(int, details["shape"]))

    def zeros(self) -> np.ndarray:
        """What it is where nothing is fed: zeros, or empty strings."""
        return np.full(self.shape, b"" if self.dtype.hasobject else 0, self.dtype)


class _FirstGraphCall:
    """Feeds and fetches of a model's first graph, by the numbers of its tensors."""

    __slots__ = ("_fed", "_others", "_outputs")

    def __init__(
        self, fed: Sequence[_Input], others: Sequence[_Input], outputs: Sequence[int]
    ) -> None:
        self._fed = fed
        self._others = others
        self._outputs = outputs

    def run(self, desk: Desk, tensors: Sequence[np.ndarray], shapes: Shapes) -> list[np.ndarray]:
        """Run once, after preparing the interpreter where the shapes are new to it."""
        interpreter = desk.interpreter
        if desk.prepared != (self, shapes):
            desk.prepared = None  # until it is; the next run begins anew otherwise
            self._prepare(interpreter, shapes)
            desk.prepared = (self, shapes)
        try:
            for tensor, value in zip(self._fed, tensors, strict=True):
                interpreter.set_tensor(tensor.index, _given(value))
            for tensor in self._others:  # another signature may have fed them
                interpreter.set_tensor(tensor.index, _given(tensor.zeros()))
        except ValueError as error:
            raise InvalidArgument(reason(error)) from error
        try:
            interpreter.invoke()
            return [_taken(interpreter.get_tensor(index)) for index in self._outputs]
        except (RuntimeError, ValueError) as error:
            raise Internal(f"Failed to invoke TfLite interpreter: {reason(error)}") from error

    def _prepare(self, interpreter: Interpreter, shapes: Shapes) -> None:
        for tensor, shape in zip(self._fed, shapes, strict=True):
            _resize(interpreter, tensor, shape)
        for tensor in self._others:
            _resize(interpreter, tensor, tensor.shape)
        try:
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise Internal(f"Failed to allocate tensors: {reason(error)}") from error


class _ListedSignatures:
    """A model as LiteRT sees it: a list of signatures, each of which may have its own graph.

    A tensor is called as in its graph, or ``SIGNATURE/TENSOR`` where another one is called so.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self._inputs: dict[str, tuple[str, str]] = {}
        self._outputs: dict[str, tuple[str, str]] = {}
        self._aliases: dict[str, frozenset[str]] = {}
        self.signature_defs: dict[str, bytes] = {}
        for key in sorted(interpreter.get_signature_list()):
            runner = interpreter.get_signature_runner(key)
            message = saved_model_pb2.SignatureDef(method_name=PREDICT_METHOD)
            for alias, details in runner.get_input_details().items():
                name = _put(self._inputs, details["name"], key, alias)
                _fill(message.inputs[alias], name, details, details["shape_signature"])
            for alias, details in runner.get_output_details().items():
                name = _put(self._outputs, details["name"], key, alias)
                _fill(message.outputs[alias], name, details, details["shape_signature"])
            self._aliases[key] = frozenset(message.inputs)
            self.signature_defs[key] = message.SerializeToString()

    def resolve(self, feeds: Sequence[str], fetches: Sequence[str]) -> Call:
        """What runs these.

        Raises:
            Internal: there are no such tensors.
            InvalidArgument: they are not of one signature, or not all that it needs.
        """
        fed = [self._inputs[_known(name, self._inputs, "Missing input")] for name in feeds]
        got = [self._outputs[_known(name, self._outputs, "Missing output")] for name in fetches]
        keys = {key for key, _ in fed + got}
        if len(keys) != 1:
            raise InvalidArgument(
                f"a run is of one signature, not of {', '.join(sorted(keys)) or 'none'}"
            )
        key = keys.pop()
        missing = self._aliases[key] - {alias for _, alias in fed}
        if missing:
            raise InvalidArgument(f"signature {key} lacks its inputs {', '.join(sorted(missing))}")
        return _SignatureCall(key, [alias for _, alias in fed], [alias for _, alias in got])


class _SignatureCall:
    """A run of one signature of a model's list."""

    __slots__ = ("_inputs", "_key", "_outputs")

    def __init__(self, key: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._key = key
        self._inputs = inputs
        self._outputs = outputs

    def run(self, desk: Desk, tensors: Sequence[np.ndarray], shapes: Shapes) -> list[np.ndarray]:
        """Run once; LiteRT prepares the interpreter where the shapes are new to it."""
        runner = desk.runners.get(self._key)
        if runner is None:
            runner = desk.interpreter.get_signature_runner(self._key)
            desk.runners[self._key] = runner
        desk.prepared = (self, shapes)
        try:
            results = runner(**dict(zip(self._inputs, map(_given, tensors), strict=True)))
        except ValueError as error:
            raise InvalidArgument(reason(error)) from error
        except (RuntimeError, OverflowError, TypeError) as error:
            raise Internal(f"Failed to invoke TfLite interpreter: {reason(error)}") from error
        return [_taken(results[alias]) for alias in self._outputs]


def _given(tensor: np.ndarray) -> np.ndarray:
    """A tensor as LiteRT takes it: of a lone string object it would take the address as bytes."""
    if tensor.ndim or not tensor.dtype.hasobject:
        return tensor
    string = tensor.item()
    if not isinstance(string, bytes):
        raise InvalidArgument(f"a string tensor holds bytes, not {type(string).__name__}")
    given: np.ndarray = np.ndarray((), f"S{len(string)}", string or b"\0")
    return given


def _taken(tensor: Any) -> np.ndarray:  # as LiteRT gives it: a lone number is no array
    array: np.ndarray = np.asarray(tensor)
    return array


def _by_name(tensors: Sequence[Mapping[str, Any]], what: str) -> dict[str, Mapping[str, Any]]:
    """Tensors by their names, of which TensorFlow Serving allows no two alike."""
    found: dict[str, Mapping[str, Any]] = {}
    for details in tensors:
        if details["name"] in found:
            raise AlreadyExists(f"{what} tensor name: {details['name']} has multiple indices")
        found[details["name"]] = details
    return found


def _known(name: str, tensors: Collection[str], what: str) -> str:
    """The name that the model has for a tensor: early converters left out what follows a colon.

    Raises:
        Internal: it has none.
    """
    for known in (name, _early_name(name)):
        if known in tensors:
            return known
    raise Internal(f"{what} TFLite tensor: {name}")


def _early_name(name: str) -> str:
    return name.partition(":")[0]


def _put(tensors: dict[str, tuple[str, str]], name: str, key: str, alias: str) -> str:
    """Note a tensor of a signature under a name of its own, which is returned."""
    if not name or name in tensors:
        name = f"{key}/{name or alias}"
    while name in tensors:
        name = f"{name}/{alias}"
    tensors[name] = (key, alias)
    return name


def _fill(
    info: saved_model_pb2.TensorInfo, name: str, details: Mapping[str, Any], shape: Sequence[int]
) -> None:
    found = saved_model_pb2.TensorInfo(name=name, dtype=f"DT_{_dtype(details).name}")
    info.MergeFrom(found)
    info.tensor_shape.SetInParent()  # without dimensions it is a scalar's
    for size in shape:
        info.tensor_shape.dim.add().size = int(size)


def _dtype(details: Mapping[str, Any]) -> DType:
    """The type of a tensor's elements.

    Raises:
        Internal: it is one that cannot be sent.
    """
    dtype = np.dtype(details["dtype"])
    if dtype.kind == "S":
        return DType.STRING
    if dtype.hasobject:
        raise Internal(f"Unknown TfLite type: tensor {details['name']} cannot be sent")
    return DType.of(dtype)


def _resize(interpreter: Interpreter, tensor: _Input, shape: tuple[int, ...]) -> None:
    try:
        interpreter.resize_tensor_input(tensor.index, shape)
    except (RuntimeError, ValueError, OverflowError) as error:
        raise Internal(
            f"Failed to resize input tensor: {tensor.name} to {list(shape)}: {reason(error)}"
        ) from error


def reason(error: Exception) -> str:
    """What LiteRT says, in one line that ends without a point."""
    return " ".join(str(error).split()).rstrip(".")[:MAX_REASON]
