"""The table of states, and what a harness does to its loader."""

from __future__ import annotations

import pytest

from fakes import FakeLoader
from salver.core.harness import TRANSITIONS, Event, LoaderHarness, State
from salver.core.servable_id import ServableId
from salver.errors import Cancelled, Internal, Unavailable, Unknown

ID = ServableId("m", 3)

LIFE = [
    (Event.REQUEST_LOAD, State.LOAD_REQUESTED),
    (Event.APPROVE_LOAD, State.LOAD_APPROVED),
    (Event.START_LOAD, State.LOADING),
    (Event.LOADED, State.READY),
    (Event.REQUEST_UNLOAD, State.UNLOAD_REQUESTED),
    (Event.QUIESCE, State.QUIESCING),
    (Event.DRAINED, State.QUIESCED),
    (Event.START_UNLOAD, State.UNLOADING),
    (Event.UNLOADED, State.DISABLED),
]


def harness_in(state: State) -> LoaderHarness:
    harness = LoaderHarness(ID, FakeLoader())
    if state is State.ERROR:
        harness.advance(Event.FAIL)
        return harness
    for event, _ in LIFE:
        if harness.state is state:
            break
        harness.advance(event)
    return harness


def test_a_whole_life_passes_through_every_state():
    """From new to disabled a version passes every state but the error, in this order."""
    harness = LoaderHarness(ID, FakeLoader())
    passed = [harness.state]

    for event, _ in LIFE:
        harness.advance(event)
        passed.append(harness.state)

    assert passed == [State.NEW, *(state for _, state in LIFE)]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_the_table_is_the_whole_truth(state: State, event: Event):
    """An event in the table moves to its state; any other is an error and changes nothing."""
    harness = harness_in(state)

    if event in TRANSITIONS[state]:
        harness.advance(event)
        assert harness.state is TRANSITIONS[state][event]
    else:
        with pytest.raises(Internal, match=f"in state {state.name} cannot {event.name}"):
            harness.advance(event)
        assert harness.state is state


def test_every_state_but_the_ends_can_fail():
    """Whatever a version is doing, it may go wrong; an end is an end."""
    can_fail = {state for state in State if Event.FAIL in TRANSITIONS[state]}

    assert can_fail == set(State) - {State.DISABLED, State.ERROR}


def test_load_keeps_what_was_loaded():
    """After a load the harness has the servable."""
    loader = FakeLoader("it")
    harness = LoaderHarness(ID, loader)

    harness.load()

    assert harness.servable() is loader.made


def test_load_is_not_begun_for_a_withdrawn_version():
    """A version that was withdrawn while its load stood in line costs no load."""
    loader = FakeLoader()
    harness = LoaderHarness(ID, loader)
    harness.is_aspired = False

    with pytest.raises(Cancelled, match="Loading of servable cancelled"):
        harness.load()
    assert loader.calls == []


def test_load_without_a_servable_is_undone():
    """A loader that has loaded and then gives nothing is unloaded at once."""
    loader = FakeLoader(servable_error=Unavailable("no"))
    harness = LoaderHarness(ID, loader)

    with pytest.raises(Unavailable):
        harness.load()
    assert loader.calls == ["load", "servable", "unload"]


def test_servable_of_an_unloaded_version_is_an_error():
    """Nobody is handed what is not there."""
    with pytest.raises(Internal, match="is not loaded"):
        LoaderHarness(ID, FakeLoader()).servable()


def test_unload_lets_go_of_the_loader():
    """After an unload nothing of the version is left to work with."""
    harness = LoaderHarness(ID, FakeLoader())
    harness.load()

    harness.unload()

    with pytest.raises(Internal, match="has no loader"):
        harness.unload()


def test_fail_keeps_the_reason():
    """A version that failed knows why."""
    harness = LoaderHarness(ID, FakeLoader())
    error = Unknown("boom")

    harness.fail(error)

    assert harness.state is State.ERROR
    assert harness.error is error
