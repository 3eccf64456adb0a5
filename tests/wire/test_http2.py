"""One connection's rules, with no socket in sight: RFC 9113, as far as a server has to keep it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from http2_peer import CALL, END, HUFFMAN, OK, HandMade, frames_of, number, setting
from salver.wire.http2 import (
    DataReceived,
    HeaderSet,
    Http2Connection,
    Http2Limits,
    PeerLeaves,
    PingReceived,
    RequestReceived,
    StreamEnded,
    StreamFlushed,
)
from salver.wire.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    Setting,
    frame,
)

PROTOCOL, FLOW, CLOSED = (
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.STREAM_CLOSED,
)
SIZE, CALM = ErrorCode.FRAME_SIZE_ERROR, ErrorCode.ENHANCE_YOUR_CALM


def bodies(sent: bytes) -> dict[int, bytes]:
    """The body of each stream in what the server sent."""
    found: dict[int, bytes] = {}
    for each in frames_of(sent):
        if each.kind == DATA:
            found[each.stream_id] = found.get(each.stream_id, b"") + each.payload
    return found


# Opening.


def test_server_speaks_first():
    """SETTINGS come before anything else, and the connection's window is opened wide."""
    settings_frame, window = frames_of(Http2Connection(HUFFMAN).take_output())

    assert (settings_frame.kind, settings_frame.flags, settings_frame.stream_id) == (SETTINGS, 0, 0)
    assert setting(Setting.MAX_CONCURRENT_STREAMS, 1024) in settings_frame.payload
    assert (window.kind, window.payload) == (WINDOW_UPDATE, number((16 << 20) - DEFAULT_WINDOW))


def test_first_settings_are_acknowledged():
    """The connection is in due form when the client's SETTINGS are there."""
    server = Http2Connection(HUFFMAN)
    server.take_output()
    server.receive(PREFACE)
    before = server.has_settings
    server.receive(frame(SETTINGS, 0, 0))

    assert (before, server.has_settings) == (False, True)
    assert server.take_output() == frame(SETTINGS, ACK, 0)


@pytest.mark.parametrize(
    ("opening", "code"),
    [
        (b"GET / HTTP/1.1\r\n", PROTOCOL),
        (PREFACE[:-1] + b"x", PROTOCOL),
        (b"x", PROTOCOL),
        (PREFACE + frame(PING, 0, 0, bytes(8)), PROTOCOL),
        (PREFACE + frame(SETTINGS, ACK, 0), PROTOCOL),
        (PREFACE + frame(DATA, 0, 1, b"x" * 9)[:12], PROTOCOL),
    ],
)
def test_another_opening_ends_the_connection(opening, code):
    """The preface, then SETTINGS: nothing else begins a connection (section 3.4)."""
    server = Http2Connection(HUFFMAN)
    server.receive(opening + frame(DATA, 0, 1, b"x" * 9)[12:])

    assert server.is_closed
    assert server.close_code == code
    assert frames_of(server.take_output())[-1].kind == GOAWAY


@pytest.mark.parametrize(
    "limits",
    [
        {"stream_window_bytes": 1000},
        {"connection_window_bytes": 1000},
        {"frame_bytes": 1000},
    ],
)
def test_limits_below_http2s_own_are_refused(limits):
    """A client may use HTTP/2's first windows and frames before it knows of smaller ones."""
    with pytest.raises(ValueError, match="HTTP/2 allows no"):
        Http2Limits(**limits)


# A request and its answer.


def test_request_comes_out_as_it_went_in():
    """Headers, body and end are one event each at most."""
    client = HandMade()
    request, data = client.say(client.call(1, b"hello"))

    assert type(request) is RequestReceived
    assert (request.stream_id, request.head.path, request.ended) == (1, b"/salver.Test/Echo", False)
    assert request.timeout == b""
    assert data == DataReceived(1, b"hello", ended=True)


def test_request_without_a_body_ends_with_its_headers():
    """END_STREAM on HEADERS: nothing follows."""
    client = HandMade()
    (request,) = client.say(client.headers(1, flags=END_HEADERS | END_STREAM))

    assert request.ended


def test_timeout_is_told_apart():
    """Calls that differ in their deadline share what is known of them."""
    client = HandMade()
    events = client.say(
        client.headers(1, (*CALL, (b"grpc-timeout", b"1S"))),
        client.headers(3, (*CALL, (b"grpc-timeout", b"250m"))),
    )

    assert [event.timeout for event in events] == [b"1S", b"250m"]
    assert events[0].head is events[1].head


def test_answer_is_headers_body_and_trailers():
    """In three frames, the second time with the blocks of a steady table."""
    client = HandMade()
    for stream_id in (1, 3, 5):
        client.say(client.call(stream_id))
        client.server.respond(stream_id, OK, b"answer", END)
        head, body, end = client.hear()

        assert (head.kind, head.flags, head.stream_id) == (HEADERS, END_HEADERS, stream_id)
        assert [tuple(each) for each in client.decoder.decode(head.payload, raw=True)] == list(
            OK.headers
        )
        assert (body.kind, body.flags, body.payload) == (DATA, 0, b"answer")
        assert (end.kind, end.flags) == (HEADERS, END_HEADERS | END_STREAM)
        assert client.decoder.decode(end.payload, raw=True) == [(b"grpc-status", b"0")]
    assert client.server.open_streams == 0


def test_answer_without_trailers_ends_with_its_data():
    """No empty frame is spent on the end."""
    client = HandMade()
    client.say(client.call(1))
    client.server.respond(1, OK, b"answer")
    _, body = client.hear()

    assert (body.payload, body.flags) == (b"answer", END_STREAM)


def test_answer_without_a_body_ends_with_empty_data():
    """The end has to be said somewhere."""
    client = HandMade()
    client.say(client.call(1))
    client.server.respond(1, OK, b"")
    _, body = client.hear()

    assert (body.kind, body.payload, body.flags) == (DATA, b"", END_STREAM)


def test_answer_to_a_closed_stream_is_no_error():
    """Whoever answers need not know that the client has gone."""
    client = HandMade()
    client.say(client.call(1), client.rst(1))
    client.server.respond(1, OK, b"answer", END)
    client.server.send_headers(1, OK)
    client.server.send_data(1, b"x")
    client.server.reset(1, ErrorCode.CANCEL)

    assert client.hear() == []
    assert client.server.is_flushed(1)
    assert not client.server.is_open(1)


def test_early_answer_stops_the_request():
    """A request that nobody will read is stopped, with no blame (section 8.1), and passed over."""
    client = HandMade()
    client.say(client.headers(1))
    client.server.send_headers(1, OK, end_stream=True)

    assert client.reset_codes() == {1: ErrorCode.NO_ERROR}
    assert (
        client.say(
            frame(DATA, 0, 1, b"late"), client.headers(1, [(b"a", b"b")], END_HEADERS | END_STREAM)
        )
        == []
    )
    assert client.hear() == []


def test_headers_larger_than_a_frame_go_on_in_continuations():
    """A block is cut to the peer's frame size, with nothing in between."""
    client = HandMade()
    client.say(client.call(1))
    large = ((b":status", b"200"), (b"grpc-message", b"x" * 40_000))
    client.server.send_headers(1, large, end_stream=True)
    frames = client.hear()

    assert [(each.kind, each.flags) for each in frames] == [
        (HEADERS, END_STREAM),
        (CONTINUATION, 0),
        (CONTINUATION, END_HEADERS),
    ]
    assert client.decoder.decode(b"".join(each.payload for each in frames), raw=True) == list(large)


def test_settings_of_the_table_reach_the_answers():
    """A client that takes the table away is told so before the next headers, and gets none."""
    client = HandMade()
    client.say(client.call(1), client.call(3), client.call(5))
    client.server.respond(1, OK, b"", END)
    for each in client.hear():
        if each.kind == HEADERS:
            client.decoder.decode(each.payload)
    client.say(frame(SETTINGS, 0, 0, setting(Setting.HEADER_TABLE_SIZE, 0)))
    client.server.respond(3, OK, b"", END)
    client.server.respond(5, OK, b"", END)
    client.decoder.max_allowed_table_size = 0
    heads = [
        client.decoder.decode(each.payload, raw=True)
        for each in client.hear()
        if each.kind == HEADERS
    ]

    assert heads == [list(OK.headers), list(END.headers)] * 2


# What arrives in pieces.


def a_conversation() -> bytes:
    client = HandMade()
    first = client.call(1, b"one" * 100)
    block = client.encoder.encode([*CALL, (b"x", b"y" * 50)])
    return b"".join(
        (
            PREFACE,
            frame(SETTINGS, 0, 0, setting(Setting.INITIAL_WINDOW_SIZE, 100)),
            first,
            frame(PING, 0, 0, b"12345678"),
            frame(HEADERS, PRIORITIZED | PADDED, 3, b"\x05" + bytes(5) + block[:9] + bytes(5)),
            frame(CONTINUATION, 0, 3, block[9:20]),
            frame(CONTINUATION, END_HEADERS, 3, block[20:]),
            frame(DATA, 0, 3, b"two"),
            frame(DATA, PADDED, 3, b"\x03three\0\0\0"),
            frame(0x42, 0xFF, 3, b"unknown"),
            client.headers(3, [(b"a", b"b")], END_HEADERS | END_STREAM),
            client.headers(5, (*CALL, (b"content-length", b"5"))),
            frame(DATA, 0, 5, b"too long"),
            frame(DATA, 0, 5, b"passed over"),
            client.headers(7),
            client.rst(7),
            frame(DATA, 0, 7, b"closed"),
            client.window(0, 1000),
            frame(GOAWAY, 0, 0, number(0) + number(0) + b"bye"),
            frame(DATA, 0, 9, b"on a stream that was never opened"),
        )
    )


def outcome(
    pieces: list[bytes], limits: Http2Limits | None = None
) -> tuple[list[object], bytes, int]:
    """What a server makes of a conversation in pieces: its events, the parts of a body joined."""
    server = Http2Connection(HUFFMAN, limits)
    sent, events = server.take_output(), []
    for piece in pieces:
        for event in server.receive(piece):
            last = events[-1] if events else None
            if isinstance(event, DataReceived) and isinstance(last, DataReceived):
                events[-1] = DataReceived(event.stream_id, last.data + event.data, event.ended)
            elif isinstance(event, RequestReceived):
                events.append((event.stream_id, event.head.headers, event.ended))
            else:
                events.append(event)
        sent += server.take_output()
    return events, sent, server.close_code


@given(st.lists(st.integers(0, len(a_conversation())), max_size=40))
def test_pieces_make_no_difference(cuts):
    """However the bytes are cut, the same comes of them."""
    whole = a_conversation()
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(edges)]

    assert outcome(pieces) == outcome([whole])


def test_byte_by_byte_makes_no_difference():
    """The smallest pieces of all, and the conversation is what it is meant to be."""
    whole = a_conversation()
    events, _, code = outcome([whole])

    assert outcome([bytes([byte]) for byte in whole]) == outcome([whole])
    assert code == PROTOCOL
    assert len(events) == 12


def test_large_body_comes_as_it_arrives():
    """A large frame is not held until it is whole."""
    client = HandMade()
    client.say(client.headers(1))
    whole = frame(DATA, END_STREAM, 1, b"x" * 100_000)
    first = client.server.receive(whole[:50_000])
    second = client.server.receive(whole[50_000:])

    assert [event.ended for event in first + second] == [False, True]
    assert sum(len(event.data) for event in first + second) == 100_000


def large_frames(stream_id: int, sizes: list[int], *, ended: bool = True) -> bytes:
    """A body in frames of these sizes, each full of its own number."""
    return b"".join(
        frame(
            DATA,
            END_STREAM if ended and number == len(sizes) - 1 else 0,
            stream_id,
            bytes([number % 256]) * size,
        )
        for number, size in enumerate(sizes)
    )


def test_large_frames_in_a_row_are_one_part():
    """A body of many frames costs one event per read, and the last one its own."""
    client = HandMade()
    client.say(client.headers(1))
    events = client.say(large_frames(1, [16_384] * 20))

    assert [len(event.data) for event in events] == [19 * 16_384, 16_384]
    assert [event.ended for event in events] == [False, True]


LIMITED = Http2Limits(stream_window_bytes=100_000, connection_window_bytes=150_000)
SIZES = st.lists(st.sampled_from([0, 1, 300, 4095, 4096, 9000, 16_384]), min_size=1, max_size=20)


@given(SIZES, st.none() | st.sampled_from([-1, 0, 5000]), st.data())
@settings(max_examples=60)
def test_large_frames_come_to_the_same_in_any_pieces(sizes, difference, data):
    """Windows, lengths and all, whether frames are taken in a row or one by one."""
    length = () if difference is None else ((b"content-length", b"%d" % (sum(sizes) + difference)),)
    client = HandMade(LIMITED)
    whole = b"".join(
        (
            PREFACE,
            frame(SETTINGS, 0, 0),
            client.headers(1, (*CALL, *length)),
            client.headers(3),
            large_frames(1, sizes, ended=data.draw(st.booleans())),
            large_frames(3, [9000, 9000]),
        )
    )
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=10))
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(edges)]

    assert outcome(pieces, LIMITED) == outcome([whole], LIMITED)


def test_request_like_one_before_comes_to_the_same():
    """Two frames in one read, the usual call, and what differs in any way goes the long way."""
    client = HandMade()
    client.say(client.call(1))
    client.say(client.call(3))
    short = client.say(client.call(5, b"body"))
    long = client.say(client.headers(7)) + client.say(frame(DATA, END_STREAM, 7, b"body"))

    assert [(type(each), each[1:]) for each in short] == [(type(each), each[1:]) for each in long]
    assert client.server.open_streams == 4


def test_large_body_may_come_in_one_piece():
    """As far as its frames go, however much else waits behind them."""
    client = HandMade()
    client.say(client.headers(1))
    begun = frame(DATA, 0, 1, bytes(16_384))[:5000]
    client.server.receive(begun)
    rest = bytes(16_384 + 9 - 5000)
    waiting = rest + large_frames(1, [16_384] * 3, ended=False) + client.window(0, 1) * 10_000

    assert client.server.bytes_at_once(waiting, 4096) == len(rest) + 3 * (16_384 + 9)


def test_what_asks_for_work_comes_in_small_pieces():
    """However many frames are alike, and however many of them wait."""
    client = HandMade()
    updates = client.window(0, 1)

    assert client.server.bytes_at_once(updates * 10_000, 4096) < 4096 + len(updates)
    assert client.server.bytes_at_once(client.call(1) * 1000, 4096) < 4096 + len(client.call(1))


def test_preface_is_no_frame():
    """Where the first frame begins is known, so a large body right behind it comes in one piece."""
    server = Http2Connection(HUFFMAN)
    client = HandMade()
    hello = PREFACE + frame(SETTINGS, 0, 0) + client.headers(1)
    body = large_frames(1, [16_384] * 3, ended=False)
    waiting = hello + body + client.window(0, 1) * 10_000

    assert server.bytes_at_once(waiting, len(hello)) == len(hello + body)


# What is held of frames that are not whole.


def test_unfinished_frames_are_counted():
    """The connection says what it keeps, and that it keeps it no longer."""
    client = HandMade()
    block = client.encoder.encode([*CALL, (b"x", b"y" * 5000)])
    begun = frame(HEADERS, 0, 1, block[:2000])
    client.say(begun[:1500])
    of_a_frame = client.server.held_bytes
    client.say(begun[1500:])
    of_a_block = client.server.held_bytes
    client.say(frame(CONTINUATION, END_HEADERS, 1, block[2000:]))

    assert (of_a_frame, of_a_block, client.server.held_bytes) == (1500, 2000, 0)


@pytest.mark.parametrize(
    "said",
    [
        frame(0x42, 0xFF, 3, bytes(500_000)),
        frame(GOAWAY, 0, 0, bytes(500_000)),
        frame(DATA, PADDED, 1, b"\xff" + bytes(500_000)),
    ],
    ids=["unknown", "goodbye", "padded"],
)
def test_large_frames_are_not_kept(said):
    """What nobody reads is skipped as it arrives, and a padded body is handed on."""
    client = HandMade()
    client.say(client.headers(1))
    held = []
    for start in range(0, len(said), 7000):
        client.say(said[start : start + 7000])
        held.append(client.server.held_bytes)
    answered = client.say(frame(PING, 0, 0, bytes(8)))

    assert max(held) == 0
    assert answered == [PingReceived()]


def test_padded_body_comes_as_it_arrives():
    """Its padding is left out, and its end comes with the last of its octets."""
    client = HandMade()
    client.say(client.headers(1))
    whole = frame(DATA, PADDED | END_STREAM, 1, b"\x64" + b"x" * 1000 + bytes(100))
    events = [event for byte in whole for event in client.server.receive(bytes([byte]))]

    assert b"".join(event.data for event in events) == b"x" * 1000
    assert [event.ended for event in events] == [False] * 999 + [True]
    assert client.say(frame(PING, 0, 0, bytes(8))) == [PingReceived()]


@pytest.mark.parametrize("kind", [PRIORITY, RST_STREAM, PING, WINDOW_UPDATE])
def test_frame_of_a_wrong_size_is_refused_by_its_head(kind):
    """What can only be wrong is not waited for."""
    client = HandMade()
    client.server.receive(frame(kind, 0, 1, bytes(60_000))[:20])

    assert client.server.close_code == SIZE


# Rules whose breach ends the connection.

OPEN, HALF, DONE = 1, 3, 5
"""A stream that waits for its body, one that has ended from the client, and one that is closed."""


def acquainted(limits: Http2Limits | None = None) -> HandMade:
    client = HandMade(limits)
    client.say(client.headers(OPEN), client.call(HALF), client.call(DONE))
    client.server.respond(DONE, OK, b"", END)
    client.server.take_output()
    return client


CONNECTION_FAULTS = {
    "DATA on stream 0": (frame(DATA, 0, 0, b"x"), PROTOCOL),
    "DATA on an idle stream": (frame(DATA, 0, 7, b"x"), PROTOCOL),
    "DATA on a server's stream": (frame(DATA, 0, 2, b"x"), PROTOCOL),
    "DATA all padding and more": (frame(DATA, PADDED, OPEN, b"\x02x"), PROTOCOL),
    "DATA padded, empty": (frame(DATA, PADDED, OPEN), SIZE),
    "HEADERS on stream 0": (frame(HEADERS, END_HEADERS, 0, b"\x82"), PROTOCOL),
    "HEADERS on a server's stream": (frame(HEADERS, END_HEADERS, 8, b"\x82"), PROTOCOL),
    "HEADERS on a closed stream": (frame(HEADERS, END_HEADERS, DONE, b"\x82"), CLOSED),
    "HEADERS all padding": (frame(HEADERS, END_HEADERS | PADDED, 7, b"\x05\x82"), PROTOCOL),
    "HEADERS too short for priority": (frame(HEADERS, END_HEADERS | PRIORITIZED, 7, b"x"), SIZE),
    "HEADERS depending on itself": (
        frame(HEADERS, END_HEADERS | PRIORITIZED, 7, number(7) + b"\x10\x82"),
        PROTOCOL,
    ),
    "HEADERS that do not decode": (
        frame(HEADERS, END_HEADERS, 7, b"\x80"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "trailers that do not decode": (
        frame(HEADERS, END_HEADERS, OPEN, b"\xff"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "PRIORITY on stream 0": (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    "PRIORITY of another size": (frame(PRIORITY, 0, 7, bytes(4)), SIZE),
    "PRIORITY depending on itself": (frame(PRIORITY, 0, 7, number(7) + b"\0"), PROTOCOL),
    "RST_STREAM on stream 0": (frame(RST_STREAM, 0, 0, bytes(4)), PROTOCOL),
    "RST_STREAM on an idle stream": (frame(RST_STREAM, 0, 7, bytes(4)), PROTOCOL),
    "RST_STREAM of another size": (frame(RST_STREAM, 0, OPEN, bytes(5)), SIZE),
    "SETTINGS on a stream": (frame(SETTINGS, 0, 1), PROTOCOL),
    "SETTINGS of another size": (frame(SETTINGS, 0, 0, bytes(5)), SIZE),
    "SETTINGS ACK with content": (frame(SETTINGS, ACK, 0, bytes(6)), SIZE),
    "ENABLE_PUSH of 2": (frame(SETTINGS, 0, 0, setting(2, 2)), PROTOCOL),
    "INITIAL_WINDOW_SIZE too large": (frame(SETTINGS, 0, 0, setting(4, 1 << 31)), FLOW),
    "MAX_FRAME_SIZE too small": (frame(SETTINGS, 0, 0, setting(5, (1 << 14) - 1)), PROTOCOL),
    "MAX_FRAME_SIZE too large": (frame(SETTINGS, 0, 0, setting(5, 1 << 24)), PROTOCOL),
    "PUSH_PROMISE": (frame(PUSH_PROMISE, END_HEADERS, OPEN, bytes(5)), PROTOCOL),
    "PING on a stream": (frame(PING, 0, 1, bytes(8)), PROTOCOL),
    "PING of another size": (frame(PING, 0, 0, bytes(7)), SIZE),
    "GOAWAY on a stream": (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    "GOAWAY too short": (frame(GOAWAY, 0, 0, bytes(7)), SIZE),
    "WINDOW_UPDATE of another size": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    "WINDOW_UPDATE of 0": (frame(WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL),
    "WINDOW_UPDATE on an idle stream": (frame(WINDOW_UPDATE, 0, 7, number(1)), PROTOCOL),
    "the connection's window too large": (frame(WINDOW_UPDATE, 0, 0, number(MAX_WINDOW)), FLOW),
    "CONTINUATION of nothing": (frame(CONTINUATION, END_HEADERS, 7, b""), PROTOCOL),
    "HEADERS interrupted": (
        frame(HEADERS, 0, 7, b"\x82") + frame(PING, 0, 0, bytes(8)),
        PROTOCOL,
    ),
    "HEADERS interrupted by the unknown": (
        frame(HEADERS, 0, 7, b"\x82") + frame(0x42, 0, 0),
        PROTOCOL,
    ),
    "HEADERS interrupted by DATA": (
        frame(HEADERS, 0, 7, b"\x82") + frame(DATA, 0, OPEN, b"x"),
        PROTOCOL,
    ),
    "CONTINUATION of another stream": (
        frame(HEADERS, 0, 7, b"\x82") + frame(CONTINUATION, END_HEADERS, 9, b""),
        PROTOCOL,
    ),
    "a frame beyond the limit": (b"\x10\x00\x01\x00\x00\x00\x00\x00\x01", SIZE),
    "a large frame of a small kind": (b"\x0f\x00\x00\x06\x00\x00\x00\x00\x00", SIZE),
    "a header block beyond the limit": (b"\x0f\x00\x00\x01\x04\x00\x00\x00\x07", CALM),
}


@pytest.mark.parametrize("name", CONNECTION_FAULTS)
def test_fault_that_ends_the_connection(name):
    """GOAWAY says which stream was the last and what was wrong; everybody waiting is told."""
    said, code = CONNECTION_FAULTS[name]
    client = acquainted()
    events = client.say(said)
    last, said_code = client.goodbye or (None, None)

    assert said_code == code
    assert last >= DONE
    assert events == [StreamEnded(OPEN, code), StreamEnded(HALF, code)]
    assert client.server.is_closed
    assert client.server.close_reason
    assert client.say(client.call(9)) == []


STREAM_FAULTS = {
    "DATA after the end": (frame(DATA, 0, HALF, b"x"), HALF, CLOSED),
    "HEADERS after the end": (
        frame(HEADERS, END_HEADERS | END_STREAM, HALF, b"\x10\x01a\x01b"),
        HALF,
        CLOSED,
    ),
    "trailers that are not the end": (
        frame(HEADERS, END_HEADERS, OPEN, b"\x10\x01a\x01b"),
        OPEN,
        PROTOCOL,
    ),
    "trailers with a pseudo-header": (
        frame(HEADERS, END_HEADERS | END_STREAM, OPEN, b"\x84"),
        OPEN,
        PROTOCOL,
    ),
    "WINDOW_UPDATE of 0": (frame(WINDOW_UPDATE, 0, OPEN, bytes(4)), OPEN, PROTOCOL),
    "a window too large": (frame(WINDOW_UPDATE, 0, OPEN, number(MAX_WINDOW)), OPEN, FLOW),
}


@pytest.mark.parametrize("name", STREAM_FAULTS)
def test_fault_that_ends_one_stream(name):
    """RST_STREAM says what was wrong, and the others go on."""
    said, stream_id, code = STREAM_FAULTS[name]
    client = acquainted()
    events = client.say(said)

    assert events == [StreamEnded(stream_id, code)]
    assert client.reset_codes() == {stream_id: code}
    assert len(client.say(client.call(7))) == 2


@pytest.mark.parametrize(
    ("opened", "late", "code"),
    [([5], 3, PROTOCOL), ([1, 9], 7, PROTOCOL), ([5, 7], 1, PROTOCOL), ([1, 9], 1, CLOSED)],
)
def test_stream_that_was_left_out_was_never_opened(opened, late, code):
    """A new stream closes the lower ones: none of those may begin (section 5.1.1)."""
    client = HandMade()
    for stream_id in opened:
        client.say(client.call(stream_id))
        client.server.respond(stream_id, OK, b"", END)
    client.say(client.headers(late))

    assert client.server.close_code == code


def test_data_on_a_closed_stream_is_refused_once():
    """STREAM_CLOSED the first time, and what else was on its way is passed over."""
    client = acquainted()
    client.say(frame(DATA, 0, DONE, b"x"))

    assert client.reset_codes() == {DONE: CLOSED}
    assert client.say(frame(DATA, 0, DONE, b"x")) == []
    assert client.hear() == []


@pytest.mark.parametrize(
    "said",
    [
        frame(PRIORITY, 0, DONE, bytes(5)),
        frame(PRIORITY, 0, 99, bytes(5)),
        frame(WINDOW_UPDATE, 0, DONE, number(1)),
        frame(RST_STREAM, 0, DONE, number(8)),
        frame(0x42, 0xFF, 99, b"anything"),
        frame(SETTINGS, ACK, 0),
        frame(PING, ACK, 0, bytes(8)),
        frame(SETTINGS, 0, 0, setting(0x1A2B, 7))[:9] + setting(0x1A2B, 7),
    ],
)
def test_what_is_passed_over(said):
    """Priorities, latecomers and extensions change nothing and cost no stream."""
    client = acquainted()

    assert client.say(said) == []
    assert not client.server.is_closed
    assert len(client.say(client.call(7))) == 2


def test_malformed_request_ends_its_stream_only():
    """PROTOCOL_ERROR, and its headers have kept the table in step."""
    client = HandMade()
    client.say(client.headers(1, (*CALL, (b"connection", b"close"), (b"new", b"entry"))))
    events = client.say(client.headers(3, (*CALL, (b"new", b"entry"))))

    assert client.reset_codes() == {1: PROTOCOL}
    assert (b"new", b"entry") in events[0].head.headers


@pytest.mark.parametrize(
    ("length", "frames"),
    [
        (b"5", [(b"hello!", END_STREAM)]),
        (b"5", [(b"hell", END_STREAM)]),
        (b"5", [(b"hel", 0), (b"lo!", 0)]),
        (b"1", [(b"", END_STREAM)]),
    ],
)
def test_body_of_another_length_ends_its_stream(length, frames):
    """content-length binds (section 8.1.1)."""
    client = HandMade()
    client.say(client.headers(1, (*CALL, (b"content-length", length))))
    client.say(*(frame(DATA, flags, 1, body) for body, flags in frames))

    assert client.reset_codes() == {1: PROTOCOL}


def test_length_without_a_body_ends_its_stream():
    """Headers that announce a body and end, and trailers that come before it is there."""
    client = HandMade()
    headers = (*CALL, (b"content-length", b"5"))
    client.say(
        client.headers(1, headers, END_HEADERS | END_STREAM),
        client.headers(3, headers),
        client.headers(3, [(b"a", b"b")], END_HEADERS | END_STREAM),
    )

    assert client.reset_codes() == {1: PROTOCOL, 3: PROTOCOL}


def test_trailers_end_a_request():
    """They are the end of the body; gRPC's requests have none that would matter."""
    client = HandMade()
    client.say(client.headers(1), frame(DATA, 0, 1, b"x"))

    assert client.say(client.headers(1, [(b"a", b"b")], END_HEADERS | END_STREAM)) == [
        DataReceived(1, b"", ended=True)
    ]


def test_padding_is_taken_away():
    """Of DATA and HEADERS, priority and all."""
    client = HandMade()
    block = client.encoder.encode(list(CALL))
    request, data = client.say(
        frame(HEADERS, END_HEADERS | PADDED | PRIORITIZED, 1, b"\x02" + bytes(5) + block + b"\0\0"),
        frame(DATA, PADDED | END_STREAM, 1, b"\x03body\0\0\0"),
    )

    assert request.head.method == b"POST"
    assert data.data == b"body"


def test_reserved_bit_of_a_stream_is_ignored():
    """Section 4.1."""
    client = HandMade()
    request, _ = client.say(client.headers(1), frame(DATA, END_STREAM, 1 | 1 << 31, b""))

    assert request.stream_id == 1


def test_ping_comes_back():
    """With the octets that it brought; whoever counts pings is told."""
    client = HandMade()

    assert client.say(frame(PING, 0, 0, b"12345678")) == [PingReceived()]
    assert client.server.take_output() == frame(PING, ACK, 0, b"12345678")


# Windows.


def test_body_waits_for_the_peers_windows():
    """Data is cut to the stream's and the connection's window, and goes on when they open."""
    client = HandMade(settings=setting(Setting.INITIAL_WINDOW_SIZE, 5))
    client.say(client.call(1))
    client.server.respond(1, OK, b"0123456789", END)
    first = client.server.take_output()
    is_waiting = client.server.waits_for_window
    client.say(client.window(1, 2))
    second = client.server.take_output()
    client.say(client.window(1, 100))
    third = frames_of(client.server.take_output())

    assert bodies(first) == {1: b"01234"}
    assert bodies(second) == {1: b"56"}
    assert is_waiting
    assert [each.payload for each in third if each.kind == DATA] == [b"789"]
    assert third[-1].flags == END_HEADERS | END_STREAM
    assert (client.server.open_streams, client.server.waits_for_window) == (0, False)


def test_connection_window_is_shared_in_turn():
    """Streams wait for it together; the first to wait goes first."""
    client = HandMade(settings=setting(Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW))
    client.say(client.call(1), client.call(3))
    client.server.respond(1, OK, b"a" * DEFAULT_WINDOW + b"b", END)
    client.server.respond(3, OK, b"c", END)
    first = bodies(client.server.take_output())
    client.say(client.window(0, 1))
    second = bodies(client.server.take_output())
    client.say(client.window(0, 1))
    third = bodies(client.server.take_output())

    assert first == {1: b"a" * DEFAULT_WINDOW}
    assert (second, third) == ({1: b"b"}, {3: b"c"})


def test_frames_are_no_larger_than_the_peer_allows():
    """16384 octets, unless its settings say more."""
    client = HandMade(settings=setting(Setting.MAX_FRAME_SIZE, 20_000))
    client.say(client.call(1))
    client.server.respond(1, OK, b"x" * 50_000, END)
    sizes = [len(each.payload) for each in client.hear() if each.kind == DATA]

    assert sizes == [20_000, 20_000, 10_000]


def test_smaller_initial_window_takes_back_what_was_given():
    """A window may be negative for a while (section 6.9.2)."""
    client = HandMade(settings=setting(Setting.INITIAL_WINDOW_SIZE, 10))
    client.say(client.call(1))
    client.server.respond(1, OK, b"0123456789abcdef", END)
    client.server.take_output()
    client.say(frame(SETTINGS, 0, 0, setting(Setting.INITIAL_WINDOW_SIZE, 3)), client.window(1, 7))
    nothing = bodies(client.server.take_output())
    client.say(client.window(1, 2))

    assert nothing == {}
    assert bodies(client.server.take_output()) == {1: b"ab"}


def test_larger_initial_window_lets_all_streams_go_on():
    """SETTINGS reach the streams that are open."""
    client = HandMade(settings=setting(Setting.INITIAL_WINDOW_SIZE, 0))
    client.say(client.call(1), client.call(3))
    for stream_id in (1, 3):
        client.server.respond(stream_id, OK, b"body", END)
    client.server.take_output()
    client.say(frame(SETTINGS, 0, 0, setting(Setting.INITIAL_WINDOW_SIZE, 10)))
    sent = client.server.take_output()

    assert bodies(sent) == {1: b"body", 3: b"body"}
    assert sent.startswith(frame(SETTINGS, ACK, 0))  # what relies on the settings comes after


def test_settings_that_overflow_a_window_end_the_connection():
    """An open stream's window may not pass 2^31-1 through SETTINGS either."""
    client = acquainted()
    client.say(client.window(OPEN, MAX_WINDOW - DEFAULT_WINDOW))
    client.say(frame(SETTINGS, 0, 0, setting(Setting.INITIAL_WINDOW_SIZE, DEFAULT_WINDOW + 1)))

    assert client.server.close_code == FLOW


def test_our_windows_are_renewed_when_half_used():
    """The stream's and the connection's, each by what was used."""
    client = HandMade(
        Http2Limits(stream_window_bytes=100_000, connection_window_bytes=DEFAULT_WINDOW)
    )
    client.say(client.headers(1), frame(DATA, 0, 1, b"x" * 30_000))
    before = client.hear()
    client.say(frame(DATA, 0, 1, b"x" * 30_000))

    assert before == []
    assert client.server.take_output() == client.window(0, 60_000) + client.window(1, 60_000)


@pytest.mark.parametrize("piece", [70_000, 10])
def test_more_than_the_connections_window_ends_it(piece):
    """A client that ignores the window is not worth talking to, in whatever pieces it comes."""
    client = HandMade(Http2Limits(connection_window_bytes=DEFAULT_WINDOW))
    client.say(client.headers(1))
    whole = frame(DATA, 0, 1, b"x" * (DEFAULT_WINDOW + 1))
    events = client.server.receive(whole[:piece])

    assert events == [StreamEnded(1, FLOW)]
    assert client.server.close_code == FLOW


def test_more_than_the_streams_window_ends_the_stream():
    """The padding counts too (section 6.1)."""
    client = HandMade(Http2Limits(stream_window_bytes=DEFAULT_WINDOW))
    client.say(client.headers(1), client.headers(3))
    padded = frame(DATA, PADDED, 1, b"\xff" + b"x" * (DEFAULT_WINDOW - 255) + bytes(255))
    whole = frame(DATA, 0, 3, b"x" * DEFAULT_WINDOW)

    assert client.say(padded) == [StreamEnded(1, FLOW)]
    assert [type(event) for event in client.say(whole)] == [DataReceived]


def test_data_that_nobody_reads_counts_for_the_connection():
    """Or the window would leak with each stream that was reset."""
    client = HandMade(Http2Limits(connection_window_bytes=DEFAULT_WINDOW))
    client.say(client.headers(1))
    client.server.reset(1, ErrorCode.CANCEL)
    client.server.take_output()
    client.say(frame(DATA, 0, 1, b"x" * 40_000))

    assert client.server.take_output() == client.window(0, 40_000)


def test_streaming_answer_says_when_it_may_go_on():
    """What was sent at once is flushed at once; what had to wait is announced once."""
    client = HandMade(settings=setting(Setting.INITIAL_WINDOW_SIZE, 5))
    client.say(client.call(1))
    client.server.send_headers(1, OK)
    client.server.send_data(1, b"123", end_stream=False)
    at_once = client.server.is_flushed(1), client.server.take_events()
    client.server.send_data(1, b"456", end_stream=False)
    later = client.server.is_flushed(1)
    events = client.say(client.window(1, 5))
    client.server.send_data(1, b"", trailers=END)

    assert at_once == (True, [])
    assert not later
    assert events == [StreamFlushed(1)]
    assert client.server.open_streams == 0


def test_ping_of_ours_asks_for_a_sign_of_life():
    """The answer to it is passed over: that something came is the sign."""
    client = HandMade()
    client.server.ping(b"is it on")

    assert client.server.take_output() == frame(PING, 0, 0, b"is it on")
    assert client.say(frame(PING, ACK, 0, b"is it on")) == []


def test_reset_drops_what_waits():
    """Nothing of a stream is sent after the client has taken it back."""
    client = HandMade(settings=setting(Setting.INITIAL_WINDOW_SIZE, 0))
    client.say(client.call(1))
    client.server.respond(1, OK, b"body", END)
    client.server.take_output()

    assert client.say(client.rst(1), client.window(0, 100)) == [StreamEnded(1, ErrorCode.CANCEL)]
    assert client.hear() == []
    assert not client.server.waits_for_window


# Goodbyes.


def test_leaving_is_announced_before_it_is_meant():
    """Requests on their way are answered; the last stream is fixed a moment later (section 6.8)."""
    client = HandMade()
    client.server.announce_leave()
    announced = client.goodbye
    on_the_way = client.say(client.call(1))
    client.server.leave()
    meant = client.goodbye
    too_late = client.say(client.call(3))

    assert announced == (MAX_WINDOW, ErrorCode.NO_ERROR)
    assert len(on_the_way) == 2
    assert meant == (1, ErrorCode.NO_ERROR)
    assert too_late == []
    assert client.server.is_leaving


def test_what_comes_too_late_is_passed_over_whole():
    """DATA, trailers, windows and resets of a request that was not taken are no faults."""
    client = HandMade()
    client.server.leave()
    client.server.take_output()
    client.say(
        client.headers(1),
        frame(DATA, 0, 1, b"x"),
        client.window(1, 1),
        client.headers(1, [(b"a", b"b")], END_HEADERS | END_STREAM),
        client.headers(3),
        client.rst(3),
    )

    assert client.hear() == []
    assert not client.server.is_closed


def test_what_has_begun_is_finished_after_leaving():
    """Its body still arrives, its answer still leaves, and the table is still in step."""
    client = HandMade()
    client.say(client.headers(1))
    client.server.leave()
    client.say(client.headers(3, (*CALL, (b"new", b"entry"))))
    (data,) = client.say(frame(DATA, END_STREAM, 1, b"x"))
    client.server.respond(1, OK, b"answer", END)

    assert data.ended
    assert bodies(client.server.take_output()) == {1: b"answer"}
    assert client.server.open_streams == 0


def test_last_stream_never_rises():
    """Neither by leaving twice nor by an end in anger (section 6.8)."""
    client = HandMade()
    client.say(client.call(1))
    client.server.leave()
    first = client.goodbye
    client.say(client.call(3))
    client.server.leave()
    client.server.announce_leave()
    second = client.goodbye
    client.say(frame(DATA, 0, 0, b""))

    assert first == (1, ErrorCode.NO_ERROR)
    assert second is None
    assert client.goodbye == (1, PROTOCOL)


def test_close_ends_every_stream():
    """Those who work on an answer are told; nothing is read or sent any more."""
    client = acquainted()
    client.server.close(CALM, "enough")

    assert client.server.take_events() == [StreamEnded(OPEN, CALM), StreamEnded(HALF, CALM)]
    assert client.goodbye == (DONE, CALM)
    client.server.respond(HALF, OK, b"x", END)
    client.server.close(PROTOCOL, "again")
    assert client.hear() == []
    assert client.server.close_reason == "enough"


def test_goaway_of_the_peer_is_told():
    """It opens no more streams; those that are open go on."""
    client = acquainted()

    assert client.say(frame(GOAWAY, 0, 0, number(0) + number(ErrorCode.NO_ERROR))) == [
        PeerLeaves(ErrorCode.NO_ERROR)
    ]
    assert client.server.open_streams == 2


def test_too_many_streams_are_refused_unharmed():
    """REFUSED_STREAM tells the client that it may try again."""
    client = HandMade(Http2Limits(concurrent_streams=2))
    client.say(client.headers(1), client.headers(3))
    events = client.say(client.call(5))
    refused = client.reset_codes()
    client.say(frame(DATA, END_STREAM, 1, b""))
    client.server.respond(1, OK, b"", END)

    assert events == []
    assert refused == {5: ErrorCode.REFUSED_STREAM}
    assert len(client.say(client.call(7))) == 2


def test_headers_beyond_the_limit_are_told_by_their_first():
    """Enough to answer the request by; the table is in step afterwards."""
    client = HandMade(Http2Limits(header_list_bytes=2000))
    large = (*CALL, (b"new", b"entry"), (b"x", b"y" * 1700))
    client.say(client.headers(1, large))
    (request,) = client.say(client.headers(3, large, END_HEADERS | END_STREAM))
    (next_one,) = client.say(client.headers(5, (*CALL, (b"new", b"entry"))))

    assert request.head.is_too_large
    assert request.head.header(b"content-type") == b"application/grpc"
    assert (b"x", b"y" * 1700) not in request.head.headers
    assert (b"new", b"entry") in next_one.head.headers
    assert not next_one.head.is_too_large


def test_too_large_headers_that_ask_for_nothing_end_their_stream():
    """Where the limit comes before the request is known, there is nothing to answer."""
    client = HandMade(Http2Limits(header_list_bytes=2000))
    events = client.say(client.headers(1, ((b"x", b"y" * 1990), *CALL)))

    assert events == []
    assert client.reset_codes() == {1: CALM}


HEADER_SETS = [
    HeaderSet((b":status", b"200"), *((b"x-%d" % each, b"y" * 90 * each) for each in range(index)))
    for index in range(6)
]
ANSWERS = st.tuples(st.sampled_from(HEADER_SETS), st.sampled_from([None, *HEADER_SETS]))


@given(st.lists(st.tuples(ANSWERS, st.none() | st.integers(0, 5000)), max_size=30))
@settings(max_examples=50)
def test_remembered_blocks_say_what_they_should(steps):
    """Whatever the order of answers and of table sizes, the client decodes the headers meant."""
    client = HandMade()
    for index, ((head, trailers), size) in enumerate(steps):
        if size is not None:
            client.say(frame(SETTINGS, 0, 0, setting(Setting.HEADER_TABLE_SIZE, size)))
            client.decoder.max_allowed_table_size = size
        client.say(client.call(2 * index + 1))
        client.server.respond(2 * index + 1, head, b"x", trailers)
        blocks = [
            tuple(map(tuple, client.decoder.decode(each.payload, raw=True)))
            for each in client.hear()
            if each.kind == HEADERS
        ]

        assert blocks == [each.headers for each in (head, trailers) if each is not None]
