"""h2load, nghttp2's load generator: gRPC and REST as bare HTTP/2, REST as HTTP/1.1."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from clients.commands.bodies import GRPC_HEADERS, Bodies, grpc_url
from clients.contract import PREDICT, Checks, Target, output_of, own_target, run_checks

LARGE_REQUESTS = 8


def load(url: str, requests: int, body: Path, *options: str) -> None:
    """Every request has to be answered with 200 and a body at least as long as its own.

    The status of a gRPC call h2load does not read; but a call that fails has no body at all.
    """
    said = output_of("h2load", f"--requests={requests}", f"--data={body}", *options, url)
    done = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)

    assert done, said
    assert done.groups() == (str(requests), "0", "0", "0"), said
    assert f"status codes: {requests} 2xx" in said, said
    received = re.search(r"\((\d+)\) data", said)
    assert received, said
    assert int(received[1]) >= requests * body.stat().st_size, said


def grpc(url: str, requests: int, body: Path, *options: str) -> None:
    load(url, requests, body, *(f"--header={header}" for header in GRPC_HEADERS), *options)


def calls(bodies: Bodies, target: Target) -> None:
    """One connection, a hundred streams at once."""
    options = ("--clients=1", "--max-concurrent-streams=100")
    grpc(grpc_url(target), target.calls, bodies.call, *options)


def connections(bodies: Bodies, target: Target) -> None:
    """A hundred connections, one stream each."""
    options = ("--clients=100", "--max-concurrent-streams=1")
    grpc(grpc_url(target), target.calls, bodies.call, *options)


def large(bodies: Bodies, target: Target) -> None:
    """Answers of 20 MB through windows of 64 KiB and of 16 MiB, two connections sharing."""
    for bits in (16, 24):
        windows = (f"--window-bits={bits}", f"--connection-window-bits={bits}")
        options = ("--clients=2", "--max-concurrent-streams=2", *windows)
        grpc(grpc_url(target), LARGE_REQUESTS, bodies.large_call, *options)


def small_table(bodies: Bodies, target: Target) -> None:
    """Without room for headers that repeat."""
    options = ("--clients=1", "--header-table-size=0", "--encoder-header-table-size=0")
    grpc(grpc_url(target), 1000, bodies.call, *options)


def rest(bodies: Bodies, target: Target) -> None:
    options = ("--clients=10", "--max-concurrent-streams=10")
    load(target.rest + PREDICT, target.calls, bodies.question, *options)


def rest_http1(bodies: Bodies, target: Target) -> None:
    load(target.rest + PREDICT, target.calls, bodies.question, "--clients=10", "--h1")


CHECKS: Checks = {
    "calls": calls,
    "100 connections": connections,
    "20 MB": large,
    "no header table": small_table,
    "REST": rest,
    "REST by HTTP/1.1": rest_http1,
}


def main() -> None:
    version = output_of("h2load", "--version").split("/")[-1].strip()
    with tempfile.TemporaryDirectory() as folder:
        run_checks(f"nghttp2 {version}", CHECKS, Bodies(Path(folder)), own_target())


if __name__ == "__main__":
    main()
