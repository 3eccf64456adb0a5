"""HTTP/1.1 connections on asyncio: reads requests, asks the handler, writes its answers.

Knows no path and no model: ``handler`` does.  One connection has one request in flight; what a
client pipelines waits its turn, so answers keep the order of the requests.  No peer can make it
hold more than one request, one read and one response at a time, nor wait without an end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import coroutine
from typing import Any, Final, cast

from salver.wire.accepting import address_of
from salver.wire.calls import Later
from salver.wire.http1_messages import (
    CONTINUE,
    DateStamp,
    HttpHandler,
    HttpRequest,
    HttpResponse,
    KnownHeads,
    Limits,
    Received,
    Refusal,
    RequestReader,
    ResponseEncoder,
    Stage,
    error_page,
)
from salver.wire.progress import Progress
from salver.wire.turns import Turns

logger = logging.getLogger(__name__)

PIECE_BYTES: Final = 1024
"""As much of what arrived is parsed at once: twenty octets may be a request."""

LARGE_BYTES: Final = 16 << 10
"""So much is sent at once, and a body as large is not copied to be joined to its head.

Until it is sent nobody knows whether the peer reads, so this also bounds what one that pipelines
and does not read is answered.
"""

FEW_STEPS: Final = 4
"""So many requests or pieces are acted on without a look at the clock."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a connection waits for its peer.

    ``idle_s`` outlives the 600 s for which the load balancers of some clouds keep a connection
    for reuse: whoever closes first must be the side that sends next.
    """

    idle_s: float = 620.0
    head_s: float = 60.0
    """For a whole head, from its first octet on."""
    stall_s: float = 60.0
    """Between two pieces of a body, and for a peer to read some of its answer.

    A body also has to bring ``progress.LEAST_BYTES_PER_S`` on average over each such while, so a
    short one has to be whole by the end of it.
    """
    linger_s: float = 5.0


@dataclass(frozen=True, slots=True)
class HttpStatistics:
    """What a server is doing right now."""

    open_connections: int
    in_flight: int
    is_draining: bool


class Phase(Enum):
    """What a connection waits for, which decides how long it may."""

    IDLE = "the next request"
    HEAD = "the rest of a request's head"
    BODY = "more of a request's body"
    ANSWER = "the handler"
    ROOM = "the peer to read its answer"
    LINGER = "the peer to read the last answer, and to hang up"


READING_PHASES: Final = {
    Stage.BETWEEN: Phase.IDLE,
    Stage.HEAD: Phase.HEAD,
    Stage.BODY: Phase.BODY,
    Stage.DEAF: Phase.IDLE,
}


@coroutine
def rest_of(
    started: Coroutine[Any, Any, HttpResponse], awaited: object
) -> Generator[object, object, HttpResponse]:
    """Go on with a coroutine that has been started outside of a task and waits for ``awaited``."""
    try:
        while True:
            try:
                value = yield awaited
            except GeneratorExit:  # noqa: PERF203 -- the loop is the coroutine's own
                started.close()
                raise
            except BaseException as error:  # noqa: BLE001 -- all others are the coroutine's
                # A future holds its error, whose traceback holds this frame: without this both
                # would stay, and with them all that the error has passed, until a collection.
                awaited = None
                awaited = started.throw(error)
            else:
                awaited = started.send(value)
    except StopIteration as done:
        answer: HttpResponse = done.value
        return answer


async def finished(started: Coroutine[Any, Any, HttpResponse], awaited: object) -> HttpResponse:
    """``rest_of`` as a coroutine in the sense of the later Pythons' tasks."""
    return await rest_of(started, awaited)


def answer_to_failure(request: HttpRequest, error: BaseException) -> HttpResponse:
    """What to answer for a handler that raised; the bug behind it is logged."""
    if isinstance(error, asyncio.CancelledError):
        return HttpResponse(503, b"The server gave up this request.\n", "text/plain")
    logger.error("Answering %s %s failed", request.method, request.target, exc_info=error)
    return HttpResponse(500, b"The server failed to answer; its log says why.\n", "text/plain")


class Deadline:
    """A deadline that moves with every request, on one timer.

    Moving it later costs a store: the timer wakes at the old time, looks, and sleeps again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_passed: Callable[[], None]) -> None:
        self._loop = loop
        self._on_passed = on_passed
        self._due_s: float | None = None
        self._wakes_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float | None) -> None:
        """Pass ``delay_s`` from now, or never."""
        if delay_s is None:
            self._due_s = None
            return
        self._due_s = self._loop.time() + delay_s
        if self._timer is None:
            self._sleep_until(self._due_s)
        elif self._due_s < self._wakes_s:
            self._timer.cancel()
            self._sleep_until(self._due_s)

    def cancel(self) -> None:
        """Never pass, and let go of the timer."""
        self._due_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sleep_until(self, when_s: float) -> None:
        self._wakes_s = when_s
        self._timer = self._loop.call_at(when_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if self._due_s is None:
            return
        if self._loop.time() < self._due_s:
            self._sleep_until(self._due_s)
            return
        self._due_s = None
        self._on_passed()


class Http1Protocol(asyncio.Protocol):
    """One connection of an ``Http1Server``, driven by its transport on the event loop.

    A peer that shuts down its sending side still gets its answers, as from TensorFlow Serving;
    one that is gone has its request cancelled.
    """

    def __init__(self, server: Http1Server) -> None:
        self._server = server
        self._loop = server.loop
        self._reader = RequestReader(server.limits, server.known_heads)
        self._deadline = Deadline(server.loop, self._on_deadline)
        self._transport: asyncio.Transport | None = None
        self._pending: asyncio.Task[HttpResponse] | Later[HttpResponse] | None = None
        self._answering: Received | None = None  # the request of an answer that is handed over
        self._watched: tuple[Phase, int] | None = None
        self._progress = Progress(0.0, 0)  # of the body that is being read
        self._heard_s = 0.0  # when its last piece came
        self._unread: memoryview | None = None  # what arrived and waits for a turn
        self._unsent: list[bytes] = []  # what is sent when the others have been heard
        self._unsent_bytes = 0
        self._untaken_bytes = 0  # by the peer, when it was last looked at
        self._held_bytes = 0
        self._has_eof = False
        self._is_reading_paused = False
        self._is_writing_paused = False
        self._is_leaving = False
        self._is_waiting = False  # for a turn

    @property
    def is_busy(self) -> bool:
        """Whether the handler is at work on a request."""
        return self._pending is not None

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A peer has connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self._server.opened(self)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """The peer has sent bytes."""
        if self._is_leaving:
            return
        if self._unread is not None:
            self._unread = memoryview(bytes(self._unread) + data)
            self._advance()
            return
        reader = self._reader
        can_answer = not (self._pending or self._is_writing_paused or self._is_waiting)
        received = reader.whole_request(data) if can_answer else None
        if received is None:
            if len(data) <= max(PIECE_BYTES, reader.body_bytes_left):
                reader.feed(data)
                self._count_held()
            else:
                self._unread = memoryview(data)
                can_answer = False
            received = reader.sole_request() if can_answer else None
        if received is None:
            self._advance()
        else:
            self._answer_alone(received)

    def eof_received(self) -> bool:
        """The peer will send no more; true keeps the connection for the answers it still gets.

        TLS knows no half-open connection: there the end of one side is the end of both.
        """
        self._has_eof = True
        self.send()
        can_stay = self._transport is not None and self._transport.can_write_eof()
        return can_stay and not self._is_leaving and not self._is_done

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """The connection is gone."""
        self._transport = None
        self._unread = None
        self._is_leaving = True
        self._deadline.cancel()
        self._drop_pending()
        self._reader.give_up(503)  # or what it holds would stay until the garbage collector comes
        self._count_held()
        self._server.closed(self)

    def pause_writing(self) -> None:
        """The peer reads more slowly than we write."""
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._is_writing_paused = False
        self._advance()

    # Called by the server.

    def send(self) -> None:
        """Send what has been written; only now it shows whether the peer has to read first."""
        if not self._unsent:
            return
        self._flush()
        if self._is_writing_paused:
            self._settle()

    def drain(self) -> None:
        """Answer what has begun, then close."""
        if self._is_done and self._reader.stage in (Stage.BETWEEN, Stage.DEAF):
            self._leave()
            self._watch()

    def abort(self) -> None:
        """Close without a word."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def _is_done(self) -> bool:
        """Whether everything that has wholly arrived is answered and on its way."""
        return not (self._pending or self._is_writing_paused or self._has_more)

    @property
    def _has_more(self) -> bool:
        """Whether something that arrived has not been acted on."""
        return self._reader.has_arrivals or self._unread is not None

    def _count_held(self) -> None:
        """Count what there is of a body; what all peers together make us hold has an end."""
        more_bytes = self._reader.held_bytes - self._held_bytes
        if not more_bytes:
            return
        self._held_bytes += more_bytes
        if not self._server.hold(more_bytes) and more_bytes > 0:
            self._reader.give_up(503)
            self._count_held()

    def _advance(self) -> None:
        """Start what can be started; then settle how to wait for more."""
        if self._is_waiting:
            return
        for _ in range(FEW_STEPS):
            if not self._take_step():
                self._settle()
                return
        turns = self._server.turns
        if self.take_turn(turns.ends_s()):
            self._is_waiting = True
            turns.wait(self)

    def take_turn(self, ends_s: float) -> bool:
        """Act on what has arrived until it is done, the turn is over, or something has to wait."""
        clock = self._server.turns.clock
        has_more = True
        while has_more and clock() < ends_s:
            has_more = self._take_step()
        if not self._has_more:  # then the last step is to wait for more, whatever the clock says
            has_more = has_more and self._take_step()
        if not has_more:
            self._is_waiting = False
        self._settle()
        return has_more

    def _take_step(self) -> bool:
        """Act on one request, or read a piece of what arrived; whether there may be more to do."""
        if self._pending or self._is_writing_paused or self._is_leaving:
            return False
        arrival = self._reader.next_arrival()
        if isinstance(arrival, Received):
            self._start(arrival)
        elif arrival is not None:
            self._refuse(arrival)
        elif self._unread is not None:
            self._read_a_piece(self._unread)
        else:
            self._await_more()
            return False
        return True

    def _read_a_piece(self, unread: memoryview) -> None:
        size = max(PIECE_BYTES, self._reader.body_bytes_left)
        self._unread = unread[size:] if len(unread) > size else None
        self._reader.feed(unread[:size])
        self._count_held()

    def _settle(self) -> None:
        self._pace_reading()
        self._watch()

    def _answer_alone(self, received: Received) -> None:
        """Answer the only request there is; mostly nothing is left then but to wait for another."""
        self._start(received)
        if self._answering is not None:
            self._watched = (Phase.ANSWER, self._reader.begun)
            self._deadline.set(None)
        elif self._pending or self._is_leaving or self._is_writing_paused:
            self._settle()
        else:
            self._await_next()

    def _await_next(self) -> None:
        """Wait for the next request, when nothing else is left to be done."""
        self._watched = (Phase.IDLE, self._reader.begun)
        self._deadline.set(self._server.patience.idle_s)

    def _start(self, received: Received) -> None:
        """Ask the handler, whose answer is mostly there at once."""
        try:
            answer = self._server.handler(received.request)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- it costs its request only
            answer = answer_to_failure(received.request, error)
        if isinstance(answer, HttpResponse):
            self._answer(received, answer)
        elif isinstance(answer, Later):
            answer.taker = self
            self._pending, self._answering = answer, received
        else:
            self._begin_waiting(received, answer)

    def succeed(self, answer: HttpResponse) -> None:
        """Send an answer that was handed over later, with others' of this round."""
        received, self._pending, self._answering = self._answering, None, None
        if received is None or self._transport is None:
            return
        self._answer(received, answer)
        is_between = self._reader.stage is Stage.BETWEEN and not self._has_more
        if is_between and not (self._has_eof or self._is_leaving or self._is_writing_paused):
            self._await_next()
        else:
            self._advance()

    def fail(self, error: BaseException) -> None:
        """Send what a handler that raised is answered by."""
        if self._answering is not None:
            self.succeed(answer_to_failure(self._answering.request, error))

    def _drop_pending(self) -> None:
        """Have nobody work on an answer that nobody waits for any more."""
        if isinstance(self._pending, Later):
            self._pending.taker = None
        elif self._pending is not None:
            self._pending.cancel()

    def _begin_waiting(
        self, received: Received, answering: Coroutine[Any, Any, HttpResponse]
    ) -> None:
        """Run a coroutine's first step here and now: many need no second one.

        Only one that has to wait is worth the price of a task.
        """
        try:
            awaited = answering.send(None)
        except StopIteration as done:
            self._answer(received, done.value)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- it costs its request only
            self._answer(received, answer_to_failure(received.request, error))
        else:
            task = self._loop.create_task(finished(answering, awaited))
            task.add_done_callback(partial(self._finish, received, answering))
            self._pending = task

    def _finish(
        self,
        received: Received,
        answering: Coroutine[Any, Any, HttpResponse],
        task: asyncio.Task[HttpResponse],
    ) -> None:
        answering.close()  # a task cancelled before its first step never got to it
        self._pending = None
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._transport is None:
            return
        if error is None:
            self._answer(received, task.result())
        else:
            self._answer(received, answer_to_failure(received.request, error))
        self._advance()

    def _answer(self, received: Received, response: HttpResponse) -> None:
        keep_alive = received.keep_alive and not response.closes and not self._server.is_draining
        self._write(
            self._server.responses.encode(
                response,
                keep_alive=keep_alive,
                minor_version=received.minor_version,
                to_method=received.request.method,
            )
        )
        if not keep_alive:
            self._leave()

    def _refuse(self, refusal: Refusal) -> None:
        """Say why, then listen no more, but linger (RFC 9112 section 9.6).

        Closing while the peer still sends would reset the connection before it reads the reason.
        With TLS our side cannot close alone, but the page says where it ends.
        """
        self._write(self._server.responses.encode(error_page(refusal.status), keep_alive=False))
        self._unread = None
        self._server.on_refusal(address_of(self._transport), refusal.status)
        if self._transport is None or self._has_eof:
            self._leave()
            return
        self._flush()
        self._is_leaving = True
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _await_more(self) -> None:
        """Nothing is left to answer: let the peer go on, if it can."""
        if self._has_eof:
            self._leave()
        elif self._reader.awaits_continue:
            self._reader.acknowledge_continue()
            self._write([CONTINUE])

    def _write(self, pieces: Sequence[bytes]) -> None:
        """Send soon, with what others are sent; at once where that is much."""
        is_first = not self._unsent
        self._unsent += pieces
        self._unsent_bytes += sum(map(len, pieces))
        if self._unsent_bytes >= LARGE_BYTES:
            self._flush()
        elif is_first:
            self._server.turns.send_soon(self)

    def _flush(self) -> None:
        """Send what has been written; small pieces are cheaper joined than sent one by one."""
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if not unsent or self._transport is None or self._transport.is_closing():
            return
        if len(unsent) > 1 and len(unsent[-1]) >= LARGE_BYTES:
            self._transport.write(b"".join(unsent[:-1]))
            self._transport.write(unsent[-1])
        else:
            self._transport.write(b"".join(unsent))

    def _leave(self) -> None:
        self._flush()
        self._is_leaving = True
        # Once only: asyncio's TLS forgets what it would have to abort when it is closed twice.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def _pace_reading(self) -> None:
        """Read while nothing waits its turn: a peer shall fill its own buffers, not ours."""
        should_pause = self._has_more and not self._is_leaving
        if should_pause == self._is_reading_paused or self._transport is None:
            return
        self._is_reading_paused = should_pause
        if self._transport.is_closing() or self._has_eof:
            return
        if should_pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _phase(self) -> Phase:
        if self._pending is not None:
            return Phase.ANSWER
        if self._is_writing_paused:
            return Phase.ROOM
        if not self._is_leaving:
            return READING_PHASES[self._reader.stage]
        is_sending = self._transport is not None and self._transport.get_write_buffer_size()
        return Phase.ROOM if is_sending else Phase.LINGER

    def _watch(self) -> None:
        """Set the deadline of the phase that has begun.

        A head has one deadline however it dribbles in; a body gets more time with every read as
        long as they bring enough.
        """
        phase = self._phase()
        watched = (phase, self._reader.begun)
        if self._transport is None or (watched == self._watched and phase is not Phase.BODY):
            return
        if phase is Phase.BODY:
            self._await_body(is_new=watched != self._watched)
        else:
            self._deadline.set(self._server.patience_in(phase))
        self._watched = watched
        if phase is Phase.ROOM:
            self._untaken_bytes = self._transport.get_write_buffer_size() + self._unsent_bytes

    def _await_body(self, *, is_new: bool) -> None:
        """Wait for the next piece of a body, or for the end of the while that it is judged by."""
        self._heard_s = self._loop.time()
        if is_new:
            self._progress = Progress(self._heard_s, self._reader.held_bytes)
        self._set_body_deadline()

    def _set_body_deadline(self) -> None:
        patience_s = self._server.patience.stall_s
        ends_s = min(self._heard_s + patience_s, self._progress.ends_s(patience_s))
        self._deadline.set(ends_s - self._loop.time())

    def _on_deadline(self) -> None:
        phase = self._phase()
        if phase is Phase.BODY and self._comes_quickly_enough():
            self._set_body_deadline()
        elif phase in (Phase.HEAD, Phase.BODY):
            self._refuse(Refusal(408))
            self._watch()
        elif phase is Phase.IDLE:
            self._leave()
            self._watch()
        elif phase is Phase.LINGER:
            self.abort()
        elif not self._wait_on_if_moving():
            self._server.on_cut(address_of(self._transport))
            self.abort()

    def _comes_quickly_enough(self) -> bool:
        """Whether the deadline was that of a while in which the body brought what it has to."""
        now_s, patience_s = self._loop.time(), self._server.patience.stall_s
        if now_s - self._heard_s >= patience_s:
            return False
        return not self._progress.is_too_slow(now_s, self._reader.held_bytes, patience_s)

    def _wait_on_if_moving(self) -> bool:
        """Give a slow peer more time as long as it reads at all."""
        if self._transport is None:
            return False
        untaken_bytes = self._transport.get_write_buffer_size() + self._unsent_bytes
        if untaken_bytes >= self._untaken_bytes:
            return False
        self._untaken_bytes = untaken_bytes
        self._deadline.set(self._server.patience_in(self._phase()))
        return True


def _hold_anything(_more_bytes: int) -> bool:
    return True


def _tell_nobody(*_what: object) -> None:
    pass


class Http1Server:
    """The HTTP/1.1 connections of one handler, whoever accepts them.

    Made without any I/O; ``connection`` is the protocol factory for others' doors.  Used from the
    event loop's thread only.
    """

    def __init__(
        self,
        handler: HttpHandler,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: Limits | None = None,
        patience: Patience | None = None,
        wall_clock: Callable[[], float] = time.time,
        hold: Callable[[int], bool] = _hold_anything,
        turns: Turns | None = None,
        on_refusal: Callable[[str, int], None] = _tell_nobody,
        on_cut: Callable[[str], None] = _tell_nobody,
    ) -> None:
        """``hold`` counts bytes of unfinished bodies and says whether there is room for them.

        ``on_refusal`` hears of each client, by its address, that was told with a status that it
        cannot be read on, ``on_cut`` of each that did not read its answer.
        """
        self.patience: Final = patience or Patience()
        self.handler: Final = handler
        self.loop: Final = loop
        self.limits: Final = limits or Limits()
        self.known_heads: Final = KnownHeads()
        self.date: Final = DateStamp(wall_clock)
        self.responses: Final = ResponseEncoder(self.date)
        self.hold: Final = hold
        self.turns: Final = turns or Turns(loop)
        self.on_refusal: Final = on_refusal
        self.on_cut: Final = on_cut
        self._patience: Final[dict[Phase, float | None]] = {
            Phase.IDLE: self.patience.idle_s,
            Phase.HEAD: self.patience.head_s,
            Phase.BODY: self.patience.stall_s,
            Phase.ANSWER: None,
            Phase.ROOM: self.patience.stall_s,
            Phase.LINGER: self.patience.linger_s,
        }
        self._connections: set[Http1Protocol] = set()
        self._emptied: asyncio.Future[None] | None = None
        self.is_draining = False
        """Whether the next answer of every connection is its last."""

    @property
    def open_connections(self) -> int:
        """Connections that are there: the one figure that costs nothing."""
        return len(self._connections)

    def statistics(self) -> HttpStatistics:
        """What the server is doing right now."""
        return HttpStatistics(
            open_connections=len(self._connections),
            in_flight=sum(each.is_busy for each in self._connections),
            is_draining=self.is_draining,
        )

    def connection(self) -> Http1Protocol:
        """The protocol for a connection that has been accepted."""
        return Http1Protocol(self)

    def patience_in(self, phase: Phase) -> float | None:
        """How many seconds a connection may stay in ``phase``."""
        return self._patience[phase]

    def opened(self, connection: Http1Protocol) -> None:
        """Count a connection in."""
        self._connections.add(connection)

    def closed(self, connection: Http1Protocol) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def begin_drain(self) -> None:
        """From now on every answer is the last of its connection."""
        self.is_draining = True
        for connection in tuple(self._connections):
            connection.drain()

    async def drain(self, grace_s: float) -> None:
        """Answer what has begun, and cut what is not done after ``grace_s``."""
        self.begin_drain()
        await self._wait_until_empty(grace_s)
        await self.close()

    async def close(self) -> None:
        """Cut every connection."""
        for connection in tuple(self._connections):
            connection.abort()
        await self._wait_until_empty(None)

    async def _wait_until_empty(self, timeout_s: float | None) -> None:
        if not self._connections:
            return
        if self._emptied is None or self._emptied.done():
            self._emptied = self.loop.create_future()
        await asyncio.wait([self._emptied], timeout=timeout_s)
