"""Requests for a model that sleeps: they wait until it is awake, and begin anew.

The wait is on the event loop, so it takes no thread from models that are awake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import Final, TypeVar

from salver.core.servable_id import ServableId
from salver.core.serving_map import Asleep
from salver.errors import DeadlineExceeded, Unavailable
from salver.wire.calls import Answer, Later, Methods, Unary, arrived

T = TypeVar("T")

Handler = Callable[[bytes, "float | None"], Answer]

TIMES_WOKEN: Final = 3
"""So often one request wakes its model; others may put it to sleep again before its turn."""


class OnDemand:
    """Wakes models; used from the event loop's thread only."""

    def __init__(
        self, demand: Callable[[ServableId], Future[None]], *, patience_s: float = 60.0
    ) -> None:
        """``patience_s`` is for requests without a deadline of their own."""
        self._demand = demand
        self._patience_s = patience_s

    def methods(self, methods: Methods) -> Methods:
        """The same methods, waking what sleeps."""
        return {
            path: Unary(partial(self._unary, method.handler))
            if isinstance(method, Unary)
            else method
            for path, method in methods.items()
        }

    async def waking(self, attempt: Callable[[], Awaitable[T]], timeout_s: float | None) -> T:
        """What ``attempt`` gives once no model it needs sleeps any more.

        Raises:
            DeadlineExceeded: that was not so within ``timeout_s``.
            Unavailable: it was, and each time the model was put to sleep again at once.
            ServingError: the model could not be loaded; or the attempt's own.
        """
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + (self._patience_s if timeout_s is None else timeout_s)
        for times_woken in range(TIMES_WOKEN + 1):
            try:
                return await attempt()
            except Asleep as asleep:
                servable_id = asleep.servable_id
            if times_woken < TIMES_WOKEN:
                await self._woken(servable_id, ends_s - loop.time())
        raise Unavailable(
            f"Servable {servable_id} was loaded {TIMES_WOKEN} times for this request and put to "
            "sleep for others each time; the memory budget is too small for what is asked for"
        )

    def _unary(self, handler: Handler, message: bytes, timeout_s: float | None) -> Answer:
        try:
            answer = handler(message, timeout_s)
        except Asleep:
            # Begun anew below: what it found is a matter of moments.
            return self.waking(partial(_called, handler, message, timeout_s), timeout_s)
        if isinstance(answer, (bytes, Later)):
            return answer  # what is to be handed over later has its model in its hands
        return self.waking(_first(answer, partial(_called, handler, message, timeout_s)), timeout_s)

    async def _woken(self, servable_id: ServableId, patience_s: float) -> None:
        coming = asyncio.wrap_future(self._demand(servable_id))
        try:
            await asyncio.wait_for(asyncio.shield(coming), max(patience_s, 0.0))
        except asyncio.TimeoutError:  # another class than TimeoutError before Python 3.11
            raise DeadlineExceeded(
                f"Servable {servable_id} was out of memory and could not be loaded in time"
            ) from None


async def _called(handler: Handler, message: bytes, timeout_s: float | None) -> bytes:
    return await arrived(handler(message, timeout_s))


def _first(
    begun: Awaitable[bytes], again: Callable[[], Awaitable[bytes]]
) -> Callable[[], Awaitable[bytes]]:
    """The attempt that has begun, and then new ones."""
    attempts = iter((begun,))
    return lambda: next(attempts, None) or again()
