"""More versions than memory: the least recently used sleep, and are woken on demand."""

from __future__ import annotations

import pytest

from fakes import FakeLoader, StepExecutor
from manager_house import House
from salver.core.basic_manager import USE_LOOK_S
from salver.core.retries import Backoff
from salver.core.servable_id import ServableId
from salver.core.serving_map import Asleep
from salver.errors import DataLoss, NotFound, ServingError


def sized(needed_bytes: int = 40, *errors: ServingError) -> FakeLoader:
    """A loader of a version that takes so much of the hundred bytes there are."""
    return FakeLoader(needed_bytes=needed_bytes, load_errors=errors)


def house_of_three(**settings: object) -> House:
    """Room for two of the three models a, b and c; c sleeps."""
    house = House(budget_bytes=100, evicts=True, **settings)  # type: ignore[arg-type] # of House
    for name in ("a", "b", "c"):
        house.have(name, {1: sized()})
    return house


def use(house: House, name: str) -> None:
    """Use a model, and let the manager notice."""
    with house.manager.handle(name) as handle:
        handle.servable.use()
    house.clock.advance(USE_LOOK_S)
    house.settle()


def wake(house: House, name: str, version: int = 1) -> None:
    """Ask for a version and wait for it; its error is raised."""
    future = house.manager.demand(ServableId(name, version))
    house.settle()
    future.result(timeout=0)


def loaded(house: House) -> list[str]:
    return [each.name for each in house.manager.available()]


def test_what_does_not_fit_sleeps_and_says_so():
    """Listed, not loaded, and no failure: its status is an end without an error."""
    house = house_of_three()

    assert loaded(house) == ["a", "b"]
    with pytest.raises(Asleep, match=r"Servable not found for request: Latest\(c\)") as asleep:
        house.manager.handle("c")
    assert asleep.value.servable_id == ServableId("c", 1)
    with pytest.raises(Asleep):
        house.manager.handle("c", 1)
    with pytest.raises(NotFound) as other:
        house.manager.handle("c", 2)
    assert not isinstance(other.value, Asleep)
    assert house.events[-2:] == [("c", 1, "START"), ("c", 1, "END")]
    assert house.manager.statistics().asleep == 1


def test_a_version_asked_for_takes_the_place_of_the_least_recently_used():
    """Which is the one whose last use lies longest back, not the one loaded first."""
    house = house_of_three()
    use(house, "b")
    use(house, "a")
    wake(house, "c")

    assert loaded(house) == ["a", "c"]

    use(house, "c")
    wake(house, "b")

    assert loaded(house) == ["b", "c"]
    assert house.events[-5:] == [
        ("b", 1, "START"),
        ("a", 1, "UNLOADING"),
        ("a", 1, "END"),
        ("b", 1, "LOADING"),
        ("b", 1, "AVAILABLE"),
    ]


def test_a_version_in_use_is_waited_for():
    """A handle keeps its version whole; the one asked for comes when it is back."""
    house = House(budget_bytes=50, evicts=True)
    house.have("a", {1: sized()})
    house.have("b", {1: sized()})
    handle = house.manager.handle("a")
    future = house.manager.demand(ServableId("b", 1))
    house.settle()

    assert handle.servable.use() == ""
    assert not future.done()

    handle.release()
    del handle
    house.settle()

    assert future.done()
    assert loaded(house) == ["b"]


def test_all_who_ask_share_one_load():
    """A hundred requests for a sleeping model wake it once."""
    house = house_of_three()
    futures = {id(house.manager.demand(ServableId("c", 1))) for _ in range(100)}
    house.settle()

    assert len(futures) == 1
    assert house.events.count(("c", 1, "LOADING")) == 1


def test_a_load_on_demand_that_fails_says_why_to_those_who_asked():
    """And with a backoff the version can be asked for again."""
    house = House(budget_bytes=50, evicts=True, after_end=Backoff(first_s=1.0))
    house.have("a", {1: sized()})
    house.have("b", {1: sized(40, DataLoss("a bad block"))})

    with pytest.raises(DataLoss, match="a bad block"):
        wake(house, "b")

    house.clock.advance(1.0)
    house.settle()
    wake(house, "b")
    assert loaded(house) == ["b"]


def test_a_new_version_of_a_loaded_model_takes_room_as_if_asked_for():
    """Others sleep for it; the old version answers until the new one is there."""
    house = house_of_three()
    use(house, "a")
    house.wish("a", {2: sized()})
    house.settle()

    assert [str(each) for each in house.manager.available()] == ["{name: a version: 2}"]
    wake(house, "b")
    assert loaded(house) == ["a", "b"]


def test_what_can_never_fit_is_refused():
    """A version larger than the budget would put everybody to sleep for nothing."""
    house = house_of_three()
    house.have("d", {1: sized(101)})

    assert house.error("d", 1).message == (
        "Insufficient resources to load servable {name: d version: 1}"
    )
    assert loaded(house) == ["a", "b"]


def test_a_sleeping_version_that_is_not_wished_for_is_forgotten():
    """Nobody can wake it, and whoever waits for it is told."""
    house = house_of_three()
    house.have("c", {})

    with pytest.raises(NotFound) as missing:
        house.manager.handle("c")
    assert not isinstance(missing.value, Asleep)
    with pytest.raises(NotFound):
        wake(house, "c")


def test_a_version_dropped_while_it_goes_to_sleep_is_gone():
    """Whoever asks for it in that moment is told so, and nothing is loaded again."""
    house = House(budget_bytes=50, evicts=True)
    house.have("a", {1: sized()})
    house.have("b", {1: sized()})
    handle = house.manager.handle("a")
    first = house.manager.demand(ServableId("b", 1))
    house.settle()
    second = house.manager.demand(ServableId("a", 1))
    house.have("a", {})
    handle.release()
    del handle
    house.settle()

    assert first.exception(timeout=0) is None
    assert isinstance(second.exception(timeout=0), NotFound)
    assert loaded(house) == ["b"]


def test_the_latest_version_is_the_latest_also_while_it_sleeps():
    """An older one that happens to be loaded does not answer in its place."""
    house = House(budget_bytes=100, evicts=True)
    house.have("a", {1: sized()})
    house.have("a", {1: sized(), 2: sized()})
    use(house, "a")
    with house.manager.handle("a", 1):
        pass
    house.clock.advance(USE_LOOK_S)
    house.settle()
    house.have("b", {1: sized()})
    wake(house, "b")

    assert ServableId("a", 1) in house.manager.available()
    assert ServableId("a", 2) not in house.manager.available()
    with pytest.raises(Asleep) as asleep:
        house.manager.handle("a")
    assert asleep.value.servable_id == ServableId("a", 2)


def test_a_manager_that_does_not_evict_refuses():
    """As before: what does not fit ends with an error, and nobody has to go."""
    house = House(budget_bytes=100)
    for name in ("a", "b", "c"):
        house.have(name, {1: sized()})

    assert house.error("c", 1).message.startswith("Insufficient resources")
    assert loaded(house) == ["a", "b"]


def test_a_load_that_hangs_keeps_nobody_asleep():
    """Others make room for a version that is asked for, whatever else is loading."""
    pool = StepExecutor()
    house = House(budget_bytes=120, evicts=True)
    for name in ("a", "b", "c"):
        house.have(name, {1: sized()})
    assert loaded(house) == ["a", "b", "c"]
    house.have("d", {1: sized()})
    house.have("a", {})
    with house.manager.loading_with(pool):
        house.have("hangs", {1: sized()})
        while "hangs" not in str(house.events[-1]):
            pool.run_next()
            house.settle()
        future = house.manager.demand(ServableId("d", 1))
        house.settle()
        pool.jobs.reverse()  # what hangs stays where it is
        while not future.done():
            pool.run_next()
            house.settle()

    assert "d" in loaded(house)
