"""TensorFlow Serving's batching: a servable around a servable, whose runs wait for their batch.

A run holds its thread until the batch that it is part of has run, or been refused.  Calls share a
batch if they feed and fetch the same tensors of one version, with elements of the same types.
Whatever goes wrong with a batch is what each of its calls hears, as in TensorFlow Serving.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Final, Protocol

import numpy as np

from salver.batching.batcher import join, merge, padding_rows, rows_of, split
from salver.batching.parameters import BatchingParameters
from salver.batching.scheduler import Task, TaskQueue, deadline_s, last_deadline_s
from salver.core.loader import Cancellable, Loader
from salver.errors import Cancelled, ServingError
from salver.servables.batch_threads import BatchThreads
from salver.servables.servable import PreparedRun, Servable
from salver.signature import Signature

logger = logging.getLogger(__name__)

MAX_IDLE_QUEUES: Final = 64
"""Queues of a version that are kept while nobody waits in them: a peer may ask for any outputs."""

Clock = Callable[[], float]

_Key = tuple[frozenset[tuple[str, np.dtype]], frozenset[str]]
"""What is fed, of which types, and what is fetched, by names of the graph."""


class Observer(Protocol):
    """Who is told of batches.  Called from the threads that run them."""

    def left_queue(self, waited_us: Sequence[float]) -> None:
        """Tasks are taken out of their queue, after so long."""

    def will_run(self, input_rows: Sequence[int], rows: int, padding: int) -> None:
        """A batch is run: the rows of each tensor that was joined, of the batch, of padding."""


class PendingRun:
    """A call that waits for its batch.  ``result`` is called once, ``cancel`` at any time."""

    def __init__(self, call: Call, fetches: Sequence[str], threads: BatchThreads[Call]) -> None:
        self._call = call
        self._fetches = fetches
        self._threads = threads

    def result(self) -> list[np.ndarray]:
        """Wait for the results.

        Raises:
            ServingError: what became of the batch.
        """
        try:
            outputs = self._call.answer.result()
        except ServingError:
            raise
        except BaseException:
            self.cancel()  # the thread is to do something else
            raise
        fetched = self._call.line.fetches  # the same ones, maybe in another order
        if fetched == tuple(self._fetches):
            return outputs
        return [outputs[fetched.index(name)] for name in self._fetches]

    def cancel(self) -> None:
        """Take the call out of its queue; if its rows run already nobody hears of their results."""
        self._threads.withdraw(self._call.line.queue, self._call)
        self._call.fail(Cancelled("the call was withdrawn while it waited for its batch"))


class Call:
    """The tensors of one call, and its answer once there is one: exactly one.

    Its tasks may run on several threads, each of which gives what is its own.
    """

    def __init__(
        self, line: Line, tensors: Sequence[np.ndarray], rows: int, now_s: float, due_s: float
    ) -> None:
        self.line = line
        self.tensors = tensors
        self.enqueued_s = now_s
        self.deadline_s = due_s
        self.answer: Future[list[np.ndarray]] = Future()
        self._rows = rows
        self._rows_given = 0
        self._pieces: dict[int, list[np.ndarray]] = {}
        self._lock = threading.Lock()

    def inputs(self, task: Task[Call]) -> Sequence[np.ndarray]:
        """The rows of a task."""
        if task.size == self._rows:
            return self.tensors
        return [tensor[task.start : task.end] for tensor in self.tensors]

    def give(self, task: Task[Call], outputs: list[np.ndarray]) -> None:
        """Take the results of a task; with the last of them the call is answered."""
        with self._lock:
            self._pieces[task.start] = outputs
            self._rows_given += task.size
            if self._rows_given < self._rows or self.answer.done():
                return
            try:
                whole = join([self._pieces[start] for start in sorted(self._pieces)])
            except BaseException as error:  # noqa: BLE001 - whatever it is, somebody waits for it
                self.answer.set_exception(error)
            else:
                self.answer.set_result(whole)

    def fail(self, error: BaseException) -> None:
        """Answer the call with an error, unless it has an answer."""
        with self._lock:
            if not self.answer.done():
                self.answer.set_exception(error)


class Line:
    """The calls that may share a batch: who feeds and fetches what, and what is waiting."""

    def __init__(
        self,
        servable: Servable,
        feeds: Sequence[str],
        fetches: Sequence[str],
        parameters: BatchingParameters,
        observer: Observer,
        clock: Clock,
    ) -> None:
        self.feeds = tuple(feeds)
        self.fetches = tuple(fetches)
        self.queue: TaskQueue[Call] = TaskQueue(parameters)
        self._servable = servable
        self._parameters = parameters
        self._observer = observer
        self._clock = clock

    def run(self, tasks: Sequence[Task[Call]]) -> None:
        """Run a batch; each of its calls gets what is its own, or the error of all."""
        try:
            results = self._results(tasks)
        except ServingError as error:
            for task in tasks:  # to each its own: a traceback grows wherever it is raised
                task.item.fail(type(error)(error.message))
        except BaseException as error:  # noqa: BLE001 - whatever it is, somebody waits for it
            for task in tasks:
                task.item.fail(error)
        else:
            for task, outputs in zip(tasks, results, strict=True):
                task.item.give(task, outputs)

    def _results(self, tasks: Sequence[Task[Call]]) -> list[list[np.ndarray]]:
        now_s = self._clock()
        self._observer.left_queue([(now_s - task.enqueued_s) * 1e6 for task in tasks])
        until_s = last_deadline_s([task.item.deadline_s for task in tasks], now_s)
        calls = [task.item.inputs(task) for task in tasks]
        sizes = [task.size for task in tasks]
        padding = padding_rows(sum(sizes), self._parameters.allowed_batch_sizes)
        inputs = merge(
            self.feeds,
            calls,
            padding=padding,
            pads_variable_lengths=self._parameters.pad_variable_length_inputs,
        )
        self._observer.will_run([size for size in sizes for _ in self.feeds], sum(sizes), padding)
        outputs = self._servable.run(
            dict(zip(self.feeds, inputs, strict=True)), self.fetches, timeout_s=until_s - now_s
        )
        return split(outputs, sizes, padding=padding)


class BatchedServable:
    """A servable whose runs are batched (the contract is ``servable.Servable``)."""

    def __init__(
        self,
        servable: Servable,
        parameters: BatchingParameters,
        threads: BatchThreads[Call],
        observer: Observer,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        """``clock`` is the one of ``threads``."""
        self._servable = servable
        self._parameters = parameters
        self._threads = threads
        self._observer = observer
        self._clock = clock
        self._lock = threading.Lock()
        self._lines: OrderedDict[_Key, Line] = OrderedDict()  # newest use last

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """As the servable's."""
        return self._servable.signatures

    @property
    def signature_defs(self) -> Mapping[str, bytes]:
        """As the servable's."""
        return self._servable.signature_defs

    @property
    def predictable(self) -> bool:
        """Never: a run may wait for a timeout, or for others."""
        return False

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        """Wait for a batch to be run; what comes of it."""
        return self.start(feeds, fetches, timeout_s=timeout_s).result()

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        """As ``run``."""
        names = tuple(feeds)

        def run(tensors: Sequence[np.ndarray], timeout_s: float | None) -> list[np.ndarray]:
            return self.run(dict(zip(names, tensors, strict=True)), fetches, timeout_s=timeout_s)

        return run

    def start(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> PendingRun:
        """Have a call wait for its batch, and do not wait for it.

        Raises:
            InvalidArgument: its tensors are no rows, or too many.
            Unavailable: too many wait already.
        """
        rows = rows_of(feeds.values())
        line = self._line(feeds, fetches)
        now_s = self._clock()
        call = Call(
            line,
            [feeds[name] for name in line.feeds],
            rows,
            now_s,
            deadline_s(now_s, timeout_s),
        )
        self._threads.submit(line.queue, call, rows)
        return PendingRun(call, fetches, self._threads)

    def _line(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> Line:
        """Where calls like this one wait.

        Tensors of other types could not be joined; apart, only a call that has them fails.
        """
        key = frozenset((name, each.dtype) for name, each in feeds.items()), frozenset(fetches)
        with self._lock:
            line = self._lines.get(key)
            if line is None:
                self._forget_idle()
                line = self._lines[key] = Line(
                    self._servable,
                    tuple(feeds),
                    tuple(dict.fromkeys(fetches)),
                    self._parameters,
                    self._observer,
                    self._clock,
                )
            self._lines.move_to_end(key)
            return line

    def _forget_idle(self) -> None:
        """Make room for a queue; those that somebody waits in are as many as there are threads."""
        for key, line in list(self._lines.items()):
            if len(self._lines) < MAX_IDLE_QUEUES:
                return
            if not line.queue:
                del self._lines[key]


class BatchedLoader:
    """Loads what another loader loads, and has its runs batched where there are parameters."""

    def __init__(
        self,
        loader: Loader[Servable],
        read_parameters: Callable[[], BatchingParameters | None],
        threads: BatchThreads[Call],
        observer: Observer,
    ) -> None:
        """``read_parameters`` is called by each load; None where a version is not batched."""
        self._loader = loader
        self._read_parameters = read_parameters
        self._threads = threads
        self._observer = observer
        self._parameters: BatchingParameters | None = None

    def estimate_resources(self) -> int:
        """As the loader's."""
        return self._loader.estimate_resources()

    def load(self) -> None:
        """Read the parameters and load; a version whose parameters are wrong is not loaded.

        Raises:
            ServingError: they are, or the loader raised it.
        """
        self._parameters = self._read_parameters()
        self._loader.load()
        if self._parameters is not None:
            logger.info("Wrapping session to perform batch processing")

    def cancel(self) -> None:
        """End the load under way soon, if the loader can."""
        if isinstance(self._loader, Cancellable):
            self._loader.cancel()

    def unload(self) -> None:
        """Unload."""
        self._loader.unload()

    def servable(self) -> Servable:
        """What was loaded, with its runs batched."""
        loaded = self._loader.servable()
        if self._parameters is None:
            return loaded
        return BatchedServable(loaded, self._parameters, self._threads, self._observer)


def run_batch(tasks: Sequence[Task[Call]]) -> None:
    """What the threads of ``BatchedServable``s do with a batch."""
    tasks[0].item.line.run(tasks)
