"""HTTP/1.1 without sockets: bytes in and requests out, responses in and bytes out.

A ``RequestReader`` belongs to one connection.  It never waits, never writes, and never raises for
what a peer sends: a request that cannot be read comes out as a ``Refusal``, and from then on the
reader is deaf.  What it holds for a peer is bounded by ``Limits``.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import httptools

from salver.errors import InvalidArgument
from salver.wire.calls import Later

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

END_OF_HEAD: Final = b"\r\n\r\n"

MAX_KNOWN_HEADS: Final = 256
MAX_KNOWN_HEAD_BYTES: Final = 4096
MAX_SEEN_HEADS: Final = 4096

STARTS_REMEMBERED: Final = 64
"""Beginnings of responses, which differ in their status, type and headers."""

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

UNPACKED_AT_ONCE_BYTES: Final = 1 << 20
"""Of a packed body."""

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


class HttpRequest(NamedTuple):
    """One request as it came: ``target`` and ``body`` are not decoded, header names are lower case.

    A header that came several times has its values joined by commas.
    """

    method: str
    target: str
    headers: Mapping[str, str] = NO_HEADERS
    """Requests with the same head share them."""
    body: bytes = b""


class HttpResponse(NamedTuple):
    """What to answer. ``closes`` asks for the connection to end after it."""

    status: int
    body: bytes = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    closes: bool = False


# Any: what a coroutine yields and is sent is between it and the event loop.
HttpAnswer = HttpResponse | Coroutine[Any, Any, HttpResponse] | Later[HttpResponse]

HttpHandler = Callable[[HttpRequest], HttpAnswer]
"""Answers a request on the event loop: at once, or with a coroutine where it has to wait."""


class Received(NamedTuple):
    """A whole request, and what its connection must know to answer it."""

    request: HttpRequest
    minor_version: int
    keep_alive: bool


class KnownHead(NamedTuple):
    """What the parser has made of a head after which a body of known length and more may follow."""

    method: str
    target: str
    headers: Mapping[str, str]
    minor_version: int
    body_bytes: int


class KnownHeads:
    """Heads by their octets, for all connections of a server: a client mostly repeats itself.

    The octets are those from the first one after the last request to the empty line, so whoever
    sends them again would be parsed to the same; only the body differs.  A head that comes once,
    because it holds a number of its request, is not worth remembering.
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}
        self._seen: set[int] = set()

    def find(self, data: bytes) -> tuple[KnownHead | None, int]:
        """What is known of the head that ``data`` begins with, and where it would end."""
        end = data.find(END_OF_HEAD, 0, MAX_KNOWN_HEAD_BYTES) + len(END_OF_HEAD)
        return self._heads.get(data[:end]), end

    def is_worth_learning(self, octets: bytes) -> bool:
        """Whether a head has come before, and where it ends is beyond doubt.

        With line ends of another kind, that would be the parser's to say.
        """
        number = hash(octets)
        if number not in self._seen:
            if len(self._seen) >= MAX_SEEN_HEADS:
                self._seen.clear()
            self._seen.add(number)
            return False
        line_ends = octets.count(b"\r\n")
        is_plain = octets.count(b"\r") == octets.count(b"\n") == line_ends
        return is_plain and octets.endswith(END_OF_HEAD)

    def learn(self, octets: bytes, head: KnownHead) -> None:
        """Remember what the parser made of a head."""
        if len(self._heads) >= MAX_KNOWN_HEADS:
            self._heads.clear()
        self._heads[octets] = head


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
    Nor does a head whose octets it has seen before, on this connection or another one with the same
    ``known_heads``, which have to be of the same limits.
    """

    def __init__(self, limits: Limits, known_heads: KnownHeads | None = None) -> None:
        self._limits = limits
        self._known_heads = KnownHeads() if known_heads is None else known_heads
        self._is_learning = False
        self._new_head: KnownHead | None = None  # what was parsed meanwhile
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

    def sole_request(self) -> Received | None:
        """The request that has come, if it is all that has."""
        if self._stage is not Stage.BETWEEN or len(self._arrivals) != 1:
            return None
        arrival = self._arrivals.popleft()
        return arrival if isinstance(arrival, Received) else None  # always: a refusal makes deaf

    def acknowledge_continue(self) -> None:
        """Note that the peer has been told to send its body."""
        self._awaits_continue = False

    def give_up(self, status: int) -> None:
        """Refuse the request that is being read, and all that would follow."""
        self._refuse(status)

    def whole_request(self, data: bytes) -> Received | None:
        """The request that ``data`` is, if nothing else is, and its head is known.

        The shortest way, for by far the most frequent; without it, nothing has been read.
        """
        if self._stage is not Stage.BETWEEN or self._arrivals:
            return None
        head, end = self._known_heads.find(data)
        if head is None or end + head.body_bytes != len(data):
            return None
        self._begun += 1
        self._silent_bytes = 0
        method, target, headers, minor_version, _ = head
        return Received(HttpRequest(method, target, headers, data[end:]), minor_version, True)

    def feed(self, data: bytes | memoryview) -> None:
        """Read on. Never raises for what ``data`` holds."""
        if self._stage is Stage.DEAF:
            return
        if self._missing_bytes:
            rest = self._take_body(memoryview(data))
            if rest:
                self._parse(rest)
        elif self._stage is Stage.BETWEEN and isinstance(data, bytes):
            self._begin(data)
        else:
            self._parse(data)

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
        if self._is_learning and self._keep_alive and self._is_plain:
            self._new_head = KnownHead(
                self._method,
                self._target.decode("latin-1"),
                headers,
                self._minor_version,
                self._missing_bytes,
            )

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

    @property
    def _is_plain(self) -> bool:
        """Whether the body comes at once and is as long as it says."""
        return not (self._is_chunked or self._upgrades or self._awaits_continue)

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
        self._is_known = False

    def _begin(self, data: bytes) -> None:
        """Read from where a request begins: its head, if it is known, needs no parser."""
        head, end = self._known_heads.find(data)
        if head is None:
            if self._known_heads.is_worth_learning(data[:end]):
                self._parse_and_learn(data, end)
            else:
                self._parse(data)
            return
        self._begun += 1
        self._silent_bytes = 0
        self._is_known = True
        self._method, self._headers = head.method, head.headers
        self._target = head.target.encode("latin-1")
        self._minor_version, self._missing_bytes = head.minor_version, head.body_bytes
        self._stage = Stage.BODY
        if len(data) > end or not head.body_bytes:
            rest = self._take_body(memoryview(data)[end:])
            if rest:
                self._parse(rest)

    def _parse_and_learn(self, data: bytes, end: int) -> None:
        """Parse, and remember the head if what follows its empty line is all of its body."""
        begun = self._begun
        self._new_head, self._is_learning = None, True
        self._parse(data)
        self._is_learning = False
        head = self._new_head
        if head is None or self._begun != begun + 1 or self._stage is Stage.DEAF:
            return
        body_bytes = self._body_bytes if self._stage is Stage.BODY else head.body_bytes
        if end + body_bytes == len(data):
            self._known_heads.learn(data[:end], head)

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
            if not self._is_known:  # then the parser still waits for the body
                self._parser = httptools.HttpRequestParser(self)
            self._finish()
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


class UnpacksTooLarge(InvalidArgument):
    """A gzip body that would grow beyond what is allowed, as no honest client's does."""


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
        UnpacksTooLarge: the body would grow beyond ``max_bytes``.
    """
    if "gzip" not in request.headers.get("content-encoding", "").lower():
        return request.body
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    parts: list[bytes] = []
    size, packed = 0, request.body
    try:
        # In pieces: one of a hundred megabytes is put together while every other thread waits.
        while not inflater.eof and size <= max_bytes:
            parts.append(inflater.decompress(packed, UNPACKED_AT_ONCE_BYTES))
            packed = inflater.unconsumed_tail
            size += len(parts[-1])
            if not (parts[-1] or packed):
                break  # it is cut off
    except zlib.error:
        return b""
    if size > max_bytes:
        del parts, packed  # the error's traceback would keep them
        raise UnpacksTooLarge(
            f"The gzip body of {len(request.body)} bytes unpacks to more than the "
            f"{max_bytes} bytes allowed; send it uncompressed or in smaller requests"
        )
    return b"".join(parts) if inflater.eof else b""


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


def start_of_response(
    status: int,
    content_type: str,
    headers: tuple[tuple[str, str], ...],
    keep_alive: bool,
    minor_version: int,
) -> bytes:
    """The head of a response as far as it does not depend on the hour and the body."""
    lines = [f"HTTP/1.{minor_version} {status} {reason_phrase(status)}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    lines += [f"{name}: {value}" for name, value in headers]
    if not keep_alive:
        lines.append("Connection: close")
    elif minor_version == 0:
        lines.append("Connection: keep-alive")
    lines.append("Date: ")
    return "\r\n".join(lines).encode("latin-1")


class DateStamp:
    """The value of the Date header, written anew once a second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = 0.0
        self._octets = b""

    def octets(self) -> bytes:
        """Now, as RFC 9110 section 5.6.7 wants it."""
        now_s = self._clock()
        if not (self._octets and 0.0 <= now_s - self._second < 1.0):  # clocks may be put back
            self._second = now_s // 1
            self._octets = formatdate(self._second, usegmt=True).encode()
        return self._octets


class ResponseEncoder:
    """Turns the responses of one server into bytes; how they begin is remembered."""

    def __init__(self, date: DateStamp) -> None:
        self._date = date
        self._start_of = lru_cache(STARTS_REMEMBERED)(start_of_response)

    def encode(
        self,
        response: HttpResponse,
        *,
        keep_alive: bool = True,
        minor_version: int = 1,
        to_method: str = "GET",
    ) -> list[bytes]:
        """The bytes of a response as one buffer, or as two when the body is large.

        The answer to a HEAD has the head of the answer to a GET, and no body.
        """
        status, body, content_type, headers, _ = response
        start = self._start_of(status, content_type, headers, keep_alive, minor_version)
        size, date = len(body), self._date.octets()
        if size > SMALL_BODY_BYTES or to_method == "HEAD":
            head = b"%b%b\r\nContent-Length: %d\r\n\r\n" % (start, date, size)
            return [head] if to_method == "HEAD" else [head, body]
        return [b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (start, date, size, body)]
