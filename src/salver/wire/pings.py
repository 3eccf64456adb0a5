"""How often a client may ask an HTTP/2 server for a sign of life.

A pure decision after gRPC's rules: a PING that comes too soon after the last one, with nothing
sent in between, is a strike, and after some strikes the client has to go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

TOO_MANY: Final = "too_many_pings"
"""The word gRPC's clients look for in GOAWAY; they ask half as often from then on."""

WITHOUT_CALLS_S: Final = 7200.0
"""The interval when no call is in flight and pings are not welcome then."""


@dataclass(frozen=True, slots=True)
class PingRules:
    """What is too often, and how many times too often is too many; 0 ``strikes`` forgive all."""

    interval_s: float = 300.0
    strikes: int = 2
    without_calls: bool = True


class PingWatch:
    """The strikes of one connection."""

    def __init__(self, rules: PingRules) -> None:
        self._rules = rules
        self._last_s = -math.inf
        self._strikes = 0

    def is_one_too_many(self, now_s: float, *, has_calls: bool) -> bool:
        """Count a PING that arrived; whether the connection is to end for it."""
        rules = self._rules
        interval_s = rules.interval_s if has_calls or rules.without_calls else WITHOUT_CALLS_S
        is_strike = now_s < self._last_s + interval_s
        self._last_s = now_s
        self._strikes += is_strike
        return is_strike and 0 < rules.strikes < self._strikes

    def sent(self) -> None:
        """HEADERS or DATA were sent: the client may ask anew whether they will be followed."""
        self._last_s = -math.inf
        self._strikes = 0
