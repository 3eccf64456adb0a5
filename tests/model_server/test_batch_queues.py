"""Calls that run together: who goes with whom, when, where, and who is told what."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeClock, FakeModel, StepExecutor, SteppedLoop, half_plus
from salver.batching.sameness import Verdict
from salver.core.servable_id import ServableId
from salver.core.serving_map import ServableHandle, ServingMap
from salver.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, ServingError
from salver.metrics import Metrics
from salver.model_server import batch_queues
from salver.model_server.batch_queues import CROWD_GAP_S, BatchQueue, BatchQueues, Task
from salver.model_server.measuring import CallRecorder
from salver.model_server.placement import Placement
from salver.model_server.thread_time import ThreadTime
from salver.servables.servable import Servable

NAME = "serving_default"
BATCHABLE = Verdict(is_batchable=True, reason="tried")


class Verdicts:
    """What a version's signatures were found to be."""

    def __init__(self, **verdicts: Verdict) -> None:
        self.verdicts = verdicts

    def of(self, _servable_id: ServableId) -> Mapping[str, Verdict]:
        return self.verdicts


class Rows(Task[list[float]]):
    """A call whose answer is its rows of the output."""

    withdrawals = 0

    def written(self, version: int, outputs: list[np.ndarray]) -> list[float]:
        if self.nbytes == UNWRITABLE:
            raise InvalidArgument("the answer cannot be written")
        if self.nbytes == BROKEN:
            raise ZeroDivisionError
        return outputs[0].tolist()

    def fail(self, error: ServingError) -> None:
        if self.nbytes == DEAF:
            raise ZeroDivisionError
        if self.taker is not None:
            self.taker.fail(error)

    def withdraw(self) -> None:
        Rows.withdrawals += 1


UNWRITABLE, BROKEN, DEAF = 666, 999, 777
"""Sizes of calls that something is wrong with."""


class SteppedPool(StepExecutor):
    """A pool without threads whose jobs' futures hear of their ends."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 -- the future's
                future.set_exception(error)

        self.jobs.append(run)
        return future


class Client:
    """Waits for an answer and keeps it."""

    def __init__(self) -> None:
        self.told: list[list[float] | BaseException] = []

    def succeed(self, answer: list[float]) -> None:
        self.told.append(answer)

    def fail(self, error: BaseException) -> None:
        self.told.append(error)


class House:
    """A queue for a model, with a loop, a pool and a clock in the test's hands."""

    def __init__(
        self,
        model: FakeModel | None = None,
        *,
        verdict: Verdict | None = BATCHABLE,
        run_s: float = 1e-6,
        places: int = 1,
    ) -> None:
        self.clock = FakeClock()
        self.loop = SteppedLoop()
        self.pool = SteppedPool()
        self.model = model or half_plus(2.0, on_run=lambda: self.clock.advance(self.run_s))
        self.run_s = run_s
        self.metrics = Metrics()
        self.recorder = CallRecorder(self.metrics, "m", "Predict", "Predict", "GRPC")
        self.serving: ServingMap[Servable] = ServingMap()
        self.id = ServableId("m", 1)
        self.serving.insert(self.id, self.model)
        self.drained = False
        placement = Placement(
            self.pool,
            clock=self.clock,
            thread_clock=lambda: ThreadTime(self.clock.now_s, 0),
            threads_per_lane=places,
        )
        verdicts = Verdicts() if verdict is None else Verdicts(serving_default=verdict)
        self.queues = BatchQueues(verdicts, placement, self.loop, self.metrics, clock=self.clock)

    def handle(self) -> ServableHandle[Servable]:
        return self.serving.latest("m")

    def queue_for(self, **inputs: np.ndarray) -> BatchQueue | None:
        with self.handle() as handle:
            return self.queues.queue(handle, NAME, inputs, ())

    def queue(self) -> BatchQueue:
        queue = self.queue_for(x=np.zeros(1, np.float32))
        assert queue is not None
        return queue

    def task(
        self, *values: float, timeout_s: float | None = None, nbytes: int | None = None
    ) -> Rows:
        rows = np.array(values, np.float32)
        size = rows.nbytes if nbytes is None else nbytes
        now_s = self.clock()
        return Rows(
            self.handle(), [rows.tobytes()], len(rows), size, timeout_s, self.recorder, now_s
        )

    def ask(
        self, *values: float, timeout_s: float | None = None, nbytes: int | None = None
    ) -> Client:
        client = Client()
        task = self.task(*values, timeout_s=timeout_s, nbytes=nbytes)
        self.queue().add(task).taker = client
        return client

    def run_threads(self) -> None:
        """Let everything that is on a thread, or comes to one, end."""
        self.loop.step()
        while self.pool.jobs:
            self.pool.run_next()
            self.loop.step()

    def warmed(self) -> House:
        """Has run once, so that the loop is known to be the place for eight rows."""
        self.ask(*[0.0] * 8)
        self.run_threads()
        self.model.runs.clear()
        return self

    @property
    def batches(self) -> list[list[float]]:
        """What each run was fed."""
        return [feeds["x:0"].tolist() for feeds, _, _ in self.model.runs]

    def remove(self) -> None:
        def note() -> None:
            self.drained = True

        self.serving.remove(self.id, note)


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.loop.close()


def test_calls_of_one_round_share_one_run(house: House):
    """Each gets its own rows of it."""
    house.warmed()
    clients = [house.ask(0.0), house.ask(2.0, 4.0), house.ask(6.0)]
    house.loop.step()

    assert house.batches == [[0.0, 2.0, 4.0, 6.0]]
    assert [client.told for client in clients] == [[[2.0]], [[3.0, 4.0]], [[5.0]]]


def test_nothing_is_answered_before_the_round_is_over(house: House):
    """Whoever comes in the same round shall not come too late."""
    client = house.warmed().ask(0.0)

    assert client.told == []


def test_first_batch_runs_on_a_thread(house: House):
    """Nobody knows yet how long it takes."""
    client = house.ask(0.0)
    house.loop.step()
    jobs = len(house.pool.jobs)
    house.run_threads()

    assert (jobs, client.told) == (1, [[2.0]])


def test_quick_batches_come_to_the_loop(house: House):
    """No hop is worth so little work."""
    house.warmed().ask(0.0)
    house.loop.step()

    assert (house.pool.jobs, len(house.batches)) == ([], 1)


def test_what_gathers_while_a_batch_runs_goes_next():
    """All of it at once, when that batch has ended."""
    house = House(run_s=0.1)
    house.warmed()
    first = house.ask(0.0)
    house.loop.step()
    later = [house.ask(2.0), house.ask(4.0)]
    house.loop.step()
    waiting = len(house.pool.jobs)
    house.run_threads()

    assert waiting == 1
    assert house.batches == [[0.0], [2.0, 4.0]]
    assert [each.told for each in (first, *later)] == [[[2.0]], [[3.0]], [[4.0]]]


def test_graph_whose_time_cannot_be_told_stays_on_threads(house: House):
    """One quick run says nothing about the next."""
    house.model.predictable = False
    house.warmed().ask(0.0)
    house.loop.step()

    assert len(house.pool.jobs) == 1


def test_batch_that_fails_is_run_again_one_by_one():
    """So one client's row fails for itself alone."""

    def picky(feeds: Mapping[str, np.ndarray], _fetch: str) -> np.ndarray:
        if (feeds["x:0"] < 0).any():
            raise InvalidArgument("negative")
        return feeds["x:0"]

    house = House(FakeModel(half_plus(0.0).signatures, picky)).warmed()
    good, bad, other = house.ask(1.0), house.ask(-1.0), house.ask(2.0)
    house.run_threads()

    assert [good.told, other.told] == [[[1.0]], [[2.0]]]
    assert [str(each) for each in bad.told] == ["INVALID_ARGUMENT: negative"]


def test_output_without_the_batchs_rows_is_run_again_one_by_one():
    """A model may break its promise for some values and not for others."""

    def first_only(feeds: Mapping[str, np.ndarray], _fetch: str) -> np.ndarray:
        return feeds["x:0"][:1]

    house = House(FakeModel(half_plus(0.0).signatures, first_only)).warmed()
    clients = [house.ask(1.0), house.ask(2.0)]
    house.run_threads()

    assert [client.told for client in clients] == [[[1.0]], [[2.0]]]


def test_who_does_not_wait_any_more_is_left_out(house: House):
    """A cancelled call costs the model nothing."""
    house.warmed()
    gone = house.queue().add(house.task(0.0))
    gone.taker = Client()
    staying = house.ask(2.0)
    gone.taker = None
    house.loop.step()

    assert house.batches == [[2.0]]
    assert staying.told == [[3.0]]


def test_who_leaves_during_the_run_is_not_told():
    """And takes nobody else's rows with him."""
    house = House(run_s=0.1).warmed()
    task = house.queue().add(house.task(0.0))
    leaver = task.taker = Client()
    staying = house.ask(2.0)
    house.loop.step()
    task.taker = None
    house.run_threads()

    assert (leaver.told, staying.told) == ([], [[3.0]])


@pytest.mark.parametrize("fault", [UNWRITABLE, BROKEN], ids=["refusal", "bug"])
def test_answer_that_cannot_be_written_is_one_clients_trouble(house: House, fault: int):
    """The others' are handed over all the same."""
    house.warmed()
    before, broken, after = house.ask(0.0), house.ask(2.0, nbytes=fault), house.ask(4.0)
    house.loop.step()

    assert (before.told, after.told) == ([[2.0]], [[4.0]])
    assert [isinstance(each, ServingError) for each in broken.told] == [True]


def test_bug_in_a_run_is_told_to_everybody():
    """And the queue goes on."""

    faults = [ZeroDivisionError()]

    def run_with_a_bug() -> None:
        if faults:
            raise faults.pop()

    house = House(half_plus(2.0, on_run=run_with_a_bug))
    clients = [house.ask(0.0), house.ask(2.0)]
    house.run_threads()
    after = house.ask(4.0)
    house.run_threads()

    assert [len(client.told) for client in clients] == [1, 1]
    assert after.told == [[4.0]]


def test_bug_in_a_run_on_the_loop_is_told_to_everybody():
    """Nobody is left waiting, and the loop goes on."""
    faults: list[Exception] = []

    def run_with_a_bug() -> None:
        if faults:
            raise faults.pop()

    house = House(half_plus(2.0, on_run=run_with_a_bug)).warmed()
    faults.append(ZeroDivisionError())
    clients = [house.ask(0.0), house.ask(2.0)]
    house.loop.step()
    after = house.ask(4.0)
    house.loop.step()

    assert [len(client.told) for client in clients] == [1, 1]
    assert after.told == [[4.0]]


def test_call_that_comes_alone_need_not_wait(house: House):
    """There is nobody to wait for."""
    house.warmed()
    house.clock.advance(1.0)

    assert house.queue().runs_alone(1, house.clock())


def test_call_right_after_another_does_not_come_alone(house: House):
    """One that was just answered is company."""
    queue = house.warmed().queue()
    queue.ran_alone(1, 1e-6, 1.0)

    assert not queue.runs_alone(1, 1.0 + CROWD_GAP_S / 2)
    assert queue.runs_alone(1, 1.0 + CROWD_GAP_S * 2)


def test_call_of_unknown_cost_does_not_run_at_once(house: House):
    """However alone it comes: the loop is for what is known to be quick."""
    house.clock.advance(1.0)

    assert not house.queue().runs_alone(1, house.clock())


def test_slow_call_is_looked_at_closely_before_it_leaves_the_loop(house: House):
    """By its cost, in the queue; two that cost too much go to a thread."""
    house.warmed().run_s = 1.0
    house.queue().ran_alone(1, 1.0, 1.0)
    at_once = house.queue().runs_alone(1, 2.0)
    for _ in range(2):
        house.ask(0.0)
        house.loop.step()
    house.ask(0.0)
    house.loop.step()

    assert (at_once, len(house.batches), len(house.pool.jobs)) == (False, 2, 1)


def test_call_after_a_crowd_does_not_come_alone(house: House):
    """The others of the crowd ask again as well; one batch of a single call ends it."""
    house.warmed()
    house.ask(0.0), house.ask(2.0)
    house.loop.step()
    house.clock.advance(1.0)
    in_a_crowd = house.queue().runs_alone(1, house.clock())
    house.ask(0.0)
    house.loop.step()
    house.clock.advance(1.0)

    assert (in_a_crowd, house.queue().runs_alone(1, house.clock())) == (False, True)


def test_queue_has_an_end(house: House, monkeypatch: pytest.MonkeyPatch):
    """Who comes too late is told at once, and holds nothing."""
    monkeypatch.setattr(batch_queues, "MAX_WAITING", 2)
    house.ask(0.0), house.ask(0.0)

    with pytest.raises(ResourceExhausted, match=r"2 requests wait for .* 8 bytes in all queues"):
        house.ask(0.0)


def test_queue_is_bounded_in_bytes(house: House, monkeypatch: pytest.MonkeyPatch):
    """A few large ones count as much as many small ones."""
    monkeypatch.setattr(batch_queues, "MAX_WAITING_BYTES", 8)
    house.ask(0.0, 0.0)

    with pytest.raises(ResourceExhausted):
        house.ask(0.0)


def test_bytes_are_given_back(house: House, monkeypatch: pytest.MonkeyPatch):
    """Else a queue would be full one day."""
    house.warmed()
    monkeypatch.setattr(batch_queues, "MAX_WAITING_BYTES", 8)
    for _ in range(10):
        house.ask(0.0, 0.0)
        house.loop.step()

    assert len(house.batches) == 10


def test_version_stays_until_its_last_call_is_answered():
    """Even when another has taken its place."""
    house = House(run_s=0.1).warmed()
    client = house.ask(0.0)
    house.loop.step()
    house.remove()
    gc.collect()
    while_waiting = house.drained
    house.run_threads()

    assert (while_waiting, house.drained, client.told) == (False, True, [[2.0]])


def test_batch_runs_as_long_as_its_most_patient_client_waits(house: House):
    """The others have left by then."""
    house.ask(0.0, timeout_s=1.0), house.ask(0.0, timeout_s=3.0)
    house.run_threads()

    assert [timeout_s for _, _, timeout_s in house.model.runs] == [3.0]


def test_batch_with_a_client_without_a_deadline_has_none(house: House):
    """It waits for ever."""
    house.ask(0.0, timeout_s=1.0), house.ask(0.0)
    house.run_threads()

    assert [timeout_s for _, _, timeout_s in house.model.runs] == [None]


def test_fault_in_telling_one_leaves_the_others_and_the_queue_alone():
    """However wrong it goes."""
    faults: list[Exception] = [ZeroDivisionError()]

    def run_with_a_bug() -> None:
        if faults:
            raise faults.pop()

    house = House(half_plus(2.0, on_run=run_with_a_bug))
    house.ask(0.0, nbytes=DEAF)
    other = house.ask(2.0)
    house.run_threads()
    after = house.ask(4.0)
    house.run_threads()

    assert [len(other.told), after.told] == [1, [[4.0]]]


def test_batch_that_runs_out_of_time_is_not_run_again():
    """Nobody would wait for it."""
    late = DeadlineExceeded("out of time")
    house = House(half_plus(0.0, errors=[late]))
    clients = [house.ask(0.0, timeout_s=1.0) for _ in range(2)]
    house.run_threads()

    assert [client.told for client in clients] == [[late]] * 2
    assert len(house.batches) == 1


def test_each_has_what_is_left_of_its_time():
    """It began with the call, not with the run."""
    house = House(half_plus(0.0, errors=[InvalidArgument("together")]))
    house.ask(0.0, timeout_s=3.0), house.ask(0.0, timeout_s=1.0)
    house.clock.advance(2.0)
    house.run_threads()

    assert [timeout_s for _, _, timeout_s in house.model.runs] == [1.0, 1.0]


def test_bad_row_on_the_loop_has_the_others_run_on_a_thread(house: House):
    """One by one they would keep everybody else waiting."""

    def picky(feeds: Mapping[str, np.ndarray], _fetch: str) -> np.ndarray:
        if (feeds["x:0"] < 0).any():
            raise InvalidArgument("negative")
        return feeds["x:0"]

    house = House(FakeModel(half_plus(0.0).signatures, picky)).warmed()
    house.ask(1.0), house.ask(-1.0)
    house.loop.step()

    assert (len(house.batches), len(house.pool.jobs)) == (1, 1)


def test_failures_say_nothing_about_what_a_batch_costs():
    """A thousand rows that are refused at once are no sign that a thousand fit the loop."""
    house = House(half_plus(0.0, errors=[InvalidArgument("too many")]))
    house.ask(*[0.0] * 1000)
    house.run_threads()
    house.ask(0.0, 0.0)
    house.loop.step()

    assert len(house.pool.jobs) == 1


def test_call_without_rows_is_as_slow_as_any_other(house: House):
    """Its graph runs all the same."""
    house.ask()
    house.loop.step()

    assert (house.queue().runs_alone(0, 1e9), len(house.pool.jobs)) == (False, 1)


def test_many_batches_run_side_by_side_where_large_ones_do_not_pay():
    """As many as the model has places, so batching costs it nothing."""

    def slow(feeds: Mapping[str, np.ndarray], _fetch: str) -> np.ndarray:
        house.clock.advance(0.1 * len(feeds["x:0"]))
        return feeds["x:0"]

    house = House(FakeModel(half_plus(0.0).signatures, slow), places=3)
    for _ in range(6):
        house.ask(0.0)
        house.run_threads()
    for _ in range(2):
        house.ask(0.0), house.ask(0.0)
        house.run_threads()
    for _ in range(8):
        house.ask(0.0)
    house.loop.step()

    assert len(house.pool.jobs) == 3


def test_queues_of_one_model_share_its_places():
    """Whoever makes up shapes gets no more threads than others."""
    house = House(places=1)
    for size in range(1, 6):
        queue = house.queue_for(x=np.zeros((1, size), np.float32))
        assert queue is not None
        octets = bytes(4 * size)
        queue.add(Rows(house.handle(), [octets], 1, 4, None, house.recorder, 0.0)).taker = Client()
    house.loop.step()

    assert len(house.pool.jobs) == 1


def test_those_who_left_make_room_for_others(house: House, monkeypatch: pytest.MonkeyPatch):
    """A queue is not full of nobody."""
    monkeypatch.setattr(batch_queues, "MAX_WAITING", 2)
    gone = [house.queue().add(house.task(0.0)) for _ in range(2)]
    for each in gone:
        each.taker = None
    client = house.ask(2.0)
    house.run_threads()

    assert (client.told, house.batches) == ([[3.0]], [[2.0]])


def test_every_call_counts_and_the_run_once(house: House):
    """The metrics tell both."""
    house.ask(0.0), house.ask(2.0), house.ask(4.0)
    house.run_threads()

    assert house.metrics.request_count.cell("m", "OK").value == 3
    assert house.metrics.graph_runs.cell().value == 1


def test_signature_that_is_not_batchable_has_no_queue():
    """Its calls run alone."""
    house = House(verdict=Verdict(is_batchable=False, reason="rows mix"))

    assert house.queue_for(x=np.zeros(1, np.float32)) is None


def test_signature_that_was_not_tried_has_no_queue():
    """Nobody knows."""
    assert House(verdict=None).queue_for(x=np.zeros(1, np.float32)) is None


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": np.zeros((), np.float32)},
        {"x": np.array([b"text"], object)},
        {},
    ],
    ids=["no rows", "strings", "no input"],
)
def test_inputs_that_cannot_be_joined_have_no_queue(house: House, inputs: Mapping[str, np.ndarray]):
    """Whatever the signature says."""
    assert house.queue_for(**inputs) is None


def test_rows_of_other_shapes_have_a_queue_of_their_own(house: House):
    """They do not fit together."""
    flat = house.queue_for(x=np.zeros(1, np.float32))
    deep = house.queue_for(x=np.zeros((1, 2), np.float32))
    again = house.queue_for(x=np.zeros(9, np.float32))

    assert flat is again
    assert flat is not deep


def test_new_version_has_a_queue_of_its_own(house: House):
    """Even under the same number, loaded anew."""
    old = house.queue()
    house.serving.insert(house.id, half_plus(3.0))

    assert house.queue() is not old


def test_next_version_begins_with_what_is_known_of_the_last(house: House):
    """Its first call need not go to a thread to show that it is quick."""
    house.warmed().serving.insert(ServableId("m", 2), half_plus(3.0))
    client = house.ask(0.0)
    house.loop.step()

    assert (client.told, house.pool.jobs) == ([[3.0]], [])


def test_queues_are_bounded(house: House, monkeypatch: pytest.MonkeyPatch):
    """A client that makes up shapes only starts them anew."""
    monkeypatch.setattr(batch_queues, "MAX_QUEUES", 4)
    queues = [house.queue_for(x=np.zeros((1, size), np.float32)) for size in range(1, 20)]

    assert all(queue is not None for queue in queues)


def test_nothing_holds_on_to_a_version_that_has_ended():
    """Its queues go with it, and what it holds is free; those of other versions stay."""
    house = House()
    house.ask(1.0)
    house.run_threads()
    model = weakref.ref(house.model)
    house.serving.insert(ServableId("m", 2), half_plus(3.0))
    kept = house.queue()
    house.serving.remove(house.id, lambda: None)
    del house.model

    house.queues.forget(house.id)
    gc.collect()

    assert model() is None
    assert house.queue() is kept


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),  # rows
            st.sampled_from(["ask", "leave", "step", "thread", "fail"]),
        ),
        max_size=60,
    )
)
def test_every_call_gets_one_answer_and_its_own(plan: Sequence[tuple[int, str]]):
    """Whatever comes together, fails, leaves and runs where."""
    fails: list[bool] = []
    count = 0

    def answer(feeds: Mapping[str, np.ndarray], _fetch: str) -> np.ndarray:
        if fails and fails.pop():
            raise InvalidArgument("this run failed")
        return feeds["x:0"]

    house = House(FakeModel(half_plus(0.0).signatures, answer))
    asked: list[tuple[Rows, Client, list[float], bool]] = []
    for rows, step in plan:
        if step in ("ask", "leave"):
            values = [float(count + row) for row in range(rows)]
            count += rows
            task = house.task(*values)
            client = Client()
            house.queue().add(task).taker = client
            if step == "leave":
                task.taker = None
            asked.append((task, client, values, step == "leave"))
        elif step == "step":
            house.loop.step(1)
        elif step == "thread" and house.pool.jobs:
            house.pool.run_next()
        elif step == "fail":
            fails.append(True)
    house.run_threads()
    house.loop.close()

    for _, client, values, has_left in asked:
        if has_left:
            assert client.told == []
        else:
            (told,) = client.told
            assert isinstance(told, ServingError) or told == values
