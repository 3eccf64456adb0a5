"""Salver's wire with nothing behind it: a gRPC method that answers the same bytes at once.

echo_salver.py PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import uvloop

from salver.wire.accepting import bind_tcp
from salver.wire.calls import Unary
from salver.wire.http1_messages import HttpRequest, HttpResponse, error_page
from salver.wire.listener import Listener

METHOD: Final = "/salver.bench.Echo/Call"
ANSWER: Final = b"\x0a\x26" + b"a" * 38
"""What all echo servers answer: a message whose one field holds 38 bytes."""


async def serve(port: int) -> None:
    """Answer calls until the process is ended."""
    loop = asyncio.get_running_loop()
    listener = Listener({METHOD: Unary(lambda _request, _timeout_s: ANSWER)}, nothing, loop=loop)
    listener.listen(bind_tcp(port, "127.0.0.1"))
    await loop.create_future()


async def nothing(_request: HttpRequest) -> HttpResponse:
    """What plain HTTP gets."""
    return error_page(404)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
