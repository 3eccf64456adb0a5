"""Ask a server to classify images, over gRPC, many requests at a time.

It uses TensorFlow Serving's own Python API, so it asks any server that speaks it.
``mnist_builder/mnist_client.py`` is a command around it.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

REQUEST_TIMEOUT_S: Final = 10.0
PROGRESS_EVERY: Final = 250


@dataclass
class Tally:
    """What came back. Written by gRPC's threads, one at a time; read when all has come back."""

    answered: Counter[int] = field(default_factory=Counter)  # by the version that answered
    wrong: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def error_rate(self, version: int | None = None) -> float:
        """The part of the answers, of one version or of all, that named another digit."""
        if version is not None:
            return self.wrong[version] / max(1, self.answered[version])
        return sum(self.wrong.values()) / max(1, sum(self.answered.values()))


class Classifier:
    """Sends images one by one, at most ``concurrency`` of them in flight, and keeps the score."""

    def __init__(self, channel: grpc.Channel, *, model_name: str, concurrency: int) -> None:
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._model_name = model_name
        self._concurrency = concurrency
        self._in_flight = threading.Semaphore(concurrency)
        self._lock = threading.Lock()
        self.tally = Tally()

    def classify(
        self,
        digits: Iterable[tuple[np.ndarray, int]],
        on_answer: Callable[[Tally], None] | None = None,
    ) -> Tally:
        """Send them all, wait for every answer, return the tally so far.

        ``on_answer`` is called after each answer that is not a failure.
        """
        for image, label in digits:
            self._in_flight.acquire()
            future = self._stub.Predict.future(self.request(image), REQUEST_TIMEOUT_S)
            future.add_done_callback(self._counting(int(label), on_answer))
        for _ in range(self._concurrency):
            self._in_flight.acquire()
        self._in_flight.release(self._concurrency)
        return self.tally

    def request(self, image: np.ndarray) -> Any:
        """One image as a PredictRequest."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model_name
        request.model_spec.signature_name = "predict_images"
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(image, shape=[1, image.size]))
        return request

    def _counting(
        self, label: int, on_answer: Callable[[Tally], None] | None
    ) -> Callable[[Any], None]:
        def count(future: Any) -> None:
            try:
                with self._lock:
                    if future.exception() is not None:
                        self.tally.failures.append(f"{future.code().name}: {future.details()}")
                        return
                    self._count(future.result(), label)
                    if on_answer is not None:
                        on_answer(self.tally)
            finally:
                self._in_flight.release()

        return count

    def _count(self, response: Any, label: int) -> None:
        scores = np.array(response.outputs["scores"].float_val)
        version = response.model_spec.version.value
        self.tally.answered[version] += 1
        self.tally.wrong[version] += int(np.argmax(scores)) != label


def show_progress(tally: Tally) -> None:
    """A line now and then."""
    answered = sum(tally.answered.values())
    if answered % PROGRESS_EVERY == 0:
        print(f"  {answered} answers", flush=True)
