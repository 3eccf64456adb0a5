"""Announcements, handed to whoever asked, on the thread that makes them.

A subscriber runs on the manager's thread, between two of its actions.  That makes a subscription
the place for work that belongs after every load and unload (``gc.freeze``, handing memory back),
and makes a slow subscriber slow for every later load; never for a request.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

E = TypeVar("E")


class EventBus(Generic[E]):
    """Calls every subscriber with every event, in the order of subscription.

    A subscriber that raises is logged; the others and the publisher do not notice.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: tuple[Subscription[E], ...] = ()

    def subscribe(self, callback: Callable[[E], None]) -> Subscription[E]:
        """Call ``callback`` with every event from now until the subscription is closed."""
        subscription = Subscription(self, callback)
        with self._lock:
            self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription[E]) -> None:
        """Forget a subscription; one not known is no error."""
        with self._lock:
            self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)

    def publish(self, event: E) -> None:
        """Hand ``event`` to every subscriber before returning."""
        for subscription in self._subscriptions:
            subscription.deliver(event)


class Subscription(Generic[E]):
    """Ends when it is closed, or at the end of its ``with`` block."""

    def __init__(self, bus: EventBus[E], callback: Callable[[E], None]) -> None:
        self._bus = bus
        self._callback = callback

    def deliver(self, event: E) -> None:
        """Hand one event over; what the subscriber raises ends here."""
        try:
            self._callback(event)
        except Exception:
            logger.exception("A subscriber failed on %s", event)

    def close(self) -> None:
        """Hear of no further event."""
        self._bus.unsubscribe(self)

    def __enter__(self) -> Subscription[E]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
