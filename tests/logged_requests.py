"""PredictionLogs and the files they stand in, written by TensorFlow and TensorFlow Serving's stubs.

Neither the messages nor the files come from Salver: what reads them is put to the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saved_models import tensorflow

WARMUP = "assets.extra/tf_serving_warmup_requests"
GOLDEN = "assets.extra/salver_golden_requests"
TOLERANCE = "assets.extra/salver_golden_tolerance.json"


def write_records(path: Path, *records: bytes) -> Path:
    """A TFRecord file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tensorflow().io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


def new_log() -> Any:  # a protobuf
    """An empty PredictionLog."""
    tensorflow()
    from tensorflow_serving.apis import prediction_log_pb2

    return prediction_log_pb2.PredictionLog()


def predict_log(
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any] | None = None,
    *,
    signature_name: str = "",
    model: str = "m",
) -> bytes:
    """A Predict; its answer is there if ``outputs`` are."""
    log = new_log()
    request = log.predict_log.request
    if model:
        request.model_spec.name = model
        request.model_spec.signature_name = signature_name
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tensorflow().make_tensor_proto(value))
    for alias, value in (outputs or {}).items():
        log.predict_log.response.outputs[alias].CopyFrom(tensorflow().make_tensor_proto(value))
    return log.SerializeToString()


def vector_log(x: Sequence[float], y: Sequence[float] | None = None, **spec: str) -> bytes:
    """A Predict of ``half_plus_two``'s kind."""
    inputs = {"x": np.array(x, np.float32)}
    return predict_log(inputs, None if y is None else {"y": np.array(y, np.float32)}, **spec)


def classify_log(
    examples: Sequence[bytes],
    classes: Sequence[Sequence[tuple[str, float]]] = (),
    *,
    signature_name: str = "",
) -> bytes:
    """A Classify; its answer is there if ``classes`` are."""
    log = new_log()
    request = log.classify_log.request
    request.model_spec.name, request.model_spec.signature_name = "m", signature_name
    add_examples(request, examples)
    for row in classes:
        entry = log.classify_log.response.result.classifications.add()
        for label, score in row:
            entry.classes.add(label=label, score=score)
    return log.SerializeToString()


def regress_log(
    examples: Sequence[bytes], values: Sequence[float] = (), *, signature_name: str = ""
) -> bytes:
    """A Regress; its answer is there if ``values`` are."""
    log = new_log()
    request = log.regress_log.request
    request.model_spec.name, request.model_spec.signature_name = "m", signature_name
    add_examples(request, examples)
    for value in values:
        log.regress_log.response.result.regressions.add(value=value)
    return log.SerializeToString()


def multi_inference_log(
    examples: Sequence[bytes],
    tasks: Sequence[tuple[str, str]],
    results: Sequence[Sequence[float]] = (),
) -> bytes:
    """A MultiInference of tasks (signature, method), with regressions as answers."""
    log = new_log()
    request = log.multi_inference_log.request
    add_examples(request, examples)
    for signature_name, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "m", signature_name
    for values in results:
        result = log.multi_inference_log.response.results.add()
        for value in values:
            result.regression_result.regressions.add(value=value)
    return log.SerializeToString()


def add_examples(request: Any, examples: Sequence[bytes]) -> None:  # any request with an Input
    """Put serialized Examples into a request."""
    for example in examples:
        request.input.example_list.examples.add().MergeFromString(example)
