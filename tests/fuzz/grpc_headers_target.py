"""The headers of a call: what they ask for, the same when they come again, and the time they leave.

    make fuzz ARGS="--target grpc_headers"

Each line of an input is a header: its name, a tab, its value.
"""

from __future__ import annotations

import math
import re
from urllib.parse import unquote_to_bytes

from fuzz.engine import Target, with_words
from salver.errors import Code, ServingError
from salver.wire.grpc import (
    MAX_MESSAGE_TEXT,
    is_grpc,
    percent_encoded,
    read_request,
    read_timeout,
    status_headers,
)
from salver.wire.http2_headers import TIMEOUT, HeadReader, check_trailers, read_request_head

FILES = ("wire/http2_headers.py", "wire/grpc.py")
TIME = re.compile(rb"[0-9]{1,8}[HMSmun]")
PLAIN = re.compile(rb"[ -~]*")

WORDS = (
    *(b":method\tPOST\n", b":method\tGET\n", b":scheme\thttp\n", b":path\t/s/M\n"),
    *(
        b":authority\ta\n",
        b":status\t200\n",
        b":method\tCONNECT\n",
        b"host\th\n",
        b"te\ttrailers\n",
    ),
    *(b"content-type\tapplication/grpc\n", b"content-type\tapplication/grpc+proto\n"),
    *(b"content-type\tapplication/grpcx\n", b"grpc-encoding\tgzip\n", b"grpc-encoding\tsnappy\n"),
    *(
        b"grpc-accept-encoding\tidentity, gzip,deflate\n",
        b"grpc-timeout\t100m\n",
        b"grpc-timeout\t",
    ),
    *(b"99999999H", b"000000000S", b"1n", b"u", b"-1S", b"content-length\t5\n", b"connection\tx\n"),
    *(
        b"content-length\t99999999999999999999\n",
        b"x-bin\tAAEC\n",
        b"\t",
        b"\n",
        b"\0",
        b"\xc3\xa4",
    ),
)


def run(data: bytes) -> None:
    """Read the headers twice, then what they say."""
    lines = [line.partition(b"\t") for line in data.split(b"\n") if line]
    headers = tuple([(name, value) for name, _, value in lines])
    reader = HeadReader()
    head, timeout = reader.read(headers)
    again, same_timeout = reader.read(headers)
    if (again.fault, same_timeout) != (head.fault, timeout):
        raise AssertionError("the second time it means something else")
    if not timeout and not any(name == TIMEOUT for name, _ in headers):
        other = read_request_head(headers)
        if (other.fault, other.path, other.headers) != (head.fault, head.path, head.headers):
            raise AssertionError("remembering makes a difference")
    check_trailers(headers)
    check_text(data)
    if head.fault:
        return
    if not all((head.method, head.path, head.scheme)):
        raise AssertionError("a request without its pseudo-headers")
    if is_grpc(head):
        read_request(head)
    check_timeout(timeout)


def check_timeout(value: bytes) -> None:
    """A time is a time to us exactly if it is one to gRPC."""
    try:
        timeout_s = read_timeout(value)
    except ServingError:
        timeout_s = -1.0
    is_time = TIME.fullmatch(value) is not None
    if timeout_s is None:
        if value:
            raise AssertionError(f"{value!r} counts as none")
    elif is_time is not (timeout_s >= 0) or not math.isfinite(timeout_s):
        raise AssertionError(f"{value!r} is read as {timeout_s}")


def check_text(data: bytes) -> None:
    """A status text comes back as it was, and always fits into a header."""
    encoded = percent_encoded(data)
    if unquote_to_bytes(encoded) != data or not PLAIN.fullmatch(encoded):
        raise AssertionError(f"{encoded!r} is no header for {data!r}")
    for _, value in status_headers(Code.INTERNAL, data.decode("utf-8", "surrogateescape")):
        if len(value) > 3 * (MAX_MESSAGE_TEXT + len("...TRUNCATED")):
            raise AssertionError("a status text is longer than a header should be")


TARGET = Target(run, with_words(WORDS), FILES)
