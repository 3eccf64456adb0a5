"""Failed versions that begin anew, after waits that double."""

from __future__ import annotations

import logging

import pytest

from fakes import FakeLoader
from manager_house import House
from salver.core.retries import Backoff
from salver.core.servable_id import ServableId
from salver.errors import DataLoss, ServingError

BACKOFF = Backoff(first_s=1.0, longest_s=10.0)


def failing(times: int) -> FakeLoader:
    """A loader that fails so often, then loads."""
    errors: list[ServingError] = [DataLoss(f"try {n}") for n in range(times)]
    return FakeLoader(load_errors=errors)


def test_waits_double_up_to_the_longest():
    """One second, two, four, eight, then ten and ten, however often."""
    assert [BACKOFF.wait_s(n) for n in (1, 2, 3, 4, 5, 6, 10_000)] == [1, 2, 4, 8, 10, 10, 10]


def test_a_failed_version_begins_anew_after_a_wait():
    """Its error can be read meanwhile; then it loads, and serves."""
    house = House(after_end=BACKOFF)
    house.have("m", {1: failing(2)})

    assert house.error("m", 1).message == "try 0"

    house.clock.advance(0.9)
    house.settle()
    assert house.error("m", 1).message == "try 0"

    house.clock.advance(0.2)
    house.settle()
    assert house.error("m", 1).message == "try 1"
    assert house.ready() == []

    house.clock.advance(2.0)
    house.settle()
    assert house.ready() == [1]


def test_the_old_version_serves_until_the_failing_one_is_ready():
    """Whatever the new one does, there is always an answer."""
    house = House(after_end=BACKOFF)
    house.have("m", {1: FakeLoader()})
    house.have("m", {2: failing(1)})

    assert house.ready() == [1]

    house.clock.advance(1.0)
    house.settle()

    assert house.ready() == [2]


def test_a_version_that_is_not_wished_for_any_more_does_not_begin_anew():
    """Nothing is loaded for nobody, and nothing is kept of it."""
    house = House(after_end=BACKOFF)
    loader = failing(1)
    house.have("m", {1: loader})
    house.have("m", {})
    house.clock.advance(100.0)
    house.settle()

    assert loader.calls.count("load") == 1
    assert house.manager.statistics().waiting_for_retry == 0


@pytest.mark.parametrize("waited_s", [0.5, 1.0])
def test_a_withdrawal_ends_the_rounds_and_says_so(
    caplog: pytest.LogCaptureFixture, waited_s: float
):
    """Before the next round, and in the moment in which it begins."""
    caplog.set_level(logging.INFO)
    house = House(after_end=BACKOFF)
    house.have("m", {1: failing(9)})
    house.clock.advance(waited_s)
    house.wish("m", {})
    house.settle()

    said = [m for m in caplog.messages if "was cancelled." in m]
    assert said == ["Retrying of Loading servable: {name: m version: 1} was cancelled."]


def test_each_round_has_its_retries_first():
    """What TensorFlow Serving's flags ask for comes before the wait that doubles."""
    house = House(after_end=BACKOFF, max_retries=1)
    loader = failing(3)
    house.have("m", {1: loader})
    house.clock.advance(60.0)
    house.settle()
    assert house.error("m", 1).message == "try 1"

    house.clock.advance(1.0)
    house.settle()
    house.clock.advance(60.0)
    house.settle()

    assert loader.calls.count("load") == 4
    assert house.ready() == [1]


def test_without_backoff_a_failed_version_stays_failed():
    """As in TensorFlow Serving, as long as it is wished for."""
    house = House()
    house.have("m", {1: failing(1)})
    house.clock.advance(1e6)
    house.have("m", {1: failing(0)})

    assert house.error("m", 1).message == "try 0"


def test_a_version_found_broken_by_its_source_waits_for_its_source():
    """It has no loader to begin anew with."""
    house = House(after_end=BACKOFF)
    house.break_off("m", 1, DataLoss("half copied"))
    house.clock.advance(100.0)
    house.settle()

    assert house.error("m", 1).message == "half copied"
    assert house.manager.statistics().waiting_for_retry == 0
    assert house.monitor.state(ServableId("m", 1)) is not None
