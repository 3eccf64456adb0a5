"""Latency at half of the load that a server can take.

    half_load.py [--seconds N]

First h2load finds how many requests a second a server answers at most.  Then this process sends
half as many, one after the other in even steps over some connections, and notes when each answer
is complete, counted from the moment the request was due.  It writes frames that were made
beforehand and turns without sleeping, so that its own work does not show.

Two things keep the machine's doings apart from the server's.  The same load goes to a floor, a
server in C++ or C that does nothing, in turns of half a second each: what is long there too is not
Salver's.  And a request that was due or on its way while this process itself was not given the
processor says nothing about any server; it is counted, and left out of the figures.
"""

from __future__ import annotations

import argparse
import gc
import select
import socket
import struct
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import inf
from statistics import median
from time import perf_counter
from typing import Final, Protocol

import h2load
import small_calls
from h2load import Load, Shape
from reporting import duration, goal, machine, table, times
from timing import percentile

CONNECTIONS: Final = 8
PEAK_SHAPE: Final = Shape(CONNECTIONS, 1)
ROUNDS: Final = 9
MOST_ROUNDS: Final = 30
"""On a machine with so much other work that half of the turns and more do not count."""

PEAK_ROUNDS: Final = 3
MOST_PER_SECOND: Final = 15_000
"""What this client can send without being the one that is late."""

PAUSE_S: Final = 0.3e-3
"""Between two looks at the clock: this process does nothing that takes as long."""

TAIL_GOAL: Final = 3.0
ANSWER_TIMEOUT_S: Final = 10.0

MOST_IN_FLIGHT: Final = 64
"""On one connection; a server that has fallen behind keeps the next request waiting here."""

WITH_GOAL: Final = (small_calls.WHOLE, small_calls.REST)

FLOORS: Final = {
    small_calls.OURS: small_calls.CPP,
    small_calls.WHOLE: small_calls.CPP,
    small_calls.REST: small_calls.NGINX,
}
"""What is put under the same load beside each."""

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
HEAD_BYTES: Final = 9
MAX_WINDOW: Final = (1 << 31) - 1
FIRST_WINDOW: Final = (1 << 16) - 1


class Requests(Protocol):
    """A protocol as the client speaks it on one connection."""

    def greeting(self) -> bytes:
        """What is sent before the first request."""

    def next(self) -> bytes:
        """The next request."""

    def answers(self, received: bytes) -> tuple[int, bytes]:
        """How many answers became complete, and what has to be said to what arrived."""


@dataclass(slots=True)
class Turn:
    """What one turn showed."""

    latencies_s: list[float] = field(default_factory=list)
    disturbed: int = 0
    """Answers that say nothing, since this process was paused meanwhile."""

    @property
    def answers(self) -> int:
        """All of them."""
        return len(self.latencies_s) + self.disturbed

    @property
    def counts(self) -> bool:
        """Whether enough of it was undisturbed to say something."""
        return len(self.latencies_s) > self.answers / 2

    def at(self, part: float) -> float:
        """A percentile."""
        return percentile(self.latencies_s, part)


@dataclass(frozen=True, slots=True)
class Contest:
    """A server and its floor under the same load, turn by turn."""

    name: str
    floor_name: str
    peak: float
    per_second: float
    turns: Sequence[Turn]
    floor_turns: Sequence[Turn]


def main() -> int:
    """Find each server's peak, then pace half of it, in turns with the floor."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn (0.5)")
    seconds = parser.parse_args().seconds
    if not h2load.is_there():
        return 0
    print(machine())
    with ExitStack() as stack:
        loads = {load.name: load for load in small_calls.start(stack)}
        gc.collect()
        gc.disable()  # it would be this process's pause that is measured
        contests = [
            contest(loads[name], loads[floor], seconds)
            for name, floor in FLOORS.items()
            if name in loads and floor in loads
        ]
        gc.enable()
    show(contests)
    return 0


def contest(load: Load, floor: Load, seconds: float) -> Contest:
    """Half of the load that the first can take, for both in turns."""
    most = peak(load)
    per_second = min(most / 2, MOST_PER_SECOND)
    h2load.run(floor, PEAK_SHAPE, h2load.WARM_UP)
    turns: list[Turn] = []
    floor_turns: list[Turn] = []
    for _ in range(MOST_ROUNDS):
        turns.append(paced(load, per_second, seconds))
        floor_turns.append(paced(floor, per_second, seconds))
        if min(len(counted(each)) for each in (turns, floor_turns)) >= ROUNDS:
            break
    return Contest(load.name, floor.name, most, per_second, turns, floor_turns)


def peak(load: Load) -> float:
    """The most requests a second, after a warm-up."""
    rate = h2load.run(load, PEAK_SHAPE, h2load.WARM_UP)
    return median(h2load.run(load, PEAK_SHAPE, int(rate / 2)) for _ in range(PEAK_ROUNDS))


def show(contests: Sequence[Contest]) -> None:
    """The table and the goals; every figure is that of the middle turn of those that count."""
    rows = []
    for each in contests:
        for name, turns in ((each.name, each.turns), (each.floor_name, each.floor_turns)):
            left_out = sum(turn.disturbed for turn in turns) / sum(turn.answers for turn in turns)
            rows.append(
                (
                    name,
                    f"{each.peak:,.0f}" if turns is each.turns else "",
                    f"{each.per_second:,.0f}",
                    *(duration(middle(turns, part)) for part in (50, 99, 99.9)),
                    times(tail(turns)),
                    f"{len(counted(turns))} of {len(turns)}",
                    f"{left_out:.0%}",
                )
            )
    # fmt: off
    headers = ("server", "peak per second", "sent", "p50", "p99", "p99.9", "p99 to p50", "turns",
               "answers left out")
    # fmt: on
    table(headers, rows)
    for each in contests:
        if each.name in WITH_GOAL:
            judge(each)


def judge(contest: Contest) -> None:
    """The goal, and what the floor's tail was meanwhile."""
    factor = tail(contest.turns)
    if not (counted(contest.turns) and counted(contest.floor_turns)):
        goal(f"{contest.name}: this machine is too busy to tell its p99", met=False)
        return
    in_flight = contest.per_second * middle(contest.turns, 50)
    kept_up = in_flight <= PEAK_SHAPE.connections
    text = f"{contest.name}: p99 at most {TAIL_GOAL:g}x of p50 at half load ({times(factor)})"
    floor_s = middle(contest.floor_turns, 99)
    text += f"; {contest.floor_name} had {times(tail(contest.floor_turns))} beside it"
    text += f", and its p99 was {times(middle(contest.turns, 99) / floor_s)} that one's"
    if not kept_up:  # p50 is then a queue's, and the two are alike
        text += f"; it fell behind, {in_flight:,.0f} requests waited"
    goal(text, met=kept_up and factor <= TAIL_GOAL)


def counted(turns: Sequence[Turn]) -> list[Turn]:
    """The turns that say something."""
    return [turn for turn in turns if turn.counts]


def middle(turns: Sequence[Turn], part: float) -> float:
    """A percentile of the middle turn; infinite if none counts."""
    return median([turn.at(part) for turn in counted(turns)] or [inf])


def tail(turns: Sequence[Turn]) -> float:
    """How p99 compares to p50 in the middle turn; infinite if none counts."""
    return median([turn.at(99) / turn.at(50) for turn in counted(turns)] or [inf])


def paced(load: Load, per_second: float, seconds: float) -> Turn:
    """Send requests in even steps; how long after it was due each was answered."""
    with ExitStack() as stack:
        clients = [Client(load, stack) for _ in range(CONNECTIONS)]
        poll = select.epoll()
        stack.callback(poll.close)
        by_number = {client.socket.fileno(): client for client in clients}
        for number in by_number:
            poll.register(number, select.EPOLLIN)
        turn = Turn()
        step_s, count = 1 / per_second, int(per_second * seconds)
        begin_s, sent, answered = perf_counter(), 0, 0
        looked_s = paused_until_s = begin_s
        gives_up_s = begin_s + seconds + ANSWER_TIMEOUT_S
        while answered < count:
            now_s = perf_counter()
            if now_s - looked_s > PAUSE_S:
                paused_until_s = now_s
            looked_s = now_s
            due_s = begin_s + sent * step_s
            client = clients[sent % CONNECTIONS]
            if sent < count and now_s >= due_s and client.in_flight < MOST_IN_FLIGHT:
                client.send(due_s)
                sent += 1
            for number, _ in poll.poll(0):
                answered += by_number[number].receive(turn, paused_until_s)
            assert now_s < gives_up_s, f"{load.name} left {sent - answered} unanswered"
    return turn


class Client:
    """One connection that sends requests without waiting for answers."""

    def __init__(self, load: Load, stack: ExitStack) -> None:
        host, _, rest = load.url.removeprefix("http://").partition(":")
        port, _, path = rest.partition("/")
        body = load.body.read_bytes()
        self.socket = stack.enter_context(socket.create_connection((host, int(port))))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._speaks: Requests = (Http1 if load.is_http1 else Grpc)(f"/{path}", body)
        self._due_s: deque[float] = deque()
        self.socket.sendall(self._speaks.greeting())

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answers."""
        return len(self._due_s)

    def send(self, due_s: float) -> None:
        """Send a request that was due a moment ago."""
        self._due_s.append(due_s)
        self.socket.sendall(self._speaks.next())

    def receive(self, turn: Turn, paused_until_s: float) -> int:
        """Take what arrived and note the answers in it; how many there are."""
        data = self.socket.recv(1 << 16)
        now_s = perf_counter()
        assert data, "the server hung up"
        count, reply = self._speaks.answers(data)
        for _ in range(count):
            due_s = self._due_s.popleft()
            if due_s <= paused_until_s:
                turn.disturbed += 1
            else:
                turn.latencies_s.append(now_s - due_s)
        if reply:
            self.socket.sendall(reply)
        return count


class Http1:
    """POSTs over HTTP/1.1."""

    def __init__(self, path: str, body: bytes) -> None:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body
        self._held = b""

    def greeting(self) -> bytes:
        """HTTP/1.1 begins with a request."""
        return b""

    def next(self) -> bytes:
        """They are all the same."""
        return self._request

    def answers(self, received: bytes) -> tuple[int, bytes]:
        """Count responses by their Content-Length."""
        data, count = self._held + received, 0
        while (end := data.find(b"\r\n\r\n")) >= 0:
            assert data.startswith(b"HTTP/1.1 200"), data
            head = data[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(data) < end + 4 + length:
                break
            data, count = data[end + 4 + length :], count + 1
        self._held = data
        return count, b""


class Grpc:
    """Unary calls over HTTP/2, as far as a client needs it that knows what it will get.

    Answers are taken to come in the order of the calls: each connection waits for few at a time,
    and where two change places, so do their latencies, which leaves the percentiles nearly alone.
    """

    def __init__(self, path: str, body: bytes) -> None:
        # The first request leaves path, authority, type and te in HPACK's table for the others.
        fields = ((4, path.encode()), (1, b"localhost"), (31, b"application/grpc"))
        named = b"".join(bytes((0x40 | index,)) + _text(value) for index, value in fields)
        self._first_block = b"\x83\x86" + named + b"\x40" + _text(b"te") + _text(b"trailers")
        self._later_block = b"\x83\x86" + bytes(0x80 | index for index in (65, 64, 63, 62))
        self._body = body
        self._stream = -1
        self._held = b""

    def greeting(self) -> bytes:
        """The preface, no settings of note, and a window that will not run dry."""
        window = struct.pack(">I", MAX_WINDOW - FIRST_WINDOW)
        return PREFACE + _frame(SETTINGS, 0, 0, b"") + _frame(WINDOW_UPDATE, 0, 0, window)

    def next(self) -> bytes:
        """The next call."""
        block = self._later_block if self._stream > 0 else self._first_block
        self._stream += 2
        head = _frame(HEADERS, END_HEADERS, self._stream, block)
        return head + _frame(DATA, END_STREAM, self._stream, self._body)

    def answers(self, received: bytes) -> tuple[int, bytes]:
        """Count trailers; acknowledge what asks for it."""
        data, count, reply, at = self._held + received, 0, b"", 0
        while len(data) - at >= HEAD_BYTES:
            end = at + HEAD_BYTES + int.from_bytes(data[at : at + 3], "big")
            if len(data) < end:
                break
            kind, flags = data[at + 3], data[at + 4]
            if kind == HEADERS and flags & END_STREAM:
                count += 1
            elif kind in (SETTINGS, PING) and not flags & ACK:
                echoed = data[at + HEAD_BYTES : end] if kind == PING else b""
                reply += _frame(kind, ACK, 0, echoed)
            assert kind in (DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE), f"a frame of {kind}"
            at = end
        self._held = data[at:]
        return count, reply


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(value: bytes) -> bytes:
    assert len(value) < 127
    return bytes((len(value),)) + value


if __name__ == "__main__":
    sys.exit(main())
