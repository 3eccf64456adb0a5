"""The hands of the manager: loads and unloads what it is told to, one version at a time or many.

What to do next is decided elsewhere.  Everything here happens on one thread, the owner's, except
the loader's own work, which runs where the pools run it and comes back as a note.  So no state here
needs a lock, and a load that takes an hour, fails or hangs is felt by its version alone: between
two tries of a load no thread waits either, the owner looks at the clock.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from functools import partial
from typing import Final, Generic, TypeVar

from salver.core.demand import Demands
from salver.core.event_bus import EventBus
from salver.core.harness import Event, LoaderHarness, State, load_cancelled
from salver.core.loader import Loader
from salver.core.policy import Snapshot
from salver.core.resources import ResourceStatistics, ResourceTracker
from salver.core.retries import LoadRetries
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState
from salver.core.serving_map import ServingMap
from salver.errors import Internal, NotFound, ServingError, Unknown, error_for

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_FORGETTABLE: Final = frozenset({State.NEW, State.DISABLED, State.ERROR})

_MAY_FAIL: Final = frozenset({State.LOADING})
"""It gives its memory back if it does."""

_LEAVING: Final = frozenset(
    {State.UNLOAD_REQUESTED, State.QUIESCING, State.QUIESCED, State.UNLOADING}
)


@dataclass(frozen=True, slots=True)
class ManagerStatistics:
    """What the manager has in hand: how many versions in which state, and what is waited for."""

    versions: dict[State, int]
    waiting_for_memory: int
    waiting_for_retry: int
    asleep: int
    draining: tuple[ServableId, ...]
    resources: ResourceStatistics


USE_LOOK_S: Final = 1.0
"""How often the manager looks which versions were used, where that decides who stays."""


@dataclass(frozen=True, slots=True)
class _Retry:
    due_s: float
    error: ServingError


@dataclass(frozen=True, slots=True)
class _Revival(Generic[T]):
    due_s: float
    harness: LoaderHarness[T]


class BasicManager(Generic[T]):
    """Carries out single loads and unloads and tells the bus of every step.

    One thread, the owner's, calls everything except ``serving_map``'s read side, ``post``,
    ``loading_with`` and ``statistics``, which any thread may use.  Nothing blocks but the work of
    a pool of None, which is done on the spot.
    """

    def __init__(
        self,
        bus: EventBus[ServableState],
        *,
        resources: ResourceTracker,
        retries: LoadRetries,
        evicts: bool,
        load_pool: Executor | None,
        unload_pool: Executor | None,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.serving_map: ServingMap[T] = ServingMap()
        self.unsettled: set[str] = set()
        """Servables of which something changed; the owner takes a name out when it has looked."""
        self._bus = bus
        self._resources = resources
        self._retries = retries
        self._evicts = evicts
        self._demands = Demands()
        self._looked_for_use_s = clock()
        self._pool_lock = threading.Lock()
        self._load_pool = load_pool
        self._unload_pool = unload_pool
        self._clock = clock
        self._wall_clock = wall_clock
        self._streams: dict[str, dict[int, LoaderHarness[T]]] = {}
        self._waiting_for_memory: deque[LoaderHarness[T]] = deque()
        self._retrying: dict[LoaderHarness[T], _Retry] = {}
        self._reviving: dict[LoaderHarness[T], _Revival[T]] = {}
        self._evicted: dict[LoaderHarness[T], LoaderHarness[T]] = {}
        # Both may be added to in the middle of adding to them, which a lock would not survive: a
        # garbage collection there may end a lease, whose callback posts.
        self._notes: deque[Callable[[], None]] = deque()
        self._wake_ups: queue.SimpleQueue[None] = queue.SimpleQueue()

    # What is managed.

    def names(self) -> list[str]:
        """Every servable with a version under management, sorted."""
        return sorted(self._streams)

    def harnesses(self, name: str) -> list[LoaderHarness[T]]:
        """The versions of ``name`` under management."""
        return list(self._streams.get(name, {}).values())

    def snapshots(self, name: str) -> list[Snapshot]:
        """The versions of ``name`` as a policy sees them."""
        return [
            Snapshot(h.id.version, h.state, h.is_aspired, h.is_asleep) for h in self.harnesses(name)
        ]

    def statistics(self) -> ManagerStatistics:
        """A look from any thread; the numbers may be of slightly different moments."""
        streams = list(self._streams.values())
        states = Counter(harness.state for stream in streams for harness in list(stream.values()))
        return ManagerStatistics(
            versions=dict(states),
            waiting_for_memory=len(self._waiting_for_memory),
            waiting_for_retry=len(self._retrying) + len(self._reviving),
            asleep=sum(h.is_asleep for stream in streams for h in list(stream.values())),
            draining=tuple(self.serving_map.draining()),
            resources=self._resources.statistics(),
        )

    def manage(self, data: ServableData[Loader[T]]) -> None:
        """Take a version under management, wished for and not loaded yet.

        One that brings an error in place of a loader ends here and now.
        """
        harness = LoaderHarness.of(data)
        self._streams.setdefault(data.id.name, {})[data.id.version] = harness
        if data.error is None:
            self.unsettled.add(data.id.name)
            self._announce(harness, ManagerState.START)
        else:
            self._fail(harness, data.error)

    def redirect(self, harness: LoaderHarness[T], data: ServableData[Loader[T]]) -> None:
        """Take a version from another place: as soon as it is not in memory, nor on its way.

        One that is ready stays as it is, as in TensorFlow Serving.
        """
        harness.successor = data
        at_rest = harness.state in _FORGETTABLE or harness in self._retrying
        if at_rest or harness in self._waiting_for_memory:
            self._succeed(harness, data)

    def _succeed(self, harness: LoaderHarness[T], data: ServableData[Loader[T]]) -> None:
        """Begin anew with a version, from where it is to be found now."""
        logger.info("Servable %s is to be loaded from %s now", data.id, data.origin)
        self._retrying.pop(harness, None)
        self._reviving.pop(harness, None)
        if harness in self._waiting_for_memory:
            self._waiting_for_memory.remove(harness)
        self._resources.release(harness.id)
        new = LoaderHarness.of(data)
        new.is_asleep, new.is_demanded = harness.is_asleep, harness.is_demanded
        self._begin_again(new)
        if not new.is_asleep:
            self._announce(new, ManagerState.START)

    def keep(self, harness: LoaderHarness[T]) -> None:
        """Note that a version is wished for again."""
        harness.is_aspired = True
        self.unsettled.add(harness.id.name)

    def withdraw(self, harness: LoaderHarness[T]) -> None:
        """Note that a version is not wished for any more; whatever it waits for is called off.

        A loader at work is let finish, unless it can be cancelled, and what it loaded is unloaded
        before anybody can see it.
        """
        harness.withdraw()
        self.unsettled.add(harness.id.name)
        if harness in self._waiting_for_memory:
            self._waiting_for_memory.remove(harness)
            self._fail(harness, load_cancelled())
        elif harness in self._retrying:
            logger.info("Retrying of Loading servable: %s was cancelled.", harness.id)
            self._fail(harness, self._retrying.pop(harness).error)
        elif self._reviving.pop(harness, None) is not None or (
            harness.failures and harness.state in (State.NEW, State.LOAD_REQUESTED)
        ):
            logger.info("Retrying of Loading servable: %s was cancelled.", harness.id)

    def flush(self, name: str) -> None:
        """Forget the versions of ``name`` that nobody wishes for and that hold nothing."""
        for harness in self.harnesses(name):
            if not harness.is_aspired and harness.state in _FORGETTABLE:
                self._forget(harness)

    def load(self, servable_id: ServableId) -> None:
        """Start to load a version under management that is NEW."""
        harness = self._harness(servable_id)
        self._move(harness, Event.REQUEST_LOAD)
        self._start_load_work(harness.estimate, partial(self._estimated, harness))

    def unload(self, servable_id: ServableId) -> None:
        """Start to unload a version that is READY."""
        harness = self._harness(servable_id)
        self._move(harness, Event.REQUEST_UNLOAD)
        self._announce(harness, ManagerState.UNLOADING)
        self._move(harness, Event.QUIESCE)
        logger.info("Quiescing servable version %s", harness.id)
        self.serving_map.remove(
            harness.id, on_drained=partial(self.post, partial(self._drained, harness))
        )

    def demand(self, servable_id: ServableId) -> Future[None]:
        """Have a version that is out of memory loaded; from any thread.

        The future is shared with all who ask for the version until it is there.  It fails with the
        error of the load, or with NotFound where there is no such version.
        """
        future, is_new = self._demands.add(servable_id)
        if is_new:
            self.post(partial(self._answer_demand, servable_id))
        return future

    # What others have to say.

    def post(self, note: Callable[[], None]) -> None:
        """Have ``note`` called on the owner's thread.

        Never blocks, from whichever thread and wherever in it, a garbage collection included.
        """
        self._notes.append(note)
        self.wake()

    def wake(self) -> None:
        """End the owner's ``wait``, this one or the next."""
        if self._wake_ups.empty():  # else one is still to come, and finds what we have left
            self._wake_ups.put(None)

    def wait(self, timeout_s: float) -> None:
        """Wait until woken or until a retry is due, for at most ``timeout_s``."""
        now = self._clock()
        dues_s = [retry.due_s for retry in self._retrying.values()]
        dues_s += [revival.due_s for revival in self._reviving.values()]
        due_s = min(dues_s) - now if dues_s else timeout_s
        with suppress(queue.Empty):
            self._wake_ups.get(timeout=max(0.0, min(timeout_s, due_s)))

    def advance(self) -> bool:
        """Carry on with one thing that can go on now; say whether there was one."""
        self._look_for_use()
        return (
            self._take_note() or self._retry_next() or self._revive_next() or self._approve_next()
        )

    @contextmanager
    def loading_with(self, pool: Executor) -> Iterator[None]:
        """Start loads in another pool for the time of the block, say the one of a server's start.

        After the block no work is handed to ``pool`` any more.
        """
        with self._pool_lock:
            usual, self._load_pool = self._load_pool, pool
        try:
            yield
        finally:
            with self._pool_lock:
                self._load_pool = usual

    # The steps of a load.

    def _estimated(self, harness: LoaderHarness[T], outcome: int | ServingError) -> None:
        if harness.is_aspired and harness.successor is not None:
            self._succeed(harness, harness.successor)
        elif isinstance(outcome, ServingError):
            text = f"Error while attempting to reserve resources to load servable {harness.id}"
            self._fail(harness, error_for(outcome.code, f"{text}: {outcome.message}"))
        elif not harness.is_aspired:
            self._fail(harness, load_cancelled())
        else:
            harness.needed_bytes = outcome
            self._waiting_for_memory.append(harness)

    def _approve_next(self) -> bool:
        """Let a load go on for which there is memory: of those, the one that has waited longest.

        The first of those for which there is none waits as long as memory may come back by itself;
        after that others make room for it, or it is refused.
        """
        if not self._waiting_for_memory:
            return False
        waiting = self._waiting_for_memory
        harness = next((h for h in waiting if self._resources.fits(h.needed_bytes)), waiting[0])
        if not self._resources.fits(harness.needed_bytes):
            if self._is_any(_LEAVING):
                return False
            if self._evicts and self._make_room_for(harness):
                return True
            if self._is_any(_MAY_FAIL):
                return False
        waiting.remove(harness)
        self._approve(harness)
        return True

    def _make_room_for(self, harness: LoaderHarness[T]) -> bool:
        """Put another version to sleep, or this one; say whether that was possible.

        Others go for a version that somebody asked for, or that takes another's place; one that
        is merely listed sleeps until it is asked for.
        """
        if not self._resources.could_fit(harness.needed_bytes):
            return False
        if not (harness.is_demanded or self._is_update(harness)):
            self._waiting_for_memory.popleft()
            self._put_to_sleep(harness.again())
            return True
        self._look_for_use(at_once=True)
        others = [other for other in self._ready() if other.id.name != harness.id.name]
        room = sum(other.needed_bytes for other in others)
        if not others or not self._resources.fits(harness.needed_bytes - room):
            return False
        victim = min(others, key=lambda other: other.used_at_s)
        logger.info("Putting servable %s to sleep: %s needs the memory", victim.id, harness.id)
        self._evicted[victim] = victim.again()
        self.serving_map.put_to_sleep(victim.id)  # first: at no moment is it neither here nor there
        self.unload(victim.id)
        return True

    def _is_update(self, harness: LoaderHarness[T]) -> bool:
        return any(each.state is State.READY for each in self.harnesses(harness.id.name))

    def _ready(self) -> list[LoaderHarness[T]]:
        return [
            harness
            for stream in self._streams.values()
            for harness in stream.values()
            if harness.state is State.READY
        ]

    def _look_for_use(self, *, at_once: bool = False) -> None:
        """Note which versions were used of late, where that decides who stays."""
        if not self._evicts:
            return
        now_s = self._clock()
        if not at_once and now_s - self._looked_for_use_s < USE_LOOK_S:
            return
        self._looked_for_use_s = now_s
        for servable_id in self.serving_map.take_used():
            self._harness(servable_id).used_at_s = now_s

    def _put_to_sleep(self, harness: LoaderHarness[T]) -> None:
        """Keep a version, which is new, out of memory until somebody asks for it."""
        harness.is_asleep = True
        self._begin_again(harness)
        self.serving_map.put_to_sleep(harness.id)
        self._announce(harness, ManagerState.END)
        if harness.id in self._demands:
            self._answer_demand(harness.id)

    def _begin_again(self, harness: LoaderHarness[T]) -> None:
        self._streams[harness.id.name][harness.id.version] = harness
        self.unsettled.add(harness.id.name)

    def _answer_demand(self, servable_id: ServableId) -> None:
        """Say what is known of a version that was asked for, or see to it that it comes.

        One that is on its way, in or out, has its answer when it has arrived.
        """
        harness = self._streams.get(servable_id.name, {}).get(servable_id.version)
        if harness is None:
            self._demands.answer(servable_id, NotFound(f"Servable {servable_id} is not there"))
        elif harness.state is State.READY or harness.error is not None:
            self._demands.answer(servable_id, harness.error)
        elif harness.is_asleep:
            harness.is_asleep = False
            harness.is_demanded = True
            self.unsettled.add(servable_id.name)
            self._announce(harness, ManagerState.START)

    def _is_any(self, states: Collection[State]) -> bool:
        """Whether a version is in one of these states and at work, not waiting for its next try."""
        return any(
            harness.state in states and harness not in self._retrying
            for stream in self._streams.values()
            for harness in stream.values()
        )

    def _approve(self, harness: LoaderHarness[T]) -> None:
        try:
            self._resources.reserve(harness.id, harness.needed_bytes)
        except ServingError as error:
            logger.error(  # noqa: TRY400 - the numbers say it all
                "%s: it needs about %d bytes, and %d of a budget of %s bytes are taken",
                error.message,
                harness.needed_bytes,
                *astuple(self._resources.statistics()),
            )
            self._fail(harness, error)
            return
        logger.info("Successfully reserved resources to load servable %s", harness.id)
        self._move(harness, Event.APPROVE_LOAD)
        logger.info("Approving load for servable version %s", harness.id)
        self._move(harness, Event.START_LOAD)
        self._announce(harness, ManagerState.LOADING)
        logger.info("Loading servable version %s", harness.id)
        self._try_load(harness)

    def _try_load(self, harness: LoaderHarness[T]) -> None:
        harness.attempts += 1
        self._start_load_work(harness.load, partial(self._load_tried, harness))

    def _load_tried(self, harness: LoaderHarness[T], outcome: ServingError | None) -> None:
        if outcome is not None:
            self._load_failed(harness, outcome)
        elif not harness.is_aspired:
            logger.info("Unloading just-loaded servable version %s", harness.id)
            self._start_unload_work(harness.unload, partial(self._load_undone, harness))
        else:
            harness.used_at_s = self._clock()
            self.serving_map.insert(harness.id, harness.servable())
            self.serving_map.forget_asleep(harness.id)
            self._move(harness, Event.LOADED)
            logger.info("Successfully loaded servable version %s", harness.id)
            self._announce(harness, ManagerState.AVAILABLE)
            self._demands.answer(harness.id, None)

    def _load_failed(self, harness: LoaderHarness[T], error: ServingError) -> None:
        logger.error("Loading servable: %s failed: %s", harness.id, error)
        if not harness.is_aspired:
            logger.info("Retrying of Loading servable: %s was cancelled.", harness.id)
            self._fail(harness, error)
        elif harness.successor is not None:
            self._succeed(harness, harness.successor)
        elif harness.attempts <= self._retries.max_retries:
            due_s = self._clock() + self._retries.interval_s
            self._retrying[harness] = _Retry(due_s, error)
        else:
            text = "Retrying of Loading servable: %s exhausted max_num_retries: %d"
            logger.error(text, harness.id, self._retries.max_retries)
            self._fail(harness, error)

    def _retry_next(self) -> bool:
        if not self._retrying:
            return False
        now = self._clock()
        harness = next((h for h, retry in self._retrying.items() if retry.due_s <= now), None)
        if harness is None:
            return False
        del self._retrying[harness]
        text = "Retrying of Loading servable: %s retry: %d"
        logger.info(text, harness.id, harness.attempts)
        self._try_load(harness)
        return True

    def _revive_next(self) -> bool:
        """Begin anew with a version that had failed, if one has waited long enough."""
        if not self._reviving:
            return False
        now_s = self._clock()
        failed = next((h for h, revival in self._reviving.items() if revival.due_s <= now_s), None)
        if failed is None:
            return False
        harness = self._reviving.pop(failed).harness
        logger.info(
            "Loading servable: %s begins again after %d failures", harness.id, harness.failures
        )
        self._begin_again(harness)
        self._announce(harness, ManagerState.START)
        return True

    def _load_undone(self, harness: LoaderHarness[T], outcome: ServingError | None) -> None:
        if outcome is not None:
            logger.error("Unloading of servable version %s failed: %s", harness.id, outcome)
        self._fail(harness, load_cancelled())

    # The steps of an unload.

    def _drained(self, harness: LoaderHarness[T]) -> None:
        self._move(harness, Event.DRAINED)
        logger.info("Done quiescing servable version %s", harness.id)
        self._move(harness, Event.START_UNLOAD)
        logger.info("Unloading servable version %s", harness.id)
        self._start_unload_work(harness.unload, partial(self._unloaded, harness))

    def _unloaded(self, harness: LoaderHarness[T], outcome: ServingError | None) -> None:
        if outcome is not None:
            logger.error("Unloading of servable version %s failed: %s", harness.id, outcome)
            self._fail(harness, outcome)
            return
        self._move(harness, Event.UNLOADED)
        self._resources.release(harness.id)
        logger.info("Done unloading servable version %s", harness.id)
        evicted = self._evicted.pop(harness, None)
        if evicted is not None and harness.is_aspired:
            self._put_to_sleep(evicted)
        else:
            self.serving_map.forget_asleep(harness.id)
            self._announce(harness, ManagerState.END)

    # The one place for each kind of change.

    def _move(self, harness: LoaderHarness[T], event: Event) -> None:
        harness.advance(event)
        self.unsettled.add(harness.id.name)

    def _fail(self, harness: LoaderHarness[T], error: ServingError) -> None:
        self._plan_revival(harness)
        self._evicted.pop(harness, None)
        harness.fail(error)
        self.unsettled.add(harness.id.name)
        self._resources.release(harness.id)
        self.serving_map.forget_asleep(harness.id)
        self._announce(harness, ManagerState.END)
        self._demands.answer(harness.id, error)

    def _plan_revival(self, failing: LoaderHarness[T]) -> None:
        """Note when a version that is about to fail begins anew, if it does."""
        backoff = self._retries.after_end
        if backoff is None or not failing.is_aspired or not failing.has_loader:
            return
        harness = failing.again()
        harness.failures = failing.failures + 1
        due_s = self._clock() + backoff.wait_s(harness.failures)
        self._reviving[failing] = _Revival(due_s, harness)

    def _announce(self, harness: LoaderHarness[T], state: ManagerState) -> None:
        self._bus.publish(ServableState(harness.id, state, harness.error, self._wall_clock()))

    def _harness(self, servable_id: ServableId) -> LoaderHarness[T]:
        harness = self._streams.get(servable_id.name, {}).get(servable_id.version)
        if harness is None:
            raise Internal(f"servable {servable_id} is not under management")
        return harness

    def _forget(self, harness: LoaderHarness[T]) -> None:
        stream = self._streams[harness.id.name]
        del stream[harness.id.version]
        if not stream:
            del self._streams[harness.id.name]
        if harness.state is State.NEW:
            self._announce(harness, ManagerState.END)  # it was announced, and it will never come
        self.serving_map.forget_asleep(harness.id)
        self._demands.answer(harness.id, NotFound(f"Servable {harness.id} is not there any more"))

    # Work that may take long.

    def _take_note(self) -> bool:
        if not self._notes:
            return False
        self._notes.popleft()()
        return True

    def _start_load_work(
        self, work: Callable[[], R], then: Callable[[R | ServingError], None]
    ) -> None:
        job = partial(self._work, work, then)
        with self._pool_lock:
            is_handed_over = _hand_over(self._load_pool, job)
        if not is_handed_over:
            job()

    def _start_unload_work(
        self, work: Callable[[], R], then: Callable[[R | ServingError], None]
    ) -> None:
        job = partial(self._work, work, then)
        if not _hand_over(self._unload_pool, job):
            job()

    def _work(self, work: Callable[[], R], then: Callable[[R | ServingError], None]) -> None:
        self.post(partial(then, _outcome(work)))


def _hand_over(pool: Executor | None, job: Callable[[], None]) -> bool:
    """Whether ``pool`` took the job; one that was shut down takes none."""
    if pool is None:
        return False
    try:
        pool.submit(job)
    except RuntimeError:
        return False
    return True


def _outcome(work: Callable[[], R]) -> R | ServingError:
    """What ``work`` returned or raised.

    An error is made anew: the one caught holds on to the frames it passed, and with them to the
    memory of a failed load, for as long as a status call can show it.
    """
    try:
        return work()
    except ServingError as error:
        return error_for(error.code, error.message)
    except (Exception, SystemExit) as error:  # a SystemExit would only end a pool's thread, mutely
        logger.exception("A loader failed")
        return Unknown(f"{type(error).__name__}: {error}")
