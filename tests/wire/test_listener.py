"""Connections told apart, watched, sent away and drained, mostly without a socket."""

from __future__ import annotations

import asyncio
import http.client
import logging
import math
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
import requests
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeTransport, SteppedLoop
from http2_peer import CALL, Frame, frames_of
from running_listener import ECHO, ECHO_METHODS, LOOPS, echo, running
from salver.wire.accepting import bind_tcp, bind_unix
from salver.wire.calls import Unary
from salver.wire.exchanges import ExchangeLimits
from salver.wire.grpc import framed_compressed
from salver.wire.http1_messages import HttpRequest, HttpResponse
from salver.wire.http2_frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAX_STREAM_ID,
    PING,
    PREFACE,
    SETTINGS,
    ErrorCode,
    frame,
)
from salver.wire.listener import (
    COMPLAINT_S,
    LEAVE_NOTICE_S,
    LOOKS_PER_TURN,
    SWEEP_S,
    Listener,
    ListenerLimits,
    Patience,
)
from salver.wire.memory import a_quarter_of_memory
from salver.wire.progress import LEAST_BYTES_PER_S
from salver.wire.turns import SENT_TOGETHER, TURN_S

PATIENCE = Patience(
    handshake_s=10,
    silence_s=100,
    stall_s=20,
    goodbye_s=5,
    keepalive_time_s=50,
    keepalive_timeout_s=8,
)
GET = b"GET /hello HTTP/1.1\r\n\r\n"
HELLO = PREFACE + frame(SETTINGS, 0, 0)
CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303")


class Gate:
    """Answers a call or a request when the test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.waiting: list[asyncio.Future[None]] = []

    async def call(self, request: bytes, timeout_s: float | None) -> bytes:
        await self._wait()
        return request

    async def request(self, request: HttpRequest) -> HttpResponse:
        await self._wait()
        return await echo(request)

    async def _wait(self) -> None:
        self.waiting.append(self._loop.create_future())
        await self.waiting[-1]

    def open(self) -> None:
        self.waiting.pop(0).set_result(None)


def end_round(loop: asyncio.AbstractEventLoop) -> None:
    """Run what is due, once: when all have been heard, what they are answered is sent."""
    loop.call_soon(loop.stop)
    loop.run_forever()


class Line(FakeTransport):
    """A connection whose end is noticed by the protocol, as a real one's is."""

    def __init__(self, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(protocol)
        self._loop = loop
        self.keeps_open = False
        self.is_gone = False

    def close(self) -> None:
        super().close()
        if not self.keeps_open:
            self._lose()

    def abort(self) -> None:
        super().abort()
        self._lose()

    def _lose(self) -> None:
        if not self.is_gone:
            self.is_gone = True
            self._loop.call_soon(lambda: self.protocol.connection_lost(None))


class Client:
    """The client's end of one connection to a listener without sockets."""

    def __init__(self, listener: Listener) -> None:
        self.loop = listener.loop
        newcomer = listener.newcomer()
        self.line = Line(newcomer, listener.loop)
        self.encoder = Encoder()
        newcomer.connection_made(self.line)

    def send(self, *pieces: bytes) -> Client:
        for piece in pieces:
            self.line.protocol.data_received(piece)
        return self

    def ask(self, *pieces: bytes) -> Client:
        """Send, each piece in a round of its own, at whose end what was answered leaves."""
        for piece in pieces:
            self.line.protocol.data_received(piece)
            end_round(self.loop)
        return self

    def call(self, stream_id: int = 1, message: bytes = b"hi", path: str = ECHO) -> bytes:
        """The frames of a whole gRPC call."""
        block = self.block(path)
        body = b"\0" + len(message).to_bytes(4, "big") + message
        headers = frame(HEADERS, END_HEADERS, stream_id, block)
        return headers + frame(DATA, END_STREAM, stream_id, body)

    def half_a_call(self, stream_id: int = 1) -> bytes:
        """The frames of a call whose message is announced and does not come."""
        headers = frame(HEADERS, END_HEADERS, stream_id, self.block(ECHO))
        return headers + frame(DATA, 0, stream_id, b"\0\0\0\0\x09half")

    @property
    def received(self) -> bytes:
        return bytes(self.line.sent)

    @property
    def frames(self) -> list[Frame]:
        return frames_of(self.received)

    @property
    def answers(self) -> list[bytes]:
        """The messages of all gRPC answers."""
        return [each.payload[5:] for each in self.frames if each.kind == DATA]

    @property
    def goodbyes(self) -> list[int]:
        """The last stream of every GOAWAY."""
        goaways = [each for each in self.frames if each.kind == GOAWAY]
        return [int.from_bytes(each.payload[:4], "big") for each in goaways]

    @property
    def pings(self) -> list[bytes]:
        return [each.payload for each in self.frames if each.kind == PING and not each.flags & ACK]

    @property
    def is_gone(self) -> bool:
        return self.line.is_gone

    def block(self, path: str, *more: tuple[bytes, bytes]) -> bytes:
        """The headers of a gRPC call."""
        headers = [(name, path.encode() if name == b":path" else text) for name, text in CALL]
        headers += more
        return self.encoder.encode(headers)


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    yield loop
    for task in asyncio.all_tasks(loop):  # what a test left waiting would complain in a later one
        task.cancel()
    loop.step()
    loop.close()


@pytest.fixture
def gate(loop: SteppedLoop) -> Gate:
    return Gate(loop)


def make_listener(
    loop: asyncio.AbstractEventLoop,
    *,
    gate: Gate | None = None,
    patience: Patience = PATIENCE,
    limits: ListenerLimits | None = None,
    jitter: float = 0.5,
    turn_clock: Callable[[], float] = lambda: 0.0,
    exchange_limits: ExchangeLimits | None = None,
    wall_clock: Callable[[], float] = lambda: 0.0,
) -> Listener:
    return Listener(
        ECHO_METHODS if gate is None else {ECHO: Unary(gate.call)},
        echo if gate is None else gate.request,
        loop=loop,
        patience=patience,
        limits=limits,
        exchange_limits=exchange_limits,
        wall_clock=wall_clock,
        jitter=lambda: jitter,
        turn_clock=turn_clock,
    )


def pieces_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(each, len(stream)) for each in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges) if a < b]


# --- telling protocols apart ----------------------------------------------------------------------


@given(cuts=st.lists(st.integers(0, 60), max_size=8))
def test_http2_is_known_however_its_preface_is_cut(cuts: list[int]):
    """A gRPC call is answered whatever pieces its first bytes come in."""
    loop = SteppedLoop()
    client = Client(make_listener(loop))

    client.send(*pieces_of(HELLO + client.call(message=b"tea"), cuts))
    end_round(loop)
    loop.close()

    assert client.answers == [b"tea"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "PROPFIND", "PR"])
@given(cuts=st.lists(st.integers(0, 30), max_size=5))
def test_any_other_first_word_is_http_1_1(method: str, cuts: list[int]):
    """Methods that begin like the preface are no preface."""
    loop = SteppedLoop()
    client = Client(make_listener(loop))

    client.send(*pieces_of(f"{method} /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode(), cuts))
    end_round(loop)
    loop.close()

    assert client.received.startswith(b"HTTP/1.1 ")


def test_client_that_speaks_tls_in_the_clear_is_turned_away(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
):
    """It hears nothing, and however many there are, the log has a line now and then."""
    listener = make_listener(loop)
    clients = [Client(listener).send(CLIENT_HELLO) for _ in range(5)]
    loop.advance(COMPLAINT_S)
    clients.append(Client(listener).send(CLIENT_HELLO[:1]))

    line = "A client that speaks TLS was turned away from an address that does not"
    assert [(each.is_gone, each.received) for each in clients] == [(True, b"")] * 6
    assert caplog.messages == [line, f"{line} (and 4 more like it before)"]


def test_connection_is_counted_as_what_it_has_become(loop: SteppedLoop, gate: Gate):
    """Statistics know newcomers, both protocols, and what is in flight on either."""
    listener = make_listener(loop, gate=gate)
    silent, http1, http2 = (Client(listener) for _ in range(3))
    http1.send(GET)
    http2.send(HELLO + http2.call(1) + http2.call(3))

    busy = listener.statistics()
    for each in (silent, http1, http2):
        each.line.abort()
    loop.step()
    empty = listener.statistics()

    assert (busy.open_connections, busy.in_flight, busy.is_draining) == (3, 3, False)
    assert (empty.open_connections, empty.in_flight, empty.held_bytes) == (0, 0, 0)


def test_unfinished_requests_share_one_allowance(loop: SteppedLoop):
    """What all clients together make the server hold has an end, and the next one is refused."""
    listener = make_listener(loop, limits=ListenerLimits(held_bytes=12))
    first, second = (Client(listener) for _ in range(2))

    first.send(HELLO + first.half_a_call())
    held = listener.statistics().held_bytes
    second.ask(HELLO + second.half_a_call())

    assert held == 9
    assert listener.statistics().held_bytes == 9
    assert END_STREAM & second.frames[-2].flags or END_STREAM & second.frames[-1].flags


# --- patience -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "limit_s"), [([], PATIENCE.silence_s), ([b"P"], PATIENCE.handshake_s)]
)
def test_newcomer_that_says_nothing_is_dropped(
    loop: SteppedLoop, words: list[bytes], limit_s: float
):
    """A connection kept in reserve may be silent for long, one in mid-word may not."""
    listener = make_listener(loop)
    client = Client(listener).send(*words)
    dropped = []

    for step_s in (limit_s, SWEEP_S):
        loop.advance(step_s)
        dropped.append(client.is_gone)
    loop.step()

    assert dropped == [False, True]
    assert listener.statistics().open_connections == 0


def test_sweep_of_many_connections_lets_others_take_a_turn(loop: SteppedLoop):
    """Thousands of connections are looked at in portions."""
    listener = make_listener(loop)
    clients = [Client(listener) for _ in range(3 * LOOKS_PER_TURN)]
    loop.advance(1)

    loop.now_s += PATIENCE.silence_s
    loop.step(rounds=1)
    at_first = sum(each.is_gone for each in clients)
    loop.step()

    assert at_first == LOOKS_PER_TURN
    assert all(each.is_gone for each in clients)


def test_client_that_leaves_a_request_unfinished_is_cut_off(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
):
    """Whoever has the next move and does not make it is told why, and has to go."""
    listener = make_listener(loop)
    client = Client(listener)
    client.send(HELLO + client.half_a_call())

    loop.advance(PATIENCE.stall_s)
    was_gone = client.is_gone
    loop.advance(SWEEP_S)

    goaway = client.frames[-1]
    assert (was_gone, client.is_gone) == (False, True)
    assert int.from_bytes(goaway.payload[4:8], "big") == ErrorCode.ENHANCE_YOUR_CALM
    assert caplog.messages == ["An HTTP/2 client stood still for 20 s and was cut off"]


def drip(client: Client, loop: SteppedLoop, piece: bytes, seconds: float) -> list[bool]:
    """Send a piece a second; after each, whether the connection is gone."""
    gone = []
    for _ in range(int(seconds)):
        client.send(piece)
        loop.advance(SWEEP_S)
        gone.append(client.is_gone)
    return gone


TOO_SLOW = (
    f"An HTTP/2 client sent a request at less than {LEAST_BYTES_PER_S} octets a second"
    " and was cut off"
)


@pytest.mark.parametrize("besides", [b"", frame(PING, 0, 0, bytes(8)) * 20], ids=["alone", "pings"])
def test_body_an_octet_at_a_time_is_cut_off(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture, besides: bytes
):
    """Every octet comes in good time, and pings are no progress: the request is late."""
    listener = make_listener(loop)
    client = Client(listener)
    client.send(HELLO + client.half_a_call())

    gone = drip(client, loop, frame(DATA, 0, 1, b"x") + besides, PATIENCE.stall_s + 2)

    assert gone[: int(PATIENCE.stall_s)] == [False] * int(PATIENCE.stall_s)
    assert gone[-1]
    assert caplog.messages == [TOO_SLOW]


def test_body_that_comes_slowly_enough_to_see_it_move_may_go_on(loop: SteppedLoop):
    """A slow line is no attack."""
    client = Client(make_listener(loop))
    client.send(HELLO, frame(HEADERS, END_HEADERS, 1, client.block(ECHO)))
    client.send(frame(DATA, 0, 1, b"\0\0\1\0\0"))

    gone = drip(client, loop, frame(DATA, 0, 1, bytes(LEAST_BYTES_PER_S)), 3 * PATIENCE.stall_s)

    assert not any(gone)


def test_headers_an_octet_at_a_time_are_cut_off(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
):
    """A header block has to be whole in good time, however it dribbles in."""
    client = Client(make_listener(loop))
    client.send(HELLO, frame(HEADERS, END_HEADERS, 1, bytes(1000))[:9])

    gone = drip(client, loop, b"x", PATIENCE.stall_s + 2)

    assert gone[: int(PATIENCE.stall_s)] == [False] * int(PATIENCE.stall_s)
    assert gone[-1]
    assert caplog.messages == [TOO_SLOW]


def test_new_request_each_time_one_looks_is_not_too_slow(loop: SteppedLoop):
    """Requests that are soon complete are honest, although one is always on its way."""
    client = Client(make_listener(loop)).send(HELLO)
    gone = []
    client.send(client.half_a_call(1))
    for stream_id in range(1, 100, 2):
        client.send(client.half_a_call(stream_id + 2))
        client.send(frame(DATA, END_STREAM, stream_id, b"after"))
        loop.advance(SWEEP_S)
        gone.append(client.is_gone)

    assert not any(gone)
    assert len(client.answers) == 50


# --- turns ----------------------------------------------------------------------------------------


class TickingClock:
    """A clock that goes on by a step each time it is read: whatever is done takes that long."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += self._step_s
        return self._now_s


def test_many_calls_in_one_read_let_others_take_a_turn(loop: SteppedLoop):
    """Who sent little is answered at once; who sent much, in time and in order."""
    listener = make_listener(loop, turn_clock=TickingClock(TURN_S / 3))
    greedy, modest = Client(listener).send(HELLO), Client(listener).send(HELLO)
    calls = [greedy.call(1 + 2 * n, b"%d" % n) for n in range(1000)]

    greedy.send(b"".join(calls))
    at_first, was_paused = len(greedy.answers), greedy.line.is_reading_paused
    modest.ask(modest.call(1, b"me"))
    meanwhile = modest.answers
    greedy.send(greedy.call(2001, b"1000"))
    loop.step(rounds=1000)

    assert at_first < 100
    assert was_paused
    assert meanwhile == [b"me"]
    assert greedy.answers == [b"%d" % n for n in range(1001)]
    assert not greedy.line.is_reading_paused


@pytest.mark.parametrize("cut", [0, 10, len(HELLO), len(HELLO) + 4])
def test_read_full_of_calls_takes_turns_whatever_it_begins_with(loop: SteppedLoop, cut: int):
    """A preface, a frame, or the rest of either."""
    listener = make_listener(loop, turn_clock=TickingClock(TURN_S / 3))
    client = Client(listener)
    hello = HELLO + frame(SETTINGS, 0, 0)
    calls = b"".join(client.call(1 + 2 * n) for n in range(500))

    client.send(*pieces_of(hello + calls, [cut]))
    at_first = len(client.answers)
    loop.step(rounds=1000)

    assert at_first < 100
    assert len(client.answers) == 500


def test_client_that_breaks_a_rule_is_not_listened_to_any_more(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
):
    """What it asked before and after is not answered once it is sent away; the log says so once."""
    listener = make_listener(loop, turn_clock=TickingClock(TURN_S / 3))
    client = Client(listener)
    calls = b"".join(client.call(1 + 2 * n) for n in range(500))
    client.line.keeps_open = True

    client.send(HELLO + calls + frame(DATA, 0, 0) + calls)
    loop.step(rounds=1000)
    client.send(calls)

    assert len(client.goodbyes) == 1
    assert client.frames[-1].kind == GOAWAY
    assert listener.statistics().in_flight == 0
    assert len(caplog.messages) == 1


def test_client_that_is_gone_takes_no_turn(loop: SteppedLoop):
    """What it had sent is forgotten."""
    listener = make_listener(loop, turn_clock=TickingClock(TURN_S / 3))
    client = Client(listener).send(HELLO)
    client.send(b"".join(client.call(1 + 2 * n) for n in range(500)))
    before = len(client.answers)

    client.line.protocol.connection_lost(None)
    loop.step()

    assert len(client.answers) == before
    assert listener.statistics().open_connections == 0


def test_client_that_does_not_read_waits_with_what_it_asked(loop: SteppedLoop):
    """Its calls are acted on when it has room for the answers, and not before."""
    listener = make_listener(loop, turn_clock=TickingClock(TURN_S / 3))
    client = Client(listener).send(HELLO)
    client.line.protocol.pause_writing()
    client.send(b"".join(client.call(1 + 2 * n) for n in range(500)))
    loop.step(rounds=1000)
    unread = len(client.answers)

    client.line.protocol.resume_writing()
    loop.step(rounds=1000)

    assert unread == 0
    assert len(client.answers) == 500
    assert not client.line.is_reading_paused


def test_answers_of_one_round_leave_when_all_have_been_heard(loop: SteppedLoop):
    """Of both protocols together, first words included."""
    listener = make_listener(loop)
    http1, first, second = (Client(listener) for _ in range(3))
    http1.send(GET)
    for each in (first, second):
        each.send(HELLO + each.call(1, b"me"))
    before = [http1.received, first.answers, second.answers]

    end_round(loop)

    assert before == [b"", [], []]
    assert http1.received.endswith(b"/hello")
    assert [first.answers, second.answers] == [[b"me"], [b"me"]]


def test_no_more_than_so_many_answers_wait_for_one_another(loop: SteppedLoop):
    """As many leave together before the round has ended."""
    listener = make_listener(loop)
    clients = [Client(listener).ask(HELLO) for _ in range(SENT_TOGETHER + 1)]

    for each in clients:
        each.send(each.call(1, b"me"))

    assert [each.answers for each in clients] == [[b"me"]] * SENT_TOGETHER + [[]]


def test_connection_that_is_lost_before_it_is_sent_to_harms_nobody(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
):
    """Whether its client hung up or it was cut off; the others have their answers."""
    listener = make_listener(loop)
    first, lost, cut, last = (Client(listener).ask(HELLO) for _ in range(4))
    for each in (first, lost, cut, last):
        each.send(each.call(1, b"me"))

    lost.line.protocol.connection_lost(ConnectionResetError())
    cut.line.abort()
    end_round(loop)

    assert [each.answers for each in (first, lost, cut, last)] == [[b"me"], [], [], [b"me"]]
    assert listener.statistics().open_connections == 2
    assert caplog.records == []


def test_client_that_breaks_a_rule_is_closed_before_the_round_ends(loop: SteppedLoop):
    """It is told with what it was answered before, and read no further."""
    listener = make_listener(loop)
    client = Client(listener).ask(HELLO)

    client.send(client.call(1, b"me"))
    client.send(frame(PING, 0, 1, bytes(8)))

    assert client.line.is_closed
    assert client.answers == [b"me"]
    assert client.frames[-1].kind == GOAWAY


def test_client_that_stops_sending_in_the_round_of_its_call_is_answered(loop: SteppedLoop):
    """The transport closes then, so all has to be there."""
    client = Client(make_listener(loop)).ask(HELLO)
    client.send(client.call(1, b"me"))

    stays = client.line.protocol.eof_received()

    assert not stays
    assert client.answers == [b"me"]


def test_leaving_in_the_round_of_an_answer_lets_it_leave_first(loop: SteppedLoop):
    """A goodbye overtakes no answer."""
    client = Client(make_listener(loop)).ask(HELLO)
    client.send(client.call(1, b"me"))

    client.line.protocol.leave()

    assert client.answers == [b"me"]
    assert client.frames[-1].kind == GOAWAY
    assert client.line.is_closed


def test_allowance_is_a_quarter_of_memory_unless_it_is_set(loop: SteppedLoop):
    """Out of the box, unfinished requests cannot take the whole machine."""
    listener = make_listener(loop)
    allowed = a_quarter_of_memory()

    assert listener.hold(allowed)
    assert not listener.hold(1)


def test_frame_that_is_cut_off_counts_until_it_is_whole(loop: SteppedLoop):
    """It is held as a body is, and given back with the rest of it or with the connection."""
    listener = make_listener(loop)
    first, second = (Client(listener).send(HELLO) for _ in range(2))
    headers = frame(HEADERS, END_HEADERS | END_STREAM, 1, first.block(ECHO))
    held = []
    for client, said in ((first, headers[:20]), (second, headers[:12]), (first, headers[20:])):
        client.send(said)
        held.append(listener.statistics().held_bytes)
    second.line.abort()
    loop.step()

    assert held == [20, 32, 12]
    assert listener.statistics().held_bytes == 0


def test_frame_without_room_ends_its_connection(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
):
    """All together have an end there too; nothing is held then, and a few octets are no matter."""
    listener = make_listener(loop, limits=ListenerLimits(held_bytes=4000))
    begun = frame(HEADERS, END_HEADERS, 1, bytes(9000))
    first, second, third = (Client(listener).send(HELLO) for _ in range(3))
    first.send(begun[:3000])
    third.send(begun[:900])
    second.send(begun[:3000])
    codes = [
        int.from_bytes(each.payload[4:8], "big") for each in second.frames if each.kind == GOAWAY
    ]
    loop.step()

    assert codes == [ErrorCode.ENHANCE_YOUR_CALM]
    assert (first.is_gone, second.is_gone, third.is_gone) == (False, True, False)
    assert listener.statistics().held_bytes == 3900
    assert len(caplog.messages) == 1
    assert "Unfinished requests hold" in caplog.messages[0]


def test_message_that_unpacks_too_far_is_one_line(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
):
    """However many of them a client sends."""
    listener = make_listener(loop, exchange_limits=ExchangeLimits(message_bytes=1000))
    client = Client(listener).send(HELLO)
    block = client.block(ECHO, (b"grpc-encoding", b"gzip"))
    packed = framed_compressed(bytes(1001), b"gzip")
    for stream_id in (1, 3, 5):
        client.send(frame(HEADERS, END_HEADERS, stream_id, block))
        client.send(frame(DATA, END_STREAM, stream_id, packed))

    why = f"a message of {len(packed) - 5} bytes unpacks to more than 1000 bytes"
    assert caplog.messages == [f"A call of the client at a UNIX socket was refused: {why}"]


def test_both_protocols_have_one_date(loop: SteppedLoop):
    """The hour is written once a second, whoever is answered."""
    asked = 0

    def now_s() -> float:
        nonlocal asked
        asked += 1
        return 784111777.0

    listener = make_listener(loop, wall_clock=now_s)
    http1, http2 = Client(listener).send(GET), Client(listener).send(HELLO)
    block = http2.encoder.encode(
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"me")]
    )
    http2.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
    loop.step()

    assert b"Date: Sun, 06 Nov 1994 08:49:37 GMT" in http1.received
    assert b"Sun, 06 Nov 1994 08:49:37 GMT" in http2.received
    assert asked == 2


def test_allowance_that_is_used_up_is_one_line(loop: SteppedLoop, caplog: pytest.LogCaptureFixture):
    """However many requests are refused for it."""
    listener = make_listener(loop, limits=ListenerLimits(held_bytes=3 << 20))
    for _ in range(5):
        listener.hold(2 << 20)

    assert caplog.messages == [
        "Unfinished requests hold 3 MiB, as much as all of them may: more are refused"
    ]


def test_client_that_never_sends_its_settings_is_cut_off(loop: SteppedLoop):
    """A preface alone opens no connection."""
    client = Client(make_listener(loop)).send(PREFACE)

    loop.advance(PATIENCE.stall_s + SWEEP_S)

    assert client.is_gone


def test_idle_client_is_not_standing_still(loop: SteppedLoop):
    """A connection without a request may be silent for as long as it answers pings."""
    client = Client(make_listener(loop)).send(HELLO)

    for _ in range(10):
        loop.advance(PATIENCE.keepalive_time_s + SWEEP_S)
        client.send(frame(PING, ACK, 0, bytes(8)))

    assert not client.is_gone
    assert len(client.pings) == 10


def test_client_that_does_not_answer_a_ping_is_dropped(loop: SteppedLoop):
    """A peer that has vanished without a word is noticed."""
    client = Client(make_listener(loop)).send(HELLO)
    gone = []

    for step_s in (PATIENCE.keepalive_time_s + SWEEP_S, PATIENCE.keepalive_timeout_s, SWEEP_S):
        loop.advance(step_s)
        gone.append(client.is_gone)

    assert gone == [False, False, True]


def test_idle_client_is_not_asked_where_that_is_not_permitted(loop: SteppedLoop, gate: Gate):
    """Without permission only a connection with calls is asked for a sign of life."""
    patience = Patience(keepalive_time_s=50, keepalive_permit_without_calls=False)
    listener = make_listener(loop, gate=gate, patience=patience)
    idle, busy = Client(listener).send(HELLO), Client(listener)
    busy.send(HELLO + busy.call())

    loop.advance(51)

    assert (idle.pings, len(busy.pings)) == ([], 1)


def test_idle_connection_is_sent_away_in_good_order(loop: SteppedLoop, gate: Gate):
    """Idleness counts from the end of the last call; the client is told before it is refused."""
    patience = Patience(max_connection_idle_s=30)
    listener = make_listener(loop, gate=gate, patience=patience)
    client = Client(listener)
    client.send(HELLO + client.call())
    goodbyes = []

    loop.advance(40)
    gate.open()
    loop.step()
    for step_s in (29, 2, SWEEP_S):
        loop.advance(step_s)
        goodbyes.append(client.goodbyes)

    assert goodbyes[:2] == [[], [MAX_STREAM_ID]]
    assert goodbyes[2][1] == 1
    assert client.answers == [b"hi"]
    assert client.is_gone


@pytest.mark.parametrize(("jitter", "age_s"), [(0.0, 90), (0.5, 100), (1.0, 110)])
def test_old_connection_is_sent_away(loop: SteppedLoop, jitter: float, age_s: float):
    """The highest age differs by a tenth either way, so that not all come back at once."""
    patience = Patience(max_connection_age_s=100)
    client = Client(make_listener(loop, patience=patience, jitter=jitter)).send(HELLO)
    goodbyes = []

    for step_s in (age_s - 1.5, 2):
        loop.advance(step_s)
        goodbyes.append(client.goodbyes)

    assert goodbyes == [[], [MAX_STREAM_ID]]


def test_old_connection_finishes_its_calls(loop: SteppedLoop, gate: Gate):
    """Calls in flight, and those sent before the client knew, are answered; then it is over."""
    patience = Patience(max_connection_age_s=100, max_connection_age_grace_s=50)
    listener = make_listener(loop, gate=gate, patience=patience)
    client = Client(listener)
    client.send(HELLO + client.call(1, b"one"))
    loop.advance(101)

    client.send(client.call(3, b"two"))
    loop.advance(SWEEP_S)
    gate.open()
    gate.open()
    loop.step()
    loop.advance(SWEEP_S)

    assert client.answers == [b"one", b"two"]
    assert client.goodbyes[:2] == [MAX_STREAM_ID, 3]
    assert client.is_gone


def test_old_connection_is_cut_after_its_grace(loop: SteppedLoop, gate: Gate):
    """A call that does not end does not keep an old connection for ever."""
    patience = Patience(max_connection_age_s=100, max_connection_age_grace_s=50)
    listener = make_listener(loop, gate=gate, patience=patience)
    client = Client(listener)
    client.send(HELLO + client.call())
    gone = []

    for step_s in (101, 49, 2):
        loop.advance(step_s)
        gone.append(client.is_gone)

    assert gone == [False, False, True]


def test_client_that_does_not_hang_up_after_goodbye_is_dropped(loop: SteppedLoop):
    """A closed connection whose last bytes nobody takes has an end."""
    client = Client(make_listener(loop)).send(PREFACE)
    client.line.keeps_open = True
    client.send(frame(PING, 0, 0, bytes(8)))  # which nobody may send first
    gone = []

    for step_s in (SWEEP_S, PATIENCE.goodbye_s):
        loop.advance(step_s)
        gone.append(client.is_gone)

    assert client.line.is_closed
    assert gone == [False, True]


def test_last_answer_may_take_as_long_as_it_moves(loop: SteppedLoop):
    """A slow client gets its last bytes; one that takes none for a while does not."""
    client = Client(make_listener(loop)).send(PREFACE)
    client.line.keeps_open = True
    client.line.unread_bytes = 1000
    client.send(frame(PING, 0, 0, bytes(8)))

    for _ in range(10):
        loop.advance(PATIENCE.goodbye_s - 1)
        client.line.unread_bytes -= 1
    was_gone = client.is_gone
    loop.advance(SWEEP_S)
    loop.advance(PATIENCE.goodbye_s)

    assert (was_gone, client.is_gone) == (False, True)


# --- draining -------------------------------------------------------------------------------------


def test_drain_answers_what_was_on_its_way(loop: SteppedLoop, gate: Gate):
    """HTTP/2's clients are told first; what they had sent by then is answered, what follows not."""
    listener = make_listener(loop, gate=gate)
    client = Client(listener)
    client.send(HELLO + client.call(1, b"one"))
    draining = loop.create_task(listener.drain(30))
    loop.step()
    told = client.goodbyes

    client.send(client.call(3, b"two"))
    loop.advance(LEAVE_NOTICE_S)
    client.send(client.call(5, b"three"))
    refused = client.goodbyes
    while gate.waiting:
        gate.open()
    loop.step()

    assert (told, refused) == ([MAX_STREAM_ID], [MAX_STREAM_ID, 3])
    assert client.answers == [b"one", b"two"]
    assert client.is_gone
    assert draining.done()


def test_drain_closes_http_1_1_after_its_answer(loop: SteppedLoop, gate: Gate):
    """The last answer says that it is the last."""
    listener = make_listener(loop, gate=gate)
    client = Client(listener).send(GET)
    draining = loop.create_task(listener.drain(30))
    loop.step()
    loop.advance(LEAVE_NOTICE_S)
    was_done = draining.done()

    gate.open()
    loop.step()

    assert not was_done
    assert b"Connection: close\r\n" in client.received
    assert client.is_gone
    assert draining.done()


def test_drain_waits_for_no_one_who_has_asked_nothing(loop: SteppedLoop):
    """Silent and idle connections do not use up the grace."""
    listener = make_listener(loop)
    clients = [
        Client(listener),
        Client(listener).send(b"P"),
        Client(listener).send(HELLO),
        Client(listener).send(GET),
    ]

    draining = loop.create_task(listener.drain(30))
    loop.step()
    loop.advance(LEAVE_NOTICE_S)

    assert draining.done()
    assert all(each.is_gone for each in clients)


def test_newcomer_that_speaks_up_during_the_notice_is_answered(loop: SteppedLoop, gate: Gate):
    """Whoever was let in before the drain and asks at once is waited for."""
    listener = make_listener(loop, gate=gate)
    http1, http2 = Client(listener), Client(listener)
    draining = loop.create_task(listener.drain(30))
    loop.step()

    http1.send(GET)
    http2.send(HELLO + http2.call(message=b"late"))
    loop.advance(LEAVE_NOTICE_S)
    was_done = draining.done()
    while gate.waiting:
        gate.open()
    loop.step()

    assert not was_done
    assert http1.received.endswith(b"/hello")
    assert http2.answers == [b"late"]
    assert draining.done()


def test_drain_cuts_what_takes_too_long(loop: SteppedLoop, gate: Gate):
    """After the grace both protocols' connections are cut."""
    listener = make_listener(loop, gate=gate)
    http1, http2 = Client(listener).send(GET), Client(listener)
    http2.send(HELLO + http2.call())
    draining = loop.create_task(listener.drain(30))
    loop.step()
    gone = []

    for step_s in (LEAVE_NOTICE_S, 29, 1):
        loop.advance(step_s)
        gone.append((http1.is_gone, http2.is_gone))

    assert gone == [(False, False), (False, False), (True, True)]
    assert draining.done()


def test_close_cuts_everything_at_once(loop: SteppedLoop, gate: Gate):
    """Without a drain nothing is finished, and nothing is left; twice is once."""
    listener = make_listener(loop, gate=gate)
    clients = [Client(listener), Client(listener).send(GET), Client(listener).send(HELLO)]

    closing = [loop.create_task(listener.close()) for _ in range(2)]
    loop.step()
    late = Client(listener)

    assert all(each.done() for each in closing)
    assert all(each.is_gone for each in (*clients, late))
    assert listener.statistics().open_connections == 0


# --- real sockets ---------------------------------------------------------------------------------


def call(target: str, message: bytes = b"ping") -> bytes:
    """One gRPC call on a connection of its own."""
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        return channel.unary_unary(ECHO)(message, timeout=10)


def get(host: str, port: int) -> bytes:
    """One HTTP/1.1 request."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://{host}:{port}/x", timeout=10).content


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@LOOPS
def test_one_port_speaks_both_protocols_on_every_address(new_loop: Callable[[], object]):
    """gRPC and REST clients share a port, over IPv4 and, where there is any, over IPv6."""
    hosts = ["127.0.0.1", "[::1]"] if has_ipv6() else ["127.0.0.1"]
    with running(new_loop) as server:
        answers = [(call(f"{host}:{server.port}"), get(host, server.port)) for host in hosts]

    assert answers == [(b"ping", b"/x")] * len(hosts)


@LOOPS
def test_unix_socket_speaks_both_protocols(new_loop: Callable[[], object], tmp_path: Path):
    """What a port does, a path does too, and it is gone at the end."""
    path = tmp_path / "server.sock"
    with running(new_loop, listening=bind_unix(str(path))):
        message = call(f"unix:{path}")
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n")
        page = client.makefile("rb").read()
        client.close()

    assert message == b"ping"
    assert page.endswith(b"\r\n\r\n/x")
    assert not path.exists()


@LOOPS
def test_several_addresses_are_one_server(new_loop: Callable[[], object]):
    """Addresses are opened one by one, and counted and drained together."""
    second = bind_tcp(0, "127.0.0.1")
    second_port = second.getsockname()[1]
    with running(new_loop) as server:
        server.open(second)
        with (
            socket.create_connection(("127.0.0.1", server.port)) as one,
            socket.create_connection(("127.0.0.1", second_port)) as two,
        ):
            for each in (one, two):
                each.sendall(GET)
                each.recv(1000)
            counted = server.listener.statistics().open_connections

    assert counted == 2


@LOOPS
def test_client_that_closes_its_side_after_asking_is_answered(new_loop: Callable[[], object]):
    """A request and the end of the client's side may come in one go, to one who is new."""
    with running(new_loop) as server:
        client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        client.sendall(GET)
        client.shutdown(socket.SHUT_WR)
        received = client.makefile("rb").read()
        client.close()

    assert received.endswith(b"/hello")


@LOOPS
def test_connection_beyond_the_limit_is_refused(
    new_loop: Callable[[], object], caplog: pytest.LogCaptureFixture
):
    """It is told at once, by the end of the connection; those inside do not notice."""
    with running(new_loop, limits=ListenerLimits(connections=2)) as server:
        inside = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=10) for _ in "ab"]
        pages = [ask(each) for each in inside]
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as outside:
            refused = received_from(outside)
        pages += [ask(each) for each in inside]
        for each in inside:
            each.close()

    assert refused == b""
    assert pages == [b"/x"] * 4
    assert caplog.messages == ["A connection was refused: 2 are open"]


class Awaited(logging.Handler):
    """Tells when a line with a text has been logged."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self.logged = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.logged.set()


@contextmanager
def no_file_descriptors() -> Iterator[None]:
    """Let the process have those that are open, and none beside."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (last + 16, limits[1]))
    taken = [last]
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@LOOPS
def test_server_survives_having_no_file_descriptors(new_loop: Callable[[], object]):
    """Who comes while there are none is served when there are some again."""
    failure = Awaited("Cannot accept connections")
    log = logging.getLogger("salver.wire.accepting")
    log.addHandler(failure)
    with running(new_loop) as server, socket.socket() as waiting:
        waiting.settimeout(10)
        with no_file_descriptors():
            waiting.connect(("127.0.0.1", server.port))
            has_failed = failure.logged.wait(10)
        waiting.sendall(b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n")
        page = waiting.makefile("rb").read()
    log.removeHandler(failure)

    assert has_failed
    assert page.endswith(b"/x")


def ask(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/x")
    return connection.getresponse().read()


def received_from(client: socket.socket) -> bytes:
    try:
        return client.recv(1000)
    except ConnectionResetError:
        return b""


def test_patience_without_end_is_infinite():
    """What gRPC leaves open by default is open here."""
    patience = Patience()

    assert math.isinf(patience.max_connection_age_s)
    assert math.isinf(patience.max_connection_idle_s)
    assert math.isinf(patience.max_connection_age_grace_s)
