"""PredictionLogs: requests, with or without their answers, as TensorFlow Serving logs them.

Warmup files and golden files hold them; the requests in them are read like those off the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from salver.apis import grpc_codec
from salver.apis.requests import ClassifiedExample, InferenceTask, PredictRequest
from salver.errors import InvalidArgument, ServingError, Unimplemented
from salver.protos import prediction_log_pb2, serving_pb2
from salver.tensors import decode_tensor

_SPEC_OF_NOBODY: Final = b"\x0a\x00"
"""An empty model spec.  Put in front, it is there where a log has none, and changes no other."""

_FIELD_NUMBERS: Final[Mapping[str, int]] = {"session_run_log": 5, "predict_streamed_log": 7}
"""Kinds of log that are known and not supported."""


@dataclass(frozen=True, slots=True)
class PredictLog:
    """A Predict.  In all of these the ``response`` is serialized, and empty where there is none."""

    model_name: str
    request: PredictRequest
    response: bytes = b""


@dataclass(frozen=True, slots=True)
class ClassifyLog:
    """A Classify over serialized Examples."""

    model_name: str
    signature_name: str
    examples: Sequence[bytes]
    response: bytes = b""


@dataclass(frozen=True, slots=True)
class RegressLog:
    """A Regress over serialized Examples."""

    model_name: str
    signature_name: str
    examples: Sequence[bytes]
    response: bytes = b""


@dataclass(frozen=True, slots=True)
class MultiInferenceLog:
    """A MultiInference; its answer has one entry for each task."""

    tasks: Sequence[InferenceTask]
    examples: Sequence[bytes]
    response: bytes = b""


PredictionLog: TypeAlias = PredictLog | ClassifyLog | RegressLog | MultiInferenceLog

Answer: TypeAlias = (
    Mapping[str, np.ndarray]
    | Sequence[ClassifiedExample]
    | Sequence[float]
    | Sequence[Sequence[ClassifiedExample] | Sequence[float]]
)
"""What the verbs return, each its own."""


def read_prediction_log(record: bytes) -> PredictionLog | None:
    """The request in a serialized PredictionLog, its answer left as it is; None if of no kind.

    Raises:
        InvalidArgument: the bytes are no such message.
        Unimplemented: a kind of log that cannot be replayed.
    """
    try:
        message = prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError as error:
        raise InvalidArgument(f"no PredictionLog: {error}") from error
    kind = message.WhichOneof("log_type")
    if kind is None:
        return None
    if kind in _FIELD_NUMBERS:
        raise Unimplemented(f"Unsupported log_type for warmup: {_FIELD_NUMBERS[kind]}")
    try:
        return _READERS[kind](getattr(message, kind))
    except ServingError as error:
        raise InvalidArgument(f"{kind}: {error.message}") from error


def read_answer(log: PredictionLog) -> Answer | None:
    """The answer in a log, as the verb of its kind returns it; None if there is none.

    Raises:
        InvalidArgument: the bytes are no such answer.
    """
    if not log.response:
        return None
    try:
        if isinstance(log, PredictLog):
            return _predicted(serving_pb2.PredictResponse.FromString(log.response))
        if isinstance(log, ClassifyLog):
            message = serving_pb2.ClassificationResponse.FromString(log.response)
            return _classified(message.result)
        if isinstance(log, RegressLog):
            return _regressed(serving_pb2.RegressionResponse.FromString(log.response).result)
        return _inferred(serving_pb2.MultiInferenceResponse.FromString(log.response))
    except DecodeError as error:
        raise InvalidArgument(f"the response cannot be read: {error}") from error


def _predict_log(log: prediction_log_pb2.Exchange) -> PredictLog:
    spec, request = grpc_codec.read_predict(_SPEC_OF_NOBODY + log.request)
    return PredictLog(spec.name, request, log.response)


def _classify_log(log: prediction_log_pb2.Exchange) -> ClassifyLog:
    spec, examples = grpc_codec.read_classify(_SPEC_OF_NOBODY + log.request)
    return ClassifyLog(spec.name, spec.signature_name, examples, log.response)


def _regress_log(log: prediction_log_pb2.Exchange) -> RegressLog:
    spec, examples = grpc_codec.read_regress(_SPEC_OF_NOBODY + log.request)
    return RegressLog(spec.name, spec.signature_name, examples, log.response)


def _multi_inference_log(log: prediction_log_pb2.Exchange) -> MultiInferenceLog:
    tasks, examples = grpc_codec.read_multi_inference(log.request)
    return MultiInferenceLog(tasks, examples, log.response)


def _predicted(message: serving_pb2.PredictResponse) -> dict[str, np.ndarray]:
    outputs = message.outputs
    return {alias: decode_tensor(outputs[alias]) for alias in sorted(outputs)}


def _classified(result: serving_pb2.ClassificationResult) -> list[ClassifiedExample]:
    return [
        ClassifiedExample(
            [each.label for each in one.classes], [each.score for each in one.classes]
        )
        for one in result.classifications
    ]


def _regressed(result: serving_pb2.RegressionResult) -> list[float]:
    return [one.value for one in result.regressions]


def _inferred(
    message: serving_pb2.MultiInferenceResponse,
) -> list[list[ClassifiedExample] | list[float]]:
    return [
        _classified(result.classification_result)
        if result.WhichOneof("result") == "classification_result"
        else _regressed(result.regression_result)
        for result in message.results
    ]


_READERS: Final[Mapping[str, Callable[[prediction_log_pb2.Exchange], PredictionLog]]] = {
    "predict_log": _predict_log,
    "classify_log": _classify_log,
    "regress_log": _regress_log,
    "multi_inference_log": _multi_inference_log,
}
