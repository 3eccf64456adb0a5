"""Hostile and broken peers on real sockets: what they get, and that others do not notice."""

from __future__ import annotations

import http.client
import os
import re
import resource
import select
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import grpc
import pytest
import uvloop
from hpack import Encoder

from certificates import Authority
from http2_peer import CALL, frames_of, number, setting
from running_listener import ECHO, Running, running
from salver.wire.accepting import SPARE_DESCRIPTORS, within_file_descriptors
from salver.wire.http1 import Patience as Http1Patience
from salver.wire.http1_messages import Limits
from salver.wire.http2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
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
from salver.wire.listener import ListenerLimits, Patience
from salver.wire.misconduct import DELAY_PER_STRIKE_S, FREE_STRIKES
from salver.wire.tls import server_context

HELLO = PREFACE + frame(SETTINGS, 0, 0)
POST = b"POST /x HTTP/1.1\r\nHost: x\r\n"
SOON_S = 0.3
OCTET_PAUSE_S = 0.02
CALM = ErrorCode.ENHANCE_YOUR_CALM

HURRIED = {
    "patience": Patience(handshake_s=SOON_S, silence_s=60, stall_s=SOON_S, goodbye_s=SOON_S),
    "http1_patience": Http1Patience(idle_s=60, head_s=SOON_S, stall_s=SOON_S, linger_s=SOON_S),
}
"""So that a test need not wait for the server's patience to end."""


def block() -> bytes:
    """The headers of a call, of which none enters the table."""
    headers = [(name, ECHO.encode() if name == b":path" else value) for name, value in CALL]
    return Encoder().encode([(*header, True) for header in headers])


ASKED = block()
BEGUN = frame(HEADERS, END_HEADERS, 1, ASKED)


def whole_call(stream_id: int, message: bytes = b"") -> bytes:
    body = b"\0" + number(len(message)) + message
    headers = frame(HEADERS, END_HEADERS, stream_id, ASKED)
    return headers + frame(DATA, END_STREAM, stream_id, body)


def taken_back() -> Iterator[bytes]:
    """Calls that are taken back at once."""
    for stream_id in range(1, 1 << 20, 2):
        cancelled = frame(RST_STREAM, 0, stream_id, number(ErrorCode.CANCEL))
        yield frame(HEADERS, END_HEADERS, stream_id, ASKED) + cancelled


def again(piece: bytes) -> Iterable[bytes]:
    return (piece for _ in range(1 << 20))


FLOODS: dict[str, Callable[[], Iterable[bytes]]] = {
    "rapid reset": taken_back,
    "CONTINUATION": lambda: (
        [frame(HEADERS, 0, 3, ASKED), *[frame(CONTINUATION, 0, 3, b"\0\1a\1b")] * 1000]
    ),
    "empty CONTINUATION": lambda: (
        [frame(HEADERS, 0, 3, ASKED), *[frame(CONTINUATION, 0, 3)] * 1000]
    ),
    "SETTINGS": lambda: again(frame(SETTINGS, 0, 0)),
    "PING": lambda: again(frame(PING, 0, 0, bytes(8))),
    "empty DATA": lambda: [BEGUN, *again(frame(DATA, 0, 1))],
    "WINDOW_UPDATE": lambda: again(frame(WINDOW_UPDATE, 0, 0, number(1))),
    "PRIORITY": lambda: again(frame(PRIORITY, 0, 9, bytes(5))),
}

WHY = {
    "rapid reset": "too many requests taken back",
    "CONTINUATION": "a header block without end",
    "empty CONTINUATION": "a header block without end",
}
"""What the log says of a flood; of the others, that they bring nothing, and their kind."""


class Peer:
    """A hostile client's end of a connection."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(10)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.received = b""
        self.has_ended = False

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> Peer:
        self.socket.sendall(b"".join(pieces))
        return self

    def pour(self, pieces: Iterable[bytes], *, wave_bytes: int = 1 << 14) -> None:
        """Send pieces until they end or the server has hung up."""
        wave = b""
        for piece in pieces:
            wave += piece
            if len(wave) >= wave_bytes:
                if not self._send_or_notice(wave):
                    return
                wave = b""
        self._send_or_notice(wave)

    def drip(self, octets: bytes, pause_s: float = OCTET_PAUSE_S) -> None:
        """Send an octet at a time until the server has something to say."""
        for octet in octets:
            if self.is_spoken_to(pause_s) or not self._send_or_notice(bytes([octet])):
                return

    def is_spoken_to(self, within_s: float) -> bool:
        return bool(select.select([self.socket], [], [], within_s)[0])

    def hear(self, *, until: Callable[[Peer], bool] = lambda _peer: False) -> Peer:
        """Read until the server hangs up, however it does, or has said enough."""
        while not self.has_ended and not until(self):
            try:
                part = self.socket.recv(1 << 16)
            except ConnectionError:
                part = b""
            self.received += part
            self.has_ended = not part
        return self

    def wait_for_reset(self) -> bool:
        """Wait, without reading, until the connection is gone; whether it is."""
        poll = select.poll()
        poll.register(self.socket, 0)
        return bool(poll.poll(10_000))

    @property
    def codes(self) -> list[tuple[int, int]]:
        """The codes of the RST_STREAM and GOAWAY frames that came."""
        return [
            (each.kind, int.from_bytes(each.payload[4 * (each.kind == GOAWAY) :][:4], "big"))
            for each in frames_of(self.received)
            if each.kind in (RST_STREAM, GOAWAY)
        ]

    @property
    def status(self) -> int:
        """The status of an HTTP/1.1 answer."""
        found = re.match(rb"HTTP/1\.1 (\d+)", self.received)
        return int(found[1]) if found else 0

    def _send_or_notice(self, data: bytes) -> bool:
        try:
            self.socket.sendall(data)
        except ConnectionError:
            return False
        return True


class Beside:
    """A well-behaved client with a connection for each protocol."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._channel = grpc.insecure_channel(
            f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]
        )
        self._call = self._channel.unary_unary(ECHO)
        self.answers: list[bytes] = []

    def ask(self) -> None:
        """One request over each, on connections that stay open."""
        self._http.request("GET", "/x")
        self.answers.append(self._http.getresponse().read())
        self.answers.append(self._call(b"y", timeout=10))

    def close(self) -> None:
        self._http.close()
        self._channel.close()


@contextmanager
def attacked(**settings: object) -> Iterator[tuple[Running, Beside]]:
    """A listener with a well-behaved client, who is answered before and after the block."""
    with running(uvloop.new_event_loop, **settings) as server:
        beside = Beside(server.port)
        try:
            beside.ask()
            yield server, beside
            beside.ask()
        finally:
            beside.close()

        assert beside.answers == [b"/x", b"y"] * (len(beside.answers) // 2)
        assert len(beside.answers) >= 4


# --- floods ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOODS)
def test_flood_is_sent_away(name: str, caplog: pytest.LogCaptureFixture):
    """It gets GOAWAY with the code for it, and the log one line that says who and why."""
    with attacked() as (server, beside), Peer(server.port) as peer:
        peer.send(HELLO).pour(FLOODS[name]())
        beside.ask()
        peer.hear()

    kind = name.removeprefix("empty ")
    why = WHY.get(name, f"many frames that bring nothing: {kind}")
    assert peer.codes[-1] == (GOAWAY, CALM)
    assert caplog.messages == [
        f"The client at 127.0.0.1 was sent away: {why} (HTTP/2, ENHANCE_YOUR_CALM)"
    ]


@pytest.mark.parametrize(
    ("words", "status"),
    [(b"\xff\xfe\r\n" * 1000, 501), (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 300 + b"\r\n", 431)],
)
def test_what_is_no_request_is_refused(words: bytes, status: int, caplog: pytest.LogCaptureFixture):
    """HTTP/1.1's statuses for it, and one line for however many times."""
    with attacked() as (server, beside):
        for _ in range(3):
            with Peer(server.port) as peer:
                peer.send(words)
                beside.ask()
                peer.hear()

            assert peer.status == status

    assert len(caplog.messages) == 1
    assert f"127.0.0.1 was sent away: {status} " in caplog.messages[0]


def test_headers_that_unpack_to_too_much_are_refused():
    """One large entry and some references to it cost their call; the table stays."""
    entry = b"\x40\x01a" + b"\x7f\xa1\x1e" + b"x" * 4000  # 127 + 3873 octets
    entered, bomb = ASKED + entry, ASKED + b"\xbe" * 30
    with attacked() as (server, _), Peer(server.port) as peer:
        peer.send(HELLO, frame(HEADERS, END_HEADERS | END_STREAM, 1, entered))
        peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, bomb))
        peer.send(frame(HEADERS, END_HEADERS, 5, ASKED + b"\xbe"))
        peer.send(frame(DATA, END_STREAM, 5, b"\0" + number(4) + b"last"))
        peer.hear(until=lambda peer: b"last" in peer.received)

    statuses = [each for each in frames_of(peer.received) if b"grpc-status\x018" in each.payload]
    assert [each.stream_id for each in statuses] == [3]  # RESOURCE_EXHAUSTED
    assert GOAWAY not in dict(peer.codes)


def test_bomb_of_headers_is_sent_away(caplog: pytest.LogCaptureFixture):
    """What stands for many times the limit ends its connection; others notice nothing."""
    entry = b"\x40\x01a" + b"\x7f\xa1\x1e" + b"x" * 4000
    with attacked() as (server, beside), Peer(server.port) as peer:
        peer.send(HELLO, frame(HEADERS, END_HEADERS | END_STREAM, 1, ASKED + entry))
        peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, ASKED + b"\xbe" * 15_000))
        beside.ask()
        peer.hear()

    assert peer.codes[-1] == (GOAWAY, CALM)
    assert "headers of many times what is allowed" in caplog.text


def test_address_that_keeps_coming_back_is_made_to_wait(caplog: pytest.LogCaptureFixture):
    """Its next connection is answered, after a while; those that are there notice nothing."""
    garbage = b"\xff\xfe\r\n"
    with attacked() as (server, beside):
        bad = [Peer(server.port).send(garbage) for _ in range(2 * FREE_STRIKES)]
        for peer in bad:
            peer.hear().socket.close()
        beside.ask()
        with Peer(server.port) as newcomer:
            newcomer.send(b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n")
            is_quick = newcomer.is_spoken_to(DELAY_PER_STRIKE_S / 2)
            newcomer.hear()

    assert not is_quick
    assert newcomer.status == 200
    assert caplog.messages[1:] == [
        "The client at 127.0.0.1 keeps coming back after it was sent away: its connections wait"
    ]


def test_crowd_that_speaks_tls_in_the_clear_is_one_line(caplog: pytest.LogCaptureFixture):
    """What strangers do often is logged once."""
    with attacked() as (server, _):
        for _ in range(50):
            with Peer(server.port) as peer:
                peer.send(bytes.fromhex("1603010200010001fc0303")).hear()

    assert len(caplog.messages) == 1


# --- peers that do not read -----------------------------------------------------------------------


def test_peer_without_a_window_is_sent_away():
    """Who asks and leaves no room for the answer is waited for, but not for ever."""
    none = setting(Setting.INITIAL_WINDOW_SIZE, 0)
    with attacked(**HURRIED) as (server, beside), Peer(server.port) as peer:
        peer.send(PREFACE, frame(SETTINGS, 0, 0, none))
        peer.send(*[whole_call(stream_id, bytes(1000)) for stream_id in range(1, 400, 2)])
        beside.ask()
        peer.hear()

    assert peer.codes[-1] == (GOAWAY, CALM)


def test_http2_peer_that_reads_nothing_is_cut():
    """Its windows are wide and its socket is full: it is not read from, then dropped."""
    wide = setting(Setting.INITIAL_WINDOW_SIZE, (1 << 31) - 1)
    more = frame(WINDOW_UPDATE, 0, 0, number(1 << 30))
    calls = (whole_call(stream_id, bytes(10_000)) for stream_id in range(1, 1 << 20, 2))
    with (
        attacked(**HURRIED) as (server, beside),
        Peer(server.port, receive_buffer=4096) as peer,
    ):
        peer.send(PREFACE, frame(SETTINGS, 0, 0, wide), more)
        peer.pour(calls)
        beside.ask()

        assert peer.wait_for_reset()


def test_http1_peer_that_reads_nothing_is_cut():
    """A pipeline whose answers nobody takes is not read on, then dropped."""
    request = POST + b"Content-Length: 10000\r\n\r\n" + bytes(10_000)
    with (
        attacked(**HURRIED) as (server, beside),
        Peer(server.port, receive_buffer=4096) as peer,
    ):
        peer.pour(again(request))
        beside.ask()

        assert peer.wait_for_reset()


# --- peers that take their time -------------------------------------------------------------------


def test_http1_head_an_octet_at_a_time_is_refused():
    """Every octet comes in good time, and the head is late all the same."""
    with attacked(**HURRIED) as (server, beside), Peer(server.port) as peer:
        peer.drip(b"GET /" + b"a" * 500)
        beside.ask()
        peer.hear()

    assert peer.status == 408


def test_http1_body_that_stops_is_refused():
    """It was promised, and does not come."""
    with attacked(**HURRIED) as (server, beside), Peer(server.port) as peer:
        peer.send(POST, b"Content-Length: 100\r\n\r\nx")
        beside.ask()
        peer.hear()

    assert peer.status == 408


def test_http2_preface_an_octet_at_a_time_is_sent_away():
    """Its twenty-four octets and the settings have one deadline together."""
    with attacked(**HURRIED) as (server, beside), Peer(server.port) as peer:
        peer.send(PREFACE[:3]).drip(PREFACE[3:], pause_s=SOON_S)
        beside.ask()
        peer.hear()

    assert peer.codes == [(GOAWAY, CALM)]


def test_call_that_stops_is_sent_away():
    """A request whose rest does not come ends its connection."""
    with attacked(**HURRIED) as (server, beside), Peer(server.port) as peer:
        peer.send(HELLO, BEGUN, frame(DATA, 0, 1, b"\0\0"))
        beside.ask()
        peer.hear()

    assert peer.codes[-1] == (GOAWAY, CALM)


def test_silent_peers_are_hung_up_on():
    """Who connects and says nothing is let go, whatever the protocol would have been."""
    patience = Patience(silence_s=SOON_S)
    with attacked(patience=patience) as (server, beside):
        peers = [Peer(server.port) for _ in range(100)]
        beside.ask()
        said = [peer.hear().received for peer in peers]
        for peer in peers:
            peer.socket.close()

    assert said == [b""] * 100


@pytest.mark.parametrize(
    "words", [b"", bytes.fromhex("1603010200010001fc0303")], ids=["silence", "half a hello"]
)
def test_handshake_that_does_not_end_is_cut_off(words: bytes, authority: Authority):
    """TLS's handshake has a deadline from the moment the connection is accepted."""
    identity = authority.server("hostile-server")
    context = server_context(certificate=identity.certificate, key=identity.key)
    trusted = ssl.create_default_context(cafile=authority.path)
    with (
        running(uvloop.new_event_loop, tls=lambda: context, **HURRIED) as server,
        Peer(server.port) as peer,
    ):
        peer.send(words)
        beside = http.client.HTTPSConnection("localhost", server.port, context=trusted, timeout=10)
        beside.request("GET", "/x")
        page = beside.getresponse().read()
        beside.close()
        peer.hear()

    assert page == b"/x"
    assert peer.received == b""


# --- memory ---------------------------------------------------------------------------------------


def chunks() -> Iterator[bytes]:
    return iter(again(b"400\r\n" + bytes(1024) + b"\r\n"))


def test_chunked_body_without_end_is_refused():
    """It may be as large as a request may be."""
    with (
        attacked(http1_limits=Limits(body_bytes=100_000)) as (server, beside),
        Peer(server.port) as peer,
    ):
        peer.send(POST, b"Transfer-Encoding: chunked\r\n\r\n").pour(chunks())
        beside.ask()
        peer.hear()

    assert peer.status == 413


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n", chunks),
        (b"Content-Length: 100000000\r\n\r\n", lambda: again(bytes(1024))),
    ],
    ids=["chunked", "of known length"],
)
def test_http1_bodies_share_the_allowance(head: bytes, body: Callable[[], Iterable[bytes]]):
    """What unfinished bodies hold counts with all others', and is given back when they end."""
    with (
        attacked(limits=ListenerLimits(held_bytes=200_000)) as (server, beside),
        Peer(server.port) as modest,
        Peer(server.port) as greedy,
    ):
        modest.send(POST, b"Content-Length: 5\r\n\r\nhell")
        greedy.send(POST, head).pour(body())
        beside.ask()
        greedy.hear()
        modest.send(b"o").hear(until=lambda peer: b"hello" in peer.received)
        held_bytes = server.do(lambda: held(server))

    assert greedy.status == 503
    assert modest.status == 200
    assert held_bytes == 0


def test_unfinished_http1_body_of_a_peer_that_left_is_given_back():
    """The allowance is not used up by those who are gone."""
    with attacked() as (server, _):
        with Peer(server.port) as peer:
            peer.send(POST, b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            peer.hear(until=lambda peer: b"100 Continue" in peer.received)
            peer.send(b"hell")
        with Peer(server.port) as last:
            last.send(b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n").hear()
        held_bytes = server.do(lambda: held(server))

    assert held_bytes == 0


def test_data_without_end_is_refused():
    """A message that goes on and on is refused when there is no room for it any more."""
    with (
        attacked(limits=ListenerLimits(held_bytes=200_000)) as (server, beside),
        Peer(server.port) as peer,
    ):
        peer.send(HELLO, BEGUN, frame(DATA, 0, 1, b"\0\x7f\xff\xff\xff"))
        peer.pour([frame(DATA, 0, 1, bytes(10_000))] * 30)
        beside.ask()
        peer.hear(until=lambda peer: b"grpc-status" in peer.received)

    assert b"grpc-status\x018" in peer.received  # RESOURCE_EXHAUSTED


async def held(server: Running) -> int:
    return server.listener.statistics().held_bytes


# --- crowds ---------------------------------------------------------------------------------------


def test_idle_crowd_is_welcome():
    """Hundreds who stay and say little take nothing from the others."""
    with attacked() as (server, beside):
        peers = [Peer(server.port) for _ in range(300)]
        for peer in peers[::2]:
            peer.send(HELLO).hear(until=lambda peer: bool(peer.received))
        beside.ask()
        server.do(lambda: held(server))
        still_there = [not peer.has_ended for peer in peers]
        for peer in peers:
            peer.socket.close()

    assert all(still_there)


@contextmanager
def few_descriptors(number: int) -> Iterator[None]:
    """Let the process believe that it may have so many file descriptors."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    ("descriptors", "expected"),
    [(100, 50), (SPARE_DESCRIPTORS * 4, SPARE_DESCRIPTORS * 3), (1 << 14, 1000)],
)
def test_connections_leave_descriptors_to_spare(descriptors: int, expected: int):
    """A crowd must not take those that a model's files will need."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < descriptors:
        pytest.skip("this process may not have as many descriptors")
    with few_descriptors(descriptors):
        allowed = within_file_descriptors(1000)

    assert allowed == expected


def test_more_connections_than_descriptors_are_refused(caplog: pytest.LogCaptureFixture):
    """Those beyond are hung up on, in one line of the log; those inside go on."""
    with few_descriptors(highest_descriptor() + 64):
        allowed = within_file_descriptors(1 << 20)
        context = attacked()
        server, beside = context.__enter__()
    beyond = 20
    peers = [Peer(server.port) for _ in range(allowed - 2 + beyond)]
    refused = [peer for peer in peers[-beyond:] if not peer.hear().received]
    beside.ask()
    inside = [peer for peer in peers[:-beyond] if not peer.is_spoken_to(0)]
    for peer in peers:
        peer.socket.close()
    context.__exit__(None, None, None)

    assert len(refused) == beyond
    assert len(inside) == allowed - 2
    assert caplog.messages == [f"A connection was refused: {allowed} are open"]


def highest_descriptor() -> int:
    """The next one that this process would get."""
    last = os.dup(0)
    os.close(last)
    return last
