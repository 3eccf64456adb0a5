"""What a thread itself did with the time on the clock.

Between two looks at the clock a thread may have worked, may have waited for something, or may have
been ready while the machine ran others (another process, a container's limit, a virtual machine's
host).  Only the first two are the doing of what it ran.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Final, NamedTuple


class ThreadTime(NamedTuple):
    """What one thread has done since it began."""

    cpu_s: float
    waits: int
    """How often it gave the processor up by itself: to wait for a lock, a pool, a disk."""


ThreadClock = Callable[[], ThreadTime]

_OF_THIS_THREAD: Final = getattr(resource, "RUSAGE_THREAD", None)


def thread_time() -> ThreadTime:
    """The calling thread's time so far; costs a microsecond.

    Where the system does not say, all of the clock's time counts as the thread's.
    """
    if _OF_THIS_THREAD is None:
        return ThreadTime(time.perf_counter(), 0)
    # The usage has times too, but they lag behind by up to a tick of the scheduler.
    return ThreadTime(time.thread_time(), resource.getrusage(_OF_THIS_THREAD).ru_nvcsw)
