"""One request of an HTTP/2 connection and its answer: a gRPC call, or plain HTTP.

An exchange is made when the headers are there, is fed the body, and answers through its peer.
It runs on the event loop and ends exactly once: answered, taken back by the client, or out of time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from salver.errors import (
    Code,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    ServingError,
    error_for,
)
from salver.wire.calls import Later, Methods, Streaming, Unary, arrived
from salver.wire.grpc import (
    COMPRESS_ABOVE_BYTES,
    OK_HEADERS,
    OK_TRAILERS,
    PREFIX_BYTES,
    GrpcRequest,
    MessageReader,
    UnpacksTooLarge,
    framed,
    framed_compressed,
    headers_for,
    is_grpc,
    read_request,
    read_timeout,
    status_headers,
    trailers_only,
    unknown_method,
    unpacking,
)
from salver.wire.hpack import Headers
from salver.wire.http1_messages import (
    DateStamp,
    HttpHandler,
    HttpRequest,
    HttpResponse,
    error_page,
)
from salver.wire.http2 import Http2Connection
from salver.wire.http2_headers import RequestHead

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExchangeLimits:
    """How large one request may be."""

    message_bytes: int = (1 << 31) - 1
    answer_bytes: int | None = None
    """Of a unary call; None sets no limit."""
    body_bytes: int = (1 << 31) - 1


MAX_WAITING_MESSAGES: Final = 64
"""Requests of a streaming call that its handler has not taken."""

STREAMED_MESSAGE_BYTES: Final = 64 << 10
"""The largest request of a streaming call: those that are offered are asked with names only."""

NO_ROOM: Final = "the server holds too much of unfinished requests"

_FAILED: Final = "The server failed to answer; its log says why."


class Peer(Protocol):
    """What an exchange needs of its connection's owner."""

    connection: Http2Connection
    loop: asyncio.AbstractEventLoop
    date: DateStamp

    def send(self) -> None:
        """Send what the connection has to send."""

    def send_soon(self) -> None:
        """Send it together with what other connections have to send in this round."""

    def done(self, stream_id: int) -> None:
        """The exchange is over."""

    def hold(self, more_bytes: int) -> bool:
        """Count bytes held for requests that are not complete; whether there is room for them."""

    def refused_to_unpack(self, reason: str) -> None:
        """A compressed message was refused for what it would have grown to."""


class Exchange(Protocol):
    """What the connection's owner tells an exchange."""

    def on_data(self, data: bytes, ended: bool) -> None:
        """A part of the body arrived."""

    def on_flushed(self) -> None:
        """Everything sent so far is on its way."""

    def on_end(self) -> None:
        """The stream ended before the answer was complete."""

    @property
    def waits_for_peer(self) -> bool:
        """Whether the client has the next move."""


class UnaryCall:
    """A gRPC call with one request and one answer."""

    __slots__ = (
        "_deadline",
        "_held_bytes",
        "_is_over",
        "_later",
        "_limits",
        "_method",
        "_peer",
        "_reader",
        "_request",
        "_stream_id",
        "_task",
        "_timeout_s",
    )

    def __init__(
        self,
        peer: Peer,
        stream_id: int,
        request: GrpcRequest,
        timeout_s: float | None,
        method: Unary,
        limits: ExchangeLimits,
    ) -> None:
        self._peer = peer
        self._stream_id = stream_id
        self._request = request
        self._timeout_s = timeout_s
        self._method = method
        self._limits = limits
        self._reader: MessageReader | None = None  # most requests come whole and need none
        self._held_bytes = 0
        self._task: asyncio.Future[bytes] | None = None
        self._later: Later[bytes] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._is_over = False

    @property
    def waits_for_peer(self) -> bool:
        """Until the request is complete, and again until the answer is taken."""
        return self._task is None and self._later is None

    def on_data(self, data: bytes, ended: bool) -> None:
        """Keep a part of the request; with the last one, answer."""
        if self._is_over:
            return
        if ended and self._reader is None and _is_one_plain_message(data):
            self._answer(data[PREFIX_BYTES:])  # by far the most frequent, so first
            return
        reader = self._reader
        if reader is None:
            reader = MessageReader(self._request.encoding, self._limits.message_bytes)
            self._reader = reader
        reader.feed(data)
        try:
            self._hold(len(data))
            if ended:
                self._answer_if_whole(reader)
        except ServingError as error:
            self._fail(error)

    def on_flushed(self) -> None:
        """Nothing waits for it."""

    def on_end(self) -> None:
        """The client took the call back: nobody waits for its answer."""
        self._is_over = True
        self._let_go()

    def _answer_if_whole(self, reader: MessageReader) -> None:
        messages = list(islice(reader.as_sent(), 2))
        if len(messages) != 1 or reader.held_bytes:
            raise Internal("the body of a unary call is not one message")
        is_packed, message = messages[0]
        if is_packed:
            self._unpack(message)
        else:
            self._release()
            self._answer(message)

    def _unpack(self, message: bytes) -> None:
        """Answer a compressed message: at once if it is small, else others have turns meanwhile."""
        slices = unpacking(message, self._request.encoding, self._limits.message_bytes)
        parts = list(islice(slices, 2))
        if len(parts) > 1:
            self._wait_for(self._answer_unpacked(parts, slices), self._timeout_s)
        else:
            self._release()
            self._answer(b"".join(parts))

    async def _answer_unpacked(self, parts: list[bytes], slices: Iterator[bytes]) -> bytes:
        self._hold(sum(map(len, parts)))
        for part in slices:
            parts.append(part)
            self._hold(len(part))
            await asyncio.sleep(0)
        self._release()
        return await arrived(self._method.handler(b"".join(parts), self._timeout_s))

    def _answer(self, message: bytes) -> None:
        timeout_s = self._timeout_s
        try:
            answer = self._method.handler(message, timeout_s)
        except ServingError as error:
            self._fail(error)
        except Exception:
            logger.exception("Answering %s failed", self._request.path)
            self._fail(Internal(_FAILED))
        else:
            if type(answer) is bytes:
                self._succeed(answer)
            elif isinstance(answer, Later):
                answer.taker = self
                self._later = answer
                if timeout_s is not None:
                    self._deadline = self._peer.loop.call_later(timeout_s, self._on_deadline)
            else:
                self._wait_for(answer, timeout_s)  # type: ignore[arg-type] # bytes are gone

    def succeed(self, answer: bytes) -> None:
        """Send an answer that was handed over later; it leaves with others' of this round."""
        self._succeed(answer)
        self._peer.send_soon()

    def fail(self, error: BaseException) -> None:
        """Send what went wrong instead of an answer that was to come later."""
        self._fail(self._told(error))
        self._peer.send_soon()

    def _wait_for(self, answer: Awaitable[bytes], timeout_s: float | None) -> None:
        loop = self._peer.loop
        self._task = asyncio.ensure_future(answer, loop=loop)
        self._task.add_done_callback(self._on_answered)
        if timeout_s is not None:
            self._deadline = loop.call_later(timeout_s, self._on_deadline)

    def _on_answered(self, task: asyncio.Future[bytes]) -> None:
        if self._is_over or task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._succeed(task.result())
        else:
            self._fail(self._told(error))
        self._peer.send()

    def _told(self, error: BaseException) -> ServingError:
        """What the client is told of an error; a bug's trace is for the log."""
        if isinstance(error, ServingError):
            return error
        logger.error("Answering %s failed", self._request.path, exc_info=error)
        return Internal(_FAILED)

    def _on_deadline(self) -> None:
        self._fail(DeadlineExceeded("Deadline Exceeded"))
        self._peer.send()

    def _succeed(self, answer: bytes) -> None:
        limit = self._limits.answer_bytes
        if limit is not None and len(answer) > limit:
            self._fail(
                ResourceExhausted(f"Sent message larger than max ({len(answer)} vs. {limit})")
            )
            return
        encoding = self._request.answer_encoding
        connection = self._peer.connection
        if encoding and len(answer) > COMPRESS_ABOVE_BYTES:
            body = framed_compressed(answer, encoding)
            connection.respond(self._stream_id, headers_for(encoding), body, OK_TRAILERS)
        else:
            connection.respond(self._stream_id, OK_HEADERS, framed(answer), OK_TRAILERS)
        self._finish()

    def _fail(self, error: ServingError) -> None:
        if isinstance(error, UnpacksTooLarge):
            self._peer.refused_to_unpack(error.message)
        headers = trailers_only(error.code, error.message)
        self._peer.connection.send_headers(self._stream_id, headers, end_stream=True)
        self._finish()

    def _finish(self) -> None:
        self._is_over = True
        if self._task is not None or self._later is not None or self._held_bytes:
            self._let_go()
        self._peer.done(self._stream_id)

    def _let_go(self) -> None:
        self._release()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._later is not None:
            self._later.taker = None
        if self._task is not None:
            self._task.cancel()

    def _hold(self, more_bytes: int) -> None:
        self._held_bytes += more_bytes
        if not self._peer.hold(more_bytes):
            raise ResourceExhausted(NO_ROOM)

    def _release(self) -> None:
        if self._held_bytes:
            self._peer.hold(-self._held_bytes)
            self._held_bytes = 0


class StreamingCall:
    """A gRPC call with any number of requests and answers."""

    def __init__(
        self,
        peer: Peer,
        stream_id: int,
        request: GrpcRequest,
        timeout_s: float | None,
        method: Streaming,
        max_bytes: int,
    ) -> None:
        self._peer = peer
        self._stream_id = stream_id
        self._request = request
        self._reader = MessageReader(request.encoding, min(max_bytes, STREAMED_MESSAGE_BYTES))
        self._messages: deque[bytes] = deque()
        self._has_ended = False
        self._news = asyncio.Event()
        self._flushed = asyncio.Event()
        self._is_over = False
        self._held_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._task = peer.loop.create_task(self._run(method))
        if timeout_s is not None:
            self._deadline = peer.loop.call_later(timeout_s, self._on_deadline)

    @property
    def waits_for_peer(self) -> bool:
        """For the rest of a message; before its first octet a watch may be silent for days."""
        return self._held_bytes > 0

    def on_data(self, data: bytes, ended: bool) -> None:
        """Hand over the messages that are complete."""
        if self._is_over:
            return
        self._reader.feed(data)
        try:
            for message in self._reader.messages():
                self._messages.append(message)
                if len(self._messages) > MAX_WAITING_MESSAGES:
                    raise ResourceExhausted("more requests than the method takes")
            self._hold(self._reader.held_bytes)
            if ended and self._reader.held_bytes:
                raise Internal("the last message is cut off")
        except ServingError as error:
            if isinstance(error, UnpacksTooLarge):
                self._peer.refused_to_unpack(error.message)
            self._end(error.code, error.message)
            return
        self._has_ended |= ended
        self._news.set()

    def on_flushed(self) -> None:
        """The client has room for more."""
        self._flushed.set()

    def on_end(self) -> None:
        """The client took the call back."""
        self._is_over = True
        self._stop()

    async def _run(self, method: Streaming) -> None:
        connection = self._peer.connection
        connection.send_headers(self._stream_id, OK_HEADERS)
        self._peer.send()
        try:
            async for answer in method.handler(self._requests()):
                await self._send(answer)
        except ServingError as error:
            self._end(error.code, error.message)
        except Exception:
            logger.exception("Answering %s failed", self._request.path)
            self._end(Code.INTERNAL, _FAILED)
        else:
            self._end(Code.OK, "")

    async def _requests(self) -> AsyncIterator[bytes]:
        while True:
            while self._messages:
                yield self._messages.popleft()
            if self._has_ended:
                return
            self._news.clear()
            await self._news.wait()

    async def _send(self, answer: bytes) -> None:
        self._flushed.clear()
        connection = self._peer.connection
        connection.send_data(self._stream_id, framed(answer), end_stream=False)
        self._peer.send()
        if not connection.is_flushed(self._stream_id):
            await self._flushed.wait()

    def _on_deadline(self) -> None:
        self._end(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _end(self, code: Code, message: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        trailers = status_headers(code, message)
        self._peer.connection.send_data(self._stream_id, b"", trailers=trailers)
        self._peer.done(self._stream_id)
        self._stop()
        self._peer.send()

    def _hold(self, held_bytes: int) -> None:
        more_bytes = held_bytes - self._held_bytes
        self._held_bytes = held_bytes
        if not self._peer.hold(more_bytes) and more_bytes > 0:
            raise ResourceExhausted(NO_ROOM)

    def _stop(self) -> None:
        self._hold(0)
        if self._deadline is not None:
            self._deadline.cancel()
        if asyncio.current_task(self._peer.loop) is not self._task:
            self._task.cancel()


class RefusedCall:
    """A gRPC call that is answered before its body is there: an unknown method, bad headers."""

    waits_for_peer = True

    def __init__(
        self, peer: Peer, stream_id: int, error: ServingError, more_headers: Headers = ()
    ) -> None:
        headers = (*trailers_only(error.code, error.message), *more_headers)
        peer.connection.send_headers(stream_id, headers, end_stream=True)
        peer.done(stream_id)

    def on_data(self, data: bytes, ended: bool) -> None:
        """Nobody reads it."""

    def on_flushed(self) -> None:
        """Nothing waits for it."""

    def on_end(self) -> None:
        """It was over before."""


class HttpExchange:
    """A plain HTTP request and its response."""

    def __init__(
        self,
        peer: Peer,
        stream_id: int,
        head: RequestHead,
        handler: HttpHandler,
        max_body_bytes: int,
    ) -> None:
        self._peer = peer
        self._stream_id = stream_id
        self._head = head
        self._handler = handler
        self._max_body_bytes = max_body_bytes
        self._parts: list[bytes] = []
        self._held = 0
        self._pending: asyncio.Task[HttpResponse] | Later[HttpResponse] | None = None
        self._is_over = False
        if head.is_too_large:
            self._respond(error_page(431))
        elif (head.content_length or 0) > max_body_bytes:
            self._respond(error_page(413))

    @property
    def waits_for_peer(self) -> bool:
        """Until the request is complete, and again until the answer is taken."""
        return self._pending is None

    def on_data(self, data: bytes, ended: bool) -> None:
        """Keep a part of the body; with the last one, answer."""
        if self._is_over:
            return
        self._parts.append(data)
        self._held += len(data)
        has_room = self._peer.hold(len(data))
        if self._held > self._max_body_bytes:
            self._respond(error_page(413))
        elif not has_room:
            self._respond(error_page(503))
        elif ended:
            self._answer()

    def on_flushed(self) -> None:
        """Nothing waits for it."""

    def on_end(self) -> None:
        """The client took the request back."""
        self._finish()

    def _answer(self) -> None:
        try:
            answer = self._handler(self._request())
        except Exception:
            logger.exception("Answering %s failed", self._head.path)
            answer = error_page(500)
        if isinstance(answer, HttpResponse):
            self._respond(answer)
        elif isinstance(answer, Later):
            answer.taker = self
            self._pending = answer
        else:
            task = self._peer.loop.create_task(answer)
            task.add_done_callback(self._on_answered)
            self._pending = task

    def succeed(self, answer: HttpResponse) -> None:
        """Send an answer that was handed over later; it leaves with others' of this round."""
        self._respond(answer)
        self._peer.send_soon()

    def fail(self, error: BaseException) -> None:
        """Send what a handler that raised is answered by."""
        self._respond(self._page_for(error))
        self._peer.send_soon()

    def _request(self) -> HttpRequest:
        head = self._head
        headers: dict[str, str] = {"host": head.authority.decode("latin-1")}
        for name, value in head.headers:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        return HttpRequest(
            head.method.decode("latin-1"),
            head.path.decode("latin-1"),
            headers,
            b"".join(self._parts),
        )

    def _on_answered(self, task: asyncio.Task[HttpResponse]) -> None:
        if self._is_over or task.cancelled():
            return
        error = task.exception()
        self._respond(task.result() if error is None else self._page_for(error))
        self._peer.send()

    def _page_for(self, error: BaseException) -> HttpResponse:
        logger.error("Answering %s failed", self._head.path, exc_info=error)
        return error_page(500)

    def _respond(self, response: HttpResponse) -> None:
        connection = self._peer.connection
        headers = [(b":status", b"%d" % response.status)]
        if response.content_type:
            headers.append((b"content-type", response.content_type.encode("latin-1")))
        headers += [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in response.headers
        ]
        headers.append((b"date", self._peer.date.octets()))
        headers.append((b"content-length", b"%d" % len(response.body)))
        body = b"" if self._head.method == b"HEAD" else response.body
        connection.send_headers(self._stream_id, tuple(headers), end_stream=not body)
        if body:
            connection.send_data(self._stream_id, body)
        self._finish()
        self._peer.done(self._stream_id)

    def _finish(self) -> None:
        self._is_over = True
        self._peer.hold(-self._held)
        self._held = 0
        self._parts = []
        if isinstance(self._pending, Later):
            self._pending.taker = None
        elif self._pending is not None:
            self._pending.cancel()


def _is_one_plain_message(body: bytes) -> bool:
    size = len(body) - PREFIX_BYTES
    return size >= 0 and body[0] == 0 and int.from_bytes(body[1:PREFIX_BYTES], "big") == size


def exchange_for(
    peer: Peer,
    stream_id: int,
    head: RequestHead,
    timeout: bytes,
    methods: Methods,
    handler: HttpHandler,
    limits: ExchangeLimits,
) -> Exchange:
    """The exchange that a request's headers ask for."""
    request = head.meaning
    if request is None:
        request = head.meaning = read_request(head) if is_grpc(head) else False
    if not isinstance(request, GrpcRequest):
        return HttpExchange(peer, stream_id, head, handler, limits.body_bytes)
    if request.fault is not None:
        return RefusedCall(peer, stream_id, error_for(*request.fault), request.fault_headers)
    try:
        timeout_s = read_timeout(timeout)
    except ServingError as error:
        return RefusedCall(peer, stream_id, error)
    method = methods.get(request.path)
    if isinstance(method, Unary):
        return UnaryCall(peer, stream_id, request, timeout_s, method, limits)
    if isinstance(method, Streaming):
        return StreamingCall(peer, stream_id, request, timeout_s, method, limits.message_bytes)
    return RefusedCall(peer, stream_id, unknown_method(request.path))
