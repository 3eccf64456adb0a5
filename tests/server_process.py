"""A real server in a process of its own, for the few tests that go end to end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

STARTED = "NET_LOG: Entering the event loop"
PATIENCE_S = 60.0

QUIET = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "0"}
"""No accelerator, and every line of the log: tests wait for some of them."""


def free_ports() -> tuple[int, int]:
    """Two TCP ports that nobody listens on."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def program(name: str) -> Path:
    """One of Salver's commands, as it is installed beside this Python."""
    return Path(sys.executable).with_name(name)


class ServerProcess:
    """One of Salver's commands with its log at hand; ends with the ``with`` block."""

    def __init__(
        self,
        *flags: str,
        command: Sequence[str] = ("tensorflow_model_server",),
        rest: bool = True,
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.grpc_port, self.rest_port = free_ports()
        ports = [f"--port={self.grpc_port}", f"--rest_api_port={self.rest_port if rest else 0}"]
        self._process = subprocess.Popen(
            [program(command[0]), *command[1:], *ports, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **QUIET, **(environment or {})},
            cwd=folder,
        )
        self.log: list[str] = []
        self.output: list[str] = []
        self._news = threading.Condition()
        self._has_log_ended = False
        self._readers = [
            threading.Thread(target=self._read, args=args, daemon=True)
            for args in ((self._process.stderr, self.log), (self._process.stdout, self.output))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def grpc_address(self) -> str:
        """Where gRPC is spoken."""
        return f"127.0.0.1:{self.grpc_port}"

    def url(self, path: str) -> str:
        """A path on the REST port."""
        return f"http://127.0.0.1:{self.rest_port}{path}"

    def wait_until(self, find: Callable[[], T | None], wanted: str) -> T:
        """Wait until ``find`` finds something in the log; what it found."""
        with self._news:
            self._news.wait_for(lambda: find() is not None or self._has_log_ended, PATIENCE_S)
            found = find()
        if found is None:
            raise AssertionError(f"no {wanted!r} in the log:\n" + "".join(self.log))
        return found

    def wait_for(self, text: str, *, times: int = 1) -> str:
        """Wait until a line of the log holds ``text``, for the ``times``-th time; that line."""

        def find() -> str | None:
            lines = [line for line in self.log if text in line]
            return lines[times - 1] if len(lines) >= times else None

        return self.wait_until(find, text)

    def wait_until_started(self) -> ServerProcess:
        """Wait until every port is open."""
        self.wait_for(STARTED)
        return self

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end of the process; its exit code."""
        code = self._process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return code

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()

    def _read(self, stream: object, lines: list[str]) -> None:
        for line in stream:  # type: ignore[attr-defined] # a text stream
            with self._news:
                lines.append(line)
                self._news.notify_all()
        with self._news:
            self._has_log_ended |= lines is self.log
            self._news.notify_all()


def config_file(folder: Path, **models: Path) -> Path:
    """A model config file that lists base paths by name."""
    entries = "".join(
        f'  config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}\n'
        for name, path in models.items()
    )
    path = folder / "models.config"
    path.write_text(f"model_config_list {{\n{entries}}}\n")
    return path
