"""Connections: order, back-pressure, patience and farewells, mostly without a socket."""

from __future__ import annotations

import asyncio
import gc
import http.client
import logging
import socket
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeClock, FakeTransport, SteppedLoop
from running_listener import LOOPS, running
from salver.wire.http1 import LARGE_BYTES, Http1Server, Patience, finished
from salver.wire.http1_messages import HttpHandler, HttpRequest, HttpResponse, Limits
from salver.wire.progress import LEAST_BYTES_PER_S
from salver.wire.turns import SENT_TOGETHER, TURN_S, Turns

GET = b"GET /%d HTTP/1.1\r\n\r\n"
PATIENCE = Patience(idle_s=100, head_s=10, stall_s=20, linger_s=5)
ENOUGH_BYTES = int(PATIENCE.stall_s * LEAST_BYTES_PER_S)


def answer(body: bytes, *headers: bytes) -> bytes:
    """A response as this file's servers send it."""
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: text/plain", *headers]
    lines += [b"Date: Thu, 01 Jan 1970 00:00:00 GMT", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body])


async def echo(request: HttpRequest) -> HttpResponse:
    """Answers at once, with what was asked."""
    return HttpResponse(200, request.target.encode() + request.body, "text/plain")


class Gate:
    """A handler that answers a request when the test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.waiting: dict[str, asyncio.Future[None]] = {}
        self.cancelled: list[str] = []

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        self.waiting[request.target] = self._loop.create_future()
        try:
            await self.waiting[request.target]
        except asyncio.CancelledError:
            self.cancelled.append(request.target)
            raise
        return await echo(request)

    def open(self, target: str) -> None:
        self.waiting.pop(target).set_result(None)


class TickingClock:
    """A clock that goes on by a step each time it is read: whatever is done takes that long."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += self._step_s
        return self._now_s


def end_round(loop: asyncio.AbstractEventLoop) -> None:
    """Run what is due, once: when all have been heard, what they are answered is sent."""
    loop.call_soon(loop.stop)
    loop.run_forever()


class Peer:
    """The client's end of one connection to a server without sockets."""

    def __init__(
        self,
        server: Http1Server,
        *,
        high_water: int | None = None,
        peername: tuple[object, ...] | None = None,
    ) -> None:
        self.loop = server.loop
        self.connection = server.connection()
        self.transport = FakeTransport(self.connection, high_water=high_water)
        self.transport.get_extra_info = {"peername": peername}.get
        self.connection.connection_made(self.transport)

    def send(self, *pieces: bytes) -> Peer:
        for piece in pieces:
            self.connection.data_received(piece)
        return self

    def ask(self, *pieces: bytes) -> Peer:
        """Send, each piece in a round of its own, at whose end what was answered leaves."""
        for piece in pieces:
            self.connection.data_received(piece)
            end_round(self.loop)
        return self

    def vanish(self) -> None:
        self.connection.connection_lost(ConnectionResetError())

    @property
    def received(self) -> bytes:
        return bytes(self.transport.sent)


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


def make_server(
    loop: asyncio.AbstractEventLoop,
    handler: HttpHandler = echo,
    limits: Limits | None = None,
    turns: Turns | None = None,
) -> Http1Server:
    return Http1Server(
        handler,
        loop=loop,
        limits=limits,
        patience=PATIENCE,
        wall_clock=lambda: 0.0,
        turns=turns or Turns(loop, FakeClock()),
    )


def test_answer_that_is_ready_is_sent_without_a_task(loop: SteppedLoop):
    """A handler that does not wait is answered for in the round in which it was asked."""
    peer = Peer(make_server(loop))

    peer.ask(GET % 1)

    assert peer.received == answer(b"/1")
    assert not peer.transport.is_closed


@pytest.mark.parametrize("times", [1, 4])
def test_handler_may_be_a_plain_function(loop: SteppedLoop, times: int):
    """Its response is sent in the same round, for a head that is new and for one that is known."""
    peer = Peer(make_server(loop, lambda request: HttpResponse(200, request.body, "text/plain")))
    for each in range(times):
        peer.ask(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n%04d" % each)

    assert peer.received == b"".join(answer(b"%04d" % each) for each in range(times))


def test_plain_function_that_fails_costs_its_request_only(loop: SteppedLoop):
    """500, and the next request is answered."""

    def handler(request: HttpRequest) -> HttpResponse:
        if request.target == "/1":
            raise LookupError(request.target)
        return HttpResponse(200, b"fine", "text/plain")

    peer = Peer(make_server(loop, handler)).ask(GET % 1, GET % 2)

    assert peer.received.startswith(b"HTTP/1.1 500 ")
    assert peer.received.endswith(answer(b"fine"))


def test_known_head_keeps_to_what_the_connection_is_at(loop: SteppedLoop, gate: Gate):
    """A request like those before waits while another one is at work, as any other would."""
    server = make_server(loop, gate)
    for _ in range(3):
        Peer(server).send(GET % 1)
        gate.open("/1")
        loop.step()
    peer = Peer(server).send(GET % 2, GET % 1)
    started_first = list(gate.waiting)
    gate.open("/2")
    loop.step()
    gate.open("/1")
    loop.step()

    assert started_first == ["/2"]
    assert peer.received == answer(b"/2") + answer(b"/1")


def test_every_request_with_a_known_head_renews_the_patience(loop: SteppedLoop):
    """A connection that is asked again and again is not idle."""
    peer = Peer(make_server(loop))
    for _ in range(5):
        peer.send(GET % 1)
        loop.advance(PATIENCE.idle_s - 1)
    still_open = not peer.transport.is_closed
    loop.advance(2)

    assert still_open
    assert peer.transport.is_closed


def test_handler_that_waits_answers_later(loop: SteppedLoop, gate: Gate):
    """A handler that awaits goes on in a task and is answered when it is done."""
    server = make_server(loop, gate)
    peer = Peer(server).send(GET % 1)
    before = (peer.received, server.statistics().in_flight)

    gate.open("/1")
    loop.step()

    assert before == (b"", 1)
    assert peer.received == answer(b"/1")
    assert server.statistics().in_flight == 0


def test_handler_may_wait_several_times(loop: SteppedLoop):
    """Every kind of wait works after the first step, bare yields and timers included."""

    async def patient(request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.create_future(), 1)
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
        return await echo(request)

    peer = Peer(make_server(loop, patient)).send(GET % 1)

    loop.step()
    loop.advance(1)

    assert peer.received == answer(b"/1")


def test_handler_can_catch_what_it_waits_for(loop: SteppedLoop):
    """An error of the first thing awaited is raised where it is awaited."""

    async def careful(request: HttpRequest) -> HttpResponse:
        broken = loop.create_future()
        loop.call_soon(broken.set_exception, ValueError())
        with pytest.raises(ValueError, match=r"^$"):
            await broken
        return await echo(request)

    peer = Peer(make_server(loop, careful)).send(GET % 1)

    loop.step()

    assert peer.received == answer(b"/1")


def test_pipelined_answers_keep_their_order(loop: SteppedLoop, gate: Gate):
    """The second request starts only when the first is answered."""
    peer = Peer(make_server(loop, gate)).send(GET % 1 + GET % 2)
    started_first = list(gate.waiting)

    gate.open("/1")
    loop.step()
    gate.open("/2")
    loop.step()

    assert started_first == ["/1"]
    assert peer.received == answer(b"/1") + answer(b"/2")


@given(cuts=st.lists(st.integers(0, 400), max_size=20))
def test_any_split_of_a_pipeline_gives_the_same_answers(cuts: list[int]):
    """The bytes sent depend on the bytes received and not on how they were cut."""
    stream = b"".join(
        b"POST /%d HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody" % each for each in range(6)
    )
    edges = [0, *sorted(min(each, len(stream)) for each in cuts), len(stream)]
    loop = SteppedLoop()
    peer = Peer(make_server(loop))

    peer.send(*(stream[a:b] for a, b in pairwise(edges) if a < b))
    end_round(loop)
    loop.close()

    assert peer.received == b"".join(answer(b"/%dbody" % each) for each in range(6))


def test_reading_stops_while_a_request_waits_its_turn(loop: SteppedLoop, gate: Gate):
    """A client that pipelines faster than it is answered is left to its own buffers."""
    peer = Peer(make_server(loop, gate)).send(GET % 1)
    paused = [peer.transport.is_reading_paused]
    peer.send(GET % 2)
    paused.append(peer.transport.is_reading_paused)

    gate.open("/1")
    loop.step()
    paused.append(peer.transport.is_reading_paused)

    assert paused == [False, True, False]


def test_slow_reader_is_not_answered_further(loop: SteppedLoop):
    """While a peer does not read its answers, no further request of its is started."""
    peer = Peer(make_server(loop), high_water=10).ask(GET % 1)
    peer.ask(GET % 2 + GET % 3)
    before = (peer.received, peer.transport.is_reading_paused)

    peer.transport.unread_bytes = 0
    peer.connection.resume_writing()
    end_round(loop)
    peer.ask(GET % 4)

    assert before == (answer(b"/1"), True)
    assert peer.received == answer(b"/1") + answer(b"/2") + answer(b"/3")
    assert peer.transport.is_reading_paused


def test_peer_that_reads_nothing_is_cut(loop: SteppedLoop):
    """A peer that takes no byte of its answer in time is cut off."""
    peer = Peer(make_server(loop), high_water=10).ask(GET % 1)

    loop.advance(PATIENCE.stall_s)

    assert peer.transport.is_aborted


def test_peer_that_reads_slowly_is_served(loop: SteppedLoop):
    """A peer that takes at least some bytes gets more time, again and again."""
    peer = Peer(make_server(loop), high_water=10).ask(GET % 1)

    for _ in range(5):
        peer.transport.unread_bytes -= 1
        loop.advance(PATIENCE.stall_s)

    assert not peer.transport.is_aborted


def test_last_answer_is_given_time_but_not_for_ever(loop: SteppedLoop):
    """A peer that does not read the answer its connection closes with is cut as well."""
    peer = Peer(make_server(loop), high_water=10)
    peer.send(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    was_aborted = peer.transport.is_aborted

    loop.advance(PATIENCE.stall_s)

    assert (was_aborted, peer.transport.is_aborted) == (False, True)


def test_idle_connection_is_closed(loop: SteppedLoop):
    """A connection that asks nothing for long is closed; every request starts the wait anew."""
    peer = Peer(make_server(loop))
    closed = []

    loop.advance(PATIENCE.idle_s - 1)
    peer.send(GET % 1)
    loop.advance(PATIENCE.idle_s - 1)
    closed.append(peer.transport.is_closed)
    loop.advance(1)
    closed.append(peer.transport.is_closed)

    assert closed == [False, True]


def test_head_that_dribbles_in_is_refused(loop: SteppedLoop):
    """However often a byte comes, a head has one deadline, and is told when it misses it."""
    peer = Peer(make_server(loop)).send(b"GET / HTTP/1.1\r\nA: ")

    for _ in range(int(PATIENCE.head_s)):
        peer.send(b"b")
        loop.advance(1)

    assert peer.received.startswith(b"HTTP/1.1 408 Request Time-out\r\n")


def test_each_head_has_its_own_deadline(loop: SteppedLoop):
    """A stream of requests cut in mid-head is no slow head."""
    peer = Peer(make_server(loop)).ask(b"GET /0 HT")

    for each in range(1, 30):
        loop.advance(PATIENCE.head_s / 2)
        peer.ask(b"TP/1.1\r\n\r\nGET /%d HT" % each)

    assert peer.received == b"".join(answer(b"/%d" % each) for each in range(29))


def test_body_may_take_long_but_not_pause_long(loop: SteppedLoop):
    """A body gets more time with every read, and none when nothing comes."""
    peer = Peer(make_server(loop)).send(b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n")
    for _ in range(10):
        loop.advance(PATIENCE.stall_s / 2)
        peer.send(bytes(ENOUGH_BYTES))
    before = peer.received

    loop.advance(PATIENCE.stall_s)

    assert before == b""
    assert peer.received.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("is_chunked", [False, True])
def test_body_an_octet_at_a_time_is_refused(loop: SteppedLoop, is_chunked: bool):
    """Every octet comes in good time, and the request is late all the same."""
    length = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: 99999"
    octet = b"1\r\nx\r\n" if is_chunked else b"x"
    peer = Peer(make_server(loop)).send(b"POST / HTTP/1.1\r\n%s\r\n\r\n" % length)
    answers = []
    for _ in range(int(PATIENCE.stall_s)):
        loop.advance(1)
        peer.send(octet)
        answers.append(peer.received[:13])

    assert answers[:-2] == [b""] * (len(answers) - 2)
    assert answers[-1] == b"HTTP/1.1 408 "


def test_every_body_of_a_connection_has_its_own_time(loop: SteppedLoop):
    """A short body that is whole in good time is never too slow, however many there are."""
    peer = Peer(make_server(loop))
    for _ in range(5):
        peer.ask(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nx")
        loop.advance(PATIENCE.stall_s - 1)
        peer.ask(b"y")

    assert peer.received == answer(b"/xy") * 5


def test_handler_may_take_its_time(loop: SteppedLoop, gate: Gate):
    """The connection sets no deadline for an answer: that is the handler's."""
    peer = Peer(make_server(loop, gate)).send(GET % 1)

    loop.advance(1e6)
    gate.open("/1")
    loop.step()

    assert peer.received == answer(b"/1")


def test_refused_peer_is_told_and_lingered_for(loop: SteppedLoop):
    """After a refusal nothing more is read, only our side closes, and the rest is cut in time."""
    peer = Peer(make_server(loop)).send(GET % 1 + b"broken stream\r\n\r\n", GET % 2)
    closed = (peer.transport.has_written_eof, peer.transport.is_closed)

    loop.advance(PATIENCE.linger_s)

    assert peer.received.startswith(answer(b"/1") + b"HTTP/1.1 501 Not Implemented\r\n")
    assert b"Connection: close\r\n" in peer.received
    assert peer.received.count(b"HTTP/1.1") == 2
    assert closed == (True, False)
    assert peer.transport.is_aborted


def test_peer_that_expects_to_be_told_is_told_once(loop: SteppedLoop):
    """A held-back body is asked for, and the answer follows it."""
    peer = Peer(make_server(loop))
    peer.ask(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    before = peer.received

    peer.ask(b"bo", b"dy")

    assert before == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert peer.received == before + answer(b"/body")


def test_peer_is_told_to_continue_after_earlier_answers(loop: SteppedLoop, gate: Gate):
    """An interim response never overtakes the answer before it."""
    peer = Peer(make_server(loop, gate)).send(
        GET % 1 + b"POST /2 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    )
    before = peer.received

    gate.open("/1")
    loop.step()

    assert before == b""
    assert peer.received == answer(b"/1") + b"HTTP/1.1 100 Continue\r\n\r\n"


def test_body_too_large_is_refused_before_it_is_sent(loop: SteppedLoop):
    """A peer that asks first is told at once, not to continue."""
    peer = Peer(make_server(loop, limits=Limits(body_bytes=3)))

    peer.send(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")

    assert peer.received.startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n")


def test_connection_closes_when_the_peer_asks_for_it(loop: SteppedLoop):
    """``Connection: close`` is honoured and echoed; what follows is not read."""
    peer = Peer(make_server(loop)).send(
        b"GET /1 HTTP/1.1\r\nConnection: close\r\n\r\n" + GET % 2, GET % 3
    )

    assert peer.received == answer(b"/1", b"Connection: close")
    assert peer.transport.is_closed


def test_http_1_0_closes_unless_asked_to_stay(loop: SteppedLoop):
    """The older version gets its own defaults and its own status line."""
    once = Peer(make_server(loop)).ask(b"GET /1 HTTP/1.0\r\n\r\n")
    stays = Peer(make_server(loop)).ask(b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")

    assert once.received.startswith(b"HTTP/1.0 200 OK\r\n")
    assert (once.transport.is_closed, stays.transport.is_closed) == (True, False)
    assert b"Connection: keep-alive\r\n" in stays.received


def test_head_gets_a_length_and_no_body(loop: SteppedLoop):
    """The next answer follows the head of a HEAD's at once."""
    peer = Peer(make_server(loop)).ask(b"HEAD /1 HTTP/1.1\r\n\r\n" + GET % 2)

    assert peer.received == answer(b"/1")[:-2] + answer(b"/2")


@pytest.mark.parametrize("waits", [False, True])
def test_bug_in_the_handler_costs_its_request_only(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture, waits: bool
):
    """The client is told, the log has the traceback, and the connection goes on."""

    async def buggy(request: HttpRequest) -> HttpResponse:
        if request.target == "/2":
            return await echo(request)
        if waits:
            await asyncio.sleep(0)
        raise ZeroDivisionError

    peer = Peer(make_server(loop, buggy)).ask(GET % 1)
    loop.step()
    peer.ask(GET % 2)

    assert peer.received.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert peer.received.endswith(b"its log says why.\n" + answer(b"/2"))
    assert "ZeroDivisionError" in caplog.text


def test_handler_that_is_cancelled_from_elsewhere_is_answered(loop: SteppedLoop, gate: Gate):
    """When the server gives a request up, its client is told to try again."""
    peer = Peer(make_server(loop, gate)).send(GET % 1)

    gate.waiting["/1"].cancel()
    loop.step()

    assert peer.received.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


def test_peer_that_is_gone_has_its_request_cancelled(
    loop: SteppedLoop, gate: Gate, caplog: pytest.LogCaptureFixture
):
    """Nobody waits for the answer, so nobody works on it, and the log stays quiet."""
    server = make_server(loop, gate)
    peer = Peer(server).send(GET % 1)
    loop.step()

    with caplog.at_level(logging.DEBUG):
        peer.vanish()
        loop.step()
        gc.collect()

    assert gate.cancelled == ["/1"]
    assert peer.received == b""
    assert caplog.records == []
    assert server.statistics().open_connections == 0


def test_peer_that_is_gone_at_once_has_its_handler_cleaned_up(loop: SteppedLoop):
    """A handler whose task never took a step still runs its ``finally``."""
    cleaned_up: list[str] = []

    async def tidy(request: HttpRequest) -> HttpResponse:
        try:
            await loop.create_future()
        finally:
            cleaned_up.append(request.target)
        return await echo(request)

    Peer(make_server(loop, tidy)).send(GET % 1).vanish()
    loop.step()

    assert cleaned_up == ["/1"]


def test_handler_that_fails_after_its_peer_left_is_not_noise(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
):
    """An error nobody will see is dropped, not reported as never retrieved."""

    async def stubborn(request: HttpRequest) -> HttpResponse:
        try:
            await loop.create_future()
        except asyncio.CancelledError as error:
            raise ValueError from error
        raise AssertionError

    peer = Peer(make_server(loop, stubborn)).send(GET % 1)
    loop.step()

    peer.vanish()
    loop.step()
    gc.collect()

    assert caplog.records == []


def test_peer_that_only_stops_sending_gets_its_answers(loop: SteppedLoop, gate: Gate):
    """A half-closed connection is answered to the end, then closed."""
    peer = Peer(make_server(loop, gate)).send(GET % 1 + GET % 2)
    stays = peer.connection.eof_received()

    for target in ("/1", "/2"):
        gate.open(target)
        loop.step()

    assert stays
    assert peer.received == answer(b"/1") + answer(b"/2")
    assert peer.transport.is_closed


def test_peer_that_stops_sending_in_mid_request_is_let_go(loop: SteppedLoop):
    """Half a request is never answered; the transport may close."""
    peer = Peer(make_server(loop)).send(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf")

    assert not peer.connection.eof_received()
    assert peer.received == b""


def test_drain_lets_what_has_begun_finish(loop: SteppedLoop, gate: Gate):
    """Idle connections close at once, busy and half-read ones after their last answer."""
    server = make_server(loop, gate)
    idle, busy, half = Peer(server), Peer(server).send(GET % 1), Peer(server).send(b"GET /2 HT")
    draining = loop.create_task(server.drain(grace_s=30))
    loop.step()
    closed_at_once = [each.transport.is_closed for each in (idle, busy, half)]

    half.send(b"TP/1.1\r\n\r\n")
    gate.open("/1")
    gate.open("/2")
    loop.step()
    done_before_closed = draining.done()
    for each in (idle, busy, half):
        each.connection.connection_lost(None)
    loop.step()

    assert closed_at_once == [True, False, False]
    assert busy.received == answer(b"/1", b"Connection: close")
    assert half.received == answer(b"/2", b"Connection: close")
    assert not done_before_closed
    assert draining.done()


def test_drain_cuts_what_takes_too_long(loop: SteppedLoop, gate: Gate):
    """After the grace the rest is aborted and its handlers are cancelled."""
    server = make_server(loop, gate)
    peer = Peer(server).send(GET % 1)
    draining = loop.create_task(server.drain(grace_s=30))
    loop.step()

    loop.advance(30)
    was_aborted = peer.transport.is_aborted
    peer.vanish()
    loop.step()

    assert was_aborted
    assert gate.cancelled == ["/1"]
    assert draining.done()


async def echo_from_a_thread(request: HttpRequest) -> HttpResponse:
    """Answers from a worker thread, as slow models do."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(
        None, lambda: HttpResponse(200, request.body[::-1], "text/plain")
    )


@LOOPS
@pytest.mark.parametrize("handler", [echo, echo_from_a_thread])
def test_real_client_is_answered_on_one_connection(
    new_loop: Callable[[], object], handler: HttpHandler
):
    """Small and large bodies, fixed and chunked, go there and back over one kept connection."""
    large = bytes(range(256)) * 20_000
    with running(new_loop, http_handler=handler) as server:
        url = f"http://127.0.0.1:{server.port}/"
        with requests.Session() as session:
            session.trust_env = False
            bodies = [
                session.post(url, data=data, timeout=10).content
                for data in (b"small", large, iter([b"in ", b"chunks"]))
            ]
            opened = server.listener.statistics().open_connections

    expected = [b"small", large, b"in chunks"]
    if handler is echo:
        assert bodies == [b"/" + each for each in expected]
    else:
        assert bodies == [each[::-1] for each in expected]
    assert opened <= 1


@LOOPS
def test_large_upload_that_is_refused_reads_why(new_loop: Callable[[], object]):
    """A client still sending gets the reason and not a reset."""
    with running(new_loop, http_handler=echo) as server:
        client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n" + bytes(10**6))
        response = http.client.HTTPResponse(client)
        response.begin()
        status, page = response.status, response.read()
        client.close()

    assert status == 413
    assert b"<H1>Request Entity Too Large</H1>" in page


def test_long_pipeline_lets_other_connections_take_a_turn(loop: SteppedLoop):
    """One read full of requests is answered in portions, between which the loop is free."""
    server = make_server(loop, turns=Turns(loop, TickingClock(TURN_S / 10)))
    greedy = Peer(server).send(b"".join(GET % each for each in range(1000)))

    modest = Peer(server).ask(GET % 1)
    while_greedy_waits = greedy.received.count(b"HTTP/1.1 200")
    answered_at_once = modest.received
    loop.step(rounds=1000)

    assert 0 < while_greedy_waits < 100
    assert answered_at_once == answer(b"/1")
    assert greedy.received == b"".join(answer(b"/%d" % each) for each in range(1000))


def test_connection_that_waits_for_its_turn_is_not_read_from(loop: SteppedLoop):
    """What it sends on meanwhile fills its own buffers, and what came all the same is in order."""
    server = make_server(loop, turns=Turns(loop, TickingClock(TURN_S / 3)))
    peer = Peer(server).send(b"".join(GET % each for each in range(500)))
    was_paused = peer.transport.is_reading_paused

    peer.send(GET % 500, GET % 501)
    loop.step(rounds=2000)

    assert was_paused
    assert not peer.transport.is_reading_paused
    assert peer.received == b"".join(answer(b"/%d" % each) for each in range(502))


@given(requests_sent=st.integers(5, 60), steps=st.integers(2, 12))
def test_connection_is_read_from_or_waits_for_its_turn(requests_sent: int, steps: int):
    """Wherever a turn ends, a connection that is read from has nothing waiting and no turn due."""
    asked = []

    async def note(request: HttpRequest) -> HttpResponse:
        asked.append(request.target)
        return await echo(request)

    loop = SteppedLoop()
    server = make_server(loop, note, turns=Turns(loop, TickingClock(TURN_S / steps)))
    peer = Peer(server).send(b"".join(GET % each for each in range(requests_sent)))
    while peer.transport.is_reading_paused:
        loop.step(rounds=1)
    at_last_turn = len(asked)

    peer.send(b"".join(GET % each for each in range(1000)))
    is_paused_again = peer.transport.is_reading_paused
    end_round(loop)
    loop.close()

    answers = b"".join(answer(b"/%d" % each) for each in range(requests_sent))
    assert at_last_turn == requests_sent
    assert peer.received.startswith(answers)
    assert is_paused_again


def test_client_that_is_gone_takes_no_turn(loop: SteppedLoop):
    """What it had sent is forgotten."""
    asked = []

    async def note(request: HttpRequest) -> HttpResponse:
        asked.append(request.target)
        return await echo(request)

    server = make_server(loop, note, turns=Turns(loop, TickingClock(TURN_S / 3)))
    peer = Peer(server).send(b"".join(GET % each for each in range(500)))
    peer.vanish()
    before = len(asked)
    loop.step()

    assert len(asked) == before


def test_large_body_is_not_cut_into_pieces(loop: SteppedLoop):
    """A body of known length costs nothing to read, so it takes no turns."""
    server = make_server(loop, turns=Turns(loop, TickingClock(10.0)))
    body = bytes(range(256)) * 1000
    peer = Peer(server).send(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body))

    peer.send(body[:100_000], body[100_000:])

    assert peer.received == answer(b"/" + body)


@pytest.mark.parametrize("pieces", [1, 2, 3, 100, 5000])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_body_is_whole_whatever_pieces_it_comes_in(
    loop: SteppedLoop, pieces: int, is_chunked: bool
):
    """Large and small pieces are put together in their order."""
    body = bytes(range(256)) * 100
    size = -(-len(body) // pieces)
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    peer = Peer(make_server(loop))

    if is_chunked:
        peer.send(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer.send(*[b"%x\r\n%s\r\n" % (len(part), part) for part in parts], b"0\r\n\r\n")
    else:
        peer.send(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body), *parts)
    loop.step(rounds=100)

    assert peer.received == answer(b"/" + body)


# --- when it is sent ------------------------------------------------------------------------------


class BrokenTransport(FakeTransport):
    """Cannot be written to, by a fault of its own."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise RuntimeError("a bug")


def test_answers_of_one_round_leave_when_all_have_been_heard(loop: SteppedLoop):
    """No client is woken while others still wait to be heard."""
    server = make_server(loop)
    peers = [Peer(server).send(GET % each) for each in range(3)]
    before = [each.received for each in peers]

    end_round(loop)

    assert before == [b"", b"", b""]
    assert [each.received for each in peers] == [answer(b"/%d" % each) for each in range(3)]


def test_no_more_than_so_many_answers_wait_for_one_another(loop: SteppedLoop):
    """The last of them has its own answer sent with the others'."""
    server = make_server(loop)
    peers = [Peer(server) for _ in range(SENT_TOGETHER + 1)]

    for each in peers[: SENT_TOGETHER - 1]:
        each.send(GET % 1)
    before = {each.received for each in peers}
    for each in peers[SENT_TOGETHER - 1 :]:
        each.send(GET % 1)

    assert before == {b""}
    assert [each.received for each in peers] == [answer(b"/1")] * SENT_TOGETHER + [b""]


def test_connection_that_is_lost_before_it_is_sent_to_harms_nobody(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture
):
    """Its answer is forgotten; the others have theirs, whatever became of the connection."""
    server = make_server(loop)
    first, lost, aborted, last = (Peer(server).send(GET % 1) for _ in range(4))

    lost.vanish()
    aborted.connection.abort()
    end_round(loop)

    assert [each.received for each in (first, lost, aborted, last)] == [
        *(answer(b"/1"), b"", b""),
        answer(b"/1"),
    ]
    assert server.statistics().open_connections == 3
    assert caplog.records == []


@pytest.mark.parametrize("others", [2, SENT_TOGETHER - 1])
def test_fault_in_sending_costs_its_connection_only(
    loop: SteppedLoop, caplog: pytest.LogCaptureFixture, others: int
):
    """Whether the round has ended or another client is just being heard."""
    server = make_server(loop)
    broken = Peer(server)
    broken.transport = BrokenTransport(broken.connection)
    broken.connection.connection_made(broken.transport)
    broken.send(GET % 1)

    peers = [Peer(server).send(GET % 1) for _ in range(others)]
    loop.step()

    assert [each.received for each in peers] == [answer(b"/1")] * others
    assert broken.transport.is_aborted
    assert not any(each.transport.is_closed for each in peers)
    assert "RuntimeError: a bug" in caplog.text


def test_large_answer_leaves_at_once_after_those_before_it(loop: SteppedLoop):
    """What is much does not wait, and overtakes nothing."""
    body = bytes(LARGE_BYTES)
    peer = Peer(make_server(loop)).send(GET % 1)

    peer.send(b"POST /2 HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    at_once = peer.received
    peer.ask(GET % 3)

    assert at_once == answer(b"/1") + answer(b"/2" + body)
    assert peer.received == at_once + answer(b"/3")


def test_peer_that_stops_sending_in_the_round_of_its_request_is_answered(loop: SteppedLoop):
    """The transport closes when it is told that nothing more comes, so all has to be there."""
    peer = Peer(make_server(loop)).send(GET % 1)

    stays = peer.connection.eof_received()

    assert not stays
    assert peer.received == answer(b"/1")


def test_peer_that_stops_sending_and_does_not_read_keeps_its_answer(loop: SteppedLoop):
    """Whether it reads shows when it is sent to, before it is decided who may go."""
    peer = Peer(make_server(loop), high_water=10).send(GET % 1)

    stays = peer.connection.eof_received()
    peer.connection.resume_writing()

    assert stays
    assert peer.received == answer(b"/1")
    assert peer.transport.is_closed


def test_drain_in_the_round_of_an_answer_lets_it_leave_first(loop: SteppedLoop):
    """Once, and before the connection is closed."""
    server = make_server(loop)
    peer = Peer(server).send(GET % 1)

    server.begin_drain()
    at_once = (peer.received, peer.transport.is_closed)
    loop.step()

    assert at_once == (answer(b"/1"), True)
    assert peer.received == answer(b"/1")


def test_what_a_peer_that_does_not_read_is_answered_has_an_end(loop: SteppedLoop):
    """However much it pipelines in one round, it costs as much as is sent at once and no more."""
    asked = []

    def handler(request: HttpRequest) -> HttpResponse:
        asked.append(request.target)
        return HttpResponse(200, bytes(1024), "text/plain")

    peer = Peer(make_server(loop, handler), high_water=10)

    peer.send(*[b"".join(GET % each for each in range(100))] * 10)
    loop.step()

    assert len(asked) <= LARGE_BYTES // 1024
    assert peer.transport.is_reading_paused


def test_peer_that_reads_slowly_is_not_cut_for_an_answer_that_is_to_be_sent(
    loop: SteppedLoop, gate: Gate
):
    """What waits to be sent counts as unread from the start, so that less of it is progress."""

    def handler(request: HttpRequest) -> object:
        return echo(request) if request.target == "/1" else gate(request)

    peer = Peer(make_server(loop, handler), high_water=10).ask(GET % 1 + GET % 2)

    gate.open("/2")
    loop.step()
    peer.transport.unread_bytes -= 1
    loop.advance(PATIENCE.stall_s)

    assert peer.received == answer(b"/1") + answer(b"/2")
    assert not peer.transport.is_aborted


# --- who is told ----------------------------------------------------------------------------------


def test_refusals_are_told_with_their_address(loop: SteppedLoop):
    """The owner of the server hears who was refused, and why."""
    refusals = []
    server = Http1Server(
        echo, loop=loop, patience=PATIENCE, on_refusal=lambda *what: refusals.append(what)
    )
    Peer(server).send(b"\xff\xfe\r\n\r\n")
    Peer(server, peername=("192.0.2.1", 4711)).send(b"GET / HTTP/1.1\r\nHost")
    loop.advance(PATIENCE.head_s)

    assert refusals == [("", 501), ("192.0.2.1", 408)]


def test_peer_that_is_cut_off_is_told_with_its_address(loop: SteppedLoop):
    """The same for one that does not read."""
    cut = []
    server = Http1Server(echo, loop=loop, patience=PATIENCE, on_cut=cut.append)
    peer = Peer(server, high_water=10, peername=("::ffff:192.0.2.1", 4711, 0, 0)).ask(GET % 1)
    loop.advance(PATIENCE.stall_s)

    assert peer.transport.is_aborted
    assert cut == ["192.0.2.1"]


class MishapError(Exception):
    """Something to hold on to, weakly."""


def test_a_wait_that_failed_leaves_nothing_for_the_collector():
    """An error holds the frames it passed, and with them whatever the request had in hand."""

    async def handler(waits: list[asyncio.Future[None]]) -> HttpResponse:
        try:
            await waits.pop()
        except MishapError:
            return HttpResponse(404)
        raise AssertionError("it should have failed")

    async def answer() -> weakref.ref[MishapError]:
        waited_for: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        started = handler([waited_for])
        task = asyncio.ensure_future(finished(started, started.send(None)))
        mishap = MishapError()
        waited_for.set_exception(mishap)
        assert (await task).status == 404
        return weakref.ref(mishap)

    gc.collect()
    gc.disable()
    try:
        left = asyncio.run(answer())()
    finally:
        gc.enable()

    assert left is None
