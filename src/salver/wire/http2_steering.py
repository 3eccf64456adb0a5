"""The frames that steer an HTTP/2 connection: windows, settings, pings, resets, goodbyes.

A layer of ``Http2Connection``: above ``Sending``, which some of them let go on, and below the
reading of frames, which hands over those of the right size.  Each may be sent for nothing, so
each is counted.
"""

from __future__ import annotations

from salver.wire.http2_events import Http2Limits, PeerLeaves, PingReceived
from salver.wire.http2_frames import (
    ACK,
    MAX_MAX_FRAME_BYTES,
    MAX_STREAM_ID,
    MAX_WINDOW,
    MIN_MAX_FRAME_BYTES,
    PING,
    SETTINGS,
    ConnectionRuleError,
    ErrorCode,
    Setting,
    StreamRuleError,
    frame,
)
from salver.wire.http2_sending import Sending


class Steering(Sending):
    """A connection as its peer steers it."""

    def __init__(self, limits: Http2Limits) -> None:
        super().__init__(limits)
        self._has_settings = False
        self._is_particular = True  # only one kind of frame may come next

    @property
    def has_settings(self) -> bool:
        """Whether the peer has opened the connection in due form."""
        return self._has_settings

    def forgive(self) -> None:
        """Forget what the peer has done so far; to be called at a steady pace, once a second or so.

        A client that pings now and then is never too much, one that does nothing else soon is.
        """
        self._idle_frames = self._resets = 0

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        if stream_id == 0:
            if not increment:
                raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
            self._send_window += increment
            if self._send_window > MAX_WINDOW:
                raise ConnectionRuleError(ErrorCode.FLOW_CONTROL_ERROR, "a window grows too large")
            self._count_idle_frame("WINDOW_UPDATE")
            self._flush_blocked()
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id, "WINDOW_UPDATE")
            self._count_idle_frame("WINDOW_UPDATE")
            return
        if not increment:
            raise StreamRuleError(stream_id, ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
        stream.send_window += increment
        if stream.send_window > MAX_WINDOW:
            raise StreamRuleError(
                stream_id, ErrorCode.FLOW_CONTROL_ERROR, "a window grows too large"
            )
        self._count_idle_frame("WINDOW_UPDATE")
        if stream.pending:
            self._flush(stream_id, stream)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionRuleError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            self._count_idle_frame("SETTINGS")
            return
        if len(payload) % 6:
            raise ConnectionRuleError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of odd length")
        self._has_settings = True
        self._is_particular = False
        self._count_idle_frame("SETTINGS")
        for position in range(0, len(payload), 6):
            self._count_idle_frame("SETTINGS")  # each one may touch every stream
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
        self._count_idle_frame("PING")
        if not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
            self._events.append(PingReceived())

    def _on_rst_stream(self, stream_id: int, payload: bytes) -> None:
        if stream_id not in self._streams:
            self._check_not_idle(stream_id, "RST_STREAM")
            self._count_idle_frame("RST_STREAM")
            return
        self._count_reset()
        self._end(stream_id, int.from_bytes(payload, "big"))

    def _on_priority(self, stream_id: int, payload: bytes) -> None:
        """Priorities are checked and ignored (section 5.3.2).

        The stream may not exist yet and could not be reset then, so faults end the connection.
        """
        if stream_id == 0:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "PRIORITY without a stream")
        check_dependency(stream_id, payload)
        self._count_idle_frame("PRIORITY")

    def _on_goaway(self, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionRuleError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is shorter than 8 bytes")
        self._count_idle_frame("GOAWAY")
        self._events.append(PeerLeaves(int.from_bytes(payload[4:8], "big")))

    def _check_not_idle(self, stream_id: int, what: str) -> None:
        if stream_id == 0 or stream_id > self._last_stream_id or not stream_id & 1:
            raise ConnectionRuleError(
                ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which was never opened"
            )

    def _count_idle_frame(self, kind: str) -> None:
        """Count a frame that brings nothing; in a flood of several kinds the last one is named."""
        self._idle_frames += 1
        if self._idle_frames > self._limits.idle_frames:
            raise ConnectionRuleError(
                ErrorCode.ENHANCE_YOUR_CALM, f"many frames that bring nothing: {kind}"
            )

    def _count_reset(self) -> None:
        self._resets += 1
        if self._resets > self._limits.resets:
            raise ConnectionRuleError(ErrorCode.ENHANCE_YOUR_CALM, "too many requests taken back")


def check_dependency(stream_id: int, payload: bytes) -> None:
    """A stream may not depend on itself (section 5.3.1 of RFC 7540, which asked for priorities).

    In HEADERS too this ends the connection: the block would have to be decoded before the stream
    could be reset, and no honest client does it.
    """
    if int.from_bytes(payload[:4], "big") & MAX_STREAM_ID == stream_id:
        raise ConnectionRuleError(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
