"""A listener on real sockets, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import uvloop

from salver.wire.accepting import bind_tcp
from salver.wire.calls import Method, Unary
from salver.wire.http1_messages import HttpRequest, HttpResponse
from salver.wire.listener import Listener

T = TypeVar("T")

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])

ECHO = "/test.Service/Echo"
PATIENCE_S = 10


def same(message: bytes, timeout_s: float | None) -> bytes:
    """Answers with what was asked."""
    return message


ECHO_METHODS: Mapping[str, Method] = {ECHO: Unary(same)}


async def echo(request: HttpRequest) -> HttpResponse:
    """Answers with what was asked."""
    return HttpResponse(200, request.target.encode() + request.body, "text/plain")


class Running:
    """The listener and its loop; what happens to it happens on the loop's thread."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.port = 0

    def do(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run ``work`` on the loop and wait for it."""
        future = asyncio.run_coroutine_threadsafe(work(), self.listener.loop)
        return future.result(2 * PATIENCE_S)

    def open(
        self, listening: socket.socket, tls: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        """Listen on one more address."""

        async def work() -> None:
            self.listener.listen(listening, tls)

        self.do(work)


@contextmanager
def running(
    new_loop: Callable[[], Any],
    *,
    tls: Callable[[], ssl.SSLContext] | None = None,
    listening: socket.socket | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """A listener that echoes on ``listening``, or on a free port of every address."""
    loop = new_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    settings = {"methods": ECHO_METHODS, "http_handler": echo, **settings}
    server = Running(Listener(loop=loop, **settings))
    try:
        listening = listening or bind_tcp(0)
        if listening.family != socket.AF_UNIX:
            server.port = listening.getsockname()[1]
        server.open(listening, tls)
        yield server
        server.do(lambda: server.listener.drain(PATIENCE_S))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()
