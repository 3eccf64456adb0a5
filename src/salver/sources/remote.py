"""A source that looks into remote stores, and wishes for the versions it has whole copies of.

It never wishes for what is not here: a version's files are copied to the cache, all of them, and
until that is done the versions before it stay wished for.  A store that fails changes nothing:
an error is not an empty listing.  Stores are asked on threads of their own, a few for each, so a
slow one is felt by its own models only; all that is decided, is decided in ``step``, which waits
for nobody.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeVar

from salver.core.retries import Backoff
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.source import Target
from salver.errors import Cancelled, ServingError, Unknown, error_for
from salver.sources.copying import NotYet, Ready, Version, copy, examine
from salver.sources.file_system import (
    ACCESS_ERROR,
    MonitoredServable,
    SourceStatistics,
    by_name,
    complaints_about,
)
from salver.sources.fsspec_store import open_store
from salver.sources.lane import Lane
from salver.sources.model_cache import Lease, ModelCache
from salver.sources.stores import Store, check_uri, store_key
from salver.sources.version_policy import VersionChild, choose, version_children

logger = logging.getLogger(__name__)

R = TypeVar("R")

LOOKS_AT_ONCE: Final = 4
COPIES_AT_ONCE: Final = 2
"""Threads for each store."""

SETTLE_S: Final = 2.0
"""Between the two equal listings that a copy takes."""

BACKOFF: Final = Backoff(first_s=1.0, longest_s=30.0)

TRIES_BEFORE_ERROR: Final = 3
"""A version that failed so often in a row is announced as failed; it is tried all the same."""

KEEP_S: Final = 600.0
"""How long a copy is held after the last wish for it: its model may still be in use."""

_IDLE_WAIT_S: Final = 60.0


class WorkLane(Protocol):
    """Where work that waits for a store is done."""

    def submit(self, job: Callable[[], None]) -> None:
        """Do ``job`` soon, on another thread."""

    def close(self) -> None:
        """Begin no further job."""


@dataclass
class _Watch:
    """A servable, and what the last look at its base path found."""

    servable: MonitoredServable
    due_s: float
    is_looking: bool = False
    failures: int = 0
    has_looked: bool = False
    found: list[VersionChild] = field(default_factory=list)
    wanted: list[VersionChild] = field(default_factory=list)
    listing_complaints: tuple[str, ...] = ()
    told: list[ServableData[str]] | None = None
    held: set[Version] = field(default_factory=set)
    complaints: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        return self.servable.base_path.rstrip("/")

    def version(self, child: VersionChild) -> Version:
        return Version(self.base, child.child)


@dataclass
class _Copy:
    """A version that is here, or on its way, and for whom."""

    version: Version
    due_s: float
    users: set[str] = field(default_factory=set)
    is_running: bool = False
    tries: int = 0
    before: NotYet | None = None
    error: ServingError | None = None
    lease: Lease | None = None
    idle_since_s: float = 0.0
    is_cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def trouble(self) -> str:
        if self.error is not None:
            return self.error.message
        return self.before.trouble if self.before is not None else ""


class RemoteSource:
    """Looks into the stores of a set of servables, which may be replaced at any time.

    Any thread may call.  ``step`` is called by the thread that ``start`` makes, or by a test.
    """

    def __init__(
        self,
        target: Target[str],
        *,
        cache: ModelCache,
        poll_wait_s: float = 10.0,
        open_store: Callable[[str], Store] = open_store,
        make_lane: Callable[[str, int], WorkLane] = Lane,
        check: Callable[[str], None] = check_uri,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Look every ``poll_wait_s``; 0 means until a look succeeded once, less than 0 never."""
        self._target = target
        self._cache = cache
        self._poll_wait_s = poll_wait_s
        self._open_store = open_store
        self._make_lane = make_lane
        self._check = check
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._notes: deque[Callable[[], None]] = deque()
        self._watches: dict[str, _Watch] = {}
        self._copies: dict[Version, _Copy] = {}
        self._lanes: dict[tuple[str, str], WorkLane] = {}
        self._stores: dict[str, Store] = {}
        self._polls = 0
        self._is_started = self._is_stopped = False

    def start(self) -> None:
        """Look on threads of our own, from now on."""
        if self._poll_wait_s < 0 or self._is_started:
            return
        self._is_started = True
        threading.Thread(target=self._run, name="salver-remote-source", daemon=True).start()

    def stop(self) -> None:
        """Tell the target nothing more, and call off every copy; nothing is waited for."""
        with self._lock:
            self._is_stopped = True
            for each in self._copies.values():
                each.is_cancelled.set()
            for lane in self._lanes.values():
                lane.close()
        self._news.set()

    def update_config(self, servables: Sequence[MonitoredServable]) -> None:
        """Watch ``servables`` in place of those before; one that is gone is un-aspired at once.

        Raises:
            InvalidArgument: a name is listed twice; nothing changed.
        """
        new = by_name(servables)
        with self._lock:
            now_s = self._clock()
            for name in [name for name in self._watches if name not in new]:
                self._release(self._watches.pop(name), set())
                self._target.set_aspired_versions(name, [])
            for name, servable in new.items():
                self._update(name, servable, now_s)
        self._news.set()

    def poll(self) -> None:
        """Look at every base path soon, whatever was waited for; returns at once."""
        with self._lock:
            now_s = self._clock()
            for watch in self._watches.values():
                watch.due_s = now_s
            for each in self._copies.values():
                each.due_s = min(each.due_s, now_s)
        self._news.set()

    def statistics(self) -> SourceStatistics:
        """What the looks came to so far."""
        with self._lock:
            complaints = {n: w.complaints for n, w in self._watches.items() if w.complaints}
            return SourceStatistics(self._polls, complaints)

    def leases(self) -> list[Lease]:
        """The copies that are held now."""
        with self._lock:
            return [each.lease for each in self._copies.values() if each.lease is not None]

    def step(self) -> float:
        """Note what came back, begin what is due; the seconds until something will be."""
        with self._lock:
            while self._notes and not self._is_stopped:
                self._notes.popleft()()
            if self._is_stopped:
                return 0.0
            now_s = self._clock()
            self._let_go(now_s)
            dues_s = [self._begin_look(watch, now_s) for watch in self._watches.values()]
            dues_s += [self._begin_copy(each, now_s) for each in self._copies.values()]
            return max(0.0, min([*dues_s, now_s + _IDLE_WAIT_S]) - now_s)

    def _run(self) -> None:
        self._cache.remove_partial()
        while not self._is_stopped:
            self._news.wait(self._try_step())
            self._news.clear()

    def _try_step(self) -> float:
        try:
            return self.step()
        except Exception:
            logger.exception("A look at the remote stores failed; the next one follows")
            return BACKOFF.first_s

    def _update(self, name: str, servable: MonitoredServable, now_s: float) -> None:
        watch = self._watches.get(name)
        if watch is not None and watch.servable == servable:
            return
        new = _Watch(servable, due_s=now_s)
        if watch is not None:
            # What is served stays, by the old wish, until there is something in its place.
            new.told = watch.told
            new.held, watch.held = watch.held, set()
        self._watches[name] = new

    # Looks.

    def _begin_look(self, watch: _Watch, now_s: float) -> float:
        if watch.is_looking:
            return float("inf")
        if watch.due_s <= now_s:
            watch.is_looking = True
            self._polls += 1
            work = partial(self._list, watch.base)
            self._submit("look", watch.base, work, partial(self._looked, watch))
            return float("inf")
        return watch.due_s

    def _list(self, base: str) -> list[VersionChild]:
        self._check(base)
        return version_children(self._store(base).children(base))

    def _looked(self, watch: _Watch, outcome: list[VersionChild] | ServingError) -> None:
        watch.is_looking = False
        now_s = self._clock()
        if self._watches.get(watch.servable.name) is not watch:
            return
        if isinstance(outcome, ServingError):
            self._look_failed(watch, outcome, now_s)
            return
        watch.failures = 0
        watch.due_s = now_s + self._poll_wait_s if self._poll_wait_s > 0 else float("inf")
        watch.has_looked = True
        watch.found = outcome
        watch.wanted = choose(outcome, watch.servable.policy)
        watch.listing_complaints = tuple(
            complaints_about(watch.servable, watch.found, watch.wanted)
        )
        self._check_held(watch)
        self._settle(watch)
        if all(self._lease(watch.version(child)) is not None for child in watch.wanted):
            self._tidy(watch)

    def _tidy(self, watch: _Watch) -> None:
        """Take what nobody wants out of the cache; before all is here, it may have to stand in."""
        tidy = partial(
            self._cache.remove_unwanted,
            watch.base,
            wanted={version.child for version in self._copies if version.base == watch.base},
            listed={child.child for child in watch.found},
        )
        self._submit("look", watch.base, tidy, lambda _outcome: None)

    def _look_failed(self, watch: _Watch, error: ServingError, now_s: float) -> None:
        watch.failures += 1
        watch.due_s = now_s + self._backoff_s(watch.failures)
        servable = watch.servable
        complaint = ACCESS_ERROR % (
            f"Could not find base path {servable.base_path} for servable {servable.name} "
            f"with error {error}"
        )
        self._complain(watch, logging.ERROR, (complaint,))
        if watch.told is None and not watch.has_looked:
            cached = version_children(self._cache.children(watch.base))
            wish = self._stand_in(watch, cached)
            if wish:
                self._tell(watch, wish)

    def _check_held(self, watch: _Watch) -> None:
        """Copy anew what somebody took out of the cache."""
        for version in watch.held:
            each = self._copies[version]
            if each.lease is not None and not each.lease.is_there():
                each.lease.close()
                each.lease = None

    # What to wish for.

    def _settle(self, watch: _Watch) -> None:
        """Wish for what is wanted; while some of it is not here, for what is best in its place."""
        name, policy = watch.servable.name, watch.servable.policy
        versions = {watch.version(child) for child in watch.wanted}
        self._hold(watch, versions | watch.held)
        here = [c for c in watch.found if self._lease(watch.version(c)) is not None]
        missing = [child for child in watch.wanted if child not in here]
        complaints = watch.listing_complaints + self._troubles(watch, missing)
        self._complain(watch, logging.WARNING, complaints)
        if not missing:
            wish = self._data(watch, watch.wanted)
        else:
            wish = self._data(watch, choose(here, policy)) or [
                data for data in watch.told or [] if data.error is None
            ]
            if not wish and watch.told is None:
                wish = self._stand_in(watch, self._older(watch, missing))
            wish += self._failed(watch, missing, besides=wish)
        if wish or not missing:
            self._tell(watch, wish)
        paths = {data.payload for data in wish}
        kept = {v for v in watch.held if (lease := self._lease(v)) and lease.path in paths}
        self._hold(watch, versions | kept)
        logger.debug("Servable %s: %d versions here, %d missing", name, len(here), len(missing))

    def _older(self, watch: _Watch, missing: Sequence[VersionChild]) -> list[VersionChild]:
        """What may stand in for what is missing, once it is known that this takes a while.

        A missing version itself only where the store fails: else its copy is of other content.
        """
        copies = {child: self._copies[watch.version(child)] for child in missing}
        if any(each.before is None and each.error is None for each in copies.values()):
            return []
        other = {child for child, each in copies.items() if each.error is None}
        return [child for child in watch.found if child not in other]

    def _stand_in(self, watch: _Watch, children: Sequence[VersionChild]) -> list[ServableData[str]]:
        """Wish for copies of an earlier day, until what is wanted is here."""
        cached = set(self._cache.children(watch.base))
        candidates = [child for child in children if child.child in cached]
        chosen = choose(candidates, watch.servable.policy)
        self._hold(watch, {watch.version(child) for child in chosen} | watch.held)
        for child in chosen:
            each = self._copies[watch.version(child)]
            if each.lease is None and not each.is_running:
                each.lease = self._cache.open(watch.base, child.child)
        wish = self._data(watch, [c for c in chosen if self._lease(watch.version(c))])
        if wish:
            logger.warning(
                "Serving %s from the model cache until its store has answered",
                ", ".join(str(data.id) for data in wish),
            )
        return wish

    def _data(self, watch: _Watch, children: Sequence[VersionChild]) -> list[ServableData[str]]:
        leases = ((child, self._lease(watch.version(child))) for child in children)
        return [
            ServableData(ServableId(watch.servable.name, child.version), lease.path)
            for child, lease in leases
            if lease is not None
        ]

    def _failed(
        self,
        watch: _Watch,
        missing: Sequence[VersionChild],
        *,
        besides: Sequence[ServableData[str]],
    ) -> list[ServableData[str]]:
        """The versions to announce as failed."""
        served = {data.id.version for data in besides}
        failed: list[ServableData[str]] = []
        for child in missing:
            each = self._copies[watch.version(child)]
            if each.tries >= TRIES_BEFORE_ERROR and child.version not in served:
                servable_id = ServableId(watch.servable.name, child.version)
                failed.append(ServableData(servable_id, error=each.error))
        return failed

    def _tell(self, watch: _Watch, wish: list[ServableData[str]]) -> None:
        watch.told = wish
        self._target.set_aspired_versions(watch.servable.name, wish)

    def _troubles(self, watch: _Watch, missing: Sequence[VersionChild]) -> tuple[str, ...]:
        copies = ((child, self._copies[watch.version(child)]) for child in missing)
        return tuple(
            f"Version {child.version} of servable {watch.servable.name} cannot be copied: {text}"
            for child, each in copies
            if (text := each.trouble)
        )

    def _complain(self, watch: _Watch, level: int, complaints: tuple[str, ...]) -> None:
        """Log what is new among the complaints; the same is said once."""
        for complaint in complaints:
            if complaint not in watch.complaints:
                logger.log(level, "%s", complaint)
        watch.complaints = complaints

    def _lease(self, version: Version) -> Lease | None:
        each = self._copies.get(version)
        return None if each is None else each.lease

    def _hold(self, watch: _Watch, versions: set[Version]) -> None:
        """Have exactly these versions copied and kept for a servable."""
        for version in versions:
            each = self._copies.setdefault(version, _Copy(version, due_s=self._clock()))
            each.users.add(watch.servable.name)
        self._release(watch, versions)

    def _release(self, watch: _Watch, keep: set[Version]) -> None:
        for version in watch.held - keep:
            each = self._copies[version]
            each.users.discard(watch.servable.name)
            if not each.users:
                each.idle_since_s = self._clock()
                each.is_cancelled.set()
        watch.held = set(keep)

    def _let_go(self, now_s: float) -> None:
        """Forget copies that nobody has wished for in a while."""
        for version, each in list(self._copies.items()):
            if each.users or each.is_running:
                continue
            if each.lease is None or now_s - each.idle_since_s >= KEEP_S:
                del self._copies[version]
                if each.lease is not None:
                    each.lease.close()

    # Copies.

    def _begin_copy(self, each: _Copy, now_s: float) -> float:
        if each.is_running or each.lease is not None or not each.users:
            return float("inf")
        if each.due_s > now_s:
            return each.due_s
        each.is_running = True
        each.is_cancelled.clear()
        work = partial(self._examine, each.version, each.before)
        self._submit("look", each.version.base, work, partial(self._copied, each))
        return float("inf")

    def _examine(self, version: Version, before: NotYet | None) -> Lease | NotYet | Ready:
        return examine(self._store(version.base), self._cache, version, before)

    def _copy(self, each: _Copy, ready: Ready) -> Lease | NotYet:
        started_s = time.monotonic()
        store = self._store(each.version.base)
        outcome = copy(store, self._cache, each.version, ready, each.is_cancelled.is_set)
        if isinstance(outcome, Lease):
            logger.info(
                "Copied %s: %d files, %d bytes in %.1f s",
                each.version.uri,
                len(ready.files),
                sum(file.size for file in ready.files),
                time.monotonic() - started_s,
            )
        return outcome

    def _copied(self, each: _Copy, outcome: Lease | NotYet | Ready | ServingError) -> None:
        now_s = self._clock()
        if isinstance(outcome, Ready):
            work = partial(self._copy, each, outcome)
            self._submit("copy", each.version.base, work, partial(self._copied, each))
            return
        each.is_running = False
        if isinstance(outcome, Lease):
            each.lease = outcome
            each.tries, each.error, each.before = 0, None, None
            each.idle_since_s = now_s
        elif isinstance(outcome, NotYet):
            is_news = each.before is None or each.before.fingerprint != outcome.fingerprint
            wait_s = SETTLE_S if is_news else max(SETTLE_S, self._poll_wait_s)
            each.tries, each.error, each.before = 0, None, outcome
            each.due_s = now_s + wait_s
        elif not isinstance(outcome, Cancelled):
            each.tries += 1
            each.error = outcome
            each.due_s = now_s + self._backoff_s(each.tries)
        for name in sorted(each.users):
            self._settle(self._watches[name])

    # Threads.

    def _submit(
        self, kind: str, uri: str, work: Callable[[], R], then: Callable[[R | ServingError], None]
    ) -> None:
        """Do ``work`` in a lane of the store, and ``then`` note what it came to."""
        key = kind, store_key(uri)
        if key not in self._lanes:
            threads = LOOKS_AT_ONCE if kind == "look" else COPIES_AT_ONCE
            self._lanes[key] = self._make_lane(f"salver-store-{kind}", threads)

        def job() -> None:
            self._notes.append(partial(then, _outcome(work)))
            self._news.set()

        self._lanes[key].submit(job)

    def _store(self, base: str) -> Store:
        """The store of a base path, opened once; two threads may open it at the same time."""
        key = store_key(base)
        store = self._stores.get(key)
        if store is None:
            store = self._stores.setdefault(key, self._open_store(base))
        return store

    def _backoff_s(self, failures: int) -> float:
        """Longer after each failure, up to a bound, and never the same for two servers."""
        return BACKOFF.wait_s(failures, self._jitter())


def _outcome(work: Callable[[], R]) -> R | ServingError:
    """What ``work`` returned or raised, anew: the one caught holds on to the frames it passed."""
    try:
        return work()
    except ServingError as error:
        return error_for(error.code, error.message)
    except Exception as error:
        logger.exception("The work for a remote store failed")
        return Unknown(f"{type(error).__name__}: {error}")
