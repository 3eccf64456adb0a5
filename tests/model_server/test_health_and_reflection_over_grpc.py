"""Health and reflection over real sockets, asked by gRPC's own client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from fakes import FakeModels
from salver.model_server.health import Health
from salver.model_server.readiness import Readiness
from salver.model_server.reflection import PATHS, Reflection
from salver.model_server.rest_health import HealthEndpoints
from salver.protos.health_pb2 import HealthCheckRequest, HealthCheckResponse
from salver.protos.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from salver.wire.http1_messages import HttpRequest, HttpResponse, error_page
from salver.wire.listener import Listener

TIMEOUT_S = 30
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


class Server:
    """Both services and the probes on one port of the loopback."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.readiness = Readiness(FakeModels("m"), loop)
        health = Health(self.readiness).methods()
        methods = {**health, **Reflection(health).methods()}
        handler = HealthEndpoints(self.readiness, self._not_found).answer
        self.listener = Listener(methods, handler, loop=loop)
        bound = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{bound.getsockname()[1]}"
        self.listener.listen(bound)

    async def drain(self) -> None:
        self.readiness.drain()
        await self.listener.drain(TIMEOUT_S)

    async def _not_found(self, request: HttpRequest) -> HttpResponse:
        return error_page(404)


Scenario = Callable[[Server, grpc.aio.Channel], Awaitable[None]]


def with_server(scenario: Scenario) -> None:
    """Run a scenario against a server of its own."""

    async def run() -> None:
        server = Server(asyncio.get_running_loop())
        try:
            async with grpc.aio.insecure_channel(server.address) as channel:
                await asyncio.wait_for(scenario(server, channel), TIMEOUT_S)
        finally:
            await server.listener.close()

    asyncio.run(run())


def asking(name: str) -> bytes:
    return HealthCheckRequest(service=name).SerializeToString()


async def next_status(watch: grpc.aio.UnaryStreamCall) -> int:
    return HealthCheckResponse.FromString(await watch.read()).status


def test_a_client_checks_and_watches_until_the_drain():
    """The watch ends with the server, so that the drain need not wait for the end of its grace."""

    async def scenario(server: Server, channel: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(CHECK)(asking("nobody"))
        watch = channel.unary_stream(WATCH)(asking(""))
        told = [await next_status(watch)]
        server.readiness.started()
        told.append(await next_status(watch))
        checked = HealthCheckResponse.FromString(await channel.unary_unary(CHECK)(asking("")))
        draining = asyncio.ensure_future(server.drain())
        told.append(await next_status(watch))

        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        assert checked.status == SERVING
        assert told == [NOT_SERVING, SERVING, NOT_SERVING]
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE
        await draining

    with_server(scenario)


@pytest.mark.parametrize("path", PATHS)
def test_a_client_without_stubs_learns_a_service_and_calls_it(path: str):
    """What reflection sends is enough to build the messages of a call."""

    async def scenario(server: Server, channel: grpc.aio.Channel) -> None:
        asked = ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health")

        async def questions() -> AsyncIterator[bytes]:
            yield asked.SerializeToString()

        call = channel.stream_stream(path)(questions())
        [answer] = [ServerReflectionResponse.FromString(each) async for each in call]
        pool = DescriptorPool()
        for file in reversed(answer.file_descriptor_response.file_descriptor_proto):
            pool.Add(FileDescriptorProto.FromString(file))
        check = pool.FindMethodByName("grpc.health.v1.Health.Check")
        request = GetMessageClass(check.input_type)(service="m")
        raw = await channel.unary_unary(CHECK)(request.SerializeToString())

        answered = GetMessageClass(check.output_type).FromString(raw)
        assert str(answered) == "status: NOT_SERVING\n"

    with_server(scenario)
