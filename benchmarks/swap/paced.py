"""A client that sends requests in even steps, and looks at every answer.

One thread serves all connections.  It sleeps until something arrives or the next request is due,
so that it leaves the processor to the server.  A latency counts from the moment a request was due.

What is measured while this process itself was kept from running says nothing about any server:
answers to requests that were due or on their way then are checked and counted, and left out of the
figures.
"""

from __future__ import annotations

import re
import select
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, Protocol

PAUSE_S: Final = 1e-3
"""Sleeping this much too long, or being at work as long, is a pause of ours."""

MOST_IN_FLIGHT: Final = 64
"""On one connection; a server that has fallen behind keeps the next request waiting here."""

RECEIVE_BYTES: Final = 1 << 16
HANG_UP_AFTER_S: Final = 30.0
"""Without an answer for so long, a connection is given up; its requests have failed."""

Check = Callable[[bytes], bool]


@dataclass(slots=True)
class Tally:
    """What came of the requests of a kind."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    disturbed: int = 0
    """Right answers that say nothing of the time they took, for this process was paused."""
    latencies_s: list[float] = field(default_factory=list)
    longest_s: float = 0.0
    complaints: list[str] = field(default_factory=list)
    """The first few failures, in words."""

    def fail(self, complaint: str, count: int = 1) -> None:
        """Note requests that were not answered as they should have been."""
        self.failed += count
        if len(self.complaints) < 5:
            self.complaints.append(complaint)


class Connection(Protocol):
    """A protocol as the client speaks it on one connection."""

    def greeting(self) -> bytes:
        """What is sent before the first request."""

    def request(self, due_s: float) -> bytes:
        """The next request, which was due a moment ago."""

    def answers(self, received: bytes) -> Iterator[tuple[float, bytes]]:
        """For each answer that became complete: when it was due, and its content."""

    def reply(self) -> bytes:
        """What the protocol itself has to say to what was received."""

    def in_flight(self) -> int:
        """Requests that wait for their answers."""

    def dropped(self) -> list[float] | None:
        """When those were due that the server, as it said, closes without answering.

        None if it has not said that it closes.
        """


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests of one kind: how to speak, how often, and what is a right answer.

    The content that ``is_right`` looks at is a status line and a body in HTTP/1.1; in gRPC it is
    the message, or nothing where the call failed.
    """

    name: str
    port: int
    connect: Callable[[], Connection]
    is_right: Check
    per_second: float
    connections: int = 1
    keeps_latencies: bool = True


class Client:
    """Kinds of requests side by side, over connections that stay from one phase to the next."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._lines = [_Line(kind, number) for kind in kinds for number in range(kind.connections)]
        self._kinds = kinds

    def run(
        self,
        is_over: Callable[[], bool],
        *,
        wakes: Mapping[int, Callable[[], None]] | None = None,
    ) -> dict[str, Tally]:
        """Send until ``is_over``, then wait for what is on its way; what came of each kind.

        ``wakes`` has file descriptors of others, and whom to call when something arrives there.
        """
        wakes = wakes or {}
        tallies = {kind.name: Tally() for kind in self._kinds}
        paused_until_s = begin_s = perf_counter()
        for line in self._lines:
            line.begin(begin_s)
        is_sending = True
        while is_sending or any(line.waits for line in self._lines):
            is_sending = is_sending and not is_over()
            began_s = perf_counter()
            due_s = self._send_what_is_due(tallies, began_s, is_sending=is_sending)
            slept_s = perf_counter()
            by_number = {line.number: line for line in self._lines if line.is_open}
            timeout_s = max(min(due_s - slept_s, 0.1), 0.0)
            ready, _, _ = select.select([*by_number, *wakes], [], [], timeout_s)
            now_s = perf_counter()
            if slept_s - began_s > PAUSE_S or now_s - slept_s > timeout_s + PAUSE_S:
                paused_until_s = now_s
            for number in ready:
                if number in wakes:
                    wakes[number]()
                else:
                    line = by_number[number]
                    line.receive(tallies[line.kind.name], paused_until_s)
        return tallies

    def _send_what_is_due(
        self, tallies: Mapping[str, Tally], now_s: float, *, is_sending: bool
    ) -> float:
        """Send; when the next request is due."""
        next_s = now_s + 1
        for line in self._lines:
            tally = tallies[line.kind.name]
            line.give_up_if_silent(tally, now_s)
            if is_sending:
                next_s = min(next_s, line.send_if_due(tally, now_s))
        return next_s

    def close(self) -> None:
        """Hang up."""
        for line in self._lines:
            line.hang_up()


class _Line:
    """One connection, made anew when it breaks."""

    def __init__(self, kind: Kind, place: int) -> None:
        self.kind = kind
        self.number = -1
        self._place = place
        self._step_s = kind.connections / kind.per_second
        self._due_s = 0.0
        self._heard_s = 0.0
        self._socket: socket.socket | None = None
        self._speaks = kind.connect()

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    @property
    def waits(self) -> bool:
        return self.is_open and self._speaks.in_flight() > 0

    def begin(self, now_s: float) -> None:
        """Be due from now on, each line at its own part of the step."""
        self._due_s = now_s + self._step_s * (self._place + 1) / self.kind.connections

    def send_if_due(self, tally: Tally, now_s: float) -> float:
        """Send what is due; when the next request is."""
        while self._due_s <= now_s:
            if self._speaks.in_flight() >= MOST_IN_FLIGHT:
                return now_s + PAUSE_S
            try:
                tally.sent += 1
                self._send([self._due_s], now_s)
            except OSError as error:
                self._broke(tally, f"{self.kind.name}: {error!r}")
            self._due_s += self._step_s
        return self._due_s

    def _send(self, dues_s: Sequence[float], now_s: float) -> None:
        if not self._speaks.in_flight():
            self._heard_s = now_s
        # In flight from here, whatever goes wrong.
        requests = b"".join([self._speaks.request(due_s) for due_s in dues_s])
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self.kind.port), 5)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.number = self._socket.fileno()
            requests = self._speaks.greeting() + requests
        self._socket.sendall(requests)

    def receive(self, tally: Tally, paused_until_s: float) -> None:
        """Take what arrived, and look at the answers in it."""
        assert self._socket is not None
        try:
            data = self._socket.recv(RECEIVE_BYTES)
            now_s = perf_counter()
            if not data:
                self._broke(tally, f"{self.kind.name}: the server hung up")
                return
            self._heard_s = now_s
            for due_s, content in self._speaks.answers(data):
                self._note(tally, now_s - due_s, content, is_disturbed=due_s <= paused_until_s)
            if reply := self._speaks.reply():
                self._socket.sendall(reply)
            if (dropped := self._speaks.dropped()) is not None:
                self._begin_anew(dropped, now_s)
        except OSError as error:
            self._broke(tally, f"{self.kind.name}: {error!r}")

    def _begin_anew(self, dropped: Sequence[float], now_s: float) -> None:
        """Go on without a connection that the server closes, and send again what it dropped."""
        self.hang_up()
        if dropped:
            self._send(dropped, now_s)

    def _note(self, tally: Tally, took_s: float, content: bytes, *, is_disturbed: bool) -> None:
        tally.answered += 1
        if not self.kind.is_right(content):
            tally.fail(f"{self.kind.name} was answered {content[:100]!r}")
        elif is_disturbed:
            tally.disturbed += 1
        else:
            tally.longest_s = max(tally.longest_s, took_s)
            if self.kind.keeps_latencies:
                tally.latencies_s.append(took_s)

    def give_up_if_silent(self, tally: Tally, now_s: float) -> None:
        """Break with a server that does not answer any more."""
        if self.waits and now_s - self._heard_s > HANG_UP_AFTER_S:
            self._broke(tally, f"{self.kind.name}: no answer within {HANG_UP_AFTER_S:g} s")

    def _broke(self, tally: Tally, complaint: str) -> None:
        """Give up the connection; who hangs up between two requests harms nobody."""
        if self._speaks.in_flight():
            tally.fail(complaint, self._speaks.in_flight())
        self.hang_up()

    def hang_up(self) -> None:
        """Close; the next request opens another connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self.number = None, -1
        self._speaks = self.kind.connect()


# --- The two protocols ----------------------------------------------------------------------------


class Http1:
    """One request over HTTP/1.1 again and again; answers come in order."""

    _LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
    _CLOSE = re.compile(rb"connection: *close", re.IGNORECASE)

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._due_s: list[float] = []
        self._held = b""
        self._is_closing = False

    def greeting(self) -> bytes:
        """HTTP/1.1 begins with a request."""
        return b""

    def request(self, due_s: float) -> bytes:
        """They are all the same."""
        self._due_s.append(due_s)
        return self._request

    def answers(self, received: bytes) -> Iterator[tuple[float, bytes]]:
        """Status line and body of each response."""
        self._held += received
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            length = self._LENGTH.search(self._held, 0, end)
            rest = end + 4 + (int(length[1]) if length else 0)
            if len(self._held) < rest:
                return
            self._is_closing = self._CLOSE.search(self._held, 0, end) is not None
            status, _, _ = self._held.partition(b"\r\n")
            content = status + b"\n" + self._held[end + 4 : rest]
            self._held = self._held[rest:]
            if not self._due_s:
                raise ConnectionError("an answer that nobody asked for")
            yield self._due_s.pop(0), content

    def reply(self) -> bytes:
        """Nothing."""
        return b""

    def in_flight(self) -> int:
        """Requests that wait for their answers."""
        return len(self._due_s)

    def dropped(self) -> list[float] | None:
        """What follows an answer with ``Connection: close`` on its connection goes unanswered."""
        return self._due_s if self._is_closing else None


PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
HEAD_BYTES: Final = 9
MAX_WINDOW: Final = (1 << 31) - 1
FIRST_WINDOW: Final = (1 << 16) - 1
WINDOW_STEP: Final = 1 << 24
MESSAGE_HEAD_BYTES: Final = 5


class Grpc:
    """One unary call over HTTP/2 again and again.

    The server answers a call that fails with headers and no message, so no table of headers has to
    be kept to tell it from one that succeeds.
    """

    def __init__(self, path: str, message: bytes) -> None:
        # The first request leaves path, authority, type and te in HPACK's table for the others.
        fields = ((4, path.encode()), (1, b"localhost"), (31, b"application/grpc"))
        named = b"".join(bytes((0x40 | index,)) + _text(value) for index, value in fields)
        self._first_block = b"\x83\x86" + named + b"\x40" + _text(b"te") + _text(b"trailers")
        self._later_block = b"\x83\x86" + bytes(0x80 | index for index in (65, 64, 63, 62))
        self._body = struct.pack(">BI", 0, len(message)) + message
        self._stream = -1
        self._due_s: dict[int, float] = {}
        self._messages: dict[int, bytes] = {}
        self._held = b""
        self._reply = b""
        self._unacknowledged = 0

    def greeting(self) -> bytes:
        """The preface, no settings of note, and a window that does not run dry."""
        window = struct.pack(">I", MAX_WINDOW - FIRST_WINDOW)
        return PREFACE + _frame(SETTINGS, 0, 0, b"") + _frame(WINDOW_UPDATE, 0, 0, window)

    def request(self, due_s: float) -> bytes:
        """The next call."""
        block = self._later_block if self._stream > 0 else self._first_block
        self._stream += 2
        self._due_s[self._stream] = due_s
        head = _frame(HEADERS, END_HEADERS, self._stream, block)
        return head + _frame(DATA, END_STREAM, self._stream, self._body)

    def answers(self, received: bytes) -> Iterator[tuple[float, bytes]]:
        """The message of each call that ended; empty for one that failed."""
        data, at = self._held + received, 0
        while len(data) - at >= HEAD_BYTES:
            end = at + HEAD_BYTES + int.from_bytes(data[at : at + 3], "big")
            if len(data) < end:
                break
            kind, flags, stream = struct.unpack_from(">BBI", data, at + 3)
            content = data[at + HEAD_BYTES : end]
            at = end
            if kind == DATA:
                self._messages[stream] = self._messages.get(stream, b"") + content
                self._take(len(content))
            elif kind in (SETTINGS, PING) and not flags & ACK:
                self._reply += _frame(kind, ACK, 0, content if kind == PING else b"")
            elif kind == GOAWAY:
                raise ConnectionError(f"the server went away: {content!r}")
            if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
                message = self._messages.pop(stream, b"")
                yield self._due_s.pop(stream), message[MESSAGE_HEAD_BYTES:]
        self._held = data[at:]

    def _take(self, count: int) -> None:
        """Give the window back now and then."""
        self._unacknowledged += count
        if self._unacknowledged >= WINDOW_STEP:
            window = struct.pack(">I", self._unacknowledged)
            self._reply += _frame(WINDOW_UPDATE, 0, 0, window)
            self._unacknowledged = 0

    def reply(self) -> bytes:
        """Acknowledgements."""
        reply, self._reply = self._reply, b""
        return reply

    def in_flight(self) -> int:
        """Calls that wait for their answers."""
        return len(self._due_s)

    def dropped(self) -> None:
        """A server that means to leave says GOAWAY, which is not met here."""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(value: bytes) -> bytes:
    assert len(value) < 127
    return bytes((len(value),)) + value
