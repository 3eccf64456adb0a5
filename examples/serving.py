"""A server of Salver's for the length of an example, on ports of its own.

    with serving(f"--model_name=m --model_base_path={models}".split(), workdir) as server:
        ...  # server.grpc_address, server.url("/v1/models/m:predict")

It has started when every model has a version, and it is ended whatever happens.  A model that
cannot be loaded fails the example.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

STARTED: Final = "Entering the event loop"
NOT_ALL: Final = "Serving what could be loaded"
START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 20.0
REQUEST_TIMEOUT_S: Final = 30.0
LOOK_EVERY_S: Final = 0.05
SALVER_SERVE: Final = ("salver", "serve")

CALM: Final = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "0"}
"""No accelerator, and a whole log, even where an example has silenced TensorFlow for itself."""


class NotServedError(Exception):
    """The server does not start, or does not answer as it should; its last lines say why."""


@dataclass(frozen=True)
class Server:
    """Where a running server is to be found."""

    grpc_address: str
    rest_address: str
    log: Path

    def url(self, path: str) -> str:
        """A path on the REST port."""
        return f"http://{self.rest_address}{path}"

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that a GET, or a POST of ``body``, is answered with."""
        content = None if body is None else json.dumps(body).encode()
        url = self.url(path)
        try:
            with urllib.request.urlopen(url, content, timeout=REQUEST_TIMEOUT_S) as response:  # noqa: S310 (ours)
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise NotServedError(f"{url}: {error}: {error.read().decode()}") from error


@contextmanager
def serving(
    flags: Sequence[str],
    workdir: Path,
    *,
    command: Sequence[str] = SALVER_SERVE,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server process with these flags; its log goes into ``workdir``."""
    grpc_address, rest_address = free_addresses()
    server = Server(grpc_address, rest_address, workdir / f"{command[0]}-{os.urandom(3).hex()}.log")
    ports = [f"--port={port_of(grpc_address)}", f"--rest_api_port={port_of(rest_address)}"]
    program = Path(sys.executable).with_name(command[0])
    if not program.exists():
        raise NotServedError(f"there is no {program}; `make install` puts it there")
    print(f"  $ {' '.join([*command, *flags])}", flush=True)
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            [program, *command[1:], *ports, *flags],
            stdout=log,
            stderr=log,
            env={**os.environ, **CALM, **(environment or {})},
        )
    try:
        wait_until_started(process, server.log)
        yield server
    finally:
        stop(process)


def wait_until_started(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the log says so."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while STARTED not in log.read_text(errors="replace"):
        if process.poll() is not None:
            raise NotServedError(f"the server ended with {process.returncode}: {last_words(log)}")
        if time.monotonic() > deadline:
            raise NotServedError(f"not started after {START_TIMEOUT_S:g} s: {last_words(log)}")
        time.sleep(LOOK_EVERY_S)
    failures = [line for line in log.read_text(errors="replace").splitlines() if NOT_ALL in line]
    if failures:
        raise NotServedError("\n".join(failures))


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and end it if it does not."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise NotServedError(f"the server still ran {STOP_TIMEOUT_S:g} s after SIGTERM") from None


def free_addresses() -> tuple[str, str]:
    """Two addresses on this machine that nobody listens at."""
    anywhere = ("127.0.0.1", 0)
    with socket.create_server(anywhere) as one, socket.create_server(anywhere) as other:
        return f"127.0.0.1:{one.getsockname()[1]}", f"127.0.0.1:{other.getsockname()[1]}"


def port_of(address: str) -> str:
    """What stands behind the last colon."""
    return address.rpartition(":")[2]


def last_words(log: Path) -> str:
    """The last line of a log, and, below it, what led there."""
    lines = log.read_text(errors="replace").splitlines()[-20:]
    return "\n".join(lines[-1:] + lines)
