"""Where a call runs: on the event loop, or on a worker thread.

A hop to a thread and back costs tens of microseconds, more than a small model needs; a slow call on
the loop makes every other request wait.  So each kind of call is measured, every time it runs, and
goes where it is cheapest.

The clock alone does not tell a slow call from a machine that was busy with something else, which on
shared processors is the more frequent of the two.  So a run on the loop that took long by the clock
is only a reason to look closely at the next ones: what counts then is what the thread itself spent,
and the whole of the clock's time only where it waited for something.  On a thread most of the
clock's time may be a wait for the interpreter, so there it counts beyond what such waits explain.
A kind that comes back to the loop and has to leave it again stays away longer each time.

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
from typing import Final, Protocol, TypeVar

from salver.errors import ResourceExhausted
from salver.model_server.thread_time import ThreadClock, ThreadTime, thread_time

T = TypeVar("T")

INLINE_BELOW_S: Final = 300e-6
"""A call that costs less than this on a thread comes to the event loop: what a hop may cost."""

SLOW_ABOVE_S: Final = 600e-6
"""One that costs as much on the loop leaves it: between the two a kind stays where it is."""

CLOSE_LOOKS: Final = 16
"""Runs that are looked at closely after one that took long by the clock."""

SLOW_LOOKS: Final = 2
"""So many of them that cost too much leave the loop: a single one may be an interrupt's doing."""

INTERPRETER_WAIT_S: Final = 2e-3
"""How long a thread may wait for the interpreter for each call that is on a thread beside it."""

MAX_QUICK_RUNS_BEFORE_RETURN: Final = 1024
QUICK_RUNS_TO_FORGIVE: Final = 1000

MAX_KEYS: Final = 4096
"""Kinds of call remembered; the least recently used is forgotten first."""


MAX_WAITING: Final = 10_000
"""Calls of one lane that may wait for a thread."""


class Kind:
    """What is known of one kind of call: whether it belongs on the loop, and how sure that is."""

    __slots__ = (
        "_quick_runs",
        "_runs_before_return",
        "_slow_looks",
        "close_looks_left",
        "is_quick",
    )

    def __init__(self) -> None:
        self.is_quick = False
        """Whether it belongs on the event loop; nothing is known to be quick at first."""
        self.close_looks_left = 0
        """Runs on the loop whose cost is to be measured, not only their time on the clock."""
        self._slow_looks = 0
        self._quick_runs = 0  # where it runs now, in a row
        self._runs_before_return = 1

    def took_here(self, took_s: float) -> None:
        """Learn from a run on the loop that took so long by the clock."""
        if took_s >= SLOW_ABOVE_S:
            self.close_looks_left = CLOSE_LOOKS
            self._slow_looks = 0
            return
        self._quick_runs += 1
        if self._quick_runs == QUICK_RUNS_TO_FORGIVE:
            self._runs_before_return = 1

    def cost_here(self, cost_s: float) -> None:
        """Learn from a run on the loop that was looked at closely and cost so much."""
        self.close_looks_left -= 1
        self._slow_looks += cost_s >= SLOW_ABOVE_S
        if self._slow_looks < SLOW_LOOKS:
            return
        self.is_quick = False
        self.close_looks_left = self._quick_runs = 0
        self._runs_before_return = min(2 * self._runs_before_return, MAX_QUICK_RUNS_BEFORE_RETURN)

    def cost_there(self, cost_s: float) -> None:
        """Learn from a run on a thread that cost so much."""
        if cost_s >= INLINE_BELOW_S:
            self._quick_runs = 0
            return
        self._quick_runs += 1
        if self._quick_runs >= self._runs_before_return:
            self.is_quick = True
            self._quick_runs = 0


class ThreadLearner(Protocol):
    """Whoever wants to know what runs on threads cost."""

    def cost_there(self, cost_s: float) -> None:
        """Learn from a run on a thread that cost so much."""


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
        thread_clock: ThreadClock = thread_time,
    ) -> None:
        self._executor = executor
        self.threads_per_lane = threads_per_lane
        self._clock = clock
        self._thread_clock = thread_clock
        self._kinds: OrderedDict[Hashable, Kind] = OrderedDict()
        self._lanes: dict[str, _Lane] = {}
        self._on_threads = 0

    def kind(self, key: Hashable) -> Kind:
        """What is known of the calls with this key; the same object as long as it is remembered."""
        kind = self._kinds.get(key)
        if kind is not None:
            self._kinds.move_to_end(key)
            return kind
        kind = self._kinds[key] = Kind()
        if len(self._kinds) > MAX_KEYS:
            self._kinds.popitem(last=False)
        return kind

    def run_here(self, kind: Kind, call: Callable[[], T]) -> T:
        """Run a call on the event loop, at once, and learn from it; its error is the caller's."""
        if kind.close_looks_left:
            return self._run_closely(kind, call)
        started = self._clock()
        try:
            return call()
        finally:
            kind.took_here(self._clock() - started)

    def _run_closely(self, kind: Kind, call: Callable[[], T]) -> T:
        before, started = self._thread_clock(), self._clock()
        try:
            return call()
        finally:
            kind.cost_here(self._cost_s(before, self._clock() - started))

    def _cost_s(self, before: ThreadTime, took_s: float) -> float:
        """What a run cost: the processor's time, and its waits unless for the interpreter."""
        after = self._thread_clock()
        cpu_s = after.cpu_s - before.cpu_s
        if after.waits == before.waits:
            return cpu_s
        return cpu_s if took_s - cpu_s < INTERPRETER_WAIT_S * self._on_threads else took_s

    async def run(self, kind: Kind, call: Callable[[], T], *, lane: str = "") -> T:
        """Run ``call`` where calls of its kind are cheapest; its error is the caller's.

        Raises:
            ResourceExhausted: too many calls of the lane wait for a thread.
        """
        if kind.is_quick:
            return self.run_here(kind, call)
        return await self.run_on_thread(kind, call, lane=lane)

    async def run_on_thread(
        self, kind: ThreadLearner, call: Callable[[], T], *, lane: str = ""
    ) -> T:
        """Run a call that may take or wait for any time, and learn from it all the same.

        Raises:
            ResourceExhausted: too many calls of the lane wait for a thread.
        """
        cost_s = INLINE_BELOW_S  # what is learned of a call that never ran

        def timed() -> T:
            nonlocal cost_s
            before, started = self._thread_clock(), self._clock()
            try:
                return call()
            finally:
                cost_s = self._cost_s(before, self._clock() - started)

        loop = asyncio.get_running_loop()
        async with self._place(lane):
            self._on_threads += 1
            try:
                return await loop.run_in_executor(self._executor, timed)
            finally:
                self._on_threads -= 1
                kind.cost_there(cost_s)

    def timed(self, call: Callable[[], T]) -> tuple[T, float]:
        """Run a call on this thread; what it gives, and the seconds that it cost."""
        before, started = self._thread_clock(), self._clock()
        result = call()
        return result, self._cost_s(before, self._clock() - started)

    @asynccontextmanager
    async def _place(self, name: str) -> AsyncIterator[None]:
        """Wait for a place of the lane, first come, first served; give it back at the end."""
        lane = self._lanes.setdefault(name, _Lane())
        if lane.running < self.threads_per_lane:
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
