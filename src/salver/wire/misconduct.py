"""Which addresses have lately sent what no honest client sends, and how long they wait for it.

Whoever was sent away may come again at once, and cost as much again.  So an address that keeps on
waits before its next connection is read from: longer each time, never for long, and soon no more.
Nobody is refused, since honest clients may share an address with others.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

FREE_STRIKES: Final = 20
"""What costs nothing yet: a client with a fault, or a scanner that passes by."""

FORGIVEN_PER_S: Final = 1.0
DELAY_PER_STRIKE_S: Final = 0.05
MOST_DELAY_S: Final = 1.0
MOST_STRIKES: Final = FREE_STRIKES + MOST_DELAY_S / DELAY_PER_STRIKE_S

MAX_ADDRESSES: Final = 1024
"""Remembered; beyond them the one that has been good for longest is forgotten."""

IPV6_PREFIX: Final = 64
"""The bits of an IPv6 address that its owner cannot choose."""


class Misconduct:
    """The strikes of addresses, which are forgiven one by one as time passes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._strikes: OrderedDict[str, tuple[float, float]] = OrderedDict()  # how many, when

    @property
    def is_unheard_of(self) -> bool:
        """Whether no address has any strikes, so that none need be looked up."""
        return not self._strikes

    def note(self, address: str) -> None:
        """Count a strike; a connection without an address, a UNIX socket's, has none."""
        if not address:
            return
        owner = owner_of(address)
        strikes = min(self._left(owner) + 1.0, MOST_STRIKES)
        self._strikes[owner] = (strikes, self._clock())
        self._strikes.move_to_end(owner)
        if len(self._strikes) > MAX_ADDRESSES:
            self._strikes.popitem(last=False)

    def delay_s(self, address: str) -> float:
        """How long the next connection from an address waits before it is read from."""
        if not address or not self._strikes:
            return 0.0
        owner = owner_of(address)
        strikes = self._left(owner)
        if not strikes:
            self._strikes.pop(owner, None)
        return max(strikes - FREE_STRIKES, 0.0) * DELAY_PER_STRIKE_S

    def _left(self, owner: str) -> float:
        strikes, noted_s = self._strikes.get(owner, (0.0, 0.0))
        return max(strikes - (self._clock() - noted_s) * FORGIVEN_PER_S, 0.0)


def owner_of(address: str) -> str:
    """What stands for all addresses that one client can choose from."""
    try:
        ip = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ipaddress.IPv6Network((int(ip), IPV6_PREFIX), strict=False))
