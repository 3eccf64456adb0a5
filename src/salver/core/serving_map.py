"""The read side of the manager: which versions can be used, right now.

Written by the manager's thread, read by every request.
A read takes no lock and never waits for a load.

How a version outlives its place in the map without a lock: each ready version has one lease.  The
map refers to the lease and so does every handle; nothing else does.  CPython counts those
references anyway, and the count is our count of users.  Taking a version out is one assignment
of a new map; when the last handle, or the last reader still looking at the old map, lets go, the
lease dies and a weak reference says so.  There is no moment between "looked up" and "counted", so
there is nothing to check again: whoever has found the lease holds it.

A free-threaded build changes nothing here: its reference counts are atomic, the dictionaries are
never changed once published, and the news of a lease's death may come late but never early.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from salver.core.servable_id import ServableId
from salver.errors import Internal, NotFound

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Asleep(NotFound):
    """A version is there and out of memory; it can be had on demand."""

    def __init__(self, message: str, servable_id: ServableId) -> None:
        super().__init__(message)
        self.servable_id = servable_id


class _Lease(Generic[T_co]):
    """A ready version; alive as long as the map or a handle refers to it."""

    __slots__ = ("__weakref__", "id", "servable", "was_used")

    def __init__(self, servable_id: ServableId, servable: T_co) -> None:
        self.id = servable_id
        self.servable = servable
        self.was_used = True
        """Whether a handle was given out since the manager last asked; new counts as used."""


class ServableHandle(Generic[T_co]):
    """Keeps one version loaded until it is returned, at the latest when it is garbage.

    Belongs to one caller, who returns it soon::

        with manager.handle("resnet") as handle:
            return handle.servable.run(...)
    """

    __slots__ = ("_lease", "id")

    def __init__(self, lease: _Lease[T_co]) -> None:
        self._lease: _Lease[T_co] | None = lease
        self.id = lease.id
        lease.was_used = True

    @property
    def servable(self) -> T_co:
        """The loaded version; not to be kept longer than the handle.

        Raises:
            Internal: the handle was returned.
        """
        lease = self._lease
        if lease is None:
            raise Internal(f"the handle of servable {self.id} was used after it was returned")
        return lease.servable

    def release(self) -> None:
        """Return the handle; doing so again is no error, and nothing is freed on this thread."""
        self._lease = None

    def __enter__(self) -> ServableHandle[T_co]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._lease = None


@dataclass(frozen=True, slots=True)
class _Ready(Generic[T]):
    """Everything that can be used at one moment. Never changed once a reader can see it."""

    latest: Mapping[str, _Lease[T]]
    specific: Mapping[str, Mapping[int, _Lease[T]]]
    asleep: Mapping[str, frozenset[int]]


class ServingMap(Generic[T]):
    """The ready versions. Any thread reads; only the manager's thread writes."""

    def __init__(self) -> None:
        self._ready: _Ready[T] = _Ready({}, {}, {})
        self._draining: dict[ServableId, weakref.ref[_Lease[T]]] = {}

    def latest(self, name: str) -> ServableHandle[T]:
        """A handle on the highest ready version.

        Raises:
            NotFound: no version of ``name`` is ready.
            Asleep: the same, and there is one that can be woken.
        """
        ready = self._ready
        lease = ready.latest.get(name)
        if ready.asleep and (asleep := ready.asleep.get(name)):
            version = max(asleep)
            if lease is None or lease.id.version < version:
                del ready, lease  # a traceback that somebody keeps must not keep them
                raise Asleep(_no_latest(name), ServableId(name, version))
        if lease is None:
            del ready
            raise NotFound(_no_latest(name))
        return ServableHandle(lease)

    def specific(self, name: str, version: int) -> ServableHandle[T]:
        """A handle on exactly this version.

        Raises:
            NotFound: it is not ready.
            Asleep: the same, and it can be woken.
        """
        ready = self._ready
        versions = ready.specific.get(name)
        lease = versions.get(version) if versions is not None else None
        if lease is not None:
            return ServableHandle(lease)
        is_asleep = version in ready.asleep.get(name, ())
        del ready, versions  # a traceback that somebody keeps must not keep them
        text = f"Servable not found for request: Specific({name}, {version})"
        raise Asleep(text, ServableId(name, version)) if is_asleep else NotFound(text)

    def versions(self, name: str) -> list[int]:
        """The ready versions of ``name``, highest first."""
        return sorted(self._ready.specific.get(name, ()), reverse=True)

    def available(self) -> list[ServableId]:
        """Every ready version, by name, highest version first."""
        ready = self._ready.specific
        return [ServableId(name, v) for name in sorted(ready) for v in sorted(ready[name])[::-1]]

    def count_names(self) -> int:
        """How many servables have a version ready."""
        return len(self._ready.latest)

    def draining(self) -> list[ServableId]:
        """The versions that are out of the map and still in somebody's hands."""
        return list(self._draining)

    def insert(self, servable_id: ServableId, servable: T) -> None:
        """Make a version usable, from the next look-up on."""
        versions = {
            **self._ready.specific.get(servable_id.name, {}),
            servable_id.version: _Lease(servable_id, servable),
        }
        self._publish(servable_id.name, versions)

    def remove(self, servable_id: ServableId, on_drained: Callable[[], None]) -> None:
        """Give out no more handles on a version; say when the last one is back.

        ``on_drained`` is called once, on the thread that lets go last, at any point of its work:
        it may only leave a note.  Without a handle out, that thread is this one, before the return.
        """
        versions = dict(self._ready.specific[servable_id.name])
        lease = versions.pop(servable_id.version)

        def note_end(_: weakref.ref[_Lease[T]]) -> None:
            self._draining.pop(servable_id, None)
            on_drained()

        self._draining[servable_id] = weakref.ref(lease, note_end)
        self._publish(servable_id.name, versions)

    def put_to_sleep(self, servable_id: ServableId) -> None:
        """Note that a version that is not in the map can be had on demand."""
        self._publish_asleep(servable_id, lambda asleep: asleep | {servable_id.version})

    def forget_asleep(self, servable_id: ServableId) -> None:
        """Note that a version cannot be had on demand (any more)."""
        if self.is_asleep(servable_id):
            self._publish_asleep(servable_id, lambda asleep: asleep - {servable_id.version})

    def is_asleep(self, servable_id: ServableId) -> bool:
        """Whether a version can be had on demand."""
        return servable_id.version in self._ready.asleep.get(servable_id.name, ())

    def take_used(self) -> list[ServableId]:
        """The ready versions of which a handle was given out since this was last asked."""
        used = []
        for versions in self._ready.specific.values():
            for lease in versions.values():
                if lease.was_used:
                    lease.was_used = False
                    used.append(lease.id)
        return used

    def _publish_asleep(
        self, servable_id: ServableId, change: Callable[[frozenset[int]], frozenset[int]]
    ) -> None:
        ready = self._ready
        asleep = dict(ready.asleep)
        versions = change(asleep.pop(servable_id.name, frozenset()))
        if versions:
            asleep[servable_id.name] = versions
        self._ready = _Ready(ready.latest, ready.specific, asleep)

    def _publish(self, name: str, versions: Mapping[int, _Lease[T]]) -> None:
        latest = dict(self._ready.latest)
        specific = dict(self._ready.specific)
        if versions:
            latest[name] = versions[max(versions)]
            specific[name] = versions
        else:
            del latest[name], specific[name]
        self._ready = _Ready(latest, specific, self._ready.asleep)


def _no_latest(name: str) -> str:
    return f"Servable not found for request: Latest({name})"
