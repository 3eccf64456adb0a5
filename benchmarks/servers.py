"""A real server process to measure, and the bytes of the simplest request to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import models

MODEL: Final = "half_plus_two"
RIGHT_ANSWER: Final = b"2.5, 3.0, 4.5"
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 20.0
POLL_WAIT_S: Final = 1e-3

TENSORFLOW_MODEL_SERVER: Final = ("tensorflow_model_server",)
SALVER_SERVE: Final = ("salver", "serve")

REST_BODY: Final = b'{"instances": [1.0, 2.0, 5.0]}'
REST_REQUEST: Final = (
    f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\n"
    "Host: localhost\r\n"
    "Content-Type: application/json\r\n"
    f"Content-Length: {len(REST_BODY)}\r\n\r\n"
).encode() + REST_BODY


@dataclass(frozen=True, slots=True)
class Server:
    """A server that was started."""

    pid: int
    grpc_port: int
    rest_port: int
    first_answer_s: float
    """From the start of the process to its first right answer."""


@contextmanager
def running_server(command: Sequence[str] = TENSORFLOW_MODEL_SERVER) -> Iterator[Server]:
    """A server of half_plus_two that has given a right answer; stopped at the end."""
    base_path = models.base_path(MODEL)
    program = str(Path(sys.executable).with_name(command[0]))
    grpc_port, rest_port = free_port(), free_port()
    arguments = [
        program,
        *command[1:],
        f"--port={grpc_port}",
        f"--rest_api_port={rest_port}",
        f"--model_name={MODEL}",
        f"--model_base_path={base_path}",
    ]
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=log, stderr=log, env=quiet_environment())
        try:
            _wait_for_right_answer(rest_port, process)
            first_answer_s = time.perf_counter() - started
            yield Server(process.pid, grpc_port, rest_port, first_answer_s)
        except BaseException:
            log.seek(0)
            sys.stderr.buffer.write(log.read())
            raise
        finally:
            stop(process)


def quiet_environment() -> dict[str, str]:
    """The environment of a child that keeps its bytecode, says little and uses no accelerator."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def read_response(connection: socket.socket) -> tuple[bytes, bytes]:
    """The status line and the body of one response with a Content-Length.

    Raises:
        ConnectionError: the server hung up in the middle.
    """
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _received(connection)
    head, body = data[:end], data[end + 4 :]
    _, _, rest = head.lower().partition(b"content-length:")
    length = int(rest.partition(b"\r\n")[0])
    while len(body) < length:
        body += _received(connection)
    return head.partition(b"\r\n")[0], body


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise ConnectionError("the server hung up")
    return data


def _wait_for_right_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers_right(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the server gave no right answer")
        time.sleep(POLL_WAIT_S)


def _answers_right(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), START_TIMEOUT_S) as connection:
            connection.sendall(REST_REQUEST)
            _, body = read_response(connection)
    except OSError:
        return False
    return RIGHT_ANSWER in body


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, kindly if it listens."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A TCP port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
