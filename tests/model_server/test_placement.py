"""Where calls run, with a clock and a pool in the test's hands."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from fakes import FakeClock
from salver.errors import NotFound
from salver.model_server.placement import (
    CLOSE_LOOKS,
    INLINE_BELOW_S,
    INTERPRETER_WAIT_S,
    MAX_KEYS,
    QUICK_RUNS_TO_FORGIVE,
    SLOW_ABOVE_S,
    Kind,
    Placement,
)
from salver.model_server.thread_time import ThreadTime, thread_time


class FakeThreadClock:
    """What the thread did, in the test's hands; with a clock given, all of its time is work."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.cpu_clock = clock or FakeClock()
        self.waits = 0

    def __call__(self) -> ThreadTime:
        return ThreadTime(self.cpu_clock.now_s, self.waits)


class Call:
    """Takes as long as it is told, by the fake clock, and notes which thread it ran on."""

    def __init__(self, clock: FakeClock, took_s: float) -> None:
        self.took_s = took_s
        self.on_loop: list[bool] = []
        self._clock = clock
        self._loop_thread = threading.get_ident()

    def __call__(self) -> str:
        self.on_loop.append(threading.get_ident() == self._loop_thread)
        self._clock.advance(self.took_s)
        return "done"


def run_all(*took_s: float, key: str = "kind") -> tuple[Placement, Call]:
    """Run one kind of call as often as there are times; all of a thread's time is its own."""
    clock = FakeClock()
    call = Call(clock, 0.0)
    with ThreadPoolExecutor(1) as pool:
        placement = Placement(pool, clock=clock, thread_clock=FakeThreadClock(clock))

        async def run() -> None:
            for call.took_s in took_s:
                assert await placement.run(placement.kind(key), call) == "done"

        asyncio.run(run())
    return placement, call


QUICK_S, BETWEEN_S, SLOW_S = INLINE_BELOW_S / 2, INLINE_BELOW_S * 1.5, SLOW_ABOVE_S * 2


def test_a_kind_not_seen_before_runs_on_a_thread():
    """Nothing is known to be quick."""
    _, call = run_all(0.0)

    assert call.on_loop == [False]


def test_a_quick_kind_comes_to_the_loop():
    """Once measured, it saves the hop."""
    _, call = run_all(QUICK_S, QUICK_S, QUICK_S)

    assert call.on_loop == [False, True, True]


def test_a_slow_kind_stays_on_threads():
    """The loop is never held for it."""
    _, call = run_all(*[SLOW_S] * 5)

    assert not any(call.on_loop)


def test_a_kind_between_quick_and_slow_stays_where_it_is():
    """It would go to and fro, and each change costs."""
    _, on_threads = run_all(*[BETWEEN_S] * 5)
    _, on_the_loop = run_all(QUICK_S, *[BETWEEN_S] * 5)

    assert not any(on_threads.on_loop)
    assert on_the_loop.on_loop == [False, *[True] * 5]


def test_a_first_run_that_is_slow_says_little():
    """It may have opened a file or built an executor: the second decides."""
    _, call = run_all(1.0, QUICK_S, QUICK_S)

    assert call.on_loop == [False, False, True]


def test_a_slow_run_is_followed_by_close_looks():
    """The first may be the machine's doing; two more that cost as much leave the loop."""
    _, call = run_all(QUICK_S, SLOW_S, QUICK_S, SLOW_S, QUICK_S, SLOW_S, SLOW_S)

    assert call.on_loop == [False, True, True, True, True, True, False]


def test_close_looks_end_after_quick_runs():
    """They cost something, so a kind that proved quick is believed again."""
    quick_again = [QUICK_S] * CLOSE_LOOKS
    _, call = run_all(QUICK_S, SLOW_S, *quick_again, SLOW_S, QUICK_S)

    assert call.on_loop == [False, *[True] * (len(quick_again) + 3)]


def run_slowly(*, waits: bool) -> list[bool]:
    """Runs that take long by the clock and little of the processor; where each of them ran."""
    clock, thread_clock = FakeClock(), FakeThreadClock()
    on_loop: list[bool] = []
    loop_thread = threading.get_ident()

    def call() -> None:
        on_loop.append(threading.get_ident() == loop_thread)
        thread_clock.cpu_clock.advance(QUICK_S)
        if on_loop[-1]:
            clock.advance(SLOW_S)
            thread_clock.waits += waits

    with ThreadPoolExecutor(1) as pool:
        placement = Placement(pool, clock=clock, thread_clock=thread_clock)

        async def run() -> None:
            for _ in range(5):
                await placement.run(placement.kind("kind"), call)

        asyncio.run(run())
    return on_loop


def test_a_machine_that_was_busy_elsewhere_is_not_held_against_a_call():
    """The thread was ready all the time: such a call is as quick as before."""
    assert run_slowly(waits=False) == [False, True, True, True, True]


def test_a_call_that_waits_holds_the_loop():
    """Little of the processor and much of the clock, by its own doing: that is slow."""
    assert run_slowly(waits=True) == [False, True, True, True, False]


def leave(kind: Kind) -> None:
    """Make a kind leave the loop."""
    kind.took_here(SLOW_S)
    while kind.is_quick:
        kind.cost_here(SLOW_S)


def test_a_kind_that_keeps_leaving_stays_away_longer_each_time():
    """Twice as many quick runs on threads before each return; many on the loop are forgiven."""
    kind = Kind()
    before_return = []
    for _ in range(5):
        runs = 0
        while not kind.is_quick:
            kind.cost_there(QUICK_S)
            runs += 1
        before_return.append(runs)
        leave(kind)
    while not kind.is_quick:
        kind.cost_there(QUICK_S)
    for _ in range(QUICK_RUNS_TO_FORGIVE):
        kind.took_here(QUICK_S)
    leave(kind)
    kind.cost_there(QUICK_S)
    kind.cost_there(QUICK_S)

    assert before_return == [1, 2, 4, 8, 16]
    assert kind.is_quick


def run_on_threads(waited_s: float) -> list[bool]:
    """Runs that wait so long on a thread and not on the loop; where each of them ran."""
    clock, thread_clock = FakeClock(), FakeThreadClock()
    on_loop: list[bool] = []
    loop_thread = threading.get_ident()

    def call() -> None:
        on_loop.append(threading.get_ident() == loop_thread)
        thread_clock.cpu_clock.advance(QUICK_S)
        clock.advance(QUICK_S)
        if not on_loop[-1]:
            clock.advance(waited_s)
            thread_clock.waits += 1

    with ThreadPoolExecutor(1) as pool:
        placement = Placement(pool, clock=clock, thread_clock=thread_clock)

        async def run() -> None:
            for _ in range(3):
                await placement.run(placement.kind("kind"), call)

        asyncio.run(run())
    return on_loop


def test_a_wait_for_the_interpreter_is_not_the_calls():
    """On a thread the processor's time counts: the interpreter is shared with the loop."""
    assert run_on_threads(INTERPRETER_WAIT_S / 2) == [False, True, True]


def test_a_thread_that_waits_for_something_else_is_slow():
    """Longer than for the interpreter: such a call would hold the loop."""
    assert run_on_threads(INTERPRETER_WAIT_S * 2) == [False, False, False]


def test_kinds_are_measured_apart():
    """What one kind takes says nothing of another."""
    placement, _ = run_all(QUICK_S, key="quick")

    assert placement.kind("quick").is_quick
    assert not placement.kind("other").is_quick


def test_an_error_is_the_callers_and_teaches_all_the_same():
    """A call that fails quickly is quick, on either side."""

    def fail() -> None:
        raise NotFound("nothing here")

    with ThreadPoolExecutor(1) as pool:
        placement = Placement(pool, clock=FakeClock(), thread_clock=FakeThreadClock())
        for _ in range(2):
            with pytest.raises(NotFound):
                asyncio.run(placement.run(placement.kind("kind"), fail))

    assert placement.kind("kind").is_quick


def test_kinds_are_forgotten_before_they_are_too_many():
    """A peer that invents names grows nothing without end."""
    with ThreadPoolExecutor(1) as pool:
        placement = Placement(pool, clock=FakeClock(), thread_clock=FakeThreadClock())

        async def run() -> None:
            for i in range(MAX_KEYS + 1):
                await placement.run(placement.kind(i), lambda: None)

        asyncio.run(run())

    assert placement.kind(MAX_KEYS).is_quick
    assert not placement.kind(0).is_quick


def test_a_lane_has_so_many_threads_and_no_more():
    """What waits for a slow model waits behind its own; another model's call goes past."""
    gate = threading.Event()
    order: list[str] = []

    def slow() -> None:
        gate.wait()
        order.append("slow")

    with ThreadPoolExecutor(2) as pool:
        placement = Placement(pool, threads_per_lane=1)

        async def run() -> None:
            waiting = [
                asyncio.ensure_future(
                    placement.run_on_thread(placement.kind("s"), slow, lane="slow")
                )
                for _ in range(3)
            ]
            await placement.run_on_thread(
                placement.kind("q"), lambda: order.append("quick"), lane="quick"
            )
            gate.set()
            await asyncio.gather(*waiting)

        asyncio.run(run())

    assert order == ["quick", "slow", "slow", "slow"]


def test_a_call_taken_back_gives_its_turn_to_the_next():
    """Cancelled while it waits, it never runs, and those behind it do."""
    gate = threading.Event()
    ran: list[int] = []

    with ThreadPoolExecutor(2) as pool:
        placement = Placement(pool, threads_per_lane=1)

        async def run() -> None:
            first = asyncio.ensure_future(
                placement.run_on_thread(placement.kind("k"), gate.wait, lane="m")
            )
            others = [
                asyncio.ensure_future(
                    placement.run_on_thread(placement.kind("k"), partial(ran.append, n), lane="m")
                )
                for n in range(3)
            ]
            await placement.run_on_thread(placement.kind("k"), lambda: None, lane="other")
            others[1].cancel()
            gate.set()
            await asyncio.gather(first, others[0], others[2])
            assert others[1].cancelled()

        asyncio.run(run())

    assert ran == [0, 2]


def test_the_thread_clock_knows_waiting_from_working():
    """Work moves its time; a wait for a lock is counted and costs next to nothing."""
    start = thread_time()
    while thread_time().cpu_s - start.cpu_s < 1e-3:
        pass
    worked = thread_time()
    threading.Event().wait(1e-3)
    waited = thread_time()

    assert worked.cpu_s - start.cpu_s >= 1e-3
    assert waited.waits > worked.waits
    assert waited.cpu_s - worked.cpu_s < 1e-3
