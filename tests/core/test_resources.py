"""Memory is set aside and given back, and can run out."""

from __future__ import annotations

import pytest

from salver.core.resources import ResourceStatistics, ResourceTracker
from salver.core.servable_id import ServableId
from salver.errors import ResourceExhausted

A, B = ServableId("a", 1), ServableId("b", 2)


def test_no_budget_refuses_nothing():
    """Without a budget any size fits and is counted."""
    tracker = ResourceTracker()

    tracker.reserve(A, 10**18)

    assert tracker.fits(10**18)
    assert tracker.statistics() == ResourceStatistics(10**18, None)


def test_budget_refuses_what_does_not_fit():
    """What is reserved counts; too much is refused in TensorFlow Serving's words."""
    tracker = ResourceTracker(100)
    tracker.reserve(A, 60)

    with pytest.raises(ResourceExhausted) as refused:
        tracker.reserve(B, 41)
    assert refused.value.message == "Insufficient resources to load servable {name: b version: 2}"
    assert tracker.statistics() == ResourceStatistics(60, 100)


def test_budget_may_be_used_up_exactly():
    """The last byte can be reserved."""
    tracker = ResourceTracker(100)
    tracker.reserve(A, 60)

    tracker.reserve(B, 40)

    assert not tracker.fits(1)


def test_released_memory_fits_again():
    """A release gives back what was reserved; releasing again is no error."""
    tracker = ResourceTracker(100)
    tracker.reserve(A, 100)

    tracker.release(A)
    tracker.release(A)

    assert tracker.fits(100)
