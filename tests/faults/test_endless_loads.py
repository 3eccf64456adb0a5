"""Loads that never end, as from a network file system that hangs."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")

from tensorflow_serving.apis import model_management_pb2

from broken_versions import endless_variables, put, put_broken
from saved_models import Shelf
from server_process import PATIENCE_S, ServerProcess, config_file
from steady_client import HALF_PLUS_THREE, HALF_PLUS_TWO, Asking, SteadyClient

SALVER: Final = ("salver", "serve")
ENDLESS: Final = ("endless", "endless_too")

CODE_OK: Final = 0


@pytest.fixture
def server(shelf: Shelf, tmp_path: Path) -> Iterator[ServerProcess]:
    """A model that is in order, one nobody has asked yet, and two that are to hang.

    There are more threads for loads than loads that hang.
    """
    bases = {name: tmp_path / name for name in ("healthy", "quiet", *ENDLESS)}
    for base in bases.values():
        put(shelf.version("half_plus_two"), base, 1)
    config = config_file(tmp_path, **bases)
    flags = f"--model_config_file={config}", "--num_load_threads=3"
    with ServerProcess(*flags, command=SALVER) as running:
        yield running.wait_until_started()


def test_loads_that_never_end_hold_up_nothing_else(
    server: ServerProcess, shelf: Shelf, tmp_path: Path
):
    """Others answer, load, come by a reload and drain; the process ends when it is told to."""
    whole = shelf.version("half_plus_three")
    with (
        SteadyClient(server, "healthy", HALF_PLUS_TWO, HALF_PLUS_THREE) as client,
        Asking(server) as questions,
    ):
        for name in ENDLESS:
            put_broken(whole, tmp_path / name, 2, endless_variables)
        for name in ENDLESS:
            questions.wait_until(name, 2, "LOADING")
        answers = [questions.predict(name) for name in ("quiet", *ENDLESS)]
        put(whole, tmp_path / "healthy", 2)
        questions.wait_until("healthy", 1, "END")
        reloaded = questions.models.HandleReloadConfigRequest(
            reload_with(tmp_path, "healthy", "quiet", "added", *ENDLESS), PATIENCE_S
        )
        added = questions.predict("added")
        still = [questions.status(name, 2) for name in ENDLESS]
        client.wait_for_answers()
        failures = list(client.failures)
    server.send(signal.SIGTERM)
    code = server.wait()

    assert failures == []
    assert answers == [HALF_PLUS_TWO] * 3
    assert (reloaded.status.error_code, added) == (CODE_OK, HALF_PLUS_THREE)
    assert still == [("LOADING", CODE_OK, "")] * 2
    assert code == 0


def test_a_load_that_never_ends_at_the_start_is_named(shelf: Shelf, tmp_path: Path):
    """The others serve; readiness says which model is waited for."""
    (tmp_path / "endless").mkdir()
    put_broken(shelf.version("half_plus_two"), tmp_path / "endless", 1, endless_variables)
    config = config_file(tmp_path, healthy=shelf("half_plus_two"), endless=tmp_path / "endless")
    with ServerProcess(f"--model_config_file={config}", command=SALVER) as server:
        server.wait_for("Successfully loaded servable version {name: healthy version: 1}")
        with SteadyClient(server, "healthy") as client, Asking(server) as questions:
            status = questions.wait_until("endless", 1, "LOADING")
            readiness = ask_readiness(server)
            client.wait_for_answers()
            failures = list(client.failures)

    assert failures == []
    assert status == ("LOADING", CODE_OK, "")
    assert readiness == {"state": "starting", "waiting_for": ["endless"]}


def reload_with(folder: Path, *names: str) -> model_management_pb2.ReloadConfigRequest:
    """A request for these models; one without a folder of its own shares the healthy one's."""
    request = model_management_pb2.ReloadConfigRequest()
    for name in names:
        base = folder / name
        request.config.model_config_list.config.add(
            name=name,
            base_path=str(base if base.exists() else folder / "healthy"),
            model_platform="tensorflow",
        )
    return request


def ask_readiness(server: ServerProcess) -> object:
    """What is said to those who ask whether the server is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/readyz")
        return json.load(connection.getresponse())
    finally:
        connection.close()
