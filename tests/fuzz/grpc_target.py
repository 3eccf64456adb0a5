"""Messages in the body of a gRPC call: found, unpacked and bounded, wherever the body is cut.

    make fuzz ARGS="--target grpc"

The first byte of an input chooses the compression and the limit, the rest is a body.
"""

from __future__ import annotations

import zlib

from fuzz.engine import Target, cuts_of, pieces_of, with_words
from salver.errors import Code, ServingError
from salver.wire.grpc import PREFIX_BYTES, MessageReader, framed, framed_compressed

FILES = ("wire/grpc.py",)
ENCODINGS = (b"identity", b"gzip", b"deflate")
LIMITS = (0, 10, 300, 1 << 20)

WORDS = (
    *(framed(b""), framed(b"abc"), framed(b"x" * 200), b"\0\0\0\0\5", b"\1\0\0\0\5", b"\2"),
    *(framed_compressed(b"abc", b"gzip"), framed_compressed(b"abc", b"deflate")),
    *(framed_compressed(bytes(2000), b"gzip"), framed_compressed(bytes(2000), b"deflate")),
    *(b"\0\xff\xff\xff\xff", b"\0\x7f\xff\xff\xff", b"\0\0\0\0", b"\x1f\x8b\x08"),
)


def run(data: bytes) -> None:
    """Read a body in every way."""
    if not data:
        return
    encoding, limit = ENCODINGS[data[0] % 3], LIMITS[data[0] // 3 % 4]
    body = data[1:]
    whole = read(body, [], encoding, limit)
    for seed in (1, 2):
        if read(body, cuts_of(len(body), seed, 8 * seed), encoding, limit) != whole:
            raise AssertionError("it makes a difference where the body is cut")
    compare(body, encoding, limit, *whole)


def read(
    body: bytes, cuts: list[int], encoding: bytes, limit: int
) -> tuple[list[bytes], Code | None]:
    """The messages of a body in pieces, and what is wrong with the next one."""
    reader = MessageReader(encoding, limit)
    messages: list[bytes] = []
    for piece in pieces_of(body, cuts):
        reader.feed(piece)
        try:
            for message in reader.messages():
                messages.append(message)  # noqa: PERF402 -- those in front of an error count
        except ServingError as error:
            return messages, error.code
        if reader.held_bytes >= PREFIX_BYTES + max(limit, 1):
            raise AssertionError(f"{reader.held_bytes} bytes are held")
    return messages, None


def compare(
    body: bytes, encoding: bytes, limit: int, messages: list[bytes], code: Code | None
) -> None:
    """The plainest reading there is says the same."""
    position = 0
    for message in messages:
        length = int.from_bytes(body[position + 1 : position + PREFIX_BYTES], "big")
        start, position = position + PREFIX_BYTES, position + PREFIX_BYTES + length
        sent = body[start:position]
        if body[start - PREFIX_BYTES] == 1:
            sent = zlib.decompressobj(31 if encoding == b"gzip" else 15).decompress(sent)
        if message != sent or len(message) > limit:
            raise AssertionError(f"{message!r} is read, {sent!r} was sent")
    rest = body[position:]
    if code is None and len(rest) >= PREFIX_BYTES:
        length = int.from_bytes(rest[1:PREFIX_BYTES], "big")
        if length > limit or len(rest) >= PREFIX_BYTES + length:
            raise AssertionError("the last message is whole or too large, and nobody says so")


TARGET = Target(run, with_words(WORDS), FILES)
