"""What the log says about strangers: a line for each kind of thing they do, now and then.

Peers decide how often such a line is due, so the log must not let them decide how often it stands
there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final

COMPLAINT_S: Final = 60.0
"""How often the log names what strangers do: they could fill it."""


class Complaints:
    """Log lines about strangers: each kind at once the first time, then now and then."""

    def __init__(self, clock: Callable[[], float], logger: logging.Logger) -> None:
        self._clock = clock
        self._logger = logger
        self._said: dict[str, tuple[float, int]] = {}  # when last, and how many not since

    def say(self, line: str, *details: object, kind: str = "") -> None:
        """Log a line of a kind, or only count it; ``line`` without its details is the kind.

        Where one line serves several kinds, ``kind`` tells them apart; no peer may choose it.
        """
        now_s, kind = self._clock(), kind or line
        said_s, unsaid = self._said.get(kind, (-math.inf, 0))
        if now_s - said_s < COMPLAINT_S:
            self._said[kind] = (said_s, unsaid + 1)
            return
        self._said[kind] = (now_s, 0)
        more = f" (and {unsaid} more like it before)" if unsaid else ""
        self._logger.warning("%s%s", line % details, more)
