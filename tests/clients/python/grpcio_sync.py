"""grpcio's blocking stubs, with TensorFlow Serving's messages: C++ gRPC's own HTTP/2."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from clients.contract import (
    LARGE_FLOATS,
    NAMELESS,
    NOT_FOUND,
    SHORT_S,
    TIMEOUT_S,
    Checks,
    Target,
    own_target,
    run_checks,
)

Stub = prediction_service_pb2_grpc.PredictionServiceStub

IN_FLIGHT = 100

METADATA = (
    ("x-request-id", "e9aedbe"),
    ("x-request-id", "again"),
    ("x-long", "ab" * 3000),
    ("x-trace-bin", bytes(range(256))),
)

OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def half_plus_two(name: str = "half_plus_two") -> predict_pb2.PredictRequest:
    """Three numbers, as a client without TensorFlow writes them."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    tensor = request.inputs["x"]
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=3)
    tensor.float_val.extend([1, 2, 5])
    return request


def identity(values: np.ndarray) -> predict_pb2.PredictRequest:
    """A float32 array that is to come back."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "all_dtypes"
    request.model_spec.signature_name = "float"
    tensor = request.inputs["x"]
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=values.size)
    tensor.tensor_content = values.tobytes()
    return request


def waiting(gate: object) -> predict_pb2.PredictRequest:
    """A run that does not end while the client is there."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "turnstile"
    for alias, path in (("arrived", "/dev/null"), ("leave", str(gate))):
        tensor = request.inputs[alias]
        tensor.dtype = 7
        tensor.tensor_shape.SetInParent()
        tensor.string_val.append(path.encode())
    return request


def is_right(answer: predict_pb2.PredictResponse) -> bool:
    """Whether it is the answer to ``half_plus_two()``."""
    return list(answer.outputs["y"].float_val) == [2.5, 3.0, 4.5]


def credentials(target: Target) -> grpc.ChannelCredentials | None:
    """Trust in the target's authority; None without TLS."""
    return target.ca and grpc.ssl_channel_credentials(target.ca.read_bytes())


@contextmanager
def connect(target: Target) -> Iterator[grpc.Channel]:
    """A channel of its own connection."""
    options = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    trust = credentials(target)
    if trust is None:
        channel = grpc.insecure_channel(target.grpc, options)
    else:
        channel = grpc.secure_channel(target.grpc, trust, options)
    with channel:
        yield channel


def failure(call: grpc.RpcError | grpc.Future) -> tuple[str, str]:
    """The code and the text of a call that failed."""
    return call.code().name, call.details()


def refuse(channel: grpc.Channel, request: predict_pb2.PredictRequest) -> tuple[str, str]:
    try:
        Stub(channel).Predict(request, TIMEOUT_S)
    except grpc.RpcError as error:
        return failure(error)
    raise AssertionError("the call succeeded")


def predict(channel: grpc.Channel, target: Target) -> None:
    answer = Stub(channel).Predict(half_plus_two(), TIMEOUT_S)

    assert is_right(answer)
    assert answer.model_spec.version.value == 1


def errors(channel: grpc.Channel, target: Target) -> None:
    """Codes and texts, octets that need an escape included; an unknown method, too."""
    assert refuse(channel, half_plus_two(NAMELESS)) == ("NOT_FOUND", NOT_FOUND)
    assert refuse(channel, predict_pb2.PredictRequest()) == (
        "INVALID_ARGUMENT",
        "Missing ModelSpec",
    )
    unknown = channel.unary_unary("/tensorflow.serving.PredictionService/Nope").future(b"")
    assert unknown.exception(TIMEOUT_S).code() is grpc.StatusCode.UNIMPLEMENTED


def deadline(channel: grpc.Channel, target: Target) -> None:
    """The client gives up in time, and the channel lives on."""
    call = Stub(channel).Predict.future(waiting(target.gate), SHORT_S)

    assert call.exception(TIMEOUT_S).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    predict(channel, target)


def cancel(channel: grpc.Channel, target: Target) -> None:
    """Calls taken back at several stages leave the channel as it was."""
    calls = [Stub(channel).Predict.future(waiting(target.gate), TIMEOUT_S) for _ in range(2)]
    calls += [Stub(channel).Predict.future(half_plus_two(), TIMEOUT_S) for _ in range(50)]
    for call in calls:
        call.cancel()

    assert all(call.cancelled() for call in calls[:2])
    predict(channel, target)


def metadata(channel: grpc.Channel, target: Target) -> None:
    """Any metadata is taken; none of it changes the answer."""
    answer, call = Stub(channel).Predict.with_call(half_plus_two(), TIMEOUT_S, metadata=METADATA)

    assert is_right(answer)
    assert call.code() is grpc.StatusCode.OK


def large(channel: grpc.Channel, target: Target) -> None:
    values = np.arange(LARGE_FLOATS, dtype=np.float32)
    answer = Stub(channel).Predict(identity(values), TIMEOUT_S)

    assert np.array_equal(np.array(answer.outputs["y"].float_val, np.float32), values)


def compressed(channel: grpc.Channel, target: Target) -> None:
    """Both ways, with each of gRPC's two ways to compress."""
    values = np.arange(250_000, dtype=np.float32)
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        answer = Stub(channel).Predict(identity(values), TIMEOUT_S, compression=compression)

        assert np.array_equal(np.array(answer.outputs["y"].float_val, np.float32), values)


def many_calls(channel: grpc.Channel, target: Target) -> None:
    """One channel, a hundred calls in flight."""
    stub, request = Stub(channel), half_plus_two()
    waiting: deque[grpc.Future] = deque()
    right = 0
    for _ in range(target.calls):
        if len(waiting) == IN_FLIGHT:
            right += is_right(waiting.popleft().result(TIMEOUT_S))
        waiting.append(stub.Predict.future(request, TIMEOUT_S))
    right += sum(is_right(call.result(TIMEOUT_S)) for call in waiting)

    assert right == target.calls


CHECKS: Checks = {
    "predict": predict,
    "errors": errors,
    "deadline": deadline,
    "cancel": cancel,
    "metadata": metadata,
    "20 MB": large,
    "gzip": compressed,
    "calls": many_calls,
}


def main() -> None:
    target = own_target()
    with connect(target) as channel:
        run_checks(f"grpcio {grpc.__version__}", CHECKS, channel, target)


if __name__ == "__main__":
    main()
