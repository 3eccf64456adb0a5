"""Latency at half of the load that a server can take.

    half_load.py [--seconds N]

First h2load finds how many requests a second a server answers at most.  Then this process sends
half as many, one after the other in even steps over some connections, and notes when each answer
is complete, counted from the moment the request was due.  It writes frames that were made
beforehand and turns without sleeping, so that its own work does not show.
"""

from __future__ import annotations

import argparse
import gc
import select
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from time import perf_counter
from typing import Final, Protocol

import h2load
import small_calls
from h2load import Load, Shape
from reporting import duration, goal, machine, table, times
from timing import in_turns, percentile

CONNECTIONS: Final = 8
PEAK_SHAPE: Final = Shape(CONNECTIONS, 1)
ROUNDS: Final = 3
MOST_PER_SECOND: Final = 15_000
"""What this client can send without being the one that is late."""

TAIL_GOAL: Final = 3.0
ANSWER_TIMEOUT_S: Final = 10.0

MOST_IN_FLIGHT: Final = 64
"""On one connection; a server that has fallen behind keeps the next request waiting here."""

WITH_GOAL: Final = (small_calls.WHOLE, small_calls.REST)

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


def main() -> int:
    """Find each server's peak, then pace half of it, in turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn (2)")
    seconds = parser.parse_args().seconds
    if not h2load.is_there():
        return 0
    print(machine())
    found: dict[str, list[list[float]]] = {}
    with ExitStack() as stack:
        loads = [load for load in small_calls.start(stack) if load.name != small_calls.GRPCIO]
        peaks = {load.name: peak(load) for load in loads}
        rates = {name: min(value / 2, MOST_PER_SECOND) for name, value in peaks.items()}

        def turn(load: Load) -> float:
            latencies_s = paced(load, rates[load.name], seconds)
            found.setdefault(load.name, []).append(latencies_s)
            return percentile(latencies_s, 99) / percentile(latencies_s, 50)

        turns: dict[str, Callable[[], float]] = {
            load.name: lambda load=load: turn(load) for load in loads
        }
        gc.collect()
        gc.disable()  # it would be this process's pause that is measured
        tails = in_turns(turns, rounds=ROUNDS)
        gc.enable()
    show(peaks, rates, found, tails)
    return 0


def peak(load: Load) -> float:
    """The most requests a second, after a warm-up."""
    rate = h2load.run(load, PEAK_SHAPE, h2load.WARM_UP)
    return median(h2load.run(load, PEAK_SHAPE, int(rate / 2)) for _ in range(ROUNDS))


def show(
    peaks: dict[str, float],
    rates: dict[str, float],
    found: dict[str, list[list[float]]],
    tails: dict[str, list[float]],
) -> None:
    """The table and the goals; every figure is that of the middle round."""
    rows = []
    for name, rounds in found.items():
        middle, high, highest = (
            median(percentile(each, part) for each in rounds) for part in (50, 99, 99.9)
        )
        rows.append(
            (
                name,
                f"{peaks[name]:,.0f}",
                f"{rates[name]:,.0f}",
                duration(middle),
                duration(high),
                duration(highest),
                times(median(tails[name])),
            )
        )
    table(("server", "peak per second", "sent", "p50", "p99", "p99.9", "p99 to p50"), rows)
    for name in WITH_GOAL:
        tail = median(tails[name])
        in_flight = rates[name] * median(percentile(each, 50) for each in found[name])
        kept_up = in_flight <= PEAK_SHAPE.connections
        text = f"{name}: p99 at most {TAIL_GOAL:g}x of p50 at half load ({times(tail)})"
        if not kept_up:  # p50 is then a queue's, and the two are alike
            text += f"; it fell behind, {in_flight:,.0f} requests waited"
        goal(text, met=kept_up and tail <= TAIL_GOAL)


def paced(load: Load, per_second: float, seconds: float) -> list[float]:
    """Send requests in even steps; how long after it was due each was answered."""
    with ExitStack() as stack:
        clients = [Client(load, stack) for _ in range(CONNECTIONS)]
        poll = select.epoll()
        stack.callback(poll.close)
        by_number = {client.socket.fileno(): client for client in clients}
        for number in by_number:
            poll.register(number, select.EPOLLIN)
        latencies_s: list[float] = []
        step_s, count = 1 / per_second, int(per_second * seconds)
        begin_s, sent = perf_counter(), 0
        gives_up_s = begin_s + seconds + ANSWER_TIMEOUT_S
        while len(latencies_s) < count:
            now_s = perf_counter()
            due_s = begin_s + sent * step_s
            client = clients[sent % CONNECTIONS]
            if sent < count and now_s >= due_s and client.in_flight < MOST_IN_FLIGHT:
                client.send(due_s)
                sent += 1
            for number, _ in poll.poll(0):
                by_number[number].receive(latencies_s)
            assert now_s < gives_up_s, f"{load.name} left {sent - len(latencies_s)} unanswered"
    return latencies_s


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

    def receive(self, latencies_s: list[float]) -> None:
        """Take what arrived and note the answers in it."""
        data = self.socket.recv(1 << 16)
        now_s = perf_counter()
        assert data, "the server hung up"
        count, reply = self._speaks.answers(data)
        latencies_s += [now_s - self._due_s.popleft() for _ in range(count)]
        if reply:
            self.socket.sendall(reply)


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
