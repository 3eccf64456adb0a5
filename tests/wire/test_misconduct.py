"""Misconduct: addresses that keep coming back after they were sent away."""

from __future__ import annotations

import pytest

from fakes import FakeClock
from salver.wire.misconduct import (
    DELAY_PER_STRIKE_S,
    FORGIVEN_PER_S,
    FREE_STRIKES,
    MAX_ADDRESSES,
    MOST_DELAY_S,
    Misconduct,
)

BAD = "192.0.2.1"
OTHER = "192.0.2.2"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


def noted(clock: FakeClock, strikes: int, address: str = BAD) -> Misconduct:
    misconduct = Misconduct(clock)
    for _ in range(strikes):
        misconduct.note(address)
    return misconduct


def test_a_few_strikes_cost_nothing(clock: FakeClock):
    """A client with a fault, or a scanner that passes by, is not made to wait."""
    assert noted(clock, FREE_STRIKES).delay_s(BAD) == 0


def test_more_strikes_make_an_address_wait(clock: FakeClock):
    """Each one adds to the wait; other addresses know nothing of it."""
    misconduct = noted(clock, FREE_STRIKES + 2)

    assert misconduct.delay_s(BAD) == pytest.approx(2 * DELAY_PER_STRIKE_S)
    assert misconduct.delay_s(OTHER) == 0


def test_wait_has_an_end(clock: FakeClock):
    """However bad an address is, honest clients behind it are only delayed."""
    assert noted(clock, 10_000).delay_s(BAD) == pytest.approx(MOST_DELAY_S)


def test_address_that_has_become_good_is_forgiven(clock: FakeClock):
    """Strikes go one by one as time passes, and none stays for long."""
    misconduct = noted(clock, 10_000)

    clock.advance(10 / FORGIVEN_PER_S)
    later = misconduct.delay_s(BAD)
    clock.advance(FREE_STRIKES / FORGIVEN_PER_S)
    at_last = misconduct.delay_s(BAD)

    assert later == pytest.approx(MOST_DELAY_S - 10 * DELAY_PER_STRIKE_S)
    assert at_last == 0


def test_ipv6_addresses_of_one_network_are_one_client(clock: FakeClock):
    """Whoever has one of them has them all."""
    misconduct = Misconduct(clock)
    for number in range(FREE_STRIKES + 5):
        misconduct.note(f"2001:db8::{number:x}")

    assert misconduct.delay_s("2001:db8::ffff:1") > 0
    assert misconduct.delay_s("2001:db8:0:1::1") == 0


def test_only_so_many_addresses_are_remembered(clock: FakeClock):
    """Beyond them the one that was good for longest is forgotten."""
    misconduct = noted(clock, FREE_STRIKES + 5)
    for number in range(MAX_ADDRESSES):
        misconduct.note(f"10.0.{number >> 8}.{number & 255}")

    assert misconduct.delay_s(BAD) == 0


def test_connection_without_an_address_has_no_strikes(clock: FakeClock):
    """Who comes by a UNIX socket is not told apart, so nobody waits for another's doing."""
    misconduct = noted(clock, 100, address="")

    assert misconduct.is_unheard_of
    assert misconduct.delay_s("") == 0
