"""The gRPC door: PredictionService and ModelService, method by method.

A method takes the bytes of a request and gives the bytes of its answer: at once, on the event loop,
when calls of its kind have proved quick, else later, from a worker thread.

A Predict like one that was answered before takes the short way (``_predict_known``): its parse, its
checks and the shape of its answer are known, so only the numbers pass through.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final, TypeVar

import numpy as np

from salver.apis import grpc_codec
from salver.apis.grpc_memo import KnownPredict, PredictMemo
from salver.apis.requests import InferenceTask, ModelSpec, PredictRequest
from salver.core.servable_id import ServableId
from salver.core.serving_map import Asleep, ServableHandle
from salver.errors import Code, ServingError
from salver.inference import PredictPlan, classify, multi_inference, predict, regress
from salver.metrics import Metrics
from salver.model_server.batch_queues import BatchQueue, BatchQueues, Task
from salver.model_server.measuring import CallRecorder, CallRecorders, TimedServable
from salver.model_server.placement import Kind, Placement
from salver.model_server.server_core import ServerCore
from salver.servables.servable import Servable
from salver.signature import DEFAULT_SERVING_SIGNATURE
from salver.wire.calls import Answer, Methods, Unary

logger = logging.getLogger(__name__)

T = TypeVar("T")

PREDICTION_SERVICE: Final = "/tensorflow.serving.PredictionService/"
MODEL_SERVICE: Final = "/tensorflow.serving.ModelService/"


@dataclass(frozen=True, slots=True)
class _Company:
    """With whom a known Predict may share a run."""

    queue: BatchQueue
    order: Sequence[int]
    """Where each input of the queue stands among the tensors of the message."""
    rows: int


class _KnownPlan:
    """How to answer a known Predict: what to run, where, with whom, and where it is counted."""

    __slots__ = ("company", "is_predictable", "kind", "predict", "recorder")

    def __init__(
        self,
        predict: PredictPlan,
        kind: Kind,
        recorder: CallRecorder,
        company: _Company | None,
        *,
        is_predictable: bool,
    ) -> None:
        self.predict = predict
        self.kind = kind
        self.recorder = recorder
        self.company = company
        self.is_predictable = is_predictable


class _PredictTask(Task[bytes]):
    """A known Predict that may be answered together with others."""

    __slots__ = ("_known", "_plan", "_services")

    def __init__(
        self,
        services: GrpcServices,
        known: KnownPredict[_KnownPlan],
        plan: _KnownPlan,
        company: _Company,
        handle: ServableHandle[Servable],
        data: bytes,
        timeout_s: float | None,
        started: float,
    ) -> None:
        parts = known.parts(data, company.order)
        super().__init__(handle, parts, company.rows, len(data), timeout_s, plan.recorder, started)
        self._services = services
        self._known = known
        self._plan = plan

    def written(self, version: int, outputs: list[np.ndarray]) -> bytes:
        """The answer's bytes."""
        known = self._known
        answer = known.answer(version, outputs)
        return answer or self._services.written(known, self._plan, version, outputs)

    def fail(self, error: ServingError) -> None:
        """Count it and tell the client."""
        self._services.failed("Predict", self._known.spec.name, error)
        if self.taker is not None:
            self.taker.fail(error)

    def withdraw(self) -> None:
        """Count it."""
        self._services.withdrawn(self._known.spec.name)


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
        reload: Callable[[bytes, float | None], Answer] | None = None,
        queues: BatchQueues | None = None,
    ) -> None:
        """``reload`` answers HandleReloadConfigRequest, which is not offered without it.

        Without ``queues`` every call runs alone.
        """
        self._core = core
        self._reload = reload
        self._metrics = metrics
        self._recorders = CallRecorders(metrics, "GRPC")
        self._placement = placement
        self._queues = queues
        self._as_content = as_content
        self._check_method_name = check_method_name
        self._memo: PredictMemo[_KnownPlan] = PredictMemo()

    def methods(self) -> Methods:
        """Every method by its path."""
        methods = {
            PREDICTION_SERVICE + "Predict": Unary(self.predict),
            PREDICTION_SERVICE + "Classify": Unary(self.classify),
            PREDICTION_SERVICE + "Regress": Unary(self.regress),
            PREDICTION_SERVICE + "MultiInference": Unary(self.multi_inference),
            PREDICTION_SERVICE + "GetModelMetadata": Unary(self.get_model_metadata),
            MODEL_SERVICE + "GetModelStatus": Unary(self.get_model_status),
        }
        if self._reload is not None:
            methods[MODEL_SERVICE + "HandleReloadConfigRequest"] = Unary(self._reload)
        return methods

    def predict(self, data: bytes, timeout_s: float | None) -> Answer:
        """PredictionService.Predict."""
        known = self._memo.find(data)
        if known is None or (plan := known.plan) is None:
            return self._counted("Predict", grpc_codec.read_predict, self._predict, data, timeout_s)
        kind, company = plan.kind, plan.company
        started = perf_counter()
        if company is not None:
            if company.queue.runs_alone(company.rows, started):
                return self._predict_known_here(known, plan, data, timeout_s, started)
            task = self._task(known, plan, company, data, timeout_s, started)
            if task is not None:
                return task
        is_quick = kind.is_quick and plan.is_predictable
        if is_quick and not kind.close_looks_left:
            return self._predict_known_here(known, plan, data, timeout_s, started)
        call = partial(self._predict_known, known, plan, data, timeout_s)
        if is_quick:
            return self._here("Predict", known.spec, kind, call, started)
        return self._elsewhere("Predict", known.spec, kind, call, started)

    def classify(self, data: bytes, timeout_s: float | None) -> Answer:
        """PredictionService.Classify."""
        return self._counted("Classify", grpc_codec.read_classify, self._classify, data, timeout_s)

    def regress(self, data: bytes, timeout_s: float | None) -> Answer:
        """PredictionService.Regress."""
        return self._counted("Regress", grpc_codec.read_regress, self._regress, data, timeout_s)

    def multi_inference(self, data: bytes, timeout_s: float | None) -> Answer:
        """PredictionService.MultiInference: not counted as a request, as in TensorFlow Serving."""
        tasks, examples = grpc_codec.read_multi_inference(data)
        spec = tasks[0].model_spec if tasks else ModelSpec("")
        call = partial(self._multi_inference, spec, tasks, examples, timeout_s)
        kind = self._placement.kind(("MultiInference", spec, len(data).bit_length()))
        if self._belongs_here(kind, spec):
            return self._placement.run_here(kind, call)
        return self._placement.run_on_thread(kind, call, lane=spec.name)

    def get_model_metadata(self, data: bytes, _timeout_s: float | None) -> Answer:
        """PredictionService.GetModelMetadata."""
        spec, _fields = grpc_codec.read_metadata(data)
        with self._core.handle(spec) as handle:
            answered = ModelSpec(handle.id.name, handle.id.version)
            return grpc_codec.write_metadata(answered, handle.servable.signature_defs)

    def get_model_status(self, data: bytes, _timeout_s: float | None) -> Answer:
        """ModelService.GetModelStatus; a label selects nothing here, as in TensorFlow Serving."""
        spec = grpc_codec.read_status(data)
        return grpc_codec.write_status(self._core.version_statuses(spec.name, spec.version))

    def forget(self, ended: ServableId) -> None:
        """Let go of a version that has ended: what was worked out for calls holds on to it."""
        for known in self._memo.of_model(ended.name):
            if known.plan is not None and not self._is_current(known.spec, known.plan.predict):
                known.plan = None

    def _is_current(self, spec: ModelSpec, plan: PredictPlan) -> bool:
        try:
            with self._core.handle(spec) as handle:
                return handle.servable.signatures.get(plan.name) is plan.signature
        except ServingError:
            return False

    # The short way.

    def _predict_known_here(
        self,
        known: KnownPredict[_KnownPlan],
        plan: _KnownPlan,
        data: bytes,
        timeout_s: float | None,
        started: float,
    ) -> bytes:
        """What ``_here`` does, for the most frequent call of all."""
        try:
            run_us, answer = self._predict_known(known, plan, data, timeout_s)
        except ServingError as error:
            self.failed("Predict", known.spec.name, error)
            raise
        plan.recorder.succeeded(self._took_here(plan, started) * 1e6, run_us)
        return answer

    @staticmethod
    def _took_here(plan: _KnownPlan, started: float) -> float:
        """Have whoever decides where such calls run learn from one that ran here."""
        now = perf_counter()
        took_s = now - started
        if plan.company is None:
            plan.kind.took_here(took_s)
        else:
            plan.company.queue.ran_alone(plan.company.rows, took_s, now)
        return took_s

    def _task(
        self,
        known: KnownPredict[_KnownPlan],
        plan: _KnownPlan,
        company: _Company,
        data: bytes,
        timeout_s: float | None,
        started: float,
    ) -> _PredictTask | None:
        """A known Predict that waits for others; None if another version is meant by now."""
        try:
            handle = self._core.handle(known.spec)
            if handle.servable.signatures.get(plan.predict.name) is not plan.predict.signature:
                handle.release()
                return None
            task = _PredictTask(self, known, plan, company, handle, data, timeout_s, started)
            company.queue.add(task)
        except ServingError as error:
            self.failed("Predict", known.spec.name, error)
            raise
        return task

    def _predict_known(
        self,
        known: KnownPredict[_KnownPlan],
        plan: _KnownPlan,
        data: bytes,
        timeout_s: float | None,
    ) -> tuple[float, bytes]:
        """Answer a Predict like one before.

        What this leaves out was found in order the first time and depends on nothing that it does
        not look at: the bytes outside the numbers, and the signature they were checked against.
        """
        with self._core.handle(known.spec) as handle:
            servable = handle.servable
            if servable.signatures.get(plan.predict.name) is plan.predict.signature:
                started = perf_counter()
                outputs = plan.predict.run(servable, known.inputs(data), timeout_s)
                run_us = (perf_counter() - started) * 1e6
                version = handle.id.version
                answer = known.answer(version, outputs)
                return run_us, answer or self.written(known, plan, version, outputs)
        known.plan = None  # another version, whose checks may differ: the long way looks again
        spec, request = grpc_codec.read_predict(data)
        return self._predict(spec, request, timeout_s)

    def written(
        self,
        known: KnownPredict[_KnownPlan],
        plan: _KnownPlan,
        version: int,
        outputs: list[np.ndarray],
    ) -> bytes:
        """The answer as the codec writes it, remembered for the next one like it."""
        aliases = plan.predict.aliases
        named = dict(zip(aliases, outputs, strict=True))
        answer = grpc_codec.write_predict(
            _answered(known.spec, version), named, as_content=self._as_content
        )
        known.learn_answer(version, aliases, outputs, answer)
        return answer

    def _learn(self, data: bytes, spec: ModelSpec, request: PredictRequest, kind: Kind) -> None:
        """Remember a Predict that was answered, so that the next one like it can be quick."""
        known = self._memo.learn(data, spec, request)
        if known is None:
            return
        name = spec.signature_name or DEFAULT_SERVING_SIGNATURE
        with suppress(ServingError), self._core.handle(spec) as handle:
            signature = handle.servable.signatures.get(name)
            if signature is not None:
                plan = PredictPlan(name, signature, known.aliases, request.output_filter)
                recorder = self._recorders.of(spec.name, "Predict", "Predict")
                company = self._company(handle, name, known.aliases, request)
                is_predictable = handle.servable.predictable
                known.plan = _KnownPlan(
                    plan, kind, recorder, company, is_predictable=is_predictable
                )

    def _company(
        self,
        handle: ServableHandle[Servable],
        name: str,
        aliases: Sequence[str],
        request: PredictRequest,
    ) -> _Company | None:
        if self._queues is None:
            return None
        queue = self._queues.queue(handle, name, request.inputs, request.output_filter)
        if queue is None:
            return None
        order = [aliases.index(alias) for alias in queue.signature.inputs]
        return _Company(queue, order, len(request.inputs[aliases[0]]))

    # The long way.

    def _counted(
        self,
        api: str,
        read: Callable[[bytes], tuple[ModelSpec, T]],
        infer: Callable[[ModelSpec, T, float | None], tuple[float, bytes]],
        data: bytes,
        timeout_s: float | None,
    ) -> Answer:
        started = perf_counter()
        try:
            spec, request = read(data)
        except ServingError as error:
            self.failed(api, "", error)
            raise
        call = partial(infer, spec, request, timeout_s)
        size = max(len(data), grpc_codec.declared_values(request))
        kind = self._placement.kind((api, spec, size.bit_length()))
        learn = None
        if isinstance(request, PredictRequest):
            learn = partial(self._learn, data, spec, request, kind)
        if self._belongs_here(kind, spec):
            return self._here(api, spec, kind, call, started, learn)
        return self._elsewhere(api, spec, kind, call, started, learn)

    def _here(
        self,
        api: str,
        spec: ModelSpec,
        kind: Kind,
        call: Callable[[], tuple[float, bytes]],
        started: float,
        learn: Callable[[], None] | None = None,
    ) -> bytes:
        try:
            run_us, answer = self._placement.run_here(kind, call)
        except ServingError as error:
            self.failed(api, spec.name, error)
            raise
        self._succeeded(api, spec.name, started, run_us)
        if learn is not None:
            learn()
        return answer

    async def _elsewhere(
        self,
        api: str,
        spec: ModelSpec,
        kind: Kind,
        call: Callable[[], tuple[float, bytes]],
        started: float,
        learn: Callable[[], None] | None = None,
    ) -> bytes:
        code = Code.INTERNAL  # what a bug that leaves by exception counts as
        try:
            run_us, answer = await self._placement.run_on_thread(kind, call, lane=spec.name)
            code = Code.OK
        except Asleep:
            code = Code.OK  # not counted: the request begins anew once its model is awake
            raise
        except ServingError as error:
            code = error.code
            logger.debug("%s of %r: %s", api, spec.name, error)
            raise
        except asyncio.CancelledError:
            code = Code.CANCELLED
            raise
        finally:
            if code is not Code.OK:
                self._metrics.request_count.increment(spec.name, code.name)
        self._succeeded(api, spec.name, started, run_us)
        if learn is not None:
            learn()
        return answer

    def _belongs_here(self, kind: Kind, spec: ModelSpec) -> bool:
        return kind.is_quick and self._core.is_predictable(spec)

    def _succeeded(self, api: str, name: str, started: float, run_us: float) -> None:
        took_us = (perf_counter() - started) * 1e6
        self._recorders.of(name, api, api).succeeded(took_us, run_us)

    def withdrawn(self, name: str) -> None:
        """Count a call whose client did not wait for its answer."""
        self._metrics.request_count.increment(name, Code.CANCELLED.name)

    def failed(self, api: str, name: str, error: ServingError) -> None:
        """Count a call that failed."""
        if isinstance(error, Asleep):
            return  # the request begins anew once its model is awake
        self._metrics.request_count.increment(name, error.code.name)
        logger.debug("%s of %r: %s", api, name, error)

    # Each of these runs as a whole on the loop or on a worker thread.

    def _predict(
        self, spec: ModelSpec, request: PredictRequest, timeout_s: float | None
    ) -> tuple[float, bytes]:
        with self._core.handle(spec) as handle:
            servable = TimedServable(handle.servable)
            outputs = predict(
                servable, request, timeout_s=timeout_s, check_method_name=self._check_method_name
            )
            answered = _answered(spec, handle.id.version)
        written = grpc_codec.write_predict(answered, outputs, as_content=self._as_content)
        return servable.took_us, written

    def _classify(
        self, spec: ModelSpec, examples: list[bytes], timeout_s: float | None
    ) -> tuple[float, bytes]:
        with self._core.handle(spec) as handle:
            servable = TimedServable(handle.servable)
            results = classify(
                servable,
                spec.signature_name,
                examples,
                timeout_s=timeout_s,
                check_method_name=self._check_method_name,
            )
            answered = _answered(spec, handle.id.version)
        return servable.took_us, grpc_codec.write_classify(answered, results)

    def _regress(
        self, spec: ModelSpec, examples: list[bytes], timeout_s: float | None
    ) -> tuple[float, bytes]:
        with self._core.handle(spec) as handle:
            servable = TimedServable(handle.servable)
            values = regress(
                servable,
                spec.signature_name,
                examples,
                timeout_s=timeout_s,
                check_method_name=self._check_method_name,
            )
            answered = _answered(spec, handle.id.version)
        return servable.took_us, grpc_codec.write_regress(answered, values)

    def _multi_inference(
        self,
        spec: ModelSpec,
        tasks: list[InferenceTask],
        examples: list[bytes],
        timeout_s: float | None,
    ) -> bytes:
        with self._core.handle(spec) as handle:
            servable = TimedServable(handle.servable)
            results = multi_inference(
                servable,
                tasks,
                examples,
                timeout_s=timeout_s,
                check_method_name=self._check_method_name,
            )
            version = handle.id.version
        metrics = self._metrics
        metrics.graph_runs.increment()
        metrics.graph_run_time_usecs.increment(by=int(servable.took_us))
        metrics.request_example_counts.observe(len(examples), spec.name)
        metrics.request_example_count_total.increment(spec.name, by=len(examples))
        answered = [_answered(task.model_spec, version) for task in tasks]
        return grpc_codec.write_multi_inference(list(zip(answered, results, strict=True)))


def _answered(spec: ModelSpec, version: int) -> ModelSpec:
    """The spec of an answer: the version that gave it, the signature that was run."""
    return ModelSpec(
        spec.name, version=version, signature_name=spec.signature_name or DEFAULT_SERVING_SIGNATURE
    )
