"""Which batch runs next, and when: queue contents and now go in, a decision comes out.

The rules are TensorFlow Serving's.  A queue holds batches, of which only the last is open.  The
open one may run when it is full, or when the first of its tasks has waited for the timeout; a task
that finds no room closes it.  Queues take turns, one batch each.

There is no clock and no thread here, and nothing is locked: one caller at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from salver.batching.parameters import BatchingParameters
from salver.errors import InvalidArgument, ResourceExhausted, Unavailable

T = TypeVar("T")

LONGEST_WAIT_S: Final = ((1 << 31) - 1) / 1e6
"""How long a task without a timeout may wait: as many microseconds as an int32 holds."""


@dataclass(frozen=True, slots=True)
class Task(Generic[T]):
    """Some rows of a call, all of them unless it was split."""

    item: T
    start: int
    end: int
    enqueued_s: float

    @property
    def size(self) -> int:
        """How many rows."""
        return self.end - self.start


@dataclass(slots=True)
class _Batch(Generic[T]):
    tasks: list[Task[T]] = field(default_factory=list)
    size: int = 0

    def add(self, task: Task[T]) -> None:
        self.tasks.append(task)
        self.size += task.size

    def remove(self, item: T) -> None:
        self.tasks = [task for task in self.tasks if task.item is not item]
        self.size = sum(task.size for task in self.tasks)


class TaskQueue(Generic[T]):
    """The tasks of one tensor set of one version that wait, as batches."""

    def __init__(self, parameters: BatchingParameters) -> None:
        self._max_input_size = parameters.max_batch_size
        self._max_size = parameters.max_execution_batch_size
        self._max_batches = parameters.max_enqueued_batches
        self._timeout_s = parameters.batch_timeout_micros / 1e6
        self._splits = parameters.enable_large_batch_splitting
        self._batches: deque[_Batch[T]] = deque([_Batch()])  # never empty; the last is open

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._batches[0].tasks)

    @property
    def batch_sizes(self) -> list[int]:
        """The rows of each batch that waits, the open one last."""
        return [batch.size for batch in self._batches]

    def add(self, item: T, size: int, now_s: float) -> None:
        """Have a call of ``size`` rows wait for its batch, or its batches.

        Raises:
            InvalidArgument: it is larger than calls may be.
            Unavailable: the queue is full.
        """
        if size > self._max_input_size:
            raise InvalidArgument(
                f"Task size {size} is larger than maximum input batch size {self._max_input_size}"
            )
        if self._splits:
            self._check_capacity(size)
        elif self._open.size + size > self._max_size:
            self._check_batches()
        for start, end in self._pieces(size):
            if self._open.size + end - start > self._max_size:
                self._batches.append(_Batch())
            self._open.add(Task(item, start, end, now_s))

    def withdraw(self, item: T) -> None:
        """Take out what waits of a call; a batch without tasks goes too, unless it is open."""
        for batch in self._batches:
            batch.remove(item)
        *closed, last = self._batches
        self._batches = deque([*(batch for batch in closed if batch.tasks), last])

    def ready_s(self) -> float | None:
        """When the first batch may run, which may be past; None where nothing waits."""
        first = self._batches[0]
        if not first.tasks:
            return None
        since_s = first.tasks[0].enqueued_s
        is_whole = len(self._batches) > 1 or first.size >= self._max_size
        return since_s if is_whole else since_s + self._timeout_s

    def take(self) -> list[Task[T]]:
        """The tasks of the first batch, which wait no more."""
        batch = self._batches.popleft()
        if not self._batches:
            self._batches.append(_Batch())
        return batch.tasks

    def items(self) -> Iterator[T]:
        """Every call that waits, as often as it was split."""
        return (task.item for batch in self._batches for task in batch.tasks)

    @property
    def _open(self) -> _Batch[T]:
        return self._batches[-1]

    def _pieces(self, size: int) -> Iterator[tuple[int, int]]:
        """A call's rows by batch: the first piece fills the open batch, the others are whole."""
        if not self._splits:
            yield 0, size
            return
        room = self._max_size - self._open.size
        start, end = 0, min(size, room or self._max_size)
        yield start, end
        while end < size:
            start, end = end, min(size, end + self._max_size)
            yield start, end

    def _check_batches(self) -> None:
        """Without splitting, only a task that needs a new batch can come too late."""
        if len(self._batches) >= self._max_batches:
            raise Unavailable(
                "The batch scheduling queue to which this task was submitted is full; currently "
                f"{len(self._batches)} batches enqueued and max_enqueued_batches is "
                f"{self._max_batches}"
            )

    def _check_capacity(self, size: int) -> None:
        room = self._max_size - self._open.size
        capacity = (self._max_batches - len(self._batches)) * self._max_size + room
        if size > capacity:
            raise Unavailable(
                "The batch scheduling queue to which this task was submitted is full; task size "
                f"is {size} but scheduling capacity is only {capacity} "
                f"(num_enqueued_batches={len(self._batches)}, "
                f"max_enqueued_batches={self._max_batches}, "
                f"open_batch_size={self._open.size}, "
                f"max_execution_batch_size={self._max_size})"
            )


@dataclass(frozen=True, slots=True)
class RunBatch(Generic[T]):
    """These tasks are to run now, as one; they are in no queue any more."""

    tasks: list[Task[T]]


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing may run before that time; with None, before another task comes."""

    time_s: float | None


class Scheduler(Generic[T]):
    """The queues that share threads, in the order of their turns; empty ones are forgotten."""

    def __init__(self) -> None:
        self._queues: deque[TaskQueue[T]] = deque()

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._queues)

    def add(self, queue: TaskQueue[T], item: T, size: int, now_s: float) -> None:
        """As ``TaskQueue.add``; a queue that was empty has its turn after the others."""
        was_empty = not queue
        queue.add(item, size, now_s)
        if was_empty:
            self._queues.append(queue)

    def withdraw(self, queue: TaskQueue[T], item: T) -> None:
        """As ``TaskQueue.withdraw``."""
        queue.withdraw(item)
        self._queues = deque(each for each in self._queues if each)

    def withdraw_all(self) -> list[T]:
        """Every call that waits; nothing does any more."""
        items = {id(item): item for queue in self._queues for item in queue.items()}
        for queue in self._queues:
            while queue:
                queue.take()
        self._queues.clear()
        return list(items.values())

    def decide(self, now_s: float) -> RunBatch[T] | WaitUntil:
        """The first batch that may run, in the order of turns, or how long there is none."""
        ready_s = None
        for turn, queue in enumerate(self._queues):
            queue_s = queue.ready_s()
            if queue_s is not None and queue_s <= now_s:
                tasks = queue.take()
                self._queues.rotate(-turn - 1)  # the queues after this one are next
                if not queue:
                    self._queues.pop()
                return RunBatch(tasks)
            if queue_s is not None and (ready_s is None or queue_s < ready_s):
                ready_s = queue_s
        return WaitUntil(ready_s)


def deadline_s(now_s: float, timeout_s: float | None) -> float:
    """When a call that came now has waited too long."""
    return now_s + (timeout_s if timeout_s is not None and timeout_s > 0 else LONGEST_WAIT_S)


def last_deadline_s(deadlines_s: Iterable[float], now_s: float) -> float:
    """Until when a batch may run: as long as the most patient of its calls waits.

    One whose time is over gets an answer all the same, as long as another one's is not.

    Raises:
        ResourceExhausted: the time of all of them is over.
    """
    last_s = max(deadlines_s)
    if last_s <= now_s:
        raise ResourceExhausted("Run() timeout exceeded while waiting in batching queue")
    return last_s
