"""The doors of a server: its gRPC and REST ports, opened and drained together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from salver.errors import InvalidArgument
from salver.model_server.options import Options
from salver.wire.grpc_server import GrpcServer
from salver.wire.http1 import Handler, Http1Server, bind_tcp, start_http_server

logger = logging.getLogger(__name__)

ANY_HOST: Final = "::"


@dataclass(frozen=True, slots=True)
class Doors:
    """What is open: gRPC always, REST if it was asked for and its port was free."""

    grpc: GrpcServer
    http: Http1Server | None

    async def drain(self, grace_s: float) -> None:
        """Accept nothing more, finish what is in flight, cut what is not done after ``grace_s``."""
        draining = [self.grpc.drain(grace_s)]
        if self.http is not None:
            draining.append(self.http.drain(grace_s))
        await asyncio.gather(*draining)


async def open_doors(
    options: Options, make_grpc: Callable[[], GrpcServer], rest: Handler | None
) -> Doors:
    """Open gRPC, then REST, and say so in the words that scripts wait for.

    Raises:
        InvalidArgument: no gRPC port could be bound, or a REST port that is required.
    """
    grpc = make_grpc()
    _listen_for_grpc(grpc, options)
    await grpc.start()
    if options.port:
        logger.info("Running gRPC ModelServer at %s:%d ...", options.grpc_host, options.port)
    if options.grpc_socket_path:
        logger.info("Running gRPC ModelServer at UNIX socket %s ...", options.grpc_socket_path)
    http = None
    try:
        if rest is not None:
            http = await _open_rest(options, rest)
    except BaseException:
        await grpc.drain(0)
        raise
    return Doors(grpc, http)


def _listen_for_grpc(grpc: GrpcServer, options: Options) -> None:
    logger.info("Using InsecureServerCredentials")
    addresses = []
    if options.port:
        host = f"[{options.grpc_host}]" if ":" in options.grpc_host else options.grpc_host
        addresses.append(f"{host}:{options.port}")
    if options.grpc_socket_path:
        addresses.append(f"unix:{options.grpc_socket_path}")
    try:
        for address in addresses:
            grpc.listen(address)
    except InvalidArgument as error:
        logger.error("%s", error.message)  # noqa: TRY400 - the cause is in the text
        raise InvalidArgument("Failed to BuildAndStart gRPC server") from error


async def _open_rest(options: Options, rest: Handler) -> Http1Server | None:
    port = options.rest_api_port
    complaint = ""
    if port == options.port:
        complaint = f"rest_api_port cannot be same as the gRPC port: both are {port}"
    else:
        host = None if options.rest_api_host == ANY_HOST else options.rest_api_host
        try:
            http = await start_http_server(rest, [bind_tcp(port, host)])
        except OSError as error:
            complaint = (
                f"cannot listen for REST on {options.rest_api_host} port {port}: {error.strerror}"
            )
    if not complaint:
        logger.info("Exporting HTTP/REST API at:localhost:%d ...", port)
        return http
    if options.require_rest_api:
        raise InvalidArgument(f"{complaint}; --rest_api_port=0 starts without REST")
    logger.error("Failed to start HTTP Server at localhost:%d: %s", port, complaint)
    return None
