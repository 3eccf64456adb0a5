"""Which models are served from processes of their own, and what the server knows of those.

Everything may be called from any thread, and nothing waits for a process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakValueDictionary

from salver.core.event_bus import EventBus
from salver.core.loader import Loader
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState
from salver.core.state_monitor import ServableStateMonitor
from salver.errors import ServingError
from salver.metrics import Metrics
from salver.servables.isolated import IsolatedLoader, IsolatedServable
from salver.servables.isolated_messages import Recipe
from salver.servables.isolated_process import Limits, WorkerProcess
from salver.servables.platform import MakeLoader, PlatformContext
from salver.servables.servable import Servable

EVERY_MODEL: Final = "*"


class MakeProcess(Protocol):
    """Starts the process of a version."""

    def __call__(self, title: str, recipe: Recipe, *, limits: Limits) -> WorkerProcess:
        """As ``WorkerProcess`` is made."""


class Isolation:
    """Makes the loaders of isolated models and keeps an eye on them."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        metrics: Metrics,
        memory_limit_bytes: int = 0,
        load_timeout_s: float = 0.0,
        make_process: MakeProcess = WorkerProcess,
    ) -> None:
        """``names`` may hold EVERY_MODEL; limits of zero are none."""
        self._names = frozenset(names)
        self._metrics = metrics
        self._memory_limit_bytes = memory_limit_bytes
        self._limits = Limits(load_timeout_s=load_timeout_s or None)
        self._make_process = make_process
        # Noted once loaded: each wish makes a loader for every version, most of them for nothing.
        self._servables: WeakValueDictionary[ServableId, IsolatedServable] = WeakValueDictionary()
        self._listeners: list[Callable[[], None]] = []

    def applies_to(self, name: str) -> bool:
        """Whether a model is served from processes of its own."""
        return name in self._names or EVERY_MODEL in self._names

    def around(
        self,
        make_loader: MakeLoader,
        context: PlatformContext,
        estimate: Callable[[str], int] | None = None,
    ) -> MakeLoader:
        """``make_loader``, but for isolated models: their platform is told ``context`` elsewhere.

        ``estimate`` is for them, where code of the platform is not to be run in this process: the
        memory that the version at a path needs.
        """
        if not self._names:
            return make_loader
        recipe = Recipe("", str(Path.cwd()), context, memory_limit_bytes=self._memory_limit_bytes)

        def loader(servable_id: ServableId, path: str) -> Loader[Servable]:
            usual = make_loader(servable_id, path)
            if not self.applies_to(servable_id.name):
                return usual
            needed = usual.estimate_resources if estimate is None else partial(estimate, path)
            made_for = replace(recipe, path=path, servable_id=servable_id)
            return self._loader(servable_id, needed, made_for)

        return loader

    def trouble(self, servable_id: ServableId) -> ServingError | None:
        """Why a version that is loaded cannot answer just now; None for all others."""
        servable = self._servables.get(servable_id)
        return None if servable is None else servable.trouble

    def when_changed(self, listener: Callable[[], None]) -> None:
        """Call ``listener``, from any thread, whenever the trouble of a version came or went."""
        self._listeners.append(listener)

    def _loader(
        self, servable_id: ServableId, needed: Callable[[], int], recipe: Recipe
    ) -> IsolatedLoader:
        title = f"{servable_id.name}/{servable_id.version}"
        make_process = partial(self._make_process, title, recipe, limits=self._limits)
        return IsolatedLoader(
            title,
            needed,
            lambda: IsolatedServable(
                title,
                make_process,
                _ProcessMetrics(self._metrics, servable_id.name, recipe.path, self._tell),
            ),
            partial(self._servables.__setitem__, servable_id),
        )

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


class _ProcessMetrics:
    """Counts what becomes of the processes of one version, loads in TensorFlow's own names."""

    def __init__(self, metrics: Metrics, name: str, path: str, changed: Callable[[], None]) -> None:
        self._metrics = metrics
        self._name = name
        self._path = path
        self._changed = changed
        self._is_first = True

    def started(self, took_s: float) -> None:
        """Count a load, and a restart if it is not the first."""
        self._metrics.load_attempt_count.increment(self._path, "success")
        self._metrics.load_latency.increment(self._path, by=int(took_s * 1e6))
        if not self._is_first:
            self._metrics.isolated_restarts.increment(self._name)
        self._is_first = False
        self._changed()

    def start_failed(self) -> None:
        """Count a load that failed."""
        self._metrics.load_attempt_count.increment(self._path, "fail")

    def died(self, _how: str) -> None:
        """Count a death."""
        self._metrics.isolated_deaths.increment(self._name)
        self._changed()


class IsolatedStateMonitor(ServableStateMonitor):
    """A state monitor that shows a version as LOADING, and why, while its process is restarted.

    The manager knows nothing of that: for it the version stays what it was.
    """

    def __init__(
        self,
        bus: EventBus[ServableState],
        trouble: Callable[[ServableId], ServingError | None],
    ) -> None:
        super().__init__(bus)
        self._trouble = trouble

    def versions(self, name: str) -> dict[int, ServableState]:
        """As the state monitor has them, and as they are."""
        return {version: self._as_it_is(state) for version, state in super().versions(name).items()}

    def _as_it_is(self, state: ServableState) -> ServableState:
        if state.manager_state is not ManagerState.AVAILABLE:
            return state
        error = self._trouble(state.id)
        if error is None:
            return state
        return replace(state, manager_state=ManagerState.LOADING, error=error)
