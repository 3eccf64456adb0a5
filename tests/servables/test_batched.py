"""Runs of a batched servable wait for their batch, and each gets what is its own.

The clock is moved and the threads are stepped by the tests, but for those about threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeClock, FakeModel, FakeModelLoader, half_plus
from salver.batching.parameters import BatchingParameters
from salver.errors import (
    Cancelled,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    ServingError,
    Unavailable,
)
from salver.servables.batch_threads import BatchThreads
from salver.servables.batched import BatchedLoader, BatchedServable, Call, run_batch

PATIENCE_S = 30


class Told:
    """What an observer hears."""

    def __init__(self) -> None:
        self.waited_us: list[list[float]] = []
        self.ran: list[tuple[list[int], int, int]] = []

    def left_queue(self, waited_us: Sequence[float]) -> None:
        self.waited_us.append(list(waited_us))

    def will_run(self, input_rows: Sequence[int], rows: int, padding: int) -> None:
        self.ran.append((list(input_rows), rows, padding))


class House:
    """A batched model whose threads are the test's."""

    def __init__(self, model: FakeModel | None = None, **fields: object) -> None:
        fields = {"max_batch_size": 4, "batch_timeout_micros": 1_000_000, **fields}
        fields.setdefault("max_execution_batch_size", fields["max_batch_size"])
        self.parameters = BatchingParameters(**fields)  # type: ignore[arg-type] # a test's own
        self.model = model or half_plus(2)
        self.clock = FakeClock()
        self.told = Told()
        self.threads: BatchThreads[Call] = BatchThreads(run_batch, 0, clock=self.clock)
        self.batched = BatchedServable(
            self.model, self.parameters, self.threads, self.told, clock=self.clock
        )

    def start(self, *values: float, fetches: Sequence[str] = ("y:0",), **arguments: object):
        """A call, which waits."""
        feeds = {"x:0": np.array(values, np.float32)}
        return self.batched.start(feeds, fetches, **arguments)  # type: ignore[arg-type]

    def run_all(self) -> None:
        """Run every batch that may run now."""
        while self.threads.step():
            pass

    def fed(self) -> list[list[float]]:
        """What the model was given, run by run."""
        return [feeds["x:0"].tolist() for feeds, _, _ in self.model.runs]


def answer(pending) -> list[float]:
    (output,) = pending.result()
    return output.tolist()


def echo() -> FakeModel:
    """Gives x as ``y:0`` and its negative as ``z:0``."""

    def give(feeds: Mapping[str, np.ndarray], fetch: str) -> np.ndarray:
        return feeds["x:0"] if fetch == "y:0" else -feeds["x:0"]

    return FakeModel({}, give)


def test_calls_share_a_run_and_get_their_own_rows():
    """When the batch is full, long before its timeout."""
    house = House()
    one, other = house.start(1, 2), house.start(3, 4)

    house.run_all()

    assert (answer(one), answer(other)) == ([2.5, 3], [3.5, 4])
    assert house.fed() == [[1, 2, 3, 4]]


def test_underfull_batch_waits_for_its_timeout():
    """And no longer."""
    house = House()
    pending = house.start(1)
    house.clock.advance(0.5)

    assert not house.threads.step()
    house.clock.advance(0.5)
    assert house.threads.step()
    assert answer(pending) == [2.5]
    assert house.told.waited_us == [[1e6]]


def test_batched_servable_never_is_predictable():
    """Its runs may wait, so they must not run on an event loop."""
    house = House()

    assert house.model.predictable
    assert not house.batched.predictable
    assert house.batched.signatures == house.model.signatures
    assert house.batched.signature_defs == house.model.signature_defs


def test_batch_is_padded_to_an_allowed_size_and_nobody_sees_it():
    """The observer hears of it."""
    house = House(allowed_batch_sizes=(2, 4))
    pending = house.start(1), house.start(2, 5)
    house.clock.advance(1)

    house.run_all()

    assert house.fed() == [[1, 2, 5, 2]]
    assert [answer(each) for each in pending] == [[2.5], [3, 4.5]]
    assert house.told.ran == [([1, 2], 3, 1)]


def test_outputs_come_in_the_order_they_were_asked_for():
    """Calls that name the same ones in another order share a run."""
    house = House(echo())
    one = house.start(1, 2, fetches=["y:0", "z:0"])
    other = house.start(3, 4, fetches=["z:0", "y:0", "z:0"])

    house.run_all()

    assert [each.tolist() for each in one.result()] == [[1, 2], [-1, -2]]
    assert [each.tolist() for each in other.result()] == [[-3, -4], [3, 4], [-3, -4]]
    assert len(house.model.runs) == 1


def test_other_outputs_are_another_queue():
    """A set of tensors fetched makes a queue, as in TensorFlow Serving."""
    house = House(echo())
    one, other = house.start(1, 2, fetches=["y:0"]), house.start(3, 4, fetches=["z:0"])
    house.clock.advance(1)

    house.run_all()

    assert (answer(one), answer(other)) == ([1, 2], [-3, -4])
    assert len(house.model.runs) == 2


def test_call_with_elements_of_another_type_fails_alone():
    """It could not be joined to the others."""
    house = House()
    right = house.start(1, 2)
    wrong = house.batched.start({"x:0": np.array([3, 4], np.int32)}, ["y:0"])
    house.clock.advance(1)

    house.run_all()

    assert answer(right) == [2.5, 3]
    assert answer(wrong) == [3.5, 4]
    assert sorted(len(values) for values in house.fed()) == [2, 2]


def test_error_of_the_run_is_everybodys():
    """Each of the calls in the batch hears it, with an object of its own."""
    house = House(half_plus(2, errors=[Internal("broken")]))
    one, other = house.start(1, 2), house.start(3, 4)

    house.run_all()
    errors = []
    for each in (one, other):
        with pytest.raises(Internal, match="broken") as caught:
            each.result()
        errors.append(caught.value)

    assert errors[0] is not errors[1]


def test_shapes_that_differ_fail_the_whole_batch():
    """As in TensorFlow Serving, with its code."""
    house = House(echo())
    one = house.batched.start({"x:0": np.zeros((2, 1))}, ["y:0"])
    other = house.batched.start({"x:0": np.zeros((2, 2))}, ["y:0"])

    house.run_all()

    for each in (one, other):
        with pytest.raises(FailedPrecondition, match="Tensors with name 'x:0' from different"):
            each.result()


def test_output_that_is_no_batch_fails_the_whole_batch():
    """A sum over the batch cannot be taken apart."""
    house = House(FakeModel({}, lambda feeds, _fetch: feeds["x:0"].sum(keepdims=True)))
    pending = house.start(1, 2), house.start(3, 4)

    house.run_all()

    for each in pending:
        with pytest.raises(FailedPrecondition, match="Batched output tensor's 0th dimension"):
            each.result()


def test_call_that_is_no_rows_is_refused_before_it_waits():
    """A scalar is what TensorFlow Serving cannot batch either."""
    with pytest.raises(InvalidArgument, match="must have at least one dimension"):
        House().batched.run({"x:0": np.asarray(1.0)}, ["y:0"])


def test_large_call_is_split_and_put_together_again():
    """Its pieces run in batches of their own, and its rows come back in order."""
    house = House(max_batch_size=9, max_execution_batch_size=4, enable_large_batch_splitting=True)
    first, large = house.start(100), house.start(*range(9))
    house.clock.advance(1)

    house.run_all()

    assert answer(first) == [52]
    assert answer(large) == [value / 2 + 2 for value in range(9)]
    assert [len(values) for values in house.fed()] == [4, 4, 2]


def test_pieces_may_end_in_any_order():
    """The rows come back in theirs."""
    house = House(
        half_plus(0, on_run=lambda: house.threads.step()),
        max_batch_size=8,
        max_execution_batch_size=4,
        enable_large_batch_splitting=True,
    )
    pending = house.start(*range(8))

    house.threads.step()  # the second piece runs while the first one does

    assert answer(pending) == [value / 2 for value in range(8)]
    assert house.fed() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_piece_that_fails_fails_the_call():
    """And nobody else's call in the other batches."""
    house = House(
        half_plus(2, errors=[Internal("broken")]),
        max_batch_size=8,
        max_execution_batch_size=4,
        enable_large_batch_splitting=True,
    )
    large, last = house.start(*range(7)), house.start(7)
    house.clock.advance(1)

    house.run_all()

    with pytest.raises(Internal, match="broken"):
        large.result()
    assert answer(last) == [5.5]


def test_batch_whose_calls_have_all_waited_too_long_is_not_run():
    """In TensorFlow Serving's words and with its code."""
    house = House()
    pending = house.start(1, timeout_s=0.5), house.start(2, timeout_s=1.0)
    house.clock.advance(1)

    house.run_all()

    for each in pending:
        with pytest.raises(ResourceExhausted) as error:
            each.result()
        assert error.value.message == "Run() timeout exceeded while waiting in batching queue"
    assert not house.model.runs


def test_batch_runs_for_as_long_as_its_most_patient_call_waits():
    """One that is late already gets an answer with it, as in TensorFlow Serving."""
    house = House()
    late, patient = house.start(1, timeout_s=0.5), house.start(2, timeout_s=3.0)
    house.clock.advance(1)

    house.run_all()

    assert (answer(late), answer(patient)) == ([2.5], [3])
    assert house.model.runs[0][2] == 2.0


def test_call_that_is_withdrawn_leaves_its_batch():
    """And makes room for another."""
    house = House(max_enqueued_batches=1)
    withdrawn, kept = house.start(1, 2, 3), house.start(4)

    withdrawn.cancel()
    later = house.start(5, 6, 7)
    house.run_all()

    with pytest.raises(Cancelled):
        withdrawn.result()
    assert (answer(kept), answer(later)) == ([4], [4.5, 5, 5.5])
    assert house.fed() == [[4, 5, 6, 7]]


def test_full_queue_refuses():
    """In TensorFlow Serving's words and with its code."""
    house = House(max_enqueued_batches=1)
    house.start(1, 2, 3)

    with pytest.raises(Unavailable, match="to which this task was submitted is full; currently 1"):
        house.start(4, 5)


def test_prepared_run_is_batched_too():
    """By the names it was prepared for."""
    threads: BatchThreads[Call] = BatchThreads(run_batch, 1)
    batched = BatchedServable(half_plus(2), BatchingParameters(), threads, told := Told())
    prepared = batched.prepare(["x:0"], ["y:0"])

    (output,) = prepared([np.array([2, 4], np.float32)], None)
    threads.stop()

    assert output.tolist() == [3, 4]
    assert told.ran == [([2], 2, 0)]


def test_memory_of_queues_is_bounded():
    """A peer that asks for ever other outputs keeps no queue of each."""
    house = House(echo(), batch_timeout_micros=0)

    for number in range(500):
        pending = house.start(1, fetches=["y:0", f"z{number}:0"])
        house.run_all()
        pending.result()
    pending = house.start(5, fetches=["y:0", "z0:0"])
    house.run_all()

    assert [each.tolist() for each in pending.result()] == [[5], [-5]]


def test_threads_run_one_batch_each_side_by_side():
    """As many as there are, of one queue, too; and whoever waits at the end is told."""
    side_by_side = threading.Barrier(2)
    model = half_plus(2, on_run=lambda: side_by_side.wait(PATIENCE_S))
    threads: BatchThreads[Call] = BatchThreads(run_batch, 2)
    parameters = BatchingParameters(max_batch_size=1, max_execution_batch_size=1)
    batched = BatchedServable(model, parameters, threads, Told())

    pending = [batched.start({"x:0": np.array([n], np.float32)}, ["y:0"]) for n in range(4)]
    answers = [answer(each) for each in pending]
    threads.stop()

    assert answers == [[2], [2.5], [3], [3.5]]
    with pytest.raises(Unavailable, match="the server ends"):
        batched.run({"x:0": np.array([1], np.float32)}, ["y:0"])


def test_whoever_waits_when_threads_end_is_told():
    """A batch that would wait for an hour does not hold up the end."""
    house = House(batch_timeout_micros=3_600_000_000)
    pending = house.start(1)

    house.threads.stop()

    with pytest.raises(Unavailable, match="the server ends"):
        pending.result()


def test_thread_that_watches_a_timeout_is_replaced_when_it_gets_a_batch():
    """Else the batch of another queue would wait until that one has run."""
    order: list[str] = []
    goes_on, watches = threading.Event(), threading.Event()

    def hold() -> None:
        goes_on.wait(PATIENCE_S)
        order.append("slow")

    def clock() -> float:
        if threading.current_thread() is not threading.main_thread():
            watches.set()  # with the lock in its hands, which it lets go of when it waits
        return time.monotonic()

    threads: BatchThreads[Call] = BatchThreads(run_batch, 2, clock=clock)
    soon = BatchingParameters(batch_timeout_micros=100_000)
    full = BatchingParameters(max_batch_size=1, max_execution_batch_size=1)
    slow = BatchedServable(half_plus(0, on_run=hold), full, threads, Told())
    quick = BatchedServable(
        half_plus(2, on_run=lambda: order.append("quick")), soon, threads, Told()
    )
    feeds = {"x:0": np.array([2], np.float32)}

    waits = quick.start(feeds, ["y:0"])
    watches.wait(PATIENCE_S)
    held = slow.start(feeds, ["y:0"])
    answers = [answer(waits)]
    goes_on.set()
    answers.append(answer(held))
    threads.stop()

    assert order == ["quick", "slow"]
    assert answers == [[3], [1]]


def loader(model: FakeModel, read) -> tuple[BatchedLoader, FakeModelLoader]:
    inner = FakeModelLoader(model)
    threads: BatchThreads[Call] = BatchThreads(run_batch, 0)
    return BatchedLoader(inner, read, threads, Told()), inner


def test_loader_wraps_what_it_loaded():
    """And hands on everything else."""
    model = half_plus(2)
    batched, inner = loader(model, BatchingParameters)

    batched.load()
    servable = batched.servable()
    batched.unload()

    assert isinstance(servable, BatchedServable)
    assert batched.estimate_resources() == 7
    assert inner.calls == ["load", "unload"]


def test_version_without_parameters_is_not_batched():
    """Its servable is what was loaded."""
    model = half_plus(2)
    batched, _ = loader(model, lambda: None)

    batched.load()

    assert batched.servable() is model


def test_wrong_parameters_fail_the_load_before_anything_is_loaded():
    """And may be right at the next try."""

    def read() -> BatchingParameters:
        raise InvalidArgument("no such size")

    batched, inner = loader(half_plus(2), read)

    with pytest.raises(InvalidArgument, match="no such size"):
        batched.load()
    assert inner.calls == []


CALLS = st.lists(
    st.tuples(
        st.integers(0, 7),  # rows
        st.integers(1, 3),  # columns
        st.sampled_from([None, 0.2, 5.0]),  # patience
        st.sampled_from([0.0, 0.3, 1.5]),  # time until the next one
        st.sampled_from(["run", "run", "wait", "cancel"]),  # what happens then
    ),
    max_size=25,
)


@given(
    CALLS,
    st.booleans(),
    st.booleans(),
    st.sampled_from([(), (2, 4, 6)]),
    st.sets(st.integers(0, 10), max_size=4),
)
def test_every_call_gets_exactly_one_answer_and_its_own_rows(
    calls, splits: bool, pads: bool, allowed: tuple[int, ...], failing_runs: set[int]
):
    """Whatever the sizes, shapes, deadlines, withdrawals and failures."""
    numbers = iter(range(10_000))
    model = FakeModel({}, lambda feeds, _fetch: fails(next(numbers), -feeds["x:0"]))

    def fails(number: int, output: np.ndarray) -> np.ndarray:
        if number in failing_runs:
            raise Internal(f"run {number} fails")
        return output

    house = House(
        model,
        max_batch_size=6,
        max_execution_batch_size=3 if splits else 6,
        enable_large_batch_splitting=splits,
        pad_variable_length_inputs=pads,
        allowed_batch_sizes=allowed,
        max_enqueued_batches=3,
    )
    waiting = []
    for number, (rows, columns, patience_s, advance_s, what) in enumerate(calls, 1):
        values = number * 100 + np.arange(rows).reshape(-1, 1) + np.zeros((rows, columns))
        try:
            pending = house.batched.start({"x:0": values}, ["y:0"], timeout_s=patience_s)
        except (InvalidArgument, Unavailable):
            continue
        waiting.append((number, values, pending))
        house.clock.advance(advance_s)
        if what == "cancel":
            pending.cancel()
        elif what == "run":
            house.run_all()
    house.clock.advance(1)
    house.run_all()

    for number, values, pending in waiting:
        try:
            (output,) = pending.result()
        except ServingError:
            continue
        rows, columns = values.shape
        assert len(output) == rows
        assert (output[:, :columns] == -values).all()
        assert {int(-value) // 100 for value in output.ravel()} <= {number}
        if not pads:
            assert output.shape == values.shape
