"""A load that can be cancelled ends when nobody wishes for its version any more."""

from __future__ import annotations

from fakes import FakeLoader, StepExecutor
from manager_house import House
from salver.core.servable_id import ServableId
from salver.errors import Cancelled


class CancellableLoader(FakeLoader):
    """Notes that it is cancelled."""

    def cancel(self) -> None:
        self.calls.append("cancel")


def test_a_load_at_work_is_cancelled_when_its_version_is_withdrawn():
    """The version ends as cancelled, and no further try is made."""
    pool = StepExecutor()
    house = House(load_pool=pool, max_retries=5)
    loader = CancellableLoader(load_errors=[Cancelled("Loading of servable cancelled")])
    house.have("m", {1: loader})
    pool.run_next()
    house.settle()

    house.have("m", {})  # the load is in the pool's hands
    pool.run_next()
    house.settle()

    assert loader.calls == ["estimate", "cancel"]
    assert pool.jobs == []
    error = house.monitor.state(ServableId("m", 1)).error
    assert str(error) == "CANCELLED: Loading of servable cancelled"


def test_a_loader_that_cannot_be_cancelled_is_let_finish():
    """What it loaded is unloaded before anybody can see it."""
    house = House()
    loader = FakeLoader(on_load=lambda: house.wish("m", {}))

    house.have("m", {1: loader})

    assert loader.calls == ["estimate", "load", "servable", "unload"]
