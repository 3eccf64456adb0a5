"""What the world is told about a version: five states, seen from outside.

The harness knows more; this is what status calls show and what others wait for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from salver.core.servable_id import ServableId
from salver.errors import ServingError


class ManagerState(IntEnum):
    """Where a version stands, with the numbers that TensorFlow Serving's status calls use."""

    START = 10
    """The manager knows of it."""
    LOADING = 20
    """It is being loaded, retries included."""
    AVAILABLE = 30
    """It can be used. Said only once that is so."""
    UNLOADING = 40
    """It is about to be taken away. Said while it can still be used."""
    END = 50
    """It is gone, or will never come."""


@dataclass(frozen=True, slots=True)
class ServableState:
    """One announcement. ``error`` says why a version ended; a version simply unloaded has none."""

    id: ServableId
    manager_state: ManagerState
    error: ServingError | None = None
    time_s: float = 0.0
