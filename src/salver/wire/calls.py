"""What the wire offers to those who answer gRPC calls: methods by path, bytes in and bytes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Taker(Protocol[T_contra]):
    """Whoever waits for an answer; told on the event loop, once."""

    def succeed(self, answer: T_contra) -> None:
        """Take the answer."""

    def fail(self, error: BaseException) -> None:
        """Take what went wrong; a ``ServingError`` is the call's status."""


class Later(Generic[T]):
    """An answer that is handed over when it is there: a future without a future's price.

    Its handler returns it at once and keeps it.  The wire sets ``taker``, and takes it back when
    nobody waits any more; a taker is told only after the handler has returned.
    """

    __slots__ = ("taker",)

    def __init__(self) -> None:
        self.taker: Taker[T] | None = None


Answer = bytes | Awaitable[bytes] | Later[bytes]


async def arrived(answer: Answer) -> bytes:
    """An answer, however it comes."""
    if isinstance(answer, bytes):
        return answer
    if isinstance(answer, Later):
        return await _awaited(answer)
    return await answer


async def _awaited(later: Later[bytes]) -> bytes:
    coming: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    later.taker = _FutureTaker(coming)
    try:
        return await coming
    finally:
        later.taker = None


class _FutureTaker:
    """Takes an answer for a future."""

    def __init__(self, future: asyncio.Future[bytes]) -> None:
        self._future = future

    def succeed(self, answer: bytes) -> None:
        if not self._future.done():
            self._future.set_result(answer)

    def fail(self, error: BaseException) -> None:
        if not self._future.done():
            self._future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one request and one answer.

    ``handler`` takes the request and the seconds left to answer it, None without a deadline.  It
    gives the answer at once, on the event loop, or hands it over later, or gives something to wait
    for, which is cancelled when the client takes the call back or its time is up.  A
    ``ServingError`` is its status.
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
