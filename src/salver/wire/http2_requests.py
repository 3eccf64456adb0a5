"""Requests and their bodies, as an HTTP/2 connection's frames bring them (RFC 9113, section 8.1).

Above ``Steering``, and below the cutting of frames, which hands them over.  Whoever sends what a
known client has sent before, in frames like those before, is read in a few steps.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

from salver.wire.hpack import HeaderBlock, HpackDecoder
from salver.wire.http2_events import DataReceived, Http2Limits, RequestReceived
from salver.wire.http2_frames import (
    END_HEADERS,
    END_STREAM,
    HEAD_BYTES,
    PADDED,
    PRIORITIZED,
    WINDOW_UPDATE,
    ConnectionRuleError,
    ErrorCode,
    StreamRuleError,
    frame,
)
from salver.wire.http2_headers import HeadReader, RequestHead, check_trailers, too_large_head
from salver.wire.http2_sending import USEFUL_BYTES, Stream
from salver.wire.http2_steering import Steering, check_dependency
from salver.wire.huffman import Huffman

LARGE_DATA_BYTES: Final = 4096
"""From this size on, DATA frames in a row are taken as one part of their body."""

OCTETS_LIKE_A_FRAME: Final = 64
"""So many octets of headers that are too large count like a frame that brings nothing."""

GAPS_REMEMBERED: Final = 32
"""Stretches of streams that the peer has left out; honest clients leave out none."""

_PLAIN_HEAD: Final = struct.Struct(">HBHL")
"""A frame's head with type and flags in one: zero means DATA that is neither padded nor last."""

_event = tuple.__new__  # a NamedTuple's own constructor takes twice as long


class Requests(Steering):
    """A connection's requests, from their frames to events."""

    def __init__(self, huffman: Huffman, limits: Http2Limits) -> None:
        super().__init__(limits)
        self._decoder: Final = HpackDecoder(huffman, max_list_bytes=limits.header_list_bytes)
        self._known: Final = self._decoder.remembered
        self._heads: Final = HeadReader()
        self._gaps: deque[range] = deque(maxlen=GAPS_REMEMBERED)
        self._block: bytearray | None = None  # a header block that goes on in CONTINUATIONs
        self._block_stream_id = 0
        self._block_flags = 0
        self._block_frames = 0
        self._max_streams: Final = limits.concurrent_streams
        # A window is renewed when it is half used up, so that the peer need not wait for more.
        self._receive_window = limits.connection_window_bytes
        self._low_window: Final = limits.connection_window_bytes // 2
        self._stream_window: Final = limits.stream_window_bytes
        self._low_stream_window: Final = limits.stream_window_bytes // 2
        self._most_in_one_go: Final = min(limits.frame_bytes, self._low_stream_window)

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

    def _read_whole_request(self, data: bytes, start: int, stop: int, stream_id: int) -> int:
        """A request of two frames that is like one before, in one go; where it ends, 0 if not so.

        By far the most frequent.  Whatever would need another look is left to the long way, which
        comes to the same.
        """
        block = self._known.get(data[start:stop])
        if block is None or block.meaning is None or len(data) < stop + HEAD_BYTES:
            return 0
        high, low, kind_and_flags, each = _PLAIN_HEAD.unpack_from(data, stop)
        size = high << 8 | low
        start = stop + HEAD_BYTES
        stop = start + size
        head, timeout = block.meaning
        if (
            kind_and_flags != END_STREAM  # of DATA, which is 0
            or each != stream_id
            or stop > len(data)
            or size > self._most_in_one_go
            or self._receive_window - size < self._low_window
            or head.fault
            or (head.content_length is not None and head.content_length != size)
            or self._goaway_sent_for is not None
            or len(self._streams) >= self._max_streams
        ):
            return 0
        self._last_stream_id = stream_id
        self._idle_frames = 0
        self._receive_window -= size
        window = self._peer_initial_window
        self._streams[stream_id] = Stream(window, self._stream_window - size, None, True)
        self._events += (
            _event(RequestReceived, (stream_id, head, False, timeout)),
            _event(DataReceived, (stream_id, data[start:stop], True)),
        )
        return stop

    def _header_fragment(self, flags: int, stream_id: int, payload: bytes) -> bytes:
        if flags & PADDED:
            payload = _without_padding(payload)
        if not flags & PRIORITIZED:
            return payload
        if len(payload) < 5:
            raise ConnectionRuleError(
                ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority"
            )
        check_dependency(stream_id, payload)
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
        if stream_id > self._last_stream_id + 2:
            self._gaps.append(range(self._last_stream_id + 1 | 1, stream_id, 2))
        self._last_stream_id = stream_id
        if self._goaway_sent_for is not None:
            self._count_idle_frame("HEADERS")  # the peer was told that it will not be answered
            return
        if len(self._streams) >= self._max_streams:
            raise StreamRuleError(stream_id, ErrorCode.REFUSED_STREAM, "too many streams at once")
        if decoded.is_too_large:
            head, timeout = self._too_large(stream_id, decoded, len(block)), b""
        else:
            if decoded.meaning is None:
                decoded.meaning = self._heads.read(decoded.headers)
            head, timeout = decoded.meaning
        if head.fault:
            raise StreamRuleError(stream_id, ErrorCode.PROTOCOL_ERROR, head.fault)
        if ended and head.content_length:
            raise StreamRuleError(
                stream_id, ErrorCode.PROTOCOL_ERROR, "content-length is not that of the body"
            )
        if not head.is_too_large:
            self._idle_frames = 0
        self._streams[stream_id] = Stream(
            self._peer_initial_window, self._stream_window, head.content_length, ended
        )
        self._events.append(_event(RequestReceived, (stream_id, head, ended, timeout)))

    def _too_large(self, stream_id: int, block: HeaderBlock, block_bytes: int) -> RequestHead:
        """What there is to answer of a request whose headers are more than the limit.

        Each octet may have been a reference to an entry: decoding it has cost its time.
        """
        self._idle_frames += block_bytes // OCTETS_LIKE_A_FRAME
        self._count_idle_frame("HEADERS too large")
        head = too_large_head(block.headers)
        if head.fault:
            raise StreamRuleError(stream_id, ErrorCode.ENHANCE_YOUR_CALM, "too large headers")
        return head

    def _on_further_headers(self, stream_id: int, block: HeaderBlock, ended: bool) -> None:
        """HEADERS on a stream that is not new: trailers, or a mistake."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._on_trailers(stream_id, stream, block, ended)
        elif self._is_passed_over(stream_id):
            self._count_idle_frame("HEADERS")
        elif any(stream_id in gap for gap in self._gaps):
            raise ConnectionRuleError(
                ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}, which was left out"
            )
        else:
            raise ConnectionRuleError(
                ErrorCode.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which is closed"
            )

    def _is_passed_over(self, stream_id: int) -> bool:
        """Whether a closed stream may be open still in the eyes of the peer (sections 5.1, 6.8)."""
        last = self._goaway_sent_for
        return stream_id in self._refused or (last is not None and stream_id > last)

    def _on_trailers(self, stream_id: int, stream: Stream, block: HeaderBlock, ended: bool) -> None:
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

    def _read_run(self, data: bytes, position: int, size: int, stream_id: int) -> int:
        """Take a DATA frame and those with the same head as one part of a body; where they end.

        Only such as need no other look: whole, neither padded nor the last, and with room to spare
        in every window, so that it makes no difference how many of them come at once.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_ended_by_peer:
            return position
        step = HEAD_BYTES + size
        most = min(self._room(stream) // size, (len(data) - position) // step)
        head, view, is_like = (
            data[position : position + HEAD_BYTES],
            memoryview(data),
            data.startswith,
        )
        parts = []
        for start in range(position, position + most * step, step):
            if not is_like(head, start):
                break
            parts.append(view[start + HEAD_BYTES : start + step])
        if parts:
            total = len(parts) * size
            self._receive_window -= total
            stream.receive_window -= total
            if stream.content_left is not None:
                stream.content_left -= total
            self._idle_frames = 0
            self._events.append(_event(DataReceived, (stream_id, b"".join(parts), False)))
        return position + len(parts) * step

    def _room(self, stream: Stream) -> int:
        """What a body may bring before a window is to be renewed, or it is too long."""
        room = min(
            self._receive_window - self._low_window,
            stream.receive_window - self._low_stream_window,
        )
        return room if stream.content_left is None else min(room, stream.content_left)

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
            self._count_idle_frame("DATA")
        return content > 0

    def _renew_window(self) -> None:
        if self._receive_window < 0:
            raise ConnectionRuleError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the window")
        more = self._limits.connection_window_bytes - self._receive_window
        self._receive_window += more
        self._out.append(frame(WINDOW_UPDATE, 0, 0, more.to_bytes(4, "big")))

    def _renew_stream_window(self, stream_id: int, stream: Stream) -> None:
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
            self._count_idle_frame("DATA")

    def _count_content(self, stream_id: int, stream: Stream, size: int, ended: bool) -> None:
        left = (stream.content_left or 0) - size
        stream.content_left = left
        if left < 0 or (ended and left):
            raise StreamRuleError(
                stream_id, ErrorCode.PROTOCOL_ERROR, "content-length is not that of the body"
            )


def _without_padding(payload: bytes) -> bytes:
    if not payload:
        raise ConnectionRuleError(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its length")
    check_padding(payload[0], len(payload))
    return payload[1 : len(payload) - payload[0]]


def check_padding(padding: int, size: int) -> None:
    """Padding is part of its frame (section 6.1)."""
    if padding >= size:
        raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
