"""The sample requests of ``salver show --details``: pasted as they stand, they are answered."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from fakes import FakeServe
from salver.cli import main
from saved_models import ESTIMATORS, Shelf, tensorflow
from server_process import ServerProcess, config_file
from walkthrough import curl

SHELF = ("half_plus_two", "several_signatures", "keras_cnn", "v1_half_plus_two", "all_dtypes")
KEPT = ("classifier_parsing", "regressor_parsing", "classifier_raw")

WITHOUT = {("v1_half_plus_two", "classify_x2_to_y3"), ("v1_half_plus_two", "regress_x2_to_y3")}
"""Signatures that are fed in the middle of the graph, behind what parses the examples."""

REQUESTS = {
    "Predict": "predict_pb2.PredictRequest",
    "Classify": "classification_pb2.ClassificationRequest",
    "Regress": "regression_pb2.RegressionRequest",
}


def samples(version: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    """The command lines that are printed, by signature and door."""
    words = ["salver", "show", str(version), "--details"]
    assert main.run(words, environ={}, serve_models=FakeServe()) == 0
    found: dict[str, dict[str, str]] = {}
    for block in capsys.readouterr().out.split("\nsignature_def['")[1:]:
        pairs = re.findall(r"Sample request over (\w+):\n    (.*)\n", block)
        found[block.partition("'")[0]] = dict(pairs)
    return found


@pytest.fixture(scope="module")
def server(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory):
    """All the models, served under the names of their folders."""
    pytest.importorskip("tensorflow_serving", reason="the requests are read by its messages")
    bases = {**{name: shelf(name) for name in SHELF}, **{name: ESTIMATORS / name for name in KEPT}}
    models = config_file(tmp_path_factory.mktemp("samples"), **bases)
    with ServerProcess(f"--model_config_file={models}") as running:
        yield running.wait_until_started()


@pytest.mark.parametrize("name", [*SHELF, *KEPT])
def test_every_sample_is_answered(
    name: str, server: ServerProcess, shelf: Shelf, capsys: pytest.CaptureFixture[str]
):
    """Over REST and over gRPC, for exports of Keras, of the builder, of modules and Estimators."""
    version = ESTIMATORS / name / "1" if name in KEPT else shelf.version(name)

    commands = samples(version, capsys)

    assert commands
    for signature, by_door in commands.items():
        assert ("gRPC" not in by_door) == ((name, signature) in WITHOUT)
        if "gRPC" in by_door:
            ask_over_grpc(server, by_door["gRPC"])
        if "REST" in by_door:
            answer = ask_over_rest(server, by_door["REST"])
            assert "error" not in answer, (signature, by_door["REST"], answer)


def test_what_json_cannot_say_has_no_sample_over_rest(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
):
    """The other types have one; all types have one over gRPC."""
    commands = samples(shelf.version("all_dtypes"), capsys)

    without = {name for name, by_door in commands.items() if "REST" not in by_door}
    assert {"complex64", "half", "bfloat16", "qint8"} <= without
    assert not {"float", "string", "bool", "int64", "uint8"} & without
    assert all("gRPC" in by_door for by_door in commands.values())


def ask_over_rest(server: ServerProcess, command: str) -> Any:
    """What a shell would do with the command, but for the port."""
    maker, pipe, asking = command.rpartition(" | ")
    words = shlex.split(asking)[1:]
    if pipe:
        python, *code = shlex.split(maker)
        assert python == "python3"
        made = subprocess.run([sys.executable, *code], capture_output=True, check=True, text=True)
        words[words.index("@-")] = made.stdout
    words = [word.replace("localhost:8501", f"127.0.0.1:{server.rest_port}") for word in words]
    return json.loads(curl(words))


def ask_over_grpc(server: ServerProcess, command: str) -> None:
    """What grpcurl would do: the text is made a request of TensorFlow Serving's own stubs."""
    import grpc

    tensorflow()
    from tensorflow_serving.apis import (
        classification_pb2,
        predict_pb2,
        prediction_service_pb2_grpc,
        regression_pb2,
    )

    modules = {
        module.__name__.rpartition(".")[2]: module
        for module in (classification_pb2, predict_pb2, regression_pb2)
    }
    words = shlex.split(command)
    verb = words[-1].rpartition("/")[2]
    module, _, kind = REQUESTS[verb].partition(".")
    request = text_format.Parse(words[words.index("-d") + 1], getattr(modules[module], kind)())
    assert words[-2:] == ["localhost:8500", f"tensorflow.serving.PredictionService/{verb}"]
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        getattr(stub, verb)(request, timeout=30)
