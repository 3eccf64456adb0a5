"""How often a client may ping."""

from __future__ import annotations

import math

import pytest

from salver.wire.pings import WITHOUT_CALLS_S, PingRules, PingWatch

RULES = PingRules(interval_s=10, strikes=2)


def verdicts(rules: PingRules, *times_s: float, has_calls: bool = True) -> list[bool]:
    watch = PingWatch(rules)
    return [watch.is_one_too_many(each, has_calls=has_calls) for each in times_s]


@pytest.mark.parametrize(
    ("times_s", "expected"),
    [
        ((0, 10, 20, 30, 40), [False] * 5),
        ((0, 1, 2), [False] * 3),
        ((0, 1, 2, 3), [False, False, False, True]),
        ((0, 1, 11, 12, 13), [False, False, False, False, True]),
    ],
)
def test_pings_that_come_too_soon_are_strikes(times_s: tuple[float, ...], expected: list[bool]):
    """The strike after the last one that is forgiven is one too many."""
    assert verdicts(RULES, *times_s) == expected


def test_ping_after_something_was_sent_is_no_strike():
    """Who pings once per answer is doing nothing odd."""
    watch = PingWatch(RULES)
    ends = []

    for each in range(10):
        ends.append(watch.is_one_too_many(each, has_calls=True))
        watch.sent()

    assert not any(ends)


def test_any_number_is_forgiven_without_strikes():
    """Zero strikes switch the rule off."""
    assert not any(verdicts(PingRules(interval_s=math.inf, strikes=0), *range(10)))


def test_no_interval_forgives_every_ping():
    """An interval of nothing is always over."""
    assert not any(verdicts(PingRules(interval_s=0, strikes=1), *range(10)))


def test_idle_client_may_ping_rarely_where_that_is_not_permitted():
    """Without calls and without permission the interval is two hours."""
    rules = PingRules(interval_s=10, strikes=1, without_calls=False)

    assert verdicts(rules, 0, 20, 40, has_calls=False) == [False, False, True]
    assert not any(verdicts(rules, 0, WITHOUT_CALLS_S, 2 * WITHOUT_CALLS_S, has_calls=False))
    assert not any(verdicts(rules, 0, 20, 40, has_calls=True))
