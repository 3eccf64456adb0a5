"""HTTP/2 connections on asyncio: bytes from a transport to exchanges, and their answers back.

Everything one arrival brings about leaves in one write.  Every wait for a peer has an end: the
server's sweep looks at each connection now and then and ends those whose peer has stood still.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final, Protocol, cast

from salver.wire.calls import Methods
from salver.wire.exchanges import Exchange, ExchangeLimits, HttpHandler, exchange_for
from salver.wire.http2 import (
    DataReceived,
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

TURN_S: Final = 1e-3
"""How long one connection is acted on before the others have their turn."""

PIECE_BYTES: Final = 4096
"""As much of what arrived is acted on at once: a read may hold thousands of requests."""


class Owner(Protocol):
    """What a connection needs of the server it belongs to."""

    loop: asyncio.AbstractEventLoop
    methods: Methods
    http_handler: HttpHandler
    huffman: Huffman
    http2_limits: Http2Limits
    exchange_limits: ExchangeLimits
    ping_rules: PingRules | None

    def opened(self, connection: Http2Protocol) -> None:
        """A connection was made."""

    def closed(self, connection: Http2Protocol) -> None:
        """A connection is gone."""

    def hold(self, more_bytes: int) -> bool:
        """Count bytes of unfinished requests; whether there is room for them."""


class Http2Protocol(asyncio.Protocol):
    """One connection and its exchanges."""

    def __init__(self, owner: Owner) -> None:
        self.loop = owner.loop
        self.connection = Http2Connection(owner.huffman, owner.http2_limits)
        self._owner = owner
        self._exchanges: dict[int, Exchange] = {}
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._is_resting = False
        self._waiting: memoryview | None = None  # what arrived, from where the last turn ended
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
        if len(data) <= PIECE_BYTES and self._waiting is None:
            self._act_on(data)
            self.send()
            return
        waiting = self._waiting
        self._waiting = memoryview(data if waiting is None else bytes(waiting) + data)
        if not self._is_resting:
            self._take_turn()

    def _take_turn(self) -> None:
        """Act on what waits until it is done, the turn is over, or the peer has to read first."""
        waiting, position = self._waiting, 0
        if waiting is None or self._transport is None:
            return
        self._waiting = None
        ends_s = perf_counter() + TURN_S
        is_over = False
        while position < len(waiting) and not (is_over or self.connection.is_closed):
            size = max(PIECE_BYTES, self.connection.body_bytes_left)
            self._act_on(bytes(waiting[position : position + size]))
            position += size
            is_over = perf_counter() >= ends_s
        if position < len(waiting):
            self._waiting = waiting[position:]
        self.send()
        if is_over and self._transport is not None and not self._transport.is_closing():
            self._is_resting = True
            self._transport.pause_reading()
            self.loop.call_soon(self._rest_is_over)

    def _rest_is_over(self) -> None:
        self._is_resting = False
        if self._is_paused:
            return
        self._take_turn()
        if not self._is_resting and self._transport is not None:
            self._transport.resume_reading()

    def _act_on(self, data: bytes) -> None:
        exchanges = self._exchanges
        for event in self.connection.receive(data):
            kind = type(event)
            if kind is DataReceived:
                exchange = exchanges.get(event.stream_id)  # type: ignore[union-attr]
                if exchange is not None:
                    exchange.on_data(event.data, event.ended)  # type: ignore[union-attr]
            elif kind is RequestReceived:
                self._begin(event)  # type: ignore[arg-type]
            elif kind is StreamEnded:
                self._end(event.stream_id)  # type: ignore[union-attr]
            elif kind is StreamFlushed:
                self._flushed(event.stream_id)  # type: ignore[union-attr]
            elif kind is PingReceived:
                self._count_ping()

    def eof_received(self) -> bool:
        """A client that has finished sending has finished."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """End what is left; the connection's own state goes with it."""
        self._transport = None
        for stream_id in list(self._exchanges):
            self._end(stream_id)
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
        if not self._is_resting:
            self._rest_is_over()

    # The exchanges' side.

    def send(self) -> None:
        """Send what the connection has to send."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return  # a client that has hung up is only known to have done so a moment later
        out = self.connection.take_output()
        if out:
            transport.write(out)
        if self.connection.is_closed:
            transport.close()

    def done(self, stream_id: int) -> None:
        """Forget an exchange that is over."""
        self._exchanges.pop(stream_id, None)
        if self._pings is not None:
            self._pings.sent()
        if self.connection.is_leaving and not self._exchanges:
            self.close_when_idle()

    def hold(self, more_bytes: int) -> bool:
        """Count bytes of unfinished requests, with those of all connections."""
        return self._owner.hold(more_bytes)

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
        for event in self.connection.take_events():
            if isinstance(event, StreamEnded):
                self._end(event.stream_id)
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

    def _begin(self, event: RequestReceived) -> None:
        owner = self._owner
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
            exchange.on_end()

    def _flushed(self, stream_id: int) -> None:
        exchange = self._exchanges.get(stream_id)
        if exchange is not None:
            exchange.on_flushed()
