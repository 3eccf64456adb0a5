"""The two policies, as tables of versions in and one action out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from salver.core.harness import State
from salver.core.policy import (
    Load,
    Snapshot,
    Unload,
    availability_preserving,
    resource_preserving,
)

snapshots = st.lists(
    st.builds(Snapshot, st.integers(1, 9), st.sampled_from(State), st.booleans()),
    unique_by=lambda snapshot: snapshot.version,
)


def test_new_version_loads_before_old_one_leaves():
    """With one version serving and a newer one wished for, the newer loads first."""
    versions = [Snapshot(6, State.READY, aspired=False), Snapshot(7, State.NEW, aspired=True)]

    assert availability_preserving(versions) == Load(7)


def test_old_version_leaves_once_new_one_is_ready():
    """A ready version that is wished for makes the old one superfluous."""
    versions = [Snapshot(6, State.READY, aspired=False), Snapshot(7, State.READY, aspired=True)]

    assert availability_preserving(versions) == Unload(6)


def test_old_version_stays_while_new_one_loads():
    """Nothing is done while the wished-for version is on its way."""
    versions = [Snapshot(6, State.READY, aspired=False), Snapshot(7, State.LOADING, aspired=True)]

    assert availability_preserving(versions) is None


def test_old_version_outlives_failed_one():
    """A wished-for version that failed never takes the good one down."""
    versions = [Snapshot(6, State.READY, aspired=False), Snapshot(7, State.ERROR, aspired=True)]

    assert availability_preserving(versions) is None


def test_last_version_leaves_when_nothing_is_wished_for():
    """An empty wish unloads even the only version."""
    assert availability_preserving([Snapshot(6, State.READY, aspired=False)]) == Unload(6)


def test_one_old_version_is_enough():
    """Of two unwanted ready versions the lower leaves, before anything is ready in their place."""
    versions = [
        Snapshot(6, State.READY, aspired=False),
        Snapshot(5, State.READY, aspired=False),
        Snapshot(7, State.NEW, aspired=True),
    ]

    assert availability_preserving(versions) == Unload(5)


def test_highest_wished_version_loads_first():
    """Several new versions load from the highest down."""
    versions = [Snapshot(v, State.NEW, aspired=True) for v in (3, 9, 5)]

    assert availability_preserving(versions) == Load(9)
    assert resource_preserving(versions) == Load(9)


def test_resource_preserving_unloads_first():
    """When memory matters most, the old version leaves before the new one loads."""
    versions = [Snapshot(6, State.READY, aspired=False), Snapshot(7, State.NEW, aspired=True)]

    assert resource_preserving(versions) == Unload(6)


def test_resource_preserving_waits_for_the_unload():
    """Until the old version is out of memory the new one does not load."""
    versions = [Snapshot(6, State.UNLOADING, aspired=False), Snapshot(7, State.NEW, aspired=True)]

    assert resource_preserving(versions) is None


def test_resource_preserving_loads_when_memory_is_free():
    """An unwanted version that holds nothing is no reason to wait."""
    versions = [Snapshot(6, State.ERROR, aspired=False), Snapshot(7, State.NEW, aspired=True)]

    assert resource_preserving(versions) == Load(7)


@given(snapshots)
def test_actions_are_always_legal(versions: list[Snapshot]):
    """Whatever the versions, only a wished-for new one loads, only an unwanted ready one leaves."""
    by_version = {snapshot.version: snapshot for snapshot in versions}

    for policy in (availability_preserving, resource_preserving):
        action = policy(versions)
        if isinstance(action, Load):
            assert by_version[action.version].state is State.NEW
            assert by_version[action.version].aspired
        elif isinstance(action, Unload):
            assert by_version[action.version].state is State.READY
            assert not by_version[action.version].aspired


@given(snapshots)
def test_availability_never_drops_the_last_answer(versions: list[Snapshot]):
    """While something is wished for, the only ready version is never unloaded."""
    action = availability_preserving(versions)
    ready = [v for v in versions if v.state is State.READY]

    if isinstance(action, Unload) and any(v.aspired for v in versions):
        assert len(ready) > 1
