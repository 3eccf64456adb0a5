"""What became of every version: the memory behind status calls and behind waiting for a start.

Written by the event bus on the manager's thread, read and waited on from any other.
A version that ended stays listed, as in TensorFlow Serving; only the oldest of many are forgotten,
so that a server which has seen a hundred thousand versions does not remember them all.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Final

from salver.core.event_bus import EventBus
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState

MAX_ENDED: Final = 10_000
"""Versions remembered after their end; the one that ended first is forgotten first."""

MAX_ENDED_OF_ONE: Final = 100
"""Of them, those of one servable."""

_REACHED: Final = frozenset({ManagerState.AVAILABLE, ManagerState.END})


class ServableStateMonitor:
    """Remembers the last state of every version that the bus told of, from its making on."""

    def __init__(
        self,
        bus: EventBus[ServableState],
        *,
        max_ended: int = MAX_ENDED,
        max_ended_of_one: int = MAX_ENDED_OF_ONE,
    ) -> None:
        self._max_ended = max_ended
        self._max_ended_of_one = max_ended_of_one
        self._lock = threading.Lock()
        self._states: dict[str, dict[int, ServableState]] = {}
        # In the order of their ends: all, and those of each name.
        self._ended: OrderedDict[ServableId, None] = OrderedDict()
        self._ended_of: dict[str, OrderedDict[ServableId, None]] = {}
        self._count = 0
        self._began: dict[ServableId, int] = {}  # the count when the life of each was first noted
        self._waits: list[Wait] = []
        self._listeners: tuple[Callable[[ServableState], None], ...] = ()
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

    def listen(self, callback: Callable[[ServableState], None]) -> None:
        """Call ``callback`` with every state, once it is known here and before a wait is over."""
        with self._lock:
            self._listeners = (*self._listeners, callback)

    def mark(self) -> int:
        """A moment, to tell lives that began after it from those before."""
        with self._lock:
            return self._count

    def reached(self, names: Collection[str], *, since: int = 0) -> dict[str, ServableState]:
        """For each of ``names`` the highest version that is available or ended.

        A name without such a version is left out.  With ``since``, what ended counts only if its
        life began after that mark.
        """
        with self._lock:
            return self._reached(names, since)

    def when_available_or_ended(
        self,
        names: Collection[str],
        callback: Callable[[dict[str, ServableState]], None],
        *,
        since: int = 0,
    ) -> Wait:
        """Call ``callback`` once, with ``reached(names)``, when that has covered all of ``names``.

        It is called at once if that is so now, else on the manager's thread.  Each state costs a
        wait the same, however many names it is for.
        """
        wait = Wait(self, frozenset(names), callback, since)
        with self._lock:
            wait.missing.difference_update(self._reached(wait.names, since))
            if wait.missing:
                self._waits.append(wait)
                return wait
            reached = self._reached(wait.names, since)
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
            for servable_id in list(self._ended_of.get(name, ())):
                self._forget(servable_id)

    def cancel(self, wait: Wait) -> None:
        """Forget a wait; one already over is no error."""
        with self._lock:
            if wait in self._waits:
                self._waits.remove(wait)

    def give_up(self, names: Collection[str], *, waits: Collection[Wait] | None = None) -> None:
        """Let no wait, or none of ``waits``, wait for ``names`` any more: they will not come."""
        with self._lock:
            chosen = [w for w in self._waits if waits is None or w in waits]
            over = self._over([wait for wait in chosen if wait.no_more(names)])
        for wait, reached in over:
            wait.callback(reached)

    def _note(self, state: ServableState) -> None:
        with self._lock:
            self._keep(state)
        for listener in self._listeners:
            listener(state)
        if state.manager_state not in _REACHED:
            return
        with self._lock:
            done = [wait for wait in self._waits if wait.no_more(self._names_reached(wait, state))]
            over = self._over(done)
        for wait, reached in over:
            wait.callback(reached)

    def _keep(self, state: ServableState) -> None:
        self._count += 1
        known = self._states.get(state.id.name, {}).get(state.id.version)
        if known is None or known.manager_state is ManagerState.END:
            self._began[state.id] = self._count
        self._states.setdefault(state.id.name, {})[state.id.version] = state
        self._count_no_longer(state.id)
        if state.manager_state is ManagerState.END:
            self._end(state.id)

    def _end(self, servable_id: ServableId) -> None:
        """Note an end; the first to have ended are forgotten, of this servable and of all."""
        of_one = self._ended_of.setdefault(servable_id.name, OrderedDict())
        self._ended[servable_id] = of_one[servable_id] = None
        if len(of_one) > self._max_ended_of_one:
            self._forget(next(iter(of_one)))
        if len(self._ended) > self._max_ended:
            self._forget(next(iter(self._ended)))

    def _count_no_longer(self, servable_id: ServableId) -> None:
        """Count a version among the ended ones no longer, if it was one."""
        if servable_id not in self._ended:
            return
        del self._ended[servable_id]
        of_one = self._ended_of[servable_id.name]
        del of_one[servable_id]
        if not of_one:
            del self._ended_of[servable_id.name]

    def _names_reached(self, wait: Wait, state: ServableState) -> tuple[str, ...]:
        """The name of ``state``, if it is one that ``wait`` has waited for."""
        is_news = state.id.name in wait.missing and self._counts(state, wait.since)
        return (state.id.name,) if is_news else ()

    def _counts(self, state: ServableState, since: int) -> bool:
        if state.manager_state is ManagerState.END:
            return self._began.get(state.id, self._count) > since
        return state.manager_state is ManagerState.AVAILABLE

    def _over(self, waits: list[Wait]) -> list[tuple[Wait, dict[str, ServableState]]]:
        """Take ``waits`` off the list; each with what it will be told."""
        for wait in waits:
            self._waits.remove(wait)
        return [(wait, self._reached(wait.names, wait.since)) for wait in waits]

    def _reached(self, names: Collection[str], since: int) -> dict[str, ServableState]:
        found = {name: self._first_reached(name, since) for name in names}
        return {name: state for name, state in found.items() if state is not None}

    def _first_reached(self, name: str, since: int) -> ServableState | None:
        states = self._states.get(name, {})
        there = [v for v, state in states.items() if self._counts(state, since)]
        return states[max(there)] if there else None

    def _forget(self, servable_id: ServableId) -> None:
        self._count_no_longer(servable_id)
        self._began.pop(servable_id, None)
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
        since: int,
    ) -> None:
        self.names = names
        self.missing = set(names)
        self.callback = callback
        self.since = since
        self._monitor = monitor

    def no_more(self, names: Collection[str]) -> bool:
        """Miss ``names`` no longer; say whether that was all.  Under the monitor's lock."""
        if not names:
            return False
        self.missing.difference_update(names)
        return not self.missing

    def give_up(self, names: Collection[str]) -> None:
        """Wait for ``names`` no longer; it may be over with that, and calls back if so."""
        self._monitor.give_up(names, waits=(self,))

    def cancel(self) -> None:
        """Never call back, unless that has happened already."""
        self._monitor.cancel(self)
