"""Whether a request that is on its way comes quickly enough to be waited for."""

from __future__ import annotations

from typing import Final

LEAST_BYTES_PER_S: Final = 240
"""What a body has to bring on average, far below the slowest of honest lines: whoever sends an
octet now and then could keep a request, and what it holds, for days."""


class Progress:
    """One body's, looked at window by window."""

    __slots__ = ("_bytes", "_since_s")

    def __init__(self, now_s: float, received_bytes: int) -> None:
        self._since_s = now_s
        self._bytes = received_bytes

    def ends_s(self, window_s: float) -> float:
        """When the window is over."""
        return self._since_s + window_s

    def is_too_slow(self, now_s: float, received_bytes: int, window_s: float) -> bool:
        """Judge a window that is over, and begin the next; before its end nothing is too slow."""
        elapsed_s = now_s - self._since_s
        if elapsed_s < window_s:
            return False
        is_slow = received_bytes - self._bytes < LEAST_BYTES_PER_S * elapsed_s
        self._since_s, self._bytes = now_s, received_bytes
        return is_slow
