"""When something that failed is tried again: a load, a copy, a process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from the first to the longest."""

    first_s: float = 1.0
    longest_s: float = 300.0

    def wait_s(self, failures: int, chance: float = 1.0) -> float:
        """How long to wait after so many failures, at least one.

        ``chance``, from 0 to 1, spreads those who failed together: between half and all of it.
        """
        doublings = min(failures - 1, 60)
        return min(self.first_s * 2.0**doublings, self.longest_s) * (0.5 + 0.5 * chance)


@dataclass(frozen=True, slots=True)
class LoadRetries:
    """How often a failed load is tried again, how long after the failure, and what comes then.

    Without ``after_end`` a version whose tries have all failed stays failed as long as it is wished
    for, as in TensorFlow Serving.  With it, it begins anew after a wait, as often as it takes.
    """

    max_retries: int = 5
    interval_s: float = 60.0
    after_end: Backoff | None = None
