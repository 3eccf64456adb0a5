"""Where a call runs: on the event loop, or on a worker thread.

A hop to a thread and back costs tens of microseconds, more than a small model needs; a slow call on
the loop makes every other request wait.  So each kind of call is measured, every time it runs, and
goes where it is cheapest.  The estimate rises at once and falls slowly: one slow run is enough to
leave the loop, and it takes many quick ones to come back.

On the threads each lane, which is a model, has so many places and no more: a slow model fills its
own and leaves the others theirs.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, TypeVar

from salver.errors import ResourceExhausted

T = TypeVar("T")

INLINE_BELOW_S: Final = 200e-6
"""A call expected to take less than this runs on the event loop: about four thread hops."""

DECAY: Final = 0.05
"""The weight of a quicker run in the estimate."""

MAX_KEYS: Final = 4096
"""Kinds of call remembered; the least recently used is forgotten first."""


MAX_WAITING: Final = 10_000
"""Calls of one lane that may wait for a thread."""


@dataclass
class _Lane:
    running: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Placement:
    """Runs calls on the loop or in ``executor``; used from the event loop's thread only.

    No lane runs on more than ``threads_per_lane`` threads at once.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        threads_per_lane: int = 1,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._executor = executor
        self._threads_per_lane = threads_per_lane
        self._clock = clock
        self._expected_s: OrderedDict[Hashable, float] = OrderedDict()
        self._lanes: dict[str, _Lane] = {}

    async def run(self, key: Hashable, call: Callable[[], T], *, lane: str = "") -> T:
        """Run ``call`` where calls of kind ``key`` are cheapest; its error is the caller's.

        A kind not seen before runs on a worker thread: nothing is known to be quick.

        Raises:
            ResourceExhausted: too many calls of the lane wait for a thread.
        """
        if self.expected_s(key) >= INLINE_BELOW_S:
            return await self.run_on_thread(key, call, lane=lane)
        started = self._clock()
        try:
            return call()
        finally:
            self._learn(key, self._clock() - started)

    async def run_on_thread(self, key: Hashable, call: Callable[[], T], *, lane: str = "") -> T:
        """Run a call that may take or wait for any time, and learn from it all the same.

        Raises:
            ResourceExhausted: too many calls of the lane wait for a thread.
        """
        took_s = INLINE_BELOW_S

        def timed() -> T:
            nonlocal took_s
            started = self._clock()
            try:
                return call()
            finally:
                took_s = self._clock() - started

        loop = asyncio.get_running_loop()
        async with self._place(lane):
            try:
                return await loop.run_in_executor(self._executor, timed)
            finally:
                self._learn(key, took_s)

    def expected_s(self, key: Hashable) -> float:
        """The time in seconds that the next call of this kind is expected to take."""
        return self._expected_s.get(key, float("inf"))

    @asynccontextmanager
    async def _place(self, name: str) -> AsyncIterator[None]:
        """Wait for a place of the lane, first come, first served; give it back at the end."""
        lane = self._lanes.setdefault(name, _Lane())
        if lane.running < self._threads_per_lane:
            lane.running += 1
        elif len(lane.waiting) < MAX_WAITING:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            lane.waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._hand_on(name, lane)
                raise
        else:
            raise ResourceExhausted(
                f"{MAX_WAITING} requests wait for {name!r} already; send fewer at a time"
            )
        try:
            yield
        finally:
            self._hand_on(name, lane)

    def _hand_on(self, name: str, lane: _Lane) -> None:
        """Give a place to whoever waits longest, or free it."""
        while lane.waiting:
            turn = lane.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        lane.running -= 1
        if not lane.running:
            self._lanes.pop(name, None)

    def _learn(self, key: Hashable, took_s: float) -> None:
        expected_s = self._expected_s.get(key, took_s)
        if took_s < expected_s:
            took_s = expected_s + DECAY * (took_s - expected_s)
        self._expected_s[key] = took_s
        self._expected_s.move_to_end(key)
        if len(self._expected_s) > MAX_KEYS:
            self._expected_s.popitem(last=False)
