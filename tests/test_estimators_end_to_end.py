"""What Estimators export is served as it is, over gRPC and REST.

The exports, and TensorFlow 2.15's own answers to them, are kept in ``models/estimator``.
"""

from __future__ import annotations

import base64
import json
import shutil
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Final

import grpc
import numpy as np
import pytest

from saved_models import CLASSIFY, ESTIMATORS, PREDICT, REGRESS, serialized_example, tensorflow
from server_process import PATIENCE_S, ServerProcess, config_file

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")
tensorflow()

import tensorflow as tf  # noqa: E402 - after the check that it is here
from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    inference_pb2,
    input_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

EXPECTED: Final = json.loads((ESTIMATORS / "expected.json").read_text())
FEATURES: Final = [example["x"] for example in EXPECTED["examples"]]
SERIALIZED: Final = [serialized_example(x=np.array(x, np.float32)) for x in FEATURES]
TIMESTAMP: Final = "1795205383"
"""A version as Estimators name them: the time of the export."""

CASES: Final = [
    pytest.param(model, name, id=f"{model}-{name}")
    for model, signatures in sorted(EXPECTED["models"].items())
    for name in signatures
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("estimators")
    for model in EXPECTED["models"]:
        shutil.copytree(ESTIMATORS / model / "1", folder / model / TIMESTAMP)
    config = config_file(folder, **{model: folder / model for model in EXPECTED["models"]})
    with ServerProcess(f"--model_config_file={config}", command=("salver", "serve")) as process:
        yield process.wait_until_started()


@pytest.fixture(scope="module")
def stub(server: ServerProcess) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.mark.parametrize(("model", "name"), CASES)
def test_every_signature_answers_over_grpc_as_tensorflow_2_15_did(stub, model: str, name: str):
    """Predict, Classify or Regress, whatever the signature is for."""
    expected = EXPECTED["models"][model][name]

    answer = ask_grpc(stub, model, name, expected)

    assert_same(answer, expected["outputs"])


@pytest.mark.parametrize(("model", "name"), CASES)
def test_every_signature_answers_over_rest_as_tensorflow_2_15_did(server, model: str, name: str):
    """The same three verbs, from JSON."""
    expected = EXPECTED["models"][model][name]

    answer = ask_rest(server, model, name, expected)

    assert_same(answer, expected["outputs"])


def test_two_heads_answer_one_multi_inference(stub):
    """An Estimator's classes and its regression come from one run."""
    expected = EXPECTED["models"]["classifier_parsing"]
    request = inference_pb2.MultiInferenceRequest(input=examples())
    for name in ("classification", "regression"):
        task = request.tasks.add(method_name=expected[name]["method_name"])
        task.model_spec.name, task.model_spec.signature_name = "classifier_parsing", name

    classes, values = stub.MultiInference(request, PATIENCE_S).results

    assert_same(of_classes(classes.classification_result), expected["classification"]["outputs"])
    assert_same(of_values(values.regression_result), expected["regression"]["outputs"])


def test_the_timestamp_of_an_export_is_its_version(stub):
    """The folder that the Estimator named after the time is served under that number."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "regressor_raw", "predict"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(FEATURES, tf.float32))

    response = stub.Predict(request, PATIENCE_S)

    assert response.model_spec.version.value == int(TIMESTAMP)


def ask_grpc(stub: Any, model: str, name: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    kind = {
        PREDICT: predict_pb2.PredictRequest,
        CLASSIFY: classification_pb2.ClassificationRequest,
        REGRESS: regression_pb2.RegressionRequest,
    }[expected["method_name"]]
    request = kind()
    request.model_spec.name, request.model_spec.signature_name = model, name
    if kind is classification_pb2.ClassificationRequest:
        request.input.CopyFrom(examples())
        return of_classes(stub.Classify(request, PATIENCE_S).result)
    if kind is regression_pb2.RegressionRequest:
        request.input.CopyFrom(examples())
        return of_values(stub.Regress(request, PATIENCE_S).result)
    takes_examples = expected["input"] == "examples"
    fed = (
        tf.make_tensor_proto(SERIALIZED)
        if takes_examples
        else tf.make_tensor_proto(FEATURES, tf.float32)
    )
    request.inputs[expected["input"]].CopyFrom(fed)
    outputs = stub.Predict(request, PATIENCE_S).outputs
    return {alias: tf.make_ndarray(tensor) for alias, tensor in outputs.items()}


def ask_rest(
    server: ServerProcess, model: str, name: str, expected: Mapping[str, Any]
) -> dict[str, Any]:
    if expected["method_name"] == CLASSIFY:
        results = post(server, f"{model}:classify", name, examples=EXPECTED["examples"])["results"]
        return {
            "classes": [[label for label, _ in row] for row in results],
            "scores": [[score for _, score in row] for row in results],
        }
    if expected["method_name"] == REGRESS:
        results = post(server, f"{model}:regress", name, examples=EXPECTED["examples"])["results"]
        return {"outputs": results}
    fed: list[Any] = FEATURES
    if expected["input"] == "examples":
        fed = [{"b64": base64.b64encode(example).decode()} for example in SERIALIZED]
    outputs = post(server, f"{model}:predict", name, inputs=fed)["outputs"]
    return outputs if isinstance(outputs, dict) else dict.fromkeys(expected["outputs"], outputs)


def post(server: ServerProcess, path: str, signature: str, **body: Any) -> Any:
    content = json.dumps({"signature_name": signature, **body}).encode()
    url = server.url(f"/v1/models/{path}")
    with urllib.request.urlopen(url, content, timeout=PATIENCE_S) as response:  # noqa: S310 - ours
        return json.load(response)


def examples() -> Any:
    parsed = [tf.train.Example.FromString(example) for example in SERIALIZED]
    return input_pb2.Input(example_list=input_pb2.ExampleList(examples=parsed))


def of_classes(result: Any) -> dict[str, Any]:
    rows = [row.classes for row in result.classifications]
    return {
        "classes": [[each.label for each in row] for row in rows],
        "scores": [[each.score for each in row] for row in rows],
    }


def of_values(result: Any) -> dict[str, Any]:
    return {"outputs": [each.value for each in result.regressions]}


def assert_same(answer: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """The same names and values; a regression may have lost a dimension of one."""
    assert set(answer) == set(expected)
    for alias, values in expected.items():
        wanted = np.array(values)
        given = np.array(answer[alias]).reshape(wanted.shape)
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-7)
        else:
            assert given.astype(wanted.dtype).tolist() == wanted.tolist()
