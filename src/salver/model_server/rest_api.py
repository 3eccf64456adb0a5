"""The REST door: one HTTP request in, one HTTP response out.

Paths, texts and headers are TensorFlow Serving's.  A ``ServingError`` becomes an HTTP status here
and nowhere below.  What may be slow runs as one plain function wherever ``Placement`` puts it.

A small Predict like one that was answered before takes the short way (``_answer_known``): its
route, its signature and its checks are known, so only the numbers pass through.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial
from time import perf_counter
from typing import Final, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote_to_bytes

import numpy as np

from salver.apis.requests import ModelSpec, PredictRequest, VersionStatus
from salver.apis.rest_codec import (
    read_document,
    read_examples,
    read_predict,
    signature_for_predict,
    signature_name,
    write_classify,
    write_error,
    write_predict,
    write_regress,
    write_status,
)
from salver.apis.rest_metadata import write_metadata
from salver.apis.rest_small import MAX_BYTES, read_small, small_signature_name
from salver.core.servable_id import ServableId
from salver.core.serving_map import Asleep, ServableHandle
from salver.errors import Code, InvalidArgument, ServingError
from salver.inference import PredictPlan, classify, predict, regress
from salver.metrics import Metrics
from salver.model_server.batch_queues import BatchQueue, BatchQueues, Task
from salver.model_server.measuring import CallRecorders, TimedServable
from salver.model_server.monitoring import DEFAULT_PATH
from salver.model_server.on_demand import OnDemand
from salver.model_server.placement import Kind, Placement
from salver.model_server.rest_memo import MAX_QUEUES, KnownPredict, KnownTarget, TargetMemo
from salver.servables.servable import Servable
from salver.signature import Signature
from salver.wire.calls import Later
from salver.wire.complaints import Complaints
from salver.wire.http1_messages import (
    HttpAnswer,
    HttpRequest,
    HttpResponse,
    UnpacksTooLarge,
    error_page,
    unpacked_body,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

JSON: Final = "application/json"
TEXT: Final = "text/plain"

ROUTES_REMEMBERED: Final = 256
KINDS_REMEMBERED: Final = 1024

MAX_VERSION: Final = 2**63 - 1

HTTP_STATUS: Final[Mapping[Code, int]] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}

CORS_HEADERS: Final = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)

# A path, a query and a fragment as RFC 3986 spells them; the authority of an absolute target is
# skipped.
TARGET: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)?(([^?#]*)(?:\?[^#]*)?(?:#.*)?)")
NOT_IN_TARGET: Final = re.compile(
    r"[^A-Za-z0-9._~!$&'()*+,;=:@/?#%-]|%(?![0-9A-Fa-f]{2})|#.*#", re.ASCII
)

V1_PATH: Final = re.compile(r"/v1/.*", re.IGNORECASE | re.ASCII)
POST_PATH: Final = re.compile(
    r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)",
    re.IGNORECASE | re.ASCII,
)
GET_PATH: Final = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?",
    re.IGNORECASE | re.ASCII,
)


class Verb(Enum):
    """What a path under ``/v1/`` asks for."""

    PREDICT = "predict"
    CLASSIFY = "classify"
    REGRESS = "regress"
    METADATA = "metadata"
    STATUS = "status"
    MALFORMED = "malformed"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Target:
    """A target taken apart: its path, and the path with query and fragment."""

    path: str
    full_path: str


@dataclass(frozen=True, slots=True)
class Route:
    """What to do, and for which servable. ``complaint`` says why a path is unreadable."""

    verb: Verb
    spec: ModelSpec
    complaint: str = ""


class _Answered(NamedTuple):
    """The answer of an inference; of a Predict also what the next one like it can begin with."""

    run_us: float
    body: bytes
    signature_name: str = ""
    signature: Signature | None = None
    is_predictable: bool = False


class _PredictTask(Task[HttpResponse]):
    """A known Predict that may be answered together with others."""

    __slots__ = ("_api", "_known", "_predict", "_row_format")

    def __init__(
        self,
        api: RestApi,
        known: KnownTarget,
        predict: KnownPredict,
        handle: ServableHandle[Servable],
        tensors: list[np.ndarray],
        row_format: bool,
        started: float,
    ) -> None:
        parts = [tensor.tobytes() for tensor in tensors]
        nbytes = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        rows = len(tensors[0])
        super().__init__(handle, parts, rows, nbytes, api.timeout_s, known.recorder, started)
        self._api = api
        self._known = known
        self._predict = predict
        self._row_format = row_format

    def written(self, version: int, outputs: list[np.ndarray]) -> HttpResponse:  # noqa: ARG002
        """The answer, which does not tell the version."""
        return self._api.written(self._predict.plan, outputs, self._row_format)

    def fail(self, error: ServingError) -> None:
        """Count it and tell the client."""
        answer = self._api.failed(self._known.spec.name, error)
        if self.taker is not None:
            self.taker.succeed(answer)

    def withdraw(self) -> None:
        """Count it."""
        self._api.withdrawn(self._known.spec.name)


class UnreadablePath(InvalidArgument):
    """A name or version that cannot be decoded: TensorFlow Serving's answer has no body."""


class Core(Protocol):
    """What the door needs of the server core, from any thread."""

    def handle(self, spec: ModelSpec) -> ServableHandle[Servable]:
        """Hold the servable that ``spec`` means, or raise NotFound or InvalidArgument."""

    def is_predictable(self, spec: ModelSpec) -> bool:
        """Whether a run's time follows from its input."""

    def version_statuses(self, name: str, version: int | None) -> list[VersionStatus]:
        """The status of one version, or of all, or raise NotFound."""


def parse_target(target: str) -> Target | None:
    """Take a request's target apart; None for what is no URI."""
    match = TARGET.fullmatch(target)
    if match is None or NOT_IN_TARGET.search(target):
        return None
    return Target(path=match[2], full_path=match[1])


def route_of(method: str, full_path: str) -> Route:
    """What a request under ``/v1/`` asks for.

    As in TensorFlow Serving the paths match whatever their case, but the verb at the end of one
    counts only in lower case, and a query is no more than odd letters of the path.
    """
    if method == "POST" and (match := POST_PATH.fullmatch(full_path)):
        verb = Verb(match[4]) if match[4].islower() else Verb.MALFORMED
    elif method == "GET" and (match := GET_PATH.fullmatch(full_path)):
        verb = Verb.METADATA if match[4] == "metadata" else Verb.STATUS
    else:
        return Route(Verb.MALFORMED, ModelSpec(""))
    return _route_to(verb, match[1] or "", match[2], match[3])


def _route_to(verb: Verb, raw_name: str, version: str | None, raw_label: str | None) -> Route:
    name = percent_decoded(raw_name)
    if name is None:
        return _unreadable("", f"Failed to decode model name:{raw_name}")
    if version is None and raw_label is None:
        return Route(verb, ModelSpec(name))
    if version is not None:
        number = int(version) if len(version.lstrip("0")) <= len(str(MAX_VERSION)) else None
        if number is None or number > MAX_VERSION:
            return _unreadable(name, f"Failed to convert version: {version} to numeric.")
        return Route(verb, ModelSpec(name, version=number))
    label = percent_decoded(raw_label or "")
    if label is None:
        return _unreadable(name, f"Failed to decode model version label:{raw_label}")
    return Route(verb, ModelSpec(name, version_label=label))


def _unreadable(name: str, complaint: str) -> Route:
    return Route(Verb.UNREADABLE, ModelSpec(name), complaint)


def percent_decoded(text: str) -> str | None:
    """``text`` with its ``%XX`` decoded, or None when that is not UTF-8."""
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        return None


class RestApi:
    """Answers HTTP requests for models and metrics; ``answer`` is called on the event loop."""

    def __init__(
        self,
        core: Core,
        metrics: Metrics,
        placement: Placement,
        *,
        timeout_s: float | None = None,
        check_method_name: bool = False,
        allows_cors: bool = False,
        monitoring: Callable[[], bytes] | None = None,
        monitoring_path: str = DEFAULT_PATH,
        on_demand: OnDemand | None = None,
        queues: BatchQueues | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """Without ``queues`` every call runs alone."""
        self._core = core
        self._metrics = metrics
        self._recorders = CallRecorders(metrics, "REST")
        self._placement = placement
        self._timeout_s = timeout_s
        self._check_method_name = check_method_name
        self._headers = CORS_HEADERS if allows_cors else ()
        self._monitoring = monitoring
        self._monitoring_path = monitoring_path
        self._on_demand = on_demand
        self._queues = queues
        self._clock = clock
        self._complaints = Complaints(clock, logger)
        self._parse_target = lru_cache(ROUTES_REMEMBERED)(parse_target)
        self._route_of = lru_cache(ROUTES_REMEMBERED)(route_of)
        self._kind = lru_cache(KINDS_REMEMBERED)(
            lambda verb, spec, size: placement.kind((verb, spec, size))
        )
        self._memo = TargetMemo()
        self._inferences: Mapping[Verb, Callable[[ModelSpec, HttpRequest], _Answered]] = {
            Verb.PREDICT: self._predict,
            Verb.CLASSIFY: self._classify,
            Verb.REGRESS: self._regress,
        }

    def answer(self, request: HttpRequest) -> HttpAnswer:
        """The answer to one request: at once where no wait is needed, else one to be awaited."""
        known = self._memo.find(request.method, request.target)
        response = None if known is None else self._answer_known(known, request)
        return self._answer_any(request) if response is None else response

    def forget(self, ended: ServableId) -> None:
        """Let go of a version that has ended: what was worked out for calls holds on to it."""
        for known in self._memo.of_model(ended.name):
            for asked, known_predict in list(known.predicts.items()):
                if not self._is_current(known.spec, known_predict.plan):
                    del known.predicts[asked]

    def _is_current(self, spec: ModelSpec, plan: PredictPlan) -> bool:
        try:
            with self._core.handle(spec) as handle:
                return handle.servable.signatures.get(plan.name) is plan.signature
        except ServingError:
            return False

    # The short way.

    def _answer_known(
        self, known: KnownTarget, request: HttpRequest
    ) -> HttpResponse | Later[HttpResponse] | None:
        """Answer a small Predict like one before; None where only the long way knows how.

        What this leaves out was found in order the first time, and depends on nothing that it does
        not look at: the target, the names in the body, and the signature they were checked against.
        """
        text = request.body
        if "content-encoding" in request.headers:
            return None
        started = self._clock()
        members = read_small(text)
        if members is None:
            return None
        predict = known.predicts.get(small_signature_name(members))
        if predict is None:
            return None
        read = predict.reader.read(text, members)
        if read is None:
            return None
        tensors, row_format = read
        rows, queue = self._company(known, predict, tensors)
        if queue is not None and not queue.runs_alone(rows, started):
            return self._join(known, predict, queue, tensors, row_format, started)
        kind = known.kinds.get(len(text).bit_length())
        if kind is None or not (queue or (kind.is_quick and predict.is_predictable)):
            return None
        call = partial(self._predict_known, known, predict, tensors, row_format)
        response = self._run_known(known, kind, call, started)
        if queue is not None and response is not None and response.status == 200:
            now = self._clock()
            queue.ran_alone(rows, now - started, now)
        return response

    def _company(
        self, known: KnownTarget, predict: KnownPredict, tensors: list[np.ndarray]
    ) -> tuple[int, BatchQueue | None]:
        """How many rows a call has, and with whom it may share a run; None if with nobody."""
        if self._queues is None or not tensors[0].ndim:
            return 0, None
        rows = len(tensors[0])
        if len(tensors) > 1 and any(tensor.shape[:1] != (rows,) for tensor in tensors):
            return rows, None
        shapes = tuple([tensor.shape[1:] for tensor in tensors])
        try:
            queue = predict.queues[shapes]
        except KeyError:
            queue = self._found_queue(known.spec, predict.plan, tensors)
            if len(predict.queues) >= MAX_QUEUES:
                predict.queues.clear()
            predict.queues[shapes] = queue
        return rows, queue

    def _found_queue(
        self, spec: ModelSpec, plan: PredictPlan, tensors: list[np.ndarray]
    ) -> BatchQueue | None:
        inputs = dict(zip(plan.signature.inputs, tensors, strict=True))
        if self._queues is None or not all(tensor.ndim for tensor in tensors):
            return None
        try:
            with self._core.handle(spec) as handle:
                queue = self._queues.queue(handle, plan.name, inputs, ())
        except ServingError:
            return None
        return queue if queue is not None and queue.signature is plan.signature else None

    def _join(
        self,
        known: KnownTarget,
        predict: KnownPredict,
        queue: BatchQueue,
        tensors: list[np.ndarray],
        row_format: bool,
        started: float,
    ) -> HttpResponse | Later[HttpResponse] | None:
        """Have a call run together with others; None if another version is meant by now."""
        try:
            handle = self._core.handle(known.spec)
            if handle.servable.signatures.get(predict.plan.name) is not predict.plan.signature:
                handle.release()
                known.predicts.clear()  # its checks may differ
                return None
            return queue.add(
                _PredictTask(self, known, predict, handle, tensors, row_format, started)
            )
        except Asleep:
            return None  # the long way wakes the model
        except ServingError as error:
            return self.failed(known.spec.name, error)

    def withdrawn(self, name: str) -> None:
        """Count a Predict whose client did not wait for its answer."""
        self._metrics.request_count.increment(name, Code.CANCELLED.name)

    def failed(self, name: str, error: ServingError) -> HttpResponse:
        """Count a Predict that failed; its answer."""
        self._metrics.request_count.increment(name, error.code.name)
        logger.debug("Predict of %r: %s", name, error)
        return self._failure(error)

    def written(
        self, plan: PredictPlan, outputs: list[np.ndarray], row_format: bool
    ) -> HttpResponse:
        """The answer of a Predict."""
        named = dict(zip(plan.aliases, outputs))  # noqa: B905 - as many as were fetched
        return HttpResponse(200, write_predict(named, row_format), JSON, self._headers)

    @property
    def timeout_s(self) -> float | None:
        """How long a run may take."""
        return self._timeout_s

    def _run_known(
        self,
        known: KnownTarget,
        kind: Kind,
        call: Callable[[], tuple[float, bytes] | None],
        started: float,
    ) -> HttpResponse | None:
        name = known.spec.name
        code = Code.INTERNAL  # what a bug that leaves by exception counts as
        try:
            answered = self._placement.run_here(kind, call)
            code = Code.OK
        except Asleep:
            code = Code.OK  # not counted: the long way wakes the model and begins anew
            return None
        except ServingError as error:
            code = error.code
            logger.debug("Predict of %r: %s", name, error)
            return self._failure(error)
        finally:
            if code is not Code.OK:
                self._metrics.request_count.increment(name, code.name)
        if answered is None:
            return None
        run_us, body = answered
        known.recorder.succeeded((self._clock() - started) * 1e6, run_us)
        return HttpResponse(200, body, JSON, self._headers)

    def _predict_known(
        self,
        known: KnownTarget,
        predict: KnownPredict,
        tensors: list[np.ndarray],
        row_format: bool,
    ) -> tuple[float, bytes] | None:
        plan = predict.plan
        with self._core.handle(known.spec) as handle:
            servable = handle.servable
            if servable.signatures.get(plan.name) is not plan.signature:
                known.predicts.clear()  # another version, whose checks may differ
                return None
            started = perf_counter()
            outputs = plan.run(servable, tensors, self._timeout_s)
            run_us = (perf_counter() - started) * 1e6
        named = dict(zip(plan.aliases, outputs))  # noqa: B905 - as many as were fetched
        return run_us, write_predict(named, row_format)

    def _learn(
        self, request: HttpRequest, spec: ModelSpec, kind: Kind, answered: _Answered
    ) -> None:
        """Remember a Predict that was answered, so that the next one like it can be quick."""
        size = len(request.body)
        signature = answered.signature
        if signature is None or size > MAX_BYTES or not _is_told_by_size(request):
            return
        known = self._memo.find(request.method, request.target)
        if known is None:
            recorder = self._recorders.of(spec.name, *_names(Verb.PREDICT))
            known = self._memo.learn(request.target, KnownTarget(spec, recorder))
        known.kinds[size.bit_length()] = kind
        known.learn(answered.signature_name, signature, is_predictable=answered.is_predictable)

    # The long way.

    async def _answer_any(self, request: HttpRequest) -> HttpResponse:
        target = self._parse_target(request.target)
        if target is None:
            return error_page(400)
        if self._monitoring is not None and target.path == self._monitoring_path:
            return await self._monitoring_page(target, self._monitoring)
        if not V1_PATH.fullmatch(target.full_path):
            return error_page(404)
        if request.method == "OPTIONS":
            return self._preflight(request)
        return await self._answer(request, target)

    async def _monitoring_page(self, target: Target, page: Callable[[], bytes]) -> HttpResponse:
        if target.full_path != self._monitoring_path:
            text = f"Unexpected path: {target.full_path}. Should be {self._monitoring_path}"
            return HttpResponse(HTTP_STATUS[Code.INVALID_ARGUMENT], text.encode(), TEXT)
        return HttpResponse(
            200, await self._placement.run(self._placement.kind("monitoring"), page), TEXT
        )

    def _preflight(self, request: HttpRequest) -> HttpResponse:
        """A browser's question before a POST; the flag decides only whether the headers say yes."""
        origin = request.headers.get("origin", "")
        is_web = "http://" in origin or "https://" in origin
        return HttpResponse(200 if is_web else 400, headers=self._headers)

    async def _answer(self, request: HttpRequest, target: Target) -> HttpResponse:
        route = self._route_of(request.method, target.full_path)
        name = route.spec.name
        started = self._clock()
        code = Code.INTERNAL  # what a bug that leaves by exception counts as
        run_us: float | None = None
        try:
            if route.verb in self._inferences:
                answered = await self._awake(partial(self._infer, route.verb, route.spec, request))
                run_us, body = answered.run_us, answered.body
            else:
                body = await self._awake(partial(self._tell, route, request, target))
            code = Code.OK
        except ServingError as error:
            code = error.code
            logger.debug("%s %s: %s", request.method, target.full_path, error)
            if isinstance(error, UnpacksTooLarge):
                self._complaints.say("A request to the REST API was refused: %s", error.message)
            return self._failure(error)
        except asyncio.CancelledError:
            code = Code.CANCELLED
            raise
        finally:
            if run_us is None:
                self._metrics.request_count.increment(name, code.name)
        self._record(route, (self._clock() - started) * 1e6, run_us)
        return HttpResponse(200, body, JSON, self._headers)

    async def _awake(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What ``attempt`` gives; a model that sleeps is woken first, where models may sleep."""
        if self._on_demand is None:
            return await attempt()
        return await self._on_demand.waking(attempt, self._timeout_s)

    def _failure(self, error: ServingError) -> HttpResponse:
        body = b"" if isinstance(error, UnreadablePath) else write_error(error.message)
        return HttpResponse(HTTP_STATUS[error.code], body, JSON, self._headers)

    def _record(self, route: Route, took_us: float, run_us: float | None) -> None:
        name = route.spec.name
        if run_us is None:
            self._metrics.request_latency.observe(took_us, name, "", "REST")
        else:
            self._recorders.of(name, *_names(route.verb)).succeeded(took_us, run_us)

    async def _infer(self, verb: Verb, spec: ModelSpec, request: HttpRequest) -> _Answered:
        kind = self._kind(verb, spec, len(request.body).bit_length())
        call = partial(self._inferences[verb], spec, request)
        if kind.is_quick and _is_told_by_size(request) and self._core.is_predictable(spec):
            answered = self._placement.run_here(kind, call)
        else:
            answered = await self._placement.run_on_thread(kind, call, lane=spec.name)
        self._learn(request, spec, kind, answered)
        return answered

    async def _tell(self, route: Route, request: HttpRequest, target: Target) -> bytes:
        spec, verb = route.spec, route.verb
        if verb is Verb.METADATA:
            kind = self._placement.kind((verb, spec))
            return await self._placement.run(kind, partial(self._metadata, spec))
        if verb is Verb.STATUS:
            return self._status(spec)
        if verb is Verb.UNREADABLE:
            raise UnreadablePath(route.complaint)
        raise InvalidArgument(f"Malformed request: {request.method} {target.full_path}")

    # Each of these runs as a whole on the loop or on a worker thread.

    def _predict(self, spec: ModelSpec, request: HttpRequest) -> _Answered:
        document = read_document(unpacked_body(request))
        asked = signature_name(document)
        with self._core.handle(spec) as handle:
            servable = TimedServable(handle.servable)
            signature = signature_for_predict(servable.signatures, asked)
            body = read_predict(document, signature)
            outputs = predict(
                servable,
                PredictRequest(body.inputs, asked),
                timeout_s=self._timeout_s,
                check_method_name=self._check_method_name,
            )
            is_predictable = servable.predictable
        written = write_predict(outputs, body.row_format)
        return _Answered(servable.took_us, written, asked, signature, is_predictable)

    def _classify(self, spec: ModelSpec, request: HttpRequest) -> _Answered:
        document = read_document(unpacked_body(request))
        signature = signature_name(document)
        examples = read_examples(document, "classify")
        with self._core.handle(spec) as handle:
            servable = TimedServable(handle.servable)
            results = classify(
                servable,
                signature,
                examples,
                timeout_s=self._timeout_s,
                check_method_name=self._check_method_name,
            )
        return _Answered(servable.took_us, write_classify(results))

    def _regress(self, spec: ModelSpec, request: HttpRequest) -> _Answered:
        document = read_document(unpacked_body(request))
        signature = signature_name(document)
        examples = read_examples(document, "regress")
        with self._core.handle(spec) as handle:
            servable = TimedServable(handle.servable)
            values = regress(
                servable,
                signature,
                examples,
                timeout_s=self._timeout_s,
                check_method_name=self._check_method_name,
            )
        return _Answered(servable.took_us, write_regress(values))

    def _metadata(self, spec: ModelSpec) -> bytes:
        _require_name(spec)
        with self._core.handle(spec) as handle:
            return write_metadata(handle.id.name, handle.id.version, handle.servable.signature_defs)

    def _status(self, spec: ModelSpec) -> bytes:
        """The status of one version; a label selects nothing here, as in TensorFlow Serving."""
        _require_name(spec)
        return write_status(self._core.version_statuses(spec.name, spec.version))


def _is_told_by_size(request: HttpRequest) -> bool:
    """Whether a body's size says how much work it is: what a packed one holds it does not."""
    return "content-encoding" not in request.headers


def _names(verb: Verb) -> tuple[str, str]:
    """A verb as the metrics of requests and those of run times spell it."""
    return verb.value, verb.value.capitalize()


def _require_name(spec: ModelSpec) -> None:
    if not spec.name:
        raise InvalidArgument("Missing model name in request.")
