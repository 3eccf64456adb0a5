"""grpcio's asyncio stubs: the same transport driven from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2

from clients.contract import (
    LARGE_FLOATS,
    NAMELESS,
    NOT_FOUND,
    SHORT_S,
    TIMEOUT_S,
    Target,
    own_target,
    say,
)
from clients.python.grpcio_sync import (
    METADATA,
    OPTIONS,
    Stub,
    credentials,
    failure,
    half_plus_two,
    identity,
    is_right,
    waiting,
)

IN_FLIGHT = 100


def connect(target: Target) -> grpc.aio.Channel:
    """A channel; its ``async with`` closes it."""
    options = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    trust = credentials(target)
    if trust is None:
        return grpc.aio.insecure_channel(target.grpc, options)
    return grpc.aio.secure_channel(target.grpc, trust, options)


async def refuse(
    channel: grpc.aio.Channel,
    request: predict_pb2.PredictRequest,
    timeout_s: float = TIMEOUT_S,
) -> tuple[str, str]:
    try:
        await Stub(channel).Predict(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        return failure(error)
    raise AssertionError("the call succeeded")


async def predict(channel: grpc.aio.Channel, target: Target) -> None:
    assert is_right(await Stub(channel).Predict(half_plus_two(), timeout=TIMEOUT_S))


async def errors(channel: grpc.aio.Channel, target: Target) -> None:
    assert await refuse(channel, half_plus_two(NAMELESS)) == ("NOT_FOUND", NOT_FOUND)
    assert await refuse(channel, predict_pb2.PredictRequest()) == (
        "INVALID_ARGUMENT",
        "Missing ModelSpec",
    )


async def deadline(channel: grpc.aio.Channel, target: Target) -> None:
    code, _ = await refuse(channel, waiting(target.gate), SHORT_S)

    assert code == "DEADLINE_EXCEEDED"
    await predict(channel, target)


async def cancel(channel: grpc.aio.Channel, target: Target) -> None:
    """Two that cannot have been answered, and fifty that may have been."""
    stub = Stub(channel)
    stuck = [stub.Predict(waiting(target.gate), timeout=TIMEOUT_S) for _ in range(2)]
    quick = [stub.Predict(half_plus_two(), timeout=TIMEOUT_S) for _ in range(50)]
    await predict(channel, target)
    for call in (*stuck, *quick):
        call.cancel()

    assert [await call.code() for call in stuck] == [grpc.StatusCode.CANCELLED] * 2
    await predict(channel, target)


async def metadata(channel: grpc.aio.Channel, target: Target) -> None:
    call = Stub(channel).Predict(half_plus_two(), timeout=TIMEOUT_S, metadata=METADATA)

    assert is_right(await call)
    assert await call.code() is grpc.StatusCode.OK


async def large(channel: grpc.aio.Channel, target: Target) -> None:
    values = np.arange(LARGE_FLOATS, dtype=np.float32)
    answer = await Stub(channel).Predict(identity(values), timeout=TIMEOUT_S)

    assert np.array_equal(np.array(answer.outputs["y"].float_val, np.float32), values)


async def compressed(channel: grpc.aio.Channel, target: Target) -> None:
    values = np.arange(250_000, dtype=np.float32)
    answer = await Stub(channel).Predict(
        identity(values), timeout=TIMEOUT_S, compression=grpc.Compression.Gzip
    )

    assert np.array_equal(np.array(answer.outputs["y"].float_val, np.float32), values)


async def many_calls(channel: grpc.aio.Channel, target: Target) -> None:
    """One channel, a hundred callers who each wait for their answer."""
    stub, request = Stub(channel), half_plus_two()

    async def call(times: int) -> int:
        right = 0
        for _ in range(times):
            right += is_right(await stub.Predict(request, timeout=TIMEOUT_S))
        return right

    each = -(-target.calls // IN_FLIGHT)
    right = await asyncio.gather(*(call(each) for _ in range(IN_FLIGHT)))

    assert right == [each] * IN_FLIGHT


CHECKS: dict[str, Callable[[grpc.aio.Channel, Target], Awaitable[None]]] = {
    "predict": predict,
    "errors": errors,
    "deadline": deadline,
    "cancel": cancel,
    "metadata": metadata,
    "20 MB": large,
    "gzip": compressed,
    "calls": many_calls,
}


async def main() -> None:
    target = own_target()
    say("version", f"grpcio {grpc.__version__}")
    async with connect(target) as channel:
        for name, check in CHECKS.items():
            await check(channel, target)
            say("did", name)


if __name__ == "__main__":
    asyncio.run(main())
