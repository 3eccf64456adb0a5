"""Batching without waiting on a real server: a crowd shares runs, and gets the same answers."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from saved_models import Shelf, tensorflow
from server_process import ServerProcess, config_file

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")
tf = tensorflow()

from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # noqa: E402

TIMEOUT_S = 30
CROWD = 32
ROUNDS = 30


@pytest.fixture(scope="module")
def server(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """``salver serve`` with a model whose rows keep apart, and one whose rows do not."""
    folder = tmp_path_factory.mktemp("batching")
    models = {name: shelf(name) for name in ("half_plus_two", "centred")}
    flags = [
        f"--model_config_file={config_file(folder, **models)}",
        f"--monitoring_config_file={monitoring_file(folder)}",
    ]
    with ServerProcess(*flags, command=("salver", "serve")) as running:
        for name in models:
            running.wait_for(f"Successfully loaded servable version {{name: {name} version: 1}}")
        yield running.wait_until_started()


def monitoring_file(folder):
    """Turns the metrics page on."""
    file = folder / "monitoring"
    file.write_text('prometheus_config { enable: true path: "/metrics" }')
    return file


@pytest.fixture(scope="module")
def stub(
    server: ServerProcess,
) -> Iterator[prediction_service_pb2_grpc.PredictionServiceStub]:
    """One channel to ``server``."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request(model: str, values: Sequence[float]) -> predict_pb2.PredictRequest:
    message = predict_pb2.PredictRequest()
    message.model_spec.name = model
    message.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array(values, np.float32)))
    return message


def counted(server: ServerProcess, name: str) -> float:
    """The sum of a counter's cells on the metrics page."""
    with urllib.request.urlopen(server.url("/metrics"), timeout=TIMEOUT_S) as answer:  # noqa: S310
        page = answer.read().decode()
    return sum(map(float, re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)))


def crowd(stub, model: str, round_number: int):
    """Calls that are sent all at once, each with rows of its own, and their answers."""
    asked = [
        [float(1000 * round_number + 10 * caller + row) for row in range(1 + caller % 3)]
        for caller in range(CROWD)
    ]
    coming = [stub.Predict.future(request(model, values), TIMEOUT_S) for values in asked]
    return [
        (values, list(each.result().outputs["y"].float_val))
        for values, each in zip(asked, coming, strict=True)
    ]


def test_each_caller_of_a_crowd_gets_its_own_rows(server: ServerProcess, stub):
    """However many share a run, which the metrics show."""
    runs_before = counted(server, ":tensorflow:core:graph_runs")
    answered = [pair for number in range(ROUNDS) for pair in crowd(stub, "half_plus_two", number)]
    runs = counted(server, ":tensorflow:core:graph_runs") - runs_before

    assert [answer for _, answer in answered] == [
        [value / 2 + 2 for value in values] for values, _ in answered
    ]
    assert 0 < runs < CROWD * ROUNDS


def test_model_whose_rows_mix_is_never_shared(server: ServerProcess, stub):
    """Its signature promises a batch dimension and breaks the promise; the log says so."""
    answered = [pair for number in range(5) for pair in crowd(stub, "centred", number)]

    assert [answer for _, answer in answered] == [
        [value - sum(values) / len(values) for value in values] for values, _ in answered
    ]
    assert "output 'y' of a row is another with other rows beside it" in server.wait_for(
        "Signature 'serving_default' of servable {name: centred version: 1} is not batched"
    )


def test_list_of_models_says_what_is_batched_and_why(server: ServerProcess):
    """An operator need not search the log."""
    with urllib.request.urlopen(server.url("/v1/models"), timeout=TIMEOUT_S) as answer:  # noqa: S310
        models = {model["name"]: model for model in json.load(answer)["models"]}

    batching = {
        name: model["model_version_status"][0]["batching"]["serving_default"]
        for name, model in models.items()
    }

    assert batching["half_plus_two"] == {
        "batched": True,
        "reason": "answers are the same in a batch and alone",
    }
    assert batching["centred"]["batched"] is False


def test_clients_of_both_doors_share_runs(server: ServerProcess, stub):
    """REST and gRPC at once, and each in its own words."""

    def post(value: float) -> object:
        body = json.dumps({"instances": [value]}).encode()
        url = server.url("/v1/models/half_plus_two:predict")
        with urllib.request.urlopen(url, body, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return json.load(answer)

    with ThreadPoolExecutor(8) as threads:
        posts = [threads.submit(post, float(value)) for value in range(200)]
        pairs = [pair for number in range(10) for pair in crowd(stub, "half_plus_two", number)]

    assert [each.result() for each in posts] == [
        {"predictions": [value / 2 + 2]} for value in range(200)
    ]
    assert all(answer == [value / 2 + 2 for value in values] for values, answer in pairs)


def test_bad_row_in_a_crowd_is_its_senders_trouble(server: ServerProcess, stub):
    """A tensor of another type among the others fails alone, in TensorFlow Serving's words."""
    bad = predict_pb2.PredictRequest()
    bad.model_spec.name = "half_plus_two"
    bad.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array([1.0], np.float64)))
    coming = [
        stub.Predict.future(bad if each % 4 == 3 else request("half_plus_two", [2.0]), TIMEOUT_S)
        for each in range(CROWD)
    ]

    outcomes = [each.code() for each in coming]

    assert outcomes == [
        grpc.StatusCode.INVALID_ARGUMENT if each % 4 == 3 else grpc.StatusCode.OK
        for each in range(CROWD)
    ]
