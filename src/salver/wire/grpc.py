"""gRPC over HTTP/2, as far as it is bytes: timeouts, messages, statuses.

The rules are those of gRPC's "gRPC over HTTP2" protocol document.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from salver.errors import Code, Internal, ResourceExhausted, Unimplemented
from salver.wire.hpack import Header, Headers
from salver.wire.http2 import HeaderSet
from salver.wire.http2_headers import RequestHead

PREFIX_BYTES: Final = 5
"""In front of each message: whether it is compressed, and its length."""

CONTENT_TYPE: Final = b"application/grpc"

MAX_MESSAGE_TEXT: Final = 1024
"""A longer status text is cut to this, as in TensorFlow Serving: it travels in a header."""

OK_HEADERS: Final = HeaderSet((b":status", b"200"), (b"content-type", CONTENT_TYPE))
OK_TRAILERS: Final = HeaderSet((b"grpc-status", b"0"))

_COMPRESSED_HEADERS: Final = {
    name: HeaderSet(*OK_HEADERS.headers, (b"grpc-encoding", name)) for name in (b"gzip", b"deflate")
}

_WINDOW_BITS: Final = {b"gzip": 31, b"deflate": 15}
"""zlib's word for the two formats."""

_TIMEOUT_UNITS_S: Final = {
    ord("H"): 3600.0,
    ord("M"): 60.0,
    ord("S"): 1.0,
    ord("m"): 1e-3,
    ord("u"): 1e-6,
    ord("n"): 1e-9,
}

MAX_UNPACKED_BYTES: Final = 100 << 20
MAX_UNPACKED_TIMES: Final = 16
"""A compressed message unpacks to the first, or to so many times its own size, and no further."""

PACKED_AT_ONCE_BYTES: Final = 32 << 10
UNPACKED_AT_ONCE_BYTES: Final = 64 << 10
"""A compressed message is unpacked in slices of so much at most, to pause between them."""

ENCODINGS_TAKEN: Final[Headers] = ((b"grpc-accept-encoding", b"identity,deflate,gzip"),)
"""What an answer says to a call whose messages are compressed in a way that is not known."""

JOINED_BYTES: Final = 4096
"""Parts of a body smaller than this are joined as they come."""

COMPRESS_ABOVE_BYTES: Final = 1024
"""Shorter messages are not worth compressing."""

_PLAIN: Final = frozenset(range(0x20, 0x7F)) - {ord("%")}


@dataclass(frozen=True, slots=True)
class GrpcRequest:
    """What a call's headers ask for; the same for all calls that differ in their timeout only."""

    path: str
    encoding: bytes
    """How compressed messages of the request are compressed."""

    answer_encoding: bytes
    """How messages of the answer may be: as the request's, if the client takes that."""

    fault: tuple[Code, str] | None = None
    fault_headers: Headers = ()
    """What the answer says besides the fault."""


class UnpacksTooLarge(ResourceExhausted):
    """A compressed message that would grow beyond what is allowed, as no honest client's does."""


def is_grpc(head: RequestHead) -> bool:
    """Whether a request is a gRPC call."""
    content_type = head.header(b"content-type")
    return content_type[: len(CONTENT_TYPE)] == CONTENT_TYPE and content_type[
        len(CONTENT_TYPE) : len(CONTENT_TYPE) + 1
    ] in (b"", b"+", b";")


def read_request(head: RequestHead) -> GrpcRequest:
    """Read what a call's headers ask for; what is wrong with them is said in ``fault``."""
    encoding = head.header(b"grpc-encoding") or b"identity"
    accepted = [name.strip() for name in head.header(b"grpc-accept-encoding").split(b",")]
    fault = None
    fault_headers: Headers = ()
    if head.is_too_large:
        fault = (Code.RESOURCE_EXHAUSTED, "the call's headers are larger than the server allows")
    elif head.method != b"POST":
        fault = (Code.INTERNAL, f"a gRPC call is a POST, not a {_shown(head.method)}")
    elif encoding not in (b"identity", *_WINDOW_BITS):
        fault = (
            Code.UNIMPLEMENTED,
            f"grpc-encoding {_shown(encoding)} is not known here; gzip, deflate and identity are",
        )
        fault_headers = ENCODINGS_TAKEN
    return GrpcRequest(
        path=_shown(head.path),
        encoding=encoding,
        answer_encoding=encoding if encoding in accepted and encoding != b"identity" else b"",
        fault=fault,
        fault_headers=fault_headers,
    )


def read_timeout(value: bytes) -> float | None:
    """The seconds of a ``grpc-timeout``; None without one.

    Raises:
        Internal: it is not a number of up to eight digits and a unit.
    """
    if not value:
        return None
    digits, unit = value[:-1], _TIMEOUT_UNITS_S.get(value[-1])
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise Internal(f"grpc-timeout {_shown(value)} is no time")
    return int(digits) * unit


class MessageReader:
    """Cuts the body of a request into messages."""

    def __init__(self, encoding: bytes, max_bytes: int) -> None:
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._parts: list[bytes | bytearray | memoryview] = []
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of a message that is not complete."""
        return self._held_bytes

    def feed(self, data: bytes) -> None:
        """Take a part of the body; small ones are put together, or they would cost more to keep."""
        self._held_bytes += len(data)
        last = self._parts[-1] if self._parts else b""
        if isinstance(last, bytearray) and len(last) < JOINED_BYTES:
            last += data
        else:
            self._parts.append(bytearray(data) if len(data) < JOINED_BYTES else data)

    def messages(self) -> Iterator[bytes]:
        """Every message that is complete, unpacked where it is compressed.

        Raises:
            ResourceExhausted: one is larger than the limit.
            ServingError: one is compressed in a way that is not known or not right.
        """
        for is_packed, message in self.as_sent():
            if is_packed:
                yield decompressed(message, self._encoding, self._max_bytes)
            else:
                yield message

    def as_sent(self) -> Iterator[tuple[bool, bytes]]:
        """Every message that is complete as it came, and whether it is compressed.

        Raises:
            ResourceExhausted: one is larger than the limit.
            Internal: one is compressed, and its call does not say how.
        """
        while self._held_bytes >= PREFIX_BYTES:
            if len(self._parts[0]) < PREFIX_BYTES:
                self._parts = [b"".join(self._parts)]
            prefix = self._parts[0][:PREFIX_BYTES]
            length = int.from_bytes(prefix[1:PREFIX_BYTES], "big")
            if length > self._max_bytes:
                raise ResourceExhausted(
                    f"Received message larger than max ({length} vs. {self._max_bytes})"
                )
            end = PREFIX_BYTES + length
            if self._held_bytes < end:
                return
            is_packed = self._is_packed(prefix[0])
            yield is_packed, self._take(end)

    def _take(self, end: int) -> bytes:
        """The message that ends there, without its prefix; what follows it stays."""
        if self._held_bytes == end:  # a large message is copied once
            self._parts[0] = memoryview(self._parts[0])[PREFIX_BYTES:]
            message, rest = b"".join(self._parts), b""
        else:
            whole = b"".join(self._parts)
            message, rest = whole[PREFIX_BYTES:end], whole[end:]
        self._parts = [rest] if rest else []
        self._held_bytes = len(rest)
        return message

    def _is_packed(self, flag: int) -> bool:
        if flag == 0:
            return False
        if flag != 1 or self._encoding == b"identity":
            raise Internal("a message says it is compressed, and its call does not say how")
        return True


def decompressed(message: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """A message as it was before ``encoding``, in one go; raises what ``unpacking`` does."""
    return b"".join(unpacking(message, encoding, max_bytes))


def unpacking(message: bytes, encoding: bytes, max_bytes: int) -> Iterator[bytes]:
    """A message as it was before ``encoding``, in slices that each take little time.

    Raises:
        Internal: it is not compressed like that.
        UnpacksTooLarge: it is larger than ``max_bytes``; no more than that is ever unpacked.
    """
    unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
    max_bytes = min(max_bytes, max(MAX_UNPACKED_BYTES, MAX_UNPACKED_TIMES * len(message)))
    packed = memoryview(message)
    position = size = 0
    piece: bytes | memoryview = b""
    while not unpacker.eof:
        if not piece:
            piece = packed[position : position + PACKED_AT_ONCE_BYTES]
            position += len(piece)
        most = min(UNPACKED_AT_ONCE_BYTES, max_bytes + 1 - size)
        try:
            plain = unpacker.decompress(piece, most)
        except zlib.error as error:
            raise Internal(f"a message is no {encoding.decode()}: {error}") from error
        if not (piece or plain):
            raise Internal(f"a message ends in the middle of its {encoding.decode()}")
        piece = unpacker.unconsumed_tail
        size += len(plain)
        if size > max_bytes:
            raise UnpacksTooLarge(
                f"a message of {len(message)} bytes unpacks to more than {max_bytes} bytes"
            )
        if plain:
            yield plain


def framed(message: bytes) -> bytes:
    """A message with its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def framed_compressed(message: bytes, encoding: bytes) -> bytes:
    """A message, compressed, with its prefix."""
    packer = zlib.compressobj(1, zlib.DEFLATED, _WINDOW_BITS[encoding])
    packed = packer.compress(message) + packer.flush()
    return b"\1" + len(packed).to_bytes(4, "big") + packed


def headers_for(encoding: bytes) -> HeaderSet:
    """The headers of an answer whose messages are compressed, or not with ``b""``."""
    return _COMPRESSED_HEADERS.get(encoding, OK_HEADERS)


def status_headers(code: Code, message: str) -> tuple[Header, ...]:
    """The headers that carry a status: the whole of an answer's trailers."""
    encoded = message.encode("utf-8", "surrogateescape")
    if len(encoded) > MAX_MESSAGE_TEXT:
        encoded = encoded[:MAX_MESSAGE_TEXT] + b"...TRUNCATED"
    status = (b"grpc-status", b"%d" % code)
    return (status, (b"grpc-message", percent_encoded(encoded))) if encoded else (status,)


def trailers_only(code: Code, message: str) -> Headers:
    """A whole answer that has a status and no message."""
    return (*OK_HEADERS.headers, *status_headers(code, message))


def percent_encoded(text: bytes) -> bytes:
    """A status text as a header may hold it: everything but printable ASCII becomes ``%XX``."""
    return b"".join(b"%c" % octet if octet in _PLAIN else b"%%%02X" % octet for octet in text)


def unknown_method(path: str) -> Unimplemented:
    """What a call of a method that nobody offers gets."""
    return Unimplemented(f"there is no method {path}")


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")
