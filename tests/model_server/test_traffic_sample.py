"""What was asked of one version is asked of the next: which requests are kept, and for what."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from fakes import FakeModel, FakeModelLoader, half_plus
from salver.apis.requests import PredictRequest
from salver.core.loader import Cancellable
from salver.core.servable_id import ServableId
from salver.dtypes import DType
from salver.errors import Cancelled, InvalidArgument
from salver.inference import PredictPlan, predict, regress
from salver.metrics import Metrics
from salver.model_server.rehearsal import Candidate, Pace, RehearsingLoader
from salver.model_server.traffic_sample import MAX_KINDS, TrafficSample, kind_of
from salver.servables.servable import Servable
from salver.servables.tensorflow import TensorFlowRuntime
from salver.signature import REGRESS_METHOD, Signature, TensorInfo
from saved_models import Shelf, serialized_example


class House:
    """A sample, and versions that are loaded one after another."""

    def __init__(self, per_kind: int = 3, **bounds: int) -> None:
        self.metrics = Metrics()
        self.sample = TrafficSample(per_kind, self.metrics, **bounds)

    def serve(self, model: Servable, name: str = "m") -> Servable:
        return self.sample.loader(name, FakeModelLoader(model)).servable()

    def rehearse(self, model: Servable, name: str = "m", **pace) -> None:
        self.sample(Candidate(ServableId(name, 2), Path("/m/2"), model), Pace(**pace))

    def kept(self, name: str = "m") -> list[list[float]]:
        return [[float(x) for x in request.tensors[0]] for _, request in self.sample.requests(name)]

    def outcomes(self) -> dict[str, int]:
        return {
            outcome: count
            for (_, source, outcome), count in self.metrics.warmup_replays.values().items()
            if source == "live traffic"
        }


def ask(servable: Servable, *values: float) -> list[float]:
    inputs = {"x": np.array(values, np.float32)}
    return predict(servable, PredictRequest(inputs))["y"].tolist()


def test_what_was_answered_is_asked_of_the_next_version():
    """The same inputs and outputs, by what they are called; answers pass through untouched."""
    house = House()
    old, new = house.serve(half_plus(2)), half_plus(3)
    answers = [ask(old, 1), ask(old, 2, 4)]

    house.rehearse(new)

    assert answers == [[2.5], [3, 4]]
    assert [feeds["x:0"].tolist() for feeds, _, _ in new.runs] == [[1], [2, 4]]
    assert house.outcomes() == {"ok": 2}


def test_a_request_that_failed_is_not_kept():
    """It would fail again."""
    house = House()
    servable = house.serve(half_plus(2, errors=[InvalidArgument("no")]))

    with pytest.raises(InvalidArgument):
        ask(servable, 1)
    ask(servable, 2)

    assert house.kept() == [[2]]


def test_the_short_way_is_sampled_too():
    """A prepared run gives what it is given."""
    house = House()
    servable = house.serve(half_plus(2))
    plan = PredictPlan("serving_default", servable.signatures["serving_default"], ["x"], [])

    answer = plan.run(servable, [np.array([1], np.float32)], None)

    assert answer[0].tolist() == [2.5]
    assert house.kept() == [[1]]


def test_once_there_are_enough_one_in_many_takes_the_place_of_the_oldest():
    """The sample stays recent, and most requests pay no more than a count."""
    house = House(per_kind=2, one_in=3)
    servable = house.serve(half_plus(2))

    for x in range(12):
        ask(servable, x)

    assert house.kept() == [[7], [10]]


def test_a_kept_request_is_a_copy():
    """What a client's buffer turns into later makes no difference."""
    house = House()
    servable = house.serve(half_plus(2))
    x = np.array([1], np.float32)

    predict(servable, PredictRequest({"x": x}))
    x[0] = 9

    assert house.kept() == [[1]]


def test_each_kind_has_its_own_share():
    """A rare signature is not crowded out by a frequent one."""
    house = House(per_kind=2, one_in=1)
    servable = house.serve(two_signatures())

    predict(servable, PredictRequest({"a": np.zeros(1, np.float32)}, "rare"))
    for _ in range(10):
        predict(servable, PredictRequest({"a": np.zeros(2, np.float32)}, "frequent"))

    kinds = [kind.signature_name for kind, _ in house.sample.requests("m")]
    assert kinds == ["rare", "frequent", "frequent"]


def test_kinds_are_bounded_in_number():
    """A client chooses sets of outputs; only so many are told apart."""
    house = House()
    names = [f"y{i}" for i in range(MAX_KINDS + 5)]
    signature = Signature(
        {"x": TensorInfo("x:0", DType.FLOAT)},
        {name: TensorInfo(f"{name}:0", DType.FLOAT) for name in names},
    )
    servable = house.serve(FakeModel({"serving_default": signature}, lambda f, _: f["x:0"]))

    for name in names:
        request = PredictRequest({"x": np.zeros(1, np.float32)}, output_filter=[name])
        predict(servable, request)

    assert len(house.sample.requests("m")) == MAX_KINDS


def test_odd_kinds_do_not_shut_out_what_comes_after_them():
    """Those that were used longest ago give up their places."""
    house = House()
    names = [f"y{i}" for i in range(2 * MAX_KINDS)]
    signature = Signature(
        {"x": TensorInfo("x:0", DType.FLOAT)},
        {name: TensorInfo(f"{name}:0", DType.FLOAT) for name in [*names, "usual"]},
    )
    servable = house.serve(FakeModel({"serving_default": signature}, lambda f, _: f["x:0"]))

    for name in [*names, "usual"]:
        request = PredictRequest({"x": np.zeros(1, np.float32)}, output_filter=[name])
        predict(servable, request)

    kinds = [kind.outputs for kind, _ in house.sample.requests("m")]
    assert kinds[-1] == ("usual",)
    assert len(kinds) == MAX_KINDS


def test_kinds_of_a_version_that_is_gone_make_room():
    """What a newer version is asked takes the place of what only an older one was."""
    house = House()
    for version in range(MAX_KINDS + 2):
        signature = Signature(
            {"x": TensorInfo("x:0", DType.FLOAT)}, {"y": TensorInfo("y:0", DType.FLOAT)}
        )
        model = FakeModel({f"s{version}": signature}, lambda f, _: f["x:0"])
        request = PredictRequest({"x": np.zeros(1, np.float32)}, f"s{version}")
        predict(house.serve(model), request)

    kept = [kind.signature_name for kind, _ in house.sample.requests("m")]
    assert kept == [f"s{version}" for version in range(2, MAX_KINDS + 2)]
    assert house.sample.nbytes == 4 * MAX_KINDS


def test_a_model_has_its_share_of_bytes():
    """Old requests make room, and one that would be the whole sample is not kept at all."""
    house = House(per_kind=100, max_model_bytes=1000, one_in=1)
    servable = house.serve(half_plus(2))

    for x in range(9):
        ask(servable, *[x] * 50)
    ask(servable, *[77] * 100)

    assert [request[0] for request in house.kept()] == [4, 5, 6, 7, 8]
    assert house.sample.nbytes == 1000


def test_requests_that_find_no_room_are_not_all_copied():
    """Once the bytes are taken, one in many is kept, as where the number is."""
    house = House(per_kind=100, max_model_bytes=1000, one_in=4)
    servable = house.serve(half_plus(2))

    for x in range(11):
        ask(servable, *[x] * 50)

    assert [request[0] for request in house.kept()] == [2, 3, 4, 5, 9]


def test_all_models_together_are_bounded():
    """The model whose sample was added to longest ago loses it."""
    house = House(max_bytes=12)
    servables = {name: house.serve(half_plus(2), name) for name in "abcd"}
    ask(servables["a"], 1)
    ask(servables["b"], 1)
    ask(servables["c"], 1)
    ask(servables["a"], 2)

    assert [len(house.kept(name)) for name in "abcd"] == [2, 0, 1, 0]
    assert house.sample.nbytes == 12


def test_strings_are_counted_with_their_letters():
    """A pointer is not what a string takes."""
    signature = Signature(
        {"s": TensorInfo("s:0", DType.STRING)}, {"t": TensorInfo("t:0", DType.STRING)}
    )
    house = House()
    servable = house.serve(FakeModel({"serving_default": signature}, lambda f, _: f["s:0"]))

    predict(servable, PredictRequest({"s": np.array([b"x" * 1000], object)}))

    assert house.sample.nbytes >= 1000


def test_what_no_longer_fits_is_counted_and_fails_no_load(caplog: pytest.LogCaptureFixture):
    """A signature that is gone, inputs of another name: each is counted, one line for all."""
    caplog.set_level(logging.INFO)
    house = House()
    servable = house.serve(two_signatures())
    predict(servable, PredictRequest({"a": np.zeros(1, np.float32)}, "rare"))
    predict(servable, PredictRequest({"a": np.zeros(1, np.float32)}, "frequent"))
    renamed = FakeModel(
        {
            "frequent": Signature(
                {"b": TensorInfo("b:0", DType.FLOAT)}, {"y": TensorInfo("y:0", DType.FLOAT)}
            )
        },
        lambda f, _: f["b:0"],
    )

    house.rehearse(renamed)

    assert renamed.runs == []
    assert house.outcomes() == {"failed": 2}
    assert "2 requests, 2 of them failed, the first with FAILED_PRECONDITION" in caplog.text
    assert len(caplog.records) == 1


def test_a_model_nobody_asked_is_not_rehearsed(caplog: pytest.LogCaptureFixture):
    """There is nothing to say."""
    caplog.set_level(logging.INFO)
    house = House()
    model = half_plus(2)

    house.rehearse(model)

    assert (model.runs, caplog.records, house.outcomes()) == ([], [], {})


def test_a_withdrawn_version_is_asked_no_more():
    """Cancelled is passed on."""
    house = House()
    ask(house.serve(half_plus(2)), 1)

    with pytest.raises(Cancelled):
        house.rehearse(half_plus(3), is_cancelled=lambda: True)


def test_names_of_several_signatures_mean_no_kind():
    """A MultiInference runs what no single signature has."""
    signatures = two_signatures().signatures

    assert kind_of(signatures, ["a:0"], ["y:0"]) is not None
    assert kind_of(signatures, ["a:0"], ["y:0", "z:0"]) is None
    assert kind_of(signatures, ["other:0"], ["y:0"]) is None


def test_a_loader_around_a_loader_passes_everything_on():
    """Loading, unloading, counting and cancelling are the inner loader's."""
    house = House()
    inner = FakeModelLoader(half_plus(2))
    rehearsing = RehearsingLoader(
        inner, ServableId("m", 1), Path("/m/1"), [lambda _candidate, pace: pace.left_s()]
    )
    loader = house.sample.loader("m", rehearsing)

    loader.load()
    loader.cancel()
    loader.unload()
    house.sample.loader("m", inner).cancel()  # which cannot be cancelled

    assert isinstance(loader, Cancellable)
    assert loader.estimate_resources() == 7
    assert inner.calls == ["load", "unload"]


def test_a_sampled_servable_says_what_the_servable_says():
    """Callers see no difference."""
    model = half_plus(2)
    servable = House().serve(model)

    assert servable.signatures is model.signatures
    assert servable.signature_defs is model.signature_defs
    assert servable.predictable is model.predictable


def test_a_real_model_is_asked_what_another_was(shelf: Shelf):
    """Over TensorFlow, with serialized Examples for the regression."""
    runtime = TensorFlowRuntime()
    house = House()
    inner = runtime.loader(str(shelf.version("v1_half_plus_two")))
    inner.load()
    servable = house.sample.loader("m", inner).servable()

    regressed = regress(servable, "regress_x_to_y", [serialized_example(x=[1.0])])
    predict(servable, PredictRequest({"x": np.array([[1]], np.float32)}))
    house.rehearse(inner.servable())
    inner.unload()

    assert regressed == [2.5]
    assert house.outcomes() == {"ok": 2}


def two_signatures() -> FakeModel:
    def signature(output: str) -> Signature:
        return Signature(
            {"a": TensorInfo("a:0", DType.FLOAT)},
            {"y": TensorInfo(output, DType.FLOAT)},
            REGRESS_METHOD,
        )

    signatures = {"rare": signature("y:0"), "frequent": signature("z:0")}
    return FakeModel(signatures, lambda feeds, _fetch: feeds["a:0"])
