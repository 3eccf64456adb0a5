"""What the headers of an HTTP/2 request say, and whether they may (RFC 9113, section 8)."""

from __future__ import annotations

import re
from typing import Final

from salver.wire.hpack import Headers

_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))

_OF_A_CONNECTION: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
"""Headers that make sense between two neighbours of HTTP/1 only (section 8.2.2)."""

_DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_NEVER_IN_VALUE: Final = re.compile(rb"[\0\r\n]")

TIMEOUT: Final = b"grpc-timeout"
"""The one header that differs from call to call of an otherwise steady client."""

MAX_LENGTH_DIGITS: Final = 18

MAX_REMEMBERED_HEADS: Final = 64
MAX_REMEMBERED_HEAD_BYTES: Final = 4096


class RequestHead:
    """The headers of one request, taken apart.

    Shared by all requests whose headers are the same but for their timeout.  ``fault`` says what is
    wrong, if anything; ``meaning`` is whatever the reader of the request makes of it, kept with it
    for next time.
    """

    __slots__ = (
        "authority",
        "content_length",
        "fault",
        "headers",
        "is_too_large",
        "meaning",
        "method",
        "path",
        "scheme",
    )

    def __init__(self) -> None:
        self.method = b""
        self.scheme = b""
        self.path = b""
        self.authority = b""
        self.headers: Headers = ()
        """Without the pseudo-headers and ``grpc-timeout``."""
        self.content_length: int | None = None
        self.fault = ""
        self.is_too_large = False
        """There are more headers than the limit; these are the first of them."""
        self.meaning: object = None

    def header(self, name: bytes) -> bytes:
        """The first value of a header, empty where there is none."""
        return next((value for key, value in self.headers if key == name), b"")


class HeadReader:
    """Takes the headers of a connection's requests apart, the same ones only once.

    A client that sets a deadline sends other octets with each call: the timeout itself, and other
    indexes if that entered the table.  So heads are also known by their headers without it.
    """

    def __init__(self) -> None:
        self._heads: dict[Headers, RequestHead] = {}

    def read(self, headers: Headers) -> tuple[RequestHead, bytes]:
        """What a request's headers say, and its ``grpc-timeout``, empty without one."""
        timeout = b""
        for name, value in headers:
            if name == TIMEOUT:
                timeout = value
                headers = tuple([header for header in headers if header[0] != TIMEOUT])
                break
        head = self._heads.get(headers)
        if head is None:
            head = self._read_anew(headers)
        if timeout and _is_bad(timeout):
            return _at_fault("a timeout with a line break, NUL or space where none may be"), b""
        return head, timeout

    def _read_anew(self, headers: Headers) -> RequestHead:
        head = read_request_head(headers)
        if sum(len(name) + len(value) for name, value in headers) <= MAX_REMEMBERED_HEAD_BYTES:
            if len(self._heads) >= MAX_REMEMBERED_HEADS:
                self._heads.clear()
            self._heads[headers] = head
        return head


def read_request_head(headers: Headers) -> RequestHead:
    """Take a request's headers apart; what is malformed is said in ``fault``."""
    head = RequestHead()
    pseudo: dict[bytes, bytes] = {}
    count = 0
    for name, value in headers:
        if name[:1] != b":":
            break
        pseudo[name] = value
        count += 1
    head.method = pseudo.get(b":method", b"")
    head.scheme = pseudo.get(b":scheme", b"")
    head.path = pseudo.get(b":path", b"")
    head.headers = headers[count:]
    head.authority = pseudo.get(b":authority", b"") or head.header(b"host")
    head.fault = (
        _fault_of_pseudo(pseudo, count)
        or _fault_of_regular(head.headers)
        or _fault_of_host(head)
        or _read_content_length(head)
    )
    return head


def too_large_head(first: Headers) -> RequestHead:
    """The head of a request of whose headers there are too many: enough to be answered by."""
    head = read_request_head(first)
    head.is_too_large = True
    return head


def _read_content_length(head: RequestHead) -> str:
    """Note the content-length, if there is one; what is wrong with it."""
    lengths = {value for name, value in head.headers if name == b"content-length"}
    if not lengths:
        return ""
    length = lengths.pop()
    if lengths or not length.isdigit() or len(length) > MAX_LENGTH_DIGITS:
        return "content-length is no number"
    head.content_length = int(length)
    return ""


def _at_fault(fault: str) -> RequestHead:
    head = RequestHead()
    head.fault = fault
    return head


def check_trailers(headers: Headers) -> str:
    """What is wrong with trailers, if anything: they have no pseudo-headers."""
    if any(name[:1] == b":" for name, _ in headers):
        return "a pseudo-header among the trailers"
    return _fault_of_regular(headers)


def _fault_of_pseudo(pseudo: dict[bytes, bytes], count: int) -> str:
    if count != len(pseudo):
        return "a pseudo-header twice"
    if not pseudo.keys() <= _PSEUDO:
        return "a pseudo-header that requests do not have"
    if pseudo.get(b":method") == b"CONNECT":
        return "CONNECT is not offered"
    if not all(pseudo.get(name) for name in (b":method", b":scheme", b":path")):
        return "a request without :method, :scheme or :path"
    if any(map(_is_bad, pseudo.values())):
        return "a pseudo-header with a line break, NUL or space where none may be"
    return ""


def _fault_of_regular(headers: Headers) -> str:
    for name, value in headers:
        if not _NAME.fullmatch(name):  # a late pseudo-header too: nor may a name hold a colon
            return "a header name with letters that names do not have"
        if name in _OF_A_CONNECTION:
            return f"the header {name.decode()}, which HTTP/2 does not have"
        if name == b"te" and value.lower() != b"trailers":
            return "te with another value than trailers"
        if _is_bad(value):
            return "a header with a line break, NUL or space where none may be"
    return ""


def _fault_of_host(head: RequestHead) -> str:
    """Two names for one server, and nobody knows which was meant (section 8.3.1)."""
    default_port = _DEFAULT_PORTS.get(head.scheme.lower(), b"")
    wanted = head.authority.lower().removesuffix(default_port)
    for name, value in head.headers:
        if name == b"host" and value.lower().removesuffix(default_port) != wanted:
            return "host differs from :authority"
    return ""


def _is_bad(value: bytes) -> bool:
    return value != value.strip(b" \t") or _NEVER_IN_VALUE.search(value) is not None
