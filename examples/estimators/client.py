"""Asks every signature of a served model for every row, over gRPC and over REST.

Which call a signature takes is read off its metadata: Classify, Regress or Predict.  The answers
come back as TensorFlow names and shapes them, so that they can be laid beside its own.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    input_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving import Server

BYTES_PER_REQUEST: Final = 2_000_000
TIMEOUT_S: Final = 30.0
PREDICT: Final = "tensorflow/serving/predict"
CLASSIFY: Final = "tensorflow/serving/classify"
REGRESS: Final = "tensorflow/serving/regress"

Rows = Mapping[str, np.ndarray]
Answers = dict[str, np.ndarray]


@dataclass(frozen=True)
class Served:
    """A model on a running server."""

    name: str
    stub: Any  # the generated stubs have no types
    server: Server

    def signatures(self) -> Mapping[str, Any]:
        """The model's signatures by name, but for those without inputs."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self.name
        response = self.stub.GetModelMetadata(request, TIMEOUT_S)
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        return {name: each for name, each in found.signature_def.items() if each.inputs}

    def over_grpc(self, signature: str, definition: Any, rows: Rows) -> Answers:
        """What a signature answers, by output."""
        ask = {PREDICT: self._predict, CLASSIFY: self._classify, REGRESS: self._regress}
        return in_parts(lambda part: ask[definition.method_name](signature, definition, part), rows)

    def over_rest(self, signature: str, definition: Any, rows: Rows) -> Answers:
        """The same, from JSON."""
        ask = {
            PREDICT: self._rest_predict,
            CLASSIFY: self._rest_classify,
            REGRESS: self._rest_regress,
        }
        return in_parts(lambda part: ask[definition.method_name](signature, definition, part), rows)

    def multi_inference(self, classify: str, regress: str, rows: Rows) -> tuple[Answers, Answers]:
        """Both answers of one run: over gRPC, TensorFlow Serving has no other way."""
        request = inference_pb2.MultiInferenceRequest(input=as_input(rows))
        for signature, method in ((classify, CLASSIFY), (regress, REGRESS)):
            task = request.tasks.add(method_name=method)
            task.model_spec.name, task.model_spec.signature_name = self.name, signature
        classes, values = self.stub.MultiInference(request, TIMEOUT_S).results
        return classifications(classes.classification_result), regressions(values.regression_result)

    # --- gRPC -------------------------------------------------------------------------------------

    def _predict(self, signature: str, definition: Any, rows: Rows) -> Answers:
        request = self._request(predict_pb2.PredictRequest, signature)
        for alias, values in fed(definition, rows).items():
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(values))
        outputs = self.stub.Predict(request, TIMEOUT_S).outputs
        return {name: as_text(tf.make_ndarray(tensor)) for name, tensor in outputs.items()}

    def _classify(self, signature: str, _: Any, rows: Rows) -> Answers:
        request = self._request(classification_pb2.ClassificationRequest, signature)
        request.input.CopyFrom(as_input(rows))
        return classifications(self.stub.Classify(request, TIMEOUT_S).result)

    def _regress(self, signature: str, _: Any, rows: Rows) -> Answers:
        request = self._request(regression_pb2.RegressionRequest, signature)
        request.input.CopyFrom(as_input(rows))
        return regressions(self.stub.Regress(request, TIMEOUT_S).result)

    def _request(self, kind: Callable[[], Any], signature: str) -> Any:
        request = kind()
        request.model_spec.name, request.model_spec.signature_name = self.name, signature
        return request

    # --- REST -------------------------------------------------------------------------------------

    def _rest_predict(self, signature: str, definition: Any, rows: Rows) -> Answers:
        columns = {alias: as_json(values) for alias, values in fed(definition, rows).items()}
        instances = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        predictions = self._post("predict", signature, instances=instances)["predictions"]
        if len(definition.outputs) == 1:  # then it is a list of values, not of objects
            (name,) = definition.outputs
            return {name: np.array(predictions)}
        return {name: np.array([row[name] for row in predictions]) for name in definition.outputs}

    def _rest_classify(self, signature: str, _: Any, rows: Rows) -> Answers:
        results = self._post("classify", signature, examples=as_objects(rows))["results"]
        return {
            "classes": np.array([[label for label, _ in row] for row in results]),
            "scores": np.array([[score for _, score in row] for row in results]),
        }

    def _rest_regress(self, signature: str, _: Any, rows: Rows) -> Answers:
        results = self._post("regress", signature, examples=as_objects(rows))["results"]
        return {"outputs": np.array(results)}

    def _post(self, verb: str, signature: str, **body: Any) -> Any:
        path = f"/v1/models/{self.name}:{verb}"
        return self.server.ask(path, {"signature_name": signature, **body})


def connected(name: str, channel: grpc.Channel, server: Server) -> Served:
    """A model of a server that the channel leads to."""
    return Served(name, prediction_service_pb2_grpc.PredictionServiceStub(channel), server)


def in_parts(ask: Callable[[Rows], Answers], rows: Rows) -> Answers:
    """Ask for as many rows at a time as a request should hold, and put the answers together."""
    answers = [ask(part) for part in parts(rows)]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def parts(rows: Rows) -> Iterator[Rows]:
    """Slices of about two million bytes."""
    count = len(next(iter(rows.values())))
    bytes_per_row = sum(values[0].nbytes for values in rows.values())
    step = max(1, BYTES_PER_REQUEST // bytes_per_row)
    for start in range(0, count, step):
        yield {name: values[start : start + step] for name, values in rows.items()}


def fed(definition: Any, rows: Rows) -> Mapping[str, np.ndarray]:
    """What a Predict takes: the features, or, if it takes strings, serialized examples."""
    ((alias, info),) = definition.inputs.items()
    if info.dtype != tf.string.as_datatype_enum:
        return {alias: rows[alias]}
    return {alias: np.array([example.SerializeToString() for example in examples(rows)], object)}


def examples(rows: Rows) -> Iterator[Any]:
    """One ``tf.Example`` for each row."""
    for row in zip(*rows.values(), strict=True):
        example = tf.train.Example()
        for name, values in zip(rows, row, strict=True):
            example.features.feature[name].float_list.value.extend(values)
        yield example


def as_input(rows: Rows) -> Any:
    """What Classify, Regress and MultiInference take."""
    return input_pb2.Input(example_list=input_pb2.ExampleList(examples=examples(rows)))


def as_objects(rows: Rows) -> list[dict[str, list[float]]]:
    """What they take over REST."""
    columns = [values.tolist() for values in rows.values()]
    return [dict(zip(rows, row, strict=True)) for row in zip(*columns, strict=True)]


def as_json(values: np.ndarray) -> list[Any]:
    """Lists of numbers; bytes as base64."""
    if values.dtype != object:
        return list(values.tolist())
    return [{"b64": base64.b64encode(value).decode()} for value in values]


def as_text(values: np.ndarray) -> np.ndarray:
    """Strings as text."""
    return np.char.decode(values.astype(bytes)) if values.dtype == object else values


def classifications(result: Any) -> Answers:
    """Labels and scores, one row for each example."""
    rows = [row.classes for row in result.classifications]
    return {
        "classes": np.array([[each.label for each in row] for row in rows]),
        "scores": np.array([[each.score for each in row] for row in rows]),
    }


def regressions(result: Any) -> Answers:
    """One value for each example."""
    return {"outputs": np.array([each.value for each in result.regressions])}
