"""gRPC's health service: whether the server, or one model, is to be sent requests.

The server answers to TensorFlow Serving's names, to their full forms and to the empty name; each
model answers to its own.  A model that nobody configured is unknown until somebody does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from salver.errors import Internal, NotFound, ResourceExhausted, Unavailable
from salver.model_server.readiness import Phase, Readiness
from salver.protos.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from salver.wire.calls import Methods, Streaming, Unary

M = TypeVar("M", bound=Message)

HEALTH_SERVICE: Final = "/grpc.health.v1.Health/"

SERVER_NAMES: Final = (
    "",
    "ModelService",
    "PredictionService",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
)
"""Names that mean the whole server; a model of the same name cannot be asked about."""

MAX_LISTED: Final = 100
"""The protocol's limit for List."""

Status = HealthCheckResponse.ServingStatus


class Health:
    """Answers Check, List and Watch; all of them on the event loop."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def methods(self) -> Methods:
        """Every method by its path."""
        return {
            HEALTH_SERVICE + "Check": Unary(self.check),
            HEALTH_SERVICE + "List": Unary(self.list_all),
            HEALTH_SERVICE + "Watch": Streaming(self.watch),
        }

    def check(self, data: bytes, _timeout_s: float | None) -> bytes:
        """Health.Check.

        Raises:
            NotFound: the name is neither the server's nor a model's.
        """
        name = _parsed(HealthCheckRequest, data).service
        status = self._status(name)
        if status == Status.SERVICE_UNKNOWN:
            raise NotFound(
                f"no service or model is named {name!r:.200}; "
                "the empty name asks about the whole server, a model's name about that model"
            )
        return _answer(status)

    def list_all(self, data: bytes, _timeout_s: float | None) -> bytes:
        """Health.List.

        Raises:
            ResourceExhausted: there are more names than the protocol allows to list.
        """
        _parsed(HealthListRequest, data)
        names = dict.fromkeys([*SERVER_NAMES, *self._readiness.model_names()])
        if len(names) > MAX_LISTED:
            raise ResourceExhausted(
                f"{len(names)} names are too many to list, {MAX_LISTED} is the limit; "
                "Check asks about one"
            )
        statuses = {name: HealthCheckResponse(status=self._status(name)) for name in names}
        return HealthListResponse(statuses=statuses).SerializeToString()

    async def watch(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Health.Watch: the status now, and again whenever it is another.

        A client that reads slowly misses what was over before it looked, and never the newest.

        Raises:
            Unavailable: the server is about to end; said after the last status.
        """
        name = _parsed(HealthCheckRequest, await _only(requests)).service
        told = None
        while True:
            news = self._readiness.news()
            status = self._status(name)
            if status != told:
                told = status
                yield _answer(status)
            if self._readiness.phase is Phase.DRAINING:
                # The server waits for what is in flight, and a watch would never end.
                raise Unavailable("the server is shutting down")
            await news.wait()

    def _status(self, name: str) -> Status:
        if name in SERVER_NAMES:
            is_serving = self._readiness.is_ready()
        elif name in self._readiness.model_names():
            is_serving = self._readiness.is_model_ready(name)
        else:
            return Status.SERVICE_UNKNOWN
        return Status.SERVING if is_serving else Status.NOT_SERVING


async def _only(requests: AsyncIterator[bytes]) -> bytes:
    async for data in requests:
        return data
    raise Internal("the call ended before its one request")


def _answer(status: Status) -> bytes:
    return HealthCheckResponse(status=status).SerializeToString()


def _parsed(message_type: type[M], data: bytes) -> M:
    try:
        return message_type.FromString(data)
    except DecodeError as error:
        raise Internal(
            f"the {len(data)} bytes received are no grpc.health.v1.{message_type.__name__}: {error}"
        ) from error
