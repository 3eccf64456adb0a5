"""Announcements reach those who asked, and nobody else's errors do."""

from __future__ import annotations

import pytest

from salver.core.event_bus import EventBus


def test_every_subscriber_hears_every_event_in_order():
    """Two subscribers hear two events, each both, first subscriber first."""
    bus: EventBus[str] = EventBus()
    heard: list[tuple[int, str]] = []
    bus.subscribe(lambda event: heard.append((1, event)))
    bus.subscribe(lambda event: heard.append((2, event)))

    bus.publish("a")
    bus.publish("b")

    assert heard == [(1, "a"), (2, "a"), (1, "b"), (2, "b")]


def test_closed_subscription_hears_nothing_more():
    """A subscription ends with its with block; closing it again is no error."""
    bus: EventBus[str] = EventBus()
    heard: list[str] = []

    with bus.subscribe(heard.append) as subscription:
        bus.publish("a")
    bus.publish("b")
    subscription.close()

    assert heard == ["a"]


def test_a_failing_subscriber_is_logged_and_passed_over(caplog: pytest.LogCaptureFixture):
    """An error of one subscriber reaches neither the publisher nor the next subscriber."""
    bus: EventBus[str] = EventBus()
    heard: list[str] = []

    def fail(event: str) -> None:
        raise ValueError(event)

    bus.subscribe(fail)
    bus.subscribe(heard.append)

    bus.publish("a")

    assert heard == ["a"]
    assert "A subscriber failed on a" in caplog.text


def test_subscriber_may_end_its_own_subscription():
    """Closing from inside the callback is heard by the others all the same."""
    bus: EventBus[str] = EventBus()
    heard: list[str] = []
    once = bus.subscribe(lambda event: (heard.append(event), once.close()))
    bus.subscribe(heard.append)

    bus.publish("a")
    bus.publish("b")

    assert heard == ["a", "a", "b"]
