"""How much memory the loaded versions may take, and how much they do.

Estimates, not measurements: a version is refused before it is loaded, never in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass

from salver.core.servable_id import ServableId
from salver.errors import ResourceExhausted


@dataclass(frozen=True, slots=True)
class ResourceStatistics:
    """What is reserved now, of how much; a budget of None has no end."""

    reserved_bytes: int
    budget_bytes: int | None


class ResourceTracker:
    """Keeps the reservations of one manager; used from its thread only, except ``statistics``."""

    def __init__(self, budget_bytes: int | None = None) -> None:
        self._budget_bytes = budget_bytes
        self._reserved_bytes: dict[ServableId, int] = {}

    def could_fit(self, needed_bytes: int) -> bool:
        """Whether a version of this size could be loaded if no other were."""
        return self._budget_bytes is None or needed_bytes <= self._budget_bytes

    def fits(self, needed_bytes: int) -> bool:
        """Whether a version of this size could be loaded now."""
        if self._budget_bytes is None:
            return True
        return sum(self._reserved_bytes.values()) + needed_bytes <= self._budget_bytes

    def reserve(self, servable_id: ServableId, needed_bytes: int) -> None:
        """Set memory aside for a version until it is released.

        Raises:
            ResourceExhausted: there is not as much left.
        """
        if not self.fits(needed_bytes):
            raise ResourceExhausted(f"Insufficient resources to load servable {servable_id}")
        self._reserved_bytes[servable_id] = needed_bytes

    def release(self, servable_id: ServableId) -> None:
        """Give a version's memory back; one that has none is no error."""
        self._reserved_bytes.pop(servable_id, None)

    def statistics(self) -> ResourceStatistics:
        """A look from any thread."""
        return ResourceStatistics(sum(list(self._reserved_bytes.values())), self._budget_bytes)
