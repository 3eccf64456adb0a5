"""A client that keeps asking while something goes wrong, and forgets nothing that it was told."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import grpc
import numpy as np

from saved_models import tensorflow
from server_process import PATIENCE_S, ServerProcess

tensorflow()

from tensorflow_serving.apis import (  # noqa: E402 - protobuf after TensorFlow, as users do
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

BETWEEN_REQUESTS_S: Final = 0.004
"""Enough of a load to notice a gap, and not so much that it is one."""

AT_LEAST: Final = 20
"""Answers over each protocol that count as "it serves"."""

HALF_PLUS_TWO: Final = 2.5
HALF_PLUS_THREE: Final = 3.5
"""What the two models say to 1."""


def request_for(model: str, version: int | None = None) -> predict_pb2.PredictRequest:
    """What is one half, plus the model's own number?"""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    request.inputs["x"].CopyFrom(tensorflow().make_tensor_proto(np.ones(1, np.float32)))
    return request


class Asking:
    """gRPC calls on one channel, for the test's own questions."""

    def __init__(self, server: ServerProcess) -> None:
        self._channel = grpc.insecure_channel(server.grpc_address)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._channel.close()

    def predict(self, model: str, version: int | None = None) -> float:
        """The answer of a model to 1."""
        (answer,) = (
            self.predictions.Predict(request_for(model, version), PATIENCE_S).outputs["y"].float_val
        )
        return float(answer)

    def status(self, model: str, version: int) -> tuple[str, int, str]:
        """State, error code and message of a version; "unknown" while nobody has heard of it."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        request.model_spec.version.value = version
        try:
            answer = self.models.GetModelStatus(request, PATIENCE_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return "unknown", 0, ""
            raise
        (one,) = answer.model_version_status
        state = get_model_status_pb2.ModelVersionStatus.State.Name(one.state)
        return state, one.status.error_code, one.status.error_message

    def wait_until(self, model: str, version: int, state: str) -> tuple[str, int, str]:
        """Ask until a version is in ``state``; its status."""
        return self.wait_until_status(model, version, lambda status: status[0] == state)

    def wait_until_status(
        self, model: str, version: int, is_wanted: Callable[[tuple[str, int, str]], bool]
    ) -> tuple[str, int, str]:
        """Ask until a version's status is the one that is wanted; the status."""
        patience = Patience()
        while not is_wanted(status := self.status(model, version)):
            patience.lose_some(f"version {version} of {model} is {status}")
        return status


class Patience:
    """A bounded wait for something that can only be asked for again and again."""

    def __init__(self) -> None:
        self._gives_up_s = time.monotonic() + PATIENCE_S
        self._never = threading.Event()

    def lose_some(self, found: str) -> None:
        """Wait a moment before the next question; at the end of the patience, fail."""
        assert time.monotonic() < self._gives_up_s, found
        self._never.wait(0.01)


class SteadyClient:
    """Asks one model over gRPC and over REST from threads of its own, all the time.

    Each protocol keeps one connection, and opens another only after a failure.
    """

    def __init__(
        self,
        server: ServerProcess,
        model: str,
        *expected: float,
        over: Sequence[str] = ("gRPC", "REST"),
    ) -> None:
        self._server = server
        self._model = model
        self._expected = expected or (HALF_PLUS_TWO,)
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._answers = dict.fromkeys(over, 0)
        self.failures: list[str] = []
        """One line for each request that was not answered as it should have been."""
        self._threads = [
            threading.Thread(target=self._keep_asking, args=args, daemon=True)
            for args in (("gRPC", self._ask_over_grpc), ("REST", self._ask_over_rest))
            if args[0] in over
        ]

    def wait_for_answers(self, count: int = AT_LEAST) -> None:
        """Wait until each protocol has had so many more right answers."""
        with self._news:
            before = dict(self._answers)
            came = self._news.wait_for(
                lambda: all(self._answers[kind] >= before[kind] + count for kind in before),
                PATIENCE_S,
            )
        assert came, f"no answers any more; the last failures: {self.failures[-3:]}"

    def __enter__(self) -> SteadyClient:
        for thread in self._threads:
            thread.start()
        self.wait_for_answers(1)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _keep_asking(self, kind: str, answers: Callable[[], Iterator[float]]) -> None:
        while not self._stop.is_set():
            failure = self._ask_on_one_connection(kind, answers)
            if failure:
                self.failures.append(f"{kind}: {failure}")

    def _ask_on_one_connection(self, kind: str, answers: Callable[[], Iterator[float]]) -> str:
        """Ask until told to stop, or until something goes wrong; what that was."""
        try:
            for answer in answers():
                self._note(kind, answer)
                if self._stop.wait(BETWEEN_REQUESTS_S):
                    return ""
        except (OSError, http.client.HTTPException, grpc.RpcError, AssertionError) as error:
            self._stop.wait(BETWEEN_REQUESTS_S)
            return repr(error)
        return ""

    def _note(self, kind: str, answer: float) -> None:
        assert answer in self._expected, f"{self._model} said {answer}"
        with self._news:
            self._answers[kind] += 1
            self._news.notify_all()

    def _ask_over_grpc(self) -> Iterator[float]:
        request = request_for(self._model)
        with grpc.insecure_channel(
            self._server.grpc_address, [("grpc.max_reconnect_backoff_ms", 100)]
        ) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while True:
                (answer,) = stub.Predict(request, PATIENCE_S).outputs["y"].float_val
                yield float(answer)

    def _ask_over_rest(self) -> Iterator[float]:
        path, body = f"/v1/models/{self._model}:predict", json.dumps({"instances": [1.0]})
        connection = http.client.HTTPConnection("127.0.0.1", self._server.rest_port, PATIENCE_S)
        try:
            while True:
                connection.request("POST", path, body)
                response = connection.getresponse()
                content = response.read()
                assert response.status == 200, content
                (answer,) = json.loads(content)["predictions"]
                yield answer
        finally:
            connection.close()
