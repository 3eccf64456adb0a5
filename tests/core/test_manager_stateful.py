"""The manager under any order of wishes, passes, finished jobs, handles and time."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fakes import FakeClock, FakeLoader, FakeServable, StepExecutor
from salver.core.event_bus import EventBus
from salver.core.manager import AspiredVersionsManager
from salver.core.policy import availability_preserving, resource_preserving
from salver.core.resources import ResourceTracker
from salver.core.retries import Backoff, LoadRetries
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState
from salver.core.serving_map import Asleep, ServableHandle
from salver.core.state_monitor import ServableStateMonitor
from salver.errors import NotFound, Unavailable

BUDGET_BYTES = 100
names = st.sampled_from(["a", "b"])
versions = st.integers(1, 4)

SETTINGS = settings(max_examples=50, stateful_step_count=60, deadline=None)


class ManagerMachine(RuleBasedStateMachine):
    """What holds for every policy."""

    policy = staticmethod(resource_preserving)
    evicts = False
    after_end: Backoff | None = None

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.load_pool, self.unload_pool = StepExecutor(), StepExecutor()
        bus: EventBus[ServableState] = EventBus()
        self.monitor = ServableStateMonitor(bus)
        bus.subscribe(self.hear)
        self.manager: AspiredVersionsManager[FakeServable] = AspiredVersionsManager(
            bus,
            policy=self.policy,
            resources=ResourceTracker(BUDGET_BYTES),
            retries=LoadRetries(max_retries=1, interval_s=10, after_end=self.after_end),
            evicts=self.evicts,
            load_pool=self.load_pool,
            unload_pool=self.unload_pool,
            clock=self.clock,
        )
        self.loaders: list[FakeLoader] = []
        self.handles: list[ServableHandle[FakeServable]] = []
        self.last_heard: dict[ServableId, ManagerState] = {}
        self.was_ready: set[str] = set()
        self.may_go: set[str] = set()

    def hear(self, state: ServableState) -> None:
        """Within one life of a version the announcements only go up; a new life follows an END."""
        before = self.last_heard.get(state.id, ManagerState.END)
        assert before is ManagerState.END or before < state.manager_state
        is_ready = state.id.version in self.manager.serving_map.versions(state.id.name)
        assert is_ready == (state.manager_state in (ManagerState.AVAILABLE, ManagerState.UNLOADING))
        self.last_heard[state.id] = state.manager_state

    @rule(
        name=names,
        wished=st.dictionaries(
            versions, st.tuples(st.integers(0, 2), st.sampled_from([10, 40, 90]), st.booleans())
        ),
    )
    def wish(self, name: str, wished: dict[int, tuple[int, int, bool]]) -> None:
        data = []
        for version, (failures, needed_bytes, fails_to_unload) in wished.items():
            loader = FakeLoader(
                load_errors=[Unavailable("no")] * failures,
                needed_bytes=needed_bytes,
                unload_error=ValueError("stuck") if fails_to_unload else None,
            )
            self.loaders.append(loader)
            data.append(ServableData(ServableId(name, version), loader))
        if not wished:
            self.may_go.add(name)
        self.manager.set_aspired_versions(name, data)

    @rule()
    def step(self) -> None:
        self.manager.step()

    @precondition(lambda self: self.load_pool.jobs)
    @rule()
    def finish_load_work(self) -> None:
        self.load_pool.run_next()

    @precondition(lambda self: self.unload_pool.jobs)
    @rule()
    def finish_unload_work(self) -> None:
        self.unload_pool.run_next()

    @rule(name=names, version=st.none() | versions)
    def take_handle(self, name: str, version: int | None) -> None:
        try:
            self.handles.append(self.manager.handle(name, version))
        except NotFound as missing:
            ready = self.manager.serving_map.versions(name)
            is_ready = version in ready if version is not None else bool(ready)
            sleeps = isinstance(missing, Asleep)  # a later one than those that are ready
            assert not is_ready or (version is None and sleeps)

    @precondition(lambda self: self.handles)
    @rule(which=st.integers(0, 100))
    def return_handle(self, which: int) -> None:
        self.handles.pop(which % len(self.handles)).release()

    @rule()
    def let_time_pass(self) -> None:
        self.clock.advance(10)

    @invariant()
    def handles_stay_usable(self) -> None:
        for handle in self.handles:
            handle.servable.use()

    @invariant()
    def what_is_ready_is_usable(self) -> None:
        for servable_id in self.manager.available():
            with self.manager.handle(servable_id.name, servable_id.version) as handle:
                handle.servable.use()

    @invariant()
    def memory_stays_within_the_budget(self) -> None:
        assert self.manager.statistics().resources.reserved_bytes <= BUDGET_BYTES

    @invariant()
    def each_load_is_undone_once_and_in_turn(self) -> None:
        for loader in self.loaders:
            counts = Counter(loader.calls)
            assert counts["unload"] <= counts["servable"] <= counts["unload"] + 1
            if not self.evicts:
                assert counts["servable"] <= 1

    def teardown(self) -> None:
        """Once everything is closed, everything that was loaded is unloaded, and all have ended."""
        for handle in self.handles:
            handle.release()
        self.manager.close()
        while self.manager.step() or self.load_pool.jobs or self.unload_pool.jobs:
            for pool in (self.load_pool, self.unload_pool):
                if pool.jobs:
                    pool.run_next()

        assert self.manager.statistics().versions == {}
        assert self.manager.statistics().resources.reserved_bytes == 0
        assert set(self.last_heard.values()) <= {ManagerState.END}
        for loader in self.loaders:
            assert loader.calls.count("unload") == loader.calls.count("servable")


class AvailabilityMachine(ManagerMachine):
    """What the availability preserving policy promises on top."""

    policy = staticmethod(availability_preserving)

    @invariant()
    def an_answer_stays_until_nothing_is_wished_for(self) -> None:
        ready = {servable_id.name for servable_id in self.manager.available()}
        assert self.was_ready - ready <= self.may_go
        self.may_go -= ready - self.was_ready
        self.was_ready = ready


class EvictingMachine(AvailabilityMachine):
    """What holds where versions sleep for others' sake and failed ones begin anew."""

    evicts = True
    after_end = Backoff(first_s=10, longest_s=40)

    def __init__(self) -> None:
        super().__init__()
        self.demands: list[Future[None]] = []

    @rule(name=names, version=versions)
    def demand(self, name: str, version: int) -> None:
        self.demands.append(self.manager.demand(ServableId(name, version)))

    @invariant()
    def an_answer_stays_until_nothing_is_wished_for(self) -> None:
        """Not here: a version that sleeps answers once it is woken."""

    @invariant()
    def what_sleeps_is_neither_ready_nor_lost(self) -> None:
        asleep = self.manager.statistics().asleep
        assert asleep <= sum(self.manager.statistics().versions.values())

    def teardown(self) -> None:
        """Whoever asked for a version has an answer in the end."""
        super().teardown()

        assert all(demand.done() for demand in self.demands)


TestResourcePreserving = ManagerMachine.TestCase
TestResourcePreserving.settings = SETTINGS
TestAvailabilityPreserving = AvailabilityMachine.TestCase
TestAvailabilityPreserving.settings = SETTINGS
TestEvicting = EvictingMachine.TestCase
TestEvicting.settings = SETTINGS
