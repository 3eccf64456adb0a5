"""gRPC's channel arguments: any text gives limits that a connection can work with.

make fuzz ARGS="--target channel_arguments"
"""

from __future__ import annotations

from fuzz.engine import Target, with_words
from fuzz.http2_target import HUFFMAN, OPENING, frames_of
from salver.model_server.channel_arguments import (
    INT_MAX,
    ROWS,
    ChannelArguments,
    read_channel_arguments,
)
from salver.wire.http2 import Http2Connection
from salver.wire.http2_frames import HEAD_BYTES

FILES = ("model_server/channel_arguments.py",)
MAX_WINDOW = (1 << 31) - 1
INITIAL_WINDOW, FRAME_SIZE = 4, 5

WORDS = (
    *(name.encode() for name in ROWS),
    *(b"=", b",", b" ", b"=0", b"=1", b"=-1", b"=2147483647", b"=2147483648", b"=-2147483648"),
    *(b"=16384", b"=99999999999999999999", b"=abc", b"=1.5", b"=+5", b"=0x10", b"==", b",,", b"\0"),
    *(b"grpc.unknown=1", b"\xd9\xa3", b"\xff", b"\n", b"_"),
)


def run(data: bytes) -> None:
    """Read the arguments, and open a connection with them."""
    arguments = read_channel_arguments(data.decode("utf-8", "surrogateescape"))
    check(arguments)
    connection = Http2Connection(HUFFMAN, arguments.http2_limits)
    connection.receive(OPENING)
    for frame in frames_of(connection.take_output()):
        if frame[3] == 4:
            check_settings(frame[HEAD_BYTES:])


def check(arguments: ChannelArguments) -> None:
    """No time and no size is negative, or beyond what gRPC's arguments can say."""
    patience, exchange = arguments.patience, arguments.exchange_limits
    for seconds in (patience.handshake_s, patience.keepalive_time_s, patience.keepalive_timeout_s):
        if not seconds >= 0:
            raise AssertionError(f"a patience of {seconds} s")
    if not 0 <= exchange.message_bytes <= INT_MAX or (exchange.answer_bytes or 0) < 0:
        raise AssertionError(f"messages of {exchange.message_bytes}, {exchange.answer_bytes} bytes")


def check_settings(payload: bytes) -> None:
    """What HTTP/2 lets settings say."""
    for at in range(0, len(payload), 6):
        name = int.from_bytes(payload[at : at + 2], "big")
        value = int.from_bytes(payload[at + 2 : at + 6], "big")
        if name == INITIAL_WINDOW and value > MAX_WINDOW:
            raise AssertionError(f"a window of {value}")
        if name == FRAME_SIZE and not 1 << 14 <= value < 1 << 24:
            raise AssertionError(f"frames of {value}")


TARGET = Target(run, with_words(WORDS), FILES)
