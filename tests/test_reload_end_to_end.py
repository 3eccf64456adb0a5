"""A running server is given other models: over gRPC, by its file, and by the admin API."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from saved_models import Shelf, tensorflow
from server_process import PATIENCE_S, ServerProcess, config_file, free_ports, program

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")
tensorflow()

from google.protobuf import text_format  # noqa: E402 - protobuf after TensorFlow, as users do
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc  # noqa: E402

SALVER = ("salver", "serve")


def ask(
    port: int, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """One request; status, headers and JSON of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        content = None if body is None else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, content, named)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), json.loads(response.read() or "null")
    finally:
        connection.close()


def predict(server: ServerProcess, model: str) -> Any:
    """The prediction for 2, or None while there is none."""
    path = f"/v1/models/{model}:predict"
    status, _, answer = ask(server.rest_port, "POST", path, {"instances": [2.0]})
    return answer["predictions"] if status == 200 else None


def wait_for_prediction(server: ServerProcess, model: str, expected: list[float] | None) -> None:
    """Ask until the answer is ``expected``."""
    give_up = time.monotonic() + PATIENCE_S
    while (answer := predict(server, model)) != expected:
        assert time.monotonic() < give_up, f"{model} answers {answer}, not {expected}"


def reload(
    server: ServerProcess,
    text: str,
    *,
    timeout_s: float = PATIENCE_S,
    metrics: tuple[str, ...] = (),
) -> model_management_pb2.ReloadConfigResponse:
    """HandleReloadConfigRequest, as TensorFlow Serving's own stubs make it."""
    request = model_management_pb2.ReloadConfigRequest(metric_names=metrics)
    text_format.Parse(text, request.config)
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        return stub.HandleReloadConfigRequest(request, timeout=timeout_s)


def listed(**models: Path) -> str:
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}\n'
        for name, path in models.items()
    )
    return f"model_config_list {{ {entries} }}"


def test_models_are_added_and_removed_over_grpc(shelf: Shelf, tmp_path: Path):
    """By the words TensorFlow Serving's clients use; a missing path ends the call in time."""
    two, three = shelf("half_plus_two"), shelf("half_plus_three")
    flags = (f"--model_config_file={config_file(tmp_path, two=two)}",)
    with ServerProcess(*flags).wait_until_started() as server:
        response = reload(server, listed(two=two, three=three), metrics=("/no/such",))
        assert (response.status.error_code, response.metric[0].int64_value_increase) == (0, 0)
        assert (predict(server, "two"), predict(server, "three")) == ([3.0], [4.0])

        with pytest.raises(grpc.RpcError) as raised:
            reload(server, listed(three=three, lost=tmp_path / "lost"), timeout_s=2.0)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "lost: " in raised.value.details()
        assert str(tmp_path / "lost") in raised.value.details()

        assert ask(server.rest_port, "GET", "/v1/models")[0] == 400

        reload(server, listed(three=three))
        wait_for_prediction(server, "two", None)
        assert predict(server, "three") == [4.0]


def test_a_running_server_follows_its_file(shelf: Shelf, tmp_path: Path):
    """Through mistakes too; labels may come with their versions, and the list shows all."""
    path = config_file(tmp_path, two=shelf("half_plus_two"))
    flags = (f"--model_config_file={path}",)
    with ServerProcess(*flags, command=SALVER).wait_until_started() as server:
        path.write_text("model_config_list { config {")
        complaint = server.wait_for("Error parsing text-format")
        assert f"{path}:1:29: Expected" in complaint
        assert predict(server, "two") == [3.0]

        labelled = listed(three=shelf("half_plus_three")).replace(
            " }\n }", ' version_labels { key: "stable" value: 1 } }\n }'
        )
        path.write_text(labelled)
        wait_for_prediction(server, "three/labels/stable", [4.0])
        wait_for_prediction(server, "two", None)


def test_models_are_added_and_removed_over_the_admin_api(shelf: Shelf, tmp_path: Path):
    """By compare-and-set, on an address of its own."""
    admin_port, _ = free_ports()
    flags = (
        f"--model_config_file={config_file(tmp_path, two=shelf('half_plus_two'))}",
        f"--admin_address=127.0.0.1:{admin_port}",
    )
    with ServerProcess(*flags, command=SALVER).wait_until_started() as server:
        _, headers, _ = ask(admin_port, "GET", "/v1/config")
        body = {"base_path": str(shelf("half_plus_three"))}
        path = "/v1/config/models/three"
        status, changed, _ = ask(admin_port, "PUT", path, body, If_Match=headers["ETag"])
        assert status == 201
        wait_for_prediction(server, "three", [4.0])

        assert ask(admin_port, "DELETE", path, If_Match=headers["ETag"])[0] == 412
        assert ask(admin_port, "DELETE", path, If_Match=changed["ETag"])[0] == 200
        wait_for_prediction(server, "three", None)
        assert predict(server, "two") == [3.0]
        assert ask(server.rest_port, "GET", "/v1/config")[0] == 400

        _, _, listed_models = ask(server.rest_port, "GET", "/v1/models")
        assert [m["name"] for m in listed_models["models"] if m["configured"]] == ["two"]


def test_an_admin_address_of_other_machines_ends_the_start(shelf: Shelf):
    """Unless it was said twice."""
    flags = (f"--model_base_path={shelf('half_plus_two')}", "--admin_address=0.0.0.0:1")
    with ServerProcess(*flags, command=SALVER) as server:
        assert server.wait() == 1

    assert "--admin_allow_remote" in "".join(server.log)


def test_a_platform_file_is_what_sessions_are_made_by(shelf: Shelf, tmp_path: Path):
    """What TensorFlow Serving's users have written loads and answers."""
    path = tmp_path / "platform.config"
    adapter = "type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig"
    path.write_text(
        'platform_configs { key: "tensorflow" value { source_adapter_config {\n'
        f'  [{adapter}] {{ legacy_config {{ saved_model_tags: "serve" session_target: "x"\n'
        "    session_config { intra_op_parallelism_threads: 1 } } } } } }\n"
    )
    flags = (f"--model_base_path={shelf('half_plus_two')}", f"--platform_config_file={path}")
    with ServerProcess(*flags).wait_until_started() as server:
        assert predict(server, "default") == [3.0]

        assert "session_target has no effect" in "".join(server.log)


def test_a_start_that_waits_for_a_path_goes_on_when_the_file_is_mended(
    shelf: Shelf, tmp_path: Path
):
    """The other models answer meanwhile, and nobody restarts anything."""
    path = config_file(tmp_path, two=shelf("half_plus_two"), lost=tmp_path / "lost")
    with ServerProcess(f"--model_config_file={path}", command=SALVER) as server:
        server.wait_for("Successfully loaded servable version {name: two version: 1}")
        wait_for_prediction(server, "two", [3.0])
        _, _, ready = ask(server.rest_port, "GET", "/readyz")
        assert ready["waiting_for"] == ["lost"]

        path.write_text(listed(two=shelf("half_plus_two"), three=shelf("half_plus_three")))

        server.wait_until_started()
        wait_for_prediction(server, "three", [4.0])
        assert ask(server.rest_port, "GET", "/readyz")[0] == 200


def test_a_config_file_is_checked_without_starting_anything(shelf: Shelf, tmp_path: Path):
    """The command ends by itself, and says what would be served."""
    path = config_file(tmp_path, two=shelf("half_plus_two"))

    done = subprocess.run(
        [program("salver"), "check", str(path)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert f"two: the latest version in {shelf('half_plus_two')}; loads 1 of 1" in done.stdout
