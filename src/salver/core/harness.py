"""One version's way through life: a table of states, and the loader that does the work.

    NEW ─▶ LOAD_REQUESTED ─▶ LOAD_APPROVED ─▶ LOADING ─▶ READY
                                                           │
    DISABLED ◀─ UNLOADING ◀─ QUIESCED ◀─ QUIESCING ◀─ UNLOAD_REQUESTED

ERROR can be reached from every state but the two ends, DISABLED and ERROR itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from salver.core.loader import Cancellable, Loader
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.errors import Cancelled, Internal, ServingError

T = TypeVar("T")


class State(Enum):
    """Where a version stands, as the manager and its policy see it."""

    NEW = auto()
    """Known, and nothing done yet."""
    LOAD_REQUESTED = auto()
    """The policy wants it; its memory is being counted and waited for."""
    LOAD_APPROVED = auto()
    """Memory is set aside."""
    LOADING = auto()
    """The loader is at work, or waits for another try."""
    READY = auto()
    """It can be used."""
    UNLOAD_REQUESTED = auto()
    """The policy wants it gone."""
    QUIESCING = auto()
    """No new handles; those given out are awaited."""
    QUIESCED = auto()
    """The last handle is back."""
    UNLOADING = auto()
    """The loader is taking it out of memory."""
    DISABLED = auto()
    """Gone."""
    ERROR = auto()
    """Gone, for a reason."""


class Event(Enum):
    """What can happen to a version."""

    REQUEST_LOAD = auto()
    APPROVE_LOAD = auto()
    START_LOAD = auto()
    LOADED = auto()
    REQUEST_UNLOAD = auto()
    QUIESCE = auto()
    DRAINED = auto()
    START_UNLOAD = auto()
    UNLOADED = auto()
    FAIL = auto()


TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = MappingProxyType(
    {
        State.NEW: {Event.REQUEST_LOAD: State.LOAD_REQUESTED, Event.FAIL: State.ERROR},
        State.LOAD_REQUESTED: {Event.APPROVE_LOAD: State.LOAD_APPROVED, Event.FAIL: State.ERROR},
        State.LOAD_APPROVED: {Event.START_LOAD: State.LOADING, Event.FAIL: State.ERROR},
        State.LOADING: {Event.LOADED: State.READY, Event.FAIL: State.ERROR},
        State.READY: {Event.REQUEST_UNLOAD: State.UNLOAD_REQUESTED, Event.FAIL: State.ERROR},
        State.UNLOAD_REQUESTED: {Event.QUIESCE: State.QUIESCING, Event.FAIL: State.ERROR},
        State.QUIESCING: {Event.DRAINED: State.QUIESCED, Event.FAIL: State.ERROR},
        State.QUIESCED: {Event.START_UNLOAD: State.UNLOADING, Event.FAIL: State.ERROR},
        State.UNLOADING: {Event.UNLOADED: State.DISABLED, Event.FAIL: State.ERROR},
        State.DISABLED: {},
        State.ERROR: {},
    }
)


class LoaderHarness(Generic[T]):
    """One version, its loader and its state.

    All of it belongs to the manager's thread, except that ``estimate``, ``load`` and ``unload`` run
    where the manager's pools run them, one at a time and never while the manager touches the rest.
    """

    def __init__(self, servable_id: ServableId, loader: Loader[T] | None) -> None:
        self.id = servable_id
        self.is_aspired = True
        self.attempts = 0
        self.failures = 0
        """How often the version has failed before, each time for good as it seemed."""
        self.came_as_error = loader is None
        """Whether its source told an error in its place, so that nothing was ever tried."""
        self.is_asleep = False
        """Whether it is not to be loaded before somebody asks for it."""
        self.is_demanded = False
        """Whether somebody asked for it, or it takes another's place: others may have to go."""
        self.used_at_s = 0.0
        self.origin = ""
        """Where the version comes from."""
        self.successor: ServableData[Loader[T]] | None = None
        """The same version from another place, to be loaded in this one's stead when it can be."""
        self.needed_bytes = 0
        self.error: ServingError | None = None
        self._state = State.NEW
        self._loader = loader
        self._servable: T | None = None

    @classmethod
    def of(cls, data: ServableData[Loader[T]]) -> LoaderHarness[T]:
        """A version that was wished for."""
        harness = cls(data.id, data.payload)
        harness.origin = data.origin
        return harness

    @property
    def state(self) -> State:
        """Where the version stands."""
        return self._state

    def advance(self, event: Event) -> None:
        """Move as TRANSITIONS says: the one place where the state changes.

        Raises:
            Internal: ``event`` cannot happen in this state; nothing has changed.
        """
        moves = TRANSITIONS[self._state]
        if event not in moves:
            legal = ", ".join(move.name for move in moves) or "none"
            raise Internal(
                f"servable {self.id} in state {self._state.name} cannot {event.name}; "
                f"possible: {legal}"
            )
        self._state = moves[event]

    def fail(self, error: ServingError) -> None:
        """End in ERROR and let go of the loader."""
        self.advance(Event.FAIL)
        self.error = error
        self._loader = self._servable = None

    @property
    def has_loader(self) -> bool:
        """Whether it can still be loaded, or unloaded."""
        return self._loader is not None

    def again(self) -> LoaderHarness[T]:
        """The same version, at its beginning; to be taken before this one fails or is unloaded."""
        if self.successor is not None:
            return LoaderHarness.of(self.successor)
        harness = LoaderHarness(self.id, self._live_loader())
        harness.origin = self.origin
        return harness

    def withdraw(self) -> None:
        """Note that nobody wishes for the version any more; a load at work may end early."""
        self.is_aspired = False
        if isinstance(self._loader, Cancellable):
            self._loader.cancel()

    def estimate(self) -> int:
        """The memory that the version will need, in bytes."""
        return self._live_loader().estimate_resources()

    def load(self) -> None:
        """Try once to bring the version into memory, unless nobody wishes for it any more."""
        if not self.is_aspired:
            raise load_cancelled()
        loader = self._live_loader()
        loader.load()
        try:
            self._servable = loader.servable()
        except BaseException:
            loader.unload()  # it was loaded, and nobody will ever ask for it
            raise

    def servable(self) -> T:
        """What was loaded.

        The harness keeps it until ``unload``, so that a returned handle never frees it.
        """
        if self._servable is None:
            raise Internal(f"servable {self.id} is not loaded")
        return self._servable

    def unload(self) -> None:
        """Take the version out of memory, on this thread, and let go of everything."""
        loader = self._live_loader()
        self._loader = self._servable = None
        loader.unload()

    def _live_loader(self) -> Loader[T]:
        if self._loader is None:
            raise Internal(f"servable {self.id} has no loader (any more)")
        return self._loader


def load_cancelled() -> Cancelled:
    """The end of a version that was withdrawn before it was ready."""
    return Cancelled("Loading of servable cancelled")
