"""HTTP/1.1 connections on asyncio: reads requests, awaits the handler, writes its answers.

Knows no path and no model: ``handler`` does.  One connection has one request in flight; what a
client pipelines waits its turn, so answers keep the order of the requests.  No peer can make it
hold more than one request, one read and one response at a time, nor wait without an end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import coroutine
from typing import Any, Final, cast

from salver.wire.accepting import BACKLOG
from salver.wire.http1_messages import (
    CONTINUE,
    DateStamp,
    HttpRequest,
    HttpResponse,
    Limits,
    Received,
    Refusal,
    RequestReader,
    Stage,
    encode_response,
    error_page,
)

logger = logging.getLogger(__name__)

# Any: what a coroutine yields and is sent is between it and the event loop.
Handler = Callable[[HttpRequest], Coroutine[Any, Any, HttpResponse]]

REQUESTS_PER_TURN: Final = 32
"""Pipelined requests that are answered in a row before the event loop looks at other peers."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a connection waits for its peer.

    ``idle_s`` outlives the 600 s for which the load balancers of some clouds keep a connection
    for reuse: whoever closes first must be the side that sends next.
    """

    idle_s: float = 620.0
    head_s: float = 60.0
    stall_s: float = 60.0
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
        self._reader = RequestReader(server.limits)
        self._deadline = Deadline(server.loop, self._on_deadline)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[HttpResponse] | None = None
        self._watched: tuple[Phase, int] | None = None
        self._unsent_bytes = 0
        self._held_bytes = 0
        self._has_eof = False
        self._is_reading_paused = False
        self._is_writing_paused = False
        self._is_leaving = False
        self._is_turn_coming = False

    @property
    def is_busy(self) -> bool:
        """Whether the handler is at work on a request."""
        return self._task is not None

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
        self._reader.feed(data)
        self._count_held()
        self._advance()

    def eof_received(self) -> bool:
        """The peer will send no more; true keeps the connection for the answers it still gets.

        TLS knows no half-open connection: there the end of one side is the end of both.
        """
        self._has_eof = True
        can_stay = self._transport is not None and self._transport.can_write_eof()
        return can_stay and not self._is_leaving and not self._is_done

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """The connection is gone."""
        self._transport = None
        self._is_leaving = True
        self._deadline.cancel()
        if self._task is not None:
            self._task.cancel()
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
        return not (self._task or self._is_writing_paused or self._reader.has_arrivals)

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
        for _ in range(REQUESTS_PER_TURN):
            if self._task or self._is_writing_paused or self._is_leaving:
                break
            arrival = self._reader.next_arrival()
            if arrival is None:
                self._await_more()
                break
            if isinstance(arrival, Received):
                self._start(arrival)
            else:
                self._refuse(arrival)
        else:
            self._ask_for_a_turn()
        self._pace_reading()
        self._watch()

    def _ask_for_a_turn(self) -> None:
        """Let the other connections go first: one read may hold thousands of requests."""
        if not self._is_turn_coming:
            self._is_turn_coming = True
            self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._is_turn_coming = False
        self._advance()

    def _start(self, received: Received) -> None:
        """Run the handler's first step here and now: most answers need no second one.

        Only a handler that has to wait is worth the price of a task.
        """
        answering = self._server.handler(received.request)
        try:
            awaited = answering.send(None)
        except StopIteration as done:
            self._answer(received, done.value)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- it costs its request only
            self._answer(received, answer_to_failure(received.request, error))
        else:
            self._task = self._loop.create_task(finished(answering, awaited))
            self._task.add_done_callback(partial(self._finish, received, answering))

    def _finish(
        self,
        received: Received,
        answering: Coroutine[Any, Any, HttpResponse],
        task: asyncio.Task[HttpResponse],
    ) -> None:
        answering.close()  # a task cancelled before its first step never got to it
        self._task = None
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
            encode_response(
                response,
                date=self._server.date.text(),
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
        page = encode_response(
            error_page(refusal.status), date=self._server.date.text(), keep_alive=False
        )
        self._write(page)
        if self._transport is None or self._has_eof:
            self._leave()
            return
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
        if self._transport is None or self._transport.is_closing():
            return
        for piece in pieces:
            self._transport.write(piece)

    def _leave(self) -> None:
        self._is_leaving = True
        # Once only: asyncio's TLS forgets what it would have to abort when it is closed twice.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def _pace_reading(self) -> None:
        """Read while nothing waits its turn: a peer shall fill its own buffers, not ours."""
        should_pause = self._reader.has_arrivals and not self._is_leaving
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
        if self._task is not None:
            return Phase.ANSWER
        if self._is_writing_paused:
            return Phase.ROOM
        if not self._is_leaving:
            return READING_PHASES[self._reader.stage]
        is_sending = self._transport is not None and self._transport.get_write_buffer_size()
        return Phase.ROOM if is_sending else Phase.LINGER

    def _watch(self) -> None:
        """Set the deadline of the phase that has begun.

        A head has one deadline however it dribbles in; a body gets more time with every read.
        """
        phase = self._phase()
        watched = (phase, self._reader.begun)
        if self._transport is None or (watched == self._watched and phase is not Phase.BODY):
            return
        self._watched = watched
        if phase is Phase.ROOM:
            self._unsent_bytes = self._transport.get_write_buffer_size()
        self._deadline.set(self._server.patience_in(phase))

    def _on_deadline(self) -> None:
        phase = self._phase()
        if phase in (Phase.HEAD, Phase.BODY):
            self._refuse(Refusal(408))
            self._watch()
        elif phase is Phase.IDLE:
            self._leave()
            self._watch()
        elif phase is Phase.LINGER or not self._wait_on_if_moving():
            self.abort()

    def _wait_on_if_moving(self) -> bool:
        """Give a slow peer more time as long as it reads at all."""
        if self._transport is None:
            return False
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes >= self._unsent_bytes:
            return False
        self._unsent_bytes = unsent_bytes
        self._deadline.set(self._server.patience_in(self._phase()))
        return True


def _hold_anything(_more_bytes: int) -> bool:
    return True


class Http1Server:
    """The connections of one handler and the sockets they come from.

    Made without any I/O; ``listen`` opens doors, ``connection`` is the protocol factory for
    others' doors.  Used from the event loop's thread only.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: Limits | None = None,
        patience: Patience | None = None,
        wall_clock: Callable[[], float] = time.time,
        hold: Callable[[int], bool] = _hold_anything,
    ) -> None:
        """``hold`` counts bytes of unfinished bodies and says whether there is room for them."""
        patience = patience or Patience()
        self.handler: Final = handler
        self.loop: Final = loop
        self.limits: Final = limits or Limits()
        self.date: Final = DateStamp(wall_clock)
        self.hold: Final = hold
        self._patience: Final[dict[Phase, float | None]] = {
            Phase.IDLE: patience.idle_s,
            Phase.HEAD: patience.head_s,
            Phase.BODY: patience.stall_s,
            Phase.ANSWER: None,
            Phase.ROOM: patience.stall_s,
            Phase.LINGER: patience.linger_s,
        }
        self._sockets: list[socket.socket] = []
        self._listeners: list[asyncio.AbstractServer] = []
        self._connections: set[Http1Protocol] = set()
        self._emptied: asyncio.Future[None] | None = None
        self._is_draining = False

    @property
    def is_draining(self) -> bool:
        """Whether the next answer of every connection is its last."""
        return self._is_draining

    @property
    def sockets(self) -> list[socket.socket]:
        """The sockets that are listened on."""
        return list(self._sockets)

    @property
    def open_connections(self) -> int:
        """Connections that are there: the one figure that costs nothing."""
        return len(self._connections)

    def statistics(self) -> HttpStatistics:
        """What the server is doing right now."""
        return HttpStatistics(
            open_connections=len(self._connections),
            in_flight=sum(each.is_busy for each in self._connections),
            is_draining=self._is_draining,
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

    async def listen(self, listening: socket.socket) -> None:
        """Accept connections from a bound TCP or UNIX socket, which is the server's from now on."""
        if listening.family == socket.AF_UNIX:
            opening: Awaitable[asyncio.AbstractServer] = self.loop.create_unix_server(
                self.connection, sock=listening, backlog=BACKLOG
            )
        else:
            opening = self.loop.create_server(self.connection, sock=listening, backlog=BACKLOG)
        self._listeners.append(await opening)
        self._sockets.append(listening)

    def stop_accepting(self) -> None:
        """Close the doors; connections go on."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._sockets.clear()

    def begin_drain(self) -> None:
        """Stop accepting; from now on every answer is the last of its connection."""
        self._is_draining = True
        self.stop_accepting()
        for connection in tuple(self._connections):
            connection.drain()

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, answer what has begun, and cut what is not done after ``grace_s``."""
        self.begin_drain()
        await self._wait_until_empty(grace_s)
        await self.close()

    async def close(self) -> None:
        """Stop accepting and cut every connection."""
        self.stop_accepting()
        for connection in tuple(self._connections):
            connection.abort()
        await self._wait_until_empty(None)

    async def _wait_until_empty(self, timeout_s: float | None) -> None:
        if not self._connections:
            return
        if self._emptied is None or self._emptied.done():
            self._emptied = self.loop.create_future()
        await asyncio.wait([self._emptied], timeout=timeout_s)


async def start_http_server(
    handler: Handler,
    listening: Sequence[socket.socket],
    *,
    limits: Limits | None = None,
    patience: Patience | None = None,
) -> Http1Server:
    """Serve ``handler`` on bound sockets: see ``accepting.bind_tcp`` and ``bind_unix``."""
    server = Http1Server(handler, loop=asyncio.get_running_loop(), limits=limits, patience=patience)
    for each in listening:
        await server.listen(each)
    return server
