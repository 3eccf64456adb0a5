"""Where a call runs: on the event loop, or on a worker thread.

A hop to a thread and back costs tens of microseconds, more than a small model needs; a slow call on
the loop makes every other request wait.  So each kind of call is measured, every time it runs, and
goes where it is cheapest.

On the loop the time on the clock counts: that is what the others wait.  On a thread most of that
time may be a wait for the interpreter, so the processor's time counts there, and the clock's only
when it is many times that.  One slow run is more often the machine's doing than the call's, so the
estimate rises with the second in a row, or with one that is very slow; it falls by steps.

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
from time import perf_counter, thread_time
from typing import Final, TypeVar

from salver.errors import ResourceExhausted

T = TypeVar("T")

INLINE_BELOW_S: Final = 200e-6
"""A call expected to take less than this runs on the event loop: about four thread hops."""

VERY_SLOW_S: Final = 10 * INLINE_BELOW_S

DECAY: Final = 0.2
"""The weight of a quicker run in the estimate."""

WAIT_FACTOR: Final = 8
"""How much of a thread's time on the clock may be waiting for the interpreter."""

MAX_KEYS: Final = 4096
"""Kinds of call remembered; the least recently used is forgotten first."""


MAX_WAITING: Final = 10_000
"""Calls of one lane that may wait for a thread."""


class _Kind:
    """What is known of one kind of call."""

    __slots__ = ("_last_s", "expected_s")

    def __init__(self) -> None:
        self.expected_s = float("inf")
        self._last_s = float("inf")

    def learn(self, took_s: float) -> None:
        """Take one run into the estimate.

        The first says little: it may have opened a file or built an executor.
        """
        last_s, self._last_s = self._last_s, took_s
        if self.expected_s == float("inf"):
            if last_s != float("inf") or took_s < INLINE_BELOW_S:
                self.expected_s = took_s
        elif took_s <= self.expected_s:
            self.expected_s += DECAY * (took_s - self.expected_s)
        elif took_s > VERY_SLOW_S:
            self.expected_s = took_s
        else:
            self.expected_s = max(self.expected_s, min(last_s, took_s))


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
        cpu_clock: Callable[[], float] = thread_time,
    ) -> None:
        self._executor = executor
        self._threads_per_lane = threads_per_lane
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._lanes: dict[str, _Lane] = {}

    def is_quick(self, key: Hashable) -> bool:
        """Whether calls of kind ``key`` belong on the event loop.

        A kind not seen before does not: nothing is known to be quick.
        """
        kind = self._kinds.get(key)
        return kind is not None and kind.expected_s < INLINE_BELOW_S

    def run_here(self, key: Hashable, call: Callable[[], T]) -> T:
        """Run a call on the event loop, at once, and learn from it; its error is the caller's."""
        started = self._clock()
        try:
            return call()
        finally:
            self.learn(key, self._clock() - started)

    async def run(self, key: Hashable, call: Callable[[], T], *, lane: str = "") -> T:
        """Run ``call`` where calls of kind ``key`` are cheapest; its error is the caller's.

        Raises:
            ResourceExhausted: too many calls of the lane wait for a thread.
        """
        if self.is_quick(key):
            return self.run_here(key, call)
        return await self.run_on_thread(key, call, lane=lane)

    async def run_on_thread(self, key: Hashable, call: Callable[[], T], *, lane: str = "") -> T:
        """Run a call that may take or wait for any time, and learn from it all the same.

        Raises:
            ResourceExhausted: too many calls of the lane wait for a thread.
        """
        took_s = VERY_SLOW_S  # what is learned of a call that never ran

        def timed() -> T:
            nonlocal took_s
            started, cpu_started = self._clock(), self._cpu_clock()
            try:
                return call()
            finally:
                cpu_s, wall_s = self._cpu_clock() - cpu_started, self._clock() - started
                took_s = max(cpu_s, wall_s / WAIT_FACTOR)

        loop = asyncio.get_running_loop()
        async with self._place(lane):
            try:
                return await loop.run_in_executor(self._executor, timed)
            finally:
                self.learn(key, took_s)

    def expected_s(self, key: Hashable) -> float:
        """The time in seconds that the next call of this kind is expected to take."""
        kind = self._kinds.get(key)
        return float("inf") if kind is None else kind.expected_s

    def learn(self, key: Hashable, took_s: float) -> None:
        """Take one run into the estimate of its kind."""
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind()
            if len(self._kinds) > MAX_KEYS:
                self._kinds.popitem(last=False)
        else:
            self._kinds.move_to_end(key)
        kind.learn(took_s)

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
