"""Where a call runs: on the event loop, or on a worker thread.

A hop to a thread and back costs tens of microseconds, more than a small model needs; a slow call on
the loop makes every other request wait.  So each kind of call is measured, every time it runs, and
goes where it is cheapest.  The estimate rises at once and falls slowly: one slow run is enough to
leave the loop, and it takes many quick ones to come back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from time import perf_counter
from typing import Final, TypeVar

T = TypeVar("T")

INLINE_BELOW_S: Final = 200e-6
"""A call expected to take less than this runs on the event loop: about four thread hops."""

DECAY: Final = 0.05
"""The weight of a quicker run in the estimate."""

MAX_KEYS: Final = 4096
"""Kinds of call remembered; the least recently used is forgotten first."""


class Placement:
    """Runs calls on the loop or in ``executor``; used from the event loop's thread only."""

    def __init__(self, executor: Executor, *, clock: Callable[[], float] = perf_counter) -> None:
        self._executor = executor
        self._clock = clock
        self._expected_s: OrderedDict[Hashable, float] = OrderedDict()

    async def run(self, key: Hashable, call: Callable[[], T]) -> T:
        """Run ``call`` where calls of kind ``key`` are cheapest; its error is the caller's.

        A kind not seen before runs on a worker thread: nothing is known to be quick.
        """
        if self.expected_s(key) >= INLINE_BELOW_S:
            return await self.run_on_thread(key, call)
        started = self._clock()
        try:
            return call()
        finally:
            self._learn(key, self._clock() - started)

    async def run_on_thread(self, key: Hashable, call: Callable[[], T]) -> T:
        """Run a call that may take or wait for any time, and learn from it all the same."""
        took_s = INLINE_BELOW_S

        def timed() -> T:
            nonlocal took_s
            started = self._clock()
            try:
                return call()
            finally:
                took_s = self._clock() - started

        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, timed)
        finally:
            self._learn(key, took_s)

    def expected_s(self, key: Hashable) -> float:
        """The time in seconds that the next call of this kind is expected to take."""
        return self._expected_s.get(key, float("inf"))

    def _learn(self, key: Hashable, took_s: float) -> None:
        expected_s = self._expected_s.get(key, took_s)
        if took_s < expected_s:
            took_s = expected_s + DECAY * (took_s - expected_s)
        self._expected_s[key] = took_s
        self._expected_s.move_to_end(key)
        if len(self._expected_s) > MAX_KEYS:
            self._expected_s.popitem(last=False)
