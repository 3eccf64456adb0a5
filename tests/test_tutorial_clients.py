"""What the clients of public tutorials do, done to both commands as they start by default.

TensorFlow Serving's MNIST client reads ``float_val``, the REST clients of TensorFlow's and Keras's
tutorials post JSON with or without a content type.  The words here are ours, the calls are theirs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests

from saved_models import tensorflow
from server_process import ServerProcess, config_file

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")
pytest.importorskip("sklearn", reason="the examples train on its digits where MNIST cannot be had")
tensorflow()

import tensorflow as tf  # noqa: E402 - after the check that it is here
from tensorflow_serving.apis import (  # noqa: E402
    predict_pb2,
    prediction_service_pb2_grpc,
)

EXAMPLES = Path(__file__).parents[1] / "examples"
PATIENCE_S = 120
MOST_WRONG = 0.25
"""Of a model that was trained for a moment."""

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the tutorials, trained for a moment: the builder's and a Keras Sequential."""
    folder = tmp_path_factory.mktemp("tutorials")
    answers = f"--answers={folder / 'answers.npz'}"
    train(
        "mnist_builder/mnist_saved_model.py", "--training_iteration=300", answers, folder / "mnist"
    )
    train(
        "keras_mlp/export_mlp.py", "--save_with=tf.saved_model.save", "--epochs=2", folder / "MLP"
    )
    return folder


@pytest.fixture(scope="module")
def digits(folder: Path):
    """Test images as rows of 784 numbers, and what is on them."""
    with np.load(folder / "answers.npz") as answers:
        return answers["images"], answers["labels"]


def train(script: str, *arguments: str | Path) -> None:
    """Run an exporter in a process of its own: it may turn TensorFlow's eager mode off."""
    subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        stdout=subprocess.DEVNULL,
        timeout=PATIENCE_S,
        check=True,
    )


@pytest.fixture(scope="module", params=[("tensorflow_model_server",), ("salver", "serve")])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[ServerProcess]:
    """Either command, with the models, its ports and no other flags."""
    config = config_file(folder, mnist=folder / "mnist", MLP=folder / "MLP")
    with ServerProcess(f"--model_config_file={config}", command=request.param) as process:
        yield process.wait_until_started()


def test_the_mnist_client_reads_float_val_from_a_future(server: ServerProcess, digits):
    """Asynchronous calls, a callback each, a bounded number in flight, the scores as floats."""
    images, labels = digits
    in_flight, wrong = threading.Semaphore(10), []

    def count(label: int):
        def on_done(result_future) -> None:
            scores = np.array(result_future.result().outputs["scores"].float_val)
            wrong.append(scores.size != 10 or np.argmax(scores) != label)
            in_flight.release()

        return on_done

    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for image, label in zip(images, labels, strict=True):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "mnist"
            request.model_spec.signature_name = "predict_images"
            request.inputs["images"].CopyFrom(tf.make_tensor_proto(image, shape=[1, image.size]))
            assert in_flight.acquire(timeout=PATIENCE_S)
            stub.Predict.future(request, 5.0).add_done_callback(count(label))
        for _ in range(10):
            assert in_flight.acquire(timeout=PATIENCE_S)

    assert len(wrong) == len(images)
    assert np.mean(wrong) < MOST_WRONG


def test_a_grpc_client_sends_nested_lists(server: ServerProcess, digits):
    """``make_tensor_proto`` of lists, no deadline, and the answer's floats in one row."""
    images, _ = digits
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "MLP"
    request.model_spec.signature_name = "serving_default"
    batch = images[:1].reshape(-1, 28, 28)
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto(batch.tolist()))

    with grpc.insecure_channel(server.grpc_address) as channel:
        result = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request)

    scores = np.array([result.outputs["output_0"].float_val])
    assert scores.shape == (1, 10)
    assert scores.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_three_images_posted_as_json(server: ServerProcess, digits, version: str):
    """``requests.post`` of a dumped dictionary with a content type; three lists come back."""
    images, _ = digits
    test_images = images.reshape(-1, 28, 28)
    data = json.dumps({"signature_name": "serving_default", "instances": test_images[0:3].tolist()})

    url = f"http://localhost:{server.rest_port}/v1/models/MLP{version}:predict"
    json_response = requests.post(url, data=data, headers=JSON, timeout=PATIENCE_S)
    predictions = json.loads(json_response.text)["predictions"]

    assert np.array(predictions).shape == (3, 10)
    assert np.sum(predictions, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)


def test_all_images_posted_without_a_content_type(server: ServerProcess, digits):
    """A client may say nothing of what it sends, and may take the whole answer as an array."""
    images, labels = digits
    data = json.dumps(
        {"signature_name": "serving_default", "instances": images.reshape(-1, 28, 28).tolist()}
    )

    url = f"http://localhost:{server.rest_port}/v1/models/MLP:predict"
    response = json.loads(requests.post(url, data=data, timeout=PATIENCE_S).text)

    seen = np.argmax(np.array(response["predictions"]), axis=1)
    assert np.mean(seen != labels) < MOST_WRONG


def test_a_request_written_by_hand_and_timed(server: ServerProcess, digits):
    """A string with the numbers in it, ``raise_for_status``, ``json()`` and the time it took."""
    images, _ = digits
    predict_request = f'{{"instances" : [{images[0].reshape(28, 28).tolist()}]}}'

    url = f"http://localhost:{server.rest_port}/v1/models/MLP:predict"
    response = requests.post(url, data=predict_request, timeout=PATIENCE_S)
    response.raise_for_status()
    prediction = response.json()["predictions"][0]

    assert len(prediction) == 10
    assert response.elapsed.total_seconds() > 0


def test_the_status_and_the_metadata_that_tutorials_show(server: ServerProcess):
    """A browser's GET answers with the version's state and with the signatures."""
    url = f"http://localhost:{server.rest_port}/v1/models/mnist"

    (status,) = requests.get(url, timeout=PATIENCE_S).json()["model_version_status"]
    metadata = requests.get(f"{url}/metadata", timeout=PATIENCE_S).json()["metadata"]

    assert (status["version"], status["state"]) == ("1", "AVAILABLE")
    signatures = metadata["signature_def"]["signature_def"]
    assert {"predict_images", "serving_default"} <= set(signatures)
