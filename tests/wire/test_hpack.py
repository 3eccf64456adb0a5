"""Header blocks, both ways, against RFC 7541's examples and against another implementation."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.wire.hpack import (
    DEFAULT_TABLE_BYTES,
    STATIC_TABLE,
    HeaderTable,
    HpackDecoder,
    HpackEncoder,
    HpackError,
    TooManyHeadersError,
)
from salver.wire.huffman import Huffman

HUFFMAN = Huffman()

FIRST = (
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/"),
    (b":authority", b"www.example.com"),
)
SECOND = (*FIRST, (b"cache-control", b"no-cache"))
THIRD = (
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/index.html"),
    (b":authority", b"www.example.com"),
    (b"custom-key", b"custom-value"),
)
REQUEST_TABLE = [
    (b"custom-key", b"custom-value"),
    (b"cache-control", b"no-cache"),
    (b":authority", b"www.example.com"),
]

DATE = b"Mon, 21 Oct 2013 20:13:21 GMT"
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
REDIRECT = (
    (b":status", b"302"),
    (b"cache-control", b"private"),
    (b"date", DATE),
    (b"location", b"https://www.example.com"),
)
OTHER_REDIRECT = ((b":status", b"307"), *REDIRECT[1:])
PAGE = (
    (b":status", b"200"),
    (b"cache-control", b"private"),
    (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT"),
    (b"location", b"https://www.example.com"),
    (b"content-encoding", b"gzip"),
    (b"set-cookie", COOKIE),
)
RESPONSE_TABLE = [PAGE[5], PAGE[4], PAGE[2]]


def decoder(table_bytes: int = DEFAULT_TABLE_BYTES, list_bytes: int = 64 << 10) -> HpackDecoder:
    return HpackDecoder(HUFFMAN, table_bytes=table_bytes, max_list_bytes=list_bytes)


def table_of(subject: HpackDecoder) -> list[tuple[bytes, bytes]]:
    return list(subject.table.entries)


# Appendix C.


@pytest.mark.parametrize(
    ("block", "header", "table_bytes"),
    [
        (b"\x40\x0acustom-key\x0dcustom-header", (b"custom-key", b"custom-header"), 55),
        (b"\x04\x0c/sample/path", (b":path", b"/sample/path"), 0),
        (b"\x10\x08password\x06secret", (b"password", b"secret"), 0),
        (b"\x82", (b":method", b"GET"), 0),
    ],
    ids=["C.2.1 indexing", "C.2.2 no indexing", "C.2.3 never indexed", "C.2.4 indexed"],
)
def test_each_representation(block, header, table_bytes):
    """The four ways to write a header, and what each leaves in the table."""
    subject = decoder()

    assert subject.decode(block).headers == (header,)
    assert subject.table.size_bytes == table_bytes


@pytest.mark.parametrize(
    "blocks",
    [
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
    ],
    ids=["C.3 plain", "C.4 Huffman"],
)
def test_requests_on_one_connection(blocks):
    """Three requests share a table that grows with each."""
    subject = decoder()
    sizes, headers = [], []
    for block in blocks:
        headers.append(subject.decode(bytes.fromhex(block)).headers)
        sizes.append(subject.table.size_bytes)

    assert headers == [FIRST, SECOND, THIRD]
    assert sizes == [57, 110, 164]
    assert table_of(subject) == REQUEST_TABLE


@pytest.mark.parametrize(
    "blocks",
    [
        [
            (
                "4803333032580770726976617465611d4d6f6e2c203231204f63742032303133"
                "2032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d70"
                "6c652e636f6d"
            ),
            "4803333037c1c0bf",
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d"
                "54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f5049"
                "5541585157454f49553b206d61782d6167653d333630303b2076657273696f6e"
                "3d31"
            ),
        ],
        [
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a6"
                "2d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3"
            ),
            "4883640effc1c0bf",
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab"
                "77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f"
                "9587316065c003ed4ee5b1063d5007"
            ),
        ],
    ],
    ids=["C.5 plain", "C.6 Huffman"],
)
def test_responses_through_a_small_table(blocks):
    """A table of 256 octets evicts while it is read."""
    subject = decoder(table_bytes=256)
    sizes, headers = [], []
    for block in blocks:
        headers.append(subject.decode(bytes.fromhex(block)).headers)
        sizes.append(subject.table.size_bytes)

    assert headers == [REDIRECT, OTHER_REDIRECT, PAGE]
    assert sizes == [222, 222, 215]
    assert table_of(subject) == RESPONSE_TABLE


@pytest.mark.parametrize(
    ("size", "update"),
    [(10, "2a"), (30, "3e"), (31, "3f00"), (1337, "3f9a0a"), (4096, "3fe11f")],
)
def test_integers_of_every_length(size, update):
    """C.1: an integer fits its prefix, or fills it and goes on."""
    subject = decoder()
    subject.decode(bytes.fromhex(update))
    for index in range(200):
        subject.decode(b"\x40\x04%04d\x00" % index)

    assert size - 36 < subject.table.size_bytes <= size


# What is wrong.


@pytest.mark.parametrize(
    ("block", "what"),
    [
        ("80", "index 0"),
        ("be", "an index beyond the tables"),
        ("ffffffff0f", "a large index"),
        ("7f8080808080", "an integer that does not end"),
        ("ff808080808001", "an integer with needless zeros"),
        ("ffffffffffff7f", "an integer beyond all bounds"),
        ("ff", "an integer that is cut off"),
        ("40", "a literal without its name"),
        ("4001", "a name that is cut off"),
        ("400161", "a literal without its value"),
        ("4001610561", "a value that is cut off"),
        ("4001617fffffffff7f", "a value of gigabytes"),
        ("4001618100", "a value in bad Huffman code"),
        ("7e00", "a name from beyond the tables"),
        ("3fe21f", "a table larger than allowed"),
        ("8220", "a table size update after a header"),
        ("20202020", "more table size updates than there is reason for"),
    ],
)
def test_malformed_blocks_are_refused(block, what):
    """Whatever a block lacks or exceeds, it is an error of one kind."""
    with pytest.raises(HpackError):
        decoder().decode(bytes.fromhex(block))


@given(st.binary(max_size=100))
def test_any_bytes_decode_or_are_refused(block):
    """No input brings about any other error, and what decodes, decodes again to the same."""
    subject = decoder()
    try:
        first = subject.decode(block).headers
    except HpackError:
        return

    assert decoder().decode(block).headers == first


def test_entry_larger_than_the_table_empties_it():
    """Such an entry evicts all others and is not kept (section 4.4)."""
    table = HeaderTable(100)
    table.add((b"a", b"b"))
    table.add((b"name", b"x" * 100))

    assert (len(table), table.size_bytes) == (0, 0)


def test_entry_as_large_as_the_table_is_kept():
    """The last octet counts."""
    table = HeaderTable(100)
    table.add((b"a", b"b"))
    table.add((b"name", b"x" * 64))

    assert (len(table), table.size_bytes) == (1, 100)


def test_smaller_table_evicts_the_oldest():
    """Entries leave in the order in which they came."""
    table = HeaderTable(200)
    for name in (b"a", b"b", b"c"):
        table.add((name, b""))
    table.resize(70)

    assert list(table.entries) == [(b"c", b""), (b"b", b"")]


def test_index_counts_from_the_newest_after_the_static_table():
    """Index 62 is the newest entry; there is none at 0 and none past the last."""
    table = HeaderTable()
    table.add((b"a", b"1"))
    table.add((b"b", b"2"))

    assert table[1] == STATIC_TABLE[0]
    assert table[61] == STATIC_TABLE[60]
    assert [table[62], table[63]] == [(b"b", b"2"), (b"a", b"1")]
    for index in (-1, 0, 64):
        with pytest.raises(IndexError):
            table[index]


def test_small_block_with_huge_meaning_is_not_unpacked():
    """A large entry that is referred to again and again is kept as often as the limit allows."""
    subject = decoder()
    subject.decode(b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000)
    bomb = subject.decode(b"\xbe" * 60)

    assert bomb.is_too_large
    assert bomb.headers == ((b"a", b"x" * 4000),) * 16  # of 4,033 octets each, in 64 KiB
    assert subject.decode(b"\xbe").headers == ((b"a", b"x" * 4000),)


def test_block_of_many_times_the_limit_is_not_decoded_on():
    """What comes after four times the limit is not even looked at: here it would be an error."""
    subject = decoder()
    subject.decode(b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000)

    with pytest.raises(TooManyHeadersError):
        subject.decode(b"\xbe" * 1000 + b"\x80")


def test_long_block_within_the_limit_is_decoded_whole():
    """However many octets it has: they are headers, not references to large ones."""
    block = b"\x00\x01a\x7f\x81\x07" + b"x" * 1024

    assert len(decoder().decode(block * 40).headers) == 40


@pytest.mark.parametrize(("size", "is_too_large"), [(100, False), (101, True)])
def test_limit_counts_as_the_peer_counts(size, is_too_large):
    """A header counts for its octets and 32 more, as in SETTINGS_MAX_HEADER_LIST_SIZE."""
    block = b"\x00\x04name" + bytes([size - 36]) + b"x" * (size - 36)

    assert decoder(list_bytes=100).decode(block).is_too_large is is_too_large


def test_same_block_is_decoded_once_until_the_table_changes():
    """The same octets are the same object, until an entry shifts what they say."""
    subject = decoder()
    subject.decode(b"\x40\x01a\x01b")
    first = subject.decode(b"\xbe\x82")

    assert subject.decode(b"\xbe\x82") is first
    subject.decode(b"\x40\x01c\x01d")
    assert subject.decode(b"\xbe\x82").headers == ((b"c", b"d"), (b":method", b"GET"))


def test_memory_of_blocks_is_bounded():
    """A client that never repeats itself fills nothing."""
    subject = decoder()
    first = subject.decode(b"\x00\x01a\x04zero")
    for index in range(1000):
        subject.decode(b"\x00\x01a\x04%04d" % index)

    assert subject.decode(b"\x00\x01a\x04zero") is not first


# Against another implementation.

NAMES = st.sampled_from(
    [b":path", b"content-type", b"grpc-timeout", b"x", b"user-agent", b"cookie"]
)
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=300)), max_size=12)
SIZES = st.integers(0, DEFAULT_TABLE_BYTES)


@given(st.lists(st.tuples(st.none() | SIZES, HEADERS, st.booleans(), st.booleans()), max_size=12))
def test_what_another_encoder_writes_is_read(steps):
    """Blocks, Huffman coded or not, secret or not, with table resizes in between."""
    subject, encoder = decoder(), hpack.Encoder()
    for size, headers, is_huffman, is_secret in steps:
        if size is not None:
            encoder.header_table_size = size
        given_headers = [
            hpack.NeverIndexedHeaderTuple(*header) if is_secret else hpack.HeaderTuple(*header)
            for header in headers
        ]
        block = encoder.encode(given_headers, huffman=is_huffman)

        assert subject.decode(block).headers == tuple(headers)
        assert subject.decode(b"").headers == ()
        assert table_of(subject) == list(encoder.header_table.dynamic_entries)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 8192), max_size=3), HEADERS, st.booleans()), max_size=12
    )
)
@settings(max_examples=200)
def test_what_we_write_another_decoder_reads(steps):
    """Blocks with and without indexing, after any number of resizes by the peer."""
    subject, peer = HpackEncoder(), hpack.Decoder()
    for sizes, headers, is_indexed in steps:
        for size in sizes:
            subject.resize(size)
            peer.max_allowed_table_size = size
        block = subject.encode(headers, indexed=is_indexed)

        assert [tuple(header) for header in peer.decode(block, raw=True)] == headers


@given(st.lists(HEADERS, max_size=12))
def test_we_read_what_we_write(blocks):
    """Encoder and decoder agree without a third."""
    encoder, subject = HpackEncoder(), decoder()
    for headers in blocks:
        assert subject.decode(encoder.encode(headers)).headers == tuple(headers)


def test_smallest_size_in_between_is_said():
    """Two changes between blocks: the smallest, which has evicted, and the last (section 4.2)."""
    encoder = HpackEncoder()
    for size in (1000, 0, 500, 2000):
        encoder.resize(size)

    assert encoder.encode([]) == bytes.fromhex("203fb10f")


def test_repeated_header_is_one_octet():
    """What was sent before is an index, and its version stands still."""
    encoder = HpackEncoder()
    encoder.encode([(b"grpc-status", b"0")])
    version = encoder.version

    assert encoder.encode([(b"grpc-status", b"0")]) == b"\xbe"
    assert encoder.version == version


def test_peer_without_a_table_gets_none():
    """With a table of size 0 nothing is indexed but what is static."""
    encoder = HpackEncoder()
    encoder.resize(0)
    encoder.encode([(b"grpc-status", b"0")])

    assert encoder.encode([(b":status", b"200"), (b"grpc-status", b"0")]) == (
        b"\x88\x00\x0bgrpc-status\x010"
    )
