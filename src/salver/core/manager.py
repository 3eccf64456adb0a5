"""The manager: turns wishes for versions into versions that can be used, one action at a time.

``step`` is one pass: take the wishes, ask the policy about every servable that changed, carry out
one action.  A test calls it; in a server one thread does, in ``run``, and nothing else here knows
of that thread.  A request never comes near any of it: it reads the serving map.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from heapq import heappop, heappush
from typing import Final, Generic, Protocol, TypeVar

from salver.core.basic_manager import BasicManager, ManagerStatistics
from salver.core.event_bus import EventBus
from salver.core.harness import LoaderHarness, State
from salver.core.loader import Loader
from salver.core.policy import AspiredVersionPolicy, Load, Unload, availability_preserving
from salver.core.resources import ResourceTracker
from salver.core.retries import LoadRetries
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.servable_state import ServableState
from salver.core.serving_map import ServableHandle, ServingMap
from salver.errors import InvalidArgument

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

INTERVAL_S: Final = 0.1
"""The longest time between two passes; news is acted on at once."""


class Manager(Protocol[T_co]):
    """What the rest of the house needs of a manager."""

    def handle(self, name: str, version: int | None = None) -> ServableHandle[T_co]:
        """A handle on a ready version; NotFound where there is none."""

    def available(self) -> list[ServableId]:
        """Every ready version."""


class AspiredVersionsManager(Generic[T]):
    """The target at the end of every source's line, and the owner of everything loaded.

    Any thread may wish, ask for handles and look at the statistics.  ``step`` is called by one
    thread: the test's, or the one that ``start`` makes.  A pool of None loads, or unloads, on that
    thread; with a pool, a load that fails or hangs holds up no other.

    Where the memory is not enough for all, a manager that ``evicts`` puts those to sleep that were
    used least recently, and brings them back on demand; another refuses the load.
    """

    def __init__(
        self,
        bus: EventBus[ServableState],
        *,
        policy: AspiredVersionPolicy = availability_preserving,
        resources: ResourceTracker | None = None,
        retries: LoadRetries | None = None,
        evicts: bool = False,
        load_pool: Executor | None = None,
        unload_pool: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._basic: BasicManager[T] = BasicManager(
            bus,
            resources=resources or ResourceTracker(),
            retries=retries or LoadRetries(),
            evicts=evicts,
            load_pool=load_pool,
            unload_pool=unload_pool,
            clock=clock,
            wall_clock=wall_clock,
        )
        self.serving_map: ServingMap[T] = self._basic.serving_map
        self._policy = policy
        self._clock = clock
        self._wishes_lock = threading.Lock()
        self._wishes: dict[str, Sequence[ServableData[Loader[T]]]] = {}
        self._planned: dict[str, Load | Unload | None] = {}
        # A heap: unloads come first, then it goes by name.  A name may be there for nothing.
        self._turns: list[tuple[bool, str]] = []
        self._is_closed = False
        self._has_withdrawn = False
        self._give_up_at_s = float("inf")
        self._thread: threading.Thread | None = None

    # What any thread may call.

    def handle(self, name: str, version: int | None = None) -> ServableHandle[T]:
        """A handle on ``version``, or on the highest one ready.

        Raises:
            NotFound: it is not ready.
            Asleep: the same, and ``demand`` brings it back.
        """
        if version is None:
            return self.serving_map.latest(name)
        return self.serving_map.specific(name, version)

    def demand(self, servable_id: ServableId) -> Future[None]:
        """Have a version that sleeps loaded, if need be in the place of others.

        The future is shared: it must not be cancelled.
        """
        return self._basic.demand(servable_id)

    def is_asleep(self, servable_id: ServableId) -> bool:
        """Whether a version is out of memory and can be had on demand."""
        return self.serving_map.is_asleep(servable_id)

    def available(self) -> list[ServableId]:
        """Every ready version, by name, highest version first."""
        return self.serving_map.available()

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[Loader[T]]]) -> None:
        """Wish for exactly these versions of ``name``; returns at once.

        Only the newest wish for a name is kept, so a source may wish as often as it likes.
        Of two entries for one version the first counts.

        Raises:
            InvalidArgument: an entry is not a version of ``name``; nothing is wished for.
        """
        for data in versions:
            if data.id.name != name:
                raise InvalidArgument(f"aspired versions of {name!r} include {data.id}")
        with self._wishes_lock:
            self._wishes[name] = tuple(versions)
        self._basic.wake()

    def loading_with(self, pool: Executor) -> AbstractContextManager[None]:
        """Start loads in ``pool`` for the time of the ``with`` block: the parallel initial load."""
        return self._basic.loading_with(pool)

    def statistics(self) -> ManagerStatistics:
        """What is in hand now."""
        return self._basic.statistics()

    def close(self) -> None:
        """Withdraw every wish and take no new one; the passes that follow unload everything."""
        self._is_closed = True
        self._basic.wake()

    # The pass.

    def step(self) -> bool:
        """Make one pass; say whether it did anything, so that another may find more to do."""
        did_something = self._advance()
        self._flush()
        did_something |= self._take_wishes()
        self._flush()
        did_something |= self._act()
        did_something |= self._advance()
        return did_something

    def _advance(self) -> bool:
        """Carry on with whatever can go on.

        Wishes are taken in between, so that what a load brought is judged by the newest one.
        """
        did_something = self._take_wishes()
        while self._basic.advance():
            did_something = True
            self._take_wishes()
        return did_something

    def _flush(self) -> None:
        for name in list(self._basic.unsettled):
            self._basic.flush(name)

    def _take_wishes(self) -> bool:
        """Take every wish that can be taken now; the others stay, unless newer ones come."""
        if not (self._wishes or self._is_closed):
            return False
        with self._wishes_lock:
            if self._is_closed:
                self._wishes = self._last_wishes()
            ready = {n: wish for n, wish in self._wishes.items() if not self._must_wait(n, wish)}
            for name in ready:
                del self._wishes[name]
        for name, wish in ready.items():
            self._take_wish(name, wish)
        return bool(ready)

    def _last_wishes(self) -> dict[str, Sequence[ServableData[Loader[T]]]]:
        if self._has_withdrawn:
            return {}
        self._has_withdrawn = True
        return dict.fromkeys(self._basic.names(), ())

    def _must_wait(self, name: str, wish: Sequence[ServableData[Loader[T]]]) -> bool:
        """Whether the wish is for a version on its way out, which has to be out first.

        With one exception: an old version that stays only because nothing wished for in its place
        is ready is kept when it is wished for again.  It would not be out, and going back to the
        version that works is just what such a wish means.
        """
        wished = {data.id.version for data in wish}
        harnesses = self._basic.harnesses(name)
        returning = [h for h in harnesses if not h.is_aspired and h.id.version in wished]
        if not returning:
            return False
        aspired = [h for h in harnesses if h.is_aspired]
        is_replaced = not aspired or any(h.state is State.READY for h in aspired)
        return is_replaced or any(h.state is not State.READY for h in returning)

    def _take_wish(self, name: str, wish: Sequence[ServableData[Loader[T]]]) -> None:
        wished = {data.id.version for data in wish}
        known = {harness.id.version: harness for harness in self._basic.harnesses(name)}
        for version, harness in known.items():
            if version not in wished:
                self._basic.withdraw(harness)
            elif not harness.is_aspired:
                self._basic.keep(harness)
        # Reversed, so that of two entries for one version the first is the one that stays.
        for version, data in {data.id.version: data for data in reversed(wish)}.items():
            found = known.get(version)
            if found is None or _is_news(data, found):
                self._basic.manage(data)
            elif _is_elsewhere(data, found):
                self._basic.redirect(found, data)

    def _act(self) -> bool:
        """Carry out the most urgent action: an unload before a load, for the memory's sake.

        The policy is asked about a servable once after each change, not in every pass; its answer
        is kept until its turn comes.
        """
        for name in sorted(self._basic.unsettled):
            action = self._policy(self._basic.snapshots(name))
            self._basic.unsettled.discard(name)
            self._planned[name] = action
            if action is not None:
                heappush(self._turns, (isinstance(action, Load), name))
        while self._turns:
            is_load, name = heappop(self._turns)
            action = self._planned.get(name)
            if action is None or isinstance(action, Load) is not is_load:
                continue  # the turn of a plan that was changed since
            del self._planned[name]
            self._carry_out(name, action)
            return True
        self._planned.clear()
        return False

    def _carry_out(self, name: str, action: Load | Unload) -> None:
        servable_id = ServableId(name, action.version)
        if isinstance(action, Load):
            self._basic.load(servable_id)
        else:
            self._basic.unload(servable_id)

    # The thread.

    def start(self) -> None:
        """Have a thread of our own make the passes, until ``stop``."""
        self._thread = threading.Thread(target=self.run, name="salver-manager", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Unload everything, as soon as its handles are back, and end the thread.

        Says whether everything was unloaded in time; what was not is left to the process's end.
        """
        self._give_up_at_s = self._clock() + timeout_s
        self.close()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self._basic.names()

    def run(self) -> None:
        """Make passes on this thread until closed and done, or out of time."""
        while not self._is_done():
            if not self._try_step():
                self._basic.wait(INTERVAL_S)

    def _is_done(self) -> bool:
        if not self._is_closed:
            return False
        return not self._basic.names() or self._clock() >= self._give_up_at_s

    def _try_step(self) -> bool:
        try:
            return self.step()
        except Exception:
            logger.exception("A pass of the manager failed; the next one follows")
            return False


def _is_news(data: ServableData[Loader[T]], harness: LoaderHarness[T]) -> bool:
    """Whether a version that is known is new after all: its source had only an error before."""
    return harness.came_as_error and str(data.error) != str(harness.error)


def _is_elsewhere(data: ServableData[Loader[T]], harness: LoaderHarness[T]) -> bool:
    """Whether a version that is known is to be found in another place than before."""
    known = harness.origin if harness.successor is None else harness.successor.origin
    return data.payload is not None and data.origin != known
