"""grpcio's asyncio server with a method that answers the same bytes at once.

echo_grpcio.py PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

from echo_salver import ANSWER


async def serve(port: int) -> None:
    """Answer calls until the process is ended."""

    async def echo(_request: bytes, _context: Any) -> bytes:
        return ANSWER

    class Echo(grpc.GenericRpcHandler):
        def service(self, _details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(echo)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Echo()])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
