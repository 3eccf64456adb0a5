"""A process that may open no further file, for a while."""

from __future__ import annotations

import http.client
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

import grpc
import pytest

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")

from broken_versions import put
from saved_models import Shelf
from server_process import PATIENCE_S, ServerProcess, config_file, program
from steady_client import HALF_PLUS_THREE, HALF_PLUS_TWO, Asking, Patience, SteadyClient

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the limit of another process is changed as Linux allows it"
)

SALVER: Final = ("salver", "serve")
LAUNCH: Final = Path(__file__).with_name("launch.py")
FEW_FILES: Final = 120
TURNED_AWAY: Final = f"A connection was refused: {FEW_FILES // 2} are open"
CANNOT_ACCEPT: Final = "Cannot accept connections: Too many open files; trying again"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the base paths are, each called as its model."""
    return tmp_path_factory.mktemp("few_files")


@pytest.fixture(scope="module")
def server(shelf: Shelf, folder: Path) -> Iterator[ServerProcess]:
    """A model that is in order, and two of which new versions will come."""
    bases = {name: folder / name for name in ("healthy", "looked_for", "loaded")}
    for base in bases.values():
        put(shelf.version("half_plus_two"), base, 1)
    config = config_file(folder, **bases)
    with ServerProcess(f"--model_config_file={config}", command=SALVER) as running:
        yield running.wait_until_started()


@contextmanager
def no_further_files(server: ServerProcess, spare: int = 0) -> Iterator[None]:
    """Forbid a running server all files but those it has open, and a few to ``spare``."""
    soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    taken = {int(each.name) for each in Path(f"/proc/{server.pid}/fd").iterdir()}
    free = (number for number in range(soft) if number not in taken)
    limit = next(islice(free, spare, None))  # what is open above it stays open
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_without_file_descriptors_serves_who_is_there(server: ServerProcess):
    """Who comes waits, the log says so once, and all are served when there are files again."""
    with SteadyClient(server, "healthy") as client, ExitStack() as stack:
        with no_further_files(server):
            crowd = [
                stack.enter_context(
                    socket.create_connection(("127.0.0.1", server.rest_port), PATIENCE_S)
                )
                for _ in range(50)
            ]
            server.wait_for(CANNOT_ACCEPT)
            client.wait_for_answers(100)
        for connection in crowd:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answers = {connection.recv(12) for connection in crowd}

    assert client.failures == []
    assert answers == {b"HTTP/1.1 200"}
    assert sum(CANNOT_ACCEPT in line for line in server.log) == 1


def test_a_look_without_file_descriptors_changes_nothing(
    server: ServerProcess, shelf: Shelf, folder: Path
):
    """The log says that a folder cannot be listed; what came meanwhile is found afterwards."""
    with SteadyClient(server, "healthy") as client, Asking(server) as questions:
        before = questions.predict("looked_for")
        with no_further_files(server):
            said = server.wait_for("Could not find base path")
            put(shelf.version("half_plus_three"), folder / "looked_for", 2)
            meanwhile = questions.predict("looked_for")
            client.wait_for_answers()
        questions.wait_until("looked_for", 2, "AVAILABLE")
        after = questions.predict("looked_for")
        client.wait_for_answers()

    assert client.failures == []
    assert "Too many open files" in said
    assert (before, meanwhile, after) == (HALF_PLUS_TWO, HALF_PLUS_TWO, HALF_PLUS_THREE)


def test_a_load_without_file_descriptors_is_tried_again(
    server: ServerProcess, shelf: Shelf, folder: Path
):
    """One file at a time is enough for a look and not for a load, which says what it lacks."""
    with SteadyClient(server, "healthy") as client, Asking(server) as questions:
        before = questions.predict("loaded")
        with no_further_files(server, spare=1):
            put(shelf.version("half_plus_three"), folder / "loaded", 2)
            _, code, text = questions.wait_until_status("loaded", 2, lambda status: status[1] != 0)
            meanwhile = questions.predict("loaded")
            client.wait_for_answers()
        questions.wait_until("loaded", 2, "AVAILABLE")
        after = questions.predict("loaded")
        client.wait_for_answers()

    assert client.failures == []
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert "Too many open files" in text
    assert (before, meanwhile, after) == (HALF_PLUS_TWO, HALF_PLUS_TWO, HALF_PLUS_THREE)


def test_a_crowd_beyond_the_limit_is_turned_away_and_forgotten(shelf: Shelf):
    """With few descriptors from the start, some are kept for the models and for who was first."""
    command = ("python", str(LAUNCH), f"--files={FEW_FILES}", str(program("salver")), "serve")
    flags = ("--model_name=healthy", f"--model_base_path={shelf('half_plus_two')}")
    with ServerProcess(*flags, command=command) as server:
        server.wait_until_started()
        with SteadyClient(server, "healthy") as client:
            with ExitStack() as crowd:
                for _ in range(FEW_FILES):
                    crowd.enter_context(
                        socket.create_connection(("127.0.0.1", server.rest_port), PATIENCE_S)
                    )
                server.wait_for(TURNED_AWAY)
                client.wait_for_answers()
            patience = Patience()
            while ask_health(server) != 200:
                patience.lose_some("nobody is let in any more")
            client.wait_for_answers()

    assert client.failures == []
    assert sum(TURNED_AWAY in line for line in server.log) == 1


def ask_health(server: ServerProcess) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
