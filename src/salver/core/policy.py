"""Which version to load or unload next, as pure functions.

A policy sees the versions of one servable as values and names one action, or none.
It keeps nothing between calls, so the same versions always get the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from salver.core.harness import State


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version as a policy sees it."""

    version: int
    state: State
    aspired: bool
    asleep: bool = False
    """Out of memory for others' sake, and not to be loaded before somebody asks for it."""


@dataclass(frozen=True, slots=True)
class Load:
    """Load this version."""

    version: int


@dataclass(frozen=True, slots=True)
class Unload:
    """Unload this version."""

    version: int


class AspiredVersionPolicy(Protocol):
    """Loads only what is aspired and NEW; unloads only what is not aspired and READY."""

    def __call__(self, versions: Sequence[Snapshot]) -> Load | Unload | None:
        """The next action for one servable, or None to leave it as it is."""


def availability_preserving(versions: Sequence[Snapshot]) -> Load | Unload | None:
    """Load the new before dropping the old: always an answer, at times two copies in memory.

    The last old version stays until a wished-for one is ready, even if none ever will be.
    """
    aspired = [v for v in versions if v.aspired]
    unwanted = _ready_unwanted(versions)
    is_replaced = not aspired or any(v.state is State.READY for v in aspired)
    if unwanted and (is_replaced or len(unwanted) > 1):
        return Unload(min(unwanted))
    return _load_highest(versions)


def resource_preserving(versions: Sequence[Snapshot]) -> Load | Unload | None:
    """Drop the old before loading the new: never two generations in memory, at times no answer."""
    unwanted = _ready_unwanted(versions)
    if unwanted:
        return Unload(min(unwanted))
    if any(not v.aspired and v.state not in _HOLDS_NOTHING for v in versions):
        return None
    return _load_highest(versions)


_HOLDS_NOTHING = frozenset({State.NEW, State.DISABLED, State.ERROR})


def _ready_unwanted(versions: Sequence[Snapshot]) -> list[int]:
    return [v.version for v in versions if not v.aspired and v.state is State.READY]


def _load_highest(versions: Sequence[Snapshot]) -> Load | None:
    new = [v.version for v in versions if v.aspired and v.state is State.NEW and not v.asleep]
    return Load(max(new)) if new else None
