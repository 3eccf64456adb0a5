"""TensorFlow Serving's batching on a real server: who waits, who shares a run, who is refused."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from saved_models import Shelf, tensorflow
from server_process import PATIENCE_S, ServerProcess, config_file

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")
tf = tensorflow()

from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc  # noqa: E402

TIMEOUT_S = 30
HUNDREDS = 400

PATIENT = """
max_batch_size { value: 2 }
batch_timeout_micros { value: 600000000 }
max_enqueued_batches { value: 1 }
num_batch_threads { value: 2 }
allowed_batch_sizes: [1, 2]
"""
"""Two rows make a batch, and one row alone waits for ten minutes."""

FULL = (
    "The batch scheduling queue to which this task was submitted is full; currently 1 batches "
    "enqueued and max_enqueued_batches is 1"
)


@pytest.fixture(scope="module")
def server(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """``tensorflow_model_server`` whose models are all batched by one file."""
    folder = tmp_path_factory.mktemp("batching")
    (folder / "batching").write_text(PATIENT)
    (folder / "monitoring").write_text('prometheus_config { enable: true path: "/metrics" }')
    flags = [
        f"--model_config_file={config_file(folder, half_plus_two=shelf('half_plus_two'))}",
        "--enable_batching",
        f"--batching_parameters_file={folder / 'batching'}",
        f"--monitoring_config_file={folder / 'monitoring'}",
    ]
    with ServerProcess(*flags) as running:
        yield running.wait_until_started()


@pytest.fixture(scope="module")
def stub(server: ServerProcess) -> Iterator[prediction_service_pb2_grpc.PredictionServiceStub]:
    """One channel to ``server``."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request(values: Sequence[float] | float, model: str = "half_plus_two"):
    message = predict_pb2.PredictRequest()
    message.model_spec.name = model
    message.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array(values, np.float32)))
    return message


def post(server: ServerProcess, values: Sequence[float]) -> tuple[int, object]:
    """A REST call; its status and its answer."""
    body = json.dumps({"instances": list(values)}).encode()
    url = server.url("/v1/models/half_plus_two:predict")
    try:
        with urllib.request.urlopen(url, body, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def metric(server: ServerProcess, name: str) -> float:
    """The sum of a metric's lines on the page."""
    with urllib.request.urlopen(server.url("/metrics"), timeout=TIMEOUT_S) as answer:  # noqa: S310
        page = answer.read().decode()
    name = f":tensorflow:serving:batching_session:{name}"
    return sum(map(float, re.findall(rf"^{name}{{[^}}]*}} (\S+)$", page, re.MULTILINE)))


def waiting_and_refused(stub):
    """A call of one row that waits in the open batch, and how one of two rows is refused then.

    The first itself is refused if the other comes before it and has not been taken: then again.
    """
    gives_up_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < gives_up_s:
        waiting = stub.Predict.future(request([6]), TIMEOUT_S)
        while not waiting.done():
            try:
                stub.Predict(request([1, 2]), TIMEOUT_S)
            except grpc.RpcError as error:  # noqa: PERF203 -- until one is refused
                if not waiting.done():
                    return waiting, error
    raise AssertionError("nobody waits")


def test_calls_of_both_doors_wait_for_each_other_and_share_a_run(server: ServerProcess, stub):
    """Each has one row of the two, and gets its own."""
    runs, rows = metric(server, "wrapped_run_count"), metric(server, "processed_batch_size_sum")
    waited = metric(server, "queuing_latency_count")
    with ThreadPoolExecutor(1) as threads:
        posted = threads.submit(post, server, [10])
        answer = stub.Predict(request([4]), TIMEOUT_S)

        assert posted.result() == (200, {"predictions": [7.0]})
    assert list(answer.outputs["y"].float_val) == [4.0]
    assert metric(server, "wrapped_run_count") == runs + 1
    assert metric(server, "processed_batch_size_sum") == rows + 2
    assert metric(server, "queuing_latency_count") == waited + 2


def test_full_queue_refuses_and_goes_on(server: ServerProcess, stub):
    """With UNAVAILABLE or 503 and TensorFlow Serving's words; whoever waited is answered then."""
    waiting, error = waiting_and_refused(stub)

    posted = post(server, [1, 2])
    last = stub.Predict(request([8]), TIMEOUT_S)

    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, FULL)
    assert posted == (503, {"error": FULL})
    assert list(waiting.result().outputs["y"].float_val) == [5.0]
    assert list(last.outputs["y"].float_val) == [6.0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, 2, 3], "Task size 3 is larger than maximum input batch size 2"),
        (1, "Batching Run() input tensors must have at least one dimension"),
    ],
)
def test_what_cannot_be_batched_is_refused(stub, values: object, words: str):
    """With INVALID_ARGUMENT."""
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(request(values), TIMEOUT_S)

    assert (error.value.code(), error.value.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        words,
    )


def test_batch_of_hundreds_comes_together(shelf: Shelf, tmp_path: Path):
    """Each call holds a thread while it waits, round after round, and there are enough."""
    (tmp_path / "batching").write_text(
        f"max_batch_size {{ value: {HUNDREDS} }} batch_timeout_micros {{ value: 600000000 }}"
    )
    (tmp_path / "monitoring").write_text('prometheus_config { enable: true path: "/metrics" }')
    flags = [
        f"--model_config_file={config_file(tmp_path, half_plus_two=shelf('half_plus_two'))}",
        "--enable_batching",
        f"--batching_parameters_file={tmp_path / 'batching'}",
        f"--monitoring_config_file={tmp_path / 'monitoring'}",
    ]
    with ServerProcess(*flags, command=("salver", "serve")) as server:
        server.wait_for("Finished adding/updating models")
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for runs in (1, 2):
                coming = [
                    stub.Predict.future(request([number]), TIMEOUT_S) for number in range(HUNDREDS)
                ]
                answers = [each.result().outputs["y"].float_val[0] for each in coming]

                assert answers == [number / 2 + 2 for number in range(HUNDREDS)]
                assert metric(server, "wrapped_run_count") == runs


def test_server_ends_though_a_batch_is_waited_for(shelf: Shelf, tmp_path: Path):
    """A drain ends when its time is over, not when a batch is full."""
    (tmp_path / "batching").write_text(PATIENT)
    flags = [
        f"--model_config_file={config_file(tmp_path, half_plus_two=shelf('half_plus_two'))}",
        "--enable_batching",
        f"--batching_parameters_file={tmp_path / 'batching'}",
        "--drain_grace_seconds=0.1",
    ]
    with ServerProcess(*flags, command=("salver", "serve")) as server:
        server.wait_for("Finished adding/updating models")
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            waiting, _ = waiting_and_refused(stub)
            server.send(signal.SIGTERM)

            assert server.wait() == 0
            assert waiting.code() is grpc.StatusCode.UNAVAILABLE
    assert not any("were still in use" in line for line in server.log)


def test_versions_with_parameters_of_their_own_are_batched_and_others_are_not(
    shelf: Shelf, tmp_path: Path
):
    """And one whose parameters are wrong does not load."""
    models = {name: tmp_path / name for name in ("batched", "plain", "wrong")}
    for folder in models.values():
        shutil.copytree(shelf("half_plus_two"), folder)
    (models["batched"] / "1" / "batching_params.pbtxt").write_text(PATIENT)
    (models["wrong"] / "1" / "batching_params.pbtxt").write_text("allowed_batch_sizes: 3")
    flags = [
        f"--model_config_file={config_file(tmp_path, **models)}",
        "--enable_batching",
        "--enable_per_model_batching_parameters",
    ]
    with ServerProcess(*flags, command=("salver", "serve")) as server:
        server.wait_for("Finished adding/updating models")
        wrong = server.wait_for("Last entry in allowed_batch_sizes must match max_batch_size")
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            waiting = stub.Predict.future(request([6], "batched"), TIMEOUT_S)
            plain = stub.Predict(request(6, "plain"), TIMEOUT_S)
            other = stub.Predict(request([8], "batched"), TIMEOUT_S)

            assert list(waiting.result().outputs["y"].float_val) == [5.0]
    assert list(plain.outputs["y"].float_val) == [5.0]
    assert list(other.outputs["y"].float_val) == [6.0]
    assert "last entry was 3; expected 1000" in wrong
