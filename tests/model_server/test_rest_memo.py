"""The short way through the REST door: the same answers, and never a stale one."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import answer_of
from salver.apis.requests import ModelSpec, VersionStatus
from salver.core.servable_id import ServableId
from salver.core.serving_map import ServableHandle, ServingMap
from salver.dtypes import DType
from salver.errors import InvalidArgument, Unavailable
from salver.metrics import Metrics
from salver.model_server.placement import Placement
from salver.model_server.rest_api import RestApi
from salver.model_server.rest_memo import MAX_PREDICTS, MAX_TARGETS
from salver.model_server.thread_time import ThreadTime
from salver.servables.servable import PreparedRun
from salver.signature import REGRESS_METHOD, Signature, TensorInfo
from salver.wire.http1_messages import HttpRequest, HttpResponse

MODEL = "half_plus_two"
PREDICT = f"/v1/models/{MODEL}:predict"
STABLE = f"/v1/models/{MODEL}/labels/stable:predict"
INSTANCES = b'{"instances":[1.0,2.0,5.0]}'
BY_NAME = b'{"instances":[{"x":1.0},{"x":2.0},{"x":5.0}]}'
PREDICTIONS = b'{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'


class Halving:
    """Answers x / 2 + ``plus``; notes which runs came the short way."""

    predictable = True
    signature_defs: Mapping[str, bytes] = {}

    def __init__(self, plus: float = 2, alias: str = "x", dtype: DType = DType.FLOAT) -> None:
        inputs = {alias: TensorInfo("x:0", dtype)}
        outputs = {"y": TensorInfo("y:0", DType.FLOAT)}
        self.signatures: Mapping[str, Signature] = {
            "serving_default": Signature(inputs, outputs),
            "other": Signature(inputs, outputs),
            "regress": Signature(inputs, outputs, REGRESS_METHOD),
        }
        self.plus = plus
        self.short_runs = 0
        self.error: Exception | None = None
        self.shape: tuple[int, ...] | None = None

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        if self.error is not None:
            raise self.error
        answer = (feeds["x:0"] / 2 + self.plus).astype(np.float32)
        return [answer if self.shape is None else answer.reshape(self.shape)] * len(fetches)

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        def run(tensors: Sequence[np.ndarray], timeout_s: float | None) -> list[np.ndarray]:
            self.short_runs += 1
            return self.run(dict(zip(feeds, tensors, strict=True)), fetches, timeout_s=timeout_s)

        return run


class MapCore:
    """A core over a real serving map, with labels that can move."""

    def __init__(self) -> None:
        self.map: ServingMap[Halving] = ServingMap()
        self.labels: dict[str, int] = {}

    def handle(self, spec: ModelSpec) -> ServableHandle[Halving]:
        version = spec.version
        if spec.version_label is not None:
            version = self.labels.get(spec.version_label)
            if version is None:
                raise InvalidArgument(f"Unrecognized servable version label: {spec.version_label}")
        if version is None:
            return self.map.latest(spec.name)
        return self.map.specific(spec.name, version)

    def is_predictable(self, spec: ModelSpec) -> bool:
        with self.handle(spec) as handle:
            return handle.servable.predictable

    def version_statuses(self, name: str, version: int | None) -> list[VersionStatus]:
        return []


class InlineExecutor(Executor):
    """Runs each job at once."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 -- as an executor does
            future.set_exception(error)
        return future


class Door:
    """A RestApi on models that come and go; every call is quick on its clock."""

    def __init__(self, **options) -> None:
        self.core = MapCore()
        self.metrics = Metrics()
        placement = Placement(
            InlineExecutor(), clock=lambda: 0.0, thread_clock=lambda: ThreadTime(0.0, 0)
        )
        self.api = RestApi(self.core, self.metrics, placement, **options)

    def load(self, version: int, servable: Halving) -> Halving:
        self.core.map.insert(ServableId(MODEL, version), servable)
        return servable

    def unload(self, version: int) -> None:
        self.core.map.remove(ServableId(MODEL, version), lambda: None)

    def ask(self, body: bytes, target: str = PREDICT, **headers: str) -> HttpResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return asyncio.run(answer_of(self.api.answer(HttpRequest("POST", target, named, body))))

    def ask_the_long_way(self, body: bytes, target: str = PREDICT) -> HttpResponse:
        """The coding of a packed body keeps it from the short way; this one packs nothing."""
        return self.ask(body, target, content_encoding="identity")


@pytest.fixture
def door() -> Door:
    return Door()


def test_second_request_takes_the_short_way(door: Door):
    """What was answered once is known, and answered at once, without a coroutine."""
    servable = door.load(1, Halving())
    first = door.ask(INSTANCES)

    second = door.api.answer(HttpRequest("POST", PREDICT, {}, INSTANCES))

    assert first == second == HttpResponse(200, PREDICTIONS, "application/json")
    assert servable.short_runs == 1


def test_short_way_counts_like_the_long_one(door: Door):
    """A request is counted, and its latency and run time observed, however it was answered."""
    door.load(1, Halving())

    for _ in range(3):
        door.ask(INSTANCES)

    assert door.metrics.request_count.values() == {(MODEL, "OK"): 3}
    latency = door.metrics.request_latency.values()
    assert latency[MODEL, "predict", "REST"].count == 3
    assert door.metrics.runtime_latency.values()[MODEL, "Predict", "TF1"].count == 3


@pytest.mark.parametrize(
    "body",
    [
        BY_NAME,
        b'{"signature_name": "other", "instances": [1.0, 2.0, 5.0]}',
        b'{"signature_name": "serving_default", "instances": [1.0, 2.0, 5.0]}',
        b'{"instances": [[1.0, 2.0, 5.0]]}',
        b'{"inputs": {"x": [1, 2, 5]}}',
        b'{"inputs": 1}',
    ],
)
def test_every_plain_layout_has_a_short_way(door: Door, body: bytes):
    """By row or by column, named or not: the answer is the same as the first one."""
    servable = door.load(1, Halving())
    first = door.ask(body)

    second = door.ask(body)

    assert (first, servable.short_runs) == (second, 1)


def test_new_version_answers_from_its_first_request(door: Door):
    """A known target means the latest version, whichever that is by now."""
    door.load(1, Halving(plus=2))
    old = [door.ask(INSTANCES).body for _ in range(2)]
    newer = door.load(2, Halving(plus=100))

    new = [door.ask(INSTANCES).body for _ in range(2)]

    assert old == [PREDICTIONS] * 2
    assert new == [b'{\n    "predictions": [100.5, 101.0, 102.5\n    ]\n}'] * 2
    assert newer.short_runs == 1


def test_new_version_checks_requests_anew(door: Door):
    """What the old version's signature allowed, the new one's may refuse."""
    door.load(1, Halving())
    fine = [door.ask(BY_NAME).status for _ in range(2)]
    door.load(2, Halving(alias="z"))

    refused = [door.ask(BY_NAME) for _ in range(2)]

    assert fine == [200, 200]
    assert refused == [door.ask_the_long_way(BY_NAME)] * 2
    assert b"does not have named input: x" in refused[0].body


def test_new_version_reads_numbers_as_its_own_type(door: Door):
    """The element type belongs to the version, too."""
    door.load(1, Halving())
    fine = [door.ask(INSTANCES).status for _ in range(2)]
    door.load(2, Halving(dtype=DType.INT32))

    refused = door.ask(INSTANCES)

    assert fine == [200, 200]
    assert b"is not of expected type: int32" in refused.body


def test_unloaded_model_is_not_found(door: Door):
    """Nothing that is remembered keeps a model alive in the eyes of clients."""
    door.load(1, Halving())
    fine = [door.ask(INSTANCES).status for _ in range(2)]
    door.unload(1)

    gone = door.ask(INSTANCES)

    assert fine == [200, 200]
    assert gone.status == 404
    assert gone == door.ask_the_long_way(INSTANCES)
    assert door.metrics.request_count.values()[MODEL, "NOT_FOUND"] == 2


def test_moved_label_means_its_new_version(door: Door):
    """A label is looked up by each request."""
    door.load(1, Halving(plus=2))
    door.load(2, Halving(plus=100))
    door.core.labels["stable"] = 2
    before = [door.ask(INSTANCES, STABLE).body for _ in range(2)]
    door.core.labels["stable"] = 1

    after = [door.ask(INSTANCES, STABLE).body for _ in range(2)]
    door.core.labels.clear()
    gone = door.ask(INSTANCES, STABLE)

    assert b"100.5" in before[0]
    assert before[0] == before[1]
    assert after == [PREDICTIONS] * 2
    assert (gone.status, b"Unrecognized servable version label: stable" in gone.body) == (400, True)


def test_answer_follows_the_shape_of_the_outputs(door: Door):
    """How the last answer was written says nothing of this one."""
    servable = door.load(1, Halving())
    door.ask(INSTANCES)
    answers = []

    for shape in ((3, 1), (1, 3), (3,)):
        servable.shape = shape
        answers.append(door.ask(INSTANCES))

    assert [answer.body for answer in answers] == [
        b'{\n    "predictions": [[2.5], [3.0], [4.5]\n    ]\n}',
        b'{\n    "predictions": [[2.5, 3.0, 4.5]\n    ]\n}',
        PREDICTIONS,
    ]


def test_output_without_rows_is_the_same_error(door: Door):
    """A scalar cannot be cut into rows, on the short way either."""
    servable = door.load(1, Halving())
    one = b'{"instances":[1.0]}'
    door.ask(one)
    servable.shape = ()

    short = door.ask(one)

    assert short == door.ask_the_long_way(one)
    assert b"Tensor name: y has no shape information" in short.body


def test_failing_run_is_told_like_any_other(door: Door):
    """The runtime's error keeps its status and text, and is counted by its code."""
    servable = door.load(1, Halving())
    door.ask(INSTANCES)
    servable.error = Unavailable("not now")

    short = door.ask(INSTANCES)

    assert (short.status, servable.short_runs) == (503, 1)
    assert short == door.ask_the_long_way(INSTANCES)
    assert door.metrics.request_count.values() == {(MODEL, "OK"): 1, (MODEL, "UNAVAILABLE"): 2}


def test_bug_on_the_short_way_leaves_as_it_is(door: Door):
    """What is no ServingError is for the wire to report, and counts as internal."""
    servable = door.load(1, Halving())
    door.ask(INSTANCES)
    servable.error = ZeroDivisionError()

    with pytest.raises(ZeroDivisionError):
        door.ask(INSTANCES)

    assert door.metrics.request_count.values() == {(MODEL, "OK"): 1, (MODEL, "INTERNAL"): 1}


def test_refused_signature_is_never_learned():
    """With the check of method names on, what it refuses it refuses every time."""
    door = Door(check_method_name=True)
    servable = door.load(1, Halving())
    for signature in servable.signatures.values():
        object.__setattr__(signature, "method_name", "something/else")

    refused = [door.ask(INSTANCES) for _ in range(3)]

    assert {answer.status for answer in refused} == {500}
    assert servable.short_runs == 0


def test_unpredictable_model_has_no_short_way(door: Door):
    """A run that may take any time stays away from the loop."""
    servable = door.load(1, Halving())
    servable.predictable = False

    answers = [door.ask(INSTANCES) for _ in range(3)]

    assert {answer.body for answer in answers} == {PREDICTIONS}
    assert servable.short_runs == 0


def test_packed_body_has_no_short_way(door: Door):
    """Its bytes are not JSON, and its size says nothing."""
    servable = door.load(1, Halving())

    for _ in range(3):
        door.ask_the_long_way(INSTANCES)

    assert servable.short_runs == 0


def test_memory_has_an_end(door: Door):
    """Clients that make up targets make it start over, and the one that stays is learned again."""
    servable = door.load(1, Halving())
    door.ask(INSTANCES)

    for zeros in range(1, MAX_TARGETS + 2):
        door.ask(INSTANCES, f"/v1/models/{MODEL}/versions/{'0' * zeros}1:predict")
    forgotten = servable.short_runs
    door.ask(INSTANCES)
    door.ask(INSTANCES)

    assert (forgotten, servable.short_runs) == (0, 1)


def test_nothing_holds_on_to_a_version_that_has_ended(door: Door):
    """Whoever does not ask again keeps no version in memory; another target is not forgotten."""
    door.core.labels["stable"] = 1
    gone, stays = weakref.ref(door.load(1, Halving())), door.load(2, Halving())
    for target in (STABLE, PREDICT):
        door.ask(INSTANCES, target)
        door.ask(INSTANCES, target)
    door.unload(1)

    door.api.forget(ServableId(MODEL, 1))
    gc.collect()
    door.ask(INSTANCES)

    assert gone() is None
    assert stays.short_runs == 2


def test_signatures_are_remembered_up_to_a_point(door: Door):
    """Many signatures at one target push each other out, and all are answered."""
    servable = door.load(1, Halving())
    signature = servable.signatures["other"]
    names = [f"s{number}" for number in range(MAX_PREDICTS + 1)]
    servable.signatures = {**servable.signatures, **dict.fromkeys(names, signature)}

    answers = [
        door.ask(b'{"signature_name":"%b","instances":[1.0]}' % name.encode())
        for name in (*names, names[0], names[0])
    ]

    assert {answer.status for answer in answers} == {200}
    assert servable.short_runs == 1


NUMBERS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**40), 2**40).map(str),
    st.sampled_from(["NaN", "1e999", "1e39", "true", "null", '"a"', "[]", "{}"]),
)
LISTS = st.lists(NUMBERS, max_size=4).map(lambda found: "[" + ",".join(found) + "]")
ROWS = st.lists(NUMBERS, max_size=3).map(
    lambda found: "[" + ",".join(f'{{"x":{number}}}' for number in found) + "]"
)
TENSORS = st.one_of(LISTS, ROWS, st.lists(LISTS, max_size=3).map(lambda x: f"[{','.join(x)}]"))
MEMBERS = st.one_of(
    st.tuples(st.sampled_from(['"instances"', '"inputs"']), TENSORS),
    st.tuples(st.just('"inputs"'), LISTS.map('{{"x":{}}}'.format)),
    st.tuples(
        st.just('"signature_name"'),
        st.sampled_from(['"other"', '""', '"regress"', '"none"', "1"]),
    ),
)
BODIES = st.lists(MEMBERS, max_size=3).map(
    lambda found: ("{" + ", ".join(map(": ".join, found)) + "}").encode()
)


@given(bodies=st.lists(BODIES, min_size=1, max_size=6))
def test_both_ways_give_the_same_answer(bodies: list[bytes]):
    """Whatever is asked in whatever order, memory changes no byte and no count."""
    short, long = Door(), Door()
    for door in (short, long):
        door.load(1, Halving())
    short.ask(INSTANCES)
    long.ask_the_long_way(INSTANCES)

    for body in bodies * 2:
        assert short.ask(body) == long.ask_the_long_way(body)

    assert short.metrics.request_count.values() == long.metrics.request_count.values()
