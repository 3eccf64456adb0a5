"""What an HTTP/2 connection tells its owner, and what it lets a peer ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from salver.wire.http2_frames import DEFAULT_WINDOW, MIN_MAX_FRAME_BYTES
from salver.wire.http2_headers import RequestHead


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


Event = RequestReceived | DataReceived | StreamEnded | StreamFlushed | PingReceived | PeerLeaves
