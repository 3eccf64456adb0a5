"""The threads that run batches: ``batching/scheduler.py`` decides, they do.

All queues of a server share them.  A thread is started when there is a batch for it and no other
is idle, up to the number that was asked for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from salver.batching.scheduler import RunBatch, Scheduler, Task, TaskQueue
from salver.errors import ResourceExhausted, ServingError, Unavailable

logger = logging.getLogger(__name__)

LONGEST_NAP_S: Final = 3600.0
"""A lock cannot be waited for as long as an operator may write; whoever wakes looks again."""


class Waiting(Protocol):
    """A call that waits for its batch."""

    def fail(self, error: ServingError) -> None:
        """Let it hear that there will be none."""


W = TypeVar("W", bound=Waiting)


class BatchThreads(Generic[W]):
    """Runs batches of calls; any thread may submit.

    With a ``count`` of 0 there are no threads, and ``step`` is the caller's to call.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Task[W]]], None],
        count: int,
        *,
        name: str = "salver-batch",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``run`` runs a batch and tells its calls what came of it; it does not raise."""
        self._run = run
        self._count = count
        self._name = name
        self._clock = clock
        self._scheduler: Scheduler[W] = Scheduler()
        self._news = threading.Condition()
        self._started = 0
        self._idle = 0
        self._is_stopped = False

    def submit(self, queue: TaskQueue[W], call: W, rows: int) -> None:
        """Have a call wait in its queue.

        Raises:
            InvalidArgument, Unavailable: the queue does not take it.
            ResourceExhausted: there is no thread, and none can be started.
        """
        with self._news:
            if self._is_stopped:
                raise _ending()
            now_s, was_empty = self._clock(), not queue
            self._scheduler.add(queue, call, rows, now_s)
            ready_s = queue.ready_s()
            if not (was_empty or (ready_s is not None and ready_s <= now_s)):
                return  # whoever watches this queue knows until when
            try:
                self._wake_one()
            except ServingError:
                self._scheduler.withdraw(queue, call)
                raise

    def withdraw(self, queue: TaskQueue[W], call: W) -> None:
        """Take a call out of its queue; rows of it that run already go on."""
        with self._news:
            self._scheduler.withdraw(queue, call)

    def step(self) -> bool:
        """Run one batch here, if one may run now; whether there was one."""
        with self._news:
            decision = self._scheduler.decide(self._clock())
        if not isinstance(decision, RunBatch):
            return False
        self._run(decision.tasks)
        return True

    def stop(self) -> None:
        """End the threads once they have run what they run; whoever waits is told at once."""
        with self._news:
            self._is_stopped = True
            calls = self._scheduler.withdraw_all()
            self._news.notify_all()
        for call in calls:
            call.fail(_ending())

    def _wake_one(self) -> None:
        if self._idle:
            self._news.notify()
        elif self._started < self._count:
            name = f"{self._name}-{self._started + 1}"
            try:
                threading.Thread(target=self._work, name=name, daemon=True).start()
            except RuntimeError as error:
                if not self._started:
                    raise ResourceExhausted(f"no thread for batches: {error}") from error
            else:
                self._started += 1

    def _work(self) -> None:
        while (tasks := self._next_batch()) is not None:
            try:
                self._run(tasks)
            except Exception:  # noqa: PERF203 - a thread that ends would not come back
                logger.exception("A batch of %d tasks was not run to its end", len(tasks))

    def _next_batch(self) -> Sequence[Task[W]] | None:
        """Wait for the next batch; None when there will be no more."""
        with self._news:
            while not self._is_stopped:
                now_s = self._clock()
                decision = self._scheduler.decide(now_s)
                if isinstance(decision, RunBatch):
                    if self._scheduler:  # somebody else has to watch what is left
                        self._wake_one()
                    return decision.tasks
                self._idle += 1
                try:
                    self._news.wait(_nap_s(decision.time_s, now_s))
                finally:
                    self._idle -= 1
        return None


def _nap_s(until_s: float | None, now_s: float) -> float | None:
    return None if until_s is None else min(max(until_s - now_s, 0.0), LONGEST_NAP_S)


def _ending() -> Unavailable:
    return Unavailable("the server ends, and batches of it that wait are not run any more")
