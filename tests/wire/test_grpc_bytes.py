"""gRPC as far as it is bytes: timeouts, messages, statuses."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import Code, Internal, ResourceExhausted, ServingError
from salver.wire.grpc import (
    UNPACKED_AT_ONCE_BYTES,
    MessageReader,
    decompressed,
    framed,
    framed_compressed,
    percent_encoded,
    read_request,
    read_timeout,
    status_headers,
    trailers_only,
    unpacking,
)
from salver.wire.http2_headers import read_request_head

NOISE = random.Random(1).randbytes(200_000)  # noqa: S311 -- repeatable, not secret


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"", None),
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"4m", 0.004),
        (b"5u", 5e-6),
        (b"99999999n", 0.099999999),
        (b"0S", 0.0),
    ],
)
def test_timeouts_are_read_in_their_units(value: bytes, seconds: float | None):
    """Hours to nanoseconds; none at all means no end."""
    assert read_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"S", b"1", b"-1S", b"1.5S", b"123456789S", b"1d", b"\xb2S"])
def test_what_is_no_timeout_is_refused(value: bytes):
    """At most eight digits and a unit."""
    with pytest.raises(Internal, match="grpc-timeout"):
        read_timeout(value)


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_messages_are_cut_out_of_any_split_of_the_body(messages: list[bytes], data):
    """However the bytes arrive, the messages are the same."""
    body = b"".join(map(framed, messages))
    reader, got = MessageReader(b"identity", 1000), []
    while body:
        size = data.draw(st.integers(1, len(body)))
        reader.feed(body[:size])
        body = body[size:]
        got += reader.messages()

    assert got == messages
    assert reader.held_bytes == 0


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_compressed_messages_come_back(encoding: bytes):
    """In both of the encodings that clients use."""
    reader = MessageReader(encoding, 1000)
    reader.feed(framed_compressed(b"text" * 50, encoding))

    assert list(reader.messages()) == [b"text" * 50]


def test_other_peoples_compression_is_understood():
    """Written by the standard library, with gRPC's names for the formats."""
    assert decompressed(gzip.compress(b"one"), b"gzip", 10) == b"one"
    assert decompressed(zlib.compress(b"two"), b"deflate", 10) == b"two"


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_bomb_is_unpacked_no_further_than_the_limit(encoding: bytes):
    """A kilobyte that stands for a megabyte is refused."""
    packed = framed_compressed(bytes(1 << 20), encoding)[5:]

    with pytest.raises(ResourceExhausted, match="more than 1000 bytes"):
        decompressed(packed, encoding, 1000)


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
@pytest.mark.parametrize("plain", [b"", b"x", bytes(1 << 20), NOISE])
def test_large_messages_are_unpacked_in_slices(encoding: bytes, plain: bytes):
    """However well they are packed, a slice takes little time."""
    packed = framed_compressed(plain, encoding)[5:]
    slices = list(unpacking(packed, encoding, 1 << 21))

    assert b"".join(slices) == plain
    assert all(0 < len(each) <= UNPACKED_AT_ONCE_BYTES for each in slices)


@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_message_cut_off_in_its_compression_is_refused(plain: bytes, cut: int):
    """Wherever it is cut; and what follows its end is nobody's."""
    packed = framed_compressed(plain, b"deflate")[5:]

    assert decompressed(packed + b"more", b"deflate", 4000) == plain
    with pytest.raises(Internal, match="middle"):
        decompressed(packed[: min(cut, len(packed) - 1)], b"deflate", 4000)


def test_unknown_encoding_is_answered_with_those_that_are_known():
    """A client may choose one of them for its next call."""
    request = read_request(
        read_request_head(
            (
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", b"/x"),
                (b"grpc-encoding", b"br"),
            )
        )
    )

    assert request.fault
    assert request.fault[0] is Code.UNIMPLEMENTED
    assert request.fault_headers == ((b"grpc-accept-encoding", b"identity,deflate,gzip"),)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"\0\0\0\4\1" + bytes(5), ResourceExhausted),  # 1025 bytes are announced
        (b"\1\0\0\0\1x", Internal),  # compressed, and nobody said how
        (b"\2\0\0\0\1x", Internal),  # a flag that does not exist
    ],
)
def test_messages_against_the_rules_are_refused(body: bytes, error: type[ServingError]):
    """Too large by their own word, or packed in an unknown way."""
    reader = MessageReader(b"identity", 1024)
    reader.feed(body)

    with pytest.raises(error):
        list(reader.messages())


@pytest.mark.parametrize("packed", [b"no gzip", gzip.compress(b"x" * 100)[:-10]])
def test_what_cannot_be_unpacked_is_refused(packed: bytes):
    """Garbage, and a message that is cut off inside its compression."""
    with pytest.raises(Internal, match="gzip"):
        decompressed(packed, b"gzip", 1000)


@given(st.binary(max_size=60))
def test_any_bytes_give_messages_or_an_error_of_the_tree(body: bytes):
    """Nothing else ever comes out."""
    reader = MessageReader(b"gzip", 1000)
    reader.feed(body)
    try:
        messages = list(reader.messages())
    except ServingError:
        return

    assert sum(map(len, messages)) <= 1000 * len(messages)


def test_status_texts_are_percent_encoded():
    """Printable ASCII stays; the percent sign and everything else is written as octets."""
    assert percent_encoded("50 % of ä\n".encode()) == b"50 %25 of %C3%A4%0A"


def test_a_long_status_text_is_cut():
    """It travels in a header, and says that it was cut."""
    headers = dict(status_headers(Code.NOT_FOUND, "x" * 2000))

    assert headers[b"grpc-status"] == b"5"
    assert headers[b"grpc-message"] == b"x" * 1024 + b"...TRUNCATED"


def test_an_error_is_an_answer_of_headers_only():
    """HTTP says 200; gRPC's status says what went wrong."""
    headers = dict(trailers_only(Code.UNAVAILABLE, ""))

    assert headers == {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"grpc-status": b"14",
    }
