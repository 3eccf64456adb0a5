"""The address of the admin API: a UNIX socket, or a port of this machine.

Whoever connects may change what is served, so an address that others can reach has to be allowed
on its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from salver.errors import InvalidArgument, PermissionDenied, Unavailable
from salver.model_server.options import MAX_PORT
from salver.model_server.rest_admin import MAX_BODY_BYTES, AdminApi
from salver.model_server.server_core import ServerCore
from salver.wire.accepting import bind_tcp, bind_unix
from salver.wire.exchanges import ExchangeLimits
from salver.wire.http1_messages import Limits
from salver.wire.listener import Listener, ListenerLimits

logger = logging.getLogger(__name__)

UNIX: Final = "unix:"
MAX_CONNECTIONS: Final = 64
OWNER_ONLY: Final = 0o600


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """Where the admin API listens: a path, or a host and a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def is_of_this_machine(self) -> bool:
        """Whether nobody can reach it from elsewhere."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def bind(self) -> socket.socket:
        """A socket bound there; one that is a file is its owner's alone.

        Raises:
            OSError: the address is taken, not allowed or unknown.
        """
        if not self.path:
            return bind_tcp(self.port, self.host)
        bound = bind_unix(self.path)
        Path(self.path).chmod(OWNER_ONLY)  # before anybody can connect: nobody listens yet
        return bound


def read_address(text: str, *, allow_remote: bool) -> AdminAddress:
    """The address that ``admin_address`` names.

    Raises:
        InvalidArgument: it is none.
        PermissionDenied: others could reach it, and that was not allowed.
    """
    if text.startswith((UNIX, "/")):
        return AdminAddress(path=text.removeprefix(UNIX))
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
        raise InvalidArgument(
            f"admin_address is {text!r}; it has to be HOST:PORT, as in 127.0.0.1:8502, or "
            "unix:PATH, as in unix:/run/salver/admin.sock"
        )
    address = AdminAddress(host=host, port=int(port))
    if not address.is_of_this_machine() and not allow_remote:
        raise PermissionDenied(
            f"admin_address {text} can be reached from other machines, and whoever reaches it "
            "decides what is served; --admin_allow_remote says that this is meant"
        )
    return address


def open_admin_door(text: str, core: ServerCore, *, allow_remote: bool) -> Listener:
    """Listen where ``admin_address`` says.

    Raises:
        InvalidArgument, PermissionDenied: it is no address, or not one to be opened.
        Unavailable: it cannot be had.
    """
    address = read_address(text, allow_remote=allow_remote)
    api = AdminApi(core, checks_host=address.is_of_this_machine())
    listener = Listener(
        {},
        api.handle,
        loop=asyncio.get_running_loop(),
        limits=ListenerLimits(connections=MAX_CONNECTIONS),
        http1_limits=Limits(body_bytes=MAX_BODY_BYTES),
        exchange_limits=ExchangeLimits(body_bytes=MAX_BODY_BYTES),
    )
    try:
        listener.listen(address.bind())
    except OSError as error:
        raise Unavailable(f"cannot listen for the admin API on {text}: {error.strerror}") from error
    logger.info("Offering the admin API at %s", text)
    return listener
