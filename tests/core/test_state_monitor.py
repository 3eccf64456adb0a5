"""What became of every version, and waiting for it."""

from __future__ import annotations

import threading

from salver.core.event_bus import EventBus
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState
from salver.core.state_monitor import ServableStateMonitor
from salver.errors import Unknown

START, LOADING, AVAILABLE, UNLOADING, END = ManagerState


class Told:
    """A monitor, and the bus that tells it."""

    def __init__(self, *, max_ended: int = 100, max_ended_of_one: int = 100) -> None:
        self.bus: EventBus[ServableState] = EventBus()
        self.monitor = ServableStateMonitor(
            self.bus, max_ended=max_ended, max_ended_of_one=max_ended_of_one
        )

    def tell(self, name: str, version: int, state: ManagerState) -> None:
        self.bus.publish(ServableState(ServableId(name, version), state))


def test_versions_are_listed_highest_first_with_their_last_state():
    """Each version shows the last thing said of it; the list descends."""
    told = Told()
    told.tell("m", 1, AVAILABLE)
    told.tell("m", 3, START)
    told.tell("m", 2, START)
    told.tell("m", 3, LOADING)

    states = {v: state.manager_state for v, state in told.monitor.versions("m").items()}

    assert list(states.items()) == [(3, LOADING), (2, START), (1, AVAILABLE)]
    assert told.monitor.names() == ["m"]


def test_unknown_servable_has_no_versions():
    """A name never heard of has an empty list and no state."""
    told = Told()

    assert told.monitor.versions("m") == {}
    assert told.monitor.state(ServableId("m", 1)) is None


def test_ended_versions_stay_listed_with_their_error():
    """A version that failed is remembered, and so is why."""
    told = Told()
    error = Unknown("boom")
    failed = ServableState(ServableId("m", 1), END, error)

    told.bus.publish(failed)

    assert told.monitor.state(ServableId("m", 1)) is failed


def test_of_very_many_ended_versions_the_oldest_are_forgotten():
    """The first to have ended goes first; a living version is never forgotten."""
    told = Told(max_ended=2)
    told.tell("m", 9, AVAILABLE)
    told.tell("other", 1, END)
    for version in (1, 2, 3):
        told.tell("m", version, END)

    assert list(told.monitor.versions("m")) == [9, 3, 2]
    assert told.monitor.names() == ["m"]


def test_of_one_servable_fewer_ended_versions_are_remembered():
    """A model that changes every minute pushes out its own past, and nobody else's."""
    told = Told(max_ended_of_one=2)
    told.tell("quiet", 1, END)
    told.tell("m", 9, AVAILABLE)
    for version in (1, 2, 3, 4):
        told.tell("m", version, AVAILABLE)
        told.tell("m", version, END)

    assert list(told.monitor.versions("m")) == [9, 4, 3]
    assert list(told.monitor.versions("quiet")) == [1]


def test_a_version_that_ends_again_is_forgotten_by_its_last_end():
    """What counts is when it ended last, and it counts once."""
    told = Told(max_ended_of_one=2)
    told.tell("m", 1, END)
    told.tell("m", 2, END)
    told.tell("m", 1, END)
    told.tell("m", 3, END)

    assert list(told.monitor.versions("m")) == [3, 1]


def test_a_version_that_comes_back_is_not_ended_any_more():
    """A version loaded again does not count among the ended ones."""
    told = Told(max_ended=1)
    told.tell("m", 1, END)
    told.tell("m", 1, AVAILABLE)
    told.tell("m", 2, END)
    told.tell("m", 3, END)

    assert list(told.monitor.versions("m")) == [3, 1]


def test_ended_versions_are_forgotten_on_request():
    """What ended is dropped for one name only; what lives stays."""
    told = Told()
    told.tell("m", 1, END)
    told.tell("m", 2, AVAILABLE)
    told.tell("other", 1, END)

    told.monitor.forget_ended("m")

    assert list(told.monitor.versions("m")) == [2]
    assert list(told.monitor.versions("other")) == [1]


def test_wait_is_over_when_each_name_has_one_version_there():
    """The callback comes once, when the last name gets a version available or ended."""
    told = Told()
    calls: list[dict[str, ServableState]] = []
    told.monitor.when_available_or_ended(["a", "b"], calls.append)

    told.tell("a", 1, LOADING)
    told.tell("a", 1, AVAILABLE)
    told.tell("b", 1, UNLOADING)
    assert calls == []
    told.tell("b", 1, END)
    told.tell("b", 2, AVAILABLE)

    (reached,) = calls
    assert {name: s.manager_state for name, s in reached.items()} == {"a": AVAILABLE, "b": END}


def test_the_highest_version_there_answers_for_its_name():
    """Of several versions there, the highest is shown; one still loading does not count."""
    told = Told()
    told.tell("m", 1, AVAILABLE)
    told.tell("m", 2, END)
    told.tell("m", 3, LOADING)

    assert told.monitor.reached(["m", "other"]) == {
        "m": told.monitor.state(ServableId("m", 2)),
    }


def test_what_is_so_already_is_called_at_once():
    """A wait for what has happened, or for nothing, is over before it begins."""
    told = Told()
    told.tell("m", 1, AVAILABLE)
    calls: list[set[str]] = []

    told.monitor.when_available_or_ended(["m"], lambda reached: calls.append(set(reached)))
    told.monitor.when_available_or_ended([], lambda reached: calls.append(set(reached)))

    assert calls == [{"m"}, set()]


def test_cancelled_wait_is_never_called():
    """Whoever cancels hears nothing; cancelling again is no error."""
    told = Told()
    calls: list[object] = []
    wait = told.monitor.when_available_or_ended(["m"], calls.append)

    wait.cancel()
    wait.cancel()
    told.tell("m", 1, AVAILABLE)

    assert calls == []


def test_wait_ends_with_the_announcement():
    """A thread that waits goes on when another announces the version."""
    told = Told()
    told.tell("a", 1, AVAILABLE)
    announcer = threading.Thread(target=told.tell, args=("b", 1, AVAILABLE))
    announcer.start()

    reached = told.monitor.wait_until_available_or_ended(["a", "b"], timeout_s=30)

    announcer.join()
    assert set(reached) == {"a", "b"}


def test_wait_that_runs_out_of_time_tells_who_got_there():
    """After the timeout the answer leaves out those that are missing."""
    told = Told()
    told.tell("a", 1, AVAILABLE)

    reached = told.monitor.wait_until_available_or_ended(["a", "b"], timeout_s=0)

    assert set(reached) == {"a"}


def test_closed_monitor_learns_nothing_more():
    """After close, what was known stays and nothing is added."""
    told = Told()
    told.tell("m", 1, AVAILABLE)

    told.monitor.close()
    told.tell("m", 2, AVAILABLE)

    assert list(told.monitor.versions("m")) == [1]


def test_what_ended_before_a_mark_is_not_what_a_wait_is_for():
    """A life that began after it is, even one that ends at once."""
    told = Told()
    told.tell("m", 1, END)
    since = told.monitor.mark()
    calls: list[dict[str, ServableState]] = []
    told.monitor.when_available_or_ended(["m"], calls.append, since=since)

    assert (told.monitor.reached(["m"], since=since), calls) == ({}, [])
    told.tell("m", 1, END)

    assert list(calls[0]) == ["m"]


def test_the_end_of_a_life_from_before_a_mark_is_not_waited_for():
    """A version that is still to go when it is wished for again ends, and only then begins."""
    told = Told()
    told.tell("m", 1, AVAILABLE)
    told.tell("m", 1, UNLOADING)
    since = told.monitor.mark()
    calls: list[dict[str, ServableState]] = []
    told.monitor.when_available_or_ended(["m"], calls.append, since=since)

    told.tell("m", 1, END)
    assert calls == []
    told.tell("m", 1, LOADING)
    told.tell("m", 1, AVAILABLE)

    assert len(calls) == 1


def test_names_given_up_are_waited_for_no_longer():
    """By one wait or by all; a wait for nothing else is over."""
    told = Told()
    calls: list[str] = []
    wait = told.monitor.when_available_or_ended(["a", "b"], lambda _: calls.append("both"))
    told.monitor.when_available_or_ended(["a"], lambda _: calls.append("a"))

    wait.give_up(["a"])
    assert calls == []
    told.monitor.give_up(["a"])
    assert calls == ["a"]
    told.tell("b", 1, AVAILABLE)

    assert calls == ["a", "both"]


def test_a_listener_hears_of_a_state_before_a_wait_is_over():
    """And finds it in the monitor already."""
    told = Told()
    heard: list[object] = []
    told.monitor.listen(lambda state: heard.append(told.monitor.state(state.id) == state))
    told.monitor.when_available_or_ended(["m"], lambda _: heard.append("over"))

    told.tell("m", 1, AVAILABLE)

    assert heard == [True, "over"]
