"""A server core for tests: no disk, loaders that do what they are told, and a manager in hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fakes import FakeLoader
from salver.core.event_bus import EventBus
from salver.core.manager import AspiredVersionsManager
from salver.core.resources import ResourceTracker
from salver.core.retries import LoadRetries
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.servable_state import ServableState
from salver.core.source import Target
from salver.core.state_monitor import ServableStateMonitor
from salver.errors import ServingError
from salver.model_server.model_config import ModelConfig
from salver.model_server.server_core import LabelRules, ServerCore, Watching
from salver.sources.file_system import MonitoredServable, SourceStatistics
from salver.sources.version_policy import All, VersionChild, choose


class Shelf:
    """A source whose folders are a dictionary: what lies where, by base path."""

    def __init__(self) -> None:
        self.versions: dict[str, list[int]] = {}
        self.polls = 0
        self.is_polled: Callable[[], None] = lambda: None
        self._servables: dict[str, MonitoredServable] = {}
        self._complaints: dict[str, tuple[str, ...]] = {}

    def __call__(self, servables: Sequence[MonitoredServable], target: Target[str]) -> Shelf:
        self._target = target
        self.update_config(servables)
        return self

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def update_config(self, servables: Sequence[MonitoredServable]) -> None:
        new = {servable.name: servable for servable in servables}
        for name in set(self._servables) - set(new):
            self._complaints.pop(name, None)
            self._target.set_aspired_versions(name, [])
        self._servables = new

    def poll(self) -> None:
        self.polls += 1
        for name, servable in list(self._servables.items()):
            versions = self.versions.get(servable.base_path)
            if versions is None:
                self._complaints[name] = (f"base path {servable.base_path} is not there",)
                continue
            self._complaints.pop(name, None)
            wanted = choose([VersionChild(v, str(v)) for v in versions], servable.policy)
            data = [
                ServableData(ServableId(name, c.version), f"{servable.base_path}/{c.child}")
                for c in wanted
            ]
            self._target.set_aspired_versions(name, data)
        self.is_polled()

    def statistics(self) -> SourceStatistics:
        return SourceStatistics(self.polls, dict(self._complaints))


class CoreHouse:
    """A server core with everything around it in the test's hands."""

    def __init__(
        self,
        *,
        rules: LabelRules | None = None,
        independent: bool = False,
        platforms: Sequence[str] = ("tensorflow",),
        versions_in_memory: int | None = None,
    ) -> None:
        self.bus: EventBus[ServableState] = EventBus()
        self.monitor = ServableStateMonitor(self.bus)
        self.manager = AspiredVersionsManager(
            self.bus,
            retries=LoadRetries(max_retries=0),
            resources=ResourceTracker(versions_in_memory),
            evicts=versions_in_memory is not None,
        )
        self.shelf = Shelf()
        self.load_errors: dict[str, ServingError] = {}
        self.gates: dict[str, threading.Event] = {}
        self.core = ServerCore(
            self.manager,
            self.monitor,
            dict.fromkeys(platforms, self._loader),
            watching=Watching(poll_wait_s=0, independent=independent),
            make_source=self.shelf,
            label_rules=rules,
            epoch="test",
        )

    def _loader(self, servable_id: ServableId, path: str) -> FakeLoader:
        errors = [self.load_errors[path]] if path in self.load_errors else []
        gate = self.gates.get(path)
        wait = (lambda: None) if gate is None else (lambda: gate.wait(60) and None)
        return FakeLoader(str(servable_id), needed_bytes=1, load_errors=errors, on_load=wait)

    def add(self, name: str, *versions: int) -> None:
        """Put versions of a model where it looks for them."""
        self.shelf.versions[f"/models/{name}"] = list(versions)

    def serve(self, *configs: ModelConfig) -> None:
        """Apply a configuration, look, and load whatever it brings."""
        self.core.configure(configs)
        self.settle()

    def settle(self) -> None:
        self.core.look_for_versions()
        while self.manager.step():
            pass

    @contextmanager
    def running(self) -> Iterator[CoreHouse]:
        """Let the manager run on its own thread meanwhile."""
        self.manager.start()
        try:
            yield self
        finally:
            for gate in self.gates.values():
                gate.set()
            self.manager.stop(60)


def model(name: str, **labels: int) -> ModelConfig:
    """A model that serves all of its versions."""
    return ModelConfig(name, f"/models/{name}", All(), version_labels=labels)
