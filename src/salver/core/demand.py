"""Who waits for a version that was asked for while it was out of memory.

Any thread may ask; the manager's thread answers.  All who ask for one version share one answer.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future

from salver.core.servable_id import ServableId
from salver.errors import ServingError


class Demands:
    """The versions asked for, each with the future of its coming."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[ServableId, Future[None]] = {}

    def add(self, servable_id: ServableId) -> tuple[Future[None], bool]:
        """The future of a version, and whether nobody had asked for it.

        It is never cancelled by one of those who wait: wrap it.
        """
        with self._lock:
            known = self._waiting.get(servable_id)
            if known is not None:
                return known, False
            new: Future[None] = Future()
            new.set_running_or_notify_cancel()
            self._waiting[servable_id] = new
            return new, True

    def __contains__(self, servable_id: ServableId) -> bool:
        return servable_id in self._waiting

    def answer(self, servable_id: ServableId, error: ServingError | None) -> None:
        """Tell those who wait for a version that it is there, or why it will not be."""
        with self._lock:
            waiting = self._waiting.pop(servable_id, None)
        if waiting is None:
            return
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(error)
