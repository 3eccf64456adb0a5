"""Bytes to requests and responses to bytes, with no socket in sight."""

from __future__ import annotations

import gzip
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import InvalidArgument
from salver.wire.http1_messages import (
    MAX_KNOWN_HEADS,
    UNPACKED_AT_ONCE_BYTES,
    DateStamp,
    HttpRequest,
    HttpResponse,
    KnownHeads,
    Limits,
    Received,
    Refusal,
    RequestReader,
    ResponseEncoder,
    Stage,
    error_page,
    reason_phrase,
    unpacked_body,
)

ENCODER = ResponseEncoder(DateStamp(lambda: 0.0))

PIPELINE = (
    b"GET /one HTTP/1.1\r\nHost: a\r\nX-Two: 1\r\nX-Two: 2\r\n\r\n"
    b"\r\n"
    b"POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world"
    b"POST /three HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;ext=1\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nTrailer: x\r\n\r\n"
    b"POST /four HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABk\r\nContent-Length: 5\r\n\r\nhello"
    b"POST /five HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    b"GET /six HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    b"GET /seven HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    b"DELETE /eight HTTP/1.0\r\n\r\n"
    b"GET /nine HTTP/1.1\r\n\r\n"
)
PIPELINE_BODIES = [
    ("/one", b""),
    ("/two", b"hello world"),
    ("/three", b"hello world"),
    ("/four", b"hello"),
    ("/five", b"hello"),
    ("/six", b""),
    ("/seven", b""),
    ("/eight", b""),
]


def read(*pieces: bytes, limits: Limits | None = None) -> list[Received | Refusal]:
    reader = RequestReader(limits or Limits())
    for piece in pieces:
        reader.feed(piece)
    return list(iter(reader.next_arrival, None))


def targets_and_bodies(arrivals: list[Received | Refusal]) -> list[tuple[str, bytes]]:
    assert all(isinstance(each, Received) for each in arrivals)
    return [(each.request.target, each.request.body) for each in arrivals]


def test_request_comes_out_as_it_went_in():
    """Method, target and body are untouched; header names are lower case, repeated ones joined."""
    (received,) = read(
        b"POST /v1/models/a%20b:predict?x HTTP/1.1\r\nHost: h\r\nX-A:  1 \r\nx-a: 2\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )

    assert received.request == HttpRequest(
        "POST",
        "/v1/models/a%20b:predict?x",
        {"host": "h", "x-a": "1, 2", "content-length": "3"},
        b"abc",
    )
    assert received.keep_alive


def test_pipeline_in_one_piece_gives_every_request_up_to_the_one_that_closes():
    """Length, chunks, a declined upgrade: each request is found, and nothing after the last."""
    assert targets_and_bodies(read(PIPELINE)) == PIPELINE_BODIES


@given(cuts=st.lists(st.integers(0, len(PIPELINE)), max_size=40))
def test_any_split_of_a_stream_gives_the_same_requests(cuts: list[int]):
    """How TCP cuts the bytes makes no difference."""
    edges = [0, *sorted(cuts), len(PIPELINE)]
    pieces = [PIPELINE[a:b] for a, b in pairwise(edges) if a < b]

    assert targets_and_bodies(read(*pieces)) == PIPELINE_BODIES


def test_single_bytes_give_the_same_requests():
    """The finest split of all reads the same."""
    assert targets_and_bodies(read(*(bytes([each]) for each in PIPELINE))) == PIPELINE_BODIES


@given(junk=st.binary(max_size=400), cut=st.integers(0, 400))
def test_no_bytes_make_the_reader_raise(junk: bytes, cut: int):
    """Whatever arrives is a request, a refusal or not whole yet; a refusal is the last word."""
    arrivals = read(junk[:cut], junk[cut:], b"\r\n\r\n")

    assert all(isinstance(each, Received) for each in arrivals[:-1])


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (b"nonsense\r\n\r\n", 501),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 501),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"TRACE / HTTP/1.1\r\n\r\n", 501),
        (b"CONNECT host:1 HTTP/1.1\r\n\r\n", 501),
        (b"FOO / HTTP/1.1\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA\0: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nA: b\n\n", 400),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 2147483648\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", 501),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", 400),
        (b"POST / HTTP/1.1\r\nExpect: a-miracle\r\n\r\n", 417),
    ],
)
def test_stream_that_cannot_be_trusted_is_refused(stream: bytes, status: int):
    """What is broken, ambiguous or not offered is refused with the status that says so."""
    assert read(stream, b"GET /smuggled HTTP/1.1\r\n\r\n") == [Refusal(status)]


SMALL = Limits(target_bytes=64, head_bytes=256, headers=4, body_bytes=10)


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([b"GET /" + b"a" * 64 + b" HTTP/1.1\r\n\r\n"], 414),
        ([b"GET /", *[b"a" * 10] * 7], 414),
        ([b"GET / HTTP/1.1\r\nA: " + b"b" * 256 + b"\r\n\r\n"], 431),
        ([b"GET / HTTP/1.1\r\nA: ", *[b"b" * 100] * 3], 431),
        ([b"GET / HTTP/1.1\r\n", *[b"A: b\r\n"] * 6], 431),
        ([b"GET / HTTP/1.1\r\n", b"A" * 100, b"A" * 100, b"A" * 100], 431),
        ([b"\r\n" * 100] * 2, 431),
        ([b"POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\n"], 413),
        ([b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"4\r\nabcd\r\n"] * 3], 413),
        ([b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", *[b"x" * 100] * 3], 431),
        ([b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", *[b"A: b\r\n"] * 5], 431),
        ([b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ", *[b"x" * 99] * 3], 431),
    ],
)
def test_nothing_grows_beyond_its_limit(pieces: list[bytes], status: int):
    """A target, a head, a body, an extension or a trailer without an end is refused in time."""
    assert read(*pieces, limits=SMALL)[-1] == Refusal(status)


def test_limits_are_inclusive():
    """A body of exactly the size allowed is read."""
    arrivals = read(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n0123456789", limits=SMALL)

    assert targets_and_bodies(arrivals) == [("/", b"0123456789")]


def test_truncated_body_gives_no_request():
    """A request is handed out whole or not at all."""
    reader = RequestReader(Limits())

    reader.feed(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234")

    assert reader.next_arrival() is None
    assert reader.stage is Stage.BODY


def test_trailers_are_not_remembered_as_headers():
    """A head that looks like an earlier head with its trailers has headers of its own."""
    chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n%b\r\n0\r\n%b\r\n"

    first, second = read(chunked % (b"", b"A: b\r\n"), chunked % (b"A: b\r\n", b""))

    assert first.request.headers == {"transfer-encoding": "chunked"}
    assert second.request.headers == {"transfer-encoding": "chunked", "a": "b"}


def test_requests_before_a_broken_one_are_still_given():
    """The refusal takes its place in the queue."""
    arrivals = read(b"GET /fine HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nbroken\r\n\r\n")

    assert [type(each) for each in arrivals] == [Received, Refusal]


def test_expectation_lasts_until_the_body_begins():
    """The peer is to be told to go on only while it holds the whole body back."""
    reader = RequestReader(Limits())

    reader.feed(b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 4\r\n\r\n")
    before = reader.awaits_continue
    reader.feed(b"ab")

    assert (before, reader.awaits_continue) == (True, False)


def gzipped(body: bytes) -> HttpRequest:
    return HttpRequest("POST", "/", {"content-encoding": "x-gzip"}, body)


def test_gzip_body_is_unpacked():
    """A body sent with gzip is what the client compressed."""
    assert unpacked_body(gzipped(gzip.compress(b"hello" * 1000))) == b"hello" * 1000


def test_plain_body_is_left_alone():
    """Without the header, bytes that look like gzip are data."""
    packed = gzip.compress(b"hello")

    assert unpacked_body(HttpRequest("POST", "/", {}, packed)) is packed


@pytest.mark.parametrize(
    "body", [b"", b"not gzip", gzip.compress(b"hello")[:-9], zlib.compress(b"hello")]
)
def test_bad_gzip_counts_as_an_empty_body(body: bytes):
    """Garbage, a cut stream or another format reads as no body, as in TensorFlow Serving."""
    assert unpacked_body(gzipped(body)) == b""


def test_gzip_bomb_is_refused_before_it_goes_off():
    """A body that would outgrow its limit is an error that names both sizes."""
    bomb = gzip.compress(bytes(10_000_000))

    with pytest.raises(InvalidArgument, match="more than the 1000 bytes"):
        unpacked_body(gzipped(bomb), max_bytes=1000)


POST = b"POST /%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
HEADS = (
    POST % (b"one", 5),
    POST % (b"two", 0),
    POST % (b"tri", 3),
    b"\r\n" + POST % (b"one", 5),
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\nContent-Length: 3\n\n\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 6\r\n\n\r\n\r\n",
    b"\r\n\r\n",
    b"GET /",
    b"hello",
    b"0\r\n\r\n",
    b"\r\n\r",
)


def heard(pieces: list[bytes], heads: KnownHeads) -> list[object]:
    """What a connection reads, piece by piece, and what it waits for in between."""
    reader = RequestReader(Limits(), heads)
    found: list[object] = []
    for piece in pieces:
        received = reader.whole_request(piece)
        if received is None:
            reader.feed(piece)
            found += list(iter(reader.next_arrival, None))
        else:
            found.append(received)
        found.append((reader.stage, reader.begun, reader.held_bytes, reader.awaits_continue))
    return found


@given(
    lessons=st.lists(st.lists(st.sampled_from(HEADS), max_size=3).map(b"".join), max_size=6),
    said=st.lists(st.lists(st.sampled_from(HEADS), max_size=3).map(b"".join), max_size=6),
)
def test_known_head_makes_no_difference(lessons: list[bytes], said: list[bytes]):
    """Whatever was learnt from others, and however often, the same octets are the same requests."""
    heads = KnownHeads()
    for _ in range(3):
        for each in [*lessons, *said]:
            if each:
                heard([each], heads)
    pieces = [each for each in said if each]

    assert heard(pieces, heads) == heard(pieces, KnownHeads())


def test_head_seen_twice_is_known():
    """The third request of its kind comes without the parser, with a body of its own."""
    heads = KnownHeads()
    reader = RequestReader(Limits(), heads)
    for body in (b"first", b"again"):
        reader.feed(HEADS[0] + body)
    received = RequestReader(Limits(), heads).whole_request(HEADS[0] + b"third")

    assert received is not None
    assert received.request == HttpRequest(
        "POST", "/one", {"host": "a", "content-length": "5"}, b"third"
    )
    assert RequestReader(Limits(), heads).whole_request(HEADS[0] + b"thi") is None


def test_known_head_may_come_before_its_body():
    """Many clients send the two apart, and are known as well."""
    reader = RequestReader(Limits())
    bodies = [b"first", b"again", b"third", b"other"]
    for body in bodies:
        reader.feed(HEADS[0])
        reader.feed(body)

    assert targets_and_bodies(list(iter(reader.next_arrival, None))) == [
        ("/one", body) for body in bodies
    ]
    assert (reader.stage, reader.begun) == (Stage.BETWEEN, 4)


def test_known_heads_are_bounded():
    """A client with many heads makes nobody remember them all."""
    heads = KnownHeads()
    many = [b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(3 * MAX_KNOWN_HEADS)]
    for each in many:
        heard([each, each], heads)

    assert sum(heads.find(each)[0] is not None for each in many) <= MAX_KNOWN_HEADS


def test_head_that_comes_once_is_not_remembered():
    """One with a number of its request pushes out nobody else's."""
    heads = KnownHeads()
    heard([HEADS[0] + b"first", HEADS[0] + b"again"], heads)
    heard([b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(2 * MAX_KNOWN_HEADS)], heads)

    assert heads.find(HEADS[0])[0] is not None


def test_response_has_its_length_and_date():
    """The head says what comes and when it was sent."""
    response = HttpResponse(200, b"{}", "application/json", (("X-A", "1"),))

    assert b"".join(ENCODER.encode(response)) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-A: 1\r\n"
        b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\r\n{}"
    )


@pytest.mark.parametrize(
    ("keep_alive", "minor_version", "line"),
    [
        (True, 1, b""),
        (False, 1, b"Connection: close\r\n"),
        (True, 0, b"Connection: keep-alive\r\n"),
        (False, 0, b"Connection: close\r\n"),
    ],
)
def test_connection_header_says_only_what_is_not_the_default(
    keep_alive: bool, minor_version: int, line: bytes
):
    """Each version has its own default; the status line is in the peer's version."""
    (sent,) = ENCODER.encode(HttpResponse(200), keep_alive=keep_alive, minor_version=minor_version)

    assert (
        sent
        == b"HTTP/1.%d 200 OK\r\n%bDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n"
        % (
            minor_version,
            line,
        )
    )


def test_answer_to_head_has_the_length_but_no_body():
    """HEAD is GET without the body."""
    sent = b"".join(ENCODER.encode(HttpResponse(200, b"body"), to_method="HEAD"))

    assert sent.endswith(b"Content-Length: 4\r\n\r\n")


def test_large_body_is_not_copied():
    """A body too large to copy leaves as the very object it came as."""
    body = bytes(10**6)

    assert ENCODER.encode(HttpResponse(200, body))[1] is body


def test_response_like_one_before_differs_where_it_should():
    """What is remembered of a response is neither its hour nor its body."""
    now = [0.0]
    encoder = ResponseEncoder(DateStamp(lambda: now[0]))
    (first,) = encoder.encode(HttpResponse(200, b"one", "text/plain"))
    now[0] = 1.0
    (second,) = encoder.encode(HttpResponse(200, b"three", "text/plain"))
    (third,) = encoder.encode(HttpResponse(404, b"three", "text/plain"), minor_version=0)

    assert b"00:00:00 GMT\r\nContent-Length: 3\r\n\r\none" in first
    assert b"00:00:01 GMT\r\nContent-Length: 5\r\n\r\nthree" in second
    assert third.startswith(b"HTTP/1.0 404 Not Found\r\nContent-Type: text/plain\r\n")


def test_error_page_is_the_one_clients_know():
    """The page TensorFlow Serving's HTTP library writes, byte for byte."""
    page = error_page(404)

    assert page.closes
    assert page.content_type == "text/html"
    assert page.body == (
        b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n"
        b"<H1>Not Found</H1>\n</BODY></HTML>\n"
    )


@pytest.mark.parametrize(
    ("status", "reason"),
    [(200, "OK"), (429, "Client Error"), (499, "Client Error"), (504, "Gateway Time-out")],
)
def test_reason_phrases_are_the_librarys(status: int, reason: str):
    """Statuses it does not know get the name of their class."""
    assert reason_phrase(status) == reason


def test_date_follows_a_clock_that_is_put_back():
    """The hour of an answer is the one it is, not the latest there was."""
    now = [784111777.0]
    date = DateStamp(lambda: now[0])
    date.octets()
    now[0] -= 3600

    assert date.octets() == b"Sun, 06 Nov 1994 07:49:37 GMT"


def test_date_is_written_once_a_second():
    """Within one second the same text is given; the next second has its own."""
    now = [784111777.0]
    date = DateStamp(lambda: now[0])

    first = date.octets()
    now[0] += 0.9
    same = date.octets()
    now[0] += 0.2
    assert first == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert same is first
    assert date.octets() == b"Sun, 06 Nov 1994 08:49:38 GMT"


@pytest.mark.parametrize("more", [-1, 0, 1, 7])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_packed_body_is_whole_whatever_its_size(pieces: int, more: int):
    """It is unpacked in pieces; none is lost where one ends."""
    body = bytes(range(256)) * 4096 * pieces + b"x" * 7
    body = body[: UNPACKED_AT_ONCE_BYTES * pieces + more]
    packed = gzip.compress(body)
    request = HttpRequest("POST", "/", {"content-encoding": "gzip"}, packed)

    assert unpacked_body(request) == body
    assert unpacked_body(request._replace(body=packed[:-9])) == b""
