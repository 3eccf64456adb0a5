"""Batching without waiting: calls that arrive together run together, and none waits for another.

A call that comes alone runs at once, as if there were no batching.  Calls that come close upon each
other gather until the event loop has heard everybody who has spoken; what gathered while a batch
ran goes next.  So a batch is as large as the crowd, and no clock decides anything.

A queue is for the calls of one version that fit together: one signature, the same outputs, rows of
the same types and shapes.  Whatever goes wrong in a batch is found out again one by one, so that a
call fails for its own reasons only.

Everything here happens on the event loop but for ``_execute``, which may run on a worker thread.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar

import numpy as np

from salver.batching.sameness import Verdict
from salver.batching.sizes import BatchSizes
from salver.core.servable_id import ServableId
from salver.core.serving_map import ServableHandle
from salver.errors import Internal, ResourceExhausted, ServingError
from salver.inference import PredictPlan
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

MAX_WAITING_BYTES: Final = 256 << 20
"""Of their inputs."""

Part = bytes | np.ndarray
"""All rows of one input: their numbers in C order."""

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
        # All that Later's would do: one of these is made for every call in a crowd.
        self.taker = None
        self.may_take_long = True
        self.handle = handle
        self.parts = parts
        self.rows = rows
        self.nbytes = nbytes
        self.timeout_s = timeout_s
        self.recorder = recorder
        self.started = started

    @abstractmethod
    def written(self, version: int, outputs: list[np.ndarray]) -> T:
        """The answer with this task's rows of the outputs, by their first dimension."""

    @abstractmethod
    def failed(self, error: ServingError) -> None:
        """Count a failure, and hand it over."""

    def give(self, outputs: list[np.ndarray]) -> bool:
        """Hand over the answer with these rows; false if nobody takes it, or it went wrong."""
        taker = self.taker
        if taker is None:
            return False
        try:
            answer = self.written(self.handle.id.version, outputs)
        except ServingError as error:
            self.failed(error)
            return False
        taker.succeed(answer)
        return True

    def fail(self, error: BaseException) -> None:
        """Hand over what went wrong; a bug's trace is for the log."""
        if self.taker is None:
            return
        if not isinstance(error, ServingError):
            logger.error("Running a batch failed", exc_info=error)
            error = Internal(_FAILED)
        self.failed(error)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a batch: outputs of all tasks at once, or of each one by itself."""

    together: list[np.ndarray] | None
    one_by_one: Sequence[list[np.ndarray] | ServingError]
    took_s: float


class BatchQueue:
    """The calls of one sort that wait to be run."""

    def __init__(
        self,
        plan: PredictPlan,
        rows_of: Sequence[tuple[np.dtype[Any], tuple[int, ...]]],  # Any: of whatever type
        placement: Placement,
        loop: asyncio.AbstractEventLoop,
        *,
        is_predictable: bool,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """``rows_of`` has the type and the shape of a row of each input, in the plan's order."""
        self._plan = plan
        self._rows_of = rows_of
        self._placement = placement
        self._loop = loop
        self._is_predictable = is_predictable
        self._clock = clock
        self._sizes = BatchSizes()
        self._waiting: deque[Task[Any]] = deque()  # Any: answers of either door
        self._waiting_bytes = 0
        self._is_running = False
        self._is_round_coming = False
        self._was_crowd = False
        self._done_s = 0.0
        self._goes_to_threads = True

    @property
    def signature(self) -> Signature:
        """The signature that all calls of the queue ask for."""
        return self._plan.signature

    def runs_alone(self, rows: int, now_s: float) -> bool:
        """Whether a call that comes now had better run at once: it is quick and has no company."""
        return not (
            self._was_crowd
            or self._waiting
            or self._is_running
            or rows > self._here_rows
            or now_s - self._done_s < CROWD_GAP_S
        )

    def ran_alone(self, rows: int, took_s: float, now_s: float) -> None:
        """A call that ran at once is done, and took so long."""
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
        self._waiting_bytes += task.nbytes
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES:
            self._waiting_bytes -= task.nbytes
            task.handle.release()
            raise ResourceExhausted(
                f"{len(self._waiting)} requests with {self._waiting_bytes} bytes wait for "
                f"{task.handle.id} already; send fewer at a time"
            )
        task.may_take_long = self._goes_to_threads
        self._waiting.append(task)
        if not (self._is_round_coming or self._is_running):
            self._is_round_coming = True
            self._loop.call_soon(self._round)
        return task

    def _round(self) -> None:
        """Everybody has been heard: run what has gathered."""
        self._is_round_coming = False
        if self._is_running or not self._waiting:
            return  # what gathers goes when the batch under way has ended
        here_rows = self._here_rows
        self._goes_to_threads = self._waiting_rows() > here_rows
        if self._goes_to_threads:
            self._run_there(self._take(self._sizes.there_rows()))
        else:
            self._run_here(self._take(here_rows))

    def _waiting_rows(self) -> int:
        return sum(task.rows for task in self._waiting)

    def _take(self, most_rows: int) -> list[Task[Any]]:
        """The tasks of the next batch: at least one, and no more rows than that if they are many.

        Whoever does not wait any more is left out.
        """
        tasks: list[Task[Any]] = []
        rows = 0
        waiting = self._waiting
        while waiting and (not tasks or rows + waiting[0].rows <= most_rows):
            task = waiting.popleft()
            self._waiting_bytes -= task.nbytes
            if task.taker is None:
                task.handle.release()
                continue
            rows += task.rows
            tasks.append(task)
        return tasks

    def _run_here(self, tasks: list[Task[Any]]) -> None:
        if not tasks:
            return
        outcome = self._execute(tasks)
        self._sizes.took_here(sum(task.rows for task in tasks), outcome.took_s)
        self._hand_over(tasks, outcome)
        self._was_crowd = len(tasks) > 1
        self._done_s = self._clock()

    def _run_there(self, tasks: list[Task[Any]]) -> None:
        """Run on a worker thread, and have the loop hand over what came of it."""
        if not tasks:
            return
        self._is_running = True
        self._placement.start_on_thread(
            self._loop,
            partial(self._execute, tasks),
            partial(self._ran_there, tasks),
            partial(self._broke, tasks),
        )

    def _ran_there(self, tasks: list[Task[Any]], outcome: _Outcome, cost_s: float) -> None:
        rows = sum(task.rows for task in tasks)
        self._sizes.took_there(rows, outcome.took_s, cost_s)
        self._was_crowd = len(tasks) > 1
        self._hand_over(tasks, outcome)
        self._end_batch()

    def _broke(self, tasks: list[Task[Any]], error: BaseException) -> None:
        for task in tasks:
            task.fail(error)
            task.handle.release()
        self._end_batch()

    def _end_batch(self) -> None:
        self._is_running = False
        self._done_s = self._clock()
        self._round()

    def _execute(self, tasks: Sequence[Task[Any]]) -> _Outcome:
        """Run a batch, and if that fails its tasks one by one."""
        servable = tasks[0].handle.servable
        started = self._clock()
        if len(tasks) > 1:
            with suppress(ServingError):
                together = self._plan.run(servable, self._joined(tasks), _patience_s(tasks))
                rows = sum(task.rows for task in tasks)
                if all(output.shape[:1] == (rows,) for output in together):
                    return _Outcome(together, (), self._clock() - started)
        alone: list[list[np.ndarray] | ServingError] = []
        for task in tasks:
            try:
                alone.append(self._plan.run(servable, self._joined([task]), task.timeout_s))
            except ServingError as error:  # noqa: PERF203 -- each has an end of its own
                alone.append(error)
        return _Outcome(None, alone, self._clock() - started)

    def _joined(self, tasks: Sequence[Task[Any]]) -> list[np.ndarray]:
        """The inputs of all tasks, row after row."""
        rows = sum(task.rows for task in tasks)
        return [
            np.ndarray((rows, *shape), dtype, _joined([task.parts[position] for task in tasks]))
            for position, (dtype, shape) in enumerate(self._rows_of)
        ]

    def _hand_over(self, tasks: Sequence[Task[Any]], outcome: _Outcome) -> None:
        run_us = outcome.took_s * 1e6
        if outcome.together is None:
            for task, outputs in zip(tasks, outcome.one_by_one, strict=True):
                self._hand_to([task], [outputs], run_us)
        else:
            self._hand_to(tasks, _split(tasks, outcome.together), run_us)

    def _hand_to(
        self,
        tasks: Sequence[Task[Any]],
        results: Iterable[list[np.ndarray] | ServingError],
        run_us: float,
    ) -> None:
        """Give each of the tasks of one run what is its own, and count those that took it."""
        answered: dict[CallRecorder, list[float]] = {}
        for task, result in zip(tasks, results, strict=True):
            try:
                if isinstance(result, ServingError):
                    task.fail(result)
                elif task.give(result):
                    answered.setdefault(task.recorder, []).append(task.started)
            except Exception as error:  # noqa: BLE001, PERF203 -- one must not silence the others
                task.fail(error)
            finally:
                task.handle.release()
        now = self._clock()
        for position, (recorder, started) in enumerate(answered.items()):
            tooks_us = [(now - each) * 1e6 for each in started]
            recorder.succeeded_together(tooks_us, run_us, counts_run=position == 0)


class BatchQueues:
    """The queues of one server; used on the event loop only."""

    def __init__(
        self,
        verdicts: Verdicts,
        placement: Placement,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._clock = clock
        self._verdicts = verdicts
        self._placement = placement
        self._loop = loop
        self._queues: dict[tuple[object, ...], BatchQueue] = {}

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
        key = (handle.id, name, tuple(output_filter), tuple(rows_of))
        queue = self._queues.get(key)
        if queue is None or queue.signature is not signature:
            if len(self._queues) >= MAX_QUEUES:
                self._queues.clear()
            queue = self._queues[key] = BatchQueue(
                PredictPlan(name, signature, list(signature.inputs), output_filter),
                rows_of,
                self._placement,
                self._loop,
                is_predictable=handle.servable.predictable,
                clock=self._clock,
            )
        return queue


def _split(tasks: Sequence[Task[Any]], outputs: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Each task's own rows of the outputs."""
    start = 0
    for task in tasks:
        end = start + task.rows
        yield [output[start:end] for output in outputs]
        start = end


def _joined(parts: Sequence[Part]) -> bytes:
    return b"".join(parts)  # type: ignore[arg-type] # arrays are buffers, too


def _patience_s(tasks: Sequence[Task[Any]]) -> float | None:
    """How long a batch may run: as long as the most patient of its clients waits."""
    longest_s = 0.0
    for task in tasks:
        if task.timeout_s is None:
            return None
        longest_s = max(longest_s, task.timeout_s)
    return longest_s
