"""One listener for both protocols: connections in, told apart by their first bytes.

A connection that begins with HTTP/2's preface speaks HTTP/2, any other HTTP/1.1; with TLS or
without, which each address has its own way.  The same gRPC methods and the same HTTP handler
answer on every address, so either port speaks both.

Every connection is known here: how many there are, since when one has stood still, how old it is,
and which are still to finish when the server drains.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from time import perf_counter
from typing import Any, Final, cast

from salver.wire.accepting import Acceptor, peer_of, within_file_descriptors
from salver.wire.calls import Methods
from salver.wire.complaints import COMPLAINT_S as COMPLAINT_S  # for those who take it from here
from salver.wire.complaints import Complaints
from salver.wire.exchanges import ExchangeLimits
from salver.wire.http1 import Http1Server
from salver.wire.http1 import Patience as Http1Patience
from salver.wire.http1_messages import HttpHandler, Limits, reason_phrase
from salver.wire.http2 import Http2Limits
from salver.wire.http2_frames import PREFACE, ErrorCode
from salver.wire.http2_protocol import Http2Protocol
from salver.wire.huffman import Huffman
from salver.wire.memory import a_quarter_of_memory
from salver.wire.misconduct import Misconduct
from salver.wire.pings import PingRules
from salver.wire.progress import LEAST_BYTES_PER_S
from salver.wire.turns import Turns

logger = logging.getLogger(__name__)

SWEEP_S: Final = 1.0
"""How often connections are looked at for one that has stood still."""

LOOKS_PER_TURN: Final = 256
"""Connections that are looked at in a row before the event loop turns to those that speak."""

LEAVE_NOTICE_S: Final = 0.1
"""Between telling a client to go elsewhere and refusing what it begins: a round trip's worth."""

AGE_JITTER: Final = 0.1
"""The part of the highest age by which connections differ, so that they do not all go at once."""

TLS_HANDSHAKE: Final = 0x16
"""The first byte of a client that speaks TLS."""

ENOUGH_TO_TELL: Final = 3
"""No method of HTTP/1.1 begins like the preface for this long."""

NEVER_S: Final = 86_400.0

MISCONDUCT: Final = frozenset({400, 414, 431, 501, 505})
"""What HTTP/1.1 answers to what is no request; the others may happen to honest clients."""

SERVICE_UNAVAILABLE: Final = 503

UNIX_SOCKET: Final = "a UNIX socket"

NOT_TLS: Final = frozenset({"HTTP_REQUEST", "WRONG_VERSION_NUMBER", "HTTPS_PROXY_REQUEST"})
"""What OpenSSL calls a client that speaks in the clear."""

ContextSource = Callable[[], ssl.SSLContext]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a connection may keep the server waiting, in seconds; ``math.inf`` sets no end.

    The keep-alive and age figures are those of gRPC's servers, and so are their names.  They hold
    for HTTP/2; an HTTP/1.1 connection has its own patience.
    """

    handshake_s: float = 20.0
    """For TLS, and for a first word that has begun."""
    silence_s: float = 620.0
    """Before the first word: clients keep connections in reserve."""
    stall_s: float = 60.0
    """For a client that has the next move: to begin in due form, to go on with a request, to read.

    A request that is not complete also has to bring ``progress.LEAST_BYTES_PER_S`` of its body on
    average over each such while, so one whose body is short has to be whole by the end of it.
    Pings and the like are no progress.
    """
    goodbye_s: float = 5.0
    """For a client to take some more of our last bytes, and to hang up."""
    keepalive_time_s: float = 7200.0
    keepalive_timeout_s: float = 20.0
    keepalive_permit_without_calls: bool = True
    max_connection_idle_s: float = math.inf
    max_connection_age_s: float = math.inf
    max_connection_age_grace_s: float = math.inf


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """What all connections together may take."""

    connections: int = 20_000
    """Fewer where the process may not have as many file descriptors."""
    held_bytes: int | None = None
    """Of requests that are not complete; None allows a quarter of the memory there is."""


@dataclass(frozen=True, slots=True)
class ListenerStatistics:
    """What a listener is doing right now."""

    open_connections: int
    in_flight: int
    held_bytes: int
    is_draining: bool


@dataclass(slots=True)
class _Course:
    """What the sweep knows of an HTTP/2 connection."""

    busy_s: float
    old_s: float
    """When it has become too old."""
    told_s: float | None = None
    """Since when it knows that it has to go."""
    cut_s: float = math.inf
    """When it is cut off, whatever it does."""
    unsent_bytes: int | None = None
    """What was still to be sent after the goodbye, when last looked at."""
    moved_s: float = 0.0
    """When that last grew less."""


class Listener:
    """The addresses of a server and the connections they bring.

    Made without any I/O; ``listen`` opens an address.  Used from the event loop's thread only.
    """

    def __init__(
        self,
        methods: Methods,
        http_handler: HttpHandler,
        *,
        loop: asyncio.AbstractEventLoop,
        patience: Patience | None = None,
        limits: ListenerLimits | None = None,
        http1_limits: Limits | None = None,
        http1_patience: Http1Patience | None = None,
        http2_limits: Http2Limits | None = None,
        exchange_limits: ExchangeLimits | None = None,
        ping_rules: PingRules | None = None,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        turn_clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.methods: Methods = methods
        self.http_handler = http_handler
        self.loop = loop
        self.huffman = Huffman()
        self.http2_limits = http2_limits or Http2Limits()
        self.exchange_limits = exchange_limits or ExchangeLimits()
        self.ping_rules = ping_rules
        self.turns = Turns(loop, turn_clock)
        self.http1 = Http1Server(
            http_handler,
            loop=loop,
            limits=http1_limits,
            patience=http1_patience,
            wall_clock=wall_clock,
            hold=self.hold,
            turns=self.turns,
            on_refusal=self._refused,
            on_cut=self._cut,
        )
        self.date = self.http1.date
        self.patience: Final = patience or Patience()
        self.complaints: Final = Complaints(loop.time, logger)
        self._misconduct: Final = Misconduct(loop.time)
        self.is_draining = False
        self.is_closed = False
        limits = limits or ListenerLimits()
        self._max_held_bytes = (
            a_quarter_of_memory() if limits.held_bytes is None else limits.held_bytes
        )
        self._max_connections = within_file_descriptors(limits.connections)
        self._jitter = jitter
        self._acceptors: list[Acceptor] = []
        self._arriving: dict[Newcomer, asyncio.Task[None]] = {}
        self._newcomers: set[Newcomer] = set()
        self._http2: dict[Http2Protocol, _Course] = {}
        self._held_bytes = 0
        self._emptied: asyncio.Future[None] | None = None
        self._sweeper: asyncio.Handle | None = None

    # Addresses.

    def listen(self, listening: socket.socket, tls: ContextSource | None = None) -> None:
        """Accept connections from a bound socket, which is the listener's from now on.

        ``tls`` gives the context for each new connection, so that a renewed certificate holds from
        the next one on; with it, nothing is said in the clear.
        """
        acceptor = Acceptor(listening, partial(self._welcome, tls), loop=self.loop)
        self._acceptors.append(acceptor)
        self._start_sweeping()

    def statistics(self) -> ListenerStatistics:
        """What the listener is doing right now."""
        http1 = self.http1.statistics()
        return ListenerStatistics(
            open_connections=self._count(),
            in_flight=http1.in_flight + sum(each.in_flight for each in self._http2),
            held_bytes=self._held_bytes,
            is_draining=self.is_draining,
        )

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, answer what has begun, and cut what is not done after ``grace_s``.

        HTTP/2's clients are told first and refused a moment later, so that what they had already
        sent is still answered (RFC 9113 section 6.8).
        """
        self.is_draining = True
        self._stop_accepting()
        ends_s = self.loop.time() + grace_s
        self.http1.begin_drain()
        for each in self._http2:
            each.announce_leave()
        await asyncio.sleep(min(LEAVE_NOTICE_S, grace_s))
        self._drop_newcomers()
        for connection in tuple(self._http2):
            connection.leave()
        left_s = max(ends_s - self.loop.time(), 0.0)
        await asyncio.gather(self.http1.drain(left_s), self._wait_until_empty(left_s))
        await self.close()

    async def close(self) -> None:
        """Stop accepting and cut every connection."""
        self.is_closed = True
        self._stop_accepting()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._drop_newcomers()
        for connection in tuple(self._http2):
            connection.abort()
        await self.http1.close()
        await self._wait_until_empty(None)

    # What connections tell.

    def newcomer(self) -> Newcomer:
        """The protocol for a connection that has been accepted."""
        return Newcomer(self)

    def arrived(self, newcomer: Newcomer) -> None:
        """A connection is there, and has not said what it speaks."""
        self._arriving.pop(newcomer, None)
        self._newcomers.add(newcomer)
        self._start_sweeping()

    def told_apart(self, newcomer: Newcomer) -> None:
        """A connection has said what it speaks, or is gone."""
        self._newcomers.discard(newcomer)
        self._note_if_empty()

    def opened(self, connection: Http2Protocol) -> None:
        """An HTTP/2 connection began."""
        now_s = self.loop.time()
        spread = 1.0 + AGE_JITTER * (2.0 * self._jitter() - 1.0)
        old_s = now_s + self.patience.max_connection_age_s * spread
        self._http2[connection] = _Course(busy_s=now_s, old_s=old_s)
        if self.is_draining:
            connection.announce_leave()

    def closed(self, connection: Http2Protocol) -> None:
        """An HTTP/2 connection is gone."""
        self._http2.pop(connection, None)
        self._note_if_empty()

    def hold(self, more_bytes: int) -> bool:
        """Count bytes of unfinished requests; whether there is room for them."""
        self._held_bytes += more_bytes
        if self._held_bytes <= self._max_held_bytes:
            return True
        if more_bytes > 0:
            self.complaints.say(
                "Unfinished requests hold %d MiB, as much as all of them may: more are refused",
                self._max_held_bytes >> 20,
            )
        return False

    def sent_away(self, address: str, code: ErrorCode, reason: str) -> None:
        """An HTTP/2 client broke the rules and its connection was ended."""
        self._misconduct.note(address)
        # The reasons for this one are as many as there are in the code; others quote the client.
        kind = reason if code is ErrorCode.ENHANCE_YOUR_CALM else code.name
        self.complaints.say(
            "The client at %s was sent away: %s (HTTP/2, %s)",
            address or UNIX_SOCKET,
            reason,
            code.name,
            kind=f"sent away: {kind}",
        )

    def refused_to_unpack(self, address: str, reason: str) -> None:
        """A gRPC client sent a compressed message that would have grown beyond what is allowed."""
        self.complaints.say(
            "A call of the client at %s was refused: %s",
            address or UNIX_SOCKET,
            reason,
        )

    def _refused(self, address: str, status: int) -> None:
        """An HTTP/1.1 client sent what cannot be read on, and was told so."""
        if status == SERVICE_UNAVAILABLE:
            return  # the allowance of all is used up, which has a line of its own
        if status in MISCONDUCT:
            self._misconduct.note(address)
        reason = reason_phrase(status)
        self.complaints.say(
            "The client at %s was sent away: %d %s (HTTP/1.1)",
            address or UNIX_SOCKET,
            status,
            reason,
            kind=f"refused: {status}",
        )

    def _cut(self, address: str) -> None:
        """An HTTP/1.1 client was cut off with an answer that it did not read."""
        self.complaints.say(
            "The client at %s did not read its answer and was cut off", address or UNIX_SOCKET
        )

    # Arrivals.

    def _welcome(self, tls: ContextSource | None, accepted: socket.socket) -> None:
        if self._count() >= self._max_connections:
            accepted.close()
            self.complaints.say("A connection was refused: %d are open", self._count())
            return
        newcomer = self.newcomer()
        task = self.loop.create_task(self._connect(newcomer, accepted, tls))
        self._arriving[newcomer] = task
        task.add_done_callback(lambda _: self._arriving.pop(newcomer, None))

    def _delay_s(self, address: str) -> float:
        """How long a connection waits because of others from its address; for most, not at all."""
        delay_s = self._misconduct.delay_s(address)
        if delay_s:
            self.complaints.say(
                "The client at %s keeps coming back after it was sent away: its connections wait",
                address,
            )
        return delay_s

    async def _connect(
        self, newcomer: Newcomer, accepted: socket.socket, tls: ContextSource | None
    ) -> None:
        """Give an accepted socket to its newcomer, after TLS's handshake if that is how it is here.

        A client that stays away, or leaves, before it has said anything is no event.
        """
        address, began_s = "", 0.0
        try:
            if tls is not None or not self._misconduct.is_unheard_of:
                address = peer_of(accepted)
            if delay_s := self._delay_s(address):
                await _keep_waiting(accepted, delay_s)
            began_s = self.loop.time()
            settings = {} if tls is None else self._tls_settings(tls())
            await self.loop.connect_accepted_socket(lambda: newcomer, accepted, **settings)
        except ssl.SSLError as error:
            self._misconduct.note(address)
            self._complain_of_handshake(error)
        except OSError as error:
            if tls is not None and self.loop.time() - began_s >= self.patience.handshake_s:
                self.complaints.say(
                    "A TLS handshake took longer than %g s and was cut off",
                    self.patience.handshake_s,
                )
                return
            logger.debug("A connection was lost before it began: %s", error)

    def _tls_settings(self, context: ssl.SSLContext) -> dict[str, Any]:
        # Any: they are of several types, and Python 3.10 does not have them all.
        settings = {"ssl": context, "ssl_handshake_timeout": self.patience.handshake_s}
        if sys.version_info >= (3, 11):
            # The loops would count the time the last answer takes; here its progress counts.
            settings["ssl_shutdown_timeout"] = NEVER_S
        return settings

    def _complain_of_handshake(self, error: ssl.SSLError) -> None:
        if error.reason in NOT_TLS:
            self.complaints.say(
                "A client that does not speak TLS was turned away from an address that does"
            )
        else:
            self.complaints.say("A TLS handshake failed: %s", error.reason or error)

    def _drop_newcomers(self) -> None:
        for task in tuple(self._arriving.values()):
            task.cancel()
        for newcomer in tuple(self._newcomers):
            newcomer.abort()

    # The sweep.

    def _start_sweeping(self) -> None:
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._look_at_some(chain(tuple(self._newcomers), tuple(self._http2.items())))

    def _look_at_some(self, waiting: Iterator[Newcomer | tuple[Http2Protocol, _Course]]) -> None:
        """Look at some connections, then let the others speak before the next ones' turn."""
        now_s = self.loop.time()
        seen = 0
        for each in islice(waiting, LOOKS_PER_TURN):
            seen += 1
            if isinstance(each, Newcomer):
                each.look(now_s)
            else:
                self._look_at(*each, now_s)
        if seen == LOOKS_PER_TURN:
            self._sweeper = self.loop.call_soon(self._look_at_some, waiting)
        else:
            self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)

    def _look_at(self, connection: Http2Protocol, course: _Course, now_s: float) -> None:
        patience = self.patience
        connection.connection.forgive()
        since_s = connection.stands_still_since()
        if now_s >= course.cut_s:
            connection.abort()
        elif connection.connection.is_closed:
            self._look_at_goodbye(connection, course, now_s)
        elif since_s is not None and now_s - since_s > patience.stall_s:
            self.complaints.say(
                "An HTTP/2 client stood still for %g s and was cut off", patience.stall_s
            )
            connection.close(ErrorCode.ENHANCE_YOUR_CALM, "the client stood still")
            connection.abort()
        elif connection.dawdles(patience.stall_s):
            self.complaints.say(
                "An HTTP/2 client sent a request at less than %d octets a second and was cut off",
                LEAST_BYTES_PER_S,
            )
            connection.close(ErrorCode.ENHANCE_YOUR_CALM, "a request comes too slowly")
            connection.abort()
        else:
            self._look_at_age(connection, course, now_s)
            if connection.in_flight or patience.keepalive_permit_without_calls:
                time_s, timeout_s = patience.keepalive_time_s, patience.keepalive_timeout_s
                connection.keep_alive(now_s, time_s, timeout_s)

    def _look_at_goodbye(self, connection: Http2Protocol, course: _Course, now_s: float) -> None:
        """Wait for the last bytes to leave for as long as they do."""
        unsent_bytes = connection.unsent_bytes
        if course.unsent_bytes is None or unsent_bytes < course.unsent_bytes:
            course.unsent_bytes, course.moved_s = unsent_bytes, now_s
        elif now_s - course.moved_s >= self.patience.goodbye_s:
            connection.abort()

    def _look_at_age(self, connection: Http2Protocol, course: _Course, now_s: float) -> None:
        """Send a connection away that is too old or has been idle for too long, in good order."""
        patience = self.patience
        if connection.in_flight:
            course.busy_s = now_s
        is_old = now_s >= course.old_s
        if is_old and math.isinf(course.cut_s):
            course.cut_s = now_s + patience.max_connection_age_grace_s
        if connection.connection.is_leaving:
            connection.close_when_idle()
        elif course.told_s is not None:
            if now_s - course.told_s >= LEAVE_NOTICE_S:
                connection.leave()
        elif is_old or now_s - course.busy_s > patience.max_connection_idle_s:
            course.told_s = now_s
            connection.announce_leave()

    # The end.

    def _count(self) -> int:
        """Connections of every kind, those in TLS's handshake included."""
        ours = len(self._arriving) + len(self._newcomers) + len(self._http2)
        return ours + self.http1.open_connections

    def _stop_accepting(self) -> None:
        for each in self._acceptors:
            each.close()
        self._acceptors.clear()

    @property
    def _is_empty(self) -> bool:
        """Whether nobody is there; of HTTP/1.1 its own server knows."""
        return not self._http2 and not self._newcomers

    def _note_if_empty(self) -> None:
        if self._is_empty and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    async def _wait_until_empty(self, timeout_s: float | None) -> None:
        if self._is_empty:
            return
        if self._emptied is None or self._emptied.done():
            self._emptied = self.loop.create_future()
        await asyncio.wait([self._emptied], timeout=timeout_s)


async def _keep_waiting(accepted: socket.socket, delay_s: float) -> None:
    try:
        await asyncio.sleep(delay_s)
    except asyncio.CancelledError:
        accepted.close()  # nobody else has it yet
        raise


class Newcomer(asyncio.Protocol):
    """A connection that has not said what it speaks: it becomes one protocol or the other."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._since_s = listener.loop.time()
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait to be spoken to, unless the listener has closed in the meantime."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        if self._listener.is_closed:
            self.abort()
            return
        self._since_s = self._listener.loop.time()
        self._listener.arrived(self)

    def data_received(self, data: bytes) -> None:
        """Tell the protocol from the first bytes, and hand over."""
        if not self._received:
            self._since_s = self._listener.loop.time()
        self._received += data
        start = self._received[:ENOUGH_TO_TELL]
        if start == PREFACE[: len(start)]:
            if len(start) == ENOUGH_TO_TELL:
                self._become(Http2Protocol(self._listener))
        elif start[0] == TLS_HANDSHAKE:
            self._listener.complaints.say(
                "A client that speaks TLS was turned away from an address that does not"
            )
            self.abort()
        else:
            self._become(self._listener.http1.connection())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """It left before it said anything."""
        self._transport = None
        self._listener.told_apart(self)

    def look(self, now_s: float) -> None:
        """Drop the connection if it has kept everybody waiting for too long."""
        patience = self._listener.patience
        limit_s = patience.handshake_s if self._received else patience.silence_s
        if now_s - self._since_s <= limit_s:
            return
        if self._received:
            self._listener.complaints.say(
                "A client did not end its first word within %g s and was cut off", limit_s
            )
        self.abort()

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _become(self, protocol: asyncio.Protocol) -> None:
        transport, received = self._transport, self._received
        if transport is None or transport.is_closing():
            return
        self._transport = None
        self._received = b""
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self._listener.told_apart(self)  # after it is counted elsewhere: it never is nowhere
        protocol.data_received(received)
