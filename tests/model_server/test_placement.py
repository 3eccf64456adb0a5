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
    FELT_S,
    INLINE_BELOW_S,
    INTERPRETER_WAIT_S,
    MAX_KEYS,
    QUICK_RUNS_TO_FORGIVE,
    Kind,
    Placement,
)


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
        placement = Placement(pool, clock=clock, cpu_clock=clock)

        async def run() -> None:
            for call.took_s in took_s:
                assert await placement.run(placement.kind(key), call) == "done"

        asyncio.run(run())
    return placement, call


QUICK_S, SLOW_S = INLINE_BELOW_S / 2, INLINE_BELOW_S * 2


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


def test_a_first_run_that_is_slow_says_little():
    """It may have opened a file or built an executor: the second decides."""
    _, call = run_all(1.0, QUICK_S, QUICK_S)

    assert call.on_loop == [False, False, True]


def test_one_slow_run_is_forgiven_and_two_in_a_row_leave_the_loop():
    """A single one is more often the machine's doing than the call's."""
    _, call = run_all(QUICK_S, SLOW_S, QUICK_S, SLOW_S, SLOW_S, SLOW_S)

    assert call.on_loop == [False, True, True, True, True, False]


def test_one_run_that_is_felt_leaves_the_loop_and_quick_ones_come_back():
    """What holds the loop that long must not do it twice."""
    _, call = run_all(QUICK_S, QUICK_S, FELT_S * 2, *[0.0] * 4)

    assert call.on_loop == [False, True, True, False, False, True, True]


def test_a_kind_that_keeps_leaving_stays_away_longer_each_time():
    """Twice as many quick runs on threads before each return; many on the loop are forgiven."""
    kind = Kind()
    before_return = []
    for _ in range(5):
        runs = 0
        while not kind.is_quick:
            kind.ran_there(QUICK_S)
            runs += 1
        before_return.append(runs)
        kind.ran_here(SLOW_S)
        kind.ran_here(SLOW_S)
    while not kind.is_quick:
        kind.ran_there(QUICK_S)
    for _ in range(QUICK_RUNS_TO_FORGIVE):
        kind.ran_here(QUICK_S)
    kind.ran_here(FELT_S * 2)
    kind.ran_there(QUICK_S)
    kind.ran_there(QUICK_S)

    assert before_return == [1, 2, 4, 8, 16]
    assert kind.is_quick


def test_on_a_thread_the_processors_time_counts():
    """A wait for the interpreter is not the call's; on the loop, the clock's time is."""
    clock, cpu_clock = FakeClock(), FakeClock()
    on_loop: list[bool] = []
    loop_thread = threading.get_ident()

    def call() -> None:
        on_loop.append(threading.get_ident() == loop_thread)
        cpu_clock.advance(QUICK_S)
        clock.advance(QUICK_S if on_loop[-1] else INTERPRETER_WAIT_S / 2)

    with ThreadPoolExecutor(1) as pool:
        placement = Placement(pool, clock=clock, cpu_clock=cpu_clock)

        async def run() -> None:
            for _ in range(3):
                await placement.run(placement.kind("kind"), call)

        asyncio.run(run())

    assert on_loop == [False, True, True]


def test_a_thread_that_waits_for_something_else_is_slow():
    """Little of the processor and much of the clock: such a call would hold the loop."""
    clock = FakeClock()
    call = Call(clock, INTERPRETER_WAIT_S * 2)
    with ThreadPoolExecutor(1) as pool:
        placement = Placement(pool, clock=clock, cpu_clock=FakeClock())

        async def run() -> None:
            for _ in range(4):
                await placement.run(placement.kind("kind"), call)

        asyncio.run(run())

    assert not any(call.on_loop)


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
        placement = Placement(pool, clock=FakeClock(), cpu_clock=FakeClock())
        for _ in range(2):
            with pytest.raises(NotFound):
                asyncio.run(placement.run(placement.kind("kind"), fail))

    assert placement.kind("kind").is_quick


def test_kinds_are_forgotten_before_they_are_too_many():
    """A peer that invents names grows nothing without end."""
    with ThreadPoolExecutor(1) as pool:
        placement = Placement(pool, clock=FakeClock(), cpu_clock=FakeClock())

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
