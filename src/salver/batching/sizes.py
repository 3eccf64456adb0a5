"""How many rows to run at once: learned from what runs took, here and on a thread.

Here is the event loop, where a run may take so long and no longer.  On a thread a batch may be as
large as it pays: sizes are climbed by powers of two for as long as a row gets cheaper.
"""

from __future__ import annotations

from typing import Final

HERE_BELOW_S: Final = 300e-6
"""A run that costs less on a thread may be made on the event loop: what a hop may cost."""

SLOW_ABOVE_S: Final = 600e-6
"""One that takes as long on the loop was too large for it."""

CLOSE_LOOKS: Final = 16
"""Runs that are looked at closely after one that took long by the clock."""

SLOW_LOOKS: Final = 2
"""So many of them that cost too much were too large: a single one may be an interrupt's doing."""

MAX_ROWS: Final = 1024
"""Of one batch."""

PAYS_BELOW: Final = 0.9
"""A row of the next size costs at most this share of what it costs in this one, or it stays."""

WEIGHT: Final = 0.2
"""Of a new figure in the mean."""

TRIES: Final = 2
"""Of a size before it is judged: the first may have been interrupted."""

FORGETS_AFTER: Final = 256
"""Batches after which the size that did not pay is tried again: times change."""


class BatchSizes:
    """What is known of the runs of one kind of call."""

    __slots__ = (
        "_row_s",
        "_since_forgotten",
        "_slow_looks",
        "_tries",
        "close_looks_left",
        "here_rows",
    )

    def __init__(self) -> None:
        self.here_rows = 0
        """As many rows fit into one run on the event loop; none at first."""
        self.close_looks_left = 0
        """Runs on the loop whose cost is to be measured, not only their time on the clock."""
        self._slow_looks = 0
        self._row_s: list[float | None] = [None] * MAX_ROWS.bit_length()
        self._tries = [0] * MAX_ROWS.bit_length()
        self._since_forgotten = 0

    def took_here(self, rows: int, took_s: float) -> None:
        """Learn from a run on the event loop that took so long by the clock.

        An interruption of the whole process looks like a slow run, and on shared processors is the
        more frequent of the two: so a slow one is only a reason to look closely at the next.
        """
        if took_s > SLOW_ABOVE_S:
            self.close_looks_left = CLOSE_LOOKS
            self._slow_looks = 0
        elif took_s < HERE_BELOW_S / 2:
            self.here_rows = max(self.here_rows, min(2 * rows, MAX_ROWS))

    def cost_here(self, rows: int, cost_s: float) -> None:
        """Learn from a run on the event loop that was looked at closely and cost so much."""
        self.close_looks_left -= 1
        self._slow_looks += cost_s > SLOW_ABOVE_S
        if self._slow_looks >= SLOW_LOOKS:
            self.here_rows = rows // 2
            self.close_looks_left = self._slow_looks = 0

    def took_there(self, rows: int, took_s: float, cost_s: float) -> None:
        """Learn from a run on a thread that took so long by the clock, and cost so much.

        What it cost says whether it fits the loop; what it took is what its clients waited for.
        """
        rows = max(rows, 1)
        if cost_s < HERE_BELOW_S:
            self.here_rows = max(self.here_rows, min(rows, MAX_ROWS))
        size = min(rows, MAX_ROWS).bit_length() - 1
        known_s, row_s = self._row_s[size], took_s / rows
        self._tries[size] += 1
        self._row_s[size] = row_s if known_s is None else known_s + WEIGHT * (row_s - known_s)
        self._since_forgotten += 1
        if self._since_forgotten >= FORGETS_AFTER:
            self._since_forgotten = 0
            above = self._best() + 1
            if above < len(self._row_s):
                self._row_s[above], self._tries[above] = None, 0

    def there_rows(self) -> int:
        """As many rows go to a thread at once: the size that pays, or the next one to be tried."""
        best = self._best()
        above = best + 1
        if above < len(self._row_s) and self._tries[above] < TRIES:
            best = above
        return min((2 << best) - 1, MAX_ROWS)

    def _best(self) -> int:
        """The size, as a power of two, up to which each one has paid."""
        best: int | None = None
        for size, row_s in enumerate(self._row_s):
            if row_s is None:
                if best is not None:
                    break
                continue
            if best is None:
                best = size
            elif self._tries[size] < TRIES or row_s > PAYS_BELOW * (self._row_s[best] or 0.0):
                break
            else:
                best = size
        return best or 0
