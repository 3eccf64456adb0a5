"""Connections: no input may break one, hold more than its limits, or mean two things.

    python -m fuzz http2 --seconds 1800

An input is what a client sends after its preface.  It is read three times: in one piece, in many
(nothing may change), and with answers to whatever it asks, which have to be frames in due form.
"""

from __future__ import annotations

import random

from fuzz.engine import INTERESTING, Target
from salver.wire.http2 import (
    DataReceived,
    Event,
    HeaderSet,
    Http2Connection,
    Http2Limits,
    RequestReceived,
    StreamEnded,
)
from salver.wire.http2_frames import (
    CONTINUATION,
    GOAWAY,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    ErrorCode,
    frame,
)
from salver.wire.huffman import Huffman

HUFFMAN = Huffman()
LIMITS = Http2Limits(
    concurrent_streams=4,
    stream_window_bytes=65_535,
    connection_window_bytes=65_536,
    frame_bytes=16_384,
    header_list_bytes=2000,
    continuations=3,
    idle_frames=40,
    resets=6,
    refused_streams_remembered=2,
)
FILES = ("wire/http2",)
OPENING = PREFACE + frame(SETTINGS, 0, 0)
ANSWERS = [HeaderSet((b":status", b"200"), (b"n", b"%d" % index)) for index in range(3)]
TRAILERS = HeaderSet((b"grpc-status", b"0"))


def run(data: bytes) -> None:
    """Read an input in every way."""
    whole = read(OPENING + data, [])
    for seed in (1, 2):
        rng = random.Random(seed)  # noqa: S311 -- repeatable, not secret
        cuts = sorted(rng.choices(range(len(data) + 1), k=12 * seed))
        if read(OPENING + data, [len(OPENING) + cut for cut in cuts]) != whole:
            raise AssertionError("it makes a difference where the input is cut")
    converse(data)


def read(data: bytes, cuts: list[int]) -> tuple[list[object], bytes, int, str]:
    """What comes of an input in pieces, the parts of a body joined."""
    server = Http2Connection(HUFFMAN, LIMITS)
    events: list[object] = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        for event in server.receive(data[start:end]):
            last = events[-1] if events else None
            if isinstance(event, RequestReceived):
                events.append((event.stream_id, event.head.headers, event.ended, event.timeout))
            elif isinstance(event, DataReceived) and isinstance(last, DataReceived):
                if event.stream_id == last.stream_id and not last.ended:
                    event = DataReceived(event.stream_id, last.data + event.data, event.ended)
                    events.pop()
                events.append(event)
            else:
                events.append(event)
    return events, server.take_output(), server.close_code, server.close_reason


def converse(data: bytes) -> None:
    """Read an input frame by frame, and answer."""
    server = Http2Connection(HUFFMAN, LIMITS)
    sent = [server.take_output()]
    open_streams: set[int] = set()
    for piece in (OPENING, *frames_of(data)):
        for event in server.receive(piece):
            follow(event, open_streams)
            answer(server, event, open_streams)
        sent.append(server.take_output())
        if server.open_streams > LIMITS.concurrent_streams:
            raise AssertionError(f"{server.open_streams} streams are open")
        # An answer that had to wait for the window may have ended its stream since.
        open_streams = {each for each in open_streams if server.is_open(each)}
        if server.open_streams != len(open_streams):
            raise AssertionError(f"{server.open_streams} streams are open, not {open_streams}")
    check_frames(b"".join(sent))


def follow(event: Event, open_streams: set[int]) -> None:
    """Keep a list of our own; an event for a stream that is not on it is one too many."""
    if isinstance(event, RequestReceived):
        open_streams.add(event.stream_id)
    elif isinstance(event, StreamEnded):
        open_streams.remove(event.stream_id)


def answer(server: Http2Connection, event: Event, open_streams: set[int]) -> None:
    """Answer in a way that depends on the stream."""
    stream_id = getattr(event, "stream_id", 0)
    if stream_id not in open_streams or not getattr(event, "ended", False):
        return
    way = stream_id // 2 % 5
    if way == 0:
        server.respond(stream_id, ANSWERS[0], b"x" * 100, TRAILERS)
    elif way == 1:
        server.respond(stream_id, ANSWERS[1], b"x" * 20_000, ANSWERS[2])
    elif way == 2:
        server.send_headers(stream_id, ANSWERS[2])
        server.send_data(stream_id, b"x" * 1000, end_stream=False)
        server.send_data(stream_id, b"y" * 1000, trailers=TRAILERS.headers)
    elif way == 3:
        server.reset(stream_id, ErrorCode.CANCEL)
    else:
        server.leave()
    if not server.is_open(stream_id):
        open_streams.discard(stream_id)


def frames_of(data: bytes) -> list[bytes]:
    """An input cut into frames; the last one may lack its end."""
    frames, position = [], 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 3], "big")
        end = position + HEAD_BYTES + size
        frames.append(data[position:end])
        position = end
    return frames


def check_frames(sent: bytes) -> None:
    """What we send is frames, header blocks whole, and nothing after the end of a stream."""
    ended: set[int] = set()
    block_of = None
    for each in frames_of(sent):
        high, low, kind, flags, stream_id = HEAD.unpack_from(each)
        if len(each) != HEAD_BYTES + (high << 8 | low):
            raise AssertionError("the last frame is cut off")
        if (kind == CONTINUATION) is (block_of is None) or block_of not in (None, stream_id):
            raise AssertionError("a header block is interrupted")
        if stream_id in ended and kind in (0, HEADERS):
            raise AssertionError(f"a frame of type {kind} after the end of stream {stream_id}")
        if kind in (HEADERS, CONTINUATION):
            block_of = None if flags & 4 else stream_id
        if (kind in (0, HEADERS) and flags & 1) or kind == RST_STREAM:
            ended.add(stream_id)
        if kind == GOAWAY and stream_id:
            raise AssertionError("GOAWAY on a stream")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change, move, copy or drop frames, and keep their lengths right."""
    frames = frames_of(data) or [frame(SETTINGS, 0, 0)]
    index = rng.randrange(len(frames))
    each = frames[index].ljust(HEAD_BYTES, b"\0")
    kind = rng.randrange(8)
    if kind == 0:
        frames.insert(index, rng.choice(frames))
    elif kind == 1:
        del frames[index]
    elif kind == 2:
        other = rng.randrange(len(frames))
        frames[index], frames[other] = frames[other], frames[index]
    elif kind == 3:
        frames[index : index + 1] = [each] * rng.choice((2, 5, 50))
    elif kind == 4:
        frames[index] = each[:3] + bytes([rng.randrange(11)]) + each[4:]
    elif kind == 5:
        frames[index] = each[:4] + bytes([rng.choice((0, 1, 4, 5, 8, 13, 32, 45))]) + each[5:]
    elif kind == 6:
        stream_id = rng.choice((0, 1, 2, 3, 5, 7, 9, 11, 13, 15, 17))
        frames[index] = each[:5] + stream_id.to_bytes(4, "big") + each[9:]
    else:
        frames[index] = with_payload(each, rng)
    return b"".join(frames)


def with_payload(each: bytes, rng: random.Random) -> bytes:
    """A frame with another payload of its true length."""
    payload = each[HEAD_BYTES:]
    place = rng.randrange(len(payload) + 1)
    payload = (
        payload[:place] + bytes([rng.choice(INTERESTING)]) + payload[place + rng.randrange(2) :]
    )
    return len(payload).to_bytes(3, "big") + each[3:HEAD_BYTES] + payload


TARGET = Target(run, mutate, FILES)
