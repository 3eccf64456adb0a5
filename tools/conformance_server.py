"""The server that `make conformance` puts to the test: any path answers, one gRPC method echoes.

Its address speaks HTTP/2 only.  A real one tells the protocols apart by the first bytes, and would
answer a broken HTTP/2 preface as the HTTP/1.1 that it may be.

It prints its port, and runs until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys

from salver.wire.calls import Unary
from salver.wire.http1_messages import HttpRequest, HttpResponse
from salver.wire.http2 import Http2Limits
from salver.wire.http2_frames import MIN_MAX_FRAME_BYTES
from salver.wire.http2_protocol import Http2Protocol
from salver.wire.listener import Listener

ECHO = "/salver.Conformance/Echo"
PAGE = b"0123456789abcdef" * 24

LIMITS = Http2Limits(frame_bytes=MIN_MAX_FRAME_BYTES)
"""h2spec exceeds the frame size that HTTP/2 starts with, whatever the server allows."""


async def answer(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 -- the wire's signature
    """The same page for every path, long enough to be cut by a small window."""
    return HttpResponse(200, PAGE, content_type="text/plain")


def echo(message: bytes, timeout_s: float | None) -> bytes:  # noqa: ARG001 -- the wire's signature
    """A call's answer is its request."""
    return message


async def serve() -> None:
    """Listen on a free port of the loopback until standard input ends."""
    loop = asyncio.get_running_loop()
    listener = Listener({ECHO: Unary(echo)}, answer, loop=loop, http2_limits=LIMITS)
    server = await loop.create_server(lambda: Http2Protocol(listener), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 -- how the caller learns it
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    await listener.close()


if __name__ == "__main__":
    asyncio.run(serve())
