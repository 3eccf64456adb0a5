"""Turns: what each round of the event loop gives to those who have sent much."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fakes import FakeClock, SteppedLoop
from salver.wire.turns import ROUND_S, TURN_S, Turns


class Worker:
    """Has so many steps to do, each of which takes a while."""

    def __init__(self, clock: FakeClock, steps: int, *, step_s: float = TURN_S / 4) -> None:
        self._clock = clock
        self._step_s = step_s
        self.left = steps
        self.turns = 0

    def take_turn(self, ends_s: float) -> bool:
        self.turns += 1
        while self.left and self._clock() < ends_s:
            self.left -= 1
            self._clock.advance(self._step_s)
        return self.left > 0


class Broken:
    """Has a fault."""

    def take_turn(self, ends_s: float) -> bool:
        raise RuntimeError("a bug")


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    loop.set_exception_handler(lambda _loop, _context: None)
    yield loop
    loop.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_first_of_a_round_may_go_on_at_once(loop: SteppedLoop, clock: FakeClock):
    """Where nobody waits, the whole of the round is there for who asks."""
    assert Turns(loop, clock).ends_s() == ROUND_S


def test_all_who_go_on_at_once_share_one_round(loop: SteppedLoop, clock: FakeClock):
    """The second does not get a round of its own, until the event loop has come round."""
    turns = Turns(loop, clock)
    first = turns.ends_s()
    clock.advance(ROUND_S)
    second = turns.ends_s()
    loop.step()
    third = turns.ends_s()

    assert (first, second, third) == (ROUND_S, ROUND_S, 2 * ROUND_S)


def test_nobody_overtakes_those_who_wait(loop: SteppedLoop, clock: FakeClock):
    """Who comes while others wait gets no time unasked."""
    turns = Turns(loop, clock)
    turns.wait(Worker(clock, 1))

    assert turns.ends_s() <= clock()


def test_waiting_take_turns(loop: SteppedLoop, clock: FakeClock):
    """Each is acted on for a turn, then the next, and all are done in the end."""
    turns = Turns(loop, clock)
    workers = [Worker(clock, 40) for _ in range(3)]
    for each in workers:
        turns.wait(each)

    loop.step(rounds=2)
    after_a_while = [each.left for each in workers]
    loop.step(rounds=100)

    assert max(after_a_while) < 40
    assert max(after_a_while) - min(after_a_while) <= 4
    assert [each.left for each in workers] == [0, 0, 0]


def test_round_is_over_however_many_wait(loop: SteppedLoop, clock: FakeClock):
    """A crowd gets no more of a round than one would."""
    turns = Turns(loop, clock)
    for _ in range(1000):
        turns.wait(Worker(clock, 1000))

    loop.step(rounds=1)

    assert clock() <= 1.5 * ROUND_S


def test_fault_of_one_leaves_the_others_their_turns(loop: SteppedLoop, clock: FakeClock):
    """Whoever waits behind a connection with a bug is acted on all the same."""
    turns = Turns(loop, clock)
    worker = Worker(clock, 10)
    turns.wait(Broken())
    turns.wait(worker)

    loop.step()

    assert worker.left == 0
