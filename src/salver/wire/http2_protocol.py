"""HTTP/2 connections on asyncio: bytes from a transport to exchanges, and their answers back.

Everything one arrival brings about leaves in one write.  Who sends much is acted on in turns with
the other connections, and not read from meanwhile.  Every wait for a peer has an end: the server's
sweep looks at each connection now and then and ends those whose peer has stood still.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, cast

from salver.wire.accepting import address_of
from salver.wire.calls import Methods
from salver.wire.exchanges import NO_ROOM, Exchange, ExchangeLimits, exchange_for
from salver.wire.http1_messages import DateStamp, HttpHandler
from salver.wire.http2 import (
    DataReceived,
    Event,
    Http2Connection,
    Http2Limits,
    PingReceived,
    RequestReceived,
    StreamEnded,
    StreamFlushed,
)
from salver.wire.http2_frames import ErrorCode
from salver.wire.huffman import Huffman
from salver.wire.pings import TOO_MANY, PingRules, PingWatch
from salver.wire.progress import Progress
from salver.wire.turns import Turns

PIECE_BYTES: Final = 4096
"""As much of what arrived is read at once: it may hold hundreds of frames."""

FEW_EVENTS: Final = 8
"""So many are acted on without a look at the clock; most reads bring no more."""


SPARED_BYTES: Final = 1024
"""Of a frame that is cut off: no connection ends for so few, although all of them are counted."""


class Owner(Protocol):
    """What a connection needs of the server it belongs to."""

    loop: asyncio.AbstractEventLoop
    methods: Methods
    http_handler: HttpHandler
    huffman: Huffman
    http2_limits: Http2Limits
    exchange_limits: ExchangeLimits
    ping_rules: PingRules | None
    turns: Turns
    date: DateStamp

    def opened(self, connection: Http2Protocol) -> None:
        """A connection was made."""

    def closed(self, connection: Http2Protocol) -> None:
        """A connection is gone."""

    def hold(self, more_bytes: int) -> bool:
        """Count bytes of unfinished requests; whether there is room for them."""

    def sent_away(self, address: str, code: ErrorCode, reason: str) -> None:
        """A client broke the rules and its connection was ended."""

    def refused_to_unpack(self, address: str, reason: str) -> None:
        """A client sent a compressed message that was refused for what it would have grown to."""


class Http2Protocol(asyncio.Protocol):
    """One connection and its exchanges."""

    def __init__(self, owner: Owner) -> None:
        self.loop = owner.loop
        self.date = owner.date
        self.connection = Http2Connection(owner.huffman, owner.http2_limits)
        self._owner = owner
        self._turns = owner.turns
        self._exchanges: dict[int, Exchange] = {}
        self._parts: dict[int, int] = {}  # bytes that came of bodies which are not complete
        self._progress: dict[int, Progress] = {}  # of those that the sweep has seen before
        self._transport: asyncio.Transport | None = None
        self._is_over = False
        self._is_paused = False
        self._sends_soon = False  # its turn to send is coming
        self._is_waiting = False  # for a turn; nothing is read meanwhile
        self._unread: memoryview | None = None  # what arrived, from where the last turn ended
        self._events: deque[Event] = deque()  # likewise, what it means
        self._received_bytes = 0
        self._held_bytes = 0  # of frames and header blocks that are cut off
        self._frame_progress: Progress | None = None  # of a frame or header block that is cut off
        self._unsent_bytes = 0  # when it was last looked at
        self._released_bytes = 0  # likewise
        self._released_s = owner.loop.time()
        self._pings = None if owner.ping_rules is None else PingWatch(owner.ping_rules)
        self.opened_s = self.heard_s = owner.loop.time()
        self._asked_at_s: float | None = None

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client with our settings."""
        self._transport = cast("asyncio.Transport", transport)
        self._owner.opened(self)
        self.send()

    def data_received(self, data: bytes) -> None:
        """Act on what arrived, in turns with the other connections if it is much."""
        self.heard_s = self.loop.time()
        self._received_bytes += len(data)
        if self._is_waiting or self._has_more:
            unread = self._unread
            self._unread = memoryview(data if unread is None else bytes(unread) + data)
            return
        if len(data) <= PIECE_BYTES or len(data) <= self._bytes_at_once(data):
            events = self._receive(data)
            if len(events) <= FEW_EVENTS:
                self._act_on(events)
                self.send_soon()
                return
            self._events.extend(events)
        else:
            self._unread = memoryview(data)
        if self.take_turn(self._turns.ends_s()):
            self._wait_for_a_turn()

    def take_turn(self, ends_s: float) -> bool:
        """Act on what waits until it is done, the turn is over, or the peer has to read first."""
        clock, events = self._turns.clock, self._events
        while clock() < ends_s and self._transport is not None and not self._is_paused:
            if events:
                self._act_on([events.popleft() for _ in range(min(FEW_EVENTS, len(events)))])
            elif self._unread is not None:
                events.extend(self._receive(self._next_piece(self._unread)))
            else:
                break
        self.send()
        if self._has_more and not self._is_paused:
            return True
        if self._is_waiting:
            self._is_waiting = False
            self._read_on()
        return False

    def _receive(self, data: bytes) -> Sequence[Event]:
        """What arrived, if the peer has kept to the rules; else the end of everything."""
        connection = self.connection
        events = connection.receive(data)
        held_bytes = connection.held_bytes
        if held_bytes != self._held_bytes:
            self._count_held(held_bytes)
        if not connection.is_closed:
            return events
        if not self._is_over:
            self._end_all()
            self._tell_why_it_ended()
            self.send()
        return ()

    def _count_held(self, held_bytes: int) -> None:
        """Count what is cut off; a connection without room for it ends, with no one to blame."""
        more_bytes = held_bytes - self._held_bytes
        self._held_bytes = held_bytes
        if not self.hold(more_bytes) and more_bytes > 0 and held_bytes > SPARED_BYTES:
            self.close(ErrorCode.ENHANCE_YOUR_CALM, NO_ROOM)

    @property
    def _has_more(self) -> bool:
        """Whether something that arrived has not been acted on."""
        return bool(self._events) or self._unread is not None

    def _bytes_at_once(self, data: bytes | memoryview) -> int:
        """As much of ``data`` as may be received in one piece: a large body costs next to nothing.

        Where a frame is cut off, nobody knows yet where in ``data`` the next one begins.
        """
        if self.connection.held_bytes:
            return PIECE_BYTES
        return self.connection.bytes_at_once(data, PIECE_BYTES)

    def _next_piece(self, unread: memoryview) -> bytes:
        size = self._bytes_at_once(unread)
        self._unread = unread[size:] if len(unread) > size else None
        return bytes(unread[:size])

    def _wait_for_a_turn(self) -> None:
        self._is_waiting = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._turns.wait(self)

    def _read_on(self) -> None:
        transport = self._transport
        if transport is not None and not (self._is_paused or transport.is_closing()):
            transport.resume_reading()

    def _act_on(self, events: Iterable[Event]) -> None:
        exchanges = self._exchanges
        for event in events:
            kind = type(event)
            if kind is DataReceived:
                exchange = exchanges.get(event.stream_id)  # type: ignore[union-attr]
                if exchange is not None:
                    if not event.ended:  # type: ignore[union-attr]
                        self._count_part(event)  # type: ignore[arg-type]
                    exchange.on_data(event.data, event.ended)  # type: ignore[union-attr]
            elif kind is RequestReceived:
                self._begin(event)  # type: ignore[arg-type]
            elif kind is StreamEnded:
                self._end(event.stream_id)  # type: ignore[union-attr]
            elif kind is StreamFlushed:
                self._flushed(event.stream_id)  # type: ignore[union-attr]
            elif kind is PingReceived:
                self._count_ping()

    def _count_part(self, event: DataReceived) -> None:
        self._parts[event.stream_id] = self._parts.get(event.stream_id, 0) + len(event.data)

    def _end_all(self) -> None:
        """Forget what waits to be acted on, and end what is in flight."""
        self._is_over = True
        self._events.clear()
        self._unread = None
        for stream_id in list(self._exchanges):
            self._end(stream_id)

    def _tell_why_it_ended(self) -> None:
        connection = self.connection
        self._owner.sent_away(
            address_of(self._transport), connection.close_code, connection.close_reason
        )

    def eof_received(self) -> bool:
        """A client that has finished sending has finished, but gets what is there for it."""
        self.send()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """End what is left; the connection's own state goes with it."""
        self._transport = None
        self._end_all()
        self._count_held(0)
        self._owner.closed(self)

    def pause_writing(self) -> None:
        """The client does not read: then we do not either."""
        self._is_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._is_paused = False
        self.heard_s = self.loop.time()
        if self._has_more and not self._is_waiting:
            self._wait_for_a_turn()
        elif not self._is_waiting:
            self._read_on()

    # The exchanges' side.

    def send(self) -> None:
        """Send what the connection has to send."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return  # a client that has hung up is only known to have done so a moment later
        self._sends_soon = False
        out = self.connection.take_output()
        if out:
            transport.write(out)
        if self.connection.is_closed:
            transport.close()

    def send_soon(self) -> None:
        """Send it together with what other connections have to send in this round."""
        if self.connection.has_output and not self._sends_soon:
            self._sends_soon = True
            self._turns.send_soon(self)

    def done(self, stream_id: int) -> None:
        """Forget an exchange that is over."""
        self._exchanges.pop(stream_id, None)
        if self._parts:
            self._parts.pop(stream_id, None)
        if self._pings is not None:
            self._pings.sent()
        if self.connection.is_leaving and not self._exchanges:
            self.close_when_idle()

    def hold(self, more_bytes: int) -> bool:
        """Count bytes of unfinished requests, with those of all connections."""
        return self._owner.hold(more_bytes)

    def refused_to_unpack(self, reason: str) -> None:
        """A compressed message was refused for what it would have grown to."""
        self._owner.refused_to_unpack(address_of(self._transport), reason)

    # The server's side.

    @property
    def in_flight(self) -> int:
        """Exchanges that are not over."""
        return len(self._exchanges)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that are given to the transport and wait for the peer."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def stands_still_since(self) -> float | None:
        """Since when the peer has had the next move and not made it; None if it has none."""
        if self._is_paused:
            unsent_bytes = self.unsent_bytes
            if unsent_bytes < self._unsent_bytes:  # slow, and moving
                self.heard_s = self.loop.time()
            self._unsent_bytes = unsent_bytes
            return self.heard_s
        if not self.connection.has_settings:
            return self.opened_s
        if any(exchange.waits_for_peer for exchange in self._exchanges.values()):
            return self.heard_s
        return self._kept_waiting_since()

    def dawdles(self, window_s: float) -> bool:
        """Whether a request comes too slowly to be waited for; to be asked now and then."""
        return self._headers_dawdle(window_s) or self._a_body_dawdles(window_s)

    def _headers_dawdle(self, window_s: float) -> bool:
        """Whether what is cut off each time one looks has not been worth the wait.

        A busy connection may always be in the middle of something, but then it brings much.
        """
        if not self.connection.held_bytes:
            self._frame_progress = None
            return False
        now_s, received_bytes = self.loop.time(), self._received_bytes
        if self._frame_progress is None:
            self._frame_progress = Progress(now_s, received_bytes)
        return self._frame_progress.is_too_slow(now_s, received_bytes, window_s)

    def _a_body_dawdles(self, window_s: float) -> bool:
        now_s, parts = self.loop.time(), self._parts
        waiting = [key for key, each in self._exchanges.items() if each.waits_for_peer]
        is_too_slow = False
        seen, self._progress = self._progress, {}
        for stream_id in waiting:
            received_bytes = parts.get(stream_id, 0)
            progress = seen.get(stream_id) or Progress(now_s, received_bytes)
            is_too_slow |= progress.is_too_slow(now_s, received_bytes, window_s)
            self._progress[stream_id] = progress
        return is_too_slow

    def _kept_waiting_since(self) -> float | None:
        """Since when the peer's windows have let nothing through; None if nothing waits for them.

        What else the peer says meanwhile, pings for instance, is no progress.
        """
        released_bytes = self.connection.released_bytes
        if not self.connection.waits_for_window or released_bytes != self._released_bytes:
            self._released_bytes = released_bytes
            self._released_s = self.loop.time()
        return self._released_s if self.connection.waits_for_window else None

    def announce_leave(self) -> None:
        """Tell the client to go elsewhere; what it has begun, or is beginning, is answered."""
        self.connection.announce_leave()
        self.send()

    def leave(self) -> None:
        """Take no further request, and close when those that are here are answered."""
        self.connection.leave()
        self.send()
        self.close_when_idle()

    def close_when_idle(self) -> None:
        """Close, if nothing is in flight any more."""
        if not self._exchanges and not self.connection.open_streams and self.connection.is_leaving:
            self.close(ErrorCode.NO_ERROR, "")

    def close(self, code: ErrorCode, reason: str) -> None:
        """Say goodbye and close; what is in flight ends."""
        self.connection.close(code, reason)
        self._end_all()
        self._count_held(0)
        self.send()

    def abort(self) -> None:
        """Drop the connection, unsent bytes and all."""
        if self._transport is not None:
            self._transport.abort()

    def keep_alive(self, now_s: float, after_s: float, timeout_s: float) -> None:
        """Ask a silent client for a sign of life, and drop one that gives none in time."""
        if self._asked_at_s is not None and self.heard_s >= self._asked_at_s:
            self._asked_at_s = None
        if self._asked_at_s is not None:
            if now_s - self._asked_at_s > timeout_s:
                self.abort()
        elif now_s - self.heard_s > after_s:
            self._asked_at_s = now_s
            self.connection.ping()
            self.send()

    def _count_ping(self) -> None:
        pings = self._pings
        if pings is None:
            return
        if pings.is_one_too_many(self.heard_s, has_calls=bool(self._exchanges)):
            self.close(ErrorCode.ENHANCE_YOUR_CALM, TOO_MANY)
            self._tell_why_it_ended()

    def _begin(self, event: RequestReceived) -> None:
        owner = self._owner
        if not self.connection.is_open(event.stream_id):
            return  # it was ended before its turn came
        exchange = exchange_for(
            self,
            event.stream_id,
            event.head,
            event.timeout,
            owner.methods,
            owner.http_handler,
            owner.exchange_limits,
        )
        if not self.connection.is_open(event.stream_id):
            return  # it was answered at once
        self._exchanges[event.stream_id] = exchange
        if event.ended:
            exchange.on_data(b"", ended=True)

    def _end(self, stream_id: int) -> None:
        exchange = self._exchanges.pop(stream_id, None)
        if exchange is not None:
            self._parts.pop(stream_id, None)
            exchange.on_end()

    def _flushed(self, stream_id: int) -> None:
        exchange = self._exchanges.get(stream_id)
        if exchange is not None:
            exchange.on_flushed()
