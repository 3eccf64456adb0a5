"""A manager for tests: stepped by hand, its clock stood still, its announcements noted."""

from __future__ import annotations

from concurrent.futures import Executor

from fakes import FakeClock, FakeLoader, FakeServable
from salver.core.event_bus import EventBus
from salver.core.loader import Loader
from salver.core.manager import AspiredVersionsManager
from salver.core.policy import AspiredVersionPolicy, availability_preserving
from salver.core.resources import ResourceTracker
from salver.core.retries import Backoff, LoadRetries
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState
from salver.core.state_monitor import ServableStateMonitor
from salver.errors import ServingError


class House:
    """A manager with everything around it in the test's hands."""

    def __init__(
        self,
        *,
        policy: AspiredVersionPolicy = availability_preserving,
        budget_bytes: int | None = None,
        max_retries: int = 0,
        after_end: Backoff | None = None,
        evicts: bool = False,
        load_pool: Executor | None = None,
        unload_pool: Executor | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.bus: EventBus[ServableState] = EventBus()
        self.monitor = ServableStateMonitor(self.bus)
        self.events: list[tuple[str, int, str]] = []
        self.bus.subscribe(
            lambda s: self.events.append((s.id.name, s.id.version, s.manager_state.name))
        )
        self.manager: AspiredVersionsManager[FakeServable] = AspiredVersionsManager(
            self.bus,
            policy=policy,
            resources=ResourceTracker(budget_bytes),
            retries=LoadRetries(max_retries=max_retries, interval_s=60, after_end=after_end),
            evicts=evicts,
            load_pool=load_pool,
            unload_pool=unload_pool,
            clock=self.clock,
            wall_clock=lambda: 12345.0,
        )

    def wish(self, name: str, loaders: dict[int, FakeLoader]) -> None:
        versions = [ServableData(ServableId(name, v), loader) for v, loader in loaders.items()]
        self.manager.set_aspired_versions(name, versions)

    def settle(self) -> None:
        """Step until nothing is left to do."""
        for _ in range(1000):
            if not self.manager.step():
                return
        raise AssertionError("the manager never comes to rest")

    def have(self, name: str, loaders: dict[int, FakeLoader]) -> None:
        self.wish(name, loaders)
        self.settle()

    def ready(self, name: str = "m") -> list[int]:
        return self.manager.serving_map.versions(name)

    def error(self, name: str, version: int) -> ServingError:
        state = self.monitor.state(ServableId(name, version))
        assert state is not None
        assert state.manager_state is ManagerState.END
        assert state.error is not None
        return state.error

    def break_off(self, name: str, version: int, error: ServingError) -> None:
        """Wish for a version that its source found broken."""
        data: ServableData[Loader[FakeServable]]
        data = ServableData(ServableId(name, version), error=error)
        self.manager.set_aspired_versions(name, [data])
        self.settle()
