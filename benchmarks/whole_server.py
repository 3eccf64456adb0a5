"""The whole server: throughput, latency, and the processor time that one request costs it.

    whole_server.py [--rounds N] [--requests N]

A ``tensorflow_model_server`` process with half_plus_two answers Predict over gRPC and REST, asked
by this process over kept-alive connections, one request at a time on each.  Beside it runs a gRPC
server of grpcio's that sends every request back as it came: what is left is Salver's.
The client is Python, too, and shares the machine, so throughput and latency are lower bounds; the
server's processor time, read from /proc, is the figure to compare.
``h2load``, where it is installed, adds rows of its own: it costs the machine almost nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import grpc
import numpy as np

import servers
from reporting import duration, machine, table, times
from salver.protos.serving_pb2 import PredictRequest
from salver.tensors import encode_tensor
from timing import in_turns, percentile

PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
CONNECTIONS: Final = (1, 8)
H2LOAD_STREAMS: Final = 32
WARM_UP: Final = 200
GRPC_TIMEOUT_S: Final = 60
ANSWER_VALUES: Final = np.array([2.5, 3.0, 4.5], "<f4").tobytes()

Ask = Callable[[], None]


@dataclass(slots=True)
class Load:
    """Requests of one kind to one server over some connections, and what they took."""

    name: str
    connections: int
    pid: int
    connect: Callable[[ExitStack], Ask]
    latencies_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0
    cpu_s: float = 0.0

    def run(self, requests: int) -> float:
        """Send ``requests`` in all and note them; the requests per second."""
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self.connections))
            asks = [self.connect(stack) for _ in range(self.connections)]
            share = requests // self.connections
            list(pool.map(lambda ask: _ask_often(ask, WARM_UP // self.connections), asks))
            cpu_s, started = cpu_seconds(self.pid), perf_counter()
            latencies_s = [
                took_s
                for part in pool.map(lambda ask: _ask_often(ask, share), asks)
                for took_s in part
            ]
            elapsed_s = perf_counter() - started
        self.cpu_s += cpu_seconds(self.pid) - cpu_s
        self.elapsed_s += elapsed_s
        self.latencies_s += latencies_s
        return len(latencies_s) / elapsed_s

    @property
    def cpu_per_request_s(self) -> float:
        """Processor time of the server, both its own and the kernel's for it."""
        return self.cpu_s / len(self.latencies_s)


def main() -> int:
    """Ask in turns and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--requests", type=int, default=2000, help="requests per round (2000)")
    parser.add_argument("--echo-on", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.echo_on:
        asyncio.run(serve_echo(arguments.echo_on))
        return 0
    if not Path("/proc/self/stat").exists():
        print("processor time is read from /proc, which this system lacks")
        return 0
    print(machine())
    with servers.running_server() as server, running_echo() as (echo_pid, echo_address):
        address = f"127.0.0.1:{server.grpc_port}"
        loads = [
            load
            for connections in CONNECTIONS
            for load in (
                Load("gRPC Predict", connections, server.pid, grpc_predict(address)),
                Load("gRPC echo, grpcio", connections, echo_pid, grpc_echo(echo_address)),
                Load("REST Predict", connections, server.pid, rest_predict(server.rest_port)),
            )
        ]
        measurements = {
            f"{load.name} {load.connections}": lambda load=load: load.run(arguments.requests)
            for load in loads
        }
        in_turns(measurements, rounds=arguments.rounds)
        show(loads)
        show_h2load(server, echo_pid, echo_address, arguments.requests * arguments.rounds)
    return 0


def show(loads: list[Load]) -> None:
    """The table of this process's own requests."""
    echo = {load.connections: load.cpu_per_request_s for load in loads if "echo" in load.name}
    rows = [
        (
            load.name,
            str(load.connections),
            f"{len(load.latencies_s) / load.elapsed_s:,.0f}",
            duration(percentile(load.latencies_s, 50)),
            duration(percentile(load.latencies_s, 99)),
            duration(load.cpu_per_request_s),
            times(load.cpu_per_request_s / echo[load.connections]),
        )
        for load in sorted(loads, key=lambda load: load.name)
    ]
    headers = (
        "requests",
        "connections",
        "per second",
        "p50",
        "p99",
        "server CPU each",
        "to echo's",
    )
    table(headers, rows)


def _ask_often(ask: Ask, count: int) -> list[float]:
    latencies_s = []
    for _ in range(count):
        started = perf_counter()
        ask()
        latencies_s.append(perf_counter() - started)
    return latencies_s


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = after_name[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


# --- the requests ---------------------------------------------------------------------------------


def grpc_request() -> bytes:
    """A PredictRequest with three floats."""
    message = PredictRequest()
    message.model_spec.name = servers.MODEL
    encode_tensor(message.inputs["x"], np.array([1.0, 2.0, 5.0], np.float32))
    return message.SerializeToString()


def grpc_predict(address: str) -> Callable[[ExitStack], Ask]:
    """Predict on a connection of its own; bytes in, bytes out, so that the client costs little."""
    return _unary(address, PREDICT, grpc_request(), ANSWER_VALUES)


def grpc_echo(address: str) -> Callable[[ExitStack], Ask]:
    """The same bytes, sent back."""
    return _unary(address, PREDICT, grpc_request(), grpc_request())


def _unary(address: str, method: str, request: bytes, expected: bytes) -> Callable[..., Ask]:
    def connect(stack: ExitStack) -> Ask:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = stack.enter_context(grpc.insecure_channel(address, options))
        call = channel.unary_unary(method)

        def ask() -> None:
            assert expected in call(request, timeout=GRPC_TIMEOUT_S)

        return ask

    return connect


def rest_predict(port: int) -> Callable[[ExitStack], Ask]:
    """Predict over a kept-alive HTTP/1.1 connection."""

    def connect(stack: ExitStack) -> Ask:
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask() -> None:
            connection.sendall(servers.REST_REQUEST)
            _, body = servers.read_response(connection)
            assert servers.RIGHT_ANSWER in body

        return ask

    return connect


# --- a server that does nothing -------------------------------------------------------------------


@contextmanager
def running_echo() -> Iterator[tuple[int, str]]:
    """A process that echoes gRPC calls: its id and its address."""
    address = f"127.0.0.1:{servers.free_port()}"
    command = [sys.executable, __file__, "--echo-on", address]
    process = subprocess.Popen(command, env=servers.quiet_environment())
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(servers.START_TIMEOUT_S)
        yield process.pid, address
    finally:
        servers.stop(process)


async def serve_echo(address: str) -> None:
    """Answer every unary call with its own request."""

    async def echo(request: bytes, _context: Any) -> bytes:
        return request

    class Echo(grpc.GenericRpcHandler):
        def service(self, _details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(echo)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Echo()])
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


# --- h2load ---------------------------------------------------------------------------------------


def show_h2load(server: servers.Server, echo_pid: int, echo_address: str, requests: int) -> None:
    """The table of h2load's requests, if it is installed."""
    program = shutil.which("h2load")
    if program is None:
        print("h2load is not installed: no figures from a client that costs nothing.")
        return
    rest_url = f"http://127.0.0.1:{server.rest_port}/v1/models/{servers.MODEL}:predict"
    grpc_url, echo_url = (
        f"http://{address}{PREDICT}" for address in (f"127.0.0.1:{server.grpc_port}", echo_address)
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        grpc_body, rest_body = Path(folder, "grpc"), Path(folder, "rest")
        message = grpc_request()
        grpc_body.write_bytes(struct.pack(">BI", 0, len(message)) + message)
        rest_body.write_bytes(servers.REST_BODY)
        over_grpc = ("-Hcontent-type: application/grpc", "-Hte: trailers", f"-d{grpc_body}")
        over_rest = ("--h1", "-Hcontent-type: application/json", f"-d{rest_body}")
        for connections, streams in ((1, 1), (1, H2LOAD_STREAMS), (H2LOAD_STREAMS, 1)):
            for name, pid, url, options in (
                ("gRPC Predict", server.pid, grpc_url, over_grpc),
                ("gRPC echo, grpcio", echo_pid, echo_url, over_grpc),
                ("REST Predict", server.pid, rest_url, over_rest),
            ):
                if options is over_rest and streams > 1:
                    continue
                command = [program, f"-n{requests}", f"-c{connections}", f"-m{streams}"]
                cpu_s = cpu_seconds(pid)
                rate = h2load_rate([*command, *options, url], requests)
                cost = duration((cpu_seconds(pid) - cpu_s) / requests)
                rows.append((name, str(connections), str(streams), f"{rate:,.0f}", cost))
    headers = ("requests by h2load", "connections", "streams", "per second", "server CPU each")
    table(headers, sorted(rows))


def h2load_rate(command: list[str], requests: int) -> float:
    """Requests per second, all of them answered."""
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = re.search(r"([\d.]+) req/s", printed)
    succeeded = re.search(r"(\d+) succeeded", printed)
    assert rate is not None, printed
    assert succeeded is not None, printed
    assert int(succeeded[1]) == requests, printed
    return float(rate[1])


if __name__ == "__main__":
    sys.exit(main())
