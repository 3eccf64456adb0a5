"""Python's clients against a real server, in the clear and over TLS.

`tests/clients` has clients of other languages, which `make clients` runs the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from clients.contract import Target
from clients.servers import serve
from saved_models import Shelf, tensorflow

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")
tensorflow()

from clients.python import (  # noqa: E402 - protobuf after TensorFlow, as users do
    grpcio_aio,
    grpcio_sync,
    rest_requests,
)

REST_REQUESTS = 300
"""On one connection: each of these waits for the one before."""


@pytest.fixture(scope="module", params=["plaintext", "TLS"])
def target(
    request: pytest.FixtureRequest, shelf: Shelf, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """A running server as a client is told of it."""
    folder = tmp_path_factory.mktemp("clients")
    with (
        serve(shelf, folder, tls=request.param == "TLS") as served,
        served.target("python") as told,
    ):
        yield told


@pytest.mark.parametrize("name", grpcio_sync.CHECKS)
def test_grpcio_gets_what_it_asks_for(target: Target, name: str):
    """C++ gRPC's transport is content with ours: answers, codes, deadlines, sizes, 10,000 calls."""
    with grpcio_sync.connect(target) as channel:
        grpcio_sync.CHECKS[name](channel, target)


@pytest.mark.parametrize("name", grpcio_aio.CHECKS)
def test_grpcios_asyncio_gets_what_it_asks_for(target: Target, name: str):
    """The same from an event loop."""

    async def check() -> None:
        async with grpcio_aio.connect(target) as channel:
            await grpcio_aio.CHECKS[name](channel, target)

    asyncio.run(check())


@pytest.mark.parametrize("name", rest_requests.CHECKS)
def test_requests_gets_what_it_asks_for(target: Target, name: str):
    """REST by HTTP/1.1, on a connection that is kept."""
    with rest_requests.connect(target) as session:
        rest_requests.CHECKS[name](session, replace(target, calls=REST_REQUESTS))


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_httpx_gets_what_it_asks_for(target: Target, protocol: str):
    """REST by h11's HTTP/1.1 and by h2's HTTP/2."""
    pytest.importorskip("httpx", reason="httpx is not installed")
    if protocol == "http2":
        pytest.importorskip("h2", reason="httpx speaks HTTP/2 with h2")
    from clients.python import rest_httpx

    few = replace(target, calls=REST_REQUESTS)
    with rest_httpx.connect(target, rest_httpx.PROTOCOLS[protocol]) as client:
        for check in rest_httpx.CHECKS.values():
            check(client, few)
