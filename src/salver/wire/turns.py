"""Whose turn it is: who is acted on, a little at a time, and when what they get is sent.

A read may hold thousands of requests, and many connections may bring such reads at once.  However
many they are, all of them together get so much of each round of the event loop; then it looks at
those who sent little, who wait for nobody else's long speech.

Answers to those are sent together, when all who had sent something have been heard.  Sent one by
one, each wakes its reader, which on a virtual machine costs more than a small call does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final, Protocol

ROUND_S: Final = 0.5e-3
"""How much of one round of the event loop goes to those who have sent much."""

TURN_S: Final = 0.125e-3
"""How long one of them is acted on before the next, if there is one."""

SENT_TOGETHER: Final = 32
"""Answers that wait for one another at most, and for no longer than a round."""


class Sender(Protocol):
    """A connection that has something to send."""

    def send(self) -> None:
        """Send it; nothing by now is no error."""

    def abort(self) -> None:
        """Drop the connection: it failed to send."""


class Speaker(Protocol):
    """A connection that has sent more than is acted on at once."""

    def take_turn(self, ends_s: float) -> bool:
        """Act on what waits until it is done or ``ends_s`` has come; whether to come here again."""


class Turns:
    """The connections of one event loop that wait for a turn."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.clock: Final = clock
        self._loop = loop
        self._waiting: deque[Speaker] = deque()
        self._senders: list[Sender] = []
        self._sends_by_s = 0.0
        self._ends_s: float | None = None  # of the round that has begun, once somebody asked
        self._is_round_coming = False

    def ends_s(self) -> float:
        """When to stop a turn that begins now, unasked: it has passed if others wait for theirs."""
        if self._waiting:
            return 0.0
        if self._ends_s is None:
            self._ends_s = self.clock() + ROUND_S
            if not self._is_round_coming:
                self._expect_round()
        return self._ends_s

    def wait(self, speaker: Speaker) -> None:
        """Give a connection that is not waiting yet a turn when it comes to it."""
        self._waiting.append(speaker)
        if not self._is_round_coming:
            self._expect_round()

    def send_soon(self, sender: Sender) -> None:
        """Have a connection send when the others that are heard in this round have been.

        It may have to send before this returns.
        """
        self._senders.append(sender)
        if len(self._senders) == 1:
            self._sends_by_s = self.clock() + ROUND_S
            if not self._is_round_coming:
                self._expect_round()
        elif len(self._senders) >= SENT_TOGETHER or self.clock() >= self._sends_by_s:
            self._send()

    def _send(self) -> None:
        senders, self._senders = self._senders, []
        for sender in senders:
            try:
                sender.send()
            except Exception as error:  # noqa: BLE001, PERF203 -- it costs its connection only
                self._give_up(sender, error)

    def _give_up(self, sender: Sender, error: Exception) -> None:
        """Do as event loops do with a fault in a protocol: tell of it and drop the connection."""
        self._loop.call_exception_handler(
            {"message": "A connection failed to send", "exception": error, "protocol": sender}
        )
        self._loop.call_soon(sender.abort)

    def _expect_round(self) -> None:
        self._is_round_coming = True
        self._loop.call_soon(self._round)

    def _round(self) -> None:
        self._is_round_coming = False
        self._ends_s = None
        self._send()
        if not self._waiting:
            return
        now_s = self.clock()
        ends_s = now_s + ROUND_S
        try:
            while self._waiting and now_s < ends_s:
                speaker = self._waiting.popleft()
                if speaker.take_turn(min(now_s + TURN_S, ends_s)):
                    self._waiting.append(speaker)
                now_s = self.clock()
        finally:  # a fault in one connection must not silence the others
            if self._waiting and not self._is_round_coming:
                self._expect_round()
