"""Sockets that are listened on: bound here, and accepted from until they are closed.

The accepting is our own because an event loop's is not calm: asyncio's and uvloop's answer an
error each in their way, and uvloop's may fall deaf for good.  Here an address that runs into one,
most often for want of file descriptors, waits a moment and goes on.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from salver.wire.complaints import Complaints

logger = logging.getLogger(__name__)

BACKLOG: Final = 1024

ACCEPTS_PER_TURN: Final = 8
"""Connections that are taken in a row before the event loop looks at those that are there: each
costs about as much as several requests."""

RETRY_S: Final = 0.5

IPV4_IN_IPV6: Final = "::ffff:"

SPARE_DESCRIPTORS: Final = 256
"""For models, logs and doors: without any, no version could be loaded while a crowd is here."""


def bind_tcp(port: int, host: str | None = None, *, reuse_port: bool = False) -> socket.socket:
    """A TCP socket on ``host``, or on every address, in IPv6 and IPv4 where the machine has both.

    With ``reuse_port`` other processes that say so too may listen beside this one.

    Raises:
        OSError: the address is taken, not allowed or unknown.
    """
    if host is not None:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=reuse_port)
    try:
        return socket.create_server(
            ("::", port),
            family=socket.AF_INET6,
            backlog=BACKLOG,
            reuse_port=reuse_port,
            dualstack_ipv6=True,
        )
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise
        return socket.create_server(("", port), backlog=BACKLOG, reuse_port=reuse_port)


def bind_unix(path: str) -> socket.socket:
    """A UNIX socket at ``path``, in place of one that an earlier process left there.

    Raises:
        OSError: the path cannot be used.
    """
    if Path(path).is_socket():
        Path(path).unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
    except OSError:
        listening.close()
        raise
    return listening


def within_file_descriptors(connections: int) -> int:
    """As many of ``connections`` as the process may open and still have descriptors to spare."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return connections
    return max(min(connections, allowed - min(SPARE_DESCRIPTORS, allowed // 2)), 1)


def address_of(connection: asyncio.BaseTransport | None) -> str:
    """The client's IP address; empty for a UNIX socket's, and for one that has gone already."""
    return _ip_of(None if connection is None else connection.get_extra_info("peername"))


def peer_of(accepted: socket.socket) -> str:
    """The same of a socket."""
    try:
        peer = accepted.getpeername()
    except OSError:  # it is gone already
        return ""
    return _ip_of(peer)


class Acceptor:
    """Accepts from one bound socket, which is its own from now on, until it is closed.

    Each connection is handed to ``on_connection`` as a socket that does not block.
    """

    def __init__(
        self,
        listening: socket.socket,
        on_connection: Callable[[socket.socket], None],
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._listening = listening
        self._on_connection = on_connection
        self._loop = loop
        self._complaints = Complaints(loop.time, logger)
        self._retry: asyncio.TimerHandle | None = None
        self._path = _path_of(listening)
        self._inode = _inode_of(self._path)
        listening.setblocking(False)
        listening.listen(BACKLOG)
        loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Accept nothing more; a UNIX socket's path goes too, if it still is this socket's."""
        if self._listening.fileno() < 0:
            return
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()
        if self._inode is not None and _inode_of(self._path) == self._inode:
            Path(self._path).unlink(missing_ok=True)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            accepted.setblocking(False)
            self._on_connection(accepted)

    def _pause(self, error: OSError) -> None:
        """Look away for a moment: what waits to be accepted would call again at once."""
        self._complaints.say("Cannot accept connections: %s; trying again", error.strerror)
        self._loop.remove_reader(self._listening)
        self._retry = self._loop.call_later(RETRY_S, self._resume)

    def _resume(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listening, self._accept)


def _ip_of(peer: object) -> str:
    """An IPv4 client's address is its own, also where the socket takes both kinds."""
    return str(peer[0]).removeprefix(IPV4_IN_IPV6) if isinstance(peer, tuple) else ""


def _path_of(listening: socket.socket) -> str:
    """The path of a UNIX socket that has one in the file system."""
    name = listening.getsockname()
    return name if listening.family == socket.AF_UNIX and isinstance(name, str) else ""


def _inode_of(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat() if path else None
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)
