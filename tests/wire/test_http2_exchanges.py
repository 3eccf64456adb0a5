"""One request and its answer, at the exchange's side of a connection without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from hpack import Decoder

from fakes import SteppedLoop
from http2_peer import CALL, HandMade
from salver.wire.calls import Method, Methods, Streaming, Unary
from salver.wire.exchanges import (
    STREAMED_MESSAGE_BYTES,
    Exchange,
    ExchangeLimits,
    exchange_for,
)
from salver.wire.grpc import UNPACKED_AT_ONCE_BYTES, framed, framed_compressed
from salver.wire.http1_messages import DateStamp, HttpHandler, HttpRequest, HttpResponse
from salver.wire.http2 import DataReceived, Http2Limits, RequestReceived
from salver.wire.http2_frames import DATA, END_HEADERS, END_STREAM, HEADERS, frame

PATH = "/salver.Test/Echo"
GET = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/page"), (b":authority", b"me"))
POST = ((b":method", b"POST"), *GET[1:])
GZIPPED = (*CALL, (b"grpc-encoding", b"gzip"))


class FakeServer:
    """A connection and its exchanges, with so many bytes of room for unfinished requests."""

    def __init__(
        self,
        loop: SteppedLoop,
        methods: Methods,
        *,
        room: int = 1 << 30,
        header_bytes: int = 4000,
        handler: HttpHandler | None = None,
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.date = DateStamp(lambda: 784111777.0)
        self.refusals: list[str] = []
        self.client = HandMade(Http2Limits(header_list_bytes=header_bytes))
        self.connection = self.client.server
        self.exchanges: dict[int, Exchange] = {}
        self.room = room
        self.held = 0
        self._methods = methods
        self._handler = handler or page
        self._decoder = Decoder()
        self._heard = b""

    def send(self) -> None:
        """What an exchange has to send is heard by the client later."""

    def done(self, stream_id: int) -> None:
        self.exchanges.pop(stream_id, None)

    def hold(self, more_bytes: int) -> bool:
        self.held += more_bytes
        return self.held <= self.room

    def refused_to_unpack(self, reason: str) -> None:
        self.refusals.append(reason)

    def hear(self, *frames: bytes) -> None:
        for event in self.client.say(*frames):
            if isinstance(event, RequestReceived):
                self._begin(event)
            elif isinstance(event, DataReceived) and event.stream_id in self.exchanges:
                self.exchanges[event.stream_id].on_data(event.data, event.ended)

    def answers(self) -> dict[int, tuple[dict[bytes, bytes], bytes]]:
        """Headers and trailers in one, and the body, of each stream that was answered since."""
        found: dict[int, tuple[dict[bytes, bytes], bytes]] = {}
        for each in self.client.hear():
            headers, body = found.get(each.stream_id, ({}, b""))
            if each.kind == HEADERS:
                headers |= dict(self._decoder.decode(each.payload, raw=True))
            elif each.kind == DATA:
                body += each.payload
            else:
                continue
            found[each.stream_id] = headers, body
        return found

    def _begin(self, event: RequestReceived) -> None:
        limits = ExchangeLimits(message_bytes=1 << 24, body_bytes=10_000)
        exchange = exchange_for(
            self, event.stream_id, event.head, event.timeout, self._methods, self._handler, limits
        )
        if self.connection.is_open(event.stream_id):
            self.exchanges[event.stream_id] = exchange
            if event.ended:
                exchange.on_data(b"", ended=True)


async def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, b"page" + request.body, content_type="text/plain")


async def watch(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


METHODS: Methods = {PATH: Unary(lambda request, _timeout_s: request[:5])}


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    yield loop
    loop.close()


def body(stream_id: int, message: bytes) -> bytes:
    return frame(DATA, END_STREAM, stream_id, message)


def test_plain_answer_says_when_it_was_made(loop: SteppedLoop):
    """A server with a clock sends Date (RFC 9110 section 6.6.1)."""
    server = FakeServer(loop, METHODS)
    server.hear(server.client.headers(1, GET, END_HEADERS | END_STREAM))
    loop.step()
    headers, sent = server.answers()[1]

    assert (headers[b":status"], sent) == (b"200", b"page")
    assert headers[b"date"] == b"Sun, 06 Nov 1994 08:49:37 GMT"


def test_handler_that_need_not_wait_answers_at_once(loop: SteppedLoop):
    """A plain function's response leaves before the loop has turned, and without a task."""
    server = FakeServer(loop, METHODS, handler=lambda request: HttpResponse(200, request.body))
    server.hear(server.client.headers(1, POST), body(1, b"hello"))

    assert server.answers()[1][1] == b"hello"
    assert server.exchanges == {}
    assert server.held == 0


def test_handler_that_fails_at_once_is_answered_for(loop: SteppedLoop):
    """500, and the log says why."""

    def fail(request: HttpRequest) -> HttpResponse:
        raise LookupError(request.target)

    server = FakeServer(loop, METHODS, handler=fail)
    server.hear(server.client.headers(1, GET, END_HEADERS | END_STREAM))

    assert server.answers()[1][0][b":status"] == b"500"
    assert server.held == 0


@pytest.mark.parametrize(
    ("room", "size", "status"), [(100, 500, b"503"), (1 << 20, 10_001, b"413")]
)
def test_body_without_room_is_not_a_body_too_large(
    loop: SteppedLoop, room: int, size: int, status: bytes
):
    """The server may have room again, so 503; a body above its own limit never has, so 413."""
    server = FakeServer(loop, METHODS, room=room)
    server.hear(server.client.headers(1, POST), body(1, bytes(size)))

    assert server.answers()[1][0][b":status"] == status
    assert server.held == 0


def test_too_large_headers_are_answered_as_their_protocol_does(loop: SteppedLoop):
    """HTTP says 431; gRPC has a status for it."""
    server = FakeServer(loop, METHODS)
    much = tuple((b"x-%d" % number, b"y" * 900) for number in range(5))
    server.hear(server.client.headers(1, (*GET, *much), END_HEADERS | END_STREAM))
    server.hear(server.client.headers(3, (*CALL, *much)), body(3, framed(b"hello")))
    server.hear(server.client.call(5, framed(b"again")))
    answers = server.answers()

    assert answers[1][0][b":status"] == b"431"
    assert (answers[3][0][b":status"], answers[3][0][b"grpc-status"]) == (b"200", b"8")
    assert answers[5][1] == framed(b"again")


def test_unknown_encoding_is_told_those_that_are_known(loop: SteppedLoop):
    """UNIMPLEMENTED, and the client may choose another."""
    server = FakeServer(loop, METHODS)
    server.hear(server.client.headers(1, (*CALL, (b"grpc-encoding", b"br"))), body(1, b""))
    headers, _ = server.answers()[1]

    assert headers[b"grpc-status"] == b"12"
    assert headers[b"grpc-accept-encoding"] == b"identity,deflate,gzip"


def test_small_packed_message_is_answered_at_once(loop: SteppedLoop):
    """Nothing has to wait for a turn."""
    server = FakeServer(loop, METHODS)
    server.hear(server.client.headers(1, GZIPPED), body(1, framed_compressed(b"hello", b"gzip")))

    assert server.answers()[1][1] == framed(b"hello")
    assert server.held == 0


def test_large_packed_message_lets_others_have_their_turns(loop: SteppedLoop):
    """A few kilobytes that stand for megabytes are unpacked a slice at a time."""
    server = FakeServer(loop, METHODS)
    plain = bytes(40 * UNPACKED_AT_ONCE_BYTES)
    server.hear(server.client.headers(1, GZIPPED), body(1, framed_compressed(plain, b"gzip")))
    loop.step(10)
    server.hear(server.client.headers(3), body(3, framed(b"quick")))
    meanwhile, held = server.answers(), server.held
    loop.step(100)

    assert list(meanwhile) == [3]
    assert 0 < held < len(plain)
    assert server.answers()[1][0][b"grpc-status"] == b"0"
    assert server.held == 0


@pytest.mark.parametrize(
    ("packed", "room", "status"),
    [
        (framed_compressed(bytes(1 << 20), b"gzip"), 500_000, b"8"),
        (framed_compressed(bytes((1 << 24) + 1), b"gzip"), 1 << 30, b"8"),
        (framed_compressed(bytes(1 << 20), b"gzip")[:5] + b"x" * 1049, 1 << 30, b"13"),
    ],
    ids=["no room", "too large", "broken"],
)
def test_packed_message_that_cannot_be_unpacked_fails(
    loop: SteppedLoop, packed: bytes, room: int, status: bytes
):
    """RESOURCE_EXHAUSTED or INTERNAL, and nothing is held afterwards."""
    server = FakeServer(loop, METHODS, room=room)
    packed = packed[:1] + (len(packed) - 5).to_bytes(4, "big") + packed[5:]
    server.hear(server.client.headers(1, GZIPPED), body(1, packed))
    loop.step(400)

    assert server.answers()[1][0][b"grpc-status"] == status
    assert server.held == 0


def test_call_taken_back_is_unpacked_no_further(loop: SteppedLoop):
    """Nobody waits for its answer, and what it held is free."""
    server = FakeServer(loop, METHODS)
    plain = bytes(40 * UNPACKED_AT_ONCE_BYTES)
    server.hear(server.client.headers(1, GZIPPED), body(1, framed_compressed(plain, b"gzip")))
    loop.step(5)
    server.exchanges[1].on_end()
    loop.step(100)

    assert server.answers() == {}
    assert server.held == 0


def test_deadline_holds_while_a_message_is_unpacked(loop: SteppedLoop):
    """The time is up whatever takes it."""
    server = FakeServer(loop, METHODS)
    headers = (*GZIPPED, (b"grpc-timeout", b"1S"))
    plain = bytes(100 * UNPACKED_AT_ONCE_BYTES)
    server.hear(server.client.headers(1, headers), body(1, framed_compressed(plain, b"gzip")))
    loop.step(5)
    loop.advance(1.1)

    assert server.answers()[1][0][b"grpc-status"] == b"4"
    assert server.held == 0


def test_request_of_a_streaming_call_is_small(loop: SteppedLoop):
    """What is asked there are names; more is refused, packed or not."""
    server = FakeServer(loop, {PATH: Streaming(watch)})
    server.hear(server.client.headers(1), frame(DATA, 0, 1, framed(bytes(70_000))))
    packed = framed_compressed(bytes(70_000), b"gzip")
    server.hear(server.client.headers(3, GZIPPED), frame(DATA, 0, 3, packed))
    server.hear(server.client.headers(5), body(5, framed(b"name")))
    loop.step()
    answers = server.answers()

    assert answers[1][0][b"grpc-status"] == answers[3][0][b"grpc-status"] == b"8"
    assert answers[5][1] == framed(b"name")


@pytest.mark.parametrize(
    ("method", "most"),
    [(METHODS[PATH], 1 << 24), (Streaming(watch), STREAMED_MESSAGE_BYTES)],
    ids=["unary", "streaming"],
)
def test_message_that_unpacks_too_far_is_told_of(loop: SteppedLoop, method: Method, most: int):
    """Who runs the server hears of it with both sizes: it was a fault, or an attack."""
    server = FakeServer(loop, {PATH: method})
    packed = framed_compressed(bytes(most + 1), b"gzip")
    server.hear(server.client.headers(1, GZIPPED), body(1, packed))
    loop.step(400)

    (reason,) = server.refusals
    assert f"a message of {len(packed) - 5} bytes unpacks to more than" in reason


def test_half_a_message_of_a_streaming_call_waits_for_the_peer(loop: SteppedLoop):
    """Between messages a watch may be silent; within one it is the client's turn."""
    server = FakeServer(loop, {PATH: Streaming(watch)})
    message = framed(b"hello")
    server.hear(server.client.headers(1))
    waits = [server.exchanges[1].waits_for_peer]
    for part in (message[:3], message[3:]):
        server.hear(frame(DATA, 0, 1, part))
        waits.append(server.exchanges[1].waits_for_peer)
    server.exchanges[1].on_end()
    loop.step()

    assert waits == [False, True, False]
