"""Batching without waiting: calls that arrive together run together, and none waits for another.

A call that comes alone runs at once, as if there were no batching.  Calls that come close upon each
other gather until the event loop has heard everybody who has spoken; what gathered while a batch
ran goes next.  So a batch is as large as the crowd, and no clock decides anything.

A queue is for the calls of one version that fit together: one signature, the same outputs, rows of
the same types and shapes.  Whatever goes wrong in a batch is found out again one by one, so that a
call fails for its own reasons only.

A queue lives on the event loop.  Its runs, and the writing of answers, may be on a worker thread:
``_together``, ``_apart`` and what they call.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import numpy as np

from salver.batching.sameness import Verdict
from salver.batching.sizes import BatchSizes
from salver.core.servable_id import ServableId
from salver.core.serving_map import ServableHandle
from salver.errors import Cancelled, DeadlineExceeded, Internal, ResourceExhausted, ServingError
from salver.inference import PredictPlan
from salver.metrics import Metrics
from salver.model_server.measuring import CallRecorder
from salver.model_server.placement import Placement
from salver.servables.servable import Servable
from salver.signature import Signature
from salver.wire.calls import Later

logger = logging.getLogger(__name__)

T = TypeVar("T")

CROWD_GAP_S: Final = 25e-6
"""A call that comes so soon after the last one was done has not come alone."""

MAX_QUEUES: Final = 1024
"""Sorts of calls; past it all queues begin anew, at no great cost."""

MAX_WAITING: Final = 10_000
"""Calls of one queue."""

MAX_WAITING_BYTES: Final = 512 << 20
"""Of the inputs of all queues."""

MAX_BATCH_BYTES: Final = 64 << 20
"""Of the inputs of one batch, unless a single call brings more."""

Part = bytes | np.ndarray
"""All rows of one input: their numbers in C order."""

RowsOf = Sequence[tuple[np.dtype[Any], tuple[int, ...]]]  # Any: of whatever type
"""The type and the shape of a row of each input."""

_FAILED: Final = "The server failed to answer; its log says why."


class Verdicts(Protocol):
    """Which signatures may be batched."""

    def of(self, servable_id: ServableId) -> Mapping[str, Verdict]:
        """The verdicts on a version's signatures, by name."""


class Task(Later[T]):
    """One call that waits to be run, whatever door it came through."""

    __slots__ = ("handle", "nbytes", "parts", "recorder", "rows", "started", "timeout_s")

    def __init__(
        self,
        handle: ServableHandle[Servable],
        parts: Sequence[Part],
        rows: int,
        nbytes: int,
        timeout_s: float | None,
        recorder: CallRecorder,
        started: float,
    ) -> None:
        super().__init__()
        self.handle = handle
        self.parts = parts
        self.rows = rows
        self.nbytes = nbytes
        self.timeout_s = timeout_s
        self.recorder = recorder
        self.started = started

    @abstractmethod
    def written(self, version: int, outputs: list[np.ndarray]) -> T:
        """The answer with this task's rows of the outputs; on any thread.

        Raises:
            ServingError: they cannot be written.
        """

    @abstractmethod
    def fail(self, error: ServingError) -> None:
        """Count a failure, and hand it over."""

    @abstractmethod
    def withdraw(self) -> None:
        """Count a call whose client does not wait any more."""

    @property
    def weight(self) -> int:
        """Its rows as far as time goes: a run without any is a run."""
        return self.rows or 1

    def left_s(self, now_s: float) -> float | None:
        """How long it may still run; None without a limit."""
        return None if self.timeout_s is None else self.started + self.timeout_s - now_s


class _Outcome(NamedTuple):
    """What became of some tasks: their answers or errors in order, and the time of each one's run.

    ``is_whole`` tells that one run answered them all, so that it says what a batch costs.
    """

    answers: Sequence[object]
    run_s: Sequence[float]
    runs: int
    took_s: float
    is_whole: bool


class _Cost:
    """What a run on a thread cost."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0

    def cost_there(self, cost_s: float) -> None:
        """Keep it."""
        self.seconds = cost_s


class _Room:
    """What the inputs of all calls take that wait in queues."""

    __slots__ = ("waiting_bytes",)

    def __init__(self) -> None:
        self.waiting_bytes = 0


class BatchQueue:
    """The calls of one sort that wait to be run."""

    def __init__(
        self,
        plan: PredictPlan,
        rows_of: RowsOf,
        placement: Placement,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics,
        room: _Room,
        sizes: BatchSizes,
        *,
        lane: str,
        is_predictable: bool,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """``rows_of`` is in the plan's order; ``lane`` is whose places on the threads it takes."""
        self._plan = plan
        self._rows_of = rows_of
        self._placement = placement
        self._loop = loop
        self._metrics = metrics
        self._room = room
        self._lane = lane
        self._is_predictable = is_predictable
        self._clock = clock
        self._sizes = sizes
        self._waiting: deque[Task[Any]] = deque()  # Any: answers of either door
        self._waiting_rows = 0
        self._under_way: set[asyncio.Task[None]] = set()  # batches on threads
        self._is_round_coming = False
        self._was_crowd = False
        self._done_s = 0.0

    @property
    def signature(self) -> Signature:
        """The signature that all calls of the queue ask for."""
        return self._plan.signature

    def runs_alone(self, rows: int, now_s: float) -> bool:
        """Whether a call that comes now had better run at once: it is quick and has no company."""
        return not (
            self._was_crowd
            or self._waiting
            or self._under_way
            or (rows or 1) > self._here_rows
            or self._sizes.close_looks_left
            or now_s - self._done_s < CROWD_GAP_S
        )

    def ran_alone(self, rows: int, took_s: float, now_s: float) -> None:
        """A call that ran at once was answered, and took so long."""
        self._sizes.took_here(rows, took_s)
        self._done_s = now_s

    @property
    def _here_rows(self) -> int:
        return self._sizes.here_rows if self._is_predictable else 0

    def add(self, task: Task[T]) -> Task[T]:
        """Have a call run with others of this round, or as soon as a batch has ended.

        Raises:
            ResourceExhausted: too many wait already.
        """
        if self._is_full(task):
            self._drop_those_who_left()
            if self._is_full(task):
                task.handle.release()
                raise ResourceExhausted(
                    f"{len(self._waiting)} requests wait for {task.handle.id} already, "
                    f"{self._room.waiting_bytes} bytes in all queues; send fewer at a time"
                )
        self._waiting.append(task)
        self._waiting_rows += task.weight
        self._room.waiting_bytes += task.nbytes
        if not (self._is_round_coming or self._under_way):
            self._is_round_coming = True
            self._loop.call_soon(self._round)
        return task

    def _is_full(self, task: Task[Any]) -> bool:
        return (
            len(self._waiting) >= MAX_WAITING
            or self._room.waiting_bytes + task.nbytes > MAX_WAITING_BYTES
        )

    def _drop_those_who_left(self) -> None:
        staying = [task for task in self._drained() if self._still_waits(task)]
        for task in staying:
            self._waiting.append(task)
            self._waiting_rows += task.weight
            self._room.waiting_bytes += task.nbytes

    def _drained(self) -> list[Task[Any]]:
        return [self._next() for _ in range(len(self._waiting))]

    def _next(self) -> Task[Any]:
        task = self._waiting.popleft()
        self._waiting_rows -= task.weight
        self._room.waiting_bytes -= task.nbytes
        return task

    @staticmethod
    def _still_waits(task: Task[Any]) -> bool:
        if task.taker is not None:
            return True
        task.withdraw()
        task.handle.release()
        return False

    def _round(self) -> None:
        """Everybody has been heard, or a batch has ended: run what has gathered.

        While a batch runs the next one gathers, unless more wait already than one batch takes.
        """
        self._is_round_coming = False
        while self._waiting:
            batch_rows = self._sizes.there_rows()
            if not self._under_way and self._waiting_rows <= self._here_rows:
                self._run_here(self._take(self._here_rows))
                return
            is_busy = len(self._under_way) >= self._placement.threads_per_lane
            if is_busy or (self._under_way and self._waiting_rows <= batch_rows):
                return
            self._start(self._run_there(self._take(batch_rows), self._together_or_apart))

    def _take(self, most_rows: int) -> list[Task[Any]]:
        """The tasks of the next batch: one, and more as long as they are not too many rows.

        Whoever does not wait any more is left out.
        """
        tasks: list[Task[Any]] = []
        rows = nbytes = 0
        while waiting := self._waiting:
            rows += waiting[0].weight
            nbytes += waiting[0].nbytes
            if tasks and (rows > most_rows or nbytes > MAX_BATCH_BYTES):
                break
            task = self._next()
            if self._still_waits(task):
                tasks.append(task)
            else:
                rows, nbytes = rows - task.weight, nbytes - task.nbytes
        return tasks

    # Running.

    def _run_here(self, tasks: list[Task[Any]]) -> None:
        if not tasks:
            return
        rows = sum(task.rows for task in tasks)
        is_close = self._sizes.close_looks_left > 0
        try:
            outcome, cost_s = (
                self._placement.timed(partial(self._together, tasks))
                if is_close
                else (self._together(tasks), 0.0)
            )
        except Exception as error:  # noqa: BLE001 -- whatever it is, somebody waits for it
            self._tell_all(tasks, error)
            return
        if outcome is None:  # one by one they would keep everybody waiting
            self._start(self._run_there(tasks, self._apart))
            return
        if is_close:
            self._sizes.cost_here(rows, cost_s)
        elif outcome.is_whole:
            self._sizes.took_here(rows, outcome.took_s)
        self._hand_over(tasks, outcome)
        self._was_crowd = len(tasks) > 1
        self._done_s = self._clock()

    def _start(self, batch: Coroutine[Any, Any, None]) -> None:
        running = self._loop.create_task(batch)
        self._under_way.add(running)
        running.add_done_callback(self._ended)

    def _ended(self, running: asyncio.Task[None]) -> None:
        self._under_way.discard(running)
        self._done_s = self._clock()
        if not running.cancelled():
            self._round()

    async def _run_there(
        self, tasks: list[Task[Any]], run: Callable[[Sequence[Task[Any]]], _Outcome]
    ) -> None:
        """Run on a worker thread, and hand over what came of it."""
        if not tasks:
            return
        cost = _Cost()
        try:
            outcome = await self._placement.run_on_thread(
                cost, partial(run, tasks), lane=self._lane
            )
        except Exception as error:  # noqa: BLE001 -- whatever it is, somebody waits for it
            self._tell_all(tasks, error)
            return
        if outcome.is_whole:
            rows = sum(task.rows for task in tasks)
            self._sizes.took_there(rows, outcome.took_s, cost.seconds)
        self._was_crowd = len(tasks) > 1
        self._hand_over(tasks, outcome)

    def _together_or_apart(self, tasks: Sequence[Task[Any]]) -> _Outcome:
        return self._together(tasks) or self._apart(tasks)

    def _together(self, tasks: Sequence[Task[Any]]) -> _Outcome | None:
        """Answer tasks by one run; None if that failed for a reason that may be one task's."""
        started = self._clock()
        try:
            outputs = self._run(tasks, _patience_s(tasks, started))
        except ServingError as error:
            run_s = self._clock() - started
            if len(tasks) > 1 and not isinstance(error, (Cancelled, DeadlineExceeded)):
                return None
            count = len(tasks)
            return _Outcome([error] * count, [run_s] * count, 1, run_s, is_whole=False)
        run_s = self._clock() - started
        rows = sum(task.rows for task in tasks)
        if len(tasks) == 1:
            answers = [_written(tasks[0], outputs)]
        elif any(output.shape[:1] != (rows,) for output in outputs):
            return None
        else:
            answers = [
                _written(task, own) for task, own in zip(tasks, _split(tasks, outputs), strict=True)
            ]
        took_s = self._clock() - started
        return _Outcome(answers, [run_s] * len(tasks), 1, took_s, is_whole=True)

    def _apart(self, tasks: Sequence[Task[Any]]) -> _Outcome:
        """Answer tasks one by one, each in what is left of its time."""
        began = self._clock()
        answers: list[object] = []
        run_s: list[float] = []
        for task in tasks:
            started = self._clock()
            answers.append(self._alone(task, started))
            run_s.append(self._clock() - started)
        return _Outcome(answers, run_s, len(tasks), self._clock() - began, is_whole=False)

    def _alone(self, task: Task[Any], now_s: float) -> object:
        left_s = task.left_s(now_s)
        if task.taker is None or (left_s is not None and left_s <= 0):
            return DeadlineExceeded("Deadline Exceeded")
        try:
            return _written(task, self._run([task], left_s))
        except ServingError as error:
            return error

    def _run(self, tasks: Sequence[Task[Any]], timeout_s: float | None) -> list[np.ndarray]:
        """Run once, with the inputs of all tasks, row after row."""
        rows = sum(task.rows for task in tasks)
        inputs: list[np.ndarray] = [
            np.ndarray((rows, *shape), dtype, _joined([task.parts[position] for task in tasks]))
            for position, (dtype, shape) in enumerate(self._rows_of)
        ]
        return self._plan.run(tasks[0].handle.servable, inputs, timeout_s)

    # Handing over.

    def _hand_over(self, tasks: Sequence[Task[Any]], outcome: _Outcome) -> None:
        """Give each task what is its own, and count."""
        answered: dict[CallRecorder, list[tuple[float, float]]] = {}
        now = self._clock()
        for task, answer, run_s in zip(tasks, outcome.answers, outcome.run_s, strict=True):
            taker = task.taker
            try:
                if taker is None:
                    task.withdraw()
                elif isinstance(answer, ServingError):
                    task.fail(answer)
                else:
                    taker.succeed(answer)
                    times = (now - task.started) * 1e6, run_s * 1e6
                    answered.setdefault(task.recorder, []).append(times)
            except Exception:  # one must not silence the others
                logger.exception("Handing over an answer failed")
            finally:
                task.handle.release()
        for recorder, times_us in answered.items():
            recorder.succeeded_together(times_us)
        self._metrics.graph_runs.increment(by=outcome.runs)
        self._metrics.graph_run_time_usecs.increment(by=int(outcome.took_s * 1e6))

    @staticmethod
    def _tell_all(tasks: Sequence[Task[Any]], error: BaseException) -> None:
        if not isinstance(error, ServingError):
            logger.error("Running a batch failed", exc_info=error)
        told = error if isinstance(error, ServingError) else Internal(_FAILED)
        for task in tasks:
            try:
                if task.taker is None:
                    task.withdraw()
                else:
                    task.fail(told)
            except Exception:  # noqa: PERF203 -- one must not silence the others
                logger.exception("Handing over an error failed")
            finally:
                task.handle.release()


class BatchQueues:
    """The queues of one server; used on the event loop only."""

    def __init__(
        self,
        verdicts: Verdicts,
        placement: Placement,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._clock = clock
        self._verdicts = verdicts
        self._placement = placement
        self._loop = loop
        self._metrics = metrics
        self._room = _Room()
        self._queues: dict[tuple[object, ...], BatchQueue] = {}
        self._sizes: dict[tuple[object, ...], BatchSizes] = {}

    def queue(
        self,
        handle: ServableHandle[Servable],
        name: str,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str],
    ) -> BatchQueue | None:
        """The queue for calls like this one of a version's signature; None if it is not batched.

        ``inputs`` are by alias; only their types and shapes matter.
        """
        verdict = self._verdicts.of(handle.id).get(name)
        signature = handle.servable.signatures.get(name)
        if verdict is None or signature is None or not verdict.is_batchable:
            return None
        arrays = [inputs.get(alias) for alias in signature.inputs]
        rows_of = [
            (array.dtype, array.shape[1:])
            for array in arrays
            if array is not None and array.ndim and not array.dtype.hasobject
        ]
        if len(rows_of) < len(arrays) or len({len(a) for a in arrays if a is not None}) != 1:
            return None
        key = (handle.id, name, frozenset(output_filter), tuple(rows_of))
        queue = self._queues.get(key)
        if queue is None or queue.signature is not signature:
            if len(self._queues) >= MAX_QUEUES:
                self._queues.clear()
            queue = self._queues[key] = BatchQueue(
                PredictPlan(name, signature, list(signature.inputs), output_filter),
                rows_of,
                self._placement,
                self._loop,
                self._metrics,
                self._room,
                self._sizes_of((handle.id.name, *key[1:])),
                lane=handle.id.name,
                is_predictable=handle.servable.predictable,
                clock=self._clock,
            )
        return queue

    def _sizes_of(self, key: tuple[object, ...]) -> BatchSizes:
        """What is known of such calls, whatever the version: the next one is most often alike."""
        sizes = self._sizes.get(key)
        if sizes is None:
            if len(self._sizes) >= MAX_QUEUES:
                self._sizes.clear()
            sizes = self._sizes[key] = BatchSizes()
        return sizes

    def forget(self, servable_id: ServableId) -> None:
        """Let go of a version that has ended: a queue holds on to what it runs."""
        for key in [key for key in self._queues if key[0] == servable_id]:
            del self._queues[key]


def _written(task: Task[Any], outputs: list[np.ndarray]) -> object:
    """A task's answer, or the error that it becomes."""
    try:
        return task.written(task.handle.id.version, outputs)
    except ServingError as error:
        return error
    except Exception:
        logger.exception("Writing an answer failed")
        return Internal(_FAILED)


def _split(tasks: Sequence[Task[Any]], outputs: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Each task's own rows of the outputs."""
    start = 0
    for task in tasks:
        end = start + task.rows
        yield [output[start:end] for output in outputs]
        start = end


def _joined(parts: Sequence[Part]) -> bytes:
    return b"".join(parts)  # type: ignore[arg-type] # arrays are buffers, too


def _patience_s(tasks: Sequence[Task[Any]], now_s: float) -> float | None:
    """How long a batch may run: as long as the most patient of its clients waits."""
    longest_s = 0.0
    for task in tasks:
        left_s = task.left_s(now_s)
        if left_s is None:
            return None
        longest_s = max(longest_s, left_s)
    return longest_s
