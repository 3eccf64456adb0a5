"""Turns: what a round of the event loop gives to those who sent much, and when answers leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fakes import FakeClock, SteppedLoop
from salver.wire.turns import ROUND_S, SENT_TOGETHER, TURN_S, Turns


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


class Answer:
    """Has something to send; notes that it did."""

    def __init__(self, sent: list[Answer], on_send: Callable[[], None] = lambda: None) -> None:
        self._sent = sent
        self._on_send = on_send
        self.is_aborted = False

    def send(self) -> None:
        self._sent.append(self)
        self._on_send()

    def abort(self) -> None:
        self.is_aborted = True


def fail() -> None:
    """Has a fault."""
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


def test_who_has_to_send_takes_nobody_s_time(loop: SteppedLoop, clock: FakeClock):
    """The first that asks has the whole round, although there is an answer to send at its end."""
    turns = Turns(loop, clock)
    turns.ends_s()
    loop.step()
    clock.advance(1.0)

    turns.send_soon(Answer([]))

    assert turns.ends_s() == 1.0 + ROUND_S


def test_answers_leave_in_order_when_the_round_ends(loop: SteppedLoop, clock: FakeClock):
    """Nothing is sent while others may still be heard, and nothing twice."""
    turns = Turns(loop, clock)
    sent: list[Answer] = []
    answers = [Answer(sent) for _ in range(3)]
    for each in answers:
        turns.send_soon(each)
    before = list(sent)

    loop.step()

    assert before == []
    assert sent == answers


def test_answers_leave_before_those_who_wait_have_their_turns(loop: SteppedLoop, clock: FakeClock):
    """Who sent little waits for nobody's long speech."""
    turns = Turns(loop, clock)
    sent_at: list[float] = []
    turns.wait(Worker(clock, 1000))
    turns.send_soon(Answer([], lambda: sent_at.append(clock())))

    loop.step(rounds=1)

    assert sent_at == [0.0]


def test_no_more_than_so_many_answers_wait(loop: SteppedLoop, clock: FakeClock):
    """As many leave before the round has ended; the others when it does."""
    turns = Turns(loop, clock)
    sent: list[Answer] = []
    answers = [Answer(sent) for _ in range(2 * SENT_TOGETHER + 1)]
    counts = []

    for each in answers:
        turns.send_soon(each)
        counts.append(len(sent))
    loop.step(rounds=1)

    assert counts[SENT_TOGETHER - 2 : SENT_TOGETHER] == [0, SENT_TOGETHER]
    assert counts[-1] == 2 * SENT_TOGETHER
    assert sent == answers


def test_no_answer_waits_longer_than_a_round(loop: SteppedLoop, clock: FakeClock):
    """Where each call takes long, the first answer does not wait for thirty more of them."""
    turns = Turns(loop, clock)
    sent: list[Answer] = []
    answers = [Answer(sent) for _ in range(4)]
    counts = []

    for each in answers:
        turns.send_soon(each)
        counts.append(len(sent))
        clock.advance(ROUND_S * 0.6)

    assert counts == [0, 0, 3, 3]


def test_what_is_to_be_sent_while_others_are_sent_is_not_forgotten(
    loop: SteppedLoop, clock: FakeClock
):
    """It leaves with the next round."""
    turns = Turns(loop, clock)
    sent: list[Answer] = []
    later = Answer(sent)
    turns.send_soon(Answer(sent, lambda: turns.send_soon(later)))

    loop.step(rounds=1)
    at_first = len(sent)
    loop.step(rounds=1)

    assert at_first == 1
    assert sent[1:] == [later]


@pytest.mark.parametrize("others", [1, SENT_TOGETHER - 1])
def test_fault_of_one_leaves_the_others_their_answers(
    loop: SteppedLoop, clock: FakeClock, others: int
):
    """It is told and dropped; who is just being heard, and who waits behind it, does not notice."""
    turns = Turns(loop, clock)
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: told.append(context))
    sent: list[Answer] = []
    broken, answers = Answer(sent, fail), [Answer(sent) for _ in range(others)]
    worker = Worker(clock, 1)
    turns.wait(worker)

    for each in (broken, *answers):
        turns.send_soon(each)
    loop.step()

    assert sent == [broken, *answers]
    assert [each.is_aborted for each in sent] == [True] + [False] * others
    assert [str(each["exception"]) for each in told] == ["a bug"]
    assert worker.left == 0
