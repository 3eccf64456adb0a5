"""Servers with several CPUs, and with models that no device here can run."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from salver.servables.device_placement import available_devices
from salver.servables.libtensorflow import LibTensorFlow
from saved_models import Shelf
from server_process import PATIENCE_S, ServerProcess, config_file

FOUR_CPUS = 'device_count { key: "CPU" value: 4 }'
PINNED = "op mul to /device:GPU:0, and there are only /device:CPU:0"


def get(server: ServerProcess, path: str, body: object = None) -> Any:
    request = urllib.request.Request(  # noqa: S310 - http on loopback
        server.url(path), None if body is None else json.dumps(body).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


def predict(server: ServerProcess, name: str) -> Any:
    return get(server, f"/v1/models/{name}:predict", {"instances": [1.0, 2.0]})


def wait_for_status(server: ServerProcess, name: str, state: str) -> str:
    """Ask until the model's version is in ``state``; the text of its status."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        found = get(server, f"/v1/models/{name}").get("model_version_status")
        if found and found[0]["state"] == state:
            return found[0]["status"]["error_message"]
        assert time.monotonic() < give_up, f"{name} is {found}, not {state}"


@pytest.fixture(scope="module")
def without_gpu() -> None:
    """Skip where there is a GPU: nothing is missing there."""
    if any("GPU" in name for name in available_devices(LibTensorFlow())):
        pytest.skip("this machine has a GPU")


def test_models_run_on_devices_of_their_own_and_the_log_says_so(tmp_path: Path, shelf: Shelf):
    """Two models on two virtual CPUs, one of them isolated; a third one's device is not there."""
    session = tmp_path / "session.config"
    session.write_text(FOUR_CPUS)
    base = shelf("half_plus_two")
    config = config_file(tmp_path, near=base, apart=base, far=base)
    with ServerProcess(
        f"--model_config_file={config}",
        f"--tensorflow_session_config_file={session}",
        "--model_devices=near=/device:CPU:1,apart=cpu:2,*=GPU:7",
        "--isolated_models=apart",
        "--log_device_placement",
        command=("salver", "serve"),
    ) as server:
        server.wait_until_started()
        server.wait_for("StatefulPartitionedCall): /job:localhost/replica:0/task:0/device:CPU:1")
        server.wait_for("StatefulPartitionedCall): /job:localhost/replica:0/task:0/device:CPU:2")
        for name in ("near", "apart"):
            wait_for_status(server, name, "AVAILABLE")
        error = wait_for_status(server, "far", "END")

        assert predict(server, "near") == predict(server, "apart") == {"predictions": [2.5, 3.0]}
        assert error.startswith("the model is to run on /device:GPU:7, and there are only /device:")


@pytest.mark.usefixtures("without_gpu")
def test_a_model_for_a_gpu_and_bad_exports_are_explained_in_salver_serve(
    tmp_path: Path, shelf: Shelf
):
    """Each status is one line that says what helps, and everybody else is served."""
    models = {name: shelf(name) for name in ("half_plus_two", "gpu_only", "other_tag")}
    config = config_file(tmp_path, **models)
    with ServerProcess(f"--model_config_file={config}", command=("salver", "serve")) as server:
        server.wait_until_started()
        wait_for_status(server, "half_plus_two", "AVAILABLE")
        gpu = wait_for_status(server, "gpu_only", "END")
        tag = wait_for_status(server, "other_tag", "END")

        assert PINNED in gpu
        assert "--saved_model_tags=train" in tag
        assert predict(server, "half_plus_two") == {"predictions": [2.5, 3.0]}
        server.wait_for(PINNED)


@pytest.mark.usefixtures("without_gpu")
def test_soft_placement_serves_a_model_for_a_gpu(shelf: Shelf):
    """With the flag it answers, in the other command just as well."""
    with ServerProcess(
        "--model_name=gpu", f"--model_base_path={shelf('gpu_only')}", "--allow_soft_placement"
    ).wait_until_started() as server:
        assert predict(server, "gpu") == {"predictions": [2.5, 3.0]}


@pytest.mark.usefixtures("without_gpu")
def test_the_other_command_gives_tensorflow_servings_text(shelf: Shelf):
    """To the letter, as scripts look for it."""
    with ServerProcess(
        "--model_name=gpu",
        f"--model_base_path={shelf('gpu_only')}",
        "--max_num_load_retries=0",
    ) as server:
        server.wait_for(
            "INVALID_ARGUMENT: Cannot assign a device for operation mul: {{node mul}} was "
            "explicitly assigned to /device:GPU:0 but available devices are "
            "[ /job:localhost/replica:0/task:0/device:CPU:0 ]. Make sure the device specification "
            "refers to a valid device."
        )
        assert server.wait() != 0
