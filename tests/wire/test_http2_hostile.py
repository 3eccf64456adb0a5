"""Peers that mean harm, and heavy ones that do not: the first are sent away, the second are not."""

from __future__ import annotations

import pytest

from http2_peer import CALL, END, OK, HandMade, number, setting
from salver.wire.http2 import DataReceived, Http2Limits, RequestReceived, StreamEnded
from salver.wire.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAX_WINDOW,
    PADDED,
    PING,
    PRIORITY,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    Setting,
    frame,
)

CALM = ErrorCode.ENHANCE_YOUR_CALM
LIMITS = Http2Limits(idle_frames=100, resets=50, concurrent_streams=20)
MANY = 10_000

NOTHINGS = {
    "PING": frame(PING, 0, 0, bytes(8)),
    "PING answered": frame(PING, ACK, 0, bytes(8)),
    "SETTINGS": frame(SETTINGS, 0, 0),
    "SETTINGS ACK": frame(SETTINGS, ACK, 0),
    "WINDOW_UPDATE of the connection": frame(WINDOW_UPDATE, 0, 0, number(1)),
    "WINDOW_UPDATE of a stream": frame(WINDOW_UPDATE, 0, 1, number(1)),
    "WINDOW_UPDATE of a closed stream": frame(WINDOW_UPDATE, 0, 3, number(1)),
    "PRIORITY": frame(PRIORITY, 0, 99, bytes(5)),
    "empty DATA": frame(DATA, 0, 1),
    "DATA of padding": frame(DATA, PADDED, 1, b"\x09" + bytes(9)),
    "late DATA": frame(DATA, 0, 5, b"x"),
    "late trailers": frame(HEADERS, END_HEADERS | END_STREAM, 5, b"\x10\x01a\x01b"),
    "late RST_STREAM": frame(3, 0, 3, number(8)),
    "extensions": frame(0x42, 0, 0, b"x"),
    "SETTINGS with many entries": frame(SETTINGS, 0, 0, setting(4, 1000) + setting(4, 2000)),
}


KINDS = {
    **{name: name.split()[0] for name in NOTHINGS},
    "empty DATA": "DATA",
    "late DATA": "DATA",
    "late trailers": "HEADERS",
    "late RST_STREAM": "RST_STREAM",
    "extensions": "of an extension",
}


def with_streams(limits: Http2Limits = LIMITS) -> HandMade:
    """A connection with an open stream, one that is answered, and one that we have reset."""
    client = HandMade(limits)
    client.say(client.headers(1), client.call(3), client.headers(5))
    client.server.respond(3, OK, b"", END)
    client.server.reset(5, ErrorCode.CANCEL)
    client.server.take_output()
    return client


# Floods.


@pytest.mark.parametrize("name", NOTHINGS)
def test_flood_of_nothing_ends_the_connection(name):
    """Frames that cost us work and bring none, one after another, with a bounded echo."""
    client = with_streams()
    client.say(NOTHINGS[name] * MANY)
    sent = client.server.take_output()

    assert client.server.close_code == CALM
    assert len(sent) < 100 * 20 + 100


@pytest.mark.parametrize("name", NOTHINGS)
def test_flood_is_named_by_its_kind_of_frame(name):
    """Whoever reads the log learns what the client sent too much of."""
    client = with_streams()
    client.say(NOTHINGS[name] * MANY)

    assert client.server.close_reason == f"many frames that bring nothing: {KINDS[name]}"


def test_flood_of_broken_requests_is_named_by_what_is_wrong():
    """No stream began, so they count as frames that bring nothing."""
    client = HandMade(LIMITS)
    for stream_id in range(1, MANY, 2):
        client.say(client.headers(stream_id, [*CALL, (b"upgrade", b"h2c")]))

    assert client.server.close_code == CALM
    assert client.server.close_reason == (
        "many frames that bring nothing: the header upgrade, which HTTP/2 does not have"
    )


@pytest.mark.parametrize("name", NOTHINGS)
def test_slow_drip_of_nothing_is_forgiven(name):
    """The same frames at a leisurely pace are what honest clients do."""
    client = with_streams()
    for _ in range(200):
        client.say(NOTHINGS[name] * 10)
        client.server.forgive()

    assert not client.server.is_closed


def test_rapid_reset_ends_the_connection():
    """Requests that are taken back at once cost work without counting as streams at work."""
    client = HandMade(LIMITS)
    begun = 0
    for stream_id in range(1, MANY, 2):
        events = client.say(client.headers(stream_id), client.rst(stream_id))
        begun += any(type(event) is RequestReceived for event in events)

    assert client.server.close_code == CALM
    assert begun == LIMITS.resets + 1


@pytest.mark.parametrize(
    "provoke",
    [
        lambda stream_id: frame(WINDOW_UPDATE, 0, stream_id, number(0)),
        lambda stream_id: frame(WINDOW_UPDATE, 0, stream_id, number(MAX_WINDOW)),
        lambda stream_id: frame(DATA, END_STREAM, stream_id) + frame(DATA, 0, stream_id, b"x"),
        lambda stream_id: frame(HEADERS, END_HEADERS, stream_id, b"\x10\x01a\x01b"),
    ],
    ids=["window of 0", "window too large", "DATA after the end", "endless trailers"],
)
def test_provoked_resets_end_the_connection(provoke):
    """Making us reset a stream is the same trick the other way round."""
    client = HandMade(LIMITS)
    begun = 0
    for stream_id in range(1, MANY, 2):
        events = client.say(client.headers(stream_id), provoke(stream_id))
        begun += any(type(event) is RequestReceived for event in events)

    assert client.server.close_code == CALM
    assert begun == LIMITS.resets + 1


@pytest.mark.parametrize(
    "bad", [(b"connection", b"close"), (b"content-length", b"x")], ids=["headers", "length"]
)
def test_flood_of_malformed_requests_ends_the_connection(bad):
    """Each is refused, and they are counted."""
    client = HandMade(LIMITS)
    for stream_id in range(1, MANY, 2):
        client.say(client.headers(stream_id, (*CALL, bad)))

    assert client.server.close_code == CALM


def test_memory_of_streams_we_reset_is_bounded():
    """What comes late for one of the last is passed over, for an older one it is a fault."""
    client = HandMade(Http2Limits(refused_streams_remembered=2))
    for stream_id in (1, 3, 5):
        client.say(client.headers(stream_id))
        client.server.reset(stream_id, ErrorCode.CANCEL)
    client.server.take_output()
    client.say(*(frame(DATA, 0, stream_id, b"late") for stream_id in (3, 5)))
    passed_over = client.reset_codes()
    client.say(frame(DATA, 0, 1, b"late"))

    assert passed_over == {}
    assert client.reset_codes() == {1: ErrorCode.STREAM_CLOSED}


def test_streams_beyond_the_limit_are_refused_then_the_connection_ends():
    """Never more than the limit at once, whatever is begun."""
    client = HandMade(LIMITS)
    for stream_id in range(1, MANY, 2):
        client.say(client.headers(stream_id))
        assert client.server.open_streams <= LIMITS.concurrent_streams

    assert client.server.close_code == CALM


def test_flood_of_requests_after_goodbye_ends_the_connection():
    """What we no longer take is passed over, but not for ever."""
    client = HandMade(LIMITS)
    client.server.leave()
    for stream_id in range(1, MANY, 2):
        client.say(client.call(stream_id))

    assert client.server.close_code == CALM


@pytest.mark.parametrize("piece", [b"", b"x", b"x" * 10_000])
def test_endless_header_block_ends_the_connection(piece):
    """CONTINUATION without end, empty or full: bounded in number and in octets."""
    client = HandMade()
    client.say(frame(HEADERS, 0, 1, b"\x82"))
    client.say(frame(CONTINUATION, 0, 1, piece) * 1000)

    assert client.server.close_code == CALM


def test_huge_frame_of_headers_is_refused_before_it_is_there():
    """Its head is enough to know; nothing of it is kept."""
    client = HandMade()
    client.server.receive(frame(HEADERS, END_HEADERS, 1, bytes(100_000))[:9])

    assert client.server.close_code == CALM


def test_header_bomb_ends_its_stream_and_leaves_nothing():
    """A small block that stands for more than the limit is counted without being unpacked."""
    client = HandMade()
    entry = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000
    client.say(frame(HEADERS, END_HEADERS, 1, entry))
    events = client.say(frame(HEADERS, END_HEADERS, 3, b"\xbe" * 60))

    assert events == []
    assert client.reset_codes()[3] == CALM
    assert not client.server.is_closed


def test_header_bomb_of_many_times_the_limit_ends_the_connection():
    """It is not decoded to its end, so nobody knows what the next block would mean."""
    client = HandMade()
    entry = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000
    client.say(frame(HEADERS, END_HEADERS, 1, entry))
    events = client.say(frame(HEADERS, END_HEADERS, 3, b"\xbe" * 60_000))

    assert all(isinstance(each, StreamEnded) for each in events)
    assert client.server.close_code == CALM


def test_many_header_bombs_end_the_connection():
    """They are counted as other broken requests are."""
    client = HandMade(LIMITS)
    client.say(frame(HEADERS, END_HEADERS, 1, b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000))
    for stream_id in range(3, 1000, 2):
        client.say(frame(HEADERS, END_HEADERS, stream_id, b"\xbe" * 60))

    assert client.server.close_code == CALM


def test_table_size_updates_in_a_row_are_refused():
    """There is no honest reason for a third one in a block."""
    client = HandMade()
    client.say(frame(HEADERS, END_HEADERS, 1, b"\x20\x3f\xe1\x1f" * 1000))

    assert client.server.close_code == ErrorCode.COMPRESSION_ERROR


def test_table_of_ours_follows_no_wish_for_more():
    """However large a table the peer allows, our encoder's stays small."""
    client = HandMade(settings=setting(Setting.HEADER_TABLE_SIZE, (1 << 32) - 1))
    client.say(client.call(1))
    client.server.respond(1, OK, b"", END)

    assert client.hear()[0].payload[0] == 0x88  # a status, and no table size update before it


def test_window_that_opens_byte_by_byte_ends_the_connection():
    """A frame each for one byte is work without use."""
    client = HandMade(LIMITS, settings=setting(Setting.INITIAL_WINDOW_SIZE, 0))
    client.say(client.call(1))
    client.server.respond(1, OK, b"x" * MANY, END)
    for _ in range(MANY):
        client.say(client.window(1, 1))

    assert client.server.close_code == CALM
    assert len(client.server.take_output()) < 100 * 20 + 200


def test_closed_window_holds_no_more_than_the_streams_answers():
    """A client that takes nothing is seen to wait, and gets nothing but headers."""
    client = HandMade(LIMITS, settings=setting(Setting.INITIAL_WINDOW_SIZE, 0))
    for stream_id in range(1, 2 * LIMITS.concurrent_streams, 2):
        client.say(client.call(stream_id))
        client.server.respond(stream_id, OK, b"x" * 1000, END)

    assert client.server.waits_for_window
    assert DATA not in {each.kind for each in client.hear()}
    assert client.say(client.call(999)) == []


def test_settings_that_touch_every_stream_are_counted_one_by_one():
    """One frame of many window sizes is as much work as many frames."""
    client = HandMade(LIMITS)
    client.say(frame(SETTINGS, 0, 0, (setting(4, 1) + setting(4, 2)) * 500))

    assert client.server.close_code == CALM


def test_opening_that_never_comes_is_held_small():
    """A broken preface is told from its first wrong byte; a frame's head limits the rest."""
    client = HandMade()
    client.server.receive(b"\x00\x40\x01\x42\x00\x00\x00\x00\x00")

    assert client.server.receive(b"x" * 10_000) == []
    assert not client.server.is_closed


# Those who only work hard.


def test_hundred_thousand_requests_with_pings_are_welcome():
    """gRPC clients ping to measure, and open windows as they read."""
    client = HandMade(LIMITS)
    client.say(client.call(1), client.rst(1))
    block = client.encoder.encode(list(CALL))
    extras = frame(PING, 0, 0, bytes(8)) + frame(PING, ACK, 0, bytes(8))
    answered = 0
    for stream_id in range(3, 200_000, 2):
        for event in client.server.receive(
            frame(HEADERS, END_HEADERS, stream_id, block)
            + frame(DATA, END_STREAM, stream_id, b"hello")
            + extras
            + frame(WINDOW_UPDATE, 0, 0, number(5))
        ):
            if type(event) is DataReceived:
                client.server.respond(stream_id, OK, b"hello", END)
                answered += 1
        client.server.take_output()

    assert answered == 99_999
    assert not client.server.is_closed


@pytest.mark.parametrize("frame_bytes", [16_384, 1000, 256])
def test_long_upload_with_pings_is_welcome(frame_bytes):
    """Many megabytes on one stream, with measuring in between and no new request."""
    client = HandMade(LIMITS)
    client.say(client.headers(1))
    piece = frame(DATA, 0, 1, b"x" * frame_bytes) + frame(PING, 0, 0, bytes(8)) * 10
    for _ in range(2000):
        client.say(piece)
        client.server.take_output()

    assert not client.server.is_closed


@pytest.mark.parametrize("room", [65_535, 16_384, 300])
def test_long_download_with_pings_is_welcome(room):
    """A client that opens both windows for each piece that it has read, and measures as it goes."""
    client = HandMade(LIMITS, settings=setting(Setting.INITIAL_WINDOW_SIZE, room))
    client.say(client.call(1))
    client.server.respond(1, OK, b"x" * room * 2000, END)
    for _ in range(2000):
        client.say(client.window(1, room), client.window(0, room), frame(PING, 0, 0, bytes(8)) * 5)
        client.server.take_output()

    assert not client.server.is_closed
    assert client.server.open_streams == 0


def test_streaming_small_answers_is_welcome():
    """A watcher gets small messages, and opens windows for each of them."""
    client = HandMade(LIMITS)
    client.say(client.call(1))
    client.server.send_headers(1, OK)
    for _ in range(2000):
        client.server.send_data(1, b"tick", end_stream=False)
        client.say(client.window(1, 4), client.window(0, 4), frame(PING, 0, 0, bytes(8)))
        client.server.take_output()

    assert not client.server.is_closed


def test_client_that_takes_back_all_its_calls_is_welcome():
    """As many resets as streams at once, in an application that gives up; the rest goes on."""
    limits = Http2Limits()
    client = HandMade(limits)
    streams = range(1, 2 * limits.concurrent_streams, 2)
    client.say(*(client.headers(stream_id) for stream_id in streams))
    client.say(*(client.rst(stream_id) for stream_id in streams))

    assert not client.server.is_closed
    assert len(client.say(client.call(99_999))) == 2


def test_hedging_client_is_welcome():
    """One that asks twice and takes back the slower call does so with every request."""
    client = HandMade(LIMITS)
    for stream_id in range(1, 10_000, 4):
        client.say(client.call(stream_id), client.call(stream_id + 2))
        client.server.respond(stream_id, OK, b"first", END)
        client.say(client.rst(stream_id + 2), client.window(0, 5))
        client.server.take_output()

    assert not client.server.is_closed
