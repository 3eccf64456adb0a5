"""The server's side of one HTTP/2 connection (RFC 9113), without a socket.

Bytes in, events out; answers in, bytes out.  Whoever owns the socket hands over what arrives with
``receive``, acts on the events, and sends what ``take_output`` gives.  Nothing here knows what a
request means.

Whatever a peer can make grow has a bound in ``Http2Limits``; a peer that reaches one is told so
with the code the RFC has for it.  Rates are bounded without a clock: the owner calls ``forgive``
at a steady pace, and the bounds hold from one call to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from salver.wire.hpack import (
    HeaderBlock,
    Headers,
    HpackDecoder,
    HpackEncoder,
    HpackError,
)
from salver.wire.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    MAX_MAX_FRAME_BYTES,
    MAX_STREAM_ID,
    MAX_WINDOW,
    MIN_MAX_FRAME_BYTES,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionRuleError,
    ErrorCode,
    Setting,
    StreamRuleError,
    frame,
    frame_start,
)
from salver.wire.http2_headers import HeadReader, RequestHead, check_trailers
from salver.wire.huffman import Huffman

USEFUL_BYTES: Final = 256
"""A frame that moves as much of a body is honest work; smaller pieces are cut off a body's end."""

OCTETS_LIKE_A_FRAME: Final = 64
"""So many octets of headers that are too large count like a frame that brings nothing."""

HEADER_FRAME_EXTRAS: Final = 1 + 255 + 5
"""What a HEADERS frame may hold besides its block: padding, its length, and a priority."""


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """What a peer may ask for.  Windows and frames are at least what HTTP/2 starts with."""

    concurrent_streams: int = 1024
    stream_window_bytes: int = 4 << 20
    connection_window_bytes: int = 16 << 20
    frame_bytes: int = 1 << 20
    header_list_bytes: int = 64 << 10
    continuations: int = 32
    idle_frames: int = 2000
    """Frames in a row that ask for work and bring none: PING, SETTINGS, empty DATA and the like."""
    resets: int = 2000
    """Streams that end without an answer through the peer's doing, beyond those it lets finish."""
    refused_streams_remembered: int = 1024

    def __post_init__(self) -> None:
        smallest_window = min(self.stream_window_bytes, self.connection_window_bytes)
        if smallest_window < DEFAULT_WINDOW or self.frame_bytes < MIN_MAX_FRAME_BYTES:
            raise ValueError(
                f"HTTP/2 allows no windows below {DEFAULT_WINDOW} and no frames below"
                f" {MIN_MAX_FRAME_BYTES} bytes before its settings are known; got {self}"
            )


class HeaderSet:
    """Headers that are sent often: their block is remembered as long as the table stands still."""

    __slots__ = ("headers",)

    def __init__(self, *headers: tuple[bytes, bytes]) -> None:
        self.headers: Headers = headers


class RequestReceived(NamedTuple):
    """A request's headers; ``ended`` says that nothing follows."""

    stream_id: int
    head: RequestHead
    ended: bool
    timeout: bytes
    """Its ``grpc-timeout``, which is not in the head; empty without one."""


class DataReceived(NamedTuple):
    """A part of a request's body; ``ended`` says that nothing follows."""

    stream_id: int
    data: bytes
    ended: bool


class StreamEnded(NamedTuple):
    """A stream ended before its time: the peer reset it, or broke its rules and was reset."""

    stream_id: int
    code: int


class StreamFlushed(NamedTuple):
    """What ``send_data`` could not send at once for the stream is on its way."""

    stream_id: int


class PingReceived(NamedTuple):
    """The peer asked for a sign of life, which it was given."""


class PeerLeaves(NamedTuple):
    """The peer sent GOAWAY: it opens no further streams."""

    code: int


_event = tuple.__new__  # a NamedTuple's own constructor takes twice as long

Event = RequestReceived | DataReceived | StreamEnded | StreamFlushed | PingReceived | PeerLeaves


_EncodedAnswer = tuple[bytes, bytes, bytes, bytes]
"""The headers of an answer and its trailers, each as what stands before the stream and after it."""


class _Stream:
    """One stream that is not closed."""

    __slots__ = (
        "content_left",
        "is_ended_by_peer",
        "pending",
        "pending_end",
        "receive_window",
        "send_window",
        "trailers",
    )

    def __init__(
        self,
        send_window: int,
        receive_window: int,
        content_length: int | None,
        is_ended_by_peer: bool,
    ) -> None:
        self.send_window = send_window
        self.receive_window = receive_window
        self.content_left = content_length
        self.is_ended_by_peer = is_ended_by_peer
        self.pending: list[memoryview] = []
        self.pending_end = False
        self.trailers: HeaderSet | Headers | None = None


class Http2Connection:
    """One connection, from the client's preface to GOAWAY."""

    def __init__(self, huffman: Huffman, limits: Http2Limits | None = None) -> None:
        self._limits: Final = limits or Http2Limits()
        self._decoder: Final = HpackDecoder(huffman, max_list_bytes=self._limits.header_list_bytes)
        self._heads: Final = HeadReader()
        self._encoder: Final = HpackEncoder()
        # What is sent often, as it is until the encoder's table changes.
        self._blocks: dict[HeaderSet, bytes] = {}
        self._answers: dict[tuple[HeaderSet, HeaderSet], _EncodedAnswer] = {}
        self._streams: dict[int, _Stream] = {}
        self._blocked: dict[int, None] = {}  # streams with something to send, in turn
        self._refused: dict[int, None] = {}  # streams the peer may still believe to be open
        self._last_stream_id = 0
        self._goaway_sent_for: int | None = None

        self._rest = bytearray()  # of what arrived: less than a frame
        self._wanted_bytes = 0  # before a look at the rest is worth while
        self._has_preface = False
        self._has_settings = False
        self._is_particular = True  # only one kind of frame may come next
        self._data_left = 0  # of a DATA frame whose head has been read
        self._data_stream_id = 0
        self._data_ends = False
        self._block: bytearray | None = None  # a header block that goes on in CONTINUATIONs
        self._block_stream_id = 0
        self._block_flags = 0
        self._block_frames = 0

        self._out: list[bytes | memoryview] = []
        self._events: list[Event] = []
        self._send_window = DEFAULT_WINDOW
        self._receive_window = self._limits.connection_window_bytes
        self._peer_initial_window = DEFAULT_WINDOW
        self._peer_frame_bytes = MIN_MAX_FRAME_BYTES
        self._idle_frames = 0
        self._resets = 0
        self.is_closed = False
        """Nothing more is read; what ``take_output`` gives is the last."""
        self.released_bytes = 0
        """Of bodies that went the long way, the bytes that the peer's windows have let through."""
        self.close_code = ErrorCode.NO_ERROR
        self.close_reason = ""
        self._max_streams: Final = self._limits.concurrent_streams
        self._most_for_headers: Final = min(
            self._limits.frame_bytes, self._limits.header_list_bytes + HEADER_FRAME_EXTRAS
        )
        # A window is renewed when it is half used up, so that the peer need not wait for more.
        self._low_window: Final = self._limits.connection_window_bytes // 2
        self._stream_window: Final = self._limits.stream_window_bytes
        self._low_stream_window: Final = self._stream_window // 2
        self._open()

    # What the owner of the socket calls.

    @property
    def open_streams(self) -> int:
        """Streams that are not closed."""
        return len(self._streams)

    @property
    def body_bytes_left(self) -> int:
        """Bytes of a DATA frame that has begun to arrive: they cost nothing to act on."""
        return self._data_left

    @property
    def has_settings(self) -> bool:
        """Whether the peer has opened the connection in due form."""
        return self._has_settings

    @property
    def waits_for_window(self) -> bool:
        """Whether something cannot be sent until the peer makes room for it."""
        return bool(self._blocked)

    @property
    def is_leaving(self) -> bool:
        """Whether GOAWAY has been sent."""
        return self._goaway_sent_for is not None

    def receive(self, data: bytes) -> list[Event]:
        """Take what arrived and say what it means, in order.

        A broken rule ends the stream or the connection; it does not raise.
        """
        if self.is_closed:
            return []
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted_bytes:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        try:
            if self._has_preface:
                self._read_frames(data, 0)
            else:
                self._read_preface(data)
        except ConnectionRuleError as fault:
            self.close(fault.code, str(fault))
        except HpackError as error:
            self.close(ErrorCode.COMPRESSION_ERROR, str(error))
        events, self._events = self._events, []
        return events

    def take_output(self) -> bytes:
        """What is to be sent, once."""
        if not self._out:
            return b""
        out = b"".join(self._out)
        self._out = []
        return out

    def take_events(self) -> list[Event]:
        """What has come about since they were last taken, by an answer or a close as well."""
        events, self._events = self._events, []
        return events

    def forgive(self) -> None:
        """Forget what the peer has done so far; to be called at a steady pace, once a second or so.

        A client that pings now and then is never too much, one that does nothing else soon is.
        """
        self._idle_frames = self._resets = 0

    def is_open(self, stream_id: int) -> bool:
        """Whether an answer can still be sent on a stream."""
        return stream_id in self._streams

    def is_flushed(self, stream_id: int) -> bool:
        """Whether nothing waits for the peer's window on a stream."""
        stream = self._streams.get(stream_id)
        return stream is None or not stream.pending

    def respond(
        self, stream_id: int, head: HeaderSet, body: bytes, trailers: HeaderSet | None = None
    ) -> None:
        """Send a whole answer: headers, body, and trailers if any.  A closed stream is no error."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        size = len(body)
        if (
            size > stream.send_window
            or size > self._send_window
            or size > self._peer_frame_bytes
            or trailers is None
        ):
            self.send_headers(stream_id, head)
            self.send_data(stream_id, body, trailers=trailers)
            return
        self._send_window -= size
        answer = self._answers.get((head, trailers))
        if answer is None:
            answer = self._encode_answer(head, trailers)
        before_first, first, before_last, last = answer
        stream_number = stream_id.to_bytes(4, "big")
        self._out.append(
            b"".join(
                (
                    before_first,
                    stream_number,
                    first,
                    HEAD.pack(size >> 8, size & 0xFF, DATA, 0, stream_id),
                    body,
                    before_last,
                    stream_number,
                    last,
                )
            )
        )
        self._sent_end(stream_id, stream)

    def send_headers(
        self, stream_id: int, headers: HeaderSet | Headers, *, end_stream: bool = False
    ) -> None:
        """Send headers, which end the answer with ``end_stream``.  A closed stream is no error."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        self._write_headers(stream_id, headers, end_stream)
        if end_stream:
            self._sent_end(stream_id, stream)

    def send_data(
        self,
        stream_id: int,
        data: bytes,
        *,
        end_stream: bool = True,
        trailers: HeaderSet | Headers | None = None,
    ) -> None:
        """Send a part of a body as far as the peer's windows allow, and the rest when they do.

        ``end_stream`` ends the answer after it, with ``trailers`` if there are any.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if data:
            stream.pending.append(memoryview(data))
        stream.pending_end |= end_stream
        if trailers is not None:
            stream.trailers = trailers
        self._flush(stream_id, stream)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream at once.  A closed stream is no error."""
        if self._drop(stream_id):
            self._refuse(stream_id, code)

    def ping(self, payload: bytes = bytes(8)) -> None:
        """Ask the peer for a sign of life."""
        self._out.append(frame(PING, 0, 0, payload))

    def announce_leave(self) -> None:
        """Say that streams begun from now on may not be answered, and answer all that arrive.

        The last stream is not fixed yet: requests may be on their way (section 6.8).
        """
        if not self.is_leaving:
            self._write_goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR, b"")

    def leave(self) -> None:
        """Accept no further stream; those that are open go on."""
        if not self.is_leaving:
            self._goaway_sent_for = self._last_stream_id
            self._write_goaway(self._last_stream_id, ErrorCode.NO_ERROR, b"")

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """End the connection: GOAWAY, and no stream is answered any more."""
        if self.is_closed:
            return
        self.is_closed = True
        self.close_code = code
        self.close_reason = reason
        # The last stream may have been told before, and never rises again (section 6.8).
        last = self._last_stream_id if self._goaway_sent_for is None else self._goaway_sent_for
        self._write_goaway(last, code, reason.encode()[:200])
        for stream_id in list(self._streams):
            self._end(stream_id, code)
        self._rest.clear()

    # Reading.

    def _open(self) -> None:
        limits = self._limits
        settings = (
            (Setting.MAX_CONCURRENT_STREAMS, limits.concurrent_streams),
            (Setting.INITIAL_WINDOW_SIZE, limits.stream_window_bytes),
            (Setting.MAX_FRAME_SIZE, limits.frame_bytes),
            (Setting.MAX_HEADER_LIST_SIZE, limits.header_list_bytes),
        )
        payload = b"".join(
            setting.to_bytes(2, "big") + value.to_bytes(4, "big") for setting, value in settings
        )
        self._out.append(frame(SETTINGS, 0, 0, payload))
        more = limits.connection_window_bytes - DEFAULT_WINDOW
        if more > 0:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, more.to_bytes(4, "big")))

    def _read_preface(self, data: bytes) -> None:
        size = min(len(data), len(PREFACE))
        if data[:size] != PREFACE[:size]:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "the connection preface is missing")
        if size < len(PREFACE):
            self._rest += data
            return
        self._has_preface = True
        self._read_frames(data, size)

    def _read_frames(self, data: bytes, position: int) -> None:
        """Read every whole frame, and what there is of a DATA frame; keep the rest."""
        end = len(data)
        unpack = HEAD.unpack_from
        most = self._most_for_headers
        if self._data_left:
            position = self._read_rest_of_data(data, position)
        while end - position >= HEAD_BYTES:
            high, low, kind, flags, stream_id = unpack(data, position)
            size = high << 8 | low
            if size > most:
                self._check_size(kind, size)
            stream_id &= MAX_STREAM_ID  # the highest bit is reserved
            start = position + HEAD_BYTES
            if start + size > end:
                if kind != DATA or flags & PADDED or self._is_particular:
                    self._wanted_bytes = HEAD_BYTES + size
                    self._rest += data[position:]
                    return
                self._begin_data(flags, stream_id, size)
                self._read_rest_of_data(data, start)
                return
            position = start + size
            try:
                if self._is_particular:
                    self._check_order(kind, flags)
                if kind == DATA:
                    self._on_data(flags, stream_id, data[start:position])
                elif kind == HEADERS:
                    self._on_headers(flags, stream_id, data[start:position])
                else:
                    self._on_other_frame(kind, flags, stream_id, data[start:position])
            except StreamRuleError as fault:
                self._on_stream_fault(fault)
        if position < end:
            self._wanted_bytes = HEAD_BYTES
            self._rest += data[position:]

    def _check_size(self, kind: int, size: int) -> None:
        """Only bodies come in large frames, and what is passed over."""
        limit = self._limits.frame_bytes
        if size > limit:
            raise ConnectionRuleError(
                ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes; {limit} are allowed"
            )
        if kind in (HEADERS, CONTINUATION):
            raise ConnectionRuleError(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")
        if kind not in (DATA, GOAWAY) and kind <= CONTINUATION:
            raise ConnectionRuleError(
                ErrorCode.FRAME_SIZE_ERROR, f"{size} bytes in a frame of type {kind}"
            )

    def _begin_data(self, flags: int, stream_id: int, size: int) -> None:
        """A DATA frame is taken as it comes, so a large one is never copied to be put together."""
        self._data_left = size
        self._data_stream_id = stream_id
        self._data_ends = bool(flags & END_STREAM)
        try:
            self._admit_data(flags, stream_id, size, size)
        except StreamRuleError as fault:
            self._on_stream_fault(fault)

    def _read_rest_of_data(self, data: bytes, position: int) -> int:
        part = data[position : position + self._data_left]
        self._data_left -= len(part)
        # The stream is gone if the frame was not right, or has been answered or reset since.
        if part and self._data_stream_id in self._streams:
            ended = self._data_ends and not self._data_left
            self._events.append(DataReceived(self._data_stream_id, part, ended))
        return position + len(part)

    def _on_stream_fault(self, fault: StreamRuleError) -> None:
        if self._end(fault.stream_id, fault.code):
            self._count_reset()
        else:
            self._count_idle_frame()
        self._refuse(fault.stream_id, fault.code)

    def _on_other_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._on_window_update(stream_id, payload)
        elif kind == SETTINGS:
            self._on_settings(flags, stream_id, payload)
        elif kind == PING:
            self._on_ping(flags, stream_id, payload)
        elif kind == RST_STREAM:
            self._on_rst_stream(stream_id, payload)
        elif kind == CONTINUATION:
            self._on_continuation(flags, stream_id, payload)
        elif kind == PRIORITY:
            self._on_priority(stream_id, payload)
        elif kind == GOAWAY:
            self._on_goaway(stream_id, payload)
        elif kind == PUSH_PROMISE:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "a client cannot push")
        else:
            self._count_idle_frame()  # extensions are ignored (section 5.5)

    def _check_order(self, kind: int, flags: int) -> None:
        if self._block is not None:
            if kind != CONTINUATION:
                raise ConnectionRuleError(
                    ErrorCode.PROTOCOL_ERROR, "a frame stands between a header block and its rest"
                )
        elif kind != SETTINGS or flags & ACK:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")

    # Headers.

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionRuleError(
                ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}, not a client's"
            )
        if flags & (PADDED | PRIORITIZED):
            payload = self._header_fragment(flags, stream_id, payload)
        if flags & END_HEADERS:
            self._on_header_block(flags, stream_id, payload)
            return
        self._is_particular = True
        self._block = bytearray(payload)
        self._block_stream_id = stream_id
        self._block_flags = flags
        self._block_frames = 0

    def _header_fragment(self, flags: int, stream_id: int, payload: bytes) -> bytes:
        if flags & PADDED:
            payload = _without_padding(payload)
        if not flags & PRIORITIZED:
            return payload
        if len(payload) < 5:
            raise ConnectionRuleError(
                ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority"
            )
        _check_dependency(stream_id, payload)
        return payload[5:]

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None or stream_id != self._block_stream_id:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block += payload
        self._block_frames += 1
        # A compressed block larger than what it may decode to is no honest one.
        if (
            self._block_frames > self._limits.continuations
            or len(self._block) > self._limits.header_list_bytes
        ):
            raise ConnectionRuleError(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")
        if flags & END_HEADERS:
            block, self._block = bytes(self._block), None
            self._is_particular = False
            self._on_header_block(self._block_flags, stream_id, block)

    def _on_header_block(self, flags: int, stream_id: int, block: bytes) -> None:
        # Decoded whatever becomes of the stream: the table must stay in step.
        decoded = self._decoder.decode(block)
        ended = flags & END_STREAM != 0
        if stream_id <= self._last_stream_id:
            self._on_further_headers(stream_id, decoded, ended)
            return
        self._last_stream_id = stream_id
        if self._goaway_sent_for is not None:
            self._count_idle_frame()  # the peer was told that it will not be answered
            return
        if len(self._streams) >= self._max_streams:
            raise StreamRuleError(stream_id, ErrorCode.REFUSED_STREAM, "too many streams at once")
        if decoded.meaning is None:
            decoded.meaning = self._read_head(stream_id, decoded, len(block))
        head, timeout = decoded.meaning
        if head.fault:
            raise StreamRuleError(stream_id, ErrorCode.PROTOCOL_ERROR, head.fault)
        if ended and head.content_length:
            raise StreamRuleError(
                stream_id, ErrorCode.PROTOCOL_ERROR, "content-length is not that of the body"
            )
        self._idle_frames = 0
        self._streams[stream_id] = _Stream(
            self._peer_initial_window, self._stream_window, head.content_length, ended
        )
        self._events.append(_event(RequestReceived, (stream_id, head, ended, timeout)))

    def _read_head(
        self, stream_id: int, block: HeaderBlock, block_bytes: int
    ) -> tuple[RequestHead, bytes]:
        if block.is_too_large:
            # Each octet may have been a reference to an entry: decoding it has cost its time.
            self._idle_frames += block_bytes // OCTETS_LIKE_A_FRAME
            raise StreamRuleError(stream_id, ErrorCode.ENHANCE_YOUR_CALM, "too large headers")
        return self._heads.read(block.headers)

    def _on_further_headers(self, stream_id: int, block: HeaderBlock, ended: bool) -> None:
        """HEADERS on a stream that is not new: trailers, or a mistake."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._on_trailers(stream_id, stream, block, ended)
        elif self._is_passed_over(stream_id):
            self._count_idle_frame()
        else:
            raise ConnectionRuleError(
                ErrorCode.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which is closed"
            )

    def _is_passed_over(self, stream_id: int) -> bool:
        """Whether a closed stream may be open still in the eyes of the peer (sections 5.1, 6.8)."""
        last = self._goaway_sent_for
        return stream_id in self._refused or (last is not None and stream_id > last)

    def _on_trailers(
        self, stream_id: int, stream: _Stream, block: HeaderBlock, ended: bool
    ) -> None:
        if stream.is_ended_by_peer:
            raise StreamRuleError(stream_id, ErrorCode.STREAM_CLOSED, "HEADERS after the end")
        if not ended:
            raise StreamRuleError(
                stream_id, ErrorCode.PROTOCOL_ERROR, "trailers that are not the end"
            )
        if block.is_too_large:
            raise StreamRuleError(stream_id, ErrorCode.ENHANCE_YOUR_CALM, "too large trailers")
        fault = check_trailers(block.headers)
        if fault or stream.content_left:
            raise StreamRuleError(
                stream_id, ErrorCode.PROTOCOL_ERROR, fault or "the body is shorter than announced"
            )
        stream.is_ended_by_peer = True
        self._events.append(DataReceived(stream_id, b"", ended=True))

    # Data.

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        if flags & PADDED:
            payload = _without_padding(payload)
        if self._admit_data(flags, stream_id, size, len(payload)):
            ended = flags & END_STREAM != 0
            self._events.append(_event(DataReceived, (stream_id, payload, ended)))

    def _admit_data(self, flags: int, stream_id: int, size: int, content: int) -> bool:
        """Whether somebody waits for a DATA frame, with so much ``content``, padding aside.

        Judged by the frame's head, so that it makes no difference in what pieces it arrives.
        """
        self._receive_window -= size
        if self._receive_window < self._low_window:
            self._renew_window()
        stream = self._streams.get(stream_id)
        if stream is None:
            self._on_data_of_no_stream(stream_id, content)
            return False
        if stream.is_ended_by_peer:
            raise StreamRuleError(stream_id, ErrorCode.STREAM_CLOSED, "DATA after the end")
        stream.receive_window -= size
        if stream.receive_window < self._low_stream_window:
            self._renew_stream_window(stream_id, stream)
        ended = flags & END_STREAM != 0
        if stream.content_left is not None:
            self._count_content(stream_id, stream, content, ended)
        if content >= USEFUL_BYTES:
            self._idle_frames = 0
        if ended:
            stream.is_ended_by_peer = True
            return True
        if not content:
            self._count_idle_frame()
        return content > 0

    def _renew_window(self) -> None:
        if self._receive_window < 0:
            raise ConnectionRuleError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the window")
        more = self._limits.connection_window_bytes - self._receive_window
        self._receive_window += more
        self._out.append(frame(WINDOW_UPDATE, 0, 0, more.to_bytes(4, "big")))

    def _renew_stream_window(self, stream_id: int, stream: _Stream) -> None:
        if stream.receive_window < 0:
            raise StreamRuleError(
                stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more data than the window"
            )
        more = self._stream_window - stream.receive_window
        stream.receive_window += more
        self._out.append(frame(WINDOW_UPDATE, 0, stream_id, more.to_bytes(4, "big")))

    def _on_data_of_no_stream(self, stream_id: int, content: int) -> None:
        self._check_not_idle(stream_id, "DATA")
        if not self._is_passed_over(stream_id):
            raise StreamRuleError(stream_id, ErrorCode.STREAM_CLOSED, "DATA on a closed stream")
        if content < USEFUL_BYTES:
            self._count_idle_frame()

    def _count_content(self, stream_id: int, stream: _Stream, size: int, ended: bool) -> None:
        left = (stream.content_left or 0) - size
        stream.content_left = left
        if left < 0 or (ended and left):
            raise StreamRuleError(
                stream_id, ErrorCode.PROTOCOL_ERROR, "content-length is not that of the body"
            )

    # The other frames.

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionRuleError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes")
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        if stream_id == 0:
            if not increment:
                raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
            self._send_window += increment
            if self._send_window > MAX_WINDOW:
                raise ConnectionRuleError(ErrorCode.FLOW_CONTROL_ERROR, "a window grows too large")
            self._count_idle_frame()
            self._flush_blocked()
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id, "WINDOW_UPDATE")
            self._count_idle_frame()
            return
        if not increment:
            raise StreamRuleError(stream_id, ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
        stream.send_window += increment
        if stream.send_window > MAX_WINDOW:
            raise StreamRuleError(
                stream_id, ErrorCode.FLOW_CONTROL_ERROR, "a window grows too large"
            )
        self._count_idle_frame()
        if stream.pending:
            self._flush(stream_id, stream)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionRuleError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            self._count_idle_frame()
            return
        if len(payload) % 6:
            raise ConnectionRuleError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of odd length")
        self._has_settings = True
        self._is_particular = False
        self._count_idle_frame()
        for position in range(0, len(payload), 6):
            self._count_idle_frame()  # each one may touch every stream
            number = int.from_bytes(payload[position : position + 2], "big")
            value = int.from_bytes(payload[position + 2 : position + 6], "big")
            self._apply_setting(number, value)
        # Before anything that relies on the new values (section 6.5.3).
        self._out.append(frame(SETTINGS, ACK, 0))
        self._flush_blocked()

    def _apply_setting(self, number: int, value: int) -> None:
        if number == Setting.HEADER_TABLE_SIZE:
            self._encoder.resize(value)
            self._forget_blocks()
        elif number == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        elif number == Setting.INITIAL_WINDOW_SIZE:
            self._change_initial_window(value)
        elif number == Setting.MAX_FRAME_SIZE:
            if not MIN_MAX_FRAME_BYTES <= value <= MAX_MAX_FRAME_BYTES:
                raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE of {value}")
            self._peer_frame_bytes = value

    def _change_initial_window(self, value: int) -> None:
        if value > MAX_WINDOW:
            raise ConnectionRuleError(
                ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE of {value}"
            )
        change = value - self._peer_initial_window
        if not change:
            return
        self._peer_initial_window = value
        for stream in self._streams.values():
            stream.send_window += change
            if stream.send_window > MAX_WINDOW:
                raise ConnectionRuleError(ErrorCode.FLOW_CONTROL_ERROR, "a window grows too large")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionRuleError(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes")
        self._count_idle_frame()
        if not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
            self._events.append(PingReceived())

    def _on_rst_stream(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionRuleError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes")
        if stream_id not in self._streams:
            self._check_not_idle(stream_id, "RST_STREAM")
            self._count_idle_frame()
            return
        self._count_reset()
        self._end(stream_id, int.from_bytes(payload, "big"))

    def _on_priority(self, stream_id: int, payload: bytes) -> None:
        """Priorities are checked and ignored (section 5.3.2).

        The stream may not exist yet and could not be reset then, so faults end the connection.
        """
        if stream_id == 0:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "PRIORITY without a stream")
        if len(payload) != 5:
            raise ConnectionRuleError(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes")
        _check_dependency(stream_id, payload)
        self._count_idle_frame()

    def _on_goaway(self, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionRuleError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is shorter than 8 bytes")
        self._count_idle_frame()
        self._events.append(PeerLeaves(int.from_bytes(payload[4:8], "big")))

    def _check_not_idle(self, stream_id: int, what: str) -> None:
        if stream_id == 0 or stream_id > self._last_stream_id or not stream_id & 1:
            raise ConnectionRuleError(
                ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which was never opened"
            )

    def _count_idle_frame(self) -> None:
        self._idle_frames += 1
        if self._idle_frames > self._limits.idle_frames:
            raise ConnectionRuleError(ErrorCode.ENHANCE_YOUR_CALM, "many frames that bring nothing")

    def _count_reset(self) -> None:
        self._resets += 1
        if self._resets > self._limits.resets:
            raise ConnectionRuleError(ErrorCode.ENHANCE_YOUR_CALM, "too many requests taken back")

    # Writing.

    def _write_headers(
        self, stream_id: int, headers: HeaderSet | Headers, end_stream: bool
    ) -> None:
        if isinstance(headers, HeaderSet):
            block = self._block_of(headers)
        else:
            block = self._encoder.encode(headers, indexed=False)
        flags = END_STREAM if end_stream else 0
        size = self._peer_frame_bytes
        if len(block) <= size:
            self._out.append(frame(HEADERS, flags | END_HEADERS, stream_id, block))
            return
        pieces = [block[start : start + size] for start in range(0, len(block), size)]
        self._out.append(frame(HEADERS, flags, stream_id, pieces[0]))
        for piece in pieces[1:-1]:
            self._out.append(frame(CONTINUATION, 0, stream_id, piece))
        self._out.append(frame(CONTINUATION, END_HEADERS, stream_id, pieces[-1]))

    def _block_of(self, headers: HeaderSet) -> bytes:
        """The block of often sent headers: made anew only when the table has changed since."""
        block = self._blocks.get(headers)
        if block is not None:
            return block
        version = self._encoder.version
        block = self._encoder.encode(headers.headers)
        if self._encoder.version == version:
            self._blocks[headers] = block
        else:  # it added to the table: all blocks say something else from now on
            self._forget_blocks()
        return block

    def _encode_answer(self, head: HeaderSet, trailers: HeaderSet) -> _EncodedAnswer:
        version = self._encoder.version
        first, last = self._block_of(head), self._block_of(trailers)
        answer = (
            frame_start(HEADERS, END_HEADERS, len(first)),
            first,
            frame_start(HEADERS, END_HEADERS | END_STREAM, len(last)),
            last,
        )
        if self._encoder.version == version:
            self._answers[head, trailers] = answer
        return answer

    def _forget_blocks(self) -> None:
        self._blocks.clear()
        self._answers.clear()

    def _flush(self, stream_id: int, stream: _Stream) -> None:
        """Send what the windows allow; whether all of it went is known from ``pending``."""
        while stream.pending:
            room = min(stream.send_window, self._send_window)
            if room <= 0:
                self._blocked[stream_id] = None
                return
            if self._write_data(stream_id, stream, min(room, self._peer_frame_bytes)):
                self._sent_end(stream_id, stream)
                return
        if not stream.pending_end:
            if stream_id in self._blocked:
                del self._blocked[stream_id]
                self._events.append(StreamFlushed(stream_id))
            return
        if stream.trailers is not None:
            self._write_headers(stream_id, stream.trailers, end_stream=True)
        else:
            self._out.append(frame(DATA, END_STREAM, stream_id))
        self._sent_end(stream_id, stream)

    def _write_data(self, stream_id: int, stream: _Stream, most: int) -> bool:
        """Write one DATA frame of what is pending; whether it ends the stream."""
        part = stream.pending[0]
        size = min(len(part), most)
        if size == len(part):
            del stream.pending[0]
        else:
            stream.pending[0] = part[size:]
            part = part[:size]
        stream.send_window -= size
        self._send_window -= size
        self.released_bytes += size
        ends = not stream.pending and stream.pending_end and stream.trailers is None
        self._out.append(
            HEAD.pack(size >> 8, size & 0xFF, DATA, END_STREAM if ends else 0, stream_id)
        )
        self._out.append(part)
        # A peer that makes room as it takes is at work; one that makes a little each time is not.
        if size >= USEFUL_BYTES or not stream.pending:
            self._idle_frames = 0
        return ends

    def _flush_blocked(self) -> None:
        for stream_id in list(self._blocked):
            if self._send_window <= 0:
                return
            self._flush(stream_id, self._streams[stream_id])

    def _sent_end(self, stream_id: int, stream: _Stream) -> None:
        """The answer is complete.  A request that is not, nobody will read (section 8.1)."""
        del self._streams[stream_id]
        if self._blocked:
            self._blocked.pop(stream_id, None)
        if self._resets:
            self._resets -= 1
        if not stream.is_ended_by_peer:
            self._refuse(stream_id, ErrorCode.NO_ERROR)

    def _refuse(self, stream_id: int, code: ErrorCode) -> None:
        """RST_STREAM; what is still on its way for the stream is passed over."""
        self._refused[stream_id] = None
        if len(self._refused) > self._limits.refused_streams_remembered:
            del self._refused[next(iter(self._refused))]
        self._out.append(frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big")))

    def _end(self, stream_id: int, code: int) -> bool:
        """End a stream, if it is open, and say so."""
        if not self._drop(stream_id):
            return False
        self._events.append(StreamEnded(stream_id, code))
        return True

    def _drop(self, stream_id: int) -> bool:
        self._blocked.pop(stream_id, None)
        return self._streams.pop(stream_id, None) is not None

    def _write_goaway(self, last_stream_id: int, code: ErrorCode, reason: bytes) -> None:
        payload = last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big") + reason
        self._out.append(frame(GOAWAY, 0, 0, payload))


def _check_dependency(stream_id: int, payload: bytes) -> None:
    # In HEADERS too this ends the connection: its block would have to be decoded before the stream
    # could be reset, and no honest client does it.
    if int.from_bytes(payload[:4], "big") & MAX_STREAM_ID == stream_id:
        raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")


def _without_padding(payload: bytes) -> bytes:
    if not payload:
        raise ConnectionRuleError(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its length")
    padding = payload[0]
    if padding >= len(payload):
        raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - padding]
