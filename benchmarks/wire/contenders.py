"""The servers that are measured: started, asked until they answer, stopped at the end.

What is not installed here, a C++ compiler with gRPC's headers or nginx, is said and left out.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
BENCHMARKS: Final = HERE.parent

sys.path.append(str(BENCHMARKS))

import grpc  # noqa: E402 # the next two are in the folder above

import models  # noqa: E402
import servers  # noqa: E402
from echo_salver import ANSWER, METHOD  # noqa: E402

PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
CPP_FOLDER: Final = models.ROOT / ".cache" / "wire-echo"
CPP_NEEDS: Final = ("g++", "pkg-config", "protoc", "grpc_cpp_plugin")
ASK_TIMEOUT_S: Final = 5.0

CPP: Final = "C++ gRPC echo"
GRPCIO: Final = "grpcio asyncio echo"
OURS: Final = "Salver's wire, echo"
NGINX: Final = "nginx, return 200"


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that runs and has answered."""

    name: str
    pid: int
    grpc_address: str = ""
    rest_address: str = ""


@contextmanager
def cpp_echo() -> Iterator[Contender | None]:
    """The echo server in C++; None where it cannot be built."""
    program = built_echo()
    if program is None:
        yield None
        return
    address = f"127.0.0.1:{servers.free_port()}"
    with _echo(CPP, [str(program), address], address) as contender:
        yield contender


@contextmanager
def python_echo(name: str, script: str) -> Iterator[Contender]:
    """An echo server that is a script beside this file."""
    port = servers.free_port()
    command = [sys.executable, str(HERE / script), str(port)]
    with _echo(name, command, f"127.0.0.1:{port}") as contender:
        yield contender


@contextmanager
def model_server(*names: str, command: Sequence[str] = servers.SALVER_SERVE) -> Iterator[Contender]:
    """A whole server with these of the benchmarks' models; half_plus_two is always among them."""
    grpc_port, rest_port = servers.free_port(), servers.free_port()
    program = Path(sys.executable).with_name(command[0])
    rows = "".join(
        f'config {{ name: "{name}" base_path: "{models.base_path(name)}" '
        'model_platform: "tensorflow" }\n'
        for name in (servers.MODEL, *names)
    )
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "models.config")
        config.write_text(f"model_config_list {{ {rows} }}")
        arguments = [
            str(program),
            *command[1:],
            f"--port={grpc_port}",
            f"--rest_api_port={rest_port}",
            f"--model_config_file={config}",
        ]

        def is_ready() -> bool:
            return _answers_http(rest_port, servers.REST_REQUEST, servers.RIGHT_ANSWER)

        with _running(arguments, is_ready) as pid:
            grpc_address, rest_address = (f"127.0.0.1:{port}" for port in (grpc_port, rest_port))
            yield Contender("Salver", pid, grpc_address, rest_address)


@contextmanager
def nginx() -> Iterator[Contender | None]:
    """nginx with one worker, which answers every request itself; None where it is absent."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        print("nginx is not installed: no figures of it.")
        yield None
        return
    port = servers.free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "nginx.conf")
        config.write_text(nginx_config(folder, port))
        command = [program, "-p", folder, "-c", str(config), "-e", f"{folder}/errors"]
        request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with _running(command, lambda: _answers_http(port, request, b"predictions")) as pid:
            yield Contender(NGINX, pid, rest_address=f"127.0.0.1:{port}")


def nginx_config(folder: str, port: int) -> str:
    """One worker, kept-alive connections, no log, and an answer as long as Salver's."""
    paths = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        "daemon off;\nworker_processes 1;\n"
        f"pid {folder}/pid;\nevents {{ worker_connections 512; }}\n"
        f"http {{\naccess_log off;\nkeepalive_requests 1000000000;\n{paths}"
        f"server {{ listen 127.0.0.1:{port}; default_type application/json;\n"
        "location / { return 200 '{ \"predictions\": [2.5, 3.0, 4.5] }'; } }\n}\n"
    )


def call(address: str, method: str, request: bytes) -> bytes:
    """One gRPC call by grpcio, which has nothing of Salver's in it."""
    with grpc.insecure_channel(address) as channel:
        answer: bytes = channel.unary_unary(method)(
            request, timeout=servers.START_TIMEOUT_S, wait_for_ready=True
        )
        return answer


def built_echo() -> Path | None:
    """The C++ program, built if its sources are newer; None, and a line why, where it cannot be."""
    program, sources = CPP_FOLDER / "echo", HERE / "echo"
    newest = max(file.stat().st_mtime for file in sources.iterdir())
    if program.exists() and program.stat().st_mtime > newest:
        return program
    if missing := [name for name in CPP_NEEDS if shutil.which(name) is None]:
        print(f"No C++ echo to compare with: {', '.join(missing)} not installed.")
        return None
    if subprocess.run(["pkg-config", "--exists", "grpc++", "protobuf"]).returncode:  # noqa: S607
        print("No C++ echo to compare with: libgrpc++-dev is not installed.")
        return None
    print("Building the C++ echo ...", file=sys.stderr, flush=True)
    command = ["sh", str(sources / "build.sh"), str(CPP_FOLDER)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return program


@contextmanager
def _echo(name: str, command: Sequence[str], address: str) -> Iterator[Contender]:
    def is_ready() -> bool:
        return call(address, METHOD, b"\x0a\x00") == ANSWER

    with _running(command, is_ready) as pid:
        yield Contender(name, pid, grpc_address=address)


@contextmanager
def _running(command: Sequence[str], is_ready: Callable[[], bool]) -> Iterator[int]:
    """A process that has become ready; what it said is shown if it did not, or if all broke."""
    with tempfile.TemporaryFile() as log:
        environ = servers.quiet_environment()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
        try:
            _wait_for(process, is_ready)
            yield process.pid
        except BaseException:
            log.seek(0)
            sys.stderr.buffer.write(log.read())
            raise
        finally:
            servers.stop(process)


def _wait_for(process: subprocess.Popen[bytes], is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + servers.START_TIMEOUT_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the server gave no right answer")
        time.sleep(servers.POLL_WAIT_S)


def _answers_http(port: int, request: bytes, expected: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), ASK_TIMEOUT_S) as connection:
            connection.sendall(request)
            _, body = servers.read_response(connection)
    except OSError:
        return False
    return expected in body
