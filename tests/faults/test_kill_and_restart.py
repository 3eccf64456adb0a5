"""A server that is killed under load, and the next one in its place."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import grpc
import pytest

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")

from tensorflow_serving.apis import prediction_service_pb2_grpc

from broken_versions import put
from saved_models import Shelf
from server_process import PATIENCE_S, ServerProcess, config_file
from steady_client import HALF_PLUS_THREE, HALF_PLUS_TWO, Asking, SteadyClient, request_for

SALVER: Final = ("salver", "serve")


def successor_of(server: ServerProcess, *flags: str) -> ServerProcess:
    """A server at the very addresses of another."""
    ports = f"--port={server.grpc_port}", f"--rest_api_port={server.rest_port}"
    successor = ServerProcess(*flags, *ports, command=SALVER)  # the last one of a flag holds
    successor.grpc_port, successor.rest_port = server.grpc_port, server.rest_port
    return successor


def ask_over_unix_socket(path: Path) -> float:
    with grpc.insecure_channel(f"unix:{path}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        (answer,) = stub.Predict(request_for("still"), PATIENCE_S).outputs["y"].float_val
        return float(answer)


def test_a_killed_server_is_replaced_at_its_addresses(shelf: Shelf, tmp_path: Path):
    """The ports and the UNIX socket's path are free at once, and clients just ask again.

    What was loaded is loaded again: the newest version of each model, those that came while the
    first server ran among them.
    """
    still, moving = tmp_path / "still", tmp_path / "moving"
    put(shelf.version("half_plus_two"), still, 1)
    put(shelf.version("half_plus_two"), moving, 1)
    unix_socket = tmp_path / "salver.sock"
    flags = (
        f"--model_config_file={config_file(tmp_path, still=still, moving=moving)}",
        f"--grpc_socket_path={unix_socket}",
    )
    with ServerProcess(*flags, command=SALVER) as first:
        first.wait_until_started()
        with SteadyClient(first, "still") as client:
            put(shelf.version("half_plus_three"), moving, 2)
            with Asking(first) as questions:
                questions.wait_until("moving", 2, "AVAILABLE")
            failed_before = list(client.failures)
            first.send(signal.SIGKILL)
            killed = first.wait()
            left_behind = unix_socket.is_socket()
            with successor_of(first, *flags) as second, Asking(second) as questions:
                second.wait_until_started()
                client.wait_for_answers(1)
                failed_until_then = len(client.failures)
                client.wait_for_answers()
                failed_after = client.failures[failed_until_then:]
                answers = questions.predict("still"), questions.predict("moving")
                over_unix_socket = ask_over_unix_socket(unix_socket)
                second.send(signal.SIGTERM)
                ended = second.wait()

    assert (killed, ended, left_behind) == (-signal.SIGKILL, 0, True)
    assert (failed_before, failed_after) == ([], [])
    assert answers == (HALF_PLUS_TWO, HALF_PLUS_THREE)
    assert over_unix_socket == HALF_PLUS_TWO
    assert not unix_socket.exists()
