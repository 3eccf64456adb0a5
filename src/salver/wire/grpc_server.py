"""gRPC unary calls: bytes in, bytes out, over grpcio's asyncio server.

The only file that knows grpcio, and it knows no message: whoever registers a method decodes.
A ``ServingError`` leaves as its status code, anything else as INTERNAL.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

import grpc
import grpc.aio

from salver.errors import InvalidArgument, ServingError

logger = logging.getLogger(__name__)

Method = Callable[[bytes, float | None], Awaitable[bytes]]
"""Takes a serialized request and the seconds left to answer it, None without a deadline."""

MAX_RECEIVE_BYTES: Final = (1 << 31) - 1
"""TensorFlow Serving's limit for one message."""

MAX_MESSAGE_BYTES: Final = 1024
"""A longer error message is cut to this, as in TensorFlow Serving: it travels in a header."""

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class GrpcServer:
    """Serves methods by their full path (``/package.Service/Method``) until it is drained."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ]
        )
        self._server.add_generic_rpc_handlers([_Methods(methods)])

    def listen(self, address: str) -> int:
        """Accept calls on ``host:port`` or ``unix:path``; the port that was bound.

        Raises:
            InvalidArgument: the address cannot be bound.
        """
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise InvalidArgument(f"cannot listen for gRPC on {address}: {error}") from error
        if port == 0:
            raise InvalidArgument(f"cannot listen for gRPC on {address}")
        return int(port)

    async def start(self) -> None:
        """Begin to answer on every address listened on."""
        await self._server.start()

    async def drain(self, grace_s: float) -> None:
        """Take no new call, finish those in flight, and cut what is not done after ``grace_s``."""
        await self._server.stop(grace_s)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio ships no types
    """Finds the handler of a call; an unknown one is UNIMPLEMENTED by grpcio's own doing."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._handlers = {
            path: grpc.unary_unary_rpc_method_handler(partial(_answer, method))
            for path, method in methods.items()
        }

    def service(self, handler_call_details: Any) -> Any:  # grpcio ships no types
        return self._handlers.get(handler_call_details.method)


async def _answer(method: Method, request: bytes, context: Any) -> bytes:  # grpcio ships no types
    try:
        return await method(request, context.time_remaining())
    except ServingError as error:
        await context.abort(_CODES[error.code], _details(error.message))
    except Exception:
        logger.exception("Answering a gRPC call failed")
        await context.abort(
            grpc.StatusCode.INTERNAL, "The server failed to answer; its log says why."
        )
    raise AssertionError("abort raises")


def _details(message: str) -> str:
    encoded = message.encode("utf-8", "surrogateescape")
    if len(encoded) > MAX_MESSAGE_BYTES:
        encoded = encoded[:MAX_MESSAGE_BYTES] + b"...TRUNCATED"
    return encoded.decode("utf-8", "replace")
