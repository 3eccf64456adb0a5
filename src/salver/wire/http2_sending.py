"""What goes out of an HTTP/2 connection: answers as the peer's windows let them, and goodbyes.

The lowest layer of ``Http2Connection``; the others read.  It holds the streams, for an answer may
be what ends one, and puts frames together; what is read never passes through here.
"""

from __future__ import annotations

from typing import Final

from salver.wire.hpack import Headers, HpackEncoder
from salver.wire.http2_events import Event, Http2Limits, StreamEnded, StreamFlushed
from salver.wire.http2_frames import (
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEADERS,
    MAX_STREAM_ID,
    MIN_MAX_FRAME_BYTES,
    PING,
    RST_STREAM,
    ErrorCode,
    frame,
    frame_start,
)

USEFUL_BYTES: Final = 256
"""A frame that moves as much of a body is honest work; smaller pieces are cut off a body's end."""

_EncodedAnswer = tuple[bytes, bytes, bytes, bytes]
"""The headers of an answer and its trailers, each as what stands before the stream and after it."""


class HeaderSet:
    """Headers that are sent often: their block is remembered as long as the table stands still."""

    __slots__ = ("headers",)

    def __init__(self, *headers: tuple[bytes, bytes]) -> None:
        self.headers: Headers = headers


class Stream:
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


class Sending:
    """A connection's streams, and what is sent on them."""

    def __init__(self, limits: Http2Limits) -> None:
        self._limits: Final = limits
        self._encoder: Final = HpackEncoder()
        # What is sent often, as it is until the encoder's table changes.
        self._blocks: dict[HeaderSet, bytes] = {}
        self._answers: dict[tuple[HeaderSet, HeaderSet], _EncodedAnswer] = {}
        self._streams: dict[int, Stream] = {}
        self._blocked: dict[int, None] = {}  # streams with something to send, in turn
        self._refused: dict[int, None] = {}  # streams the peer may still believe to be open
        self._last_stream_id = 0
        self._goaway_sent_for: int | None = None
        self._out: list[bytes | memoryview] = []
        self._events: list[Event] = []
        self._send_window = DEFAULT_WINDOW
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

    @property
    def open_streams(self) -> int:
        """Streams that are not closed."""
        return len(self._streams)

    @property
    def waits_for_window(self) -> bool:
        """Whether something cannot be sent until the peer makes room for it."""
        return bool(self._blocked)

    @property
    def is_leaving(self) -> bool:
        """Whether GOAWAY has been sent."""
        return self._goaway_sent_for is not None

    @property
    def has_output(self) -> bool:
        """Whether there is something to be sent."""
        return bool(self._out)

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

    # How it is written.

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

    def _flush(self, stream_id: int, stream: Stream) -> None:
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

    def _write_data(self, stream_id: int, stream: Stream, most: int) -> bool:
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

    def _sent_end(self, stream_id: int, stream: Stream) -> None:
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
