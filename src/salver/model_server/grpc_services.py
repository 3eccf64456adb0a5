"""The gRPC door: PredictionService and ModelService, method by method.

Each method is one plain function from the bytes of a request to the bytes of its answer; what it
needs of the loop and of worker threads is ``Placement``'s business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Final, TypeVar

from salver.apis import grpc_codec
from salver.apis.requests import InferenceTask, ModelSpec, PredictRequest
from salver.errors import Code, ServingError
from salver.inference import classify, multi_inference, predict, regress
from salver.metrics import Metrics
from salver.model_server.measuring import MeasuredServable
from salver.model_server.placement import Placement
from salver.model_server.server_core import ServerCore
from salver.servables.servable import Servable
from salver.signature import DEFAULT_SERVING_SIGNATURE
from salver.wire.grpc_server import Method

logger = logging.getLogger(__name__)

T = TypeVar("T")

PREDICTION_SERVICE: Final = "/tensorflow.serving.PredictionService/"
MODEL_SERVICE: Final = "/tensorflow.serving.ModelService/"


class GrpcServices:
    """Answers the calls of both services; ``methods`` are called on the event loop."""

    def __init__(
        self,
        core: ServerCore,
        metrics: Metrics,
        placement: Placement,
        *,
        as_content: bool = False,
        check_method_name: bool = False,
    ) -> None:
        self._core = core
        self._metrics = metrics
        self._placement = placement
        self._as_content = as_content
        self._check_method_name = check_method_name

    def methods(self) -> Mapping[str, Method]:
        """Every method by its path."""
        return {
            PREDICTION_SERVICE + "Predict": self.predict,
            PREDICTION_SERVICE + "Classify": self.classify,
            PREDICTION_SERVICE + "Regress": self.regress,
            PREDICTION_SERVICE + "MultiInference": self.multi_inference,
            PREDICTION_SERVICE + "GetModelMetadata": self.get_model_metadata,
            MODEL_SERVICE + "GetModelStatus": self.get_model_status,
        }

    async def predict(self, data: bytes, timeout_s: float | None) -> bytes:
        """PredictionService.Predict."""
        return await self._counted(
            "Predict", grpc_codec.read_predict, self._predict, data, timeout_s
        )

    async def classify(self, data: bytes, timeout_s: float | None) -> bytes:
        """PredictionService.Classify."""
        return await self._counted(
            "Classify", grpc_codec.read_classify, self._classify, data, timeout_s
        )

    async def regress(self, data: bytes, timeout_s: float | None) -> bytes:
        """PredictionService.Regress."""
        return await self._counted(
            "Regress", grpc_codec.read_regress, self._regress, data, timeout_s
        )

    async def multi_inference(self, data: bytes, timeout_s: float | None) -> bytes:
        """PredictionService.MultiInference: not counted as a request, as in TensorFlow Serving."""
        tasks, examples = grpc_codec.read_multi_inference(data)
        spec = tasks[0].model_spec if tasks else ModelSpec("")
        call = partial(self._multi_inference, spec, tasks, examples, timeout_s)
        return await self._placed("MultiInference", spec, len(data), call)

    async def get_model_metadata(self, data: bytes, _timeout_s: float | None) -> bytes:
        """PredictionService.GetModelMetadata."""
        spec, _fields = grpc_codec.read_metadata(data)
        with self._core.handle(spec) as handle:
            answered = ModelSpec(handle.id.name, handle.id.version)
            return grpc_codec.write_metadata(answered, handle.servable.signature_defs)

    async def get_model_status(self, data: bytes, _timeout_s: float | None) -> bytes:
        """ModelService.GetModelStatus; a label selects nothing here, as in TensorFlow Serving."""
        spec = grpc_codec.read_status(data)
        return grpc_codec.write_status(self._core.version_statuses(spec.name, spec.version))

    async def _counted(
        self,
        api: str,
        read: Callable[[bytes], tuple[ModelSpec, T]],
        answer: Callable[[ModelSpec, T, float | None], bytes],
        data: bytes,
        timeout_s: float | None,
    ) -> bytes:
        started = perf_counter()
        code, name = Code.INTERNAL, ""  # what a bug that leaves by exception counts as
        try:
            spec, request = read(data)
            name = spec.name
            call = partial(answer, spec, request, timeout_s)
            size = max(len(data), grpc_codec.declared_values(request))
            answered = await self._placed(api, spec, size, call)
            code = Code.OK
        except ServingError as error:
            code = error.code
            logger.debug("%s of %r: %s", api, name, error)
            raise
        except asyncio.CancelledError:
            code = Code.CANCELLED
            raise
        finally:
            self._metrics.request_count.increment(name, code.name)
        took_us = (perf_counter() - started) * 1e6
        self._metrics.request_latency.observe(took_us, name, api, "GRPC")
        return answered

    async def _placed(
        self, api: str, spec: ModelSpec, size: int, call: Callable[[], bytes]
    ) -> bytes:
        kind = (api, spec, size.bit_length())
        if self._core.is_predictable(spec):
            return await self._placement.run(kind, call, lane=spec.name)
        return await self._placement.run_on_thread(kind, call, lane=spec.name)

    # Each of these runs as a whole on the loop or on a worker thread.

    def _predict(self, spec: ModelSpec, request: PredictRequest, timeout_s: float | None) -> bytes:
        with self._core.handle(spec) as handle:
            outputs = predict(
                self._measured(handle.servable, spec, "Predict"),
                request,
                timeout_s=timeout_s,
                check_method_name=self._check_method_name,
            )
            answered = _answered(spec, handle.id.version)
        return grpc_codec.write_predict(answered, outputs, as_content=self._as_content)

    def _classify(self, spec: ModelSpec, examples: list[bytes], timeout_s: float | None) -> bytes:
        with self._core.handle(spec) as handle:
            results = classify(
                self._measured(handle.servable, spec, "Classify"),
                spec.signature_name,
                examples,
                timeout_s=timeout_s,
                check_method_name=self._check_method_name,
            )
            return grpc_codec.write_classify(_answered(spec, handle.id.version), results)

    def _regress(self, spec: ModelSpec, examples: list[bytes], timeout_s: float | None) -> bytes:
        with self._core.handle(spec) as handle:
            values = regress(
                self._measured(handle.servable, spec, "Regress"),
                spec.signature_name,
                examples,
                timeout_s=timeout_s,
                check_method_name=self._check_method_name,
            )
            return grpc_codec.write_regress(_answered(spec, handle.id.version), values)

    def _multi_inference(
        self,
        spec: ModelSpec,
        tasks: list[InferenceTask],
        examples: list[bytes],
        timeout_s: float | None,
    ) -> bytes:
        with self._core.handle(spec) as handle:
            results = multi_inference(
                self._measured(handle.servable, spec, None),
                tasks,
                examples,
                timeout_s=timeout_s,
                check_method_name=self._check_method_name,
            )
            version = handle.id.version
        self._metrics.request_example_counts.observe(len(examples), spec.name)
        self._metrics.request_example_count_total.increment(spec.name, by=len(examples))
        answered = [_answered(task.model_spec, version) for task in tasks]
        return grpc_codec.write_multi_inference(list(zip(answered, results, strict=True)))

    def _measured(self, servable: Servable, spec: ModelSpec, api: str | None) -> MeasuredServable:
        return MeasuredServable(servable, self._metrics, spec.name, api)


def _answered(spec: ModelSpec, version: int) -> ModelSpec:
    """The spec of an answer: the version that gave it, the signature that was run."""
    return ModelSpec(
        spec.name, version=version, signature_name=spec.signature_name or DEFAULT_SERVING_SIGNATURE
    )
