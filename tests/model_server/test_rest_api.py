"""The /v1 routes, from an HTTP request to the exact response."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import answer_of
from salver.apis.requests import ModelSpec, VersionStatus
from salver.core.servable_id import ServableId
from salver.core.serving_map import Asleep
from salver.dtypes import DType
from salver.errors import Code, DeadlineExceeded, InvalidArgument, NotFound, error_for
from salver.metrics import Metrics
from salver.model_server.on_demand import OnDemand
from salver.model_server.placement import Placement
from salver.model_server.rest_api import RestApi, Route, Target, Verb, parse_target, route_of
from salver.model_server.thread_time import ThreadTime
from salver.servables.servable import PreparedRun
from salver.signature import CLASSIFY_METHOD, REGRESS_METHOD, Signature, TensorInfo
from salver.wire.http1_messages import (
    MAX_UNPACKED_BODY_BYTES,
    HttpRequest,
    HttpResponse,
    error_page,
)

X = {"x": TensorInfo("x:0", DType.FLOAT, (-1,))}
INPUTS = {"inputs": TensorInfo("examples:0", DType.STRING, (-1,))}
SCORES = {"scores": TensorInfo("scores:0", DType.FLOAT, (-1, 1))}
VALUES = {"outputs": TensorInfo("values:0", DType.FLOAT, (-1, 1))}


class HalfPlusTwo:
    """Answers x / 2 + 2, or one 3.0 for every example; notes how it was run."""

    signatures: Mapping[str, Signature] = {
        "serving_default": Signature(X, {"y": TensorInfo("y:0", DType.FLOAT, (-1,))}),
        "classify": Signature(INPUTS, SCORES, CLASSIFY_METHOD),
        "regress": Signature(INPUTS, VALUES, REGRESS_METHOD),
    }
    signature_defs: Mapping[str, bytes] = {"serving_default": b""}
    predictable = True

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []
        self.prepared_runs = 0
        self.error: Exception | None = None

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        self.timeouts.append(timeout_s)
        if self.error is not None:
            raise self.error
        if "x:0" in feeds:
            return [feeds["x:0"] / 2 + 2]
        return [np.full((len(feeds["examples:0"]), 1), 3, np.float32)]

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        def run(tensors: Sequence[np.ndarray], timeout_s: float | None) -> list[np.ndarray]:
            self.prepared_runs += 1
            return self.run(dict(zip(feeds, tensors, strict=True)), fetches, timeout_s=timeout_s)

        return run


class FakeHandle:
    def __init__(self, servable: HalfPlusTwo) -> None:
        self.id = ServableId("half_plus_two", 123)
        self.servable = servable


class FakeCore:
    """A core with one version of one model, which has one label."""

    def __init__(self) -> None:
        self.servable = HalfPlusTwo()
        self.statuses_asked: list[tuple[str, int | None]] = []

    @contextmanager
    def handle(self, spec: ModelSpec) -> Iterator[FakeHandle]:
        if spec.name != "half_plus_two" or spec.version not in (None, 123):
            which = "Latest" if spec.version is None else "Specific"
            version = "" if spec.version is None else f", {spec.version}"
            raise NotFound(f"Servable not found for request: {which}({spec.name}{version})")
        if spec.version_label not in (None, "stable"):
            raise InvalidArgument(f"Unrecognized servable version label: {spec.version_label}")
        yield FakeHandle(self.servable)

    def is_predictable(self, spec: ModelSpec) -> bool:
        return self.servable.predictable

    def version_statuses(self, name: str, version: int | None) -> list[VersionStatus]:
        self.statuses_asked.append((name, version))
        if name != "half_plus_two":
            raise NotFound(f"Could not find any versions of model {name}")
        return [VersionStatus(123, "AVAILABLE")]


class InlineExecutor(Executor):
    """Runs each job at once; ``jobs`` counts them."""

    def __init__(self) -> None:
        self.jobs = 0

    def submit(self, fn, /, *args, **kwargs):
        self.jobs += 1
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 -- as an executor does
            future.set_exception(error)
        return future


class Door:
    """A RestApi and everything around it."""

    def __init__(self, core: FakeCore | None = None, **options) -> None:
        self.core = core or FakeCore()
        self.metrics = Metrics()
        self.executor = InlineExecutor()
        placement = Placement(
            self.executor, clock=lambda: 0.0, thread_clock=lambda: ThreadTime(0.0, 0)
        )
        self.api = RestApi(self.core, self.metrics, placement, **options)

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> HttpResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return asyncio.run(answer_of(self.api.answer(HttpRequest(method, target, named, body))))


@pytest.fixture
def door() -> Door:
    return Door()


def error_body(message: str) -> bytes:
    return b'{\n    "error": "%b"\n}' % message.encode()


INSTANCES = b'{"instances": [1.0, 2.0, 5.0]}'
PREDICTIONS = b'{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'
PREDICT = "/v1/models/half_plus_two:predict"


@pytest.mark.parametrize(
    "target",
    [
        PREDICT,
        "/V1/Models/half_plus_two:predict",
        "/v1/models/half_plus_two/versions/123:predict",
        "/v1/models/half_plus_two/versions/000000000000000000000000123:predict",
        "/v1/models/half_plus_two/labels/stable:predict",
        "/v1/models/half%5Fplus%5ftwo/labels/%73table:predict",
        "http://host:8501/v1/models/half_plus_two:predict",
    ],
)
def test_predict_answers_with_the_models_numbers(door: Door, target: str):
    """Name, version and label are found however they are spelled."""
    response = door.ask("POST", target, INSTANCES)

    assert response == HttpResponse(200, PREDICTIONS, "application/json")


def test_classify_and_regress_answer_with_results(door: Door):
    """The other two verbs read examples and answer with results."""
    body = b'{"signature_name": "%b", "examples": [{"x": 1.0}]}'

    classified = door.ask("POST", "/v1/models/half_plus_two:classify", body % b"classify")
    regressed = door.ask("POST", "/v1/models/half_plus_two:regress", body % b"regress")

    assert classified.body == b'{\n    "results": [[["", 3.0]]\n    ]\n}'
    assert regressed.body == b'{\n    "results": [3.0]\n}'


def malformed(text: str) -> tuple[int, bytes]:
    return 400, error_body(f"Malformed request: {text}")


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("POST", "/v1/", malformed("POST /v1/")),
        ("POST", "/v1/models", malformed("POST /v1/models")),
        ("POST", "/v1/models/m", malformed("POST /v1/models/m")),
        ("POST", "/v1/models/m:PREDICT", malformed("POST /v1/models/m:PREDICT")),
        ("POST", "/v1/models/m:Predict", malformed("POST /v1/models/m:Predict")),
        ("POST", "/v1/models/m:predict/", malformed("POST /v1/models/m:predict/")),
        ("POST", "/v1/models/m:predict?a=b", malformed("POST /v1/models/m:predict?a=b")),
        ("POST", "/v1/models/m:predict#a", malformed("POST /v1/models/m:predict#a")),
        ("POST", "http://h/v1/a?b", malformed("POST /v1/a?b")),
        (
            "POST",
            "/v1/models/m/version/1:predict",
            malformed("POST /v1/models/m/version/1:predict"),
        ),
        (
            "POST",
            "/v1/models/m/versions/x:predict",
            malformed("POST /v1/models/m/versions/x:predict"),
        ),
        (
            "POST",
            "/v1/models/m/versions/:predict",
            malformed("POST /v1/models/m/versions/:predict"),
        ),
        ("POST", "/v1/models/m%20:explain", malformed("POST /v1/models/m%20:explain")),
        ("GET", "/v1/models/m:predict", malformed("GET /v1/models/m:predict")),
        ("GET", "/v1/models/", malformed("GET /v1/models/")),
        ("GET", "/v1/models/m/", malformed("GET /v1/models/m/")),
        ("GET", "/v1/models/m/label/a", malformed("GET /v1/models/m/label/a")),
        ("GET", "/v1/models/m/metadata?x", malformed("GET /v1/models/m/metadata?x")),
        ("GET", "/v1/models/m/versions/-1", malformed("GET /v1/models/m/versions/-1")),
        ("HEAD", PREDICT, malformed(f"HEAD {PREDICT}")),
        ("PUT", PREDICT, malformed(f"PUT {PREDICT}")),
        ("DELETE", PREDICT, malformed(f"DELETE {PREDICT}")),
        ("PATCH", PREDICT, malformed(f"PATCH {PREDICT}")),
        ("GET", "/v1/models", (400, error_body("Missing model name in request."))),
        ("GET", "/v1/models/versions/1", (400, error_body("Missing model name in request."))),
        (
            "GET",
            "/v1/models/labels/a/metadata",
            (400, error_body("Missing model name in request.")),
        ),
        ("GET", "/v1/models/m/versions/9223372036854775808", (400, b"")),
        ("GET", "/v1/models/m/versions/" + "9" * 5000, (400, b"")),
        ("POST", "/v1/models/m/versions/9223372036854775808:predict", (400, b"")),
        ("POST", "/v1/models/%ff:predict", (400, b"")),
        ("POST", "/v1/models/m/labels/%ff:predict", (400, b"")),
        (
            "GET",
            "/v1/models/m?x=y",
            (404, error_body("Could not find any versions of model m?x=y")),
        ),
        (
            "POST",
            "/v1/models/a%2Fb%3Ac+d:predict",
            (404, error_body("Servable not found for request: Latest(a/b:c+d)")),
        ),
        (
            "POST",
            "/v1/models/half_plus_two/versions/9223372036854775807:predict",
            (
                404,
                error_body(
                    "Servable not found for request: Specific(half_plus_two, 9223372036854775807)"
                ),
            ),
        ),
        (
            "POST",
            "/v1/models/half_plus_two/labels/none:predict",
            (400, error_body("Unrecognized servable version label: none")),
        ),
    ],
)
def test_paths_that_lead_nowhere_are_answered_to_the_letter(
    door: Door, method: str, target: str, expected: tuple[int, bytes]
):
    """Status and body are what TensorFlow Serving's clients have always seen."""
    response = door.ask(method, target, INSTANCES)

    assert (response.status, response.body) == expected
    assert response.content_type == "application/json"
    assert not response.closes


@pytest.mark.parametrize(
    "target", ["/", "/v1", "/v2/models/m", "*", "//v1/models/m", "/a?/v1/models", "http://v1"]
)
def test_other_paths_get_the_not_found_page(door: Door, target: str):
    """What is not below /v1/ is answered by the HTTP library's page, which closes."""
    assert door.ask("GET", target) == error_page(404)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models/a|b",
        "/v1/models/a%zz",
        "/v1/models/a%2",
        "/v1/{m}",
        "/v1/a[0]",
        "/v1/\xe9",
        "/#a#",
    ],
)
def test_target_that_is_no_uri_gets_the_bad_request_page(door: Door, target: str):
    """Characters that RFC 3986 does not allow never reach the routes."""
    assert door.ask("GET", target) == error_page(400)


def test_status_of_a_model(door: Door):
    """The exact page of a model with one version."""
    response = door.ask("GET", "/v1/models/half_plus_two")

    assert response.status == 200
    assert response.body == (
        b'{\n "model_version_status": [\n  {\n   "version": "123",\n   "state": "AVAILABLE",\n'
        b'   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )


def test_status_by_label_is_the_status_of_all_versions(door: Door):
    """A version selects, a label does not."""
    for which in ("", "/versions/123", "/labels/stable", "/METADATA"):
        door.ask("GET", f"/v1/models/half_plus_two{which}")

    assert door.core.statuses_asked == [
        ("half_plus_two", None),
        ("half_plus_two", 123),
        ("half_plus_two", None),
        ("half_plus_two", None),
    ]


def test_metadata_names_the_version_that_is_loaded(door: Door):
    """Metadata is of the version found, not of the words that found it."""
    response = door.ask("GET", "/v1/models/half_plus_two/labels/stable/metadata")

    assert response.status == 200
    assert b'"version": "123"' in response.body
    assert b'"serving_default"' in response.body


def test_metadata_of_an_unknown_model_is_not_found(door: Door):
    """The error is the one inference gives."""
    response = door.ask("GET", "/v1/models/nobody/metadata")

    assert response.status == 404
    assert response.body == error_body("Servable not found for request: Latest(nobody)")


@pytest.mark.parametrize(
    ("target", "body", "status", "message"),
    [
        ("nobody:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("nobody:predict", b"{}", 404, "Servable not found for request: Latest(nobody)"),
        (
            "half_plus_two:predict",
            b'{"signature_name": "none"}',
            400,
            'Serving signature name: \\"none\\" not found in signature def',
        ),
        ("half_plus_two:predict", b"{}", 400, "Missing 'inputs' or 'instances' key"),
        ("nobody:classify", b'{"examples": [{"x": 1}]}', 404, "Servable not found"),
        ("nobody:regress", b'{"examples": 1}', 400, "'examples' value to be an list/array"),
    ],
)
def test_errors_come_in_the_order_clients_know(
    door: Door, target: str, body: bytes, status: int, message: str
):
    """Predict reads JSON, then finds the model, then reads tensors; the others read all first."""
    response = door.ask("POST", f"/v1/models/{target}", body)

    assert response.status == status
    assert message.encode() in response.body


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.CANCELLED, 499),
        (Code.UNKNOWN, 500),
        (Code.INVALID_ARGUMENT, 400),
        (Code.DEADLINE_EXCEEDED, 504),
        (Code.NOT_FOUND, 404),
        (Code.ALREADY_EXISTS, 409),
        (Code.PERMISSION_DENIED, 403),
        (Code.RESOURCE_EXHAUSTED, 429),
        (Code.FAILED_PRECONDITION, 400),
        (Code.ABORTED, 409),
        (Code.OUT_OF_RANGE, 400),
        (Code.UNIMPLEMENTED, 501),
        (Code.INTERNAL, 500),
        (Code.UNAVAILABLE, 503),
        (Code.DATA_LOSS, 500),
        (Code.UNAUTHENTICATED, 401),
    ],
)
def test_every_code_has_its_status(door: Door, code: Code, status: int):
    """What the model says is told with its status; the message comes without the code."""
    door.core.servable.error = error_for(code, "because")

    response = door.ask("POST", PREDICT, INSTANCES)

    assert response == HttpResponse(status, error_body("because"), "application/json")


@pytest.mark.parametrize("timeout_s", [None, 1.5])
def test_time_limit_reaches_the_model(timeout_s: float | None):
    """The server's time limit is passed on as it is."""
    door = Door(timeout_s=timeout_s)

    door.ask("POST", PREDICT, INSTANCES)

    assert door.core.servable.timeouts == [timeout_s]


def test_gzip_body_is_unpacked(door: Door):
    """A compressed request is answered like a plain one; the answer is never compressed."""
    response = door.ask("POST", PREDICT, gzip.compress(INSTANCES), content_encoding="gzip")

    assert response.body == PREDICTIONS


def test_body_that_unpacks_too_far_is_told_of_once_a_while(
    door: Door, caplog: pytest.LogCaptureFixture
):
    """Each request is refused; the log, which clients shall not fill, has one line for them."""
    bomb = gzip.compress(bytes(MAX_UNPACKED_BODY_BYTES + 1), 1)

    statuses = [door.ask("POST", PREDICT, bomb, content_encoding="gzip").status for _ in range(3)]

    assert statuses == [400] * 3
    told = [each for each in caplog.messages if "unpacks to more than" in each]
    assert len(told) == 1
    assert f"refused: The gzip body of {len(bomb)} bytes unpacks" in told[0]


def test_packed_bodies_never_run_on_the_loop(door: Door):
    """The size of a packed body says nothing of the work in it, however quick the last one was."""
    for _ in range(3):
        door.ask("POST", PREDICT, gzip.compress(INSTANCES), content_encoding="gzip")

    assert door.executor.jobs == 3


def test_bad_gzip_reads_as_an_empty_document(door: Door):
    """Bytes that do not unpack are an empty body to the parser."""
    response = door.ask("POST", PREDICT, b"oops", content_encoding="gzip")

    assert response.body == error_body("JSON Parse error: The document is empty")


@pytest.mark.parametrize(
    ("origin", "status"), [("https://a.example", 200), ("http://b", 200), ("null", 400), ("", 400)]
)
@pytest.mark.parametrize("allows_cors", [False, True])
def test_preflight_is_answered_by_its_origin(allows_cors: bool, origin: str, status: int):
    """The flag adds headers but decides nothing."""
    response = Door(allows_cors=allows_cors).ask("OPTIONS", PREDICT, origin=origin)

    assert (response.status, response.body) == (status, b"")
    assert bool(response.headers) == allows_cors


def test_cors_headers_are_on_every_answer():
    """Errors have them too: a browser could not read why otherwise."""
    door = Door(allows_cors=True)

    fine, wrong = door.ask("POST", PREDICT, INSTANCES), door.ask("POST", PREDICT, b"{}")

    assert fine.headers == wrong.headers
    assert fine.headers == (
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Methods", "POST, GET"),
        ("Access-Control-Allow-Headers", "Content-Type"),
    )


def test_monitoring_page_has_its_own_path():
    """Any verb reads it; a query does not."""
    door = Door(monitoring=lambda: b"# page\n", monitoring_path="/v1/metrics")

    page, other_verb = door.ask("GET", "/v1/metrics"), door.ask("DELETE", "/v1/metrics")
    query = door.ask("GET", "/v1/metrics?a=b")

    assert page == other_verb == HttpResponse(200, b"# page\n", "text/plain")
    assert query == HttpResponse(
        400, b"Unexpected path: /v1/metrics?a=b. Should be /v1/metrics", "text/plain"
    )


def test_without_monitoring_its_path_is_any_other(door: Door):
    """The page is there only when it was asked for."""
    assert door.ask("GET", "/monitoring/prometheus/metrics").status == 404


def test_every_request_below_v1_is_counted(door: Door):
    """By model and code; what has no model counts for none, and a preflight not at all."""
    door.ask("POST", PREDICT, INSTANCES)
    door.ask("POST", PREDICT, b"{}")
    door.ask("GET", "/v1/models/half_plus_two")
    door.ask("GET", "/v1/models/nobody")
    door.ask("PUT", PREDICT)
    door.ask("GET", "/other")
    door.ask("OPTIONS", PREDICT, origin="http://a")

    assert door.metrics.request_count.values() == {
        ("half_plus_two", "OK"): 2,
        ("half_plus_two", "INVALID_ARGUMENT"): 1,
        ("nobody", "NOT_FOUND"): 1,
        ("", "INVALID_ARGUMENT"): 1,
    }


def test_only_success_has_a_latency():
    """Labelled by verb, or by nothing for what is read; in microseconds."""
    now = iter([10.0, 10.5, 20.0, 20.25, 30.0])
    door = Door(clock=lambda: next(now))

    door.ask("POST", PREDICT, INSTANCES)
    door.ask("GET", "/v1/models/half_plus_two")
    door.ask("GET", "/v1/models/nobody")

    latencies = door.metrics.request_latency.values()
    assert {labels: spread.sum for labels, spread in latencies.items()} == {
        ("half_plus_two", "predict", "REST"): 500_000.0,
        ("half_plus_two", "", "REST"): 250_000.0,
    }


def test_runs_are_measured_by_api(door: Door):
    """The model's own time counts under the name gRPC uses as well."""
    door.ask("POST", PREDICT, INSTANCES)

    assert set(door.metrics.runtime_latency.values()) == {("half_plus_two", "Predict", "TF1")}


def test_bug_leaves_as_it_is_and_counts_as_internal(door: Door):
    """What is no ServingError is for the wire to report, traceback and all."""
    door.core.servable.error = ZeroDivisionError()

    with pytest.raises(ZeroDivisionError):
        door.ask("POST", PREDICT, INSTANCES)

    assert door.metrics.request_count.values() == {("half_plus_two", "INTERNAL"): 1}


def test_request_nobody_waits_for_counts_as_cancelled(door: Door):
    """When its client is gone, the request ends without an answer but not uncounted."""

    async def give_up() -> None:
        door.executor.submit = lambda *_: Future()
        asking = asyncio.ensure_future(
            answer_of(door.api.answer(HttpRequest("POST", PREDICT, {}, INSTANCES)))
        )
        asyncio.get_running_loop().call_soon(asking.cancel)
        await asking

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(give_up())

    assert door.metrics.request_count.values() == {("half_plus_two", "CANCELLED"): 1}


def test_quick_calls_stay_on_the_loop(door: Door):
    """A kind of call once seen to be quick needs no thread; another size is another kind."""
    for _ in range(3):
        door.ask("POST", PREDICT, INSTANCES)
    same_kind = door.executor.jobs
    door.ask("POST", PREDICT, INSTANCES + b" " * 1000)

    assert (same_kind, door.executor.jobs) == (1, 2)


def test_unpredictable_model_never_runs_on_the_loop(door: Door):
    """A model whose time does not follow from its input gets a thread each time."""
    door.core.servable.predictable = False

    for _ in range(3):
        door.ask("POST", PREDICT, INSTANCES)

    assert door.executor.jobs == 3


def test_deadline_that_passes_is_a_gateway_timeout(door: Door):
    """The text is the runtime's own."""
    door.core.servable.error = DeadlineExceeded("Timed out waiting for notification")

    response = door.ask("POST", PREDICT, INSTANCES)

    assert response.status == 504
    assert response.body == error_body("Timed out waiting for notification")


@given(method=st.sampled_from(["GET", "POST", "PUT"]), path=st.text(max_size=60))
def test_no_path_breaks_the_routes(method: str, path: str):
    """Whatever is asked for, there is a route or there is no URI."""
    target = parse_target("/v1/models" + path)
    if target is None:
        return

    assert isinstance(route_of(method, target.full_path), Route)


def test_target_is_taken_apart():
    """The path loses the authority before it, and the query and fragment behind it."""
    assert parse_target("http://h:1/a/b?c#d") == Target("/a/b", "/a/b?c#d")


def test_unreadable_path_says_why():
    """The complaint is kept for the log, as the answer has no body."""
    route = route_of("GET", "/v1/models/m/versions/99999999999999999999")

    assert route.verb is Verb.UNREADABLE
    assert route.complaint == "Failed to convert version: 99999999999999999999 to numeric."


class SleepingCore(FakeCore):
    """Its model is out of memory until it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.is_awake = False
        self.demands: list[ServableId] = []

    @contextmanager
    def handle(self, spec: ModelSpec) -> Iterator[FakeHandle]:
        if not self.is_awake:
            raise Asleep("it sleeps", ServableId("half_plus_two", 123))
        with super().handle(spec) as handle:
            yield handle

    def demand(self, servable_id: ServableId) -> Future[None]:
        self.demands.append(servable_id)
        self.is_awake = True
        coming: Future[None] = Future()
        coming.set_result(None)
        return coming


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [("POST", PREDICT, INSTANCES), ("GET", "/v1/models/half_plus_two/metadata", b"")],
)
def test_a_model_that_sleeps_is_woken_for_a_request(method: str, target: str, body: bytes):
    """The answer is as if it had never slept, and counts once."""
    core = SleepingCore()
    door = Door(core, on_demand=OnDemand(core.demand))

    response = door.ask(method, target, body)

    assert response.status == 200
    assert core.demands == [ServableId("half_plus_two", 123)]
    assert door.metrics.request_count.values() == {("half_plus_two", "OK"): 1}


def test_a_known_request_wakes_its_model_as_well():
    """The short way leaves a sleeping model to the long one, and counts nothing."""
    core = SleepingCore()
    door = Door(core, on_demand=OnDemand(core.demand))
    for _ in range(5):
        door.ask("POST", PREDICT, INSTANCES)
    core.is_awake = False

    response = door.ask("POST", PREDICT, INSTANCES)

    assert (response.status, response.body) == (200, PREDICTIONS)
    assert len(core.demands) == 2
    assert door.metrics.request_count.values() == {("half_plus_two", "OK"): 6}


def test_without_waking_a_sleeping_model_is_not_found():
    """As any model that is not loaded."""
    response = Door(SleepingCore()).ask("POST", PREDICT, INSTANCES)

    assert response.status == 404
