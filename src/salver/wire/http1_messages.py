"""HTTP/1.1 without sockets: bytes in and requests out, responses in and bytes out.

A ``RequestReader`` belongs to one connection.  It never waits, never writes, and never raises for
what a peer sends: a request that cannot be read comes out as a ``Refusal``, and from then on the
reader is deaf.  What it holds for a peer is bounded by ``Limits``.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum
from typing import Final

import httptools

from salver.errors import InvalidArgument

METHODS: Final = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"})

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

MAX_UNPACKED_BODY_BYTES: Final = 100 * 2**20
"""What a gzip body may grow to: the limit TensorFlow Serving sets."""

SMALL_BODY_BYTES: Final = 32 * 2**10
"""A body up to this size is copied next to its head: one buffer is cheaper to send than two."""

REASONS: Final[Mapping[int, str]] = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Time-out",
    409: "Conflict",
    413: "Request Entity Too Large",
    414: "Request-URI Too Large",
    417: "Expectation Failed",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Time-out",
    505: "HTTP Version not supported",
}
"""The phrases of TensorFlow Serving's HTTP library; a status without one gets its class's name."""

REASONS_BY_CLASS: Final = ("", "Informational", "Success", "Redirection", "Client Error")

KEPT_PIECE_BYTES: Final = 4096
"""A piece of a body from this size on is not copied before the body is whole."""

CHUNKED_PRELUDE: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost before it is refused.

    TensorFlow Serving sets no limit; these are far above what its clients send.
    """

    target_bytes: int = 16 * 2**10
    head_bytes: int = 64 * 2**10
    headers: int = 256
    body_bytes: int = 2**31 - 1


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request as it came: ``target`` and ``body`` are not decoded, header names are lower case.

    A header that came several times has its values joined by commas.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What to answer. ``closes`` asks for the connection to end after it."""

    status: int
    body: bytes = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    closes: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """A whole request, and what its connection must know to answer it."""

    request: HttpRequest
    minor_version: int
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """The end of a stream that cannot be read on: the status to say goodbye with."""

    status: int


class Stage(Enum):
    """Where in a request the next byte belongs."""

    BETWEEN = "between requests"
    HEAD = "in a request line or a header"
    BODY = "in a body or its trailers"
    DEAF = "after the last request of the connection"


class RequestReader:
    """Turns the bytes of one connection into requests.

    ``feed`` bytes, then take what has arrived with ``next_arrival`` until it is None.
    The parser is httptools, which calls the ``on_`` methods from inside ``feed``.  A body of known
    length does not pass through it once its head is read: that saves a copy of every byte.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._arrivals: deque[Received | Refusal] = deque()
        self._parser = httptools.HttpRequestParser(self)
        self._stage = Stage.BETWEEN
        self._begun = 0
        self._is_heard = False
        self._silent_bytes = 0
        self._last_raw_headers: list[tuple[bytes, bytes]] = []
        self._last_headers: Mapping[str, str] = {}
        self._forget_message()

    @property
    def stage(self) -> Stage:
        """Where in a request the next byte belongs."""
        return self._stage

    @property
    def begun(self) -> int:
        """How many requests have begun."""
        return self._begun

    @property
    def has_arrivals(self) -> bool:
        """Whether ``next_arrival`` has something to give."""
        return bool(self._arrivals)

    @property
    def held_bytes(self) -> int:
        """Bytes of a body that is not complete."""
        return self._body_bytes

    @property
    def body_bytes_left(self) -> int:
        """Bytes of a body of known length that are still to come: they cost nothing to read."""
        return self._missing_bytes

    @property
    def awaits_continue(self) -> bool:
        """Whether the peer holds its body back until it is told to go on."""
        return self._awaits_continue

    def next_arrival(self) -> Received | Refusal | None:
        """The oldest request not taken yet; a refusal is always the last."""
        return self._arrivals.popleft() if self._arrivals else None

    def acknowledge_continue(self) -> None:
        """Note that the peer has been told to send its body."""
        self._awaits_continue = False

    def give_up(self, status: int) -> None:
        """Refuse the request that is being read, and all that would follow."""
        self._refuse(status)

    def feed(self, data: bytes | memoryview) -> None:
        """Read on. Never raises for what ``data`` holds."""
        if self._stage is Stage.DEAF:
            return
        if not self._missing_bytes:
            self._parse(data)
            return
        rest = self._take_body(memoryview(data))
        if rest:
            self._parse(rest)

    # Called by httptools.

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if self._stage is Stage.BETWEEN:
            self._stage = Stage.HEAD
            self._begun += 1
            self._is_heard = True

    def on_url(self, piece: bytes) -> None:
        """A piece of the target."""
        if self._stage is not Stage.HEAD:
            return
        self._target += piece
        if len(self._target) > self._limits.target_bytes:
            self._refuse(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which only counts towards the limit."""
        self._raw_headers.append((name, value))
        if len(self._raw_headers) > self._limits.headers:
            self._refuse(431)

    def on_headers_complete(self) -> None:
        """The empty line: the head is whole and can be judged."""
        if self._stage is not Stage.HEAD:
            return
        if not self._read_headers():
            self._refuse(431)
            return
        headers, version = self._headers, self._parser.get_http_version()
        self._method = self._parser.get_method().decode("latin-1")
        self._is_chunked = "transfer-encoding" in headers
        self._missing_bytes = int(headers.get("content-length") or 0)
        self._keep_alive = self._parser.should_keep_alive()
        self._upgrades = self._parser.should_upgrade()
        status = fault_of_head(self._method, version, headers, self._limits.body_bytes)
        if status is not None:
            self._refuse(status)
            return
        self._minor_version = 0 if version == "1.0" else 1
        self._awaits_continue = "expect" in headers and self._minor_version == 1
        self._stage = Stage.BODY

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        self._is_heard = True
        if self._stage is Stage.BODY:
            self._add_body(piece)

    def on_message_complete(self) -> None:
        """The end of a request, or, where it asks for another protocol, of its head."""
        self._is_heard = True
        if self._stage is Stage.BODY and not self._upgrades:
            self._finish()

    def _forget_message(self) -> None:
        self._method = ""
        self._target = b""
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._headers: Mapping[str, str] = {}
        self._body: list[bytes | bytearray | memoryview] = []
        self._body_bytes = 0
        self._missing_bytes = 0
        self._minor_version = 1
        self._is_chunked = False
        self._keep_alive = True
        self._upgrades = False
        self._awaits_continue = False

    def _parse(self, data: bytes | memoryview) -> None:
        self._is_heard = False
        rest = data
        while rest and self._stage is not Stage.DEAF:
            try:
                self._parser.feed_data(rest)
                break
            except httptools.HttpParserUpgrade as upgrade:
                rest = self._decline_upgrade(memoryview(rest)[upgrade.args[0] :])
            except httptools.HttpParserInvalidMethodError:
                self._refuse(501)
            except httptools.HttpParserError:
                self._refuse(400)
        self._count_silence(len(data))

    def _decline_upgrade(self, rest: memoryview) -> memoryview:
        """Read on in HTTP/1.1, as RFC 9110 section 7.8 allows.

        The parser stops after the head of a request with ``Upgrade``, although its body follows.
        """
        self._upgrades = False
        self._parser = httptools.HttpRequestParser(self)
        if self._stage is not Stage.BODY:
            return rest
        if self._is_chunked:
            self._parser.feed_data(CHUNKED_PRELUDE)
            return rest
        return self._take_body(rest)

    def _take_body(self, data: memoryview) -> memoryview:
        """Move what belongs to a body of known length out of ``data``; the rest is returned."""
        missing = self._missing_bytes
        if missing:
            self._add_body(data[:missing])
        if self._missing_bytes == 0:
            self._finish()
            self._parser = httptools.HttpRequestParser(self)
        return data[missing:]

    def _read_headers(self) -> bool:
        """Decode the headers, unless they are too large; a client mostly repeats its last ones."""
        if self._raw_headers == self._last_raw_headers:
            self._headers = self._last_headers
            return True
        headers: dict[str, str] = {}
        size = 0
        for raw_name, raw_value in self._raw_headers:
            size += len(raw_name) + len(raw_value) + 4
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self._headers = self._last_headers = headers
        self._last_raw_headers = self._raw_headers.copy()  # trailers will join the list
        return size <= self._limits.head_bytes

    def _add_body(self, piece: bytes | memoryview) -> None:
        """Keep a piece as it came until the body is whole; small ones are put together at once.

        A piece is an object and keeps its whole read alive, which a few octets are not worth.
        """
        size = len(piece)
        self._awaits_continue = False
        self._body_bytes += size
        if size >= KEPT_PIECE_BYTES or size == self._missing_bytes == self._body_bytes:
            self._body.append(piece)
        elif self._body and isinstance(last := self._body[-1], bytearray):
            last += piece
        else:
            self._body.append(bytearray(piece))
        if not self._is_chunked:
            self._missing_bytes -= size
        elif self._body_bytes > self._limits.body_bytes:
            self._refuse(413)

    def _finish(self) -> None:
        request = HttpRequest(
            self._method, self._target.decode("latin-1"), self._headers, b"".join(self._body)
        )
        self._arrivals.append(Received(request, self._minor_version, self._keep_alive))
        self._stage = Stage.BETWEEN if self._keep_alive else Stage.DEAF
        self._forget_message()

    def _refuse(self, status: int) -> None:
        if self._stage is Stage.DEAF:
            return
        self._arrivals.append(Refusal(status))
        self._stage = Stage.DEAF
        self._forget_message()

    def _count_silence(self, size: int) -> None:
        """Refuse a head, chunk extension or trailer that never ends.

        The parser keeps an unfinished header to itself, so only what goes in can be counted: the
        bytes of reads in a row in which no request began or ended and no body came.
        """
        self._silent_bytes = 0 if self._is_heard else self._silent_bytes + size
        if self._silent_bytes > self._limits.head_bytes:
            self._refuse(431)


def fault_of_head(
    method: str, version: str, headers: Mapping[str, str], max_body_bytes: int
) -> int | None:
    """The status to refuse a well-formed head with, or None.

    A message whose length could be read in two ways never gets here: the parser refuses it.
    """
    if version not in ("1.0", "1.1"):
        return 505
    if method not in METHODS:
        return 501
    encoding = headers.get("transfer-encoding")
    if encoding is not None and encoding.lower() != "chunked":
        return 501
    if encoding is not None and version == "1.0":
        return 400
    if headers.get("expect", "100-continue").lower() != "100-continue" and version != "1.0":
        return 417
    if int(headers.get("content-length") or 0) > max_body_bytes:
        return 413
    return None


def unpacked_body(request: HttpRequest, *, max_bytes: int = MAX_UNPACKED_BODY_BYTES) -> bytes:
    """The body of a request without its gzip coding.

    Call it where a slow call may run.  As in TensorFlow Serving, bytes that are no gzip stream
    count as an empty body.

    Raises:
        InvalidArgument: the body would grow beyond ``max_bytes``.
    """
    if "gzip" not in request.headers.get("content-encoding", "").lower():
        return request.body
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        body = inflater.decompress(request.body, max_bytes + 1)
    except zlib.error:
        return b""
    if len(body) > max_bytes:
        del body  # the error's traceback would keep it
        raise InvalidArgument(
            f"The gzip body of {len(request.body)} bytes unpacks to more than the "
            f"{max_bytes} bytes allowed; send it uncompressed or in smaller requests"
        )
    return body if inflater.eof else b""


def reason_phrase(status: int) -> str:
    """The words after the status in the first line of a response."""
    phrase = REASONS.get(status)
    if phrase is not None:
        return phrase
    kind = status // 100
    return REASONS_BY_CLASS[kind] if kind < len(REASONS_BY_CLASS) else "Server Error"


def error_page(status: int) -> HttpResponse:
    """The answer to what is no request for the application; it ends the connection."""
    reason = reason_phrase(status)
    page = (
        f"<HTML><HEAD>\n<TITLE>{status} {reason}</TITLE>\n</HEAD><BODY>\n"
        f"<H1>{reason}</H1>\n</BODY></HTML>\n"
    )
    return HttpResponse(status, page.encode("ascii"), "text/html", closes=True)


def encode_response(
    response: HttpResponse,
    *,
    date: str,
    keep_alive: bool = True,
    minor_version: int = 1,
    to_method: str = "GET",
) -> list[bytes]:
    """The bytes of a response as one buffer, or as two when the body is large.

    The answer to a HEAD has the head of the answer to a GET, and no body.
    """
    lines = [f"HTTP/1.{minor_version} {response.status} {reason_phrase(response.status)}"]
    if response.content_type:
        lines.append(f"Content-Type: {response.content_type}")
    lines += [f"{name}: {value}" for name, value in response.headers]
    if not keep_alive:
        lines.append("Connection: close")
    elif minor_version == 0:
        lines.append("Connection: keep-alive")
    lines.append(f"Date: {date}\r\nContent-Length: {len(response.body)}\r\n\r\n")
    head = "\r\n".join(lines).encode("latin-1")
    if to_method == "HEAD":
        return [head]
    if len(response.body) <= SMALL_BODY_BYTES:
        return [head + response.body]
    return [head, response.body]


class DateStamp:
    """The value of the Date header, written anew once a second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = -1
        self._text = ""

    def text(self) -> str:
        """Now, as RFC 9110 section 5.6.7 wants it."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True)
        return self._text
