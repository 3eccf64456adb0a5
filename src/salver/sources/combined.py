"""One source of two kinds: folders of this machine, and remote stores.

Which of the two looks after a servable is told by its base path.  Nothing of the remote kind is
made before a base path asks for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from salver.core.servable_data import ServableData
from salver.core.source import Target
from salver.sources.file_system import (
    FileSystemSource,
    MonitoredServable,
    SourceStatistics,
    by_name,
)
from salver.sources.remote import RemoteSource
from salver.sources.stores import is_remote


class _Gate:
    """Lets through what one source says of its own servables.

    One that moves from a folder to a store is dropped by the first source and taken up by the
    second, which may have nothing for a while: what it served must not go meanwhile.
    """

    def __init__(self, target: Target[str]) -> None:
        self._target = target
        self._moved: frozenset[str] = frozenset()

    def close_to(self, names: frozenset[str]) -> None:
        """Let nothing through about servables that the other source looks after."""
        self._moved = names

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[str]]) -> None:
        """Tell the target, if it is ours to tell."""
        if name not in self._moved:
            self._target.set_aspired_versions(name, versions)


class CombinedSource:
    """Looks after servables wherever they lie; they may be replaced at any time.

    Any thread may call; updates do not overlap.
    """

    def __init__(
        self,
        target: Target[str],
        *,
        make_local: Callable[[Target[str]], FileSystemSource],
        make_remote: Callable[[Target[str]], RemoteSource],
    ) -> None:
        self._remote_gate = _Gate(target)
        self._local_gate = _Gate(target)
        self._local = make_local(self._local_gate)
        self._make_remote = make_remote
        self._remote: RemoteSource | None = None
        self._lock = threading.Lock()
        self._is_started = False

    def start(self) -> None:
        """Begin to look."""
        with self._lock:
            self._is_started = True
            self._local.start()
            if self._remote is not None:
                self._remote.start()

    def stop(self) -> None:
        """Tell the target nothing more."""
        with self._lock:
            self._local.stop()
            if self._remote is not None:
                self._remote.stop()

    def update_config(self, servables: Sequence[MonitoredServable]) -> None:
        """Look after ``servables`` in place of those before; one that is gone is un-aspired.

        Raises:
            InvalidArgument: a name is listed twice; nothing changed.
        """
        by_name(servables)
        remote = [servable for servable in servables if is_remote(servable.base_path)]
        local = [servable for servable in servables if not is_remote(servable.base_path)]
        with self._lock:
            self._local_gate.close_to(frozenset(servable.name for servable in remote))
            self._remote_gate.close_to(frozenset(servable.name for servable in local))
            self._local.update_config(local)
            self._update_remote(remote)

    def poll(self) -> None:
        """Look at every folder now, and at every store soon."""
        remote = self._remote
        if remote is not None:
            remote.poll()
        self._local.poll()

    def statistics(self) -> SourceStatistics:
        """What the looks of both kinds came to so far."""
        found = self._local.statistics()
        if self._remote is None:
            return found
        remote = self._remote.statistics()
        complaints = {**found.complaints, **remote.complaints}
        return SourceStatistics(found.polls + remote.polls, complaints)

    def _update_remote(self, servables: Sequence[MonitoredServable]) -> None:
        if self._remote is None:
            if not servables:
                return
            self._remote = self._make_remote(self._remote_gate)
        self._remote.update_config(servables)
        if self._is_started:
            self._remote.start()
