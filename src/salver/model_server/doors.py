"""The doors of a server: its gRPC and REST addresses, opened and drained together.

One listener stands behind all of them, so either port speaks gRPC and REST.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

from salver.errors import InvalidArgument
from salver.model_server.channel_arguments import read_channel_arguments
from salver.model_server.options import Options
from salver.model_server.ssl_config import TlsFile
from salver.wire.accepting import bind_tcp, bind_unix
from salver.wire.calls import Methods
from salver.wire.http1_messages import HttpHandler, HttpRequest, HttpResponse, error_page
from salver.wire.listener import ContextSource, Listener

logger = logging.getLogger(__name__)

ANY_HOST: Final = "::"


class Doors:
    """What is open: gRPC always, REST if it was asked for and its port was free."""

    def __init__(self, listener: Listener, tls: TlsFile | None) -> None:
        self._listener = listener
        self._watch = None if tls is None else asyncio.ensure_future(tls.keep_fresh())

    async def drain(self, grace_s: float) -> None:
        """Accept nothing more, finish what is in flight, cut what is not done after ``grace_s``."""
        await self._listener.drain(grace_s)
        self._stop_watching()

    async def close(self) -> None:
        """Cut everything."""
        await self._listener.close()
        self._stop_watching()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()


async def open_doors(options: Options, methods: Methods, rest: HttpHandler | None) -> Doors:
    """Open gRPC, then REST, and say so in the words that scripts wait for.

    Raises:
        InvalidArgument: no gRPC address could be bound, or a REST port that is required; or the
            TLS configuration is wrong.
    """
    arguments = read_channel_arguments(options.grpc_channel_arguments)
    tls = TlsFile(options.ssl_config_file) if options.ssl_config_file else None
    logger.info("Using InsecureServerCredentials" if tls is None else "Using SSL credentials")
    listener = Listener(
        methods,
        rest or _nothing_here,
        loop=asyncio.get_running_loop(),
        patience=arguments.patience,
        http2_limits=arguments.http2_limits,
        exchange_limits=arguments.exchange_limits,
        ping_rules=arguments.ping_rules,
    )
    doors = Doors(listener, tls)
    context = None if tls is None else tls.context
    try:
        _open_grpc(listener, options, context, reuse_port=arguments.reuse_port)
        if rest is not None:
            _open_rest(listener, options, context if options.rest_api_tls else None)
    except BaseException:
        await doors.close()
        raise
    return doors


def _open_grpc(
    listener: Listener, options: Options, tls: ContextSource | None, *, reuse_port: bool
) -> None:
    bound: list[tuple[socket.socket, str]] = []
    where = ""
    try:
        if options.port:
            where = f"{options.grpc_host}:{options.port}"
            bound.append((bind_tcp(options.port, options.grpc_host, reuse_port=reuse_port), where))
        if options.grpc_socket_path:
            where = f"UNIX socket {options.grpc_socket_path}"
            bound.append((bind_unix(options.grpc_socket_path), where))
    except OSError as error:
        for opened, _ in bound:
            opened.close()
        logger.error("cannot listen for gRPC on %s: %s", where, error)  # noqa: TRY400 - told whole
        raise InvalidArgument("Failed to BuildAndStart gRPC server") from error
    for opened, where in bound:
        listener.listen(opened, tls)
        logger.info("Running gRPC ModelServer at %s ...", where)


def _open_rest(listener: Listener, options: Options, tls: ContextSource | None) -> None:
    port = options.rest_api_port
    if port == options.port:
        complaint = f"rest_api_port cannot be same as the gRPC port: both are {port}"
    else:
        host = None if options.rest_api_host == ANY_HOST else options.rest_api_host
        try:
            listener.listen(bind_tcp(port, host), tls)
        except OSError as error:
            complaint = (
                f"cannot listen for REST on {options.rest_api_host} port {port}: {error.strerror}"
            )
        else:
            logger.info("Exporting HTTP/REST API at:localhost:%d ...", port)
            return
    if options.require_rest_api:
        raise InvalidArgument(f"{complaint}; --rest_api_port=0 starts without REST")
    logger.error("Failed to start HTTP Server at localhost:%d: %s", port, complaint)


async def _nothing_here(_request: HttpRequest) -> HttpResponse:
    """The answer to plain HTTP where REST was not asked for."""
    return error_page(404)
