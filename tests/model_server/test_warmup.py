"""Warmup from the file TensorFlow Serving reads, and with zeros."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fakes import FakeClock, FakeModel, half_plus
from logged_requests import (
    WARMUP,
    classify_log,
    multi_inference_log,
    new_log,
    regress_log,
    vector_log,
    write_records,
)
from salver.core.servable_id import ServableId
from salver.dtypes import DType
from salver.errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    ServingError,
    Unimplemented,
)
from salver.metrics import Metrics
from salver.model_server.rehearsal import Candidate, Pace
from salver.model_server.replay import Replayer
from salver.model_server.warmup import MAX_RECORDS, StoredWarmup, ZerosWarmup
from salver.servables.tensorflow import TensorFlowRuntime
from salver.signature import REGRESS_METHOD, Signature, TensorInfo
from saved_models import Shelf, serialized_example

pytest.importorskip("tensorflow_serving", reason="the messages are TensorFlow Serving's")


class Stage:
    """A version folder, a warmup for it, and what was counted."""

    def __init__(self, path: Path, *, iterations: int = 1, checks: bool = False) -> None:
        self.path = path
        self.metrics = Metrics()
        self.clock = FakeClock()
        replayer = Replayer(self.metrics, check_method_name=checks)
        self.warmup = StoredWarmup(replayer, self.metrics, iterations=iterations, clock=self.clock)

    @property
    def file(self) -> Path:
        return self.path / WARMUP

    def warm(self, model: object, *, timeout_s: float = 0.0, **pace) -> None:
        candidate = Candidate(ServableId("m", 1), self.path, model)
        self.warmup(candidate, Pace(timeout_s=timeout_s, clock=self.clock, **pace))

    def fed(self, model: FakeModel) -> list[list[float]]:
        return [feeds["x:0"].tolist() for feeds, _, _ in model.runs]

    def records_read(self) -> dict[tuple[str, ...], int]:
        return self.metrics.model_warmup_records_read.values()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_every_request_is_asked_in_order(stage: Stage, caplog: pytest.LogCaptureFixture):
    """Whatever model and version they name; the log says what TensorFlow Serving's says."""
    caplog.set_level(logging.INFO)
    model = half_plus(2)
    write_records(stage.file, vector_log([1]), vector_log([2, 3], model="other"))

    stage.warm(model)

    assert stage.fed(model) == [[1], [2, 3]]
    assert f"Starting to read warmup data for model at {stage.file}" in caplog.text
    assert (
        f"Finished reading warmup data for model at {stage.file}. "
        "Number of warmup records read: 2. Elapsed time (microseconds): 0." in caplog.text
    )


def test_what_is_read_and_run_is_counted(stage: Stage):
    """Under TensorFlow Serving's names and labels; runs count as those of requests."""
    stage_model = half_plus(2, on_run=lambda: stage.clock.advance(0.002))
    write_records(stage.file, vector_log([1]), vector_log([2]))

    stage.warm(stage_model)

    labels = (str(stage.path), "OK")
    assert stage.records_read() == {labels: 2}
    assert stage.metrics.model_warmup_latency.values()[labels].sum == pytest.approx(4000)
    assert stage.metrics.runtime_latency.values()[("m", "Predict", "TF1")].count == 2
    assert stage.metrics.graph_runs.values() == {(): 2}
    assert stage.metrics.request_count.values() == {}


def test_a_version_without_a_file_is_not_warmed(stage: Stage, caplog: pytest.LogCaptureFixture):
    """It is optional, and its absence is said."""
    caplog.set_level(logging.INFO)
    model = half_plus(2)

    stage.warm(model)

    assert model.runs == []
    assert f"No warmup data file found at {stage.file}" in caplog.text
    assert stage.records_read() == {}


def test_each_request_is_asked_as_often_as_wanted(tmp_path: Path):
    """Three times the first, then three times the second; the records count once."""
    stage, model = Stage(tmp_path, iterations=3), half_plus(2)
    write_records(stage.file, vector_log([1]), vector_log([2]))

    stage.warm(model)

    assert stage.fed(model) == [[1], [1], [1], [2], [2], [2]]
    assert sum(stage.records_read().values()) == 2


@pytest.mark.parametrize("iterations", [0, -1])
def test_no_number_of_iterations_means_once(tmp_path: Path, iterations: int):
    """Zero is the flag's default."""
    stage, model = Stage(tmp_path, iterations=iterations), half_plus(2)
    write_records(stage.file, vector_log([1]))

    stage.warm(model)

    assert stage.fed(model) == [[1]]


def test_a_record_of_no_kind_is_passed_over(stage: Stage):
    """It is read, and there is nothing to ask."""
    model = half_plus(2)
    write_records(stage.file, new_log().SerializeToString(), vector_log([1]))

    stage.warm(model)

    assert stage.fed(model) == [[1]]
    assert sum(stage.records_read().values()) == 2


def test_a_thousand_records_are_enough(stage: Stage):
    """The one after them is still asked, and then the load fails."""
    model = half_plus(2)
    write_records(stage.file, *[vector_log([1])] * (MAX_RECORDS + 5))

    with pytest.raises(InvalidArgument) as raised:
        stage.warm(model)

    text = f"Number of warmup records exceeds the maximum (1000) at {stage.file}"
    assert raised.value.message == text
    assert len(model.runs) == MAX_RECORDS + 1


def test_exactly_a_thousand_records_are_in_order(stage: Stage):
    """The limit itself is allowed."""
    write_records(stage.file, *[new_log().SerializeToString()] * MAX_RECORDS)

    stage.warm(half_plus(2))

    assert stage.records_read() == {(str(stage.path), "OK"): MAX_RECORDS}


def test_what_the_model_refuses_fails_the_load(stage: Stage):
    """The error is the model's, and the metric has it."""
    write_records(stage.file, vector_log([1]), vector_log([2]))

    with pytest.raises(ResourceExhausted, match="too much"):
        stage.warm(half_plus(2, errors=[ResourceExhausted("too much")]))

    assert stage.records_read() == {(str(stage.path), "RESOURCE_EXHAUSTED: too much"): 0}


def test_what_does_not_fit_the_signature_fails_the_load(stage: Stage):
    """Warmup requests go through the checks of requests."""
    write_records(stage.file, vector_log([1], signature_name="none"))

    with pytest.raises(ServingError, match='Serving signature key "none" not found'):
        stage.warm(half_plus(2))


def test_a_record_that_is_no_log_fails_the_load(stage: Stage):
    """The text is TensorFlow Serving's, with no more of the record than can be read."""
    write_records(stage.file, b"\xff not a log " + b"x" * 5000)

    with pytest.raises(InvalidArgument) as raised:
        stage.warm(half_plus(2))

    assert raised.value.message.startswith("Failed to parse warmup record: \\xff not a log xxx")
    assert raised.value.message.endswith(f" from {stage.file}")
    assert len(raised.value.message) < 2000


@pytest.mark.parametrize(("kind", "number"), [("session_run_log", 5), ("predict_streamed_log", 7)])
def test_a_log_that_cannot_be_replayed_fails_the_load(stage: Stage, kind: str, number: int):
    """The text names the field of the kind."""
    log = new_log()
    getattr(log, kind).SetInParent()
    write_records(stage.file, log.SerializeToString())

    with pytest.raises(Unimplemented, match=f"Unsupported log_type for warmup: {number}$"):
        stage.warm(half_plus(2))


def test_a_damaged_file_fails_the_load(stage: Stage):
    """What came before the damage was asked; the text says what to look at."""
    model = half_plus(2)
    write_records(stage.file, vector_log([1]), vector_log([2]))
    stage.file.write_bytes(stage.file.read_bytes()[:-1])

    with pytest.raises(DataLoss) as raised:
        stage.warm(model)

    assert stage.fed(model) == [[1]]
    assert raised.value.message.startswith("truncated record at ")
    assert raised.value.message.endswith(". Please verify your warmup data is in TFRecord format.")


def test_a_file_that_is_no_tfrecord_fails_the_load(stage: Stage):
    """A text file, say."""
    stage.file.parent.mkdir()
    stage.file.write_text("these are no records at all")

    with pytest.raises(DataLoss, match="Is this even a TFRecord file"):
        stage.warm(half_plus(2))


def test_a_withdrawn_version_is_not_warmed_to_the_end(stage: Stage):
    """The request that runs is let finish; none follows it."""
    model = half_plus(2)
    write_records(stage.file, vector_log([1]), vector_log([2]))

    with pytest.raises(Cancelled):
        stage.warm(model, is_cancelled=lambda: bool(model.runs))

    assert stage.fed(model) == [[1]]


def test_time_that_is_up_cuts_warmup_short(stage: Stage, caplog: pytest.LogCaptureFixture):
    """What was warmed is warm; the version serves, and the log tells."""
    model = half_plus(2, on_run=lambda: stage.clock.advance(6))
    write_records(stage.file, *[vector_log([i]) for i in range(5)])

    stage.warm(model, timeout_s=10)

    assert stage.fed(model) == [[0], [1]]
    assert [timeout_s for _, _, timeout_s in model.runs] == [10, 4]
    assert "was cut short" in caplog.text
    assert list(stage.records_read().values()) == [2]


def test_a_request_that_runs_out_of_time_cuts_warmup_short(stage: Stage):
    """The run's own limit is what was left."""
    model = half_plus(
        2, on_run=lambda: stage.clock.advance(10), errors=[DeadlineExceeded("timed out")]
    )
    write_records(stage.file, vector_log([1]), vector_log([2]))

    stage.warm(model, timeout_s=10)

    assert stage.fed(model) == [[1]]


@pytest.fixture(scope="module")
def runtime() -> TensorFlowRuntime:
    return TensorFlowRuntime()


def test_all_four_verbs_warm_a_real_model(shelf: Shelf, runtime: TensorFlowRuntime, stage: Stage):
    """Predict, Classify, Regress and MultiInference over TensorFlow's own parsing of Examples."""
    example = serialized_example(x=[1.0])
    write_records(
        stage.file,
        vector_log_2d([[1.0]]),
        classify_log([example], signature_name="classify_x_to_y"),
        regress_log([example], signature_name="regress_x_to_y"),
        multi_inference_log(
            [example], [("regress_x_to_y", REGRESS_METHOD), ("regress_x_to_y2", REGRESS_METHOD)]
        ),
    )
    loader = runtime.loader(str(shelf.version("v1_half_plus_two")))
    loader.load()
    try:
        stage.warm(loader.servable())
    finally:
        loader.unload()

    assert stage.records_read() == {(str(stage.path), "OK"): 4}
    apis = {labels[1] for labels in stage.metrics.runtime_latency.values()}
    assert apis == {"Predict", "Classify", "Regress"}
    assert stage.metrics.graph_runs.values() == {(): 4}


def test_method_names_are_checked_where_requests_are(
    shelf: Shelf, runtime: TensorFlowRuntime, tmp_path: Path
):
    """With the flag a signature is asked by its own verb only."""
    stage = Stage(tmp_path, checks=True)
    example = serialized_example(x=[1.0])
    write_records(stage.file, regress_log([example], signature_name="classify_x_to_y"))
    loader = runtime.loader(str(shelf.version("v1_half_plus_two")))
    loader.load()
    try:
        with pytest.raises(InvalidArgument, match="Expected regression signature method_name"):
            stage.warm(loader.servable())
    finally:
        loader.unload()


def vector_log_2d(x: Sequence[Sequence[float]]) -> bytes:
    return vector_log(x)  # type: ignore[arg-type] # any shape


# With zeros.


def zeros(model: FakeModel, **pace) -> Metrics:
    metrics = Metrics()
    ZerosWarmup(metrics)(Candidate(ServableId("m", 1), Path("/m/1"), model), Pace(**pace))
    return metrics


def test_every_signature_with_inputs_is_asked_once_with_zeros():
    """A size that is not fixed is one, strings are empty, defaults stay; no inputs, no question."""
    signatures = {
        "a": Signature(
            {
                "x": TensorInfo("x:0", DType.FLOAT, (-1, 2)),
                "s": TensorInfo("s:0", DType.STRING, (-1,)),
                "n": TensorInfo("n:0", DType.INT64, None),
                "d": TensorInfo("d:0", DType.FLOAT, ()),
            },
            {"y": TensorInfo("y:0", DType.FLOAT), "z": TensorInfo("z:0", DType.FLOAT)},
            defaults={"d": np.array(3, np.float32)},
        ),
        "nothing": Signature({}, {"y": TensorInfo("count:0", DType.FLOAT)}),
        "resource": Signature({"r": TensorInfo("r:0", DType.RESOURCE, ())}, {}),
        "huge": Signature({"x": TensorInfo("x:0", DType.FLOAT, (1 << 40,))}, {}),
    }
    model = FakeModel(signatures, lambda _feeds, _fetch: np.zeros(1))

    metrics = zeros(model)

    [(feeds, fetches, _)] = model.runs
    assert {name: (array.dtype, array.tolist()) for name, array in feeds.items()} == {
        "x:0": (np.float32, [[0, 0]]),
        "s:0": (np.dtype(object), [b""]),
        "n:0": (np.int64, 0),
        "d:0": (np.float32, 3),
    }
    assert fetches == ["y:0", "z:0"]
    assert metrics.warmup_replays.values() == {("m", "zeros", "ok"): 1}


def test_zeros_that_make_no_sense_cost_nothing(caplog: pytest.LogCaptureFixture):
    """The failure is counted and logged."""
    caplog.set_level(logging.INFO)

    metrics = zeros(half_plus(2, errors=[InvalidArgument("no zeros, please")]))

    assert metrics.warmup_replays.values() == {("m", "zeros", "failed"): 1}
    assert "no zeros, please" in caplog.text


def test_zeros_stop_for_a_withdrawn_version():
    """Cancelled is no failure of the model."""
    with pytest.raises(Cancelled):
        zeros(half_plus(2), is_cancelled=lambda: True)
