"""The manager, stepped by hand: wishes in, versions that can be used out."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from fakes import FakeLoader, FakeServable, StepExecutor
from manager_house import House
from salver.core.harness import State
from salver.core.manager import AspiredVersionsManager
from salver.core.policy import availability_preserving, resource_preserving
from salver.core.resources import ResourceStatistics
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState
from salver.errors import (
    Code,
    InvalidArgument,
    NotFound,
    Unavailable,
)

# A version comes and goes.


def test_aspired_version_becomes_available():
    """A wish is loaded and can be used."""
    house = House()
    loader = FakeLoader("one")

    house.have("m", {1: loader})

    with house.manager.handle("m") as handle:
        assert handle.servable.use() == "one"
    assert loader.calls == ["estimate", "load", "servable"]
    assert house.manager.available() == [ServableId("m", 1)]


def test_announcements_of_a_whole_life_come_in_order():
    """START, LOADING, AVAILABLE, UNLOADING, END: each once, in this order, with the time."""
    house = House()

    house.have("m", {1: FakeLoader()})
    house.have("m", {})

    states = ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]
    assert house.events == [("m", 1, state) for state in states]
    last = house.monitor.state(ServableId("m", 1))
    assert last == ServableState(ServableId("m", 1), ManagerState.END, None, 12345.0)


def test_available_is_said_once_it_is_true_and_unloading_while_it_still_is():
    """Whoever hears AVAILABLE or UNLOADING can use the version at that moment."""
    house = House()
    seen: list[tuple[str, list[int]]] = []
    house.bus.subscribe(lambda s: seen.append((s.manager_state.name, house.ready())))

    house.have("m", {1: FakeLoader()})
    house.have("m", {})

    assert seen == [
        ("START", []),
        ("LOADING", []),
        ("AVAILABLE", [1]),
        ("UNLOADING", [1]),
        ("END", []),
    ]


def test_log_lines_are_those_people_grep_for(caplog: pytest.LogCaptureFixture):
    """The life of a version reads as in TensorFlow Serving's log."""
    caplog.set_level(logging.INFO)
    house = House()

    house.have("m", {1: FakeLoader()})
    house.have("m", {})

    assert caplog.messages == [
        "Successfully reserved resources to load servable {name: m version: 1}",
        "Approving load for servable version {name: m version: 1}",
        "Loading servable version {name: m version: 1}",
        "Successfully loaded servable version {name: m version: 1}",
        "Quiescing servable version {name: m version: 1}",
        "Done quiescing servable version {name: m version: 1}",
        "Unloading servable version {name: m version: 1}",
        "Done unloading servable version {name: m version: 1}",
    ]


def test_several_versions_are_there_at_once():
    """A wish for several versions gets them all; the highest answers by default."""
    house = House()

    house.have("m", {1: FakeLoader("one"), 2: FakeLoader("two")})

    assert house.ready() == [2, 1]
    assert house.manager.handle("m").servable.use() == "two"
    assert house.manager.handle("m", 1).servable.use() == "one"


def test_one_pass_carries_out_one_action():
    """Two loads take two passes; unloads come first."""
    house = House()
    house.have("old", {1: FakeLoader()})
    house.wish("a", {1: FakeLoader()})
    house.wish("b", {1: FakeLoader()})
    house.wish("old", {})

    loaded = []
    while house.manager.step():
        loaded.append([str(servable_id) for servable_id in house.manager.available()])

    assert loaded[0] == []
    assert loaded[1] == ["{name: a version: 1}"]
    assert loaded[2] == ["{name: a version: 1}", "{name: b version: 1}"]


def test_next_version_loads_before_the_last_is_dropped():
    """At no moment of a change of versions is there none."""
    house = House()
    house.have("m", {1: FakeLoader()})
    house.events.clear()

    house.have("m", {2: FakeLoader()})

    assert house.ready() == [2]
    assert house.events.index(("m", 2, "AVAILABLE")) < house.events.index(("m", 1, "UNLOADING"))


def test_resource_preserving_drops_the_last_version_before_the_next_loads():
    """With the other policy two versions are never in memory together."""
    house = House(policy=resource_preserving)
    house.have("m", {1: FakeLoader()})
    house.events.clear()

    house.have("m", {2: FakeLoader()})

    assert house.ready() == [2]
    assert house.events.index(("m", 1, "END")) < house.events.index(("m", 2, "LOADING"))


def test_same_wish_again_changes_nothing():
    """A source that repeats itself costs nothing: the loaders it brings are not even asked."""
    house = House()
    house.have("m", {1: FakeLoader()})
    again = FakeLoader()

    house.have("m", {1: again})

    assert again.calls == []
    assert house.ready() == [1]


def test_only_the_newest_wish_counts():
    """A wish overtaken before it was taken leaves no trace."""
    house = House()
    overtaken = FakeLoader()
    house.wish("m", {1: overtaken})

    house.have("m", {2: FakeLoader()})

    assert overtaken.calls == []
    assert {version for _, version, _ in house.events} == {2}


def test_first_of_two_entries_for_a_version_counts():
    """A version listed twice is loaded once, from the first entry."""
    house = House()
    first, second = FakeLoader("first"), FakeLoader("second")
    entries = [ServableData(ServableId("m", 1), loader) for loader in (first, second)]

    house.manager.set_aspired_versions("m", entries)
    house.settle()

    assert house.manager.handle("m").servable.use() == "first"
    assert second.calls == []


def test_wish_with_a_foreign_version_is_refused():
    """All versions of a wish are of its servable, or nothing is wished for."""
    house = House()

    with pytest.raises(InvalidArgument, match=r"aspired versions of 'm' include \{name: other"):
        house.manager.set_aspired_versions("m", [ServableData(ServableId("other", 1))])
    assert not house.manager.step()


def test_what_nobody_wishes_for_is_forgotten():
    """After its unload a version is not under management any more."""
    house = House()
    house.have("m", {1: FakeLoader()})

    house.have("m", {})

    assert house.manager.statistics().versions == {}
    with pytest.raises(NotFound):
        house.manager.handle("m")


def test_version_withdrawn_before_its_turn_ends():
    """A version announced and withdrawn before any work was done is announced as ended."""
    pool = StepExecutor()
    house = House(load_pool=pool)
    house.wish("m", {1: FakeLoader(), 2: FakeLoader()})
    house.manager.step()
    house.wish("m", {2: FakeLoader()})

    house.manager.step()

    assert house.monitor.versions("m")[1].manager_state is ManagerState.END
    assert house.monitor.versions("m")[1].error is None


# Handles.


def test_a_handle_keeps_its_version_until_it_is_returned():
    """A version in use is not unloaded; the return of the last handle lets it go."""
    house = House()
    loader = FakeLoader("one")
    house.have("m", {1: loader})
    first, second = house.manager.handle("m"), house.manager.handle("m")

    house.have("m", {})
    first.release()
    house.settle()
    assert second.servable.use() == "one"
    assert house.manager.statistics().draining == (ServableId("m", 1),)
    second.release()
    house.settle()

    assert loader.calls[-1] == "unload"
    assert house.manager.statistics().draining == ()


def test_returning_the_last_handle_unloads_nothing_itself():
    """The unload happens in the manager's next pass, not where the handle is returned."""
    house = House()
    loader = FakeLoader()
    house.have("m", {1: loader})
    handle = house.manager.handle("m")
    house.have("m", {})

    handle.release()
    assert "unload" not in loader.calls
    house.manager.step()

    assert loader.calls[-1] == "unload"


def test_a_held_handle_delays_no_other_version():
    """While an old version drains, newer ones of it and of others come and go."""
    house = House()
    house.have("m", {1: FakeLoader()})
    held = house.manager.handle("m")

    house.have("m", {2: FakeLoader()})
    house.have("other", {1: FakeLoader()})
    house.have("m", {3: FakeLoader()})

    assert house.ready("m") == [3]
    assert house.ready("other") == [1]
    held.release()


def test_memory_of_a_gone_version_is_let_go():
    """After the unload nothing in the manager refers to the loader or the servable."""
    house = House()
    loader = FakeLoader()
    loader_ref, servable_ref = weakref.ref(loader), weakref.ref(loader.made)
    house.have("m", {1: loader})
    del loader

    house.have("m", {})
    gc.collect()

    assert loader_ref() is None
    assert servable_ref() is None


def test_memory_of_a_failed_version_is_let_go():
    """A version in error keeps its reason and nothing else, though it stays wished for."""
    house = House()
    loader = FakeLoader(load_errors=[Unavailable("boom")])
    loader_ref = weakref.ref(loader)
    house.have("m", {1: loader})
    del loader

    gc.collect()

    assert loader_ref() is None
    assert house.error("m", 1).message == "boom"


# Failures.


def test_failed_version_never_takes_the_good_one_down():
    """The old version serves on while the new one fails, and after."""
    house = House(max_retries=2)
    house.have("m", {1: FakeLoader()})

    house.have("m", {2: FakeLoader(load_errors=[Unavailable("no")] * 3)})
    for _ in range(2):
        assert house.ready() == [1]
        house.clock.advance(60)
        house.settle()

    assert house.ready() == [1]
    assert house.error("m", 2).message == "no"


def test_good_version_is_kept_when_the_wish_returns_to_it():
    """Going back from a failed version to the one still serving keeps it, without a gap."""
    house = House()
    good = FakeLoader()
    house.have("m", {1: good})
    house.have("m", {2: FakeLoader(load_errors=[Unavailable("no")])})

    house.have("m", {1: FakeLoader()})

    assert house.ready() == [1]
    assert "unload" not in good.calls
    assert house.manager.statistics().versions == {State.READY: 1}


def test_going_back_does_not_wait_for_retries():
    """A wish that returns while the failed version waits for its next try ends the tries."""
    house = House(max_retries=5)
    good, bad = FakeLoader(), FakeLoader(load_errors=[Unavailable("no")] * 9)
    house.have("m", {1: good})
    house.have("m", {2: bad})

    house.have("m", {1: FakeLoader()})
    house.clock.advance(600)
    house.settle()

    assert house.ready() == [1]
    assert "unload" not in good.calls
    assert bad.calls.count("load") == 1
    assert house.error("m", 2).message == "no"
    assert house.manager.statistics().versions == {State.READY: 1}


def test_good_version_is_kept_beside_a_failed_one():
    """A wish for both keeps the good one and leaves the failed one failed."""
    house = House()
    house.have("m", {1: FakeLoader()})
    house.have("m", {2: FakeLoader(load_errors=[Unavailable("no")])})

    house.have("m", {1: FakeLoader(), 2: FakeLoader()})

    assert house.manager.statistics().versions == {State.READY: 1, State.ERROR: 1}


def test_failed_version_is_not_tried_again_while_it_is_wished_for():
    """Repeating the wish does not repeat the load."""
    house = House()
    house.have("m", {1: FakeLoader(load_errors=[Unavailable("no")])})
    again = FakeLoader()

    house.have("m", {1: again})

    assert again.calls == []
    assert house.error("m", 1).code is Code.UNAVAILABLE


def test_failed_version_is_tried_again_after_it_was_away():
    """A version that disappears and comes back is loaded afresh."""
    house = House()
    house.have("m", {1: FakeLoader(load_errors=[Unavailable("no")])})
    house.have("m", {})

    house.have("m", {1: FakeLoader()})

    assert house.ready() == [1]


def test_source_error_ends_the_version_at_once():
    """A version that comes as an error ends with it, without a load."""
    house = House()
    error = NotFound("gone")

    house.manager.set_aspired_versions("m", [ServableData(ServableId("m", 1), error=error)])
    house.settle()

    assert house.events == [("m", 1, "END")]
    assert house.error("m", 1) is error


def test_foreign_error_of_a_loader_becomes_unknown(caplog: pytest.LogCaptureFixture):
    """What is no ServingError keeps its type and text, and the log its traceback."""
    house = House()

    house.have("m", {1: FakeLoader(load_errors=[ValueError("boom")])})

    error = house.error("m", 1)
    assert str(error) == "UNKNOWN: ValueError: boom"
    assert error.__traceback__ is None
    assert "Traceback" in caplog.text


def test_loader_that_asks_to_exit_ends_its_version_only():
    """A SystemExit out of a model's code is that model's error."""
    house = House()

    house.have("m", {1: FakeLoader(load_errors=[SystemExit(3)])})

    assert str(house.error("m", 1)) == "UNKNOWN: SystemExit: 3"


def test_loader_without_a_servable_fails_and_is_unloaded():
    """A load that gives nothing counts as failed, and nothing stays in memory."""
    house = House()
    loader = FakeLoader(servable_error=Unavailable("nothing there"))

    house.have("m", {1: loader})

    assert house.error("m", 1).message == "nothing there"
    assert loader.calls == ["estimate", "load", "servable", "unload"]


def test_loader_that_fails_to_unload_ends_in_error_and_the_manager_goes_on():
    """An error while unloading is announced, forgotten, and no reason to stop."""
    house = House()
    house.have("m", {1: FakeLoader(unload_error=ValueError("stuck"))})

    house.have("m", {})
    assert house.error("m", 1).message == "ValueError: stuck"
    house.have("m", {1: FakeLoader()})

    assert house.ready() == [1]


# Retries.


def test_failed_load_is_tried_again_after_the_interval(caplog: pytest.LogCaptureFixture):
    """Each retry waits its time; the third try of this loader works."""
    caplog.set_level(logging.INFO)
    house = House(max_retries=5)
    loader = FakeLoader(load_errors=[Unavailable("one"), Unavailable("two")])
    house.have("m", {1: loader})
    house.clock.advance(59)
    house.settle()
    assert loader.calls.count("load") == 1
    assert house.monitor.versions("m")[1].manager_state is ManagerState.LOADING
    assert house.manager.statistics().waiting_for_retry == 1

    house.clock.advance(1)
    house.settle()
    house.clock.advance(60)
    house.settle()

    assert house.ready() == [1]
    assert house.monitor.versions("m")[1].error is None
    tried = [m for m in caplog.messages if "Retrying" in m or "failed" in m]
    assert tried == [
        "Loading servable: {name: m version: 1} failed: UNAVAILABLE: one",
        "Retrying of Loading servable: {name: m version: 1} retry: 1",
        "Loading servable: {name: m version: 1} failed: UNAVAILABLE: two",
        "Retrying of Loading servable: {name: m version: 1} retry: 2",
    ]


def test_retries_are_exhausted(caplog: pytest.LogCaptureFixture):
    """After the first try and every retry the version ends with the last error."""
    house = House(max_retries=1)
    loader = FakeLoader(load_errors=[Unavailable("one"), Unavailable("two")])
    house.have("m", {1: loader})

    house.clock.advance(60)
    house.settle()

    assert house.error("m", 1).message == "two"
    assert caplog.messages[-1] == (
        "Retrying of Loading servable: {name: m version: 1} exhausted max_num_retries: 1"
    )


def test_waiting_for_a_retry_holds_up_nobody():
    """Between two tries other servables load, even without a pool."""
    house = House(max_retries=5)
    house.have("bad", {1: FakeLoader(load_errors=[Unavailable("no")] * 9)})

    house.have("good", {1: FakeLoader()})

    assert house.ready("good") == [1]


def test_retries_stop_when_the_wish_is_withdrawn():
    """A version that waits for a retry ends at once with its last error, and time brings none."""
    house = House(max_retries=5)
    loader = FakeLoader(load_errors=[Unavailable("no")] * 9)
    house.have("m", {1: loader})

    house.have("m", {})
    house.clock.advance(600)
    house.settle()

    assert house.error("m", 1).message == "no"
    assert loader.calls.count("load") == 1


# Loads and unloads in pools.


def test_version_withdrawn_while_loading_is_cancelled(caplog: pytest.LogCaptureFixture):
    """What a load brings after its wish is gone is unloaded before anybody sees it."""
    caplog.set_level(logging.INFO)
    pool = StepExecutor()
    house = House(load_pool=pool)
    loader = FakeLoader(on_load=lambda: (house.wish("m", {}), house.manager.step()))
    house.wish("m", {1: loader})
    house.settle()
    pool.run_next()  # the estimate
    house.settle()

    pool.run_next()
    house.settle()

    assert str(house.error("m", 1)) == "CANCELLED: Loading of servable cancelled"
    assert loader.calls == ["estimate", "load", "servable", "unload"]
    assert ("m", 1, "AVAILABLE") not in house.events
    assert "Unloading just-loaded servable version {name: m version: 1}" in caplog.messages


def test_version_withdrawn_while_loading_without_a_pool_is_cancelled():
    """Even where the load holds up the manager, the wish that came meanwhile decides."""
    house = House()
    loader = FakeLoader(on_load=lambda: house.wish("m", {}))

    house.have("m", {1: loader})

    assert str(house.error("m", 1)) == "CANCELLED: Loading of servable cancelled"
    assert ("m", 1, "AVAILABLE") not in house.events
    assert loader.calls[-1] == "unload"


def test_load_that_fails_after_its_wish_is_gone_is_not_retried():
    """A load withdrawn on its way that fails ends with that error."""
    pool = StepExecutor()
    house = House(load_pool=pool, max_retries=5)
    loader = FakeLoader(
        load_errors=[Unavailable("no")],
        on_load=lambda: (house.wish("m", {}), house.manager.step()),
    )
    house.wish("m", {1: loader})
    house.settle()
    pool.run_next()
    house.settle()

    pool.run_next()
    house.settle()

    assert house.error("m", 1).message == "no"
    assert house.manager.statistics().versions == {}


@pytest.mark.parametrize("jobs_before", [0, 1])
def test_version_withdrawn_while_in_line_is_never_loaded(jobs_before: int):
    """A wish withdrawn before the pool got to it costs no load."""
    pool = StepExecutor()
    house = House(load_pool=pool)
    loader = FakeLoader()
    house.wish("m", {1: loader})
    house.settle()
    for _ in range(jobs_before):
        pool.run_next()
        house.settle()
    house.have("m", {})

    pool.run_next()
    house.settle()

    assert str(house.error("m", 1)) == "CANCELLED: Loading of servable cancelled"
    assert "load" not in loader.calls


def test_cancelled_load_that_cannot_be_undone_is_still_cancelled():
    """An error while undoing a cancelled load is logged; the version ends as cancelled."""
    pool = StepExecutor()
    house = House(load_pool=pool)
    loader = FakeLoader(
        unload_error=ValueError("stuck"),
        on_load=lambda: (house.wish("m", {}), house.manager.step()),
    )
    house.wish("m", {1: loader})
    house.settle()
    pool.run_next()
    house.settle()

    pool.run_next()
    house.settle()

    assert house.error("m", 1).code is Code.CANCELLED


def test_version_wished_for_again_while_it_unloads_waits_until_it_is_gone():
    """A version on its way out goes all the way, and is then loaded afresh."""
    pool = StepExecutor()
    house = House(unload_pool=pool)
    first, second = FakeLoader("first"), FakeLoader("second")
    house.have("m", {1: first})
    house.have("m", {})
    house.have("m", {1: second})
    assert second.calls == []

    pool.run_next()
    house.settle()

    assert first.calls[-1] == "unload"
    assert house.manager.handle("m").servable.use() == "second"


def test_version_wished_for_again_while_its_replacement_loads_is_kept():
    """A load that may never end is not waited for; what it brings is unloaded before it is seen."""
    pool = StepExecutor()
    house = House(load_pool=None)
    old, replacement = FakeLoader("old"), FakeLoader()
    house.have("m", {1: old})
    with house.manager.loading_with(pool):
        house.have("m", {2: replacement})
        pool.run_next()
        house.settle()
        house.have("m", {1: FakeLoader("new")})

        assert house.manager.handle("m").servable.use() == "old"
        assert "unload" not in old.calls
        while pool.jobs:
            pool.run_next()
            house.settle()

    assert house.manager.handle("m").servable.use() == "old"
    assert house.ready() == [1]
    assert house.error("m", 2).code is Code.CANCELLED


def test_unload_pool_does_the_unloading():
    """With a pool the manager's pass does not wait for an unload."""
    pool = StepExecutor()
    house = House(unload_pool=pool)
    loader = FakeLoader()
    house.have("m", {1: loader})

    house.have("m", {})
    assert "unload" not in loader.calls
    pool.run_next()
    house.settle()

    assert house.events[-1] == ("m", 1, "END")


def test_a_hanging_load_in_a_pool_holds_up_no_other():
    """With a load pool, one servable that never finishes leaves the others alone."""
    pool = StepExecutor()
    house = House(load_pool=pool)
    house.wish("a_hanging", {1: FakeLoader()})
    house.wish("good", {1: FakeLoader()})
    house.settle()
    del pool.jobs[0]  # never run: this is the load that hangs

    while pool.jobs:
        pool.run_next()
        house.settle()

    assert house.ready("good") == [1]
    assert house.ready("a_hanging") == []


def test_initial_loads_use_the_pool_of_the_block():
    """Inside the block loads go to its pool, all of them at once; after it, to none."""
    pool = StepExecutor()
    house = House()

    with house.manager.loading_with(pool):
        house.have("a", {1: FakeLoader()})
        house.have("b", {1: FakeLoader()})
        assert len(pool.jobs) == 2
    house.have("c", {1: FakeLoader()})

    assert len(pool.jobs) == 2
    assert house.ready("c") == [1]


def test_work_for_a_pool_that_was_shut_down_is_done_on_the_spot():
    """A pool that takes no more work stops neither loads nor unloads."""
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    house = House(load_pool=pool, unload_pool=pool)

    house.have("m", {1: FakeLoader()})
    assert house.ready() == [1]
    house.have("m", {})

    assert house.events[-1] == ("m", 1, "END")


# Memory.


def test_load_that_does_not_fit_is_refused():
    """Without room, and nothing that could make room, the version ends; the others do not."""
    house = House(budget_bytes=100)
    house.have("a", {1: FakeLoader(needed_bytes=60)})
    big = FakeLoader(needed_bytes=41)

    house.have("b", {1: big})

    assert str(house.error("b", 1)) == (
        "RESOURCE_EXHAUSTED: Insufficient resources to load servable {name: b version: 1}"
    )
    assert "load" not in big.calls
    assert house.ready("a") == [1]
    assert house.manager.statistics().resources == ResourceStatistics(60, 100)


def test_memory_given_back_lets_others_load():
    """After an unload, what did not fit before does."""
    house = House(budget_bytes=100)
    house.have("a", {1: FakeLoader(needed_bytes=60)})
    house.have("a", {})

    house.have("b", {1: FakeLoader(needed_bytes=100)})

    assert house.ready("b") == [1]


def test_load_waits_for_memory_that_is_about_to_come_back():
    """While something is being unloaded, a load that does not fit yet waits for it."""
    pool = StepExecutor()
    house = House(budget_bytes=100, unload_pool=pool)
    house.have("a", {1: FakeLoader(needed_bytes=60)})
    house.have("a", {})

    house.have("b", {1: FakeLoader(needed_bytes=60)})
    assert house.manager.statistics().waiting_for_memory == 1
    pool.run_next()
    house.settle()

    assert house.ready("b") == [1]


def test_a_load_that_fits_does_not_wait_behind_one_that_does_not():
    """The big one may wait for long: for an unload that hangs, say."""
    pool = StepExecutor()
    house = House(budget_bytes=100, unload_pool=pool)
    house.have("a", {1: FakeLoader(needed_bytes=60)})
    house.have("a", {})
    house.have("big", {1: FakeLoader(needed_bytes=101)})
    house.have("small", {1: FakeLoader(needed_bytes=10)})
    assert house.ready("small") == [1]

    pool.run_next()
    house.settle()

    assert house.error("big", 1).code is Code.RESOURCE_EXHAUSTED


def test_a_load_that_waits_for_its_next_try_holds_up_nobody():
    """Its memory may come back in a minute, or in five: one that lacks it is told now."""
    house = House(budget_bytes=100, max_retries=5)
    house.have("broken", {1: FakeLoader(needed_bytes=60, load_errors=[Unavailable("no")] * 9)})
    house.have("big", {1: FakeLoader(needed_bytes=50)})
    house.have("tiny", {1: FakeLoader(needed_bytes=10)})

    assert house.error("big", 1).code is Code.RESOURCE_EXHAUSTED
    assert house.ready("tiny") == [1]


def test_withdrawing_the_load_that_waits_lets_the_next_go_on():
    """A version withdrawn while it waits for memory is cancelled, and those behind it load."""
    pool = StepExecutor()
    house = House(budget_bytes=100, unload_pool=pool)
    house.have("a", {1: FakeLoader(needed_bytes=60)})
    house.have("a", {})
    house.have("big", {1: FakeLoader(needed_bytes=60)})
    house.have("small", {1: FakeLoader(needed_bytes=10)})

    house.have("big", {})

    assert house.error("big", 1).code is Code.CANCELLED
    assert house.ready("small") == [1]


def test_failed_load_gives_its_memory_back():
    """What a failed version had reserved is free again."""
    house = House(budget_bytes=100)

    house.have("m", {1: FakeLoader(needed_bytes=100, load_errors=[Unavailable("no")])})

    assert house.manager.statistics().resources.reserved_bytes == 0


def test_estimate_that_fails_ends_the_version():
    """The error of an estimate is told in TensorFlow Serving's words, with its code."""
    house = House()

    house.have("m", {1: FakeLoader(estimate_error=NotFound("no such folder"))})

    assert str(house.error("m", 1)) == (
        "NOT_FOUND: Error while attempting to reserve resources to load servable "
        "{name: m version: 1}: no such folder"
    )


# The end, and the thread.


def test_close_unloads_everything():
    """After close the passes that follow unload all versions, and no new wish counts."""
    house = House(max_retries=5)
    loaders = {1: FakeLoader(), 2: FakeLoader()}
    house.have("m", loaders)
    house.have("bad", {1: FakeLoader(load_errors=[Unavailable("no")] * 9)})

    house.manager.close()
    house.wish("late", {1: FakeLoader()})
    house.settle()

    assert house.manager.available() == []
    assert house.manager.statistics().versions == {}
    assert all(loader.calls.count("unload") == 1 for loader in loaders.values())
    assert house.monitor.versions("late") == {}


def running(house: House) -> AspiredVersionsManager[FakeServable]:
    house.manager.start()
    return house.manager


def test_thread_acts_on_wishes_and_stop_unloads():
    """Started, the manager needs nobody to step it; stopped, it leaves nothing loaded."""
    house = House()
    loader = FakeLoader()
    manager = running(house)

    house.wish("m", {1: loader})
    reached = house.monitor.wait_until_available_or_ended(["m"], timeout_s=30)

    assert reached["m"].manager_state is ManagerState.AVAILABLE
    assert manager.stop(timeout_s=30)
    assert loader.calls[-1] == "unload"


def test_stop_gives_up_on_a_handle_that_never_comes_back():
    """A handle held beyond the time leaves its version to the process's end."""
    house = House()
    manager = running(house)
    house.wish("m", {1: FakeLoader("one")})
    house.monitor.wait_until_available_or_ended(["m"], timeout_s=30)
    handle = manager.handle("m")

    assert not manager.stop(timeout_s=0)
    assert handle.servable.use() == "one"


def test_last_handle_returned_on_another_thread_is_unloaded_on_the_managers():
    """Whoever returns the last handle does not do the unloading."""
    house = House()
    threads: list[str] = []
    ended = threading.Event()

    class NotingLoader(FakeLoader):
        def unload(self) -> None:
            threads.append(threading.current_thread().name)
            super().unload()

    house.bus.subscribe(lambda s: ended.set() if s.manager_state is ManagerState.END else None)
    manager = running(house)
    house.wish("m", {1: NotingLoader()})
    house.monitor.wait_until_available_or_ended(["m"], timeout_s=30)
    handle = manager.handle("m")
    house.wish("m", {})

    handle.release()

    assert ended.wait(30)
    assert threads == ["salver-manager"]
    manager.stop(timeout_s=30)


def test_thread_survives_a_pass_that_fails(caplog: pytest.LogCaptureFixture):
    """A policy that raises is logged, and the manager goes on."""
    errors = [ValueError("a bad policy")]

    def policy(versions):
        if errors:
            raise errors.pop()
        return availability_preserving(versions)

    house = House(policy=policy)
    manager = running(house)

    house.wish("m", {1: FakeLoader()})
    house.monitor.wait_until_available_or_ended(["m"], timeout_s=30)

    assert house.ready() == [1]
    assert "A pass of the manager failed" in caplog.text
    manager.stop(timeout_s=30)


def test_readers_never_meet_an_unloaded_version_while_versions_swap():
    """Two threads use whatever is latest through a hundred swaps; each load is undone once."""
    loaders = {version: FakeLoader(str(version)) for version in range(1, 101)}
    is_over = threading.Event()
    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(2) as readers:
        house = House(load_pool=pool, unload_pool=pool)
        manager = running(house)
        there = {version: threading.Event() for version in loaders}
        house.bus.subscribe(
            lambda s: (
                there[s.id.version].set() if s.manager_state is ManagerState.AVAILABLE else None
            )
        )
        house.wish("m", {1: loaders[1]})
        assert there[1].wait(30)

        def read() -> None:
            while not is_over.is_set():
                with manager.handle("m") as handle:
                    handle.servable.use()

        reads = [readers.submit(read) for _ in range(2)]
        for version in range(2, 101):
            house.wish("m", {version: loaders[version]})
            assert there[version].wait(30)
        is_over.set()
        for done in reads:
            done.result()
        assert manager.stop(timeout_s=30)

    assert all(loader.calls.count("unload") == 1 for loader in loaders.values())


def test_the_policy_is_asked_once_after_each_change():
    """Not about everything in every pass: a thousand models would ask it a million times."""
    asked: list[int] = []

    def policy(versions):
        asked.append(len(versions))
        return availability_preserving(versions)

    house = House(policy=policy)
    for number in range(50):
        house.wish(f"m{number}", {1: FakeLoader()})
    house.settle()

    assert len(asked) <= 50 * 4
    assert all(house.ready(f"m{number}") == [1] for number in range(50))
