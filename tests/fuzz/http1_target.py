"""HTTP/1.1 requests: the same wherever they are cut, and to another reader the same requests.

    make fuzz ARGS="--target http1"

An input is what a client sends.  Where two readers take one stream for different requests, a proxy
and a server can be played off against each other; so whatever ours reads, h11 must read or refuse.
"""

from __future__ import annotations

import h11

from fuzz.engine import Target, cuts_of, pieces_of, with_words
from salver.wire.http1_messages import (
    HttpRequest,
    Limits,
    Received,
    Refusal,
    RequestReader,
    Stage,
    unpacked_body,
)

FILES = ("wire/http1_messages.py",)
WIDE = Limits()
NARROW = Limits(target_bytes=40, head_bytes=200, headers=6, body_bytes=100)

MAX_UNPACKED_BYTES = 100_000

WORDS = (
    *(b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT "),
    *(b"/", b"/v1/models/m:predict", b"*", b"http://h/p", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"),
    *(b" HTTP/2.0\r\n", b" HTTP/0.9\r\n", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b"\t", b" "),
    *(
        b"Host: a\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: +5\r\n",
    ),
    *(b"Content-Length: 5, 5\r\n", b"Content-Length: 99999999999999999999\r\n", b"hello"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n"),
    *(b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding : chunked\r\n"),
    *(b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"1;x=y\r\na\r\n", b"ffffffff\r\n"),
    *(b"Expect: 100-continue\r\n", b"Expect: tea\r\n", b"Connection: close\r\n"),
    *(b"Connection: keep-alive\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n"),
    *(b"Content-Encoding: gzip\r\n", b"X: y\r\n", b"X:\r\n", b": y\r\n", b" folded\r\n"),
)


def run(data: bytes) -> None:
    """Read an input in every way."""
    whole = read(data, [], WIDE)
    for seed in (1, 2):
        cuts = cuts_of(len(data), seed, 8 * seed)
        if read(data, cuts, WIDE) != whole:
            raise AssertionError("it makes a difference where the input is cut")
    requests = [each.request for each in whole[0] if isinstance(each, Received)]
    compare_with_h11(data, requests)
    for request in requests:
        if len(unpacked_body(request, max_bytes=MAX_UNPACKED_BYTES)) > MAX_UNPACKED_BYTES:
            raise AssertionError("a body unpacks to more than it may")
    read(data, cuts_of(len(data), 3, 12), NARROW)


def read(data: bytes, cuts: list[int], limits: Limits) -> tuple[list[Received | Refusal], Stage]:
    """What arrives of an input in pieces."""
    reader = RequestReader(limits)
    arrivals: list[Received | Refusal] = []
    for piece in pieces_of(data, cuts):
        if piece:
            reader.feed(piece)
        while (arrival := reader.next_arrival()) is not None:
            if arrivals and isinstance(arrivals[-1], Refusal):
                raise AssertionError("something arrives after a refusal")
            check_limits(arrival, limits)
            arrivals.append(arrival)
        if reader.held_bytes > limits.body_bytes:
            raise AssertionError(f"{reader.held_bytes} bytes are held")
        if reader.awaits_continue and reader.held_bytes:
            raise AssertionError("a body that has begun is waited for")
    if (reader.stage is Stage.DEAF) and reader.held_bytes:
        raise AssertionError("a reader that is deaf holds a body")
    return arrivals, reader.stage


def check_limits(arrival: Received | Refusal, limits: Limits) -> None:
    """No request gets past them."""
    if isinstance(arrival, Refusal):
        return
    request = arrival.request
    if len(request.target) > limits.target_bytes or len(request.body) > limits.body_bytes:
        raise AssertionError("a request is larger than its limits")
    if len(request.headers) > limits.headers:
        raise AssertionError("a request has too many headers")
    if sum(len(name) + len(value) for name, value in request.headers.items()) > limits.head_bytes:
        raise AssertionError("a head is larger than its limit")


def compare_with_h11(data: bytes, requests: list[HttpRequest]) -> None:
    """Another reader takes the same bytes for the same requests, as far as it goes along."""
    for ours in requests:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        connection.receive_data(data)
        body = b""
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event in (h11.NEED_DATA, h11.PAUSED):
                    raise AssertionError(f"h11 waits for more of {ours}")
                if isinstance(event, h11.Request):
                    theirs = (event.method.decode(), event.target.decode("latin-1"))
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
        except h11.ProtocolError:
            return
        if (*theirs, body) != (ours.method, ours.target, ours.body):
            raise AssertionError(f"h11 reads {theirs} {body!r}, not {ours}")
        data = connection.trailing_data[0]


TARGET = Target(run, with_words(WORDS), FILES)
