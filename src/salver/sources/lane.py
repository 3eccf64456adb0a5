"""A few threads for work that waits for one store, and for no other.

A thread lives as long as there is work, and never holds up the end of the process.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

Job = Callable[[], None]


class Lane:
    """Runs jobs in their order, ``threads`` at a time at most. Any thread may call."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._threads = threads
        self._lock = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._running = 0
        self._is_closed = False

    def submit(self, job: Job) -> None:
        """Run ``job`` when its turn comes; after ``close`` never."""
        with self._lock:
            if self._is_closed:
                return
            self._jobs.append(job)
            if self._running == self._threads:
                return
            self._running += 1
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def close(self) -> None:
        """Begin no further job; those that run are not waited for."""
        with self._lock:
            self._is_closed = True
            self._jobs.clear()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            self._try(job)

    def _try(self, job: Job) -> None:
        try:
            job()
        except Exception:
            logger.exception("A job of %s failed", self._name)

    def _next(self) -> Job | None:
        with self._lock:
            if self._jobs:
                return self._jobs.popleft()
            self._running -= 1
            return None
