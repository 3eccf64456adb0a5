"""A version whose place changes while its number does not: a corrected configuration."""

from __future__ import annotations

import pytest

from fakes import FakeLoader, StepExecutor
from manager_house import House
from salver.core.retries import Backoff
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.source import SourceAdapter
from salver.errors import NotFound

ID = ServableId("m", 1)


def broken() -> FakeLoader:
    return FakeLoader(load_errors=[NotFound("nothing here")] * 9)


def wish(house: House, loader: FakeLoader, origin: str) -> None:
    house.manager.set_aspired_versions("m", [ServableData(ID, loader, origin=origin)])
    house.settle()


@pytest.mark.parametrize(
    "house",
    [House(), House(max_retries=5), House(after_end=Backoff())],
    ids=["given up", "between two tries", "between two rounds"],
)
def test_a_failed_version_is_loaded_from_where_it_is_now(house: House):
    """At once, and not from the place where it cannot be found, however often that is tried."""
    bad, good = broken(), FakeLoader("good")
    wish(house, bad, "/bad/1")
    wish(house, good, "/good/1")
    house.clock.advance(1000)
    house.settle()

    assert house.manager.handle("m").servable.use() == "good"
    assert bad.calls.count("load") == 1
    assert house.manager.statistics().waiting_for_retry == 0


def test_a_version_that_is_being_loaded_is_tried_elsewhere_when_that_fails():
    """What is at work is let finish."""
    pool = StepExecutor()
    house = House(load_pool=pool, max_retries=5)
    wish(house, broken(), "/bad/1")
    wish(house, FakeLoader("good"), "/good/1")
    while pool.jobs:
        pool.run_next()
        house.settle()

    assert house.manager.handle("m").servable.use() == "good"


def test_a_version_that_is_ready_stays_as_it_is():
    """As in TensorFlow Serving: another content has another number."""
    house = House()
    other = FakeLoader("other")
    wish(house, FakeLoader("first"), "/here/1")
    wish(house, other, "/there/1")

    assert house.manager.handle("m").servable.use() == "first"
    assert other.calls == []


def test_a_sleeping_version_wakes_from_where_it_is_now():
    """It sleeps on until it is asked for."""
    house = House(budget_bytes=50, evicts=True)
    house.have("a", {1: FakeLoader(needed_bytes=40)})
    wish(house, FakeLoader("old", needed_bytes=40), "/old/1")
    wish(house, FakeLoader("new", needed_bytes=40), "/new/1")
    assert house.manager.is_asleep(ID)

    house.manager.demand(ID)
    house.settle()

    assert house.manager.handle("m").servable.use() == "new"


def test_a_version_put_to_sleep_wakes_from_where_it_is_by_then():
    """The place may change while it is in memory."""
    house = House(budget_bytes=50, evicts=True)
    wish(house, FakeLoader("old", needed_bytes=40), "/old/1")
    wish(house, FakeLoader("new", needed_bytes=40), "/new/1")
    house.have("a", {1: FakeLoader(needed_bytes=40)})
    for each in (ServableId("a", 1), ID):
        house.manager.demand(each)
        house.settle()

    assert house.manager.handle("m").servable.use() == "new"


def test_an_adapter_says_where_a_version_came_from():
    """The loader that it makes of a path does not."""
    heard: list[ServableData[str]] = []

    class Target:
        def set_aspired_versions(self, name: str, versions: list[ServableData[str]]) -> None:
            heard.extend(versions)

    adapter = SourceAdapter(lambda _, path: path.upper(), Target())
    adapter.set_aspired_versions("m", [ServableData(ID, "/models/m/1")])

    assert (heard[0].payload, heard[0].origin) == ("/MODELS/M/1", "/models/m/1")
