"""Platforms that others wrote, in a real server: found, served, swapped, measured, and survived."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from installed_platforms import install
from salver.protos import saved_model_pb2, serving_pb2
from salver.tensors import decode_tensor, encode_tensor
from server_process import PATIENCE_S, ServerProcess
from walkthrough import Reader

ROOT = Path(__file__).parents[1]

MOODY = """
import os
from pathlib import Path

import numpy as np

from salver.errors import FailedPrecondition
from salver.servables.python import Call, PythonPlatform, Tensor

with open(os.environ["IMPORTS"], "a") as file:
    file.write(f"{os.getpid()}\\n")


class Moody:
    signatures = {
        "serving_default": Call({"mood": Tensor("string", [])}, {"pid": Tensor("int64", [])}),
    }

    def __init__(self, path):
        if (path / "broken").exists():
            raise LookupError("its weights\\nare gone")

    def predict(self, inputs):
        mood = inputs["mood"].item().decode()
        if mood == "leave":
            raise SystemExit(1)
        if mood == "lie":
            return {"pid": "none"}
        if mood == "refuse":
            raise FailedPrecondition("not today")
        return {"pid": os.getpid()}


platform = PythonPlatform(Moody)
"""

DOUBLING = """
import os
from pathlib import Path

from salver.servables.python import Call, PythonPlatform, Tensor


class Doubling:
    signatures = {
        "serving_default": Call({"x": Tensor("float32", [None])}, {"y": Tensor("float32", [None])}),
    }

    def __init__(self, path):
        self.runs = path / "runs"

    def predict(self, inputs):
        with self.runs.open("a") as file:
            file.write(f"{len(inputs['x'])}\\n")
        return {"y": 2 * inputs["x"]}


platform = PythonPlatform(Doubling)
"""


def test_the_page_about_platforms_is_true_to_the_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whoever follows it has a platform: served, swapped, counted and unloaded as it says."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "platforms.md").read_text(encoding="utf-8")

    with Reader(tmp_path, folder_on_page="/tmp/salver-platforms") as reader:  # noqa: S108
        reader.follow(page)


def start(tmp_path: Path, *flags: str) -> ServerProcess:
    """A server with the models ``a`` and ``b`` of a platform that is installed for it."""
    site = install(tmp_path / "site", "moody", {"moody": "moody:platform"}, moody=MOODY)
    for name in ("a", "b"):
        (tmp_path / name / "1").mkdir(parents=True)
    config = tmp_path / "models.config"
    models = "".join(
        f'config {{ name: "{name}" base_path: "{tmp_path / name}" model_platform: "moody" }}'
        for name in ("a", "b")
    )
    config.write_text(f"model_config_list {{ {models} }}")
    return ServerProcess(
        f"--model_config_file={config}",
        *flags,
        command=("salver", "serve"),
        environment={"PYTHONPATH": str(site), "IMPORTS": str(tmp_path / "imports")},
    )


def place(error: str) -> str:
    """Where the platform raises an error."""
    lines = MOODY.splitlines()
    return f"moody.py:{next(at for at, line in enumerate(lines, 1) if f'raise {error}' in line)}"


def get(server: ServerProcess, path: str, body: object = None) -> tuple[int, Any]:
    request = urllib.request.Request(  # noqa: S310 - http on loopback
        server.url(path), None if body is None else json.dumps(body).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def ask(server: ServerProcess, name: str, mood: str) -> tuple[int, Any]:
    return get(server, f"/v1/models/{name}:predict", {"inputs": {"mood": mood}})


def status_at_the_end(server: ServerProcess, name: str, version: int) -> Any:
    """Ask until a version has ended; why it has."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        _code, answer = get(server, f"/v1/models/{name}/versions/{version}")
        (status,) = answer["model_version_status"]
        if status["state"] == "END":
            return status["status"]
    raise AssertionError(f"{name} is still {status}")


def test_what_a_model_does_is_an_answer_and_nothing_more(tmp_path: Path):
    """It may leave, lie or refuse: its caller hears of it, and everybody is served as before."""
    with start(tmp_path) as server:
        server.wait_until_started()
        answers = {mood: ask(server, "a", mood) for mood in ("leave", "lie", "refuse", "good")}
        neighbour = ask(server, "b", "good")

    assert answers["leave"] == (
        500,
        {"error": f"model {{name: a version: 1}} failed: SystemExit: 1 ({place('SystemExit')})"},
    )
    assert answers["lie"][1]["error"].startswith("output pid of signature serving_default is decl")
    assert answers["refuse"][1] == {"error": "not today"}
    assert answers["good"] == neighbour == (200, {"outputs": server.pid})


def test_a_version_that_cannot_be_loaded_hurts_nobody(tmp_path: Path):
    """The version before it goes on serving, and its status says what was raised, and where."""
    with start(tmp_path) as server:
        server.wait_until_started()
        (tmp_path / "a" / "making").mkdir()
        (tmp_path / "a" / "making" / "broken").touch()
        (tmp_path / "a" / "making").rename(tmp_path / "a" / "2")
        server.wait_for("Loading servable: {name: a version: 2} failed")
        status = status_at_the_end(server, "a", 2)
        answers = [ask(server, name, "good") for name in ("a", "b")]

    assert status["error_code"] == "INTERNAL"
    assert status["error_message"] == (
        "platform moody could not load {name: a version: 2}: "
        f"LookupError: its weights are gone ({place('LookupError')})"
    )
    assert answers == [(200, {"outputs": server.pid})] * 2


def test_clients_are_told_its_signatures(tmp_path: Path):
    """Over gRPC as a SignatureDefMap, as of any SavedModel."""
    request = serving_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "a"
    with start(tmp_path) as server, grpc.insecure_channel(server.grpc_address) as channel:
        server.wait_until_started()
        call = channel.unary_unary("/tensorflow.serving.PredictionService/GetModelMetadata")
        answer = call(request.SerializeToString(), timeout=60)

    packed = serving_pb2.GetModelMetadataResponse.FromString(answer).metadata["signature_def"]
    signature = saved_model_pb2.SignatureDefMap.FromString(packed.value).signature_def
    assert packed.type_url.endswith("/tensorflow.serving.SignatureDefMap")
    assert signature["serving_default"].method_name == "tensorflow/serving/predict"
    assert list(signature["serving_default"].inputs) == ["mood"]


def test_a_model_in_a_process_of_its_own_comes_through_the_same_door(tmp_path: Path):
    """The server does not even import its platform; its neighbour's has nothing to do with it."""
    with start(tmp_path, "--isolated_models=*") as server:
        server.wait_until_started()
        pids = {ask(server, name, "good")[1]["outputs"] for name in ("a", "b")}
        failed = ask(server, "a", "leave")
        again = ask(server, "a", "good")

    imported = {int(line) for line in (tmp_path / "imports").read_text().split()}
    assert imported == pids
    assert len(pids - {server.pid}) == 2
    assert failed[1]["error"].endswith(f"failed: SystemExit: 1 ({place('SystemExit')})")
    assert again[1]["outputs"] in pids


def test_calls_of_a_crowd_share_runs_of_a_platforms_model(tmp_path: Path):
    """It is batched like a SavedModel: the model sees batches, and each caller its own rows."""
    site = install(
        tmp_path / "site", "doubling", {"doubling": "doubling:platform"}, doubling=DOUBLING
    )
    (tmp_path / "m" / "1").mkdir(parents=True)
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{tmp_path / "m"}" '
        'model_platform: "doubling" } }'
    )
    environment = {"PYTHONPATH": str(site)}
    flags = (f"--model_config_file={config}",)
    with (
        ServerProcess(*flags, command=("salver", "serve"), environment=environment) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        server.wait_for("Signature 'serving_default' of servable {name: m version: 1} is batched")
        server.wait_until_started()
        runs = tmp_path / "m" / "1" / "runs"
        tried = len(runs.read_text().split())
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        answers = []
        for number in range(20):
            coming = [call.future(doubling(32 * number + each), timeout=60) for each in range(32)]
            answers += [answered(each.result()) for each in coming]
        sizes = list(map(int, runs.read_text().split()))[tried:]

    assert answers == [[2.0 * each] for each in range(640)]
    assert sum(sizes) == 640
    assert max(sizes) > 1


def doubling(value: float) -> bytes:
    request = serving_pb2.PredictRequest()
    request.model_spec.name = "m"
    encode_tensor(request.inputs["x"], np.array([value], np.float32))
    return request.SerializeToString()


def answered(message: bytes) -> list[float]:
    answer = serving_pb2.PredictResponse.FromString(message)
    values: list[float] = decode_tensor(answer.outputs["y"]).tolist()
    return values
