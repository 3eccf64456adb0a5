"""PredictionLogs that TensorFlow Serving's own messages wrote, as requests and answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logged_requests import (
    classify_log,
    multi_inference_log,
    new_log,
    predict_log,
    regress_log,
    vector_log,
)
from salver.apis.prediction_log import (
    ClassifyLog,
    MultiInferenceLog,
    PredictLog,
    RegressLog,
    read_answer,
    read_prediction_log,
)
from salver.apis.requests import ClassifiedExample, PredictRequest
from salver.errors import InvalidArgument, Unimplemented
from salver.signature import CLASSIFY_METHOD, REGRESS_METHOD
from saved_models import serialized_example

pytest.importorskip("tensorflow_serving", reason="the messages are TensorFlow Serving's")


def test_a_predict_has_its_tensors_and_its_answer():
    """Inputs and outputs of several types come out as they went in."""
    strings = np.array([b"a", b"\xff"], object)
    record = predict_log(
        {"x": np.array([1.5, 2], np.float32), "s": strings},
        {"n": np.array([[7]], np.int64), "s": strings},
        signature_name="named",
    )

    log = read_prediction_log(record)

    assert isinstance(log, PredictLog)
    assert (log.model_name, log.request.signature_name) == ("m", "named")
    np.testing.assert_array_equal(log.request.inputs["x"], np.array([1.5, 2], np.float32))
    np.testing.assert_array_equal(log.request.inputs["s"], strings)
    answer = read_answer(log)
    assert isinstance(answer, dict)
    assert {alias: array.tolist() for alias, array in answer.items()} == {
        "n": [[7]],
        "s": [b"a", b"\xff"],
    }
    assert answer["n"].dtype == np.int64


def test_a_request_without_an_answer_has_none():
    """A warmup file has requests only."""
    log = read_prediction_log(vector_log([1]))

    assert isinstance(log, PredictLog)
    assert read_answer(log) is None


def test_a_request_may_name_no_model():
    """Warmup does not look at the model spec, so there need not be one."""
    log = read_prediction_log(vector_log([1], model=""))

    assert isinstance(log, PredictLog)
    assert (log.model_name, list(log.request.inputs)) == ("", ["x"])


def test_a_classify_has_its_examples_and_its_classes():
    """Labels are bytes, scores are floats."""
    example = serialized_example(x=[1])

    log = read_prediction_log(
        classify_log([example], [[("a", 0.5), ("b", 0.25)]], signature_name="c")
    )

    assert isinstance(log, ClassifyLog)
    assert (log.model_name, log.signature_name, log.examples) == ("m", "c", [example])
    assert read_answer(log) == [ClassifiedExample([b"a", b"b"], [0.5, 0.25])]


def test_a_regress_has_its_examples_and_its_values():
    """One value for each example."""
    examples = [serialized_example(x=[1]), serialized_example(x=[2])]

    log = read_prediction_log(regress_log(examples, [0.5, 1.5], signature_name="r"))

    assert isinstance(log, RegressLog)
    assert (log.model_name, log.signature_name, log.examples) == ("m", "r", examples)
    assert read_answer(log) == [0.5, 1.5]


def test_a_multi_inference_has_its_tasks_and_their_results():
    """One result for each task."""
    example = serialized_example(x=[1])

    log = read_prediction_log(
        multi_inference_log(
            [example], [("a", REGRESS_METHOD), ("b", CLASSIFY_METHOD)], [[0.5], [1.5]]
        )
    )

    assert isinstance(log, MultiInferenceLog)
    assert [(task.model_spec.signature_name, task.method_name) for task in log.tasks] == [
        ("a", REGRESS_METHOD),
        ("b", CLASSIFY_METHOD),
    ]
    assert (log.examples, read_answer(log)) == ([example], [[0.5], [1.5]])


@pytest.mark.parametrize(("kind", "number"), [("session_run_log", 5), ("predict_streamed_log", 7)])
def test_other_kinds_of_log_are_refused_by_number(kind: str, number: int):
    """The text is TensorFlow Serving's."""
    log = new_log()
    getattr(log, kind).SetInParent()

    with pytest.raises(Unimplemented, match=f"Unsupported log_type for warmup: {number}$"):
        read_prediction_log(log.SerializeToString())


def test_a_log_of_no_kind_is_nothing():
    """What is not there cannot be replayed, and is no error."""
    log = new_log()
    log.log_metadata.sampling_config.sampling_rate = 1.0

    assert read_prediction_log(log.SerializeToString()) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_log_or_refused(record: bytes):
    """No record can do more than be refused."""
    try:
        log = read_prediction_log(record)
        if log is not None:
            read_answer(log)
    except (InvalidArgument, Unimplemented) as error:
        assert error.message  # noqa: PT017 - either is fine


@given(st.data())
def test_a_cut_log_is_a_log_or_refused(data: st.DataObject):
    """Cut anywhere, with a byte changed anywhere."""
    whole = bytearray(vector_log([1, 2, 3], [2, 3, 4]))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))

    try:
        log = read_prediction_log(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
        if log is not None:
            read_answer(log)
    except (InvalidArgument, Unimplemented) as error:
        assert error.message  # noqa: PT017 - either is fine


def test_an_answer_that_cannot_be_read_is_refused_when_it_is_asked_for():
    """Warmup has no use for answers, so a damaged one does not hinder it."""
    log = PredictLog("m", PredictRequest({}), b"\xff")

    with pytest.raises(InvalidArgument, match="the response cannot be read"):
        read_answer(log)
