"""The bytes of a gRPC message to requests, and answers to bytes.

Parsing checks no model and no signature; a tensor is decoded when a verb looks it up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from salver.apis.examples import with_context
from salver.apis.requests import (
    ClassifiedExample,
    InferenceTask,
    ModelSpec,
    PredictRequest,
    VersionStatus,
)
from salver.errors import Internal, InvalidArgument
from salver.protos import saved_model_pb2, serving_pb2
from salver.protos.tensor_pb2 import TensorProto
from salver.tensors import decode_tensor, encode_tensor, encode_tensor_content

M = TypeVar("M", bound=Message)

_STATES: Final = {"UNKNOWN": 0, "START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40}
_STATES_END: Final = 50

_SIGNATURE_DEF_MAP_URL: Final = "type.googleapis.com/tensorflow.serving.SignatureDefMap"

_MISSING_SPEC: Final = "Missing ModelSpec"


class _LazyTensors(Mapping[str, np.ndarray]):
    """The inputs of a PredictRequest, each decoded when it is looked up."""

    __slots__ = ("_protos",)

    def __init__(self, protos: Mapping[str, TensorProto]) -> None:
        self._protos = protos

    def __getitem__(self, alias: str) -> np.ndarray:
        if alias not in self._protos:  # protobuf's own maps would add the key
            raise KeyError(alias)
        return decode_tensor(self._protos[alias])

    def __contains__(self, alias: object) -> bool:
        return alias in self._protos

    def declared_values(self) -> int:
        """The largest number of values that a shape says."""
        largest = 0
        for alias in self._protos:
            dims = self._protos[alias].tensor_shape.dim
            largest = max(largest, math.prod([dim.size for dim in dims]))
        return largest

    def __iter__(self) -> Iterator[str]:
        return iter(self._protos)

    def __len__(self) -> int:
        return len(self._protos)


def read_predict(data: bytes) -> tuple[ModelSpec, PredictRequest]:
    """A PredictRequest.

    Raises:
        Internal: the bytes are no such message.
        InvalidArgument: it names no model spec.
    """
    message = _parsed(serving_pb2.PredictRequest, data)
    spec = _model_spec(message)
    return spec, PredictRequest(
        inputs=_LazyTensors(message.inputs),
        signature_name=spec.signature_name,
        output_filter=message.output_filter,
    )


def declared_values(request: object) -> int:
    """How many values the tensors of a PredictRequest have by their shapes; 0 for others.

    A shape may say any number, and one value fills it.
    """
    inputs = request.inputs if isinstance(request, PredictRequest) else None
    return inputs.declared_values() if isinstance(inputs, _LazyTensors) else 0


def read_classify(data: bytes) -> tuple[ModelSpec, list[bytes]]:
    """A ClassificationRequest: its model spec and its serialized Examples."""
    message = _parsed(serving_pb2.ClassificationRequest, data)
    return _model_spec(message), _examples(message.input)


def read_regress(data: bytes) -> tuple[ModelSpec, list[bytes]]:
    """A RegressionRequest: its model spec and its serialized Examples."""
    message = _parsed(serving_pb2.RegressionRequest, data)
    return _model_spec(message), _examples(message.input)


def read_multi_inference(data: bytes) -> tuple[list[InferenceTask], list[bytes]]:
    """A MultiInferenceRequest: its tasks and its serialized Examples."""
    message = _parsed(serving_pb2.MultiInferenceRequest, data)
    tasks = [InferenceTask(_read_spec(task.model_spec), task.method_name) for task in message.tasks]
    return tasks, _examples(message.input)


def read_metadata(data: bytes) -> tuple[ModelSpec, list[str]]:
    """A GetModelMetadataRequest: its model spec and the metadata fields it asks for.

    Raises:
        InvalidArgument: it asks for no field, or for one other than ``signature_def``.
    """
    message = _parsed(serving_pb2.GetModelMetadataRequest, data)
    spec = _model_spec(message)
    if not message.metadata_field:
        raise InvalidArgument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in message.metadata_field:
        if field != "signature_def":
            raise InvalidArgument(f"Metadata field {field} is not supported")
    return spec, list(message.metadata_field)


def read_status(data: bytes) -> ModelSpec:
    """A GetModelStatusRequest."""
    return _model_spec(_parsed(serving_pb2.GetModelStatusRequest, data))


def write_predict(
    spec: ModelSpec, outputs: Mapping[str, np.ndarray], *, as_content: bool = False
) -> bytes:
    """A PredictResponse; tensors travel in typed fields, or in ``tensor_content`` on request.

    Raises:
        InvalidArgument: an output has an element type that TensorFlow lacks.
    """
    message = serving_pb2.PredictResponse()
    encode: Callable[[TensorProto, np.ndarray], None]
    encode = encode_tensor_content if as_content else encode_tensor
    for alias, array in outputs.items():
        encode(message.outputs[alias], array)
    _write_spec(message.model_spec, spec)
    return message.SerializeToString()


def write_classify(spec: ModelSpec, results: Sequence[ClassifiedExample]) -> bytes:
    """A ClassificationResponse."""
    message = serving_pb2.ClassificationResponse()
    _write_classifications(message.result, results)
    _write_spec(message.model_spec, spec)
    return message.SerializeToString()


def write_regress(spec: ModelSpec, values: Sequence[float]) -> bytes:
    """A RegressionResponse."""
    message = serving_pb2.RegressionResponse()
    _write_regressions(message.result, values)
    _write_spec(message.model_spec, spec)
    return message.SerializeToString()


def write_multi_inference(
    results: Sequence[tuple[ModelSpec, Sequence[ClassifiedExample] | Sequence[float]]],
) -> bytes:
    """A MultiInferenceResponse: one result for each task, in the order of the tasks."""
    message = serving_pb2.MultiInferenceResponse()
    for spec, result in results:
        entry = message.results.add()
        _write_spec(entry.model_spec, spec)
        classified = [item for item in result if isinstance(item, ClassifiedExample)]
        if classified:
            _write_classifications(entry.classification_result, classified)
        else:
            values = [item for item in result if not isinstance(item, ClassifiedExample)]
            _write_regressions(entry.regression_result, values)
    return message.SerializeToString()


def write_metadata(spec: ModelSpec, signature_defs: Mapping[str, bytes]) -> bytes:
    """A GetModelMetadataResponse with the signatures as they were exported."""
    message = serving_pb2.GetModelMetadataResponse()
    _write_spec(message.model_spec, spec)
    definitions = saved_model_pb2.RawSignatureDefMap()
    for name, definition in signature_defs.items():
        definitions.signature_def[name] = definition
    packed = message.metadata["signature_def"]
    packed.type_url = _SIGNATURE_DEF_MAP_URL
    packed.value = definitions.SerializeToString()
    return message.SerializeToString()


def write_status(statuses: Sequence[VersionStatus]) -> bytes:
    """A GetModelStatusResponse."""
    message = serving_pb2.GetModelStatusResponse()
    for status in statuses:
        entry = message.model_version_status.add()
        entry.version = status.version
        entry.state = _STATES.get(status.state, _STATES_END)
        entry.status.SetInParent()
        entry.status.error_code = status.error_code
        entry.status.error_message = status.error_message
    return message.SerializeToString()


def _parsed(message_type: type[M], data: bytes) -> M:
    try:
        return message_type.FromString(data)
    except DecodeError as error:
        raise Internal(
            f"the {len(data)} bytes received are no tensorflow.serving.{message_type.__name__}: "
            f"{error}"
        ) from error


def _model_spec(message: Message) -> ModelSpec:
    if not message.HasField("model_spec"):
        raise InvalidArgument(_MISSING_SPEC)
    return _read_spec(message.model_spec)  # type: ignore[attr-defined] # checked on the line above


def _read_spec(message: serving_pb2.ModelSpec) -> ModelSpec:
    choice = message.WhichOneof("version_choice")
    return ModelSpec(
        name=message.name,
        version=message.version.value if choice == "version" else None,
        version_label=message.version_label if choice == "version_label" else None,
        signature_name=message.signature_name,
    )


def _write_spec(message: serving_pb2.ModelSpec, spec: ModelSpec) -> None:
    """A label is never echoed: the answer names the version that gave it."""
    message.name = spec.name
    message.signature_name = spec.signature_name
    if spec.version is not None:
        message.version.value = spec.version


def _examples(message: serving_pb2.Input) -> list[bytes]:
    """Serialized Examples; none where the request has none, which the verbs refuse.

    Protobuf merges messages that are concatenated, so a context in front of an example
    supplies the features that the example leaves out.
    """
    if message.WhichOneof("kind") == "example_list_with_context":
        listed = message.example_list_with_context
        return with_context(listed.context, listed.examples)
    return list(message.example_list.examples)


def _write_classifications(
    message: serving_pb2.ClassificationResult, results: Sequence[ClassifiedExample]
) -> None:
    for result in results:
        classes = message.classifications.add().classes
        for label, score in zip(result.labels, result.scores, strict=True):
            classes.add(label=label, score=score)


def _write_regressions(message: serving_pb2.RegressionResult, values: Sequence[float]) -> None:
    for value in values:
        message.regressions.add(value=value)
