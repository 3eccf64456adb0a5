"""What the wire offers to those who answer gRPC calls: methods by path, bytes in and bytes out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

Answer = bytes | Awaitable[bytes]


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one request and one answer.

    ``handler`` takes the request and the seconds left to answer it, None without a deadline.  It
    gives the answer at once, on the event loop, or something to wait for, which is cancelled when
    the client takes the call back or its time is up.  A ``ServingError`` is its status.
    """

    handler: Callable[[bytes, float | None], Answer]


@dataclass(frozen=True, slots=True)
class Streaming:
    """A method with any number of requests and of answers.

    ``handler`` iterates over the requests and yields answers; it waits where the client is slow.
    """

    handler: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]


Method = Unary | Streaming
Methods = Mapping[str, Method]
"""Methods by their full path, ``/package.Service/Method``."""
