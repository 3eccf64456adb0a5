"""The client's side of HTTP/2 for tests: frames made by hand, and the server's read back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hpack import Decoder, Encoder

from salver.wire.http2 import Event, HeaderSet, Http2Connection, Http2Limits
from salver.wire.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
)
from salver.wire.huffman import Huffman

HUFFMAN = Huffman()

CALL = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/salver.Test/Echo"),
    (b":authority", b"localhost:8500"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)
OK = HeaderSet((b":status", b"200"), (b"content-type", b"application/grpc"))
END = HeaderSet((b"grpc-status", b"0"))


class Frame(NamedTuple):
    """One frame as it was sent."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def frames_of(sent: bytes) -> list[Frame]:
    """What was sent, cut into frames."""
    frames, position = [], 0
    while position < len(sent):
        high, low, kind, flags, stream_id = HEAD.unpack_from(sent, position)
        end = position + HEAD_BYTES + (high << 8 | low)
        frames.append(Frame(kind, flags, stream_id, sent[position + HEAD_BYTES : end]))
        position = end
    return frames


def number(value: int) -> bytes:
    """The four octets of a window, an error code or a stream."""
    return value.to_bytes(4, "big")


def setting(which: int, value: int) -> bytes:
    """One entry of SETTINGS."""
    return which.to_bytes(2, "big") + number(value)


class HandMade:
    """A client that says exactly what a test wants, to a server it has just met."""

    def __init__(self, limits: Http2Limits | None = None, *, settings: bytes = b"") -> None:
        self.server = Http2Connection(HUFFMAN, limits)
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.server.receive(PREFACE + frame(SETTINGS, 0, 0, settings))
        self.server.take_output()

    def say(self, *frames: bytes) -> list[Event]:
        """Send frames in one piece."""
        return self.server.receive(b"".join(frames))

    def hear(self) -> list[Frame]:
        """What the server has sent since."""
        return frames_of(self.server.take_output())

    def headers(
        self,
        stream_id: int,
        headers: Iterable[tuple[bytes, bytes]] = CALL,
        flags: int = END_HEADERS,
    ) -> bytes:
        """A HEADERS frame."""
        return frame(HEADERS, flags, stream_id, self.encoder.encode(list(headers)))

    def call(self, stream_id: int, body: bytes = b"hello") -> bytes:
        """A whole request."""
        return self.headers(stream_id) + frame(DATA, END_STREAM, stream_id, body)

    def window(self, stream_id: int, more: int) -> bytes:
        """A WINDOW_UPDATE frame."""
        return frame(WINDOW_UPDATE, 0, stream_id, number(more))

    def rst(self, stream_id: int, code: int = ErrorCode.CANCEL) -> bytes:
        """A RST_STREAM frame."""
        return frame(RST_STREAM, 0, stream_id, number(code))

    @property
    def goodbye(self) -> tuple[int, int] | None:
        """The last stream and the code of a GOAWAY among what the server has sent since."""
        for each in self.hear():
            if each.kind == GOAWAY:
                return (
                    int.from_bytes(each.payload[:4], "big"),
                    int.from_bytes(each.payload[4:8], "big"),
                )
        return None

    def reset_codes(self) -> dict[int, int]:
        """The code for each stream that the server has reset since."""
        return {
            each.stream_id: int.from_bytes(each.payload, "big")
            for each in self.hear()
            if each.kind == RST_STREAM
        }
