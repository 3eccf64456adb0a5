"""nghttp, nghttp2's own client: what of HTTP/2 other clients rarely use."""

from __future__ import annotations

import tempfile
from pathlib import Path

from clients.commands.bodies import GRPC_HEADERS, Bodies, grpc_url
from clients.contract import PREDICT, Checks, Target, output_of, own_target, run_checks


def grpc(target: Target, body: Path, *options: str, status: int = 0, times: int = 1) -> None:
    """Make a call with the frames shown; its status stands in the trailers."""
    headers = [f"--header={header}" for header in GRPC_HEADERS]
    words = ("nghttp", "--verbose", "--null-out", "--no-verify-peer", f"--data={body}")
    said = output_of(*words, *headers, *options, grpc_url(target))

    assert said.count(f"grpc-status: {status}") == times, said[-4000:]


def call(bodies: Bodies, target: Target) -> None:
    grpc(target, bodies.call)
    grpc(target, bodies.unknown_call, status=5)


def padding(bodies: Bodies, target: Target) -> None:
    grpc(target, bodies.call, "--padding=200")


def continuation(bodies: Bodies, target: Target) -> None:
    """Headers so large that they take several frames."""
    grpc(target, bodies.call, "--continuation", f"--header=x-long: {'ab' * 4000}")


def trailers(bodies: Bodies, target: Target) -> None:
    """A request that ends with trailers, which gRPC's never do."""
    grpc(target, bodies.call, "--trailer=x-checksum: 1")


def multiply(bodies: Bodies, target: Target) -> None:
    """Fifty requests on one connection, of which the server is asked for one at a time."""
    grpc(target, bodies.call, "--multiply=50", "--max-concurrent-streams=1", times=50)


def large(bodies: Bodies, target: Target) -> None:
    """20 MB through the smallest windows that nghttp offers."""
    grpc(target, bodies.large_call, "--window-bits=15", "--connection-window-bits=16")


def small_table(bodies: Bodies, target: Target) -> None:
    """A header table that shrinks and grows again."""
    sizes = ("--header-table-size=0", "--header-table-size=8192", "--encoder-header-table-size=0")
    grpc(target, bodies.call, *sizes)


def rest(bodies: Bodies, target: Target) -> None:
    words = ("nghttp", "--no-verify-peer", "--header=x-id: 1", f"--data={bodies.question}")

    assert "2.5" in output_of(*words, target.rest + PREDICT)


CHECKS: Checks = {
    "predict and error": call,
    "padding": padding,
    "CONTINUATION": continuation,
    "trailers": trailers,
    "50 calls": multiply,
    "20 MB": large,
    "header tables": small_table,
    "REST": rest,
}


def main() -> None:
    version = output_of("nghttp", "--version").split("/")[-1].strip()
    with tempfile.TemporaryDirectory() as folder:
        run_checks(f"nghttp2 {version}", CHECKS, Bodies(Path(folder)), own_target())


if __name__ == "__main__":
    main()
