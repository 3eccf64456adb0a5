"""What a request's headers say, and which of them are refused."""

from __future__ import annotations

import pytest

from salver.wire.http2_headers import HeadReader, check_trailers, read_request_head

METHOD, SCHEME, PATH = (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a")
AUTHORITY = (b":authority", b"host:1")
REQUEST = (METHOD, SCHEME, PATH, AUTHORITY)


def test_request_is_taken_apart():
    """Pseudo-headers are fields, the others are kept in order."""
    head = read_request_head((*REQUEST, (b"x", b"1"), (b"content-length", b"12"), (b"x", b"2")))

    assert (head.method, head.scheme, head.path, head.authority) == (
        b"POST",
        b"http",
        b"/a",
        b"host:1",
    )
    assert head.headers == ((b"x", b"1"), (b"content-length", b"12"), (b"x", b"2"))
    assert head.header(b"x") == b"1"
    assert head.header(b"y") == b""
    assert head.content_length == 12
    assert head.fault == ""


def test_host_stands_in_for_authority():
    """A request that came through HTTP/1 may have only the one or the other (section 8.3.1)."""
    assert read_request_head((METHOD, SCHEME, PATH, (b"host", b"h"))).authority == b"h"
    assert read_request_head((*REQUEST, (b"host", b"h"))).authority == b"host:1"


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (SCHEME, PATH),
        (METHOD, PATH),
        (METHOD, SCHEME),
        (METHOD, SCHEME, (b":path", b"")),
        (*REQUEST, METHOD),
        (*REQUEST, (b":path", b"/b")),
        (METHOD, SCHEME, (b"a", b"b"), PATH),
        (*REQUEST, (b":status", b"200")),
        (*REQUEST, (b":protocol", b"websocket")),
        (*REQUEST, (b":", b"")),
        ((b":method", b"CONNECT"), AUTHORITY),
        (METHOD, SCHEME, (b":path", b"/a\r\n")),
        (METHOD, SCHEME, (b":path", b"/a ")),
        (*REQUEST, (b"connection", b"close")),
        (*REQUEST, (b"keep-alive", b"1")),
        (*REQUEST, (b"proxy-connection", b"close")),
        (*REQUEST, (b"transfer-encoding", b"chunked")),
        (*REQUEST, (b"upgrade", b"h2c")),
        (*REQUEST, (b"te", b"gzip")),
        (*REQUEST, (b"te", b"trailers, gzip")),
        (*REQUEST, (b"Upper", b"1")),
        (*REQUEST, (b"", b"1")),
        (*REQUEST, (b"a b", b"1")),
        (*REQUEST, (b"a:b", b"1")),
        (*REQUEST, (b"a\x7f", b"1")),
        (*REQUEST, (b"a\xe9", b"1")),
        (*REQUEST, (b"a\n", b"1")),
        (*REQUEST, (b"a", b"1\n")),
        (*REQUEST, (b"a", b"1\r2")),
        (*REQUEST, (b"a", b"1\x002")),
        (*REQUEST, (b"a", b" 1")),
        (*REQUEST, (b"a", b"1\t")),
        (*REQUEST, (b"content-length", b"-1")),
        (*REQUEST, (b"content-length", b"")),
        (*REQUEST, (b"content-length", b"1"), (b"content-length", b"2")),
        (*REQUEST, (b"content-length", b"9" * 19)),
    ],
)
def test_malformed_request_has_a_fault(headers):
    """Everything RFC 9113, section 8, calls malformed is."""
    assert read_request_head(headers).fault != ""


@pytest.mark.parametrize(
    "header",
    [
        (b"te", b"trailers"),
        (b"a", b""),
        (b"a", b"b c\td"),
        (b"a", b"\xff\x01"),
        (b"!#$%&'*+-.^_`|~09az", b"1"),
        (b"content-length", b"0"),
    ],
)
def test_unusual_header_is_no_fault(header):
    """What the RFC allows passes, however odd."""
    assert read_request_head((*REQUEST, header)).fault == ""


def test_same_length_twice_is_one_length():
    """HTTP allows a repeated content-length if all agree."""
    length = (b"content-length", b"5")

    assert read_request_head((*REQUEST, length, length)).content_length == 5


@pytest.mark.parametrize(
    ("trailers", "is_right"),
    [
        ((), True),
        (((b"grpc-status", b"0"),), True),
        (((b":path", b"/"),), False),
        (((b"connection", b"close"),), False),
        (((b"Upper", b"1"),), False),
    ],
)
def test_trailers_have_no_pseudo_headers(trailers, is_right):
    """Trailers obey the rules of headers, and are no second request."""
    assert (check_trailers(trailers) == "") is is_right


def test_calls_that_differ_in_their_timeout_share_a_head():
    """The timeout comes apart from the head, and the head is read once."""
    reader = HeadReader()
    first, no_timeout = reader.read((*REQUEST, (b"a", b"b")))
    second, one = reader.read((*REQUEST, (b"grpc-timeout", b"1S"), (b"a", b"b")))
    third, two = reader.read((*REQUEST, (b"a", b"b"), (b"grpc-timeout", b"2S")))

    assert first is second
    assert first is third
    assert (no_timeout, one, two) == (b"", b"1S", b"2S")


def test_malformed_timeout_is_a_fault_of_its_request_only():
    """The head that others share stays clean."""
    reader = HeadReader()
    bad, _ = reader.read((*REQUEST, (b"grpc-timeout", b"1S\n")))
    good, timeout = reader.read((*REQUEST, (b"grpc-timeout", b"1S")))

    assert bad.fault != ""
    assert (good.fault, timeout) == ("", b"1S")


def test_large_and_numerous_heads_are_not_kept():
    """A client that never repeats itself, or says much, fills nothing."""
    reader = HeadReader()
    large = (*REQUEST, (b"a", b"x" * 5000))
    first, _ = reader.read(REQUEST)
    for index in range(1000):
        reader.read((*REQUEST, (b"a", b"%d" % index)))

    assert reader.read(large)[0] is not reader.read(large)[0]
    assert reader.read(REQUEST)[0] is not first


@pytest.mark.parametrize(
    ("scheme", "authority", "host", "is_one"),
    [
        (b"http", b"server", b"server", True),
        (b"http", b"Server:80", b"server", True),
        (b"https", b"server", b"server:443", True),
        (b"http", b"server", b"other", False),
        (b"http", b"server:8501", b"server", False),
        (b"https", b"server:80", b"server", False),
        (b"http", b"", b"server", True),
    ],
)
def test_host_has_to_be_the_authority(scheme, authority, host, is_one):
    """Two names for one server are a malformed request, whichever is meant (section 8.3.1)."""
    pseudo = ((b":method", b"GET"), (b":scheme", scheme), (b":path", b"/"))
    named = ((b":authority", authority),) if authority else ()
    head = read_request_head((*pseudo, *named, (b"host", host)))

    assert (head.fault == "") is is_one


def test_two_hosts_are_one_too_many():
    """Without an authority they still have to agree."""
    pseudo = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"))

    assert read_request_head((*pseudo, (b"host", b"a"), (b"host", b"b"))).fault
