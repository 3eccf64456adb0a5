"""What became of every version: the memory behind status calls and behind waiting for a start.

Written by the event bus on the manager's thread, read and waited on from any other.
A version that ended stays listed, as in TensorFlow Serving; only the oldest of very many are
forgotten, so that a server which has seen a hundred thousand versions does not remember them all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Final

from salver.core.event_bus import EventBus
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState

MAX_ENDED: Final = 10_000
"""Versions remembered after their end; the one that ended first is forgotten first."""

_REACHED: Final = frozenset({ManagerState.AVAILABLE, ManagerState.END})


class ServableStateMonitor:
    """Remembers the last state of every version that the bus told of, from its making on."""

    def __init__(self, bus: EventBus[ServableState], *, max_ended: int = MAX_ENDED) -> None:
        self._max_ended = max_ended
        self._lock = threading.Lock()
        self._states: dict[str, dict[int, ServableState]] = {}
        self._ended: dict[ServableId, None] = {}  # in the order of their ends
        self._waits: list[Wait] = []
        self._subscription = bus.subscribe(self._note)

    def close(self) -> None:
        """Learn nothing more; what is known stays readable."""
        self._subscription.close()

    def names(self) -> list[str]:
        """Every servable ever heard of, sorted."""
        with self._lock:
            return sorted(self._states)

    def versions(self, name: str) -> dict[int, ServableState]:
        """The state of every version of ``name``, highest version first."""
        with self._lock:
            return dict(sorted(self._states.get(name, {}).items(), reverse=True))

    def state(self, servable_id: ServableId) -> ServableState | None:
        """The last state of one version, or None where it was never heard of."""
        with self._lock:
            return self._states.get(servable_id.name, {}).get(servable_id.version)

    def reached(self, names: Collection[str]) -> dict[str, ServableState]:
        """For each of ``names`` the highest version that is available or ended.

        A name without such a version is left out.
        """
        with self._lock:
            return self._reached(names)

    def when_available_or_ended(
        self, names: Collection[str], callback: Callable[[dict[str, ServableState]], None]
    ) -> Wait:
        """Call ``callback`` once, with ``reached(names)``, when that covers all of ``names``.

        It is called at once if that is so now, else on the manager's thread.
        """
        wait = Wait(self, frozenset(names), callback)
        with self._lock:
            reached = self._reached(wait.names)
            if len(reached) < len(wait.names):
                self._waits.append(wait)
                return wait
        callback(reached)
        return wait

    def wait_until_available_or_ended(
        self, names: Collection[str], timeout_s: float | None = None
    ) -> dict[str, ServableState]:
        """Wait until each of ``names`` has a version available or ended; give ``reached(names)``.

        After ``timeout_s`` the answer covers only those that got there.
        """
        done = threading.Event()
        wait = self.when_available_or_ended(names, lambda _: done.set())
        try:
            done.wait(timeout_s)
        finally:
            wait.cancel()
        return self.reached(names)

    def forget_ended(self, name: str) -> None:
        """Drop every version of ``name`` that ended, so that a wait means what comes next."""
        with self._lock:
            for servable_id in [known for known in self._ended if known.name == name]:
                self._forget(servable_id)

    def cancel(self, wait: Wait) -> None:
        """Forget a wait; one already over is no error."""
        with self._lock:
            if wait in self._waits:
                self._waits.remove(wait)

    def _note(self, state: ServableState) -> None:
        with self._lock:
            self._states.setdefault(state.id.name, {})[state.id.version] = state
            self._ended.pop(state.id, None)
            if state.manager_state is ManagerState.END:
                self._ended[state.id] = None
            over = [(wait, self._reached(wait.names)) for wait in self._waits]
            over = [(wait, reached) for wait, reached in over if len(reached) == len(wait.names)]
            for wait, _ in over:
                self._waits.remove(wait)
            while len(self._ended) > self._max_ended:
                self._forget(next(iter(self._ended)))
        for wait, reached in over:
            wait.callback(reached)

    def _reached(self, names: Collection[str]) -> dict[str, ServableState]:
        found = {name: self._first_reached(name) for name in names}
        return {name: state for name, state in found.items() if state is not None}

    def _first_reached(self, name: str) -> ServableState | None:
        states = self._states.get(name, {})
        there = [v for v, state in states.items() if state.manager_state in _REACHED]
        return states[max(there)] if there else None

    def _forget(self, servable_id: ServableId) -> None:
        del self._ended[servable_id]
        versions = self._states[servable_id.name]
        del versions[servable_id.version]
        if not versions:
            del self._states[servable_id.name]


class Wait:
    """A callback that is still to come, until it is cancelled."""

    def __init__(
        self,
        monitor: ServableStateMonitor,
        names: frozenset[str],
        callback: Callable[[dict[str, ServableState]], None],
    ) -> None:
        self.names = names
        self.callback = callback
        self._monitor = monitor

    def cancel(self) -> None:
        """Never call back, unless that has happened already."""
        self._monitor.cancel(self)
