"""The scheduler decides as TensorFlow Serving's: from queues and now, with no clock of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.batching.parameters import BatchingParameters
from salver.batching.scheduler import (
    LONGEST_WAIT_S,
    RunBatch,
    Scheduler,
    TaskQueue,
    WaitUntil,
    deadline_s,
    last_deadline_s,
)
from salver.errors import InvalidArgument, ResourceExhausted, Unavailable

FULL = "The batch scheduling queue to which this task was submitted is full; "


def parameters(**fields: object) -> BatchingParameters:
    """Batches of up to 4 rows that wait for a second, as far as not told otherwise."""
    given_fields = {"max_batch_size": 4, "batch_timeout_micros": 1_000_000, **fields}
    given_fields.setdefault("max_execution_batch_size", given_fields["max_batch_size"])
    return BatchingParameters(**given_fields)  # type: ignore[arg-type] # a test's own


def pieces(decision: object) -> list[tuple[str, int, int]]:
    """What a decision runs: of which call, which rows."""
    assert isinstance(decision, RunBatch)
    return [(task.item, task.start, task.end) for task in decision.tasks]


def test_open_batch_waits_for_its_timeout_from_its_first_task():
    """Later tasks do not make it wait longer."""
    scheduler, queue = Scheduler[str](), TaskQueue[str](parameters())
    scheduler.add(queue, "a", 1, 10.0)
    scheduler.add(queue, "b", 2, 10.9)

    assert scheduler.decide(10.9) == WaitUntil(11.0)
    assert pieces(scheduler.decide(11.0)) == [("a", 0, 1), ("b", 0, 2)]
    assert scheduler.decide(99.0) == WaitUntil(None)


def test_full_batch_runs_at_once():
    """However long it could have waited."""
    scheduler, queue = Scheduler[str](), TaskQueue[str](parameters())
    scheduler.add(queue, "a", 3, 0.0)
    scheduler.add(queue, "b", 1, 0.0)

    assert pieces(scheduler.decide(0.0)) == [("a", 0, 3), ("b", 0, 1)]


def test_without_a_timeout_nobody_waits():
    """Batches form only while all threads are busy."""
    scheduler, queue = Scheduler[str](), TaskQueue[str](parameters(batch_timeout_micros=0))
    scheduler.add(queue, "a", 1, 5.0)

    assert pieces(scheduler.decide(5.0)) == [("a", 0, 1)]


def test_task_that_does_not_fit_closes_the_open_batch():
    """It never spans two batches, and the closed one need not wait any more."""
    scheduler, queue = Scheduler[str](), TaskQueue[str](parameters())
    scheduler.add(queue, "a", 3, 0.0)
    scheduler.add(queue, "b", 2, 0.5)

    assert pieces(scheduler.decide(0.5)) == [("a", 0, 3)]
    assert scheduler.decide(0.5) == WaitUntil(1.5)


def test_queues_take_turns():
    """One batch each, round and round."""
    scheduler = Scheduler[str]()
    one, other = TaskQueue[str](parameters()), TaskQueue[str](parameters())
    for number in range(3):
        scheduler.add(one, f"one-{number}", 4, 0.0)
        scheduler.add(other, f"other-{number}", 4, 0.0)

    ran = [pieces(scheduler.decide(0.0))[0][0] for _ in range(6)]

    assert ran == ["one-0", "other-0", "one-1", "other-1", "one-2", "other-2"]


def test_queue_that_waits_does_not_hold_up_another():
    """And the earliest of the waits counts."""
    scheduler = Scheduler[str]()
    slow, quick = (
        TaskQueue[str](parameters(batch_timeout_micros=9_000_000)),
        TaskQueue[str](parameters()),
    )
    scheduler.add(slow, "slow", 1, 0.0)
    scheduler.add(quick, "quick", 1, 0.0)

    assert scheduler.decide(0.0) == WaitUntil(1.0)
    assert pieces(scheduler.decide(1.0)) == [("quick", 0, 1)]
    assert scheduler.decide(1.0) == WaitUntil(9.0)


def test_task_larger_than_the_limit_is_refused():
    """In TensorFlow Serving's words."""
    queue = TaskQueue[str](parameters())

    with pytest.raises(InvalidArgument) as error:
        queue.add("a", 5, 0.0)

    assert error.value.message == "Task size 5 is larger than maximum input batch size 4"


def test_full_queue_refuses_what_needs_another_batch():
    """What fits the open batch is still taken."""
    queue = TaskQueue[str](parameters(max_enqueued_batches=2))
    queue.add("a", 4, 0.0)
    queue.add("b", 3, 0.0)

    with pytest.raises(Unavailable) as error:
        queue.add("c", 2, 0.0)
    queue.add("d", 1, 0.0)

    assert error.value.message == (
        FULL + "currently 2 batches enqueued and max_enqueued_batches is 2"
    )
    assert queue.batch_sizes == [4, 4]


def splitting(**fields: object) -> TaskQueue[str]:
    """A queue of batches of 4 rows for calls of up to 12."""
    return TaskQueue(
        parameters(
            max_batch_size=12,
            max_execution_batch_size=4,
            enable_large_batch_splitting=True,
            **fields,
        )
    )


def test_large_call_is_split():
    """Its first piece fills the open batch, and the others are whole batches."""
    scheduler, queue = Scheduler[str](), splitting()
    scheduler.add(queue, "a", 3, 0.0)
    scheduler.add(queue, "b", 7, 0.0)

    assert queue.batch_sizes == [4, 4, 2]
    assert pieces(scheduler.decide(0.0)) == [("a", 0, 3), ("b", 0, 1)]
    assert pieces(scheduler.decide(0.0)) == [("b", 1, 5)]
    assert pieces(scheduler.decide(1.0)) == [("b", 5, 7)]


def test_full_queue_that_splits_says_what_it_could_take():
    """In TensorFlow Serving's words."""
    queue = splitting(max_enqueued_batches=2)
    queue.add("a", 3, 0.0)

    with pytest.raises(Unavailable) as error:
        queue.add("b", 6, 0.0)

    assert error.value.message == FULL + (
        "task size is 6 but scheduling capacity is only 5 (num_enqueued_batches=1, "
        "max_enqueued_batches=2, open_batch_size=3, max_execution_batch_size=4)"
    )


def test_withdrawn_call_leaves_room():
    """All of its pieces go, and a closed batch that has no others."""
    scheduler, queue = Scheduler[str](), splitting()
    scheduler.add(queue, "a", 1, 0.0)
    scheduler.add(queue, "b", 12, 0.0)

    scheduler.withdraw(queue, "b")

    assert queue.batch_sizes == [1, 0]
    assert pieces(scheduler.decide(0.0)) == [("a", 0, 1)]
    assert not scheduler


def test_batch_runs_as_long_as_its_most_patient_call_waits():
    """One that is late gets an answer all the same."""
    assert last_deadline_s([1.0, 7.0, 3.0], 2.0) == 7.0


def test_batch_whose_calls_are_all_late_is_not_run():
    """In TensorFlow Serving's words and with its code."""
    with pytest.raises(ResourceExhausted) as error:
        last_deadline_s([1.0, 2.0], 2.0)

    assert error.value.message == "Run() timeout exceeded while waiting in batching queue"


@pytest.mark.parametrize("timeout_s", [None, 0.0, -1.0])
def test_call_without_a_timeout_waits_for_half_an_hour(timeout_s: float | None):
    """As many microseconds as an int32 holds."""
    assert deadline_s(10.0, timeout_s) == 10.0 + LONGEST_WAIT_S
    assert round(LONGEST_WAIT_S / 60, 1) == 35.8


@dataclass(frozen=True)
class Step:
    """Something that happens: a call comes to a queue, one is withdrawn, a batch is taken."""

    kind: str
    queue: int
    size: int
    advance_s: float


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["add", "add", "add", "withdraw", "take"]),
        st.integers(0, 1),
        st.integers(0, 9),
        st.sampled_from([0.0, 0.3, 1.0]),
    ),
    max_size=40,
)


@given(STEPS, st.booleans(), st.sampled_from([0, 1_000_000]), st.integers(1, 3))
def test_every_row_runs_exactly_once_or_not_at_all(
    steps: list[Step], splits: bool, timeout_us: int, max_batches: int
):
    """Whatever comes in whatever order: no batch is too large, and none is forgotten."""
    fields = parameters(
        max_batch_size=8,
        max_execution_batch_size=3 if splits else 8,
        enable_large_batch_splitting=splits,
        batch_timeout_micros=timeout_us,
        max_enqueued_batches=max_batches,
    )
    scheduler = Scheduler[object]()
    queues = [TaskQueue[object](fields), TaskQueue[object](fields)]
    waiting: dict[int, tuple[object, int]] = {}
    ran: Counter[tuple[int, int]] = Counter()
    now_s = 0.0

    def run(decision: RunBatch[object] | WaitUntil) -> None:
        assert isinstance(decision, RunBatch)
        assert decision.tasks
        assert sum(task.size for task in decision.tasks) <= fields.max_execution_batch_size
        for task in decision.tasks:
            for row in range(task.start, task.end):
                ran[id(task.item), row] += 1

    for step in steps:
        now_s += step.advance_s
        queue = queues[step.queue]
        if step.kind == "add":
            item = object()
            try:
                scheduler.add(queue, item, step.size, now_s)
            except (InvalidArgument, Unavailable):
                continue
            waiting[id(item)] = (item, step.size)
        elif step.kind == "withdraw" and waiting:
            item, size = waiting.popitem()[1]
            for each in queues:
                scheduler.withdraw(each, item)
            for row in range(size):
                ran.pop((id(item), row), None)
        elif isinstance(decision := scheduler.decide(now_s), RunBatch):
            run(decision)
        assert all(len(each.batch_sizes) <= max_batches for each in queues)
    while not isinstance(decision := scheduler.decide(now_s + 1.0), WaitUntil):
        run(decision)

    assert decision == WaitUntil(None)
    assert ran == Counter({(key, row): 1 for key, (_, n) in waiting.items() for row in range(n)})
