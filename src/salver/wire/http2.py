"""The server's side of one HTTP/2 connection (RFC 9113), without a socket.

Bytes in, events out; answers in, bytes out.  Whoever owns the socket hands over what arrives with
``receive``, acts on the events, and sends what ``take_output`` gives.  Nothing here knows what a
request means.

This file cuts what arrives into frames.  What requests become is in ``http2_requests``, the frames
that steer a connection are in ``http2_steering``, and what goes out is in ``http2_sending``.

Whatever a peer can make grow has a bound in ``Http2Limits``; a peer that reaches one is told so
with the code the RFC has for it.  Rates are bounded without a clock: the owner calls ``forgive``
at a steady pace, and the bounds hold from one call to the next.
"""

from __future__ import annotations

from typing import Final

from salver.wire.hpack import HpackError, TooManyHeadersError
from salver.wire.http2_events import (
    DataReceived,
    Event,
    Http2Limits,
    PeerLeaves,
    PingReceived,
    RequestReceived,
    StreamEnded,
    StreamFlushed,
)
from salver.wire.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FIXED_SIZES,
    GOAWAY,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    MAX_STREAM_ID,
    PADDED,
    PING,
    PREFACE,
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
)
from salver.wire.http2_requests import LARGE_DATA_BYTES, Requests, check_padding
from salver.wire.http2_sending import HeaderSet
from salver.wire.huffman import Huffman

__all__ = [  # for those who own a connection, all in one place
    "DataReceived",
    "Event",
    "HeaderSet",
    "Http2Connection",
    "Http2Limits",
    "PeerLeaves",
    "PingReceived",
    "RequestReceived",
    "StreamEnded",
    "StreamFlushed",
]

HEADER_FRAME_EXTRAS: Final = 1 + 255 + 5
"""What a HEADERS frame may hold besides its block: padding, its length, and a priority."""

GOAWAY_HEAD_BYTES: Final = 8
"""Of a GOAWAY, the last stream and the code; what follows is for people."""


class Http2Connection(Requests):
    """One connection, from the client's preface to GOAWAY."""

    def __init__(self, huffman: Huffman, limits: Http2Limits | None = None) -> None:
        limits = limits or Http2Limits()
        super().__init__(huffman, limits)
        self._has_preface = False
        self._rest = bytearray()  # of what arrived: less than a frame
        self._wanted_bytes = 0  # before a look at the rest is worth while
        self._data_left = 0  # of a DATA frame whose head has been read
        self._data_stream_id = 0
        self._data_ends = False
        self._skip_left = 0  # of a frame that nobody keeps, or of padding
        self._most_for_headers: Final = min(
            limits.frame_bytes, limits.header_list_bytes + HEADER_FRAME_EXTRAS
        )
        self._open()

    # What the owner of the socket calls; besides it, what the layers below offer.

    @property
    def held_bytes(self) -> int:
        """Bytes kept of frames and header blocks that are not complete."""
        if self._block is None:
            return len(self._rest)
        return len(self._rest) + len(self._block)

    def bytes_at_once(self, data: bytes | memoryview, least: int) -> int:
        """How much of ``data``, which is what comes next, to receive in one piece.

        ``least``, and on to where a large body is interrupted: its bytes cost next to nothing,
        where other frames ask for work and had better come in small pieces.
        """
        position, end = self._data_left + self._skip_left, len(data)
        if not self._has_preface:
            position = len(PREFACE) - len(self._rest)
        while position <= end - HEAD_BYTES:
            head = data[position : position + HEAD_BYTES]
            high, low, kind, _flags, _stream_id = HEAD.unpack(head)
            size = high << 8 | low
            is_body = kind == DATA and size >= LARGE_DATA_BYTES
            if position >= least and not is_body:
                break
            position += HEAD_BYTES + size
            while is_body and data[position : position + HEAD_BYTES] == head:
                position += HEAD_BYTES + size
        return max(position, least)

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
        except TooManyHeadersError as error:
            self.close(ErrorCode.ENHANCE_YOUR_CALM, str(error))
        except HpackError as error:
            self.close(ErrorCode.COMPRESSION_ERROR, str(error))
        events, self._events = self._events, []
        return events

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """End the connection: GOAWAY, and no stream is answered any more."""
        super().close(code, reason)
        self._rest.clear()
        self._block = None

    # Frames.

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
        """Read whole frames, and what there is of one that need not be whole; keep the rest."""
        end = len(data)
        last = end - HEAD_BYTES
        unpack = HEAD.unpack_from
        most = self._most_for_headers
        if self._data_left or self._skip_left:
            position = self._read_rest_of_frame(data, position)
        while position <= last:
            high, low, kind, flags, stream_id = unpack(data, position)
            size = high << 8 | low
            if size > most:
                self._check_size(kind, size)
            stream_id &= MAX_STREAM_ID  # the highest bit is reserved
            start = position + HEAD_BYTES
            stop = start + size
            try:
                if self._is_particular:
                    self._check_order(kind, flags)
                if stop > end:
                    self._read_unfinished(kind, flags, stream_id, size, data, position)
                    return
                if kind == DATA:
                    if size >= LARGE_DATA_BYTES and not flags:
                        after = self._read_run(data, position, size, stream_id)
                        if after > position:
                            position = after
                            continue
                    self._on_data(flags, stream_id, data[start:stop])
                elif kind == HEADERS:
                    if flags == END_HEADERS and stream_id == self._last_stream_id + 2:
                        after = self._read_whole_request(data, start, stop, stream_id)
                        if after:
                            position = after
                            continue
                    self._on_headers(flags, stream_id, data[start:stop])
                else:
                    self._on_other_frame(kind, flags, stream_id, data[start:stop])
            except StreamRuleError as fault:
                self._on_stream_fault(fault)
            position = stop
        if position < end:
            self._keep(data, position, HEAD_BYTES)

    def _check_size(self, kind: int, size: int) -> None:
        """Only bodies come in large frames, and what is passed over."""
        limit = self._limits.frame_bytes
        if size > limit:
            raise ConnectionRuleError(
                ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes; {limit} are allowed"
            )
        if kind in (HEADERS, CONTINUATION):
            raise ConnectionRuleError(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")
        if kind == SETTINGS:
            raise ConnectionRuleError(
                ErrorCode.FRAME_SIZE_ERROR, f"{size} bytes in a frame of type {kind}"
            )

    def _keep(self, data: bytes, position: int, wanted_bytes: int) -> None:
        self._wanted_bytes = wanted_bytes
        self._rest += data[position:]

    def _read_unfinished(
        self, kind: int, flags: int, stream_id: int, size: int, data: bytes, position: int
    ) -> None:
        """A frame of which the rest is still to come: kept only if it has to be whole."""
        start = position + HEAD_BYTES
        if kind == DATA:
            if flags & PADDED and start == len(data):
                self._keep(data, position, HEAD_BYTES + 1)  # the padding's length is still to come
            else:
                self._begin_data(flags, stream_id, size, data, start)
        elif kind > CONTINUATION:
            self._on_other_frame(kind, flags, stream_id, b"")
            self._skip_left = size
            self._read_rest_of_frame(data, start)
        elif kind == GOAWAY and size > GOAWAY_HEAD_BYTES:
            head_end = start + GOAWAY_HEAD_BYTES
            if head_end > len(data):
                self._keep(data, position, HEAD_BYTES + GOAWAY_HEAD_BYTES)
                return
            self._on_goaway(stream_id, data[start:head_end])
            self._skip_left = size - GOAWAY_HEAD_BYTES
            self._read_rest_of_frame(data, head_end)
        else:
            self._check_control_frame(kind, size)
            self._keep(data, position, HEAD_BYTES + size)

    def _begin_data(self, flags: int, stream_id: int, size: int, data: bytes, start: int) -> None:
        """A DATA frame is taken as it comes, so a large one is never copied to be put together."""
        content = size
        if flags & PADDED:
            check_padding(data[start], size)
            content -= 1 + data[start]
            start += 1
            self._skip_left = data[start - 1]
        self._data_left = content
        self._data_stream_id = stream_id
        self._data_ends = bool(flags & END_STREAM)
        try:
            if self._admit_data(flags, stream_id, size, content) and not content:
                self._events.append(DataReceived(stream_id, b"", ended=True))
        except StreamRuleError as fault:
            self._on_stream_fault(fault)
        self._read_rest_of_frame(data, start)

    def _read_rest_of_frame(self, data: bytes, position: int) -> int:
        """The rest of a frame that is taken as it comes; where the next one begins."""
        if self._data_left:
            part = data[position : position + self._data_left]
            position += len(part)
            self._data_left -= len(part)
            # The stream is gone if the frame was not right, or has been answered or reset since.
            if part and self._data_stream_id in self._streams:
                ended = self._data_ends and not self._data_left
                self._events.append(DataReceived(self._data_stream_id, part, ended))
        if self._skip_left and not self._data_left:
            skipped = min(self._skip_left, len(data) - position)
            position += skipped
            self._skip_left -= skipped
        return position

    def _on_stream_fault(self, fault: StreamRuleError) -> None:
        if self._end(fault.stream_id, fault.code):
            self._count_reset()
        else:
            self._count_idle_frame(str(fault))
        self._refuse(fault.stream_id, fault.code)

    def _check_control_frame(self, kind: int, size: int) -> None:
        """What is wrong with some frames can be said before they are there."""
        if size != FIXED_SIZES.get(kind, size):
            raise ConnectionRuleError(
                ErrorCode.FRAME_SIZE_ERROR, f"{size} bytes in a frame of type {kind}"
            )
        if kind == PUSH_PROMISE:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _on_other_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        self._check_control_frame(kind, len(payload))
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
        else:
            self._count_idle_frame("of an extension")  # they are ignored (section 5.5)

    def _check_order(self, kind: int, flags: int) -> None:
        if self._block is not None:
            if kind != CONTINUATION:
                raise ConnectionRuleError(
                    ErrorCode.PROTOCOL_ERROR, "a frame stands between a header block and its rest"
                )
        elif kind != SETTINGS or flags & ACK:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
