"""Golden requests: which answers a version must give, and what is said of one that does not."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeModel, half_plus
from logged_requests import (
    GOLDEN,
    TOLERANCE,
    classify_log,
    multi_inference_log,
    new_log,
    regress_log,
    vector_log,
    write_records,
)
from salver.core.servable_id import ServableId
from salver.errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
)
from salver.metrics import Metrics
from salver.model_server.golden import (
    Allowance,
    GoldenRequests,
    Tolerance,
    difference,
    read_tolerance,
)
from salver.model_server.rehearsal import Candidate, Pace
from salver.model_server.replay import Replayer
from salver.servables.tensorflow import TensorFlowRuntime
from salver.signature import REGRESS_METHOD
from saved_models import Shelf, serialized_example

pytest.importorskip("tensorflow_serving", reason="the messages are TensorFlow Serving's")

EXACTLY = Allowance(0, 0)


def check(path: Path, model: object, **pace) -> Metrics:
    metrics = Metrics()
    golden = GoldenRequests(Replayer(metrics), metrics)
    golden(Candidate(ServableId("m", 1), path, model), Pace(**pace))
    return metrics


def test_a_version_that_answers_them_may_serve(tmp_path: Path):
    """Every one is asked and counted."""
    write_records(tmp_path / GOLDEN, vector_log([1], [2.5]), vector_log([2, 4], [3, 4]))
    model = half_plus(2)

    metrics = check(tmp_path, model)

    assert len(model.runs) == 2
    assert metrics.golden_requests.values() == {("m", "ok"): 2}


def test_a_version_without_any_may_serve(tmp_path: Path):
    """There is nothing to miss."""
    model = half_plus(2)

    check(tmp_path, model)

    assert model.runs == []


def test_an_answer_that_misses_says_which_and_by_how_much(tmp_path: Path):
    """Record, output, place, both values, the difference, what is allowed, and how many miss."""
    path = write_records(
        tmp_path / GOLDEN, vector_log([1], [2.5]), vector_log([2, 4, 8], [3, 5, 6.25])
    )

    with pytest.raises(FailedPrecondition) as raised:
        check(tmp_path, half_plus(2))

    assert raised.value.message == (
        f"golden request 2 of {path}: output 'y' is 4 at [1]; expected: 5. It is off by 1, and "
        "atol 1e-05 + rtol 0.0001 allows 0.00051; so are 2 of 3 numbers"
    )


def test_the_first_miss_ends_it(tmp_path: Path):
    """A version that is wrong need not be asked more."""
    write_records(tmp_path / GOLDEN, vector_log([1], [0]), vector_log([2], [3]))
    model = half_plus(2)

    with pytest.raises(FailedPrecondition, match="golden request 1"):
        check(tmp_path, model)

    assert len(model.runs) == 1


def test_what_the_model_refuses_is_a_miss(tmp_path: Path):
    """The code is the model's, and the text says which request it was."""
    write_records(tmp_path / GOLDEN, vector_log([1], [2.5]))

    with pytest.raises(ResourceExhausted, match=r"golden request 1 of .*: too much"):
        check(tmp_path, half_plus(2, errors=[ResourceExhausted("too much")]))


@pytest.mark.parametrize("record", ["no answer", "nothing", "no log"])
def test_a_record_without_request_and_answer_is_refused(tmp_path: Path, record: str):
    """A golden request that says nothing would prove nothing."""
    records = {
        "no answer": vector_log([1]),
        "nothing": new_log().SerializeToString(),
        "no log": b"\xff",
    }
    write_records(tmp_path / GOLDEN, vector_log([1], [2.5]), records[record])

    with pytest.raises(InvalidArgument, match="golden request 2 of "):
        check(tmp_path, half_plus(2))


def test_a_damaged_file_is_refused(tmp_path: Path):
    """What is cut off might have been missed."""
    path = write_records(tmp_path / GOLDEN, vector_log([1], [2.5]), vector_log([1], [2.5]))
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(DataLoss, match=f"golden request 2 of {path}: truncated record at "):
        check(tmp_path, half_plus(2))


def test_an_empty_file_is_refused(tmp_path: Path):
    """So is what a failed copy often leaves."""
    write_records(tmp_path / GOLDEN)

    with pytest.raises(DataLoss, match="the file is empty"):
        check(tmp_path, half_plus(2))


def test_time_that_is_up_is_a_miss(tmp_path: Path):
    """A version that could not be asked has not answered."""
    write_records(tmp_path / GOLDEN, vector_log([1], [2.5]))
    times = iter([0.0, 20.0, 20.0, 20.0])

    with pytest.raises(DeadlineExceeded, match="golden request 1 of "):
        check(tmp_path, half_plus(2), timeout_s=10, clock=lambda: next(times))


def test_a_withdrawn_version_is_cancelled_and_has_missed_nothing(tmp_path: Path):
    """Its end says why it ended."""
    write_records(tmp_path / GOLDEN, vector_log([1], [2.5]))

    with pytest.raises(Cancelled, match="CANCELLED: Loading of servable"):
        check(tmp_path, half_plus(2), is_cancelled=lambda: True)


def test_an_output_more_is_no_miss_and_one_less_is(tmp_path: Path):
    """A new version may answer more than the file knows."""
    write_records(tmp_path / GOLDEN, vector_log([1], [2.5]))
    more = half_plus(2)
    more.signatures["serving_default"].outputs["z"] = more.signatures["serving_default"].outputs[
        "y"
    ]
    less = half_plus(2)
    less.signatures["serving_default"].outputs.pop("y")

    check(tmp_path, more)
    with pytest.raises(FailedPrecondition, match="output 'y' is missing"):
        check(tmp_path, less)


# Tolerance.


def test_a_tolerance_is_for_all_or_for_one_output(tmp_path: Path):
    """What an output does not say for itself it has from all."""
    path = tmp_path / "tolerance.json"
    path.write_text('{"rtol": 0.5, "outputs": {"y": {"atol": 2}}}')

    tolerance = read_tolerance(path)

    assert tolerance.of("x") == Allowance(0.5, 1e-5)
    assert tolerance.of("y") == Allowance(0.5, 2)
    assert read_tolerance(None) == Tolerance(Allowance(1e-4, 1e-5))


def test_a_tolerance_beside_the_requests_holds(tmp_path: Path):
    """With it an answer passes that would miss."""
    write_records(tmp_path / GOLDEN, vector_log([1], [2.4]))
    (tmp_path / TOLERANCE).write_text('{"outputs": {"y": {"atol": 0.2}}}')

    check(tmp_path, half_plus(2))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "nonsense",
        '{"rtol": "1"}',
        '{"rtol": true}',
        '{"rtol": -1}',
        '{"rtol": NaN}',
        '{"atol": Infinity}',
        '{"tolerance": 1}',
        '{"outputs": 3}',
        '{"outputs": {"y": 3}}',
        '{"outputs": {"y": {"rtoll": 3}}}',
        "[" * 100_000,
        '{"rtol": "' + "x" * (1 << 20) + '"}',
        "\udcff",
    ],
)
def test_a_tolerance_that_is_none_is_refused(tmp_path: Path, text: str):
    """The text shows what one looks like."""
    path = tmp_path / "tolerance.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(InvalidArgument, match=r'is no tolerance such as {"rtol": 1e-4'):
        read_tolerance(path)


@given(st.text(max_size=60))
def test_any_text_is_a_tolerance_or_refused(tmp_path_factory, text: str):
    """No file can do more than be refused."""
    path = tmp_path_factory.getbasetemp() / "any_tolerance.json"
    path.write_text(text, encoding="utf-8")
    try:
        read_tolerance(path)
    except InvalidArgument as error:
        assert str(path) in error.message  # noqa: PT017 - either is fine


# How answers compare.

BFLOAT16 = ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("expected", "found", "allowance", "miss"),
    [
        (np.float32([1, 2]), np.float32([1, 2]), EXACTLY, None),
        (np.float32([1, 2]), np.float32([1, 2 + 1e-6]), EXACTLY, "off by 9.53674e-07"),
        (np.float32([100]), np.float32([109]), Allowance(0.1, 0), None),
        (np.float32([100]), np.float32([111]), Allowance(0.1, 0), "off by 11"),
        (np.float32([0]), np.float32([0.1]), Allowance(0.1, 0.11), None),
        (np.float32([np.nan]), np.float32([np.nan]), EXACTLY, None),
        (np.float32([np.nan]), np.float32([1]), Allowance(9, 9), "is 1 at [0]; expected: nan"),
        (np.float32([1]), np.float32([np.nan]), Allowance(9, 9), "is nan at [0]; expected: 1"),
        (np.float32([np.inf]), np.float32([np.inf]), EXACTLY, None),
        (np.float32([np.inf]), np.float32([-np.inf]), Allowance(9, 9), "expected: inf"),
        (np.float32([np.inf]), np.float32([1]), Allowance(9, 9), "is 1 at [0]; expected: inf"),
        (np.float64([[1, 2], [3, 4]]), np.float64([[1, 2], [3, 9]]), EXACTLY, "at [1, 1]"),
        (np.float16([1]), np.float16([1.1]), Allowance(0, 0.2), None),
        (np.array([1], BFLOAT16), np.array([1.1], BFLOAT16), Allowance(0, 0.2), None),
        (np.complex64([1 + 1j]), np.complex64([1 + 2j]), Allowance(0, 1.5), None),
        (np.complex64([1 + 1j]), np.complex64([1 + 3j]), Allowance(0, 1.5), "off by 2"),
        (np.float32(3), np.float32(4), EXACTLY, "at []"),
        (np.float32([]), np.float32([]), EXACTLY, None),
        (np.int64([1, 2]), np.int64([1, 2]), EXACTLY, None),
        (np.int64([1, 2]), np.int64([1, 3]), Allowance(9, 9), "is 3 at [1]; expected: 2"),
        (np.bool_([True]), np.bool_([False]), Allowance(9, 9), "1 of 1 values differ"),
        (np.array([b"a"], object), np.array([b"a"], object), EXACTLY, None),
        (np.array([b"a"], object), np.array([b"b"], object), EXACTLY, "is b'b' at [0]"),
        (np.float32([1]), np.float64([1]), EXACTLY, "is of type double; expected: float"),
        (np.float32([1]), np.float32([[1]]), EXACTLY, "has the shape [1, 1]; expected: [1]"),
        (np.float32([1]), None, EXACTLY, "is missing"),
    ],
)
def test_answers_compare(expected, found, allowance: Allowance, miss: str | None):
    """Numbers within the allowance, all else exactly."""
    expected = np.asarray(expected)
    found = None if found is None else np.asarray(found)

    text = difference("y", expected, found, allowance)

    assert text is None if miss is None else miss in (text or "")


def test_a_long_value_is_shown_in_part():
    """A status is read by people."""
    text = difference(
        "y", np.array([b"a" * 10_000], object), np.array([b"b" * 10_000], object), EXACTLY
    )

    assert text is not None
    assert len(text) < 600


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=8),
    st.lists(st.floats(width=32), min_size=1, max_size=8),
    st.floats(0, 10),
    st.floats(0, 10),
)
def test_numbers_compare_as_numpy_compares_them(expected, found, rtol: float, atol: float):
    """For finite and other numbers alike."""
    size = min(len(expected), len(found))
    wanted, got = np.float32(expected[:size]), np.float32(found[:size])

    text = difference("y", wanted, got, Allowance(rtol, atol))

    with np.errstate(all="ignore"):
        close = np.allclose(
            got.astype(np.float64), wanted.astype(np.float64), rtol, atol, equal_nan=True
        )
    assert (text is None) == close


# Answers of the other verbs, by a real model.


@pytest.fixture(scope="module")
def half_plus_two(shelf: Shelf):
    loader = TensorFlowRuntime().loader(str(shelf.version("v1_half_plus_two")))
    loader.load()
    yield loader.servable()
    loader.unload()


def test_classify_regress_and_multi_inference_compare(tmp_path: Path, half_plus_two: FakeModel):
    """Each verb's own answer, right to the label."""
    example = serialized_example(x=[1.0])
    tasks = [("regress_x_to_y", REGRESS_METHOD), ("regress_x_to_y2", REGRESS_METHOD)]
    write_records(
        tmp_path / GOLDEN,
        classify_log([example], [[("", 2.5)]], signature_name="classify_x_to_y"),
        regress_log([example, example], [2.5, 2.5], signature_name="regress_x_to_y"),
        multi_inference_log([example], tasks, [[2.5], [3.5]]),
    )

    metrics = check(tmp_path, half_plus_two)

    assert metrics.golden_requests.values() == {("m", "ok"): 3}


@pytest.mark.parametrize(
    ("record", "miss"),
    [
        ("score", "output 'scores' is 2.5 at [0, 0]; expected: 2.6"),
        ("label", "output 'classes' is b'' at [0, 0]; expected: b'yes'"),
        ("classes", "output 'classes' has the shape [1, 1]; expected: [1, 2]"),
        ("regression", "output 'outputs' is 2.5 at [1]; expected: 9"),
        ("task", "output '1/outputs' is 3.5 at [0]; expected: 3"),
        ("count", "output 'outputs' has the shape [2]; expected: [1]"),
    ],
)
def test_misses_of_the_other_verbs_have_names(
    tmp_path: Path, half_plus_two: FakeModel, record: str, miss: str
):
    """Classes and scores, outputs, and those of a task by its number."""
    example = serialized_example(x=[1.0])
    tasks = [("regress_x_to_y", REGRESS_METHOD), ("regress_x_to_y2", REGRESS_METHOD)]
    classify = "classify_x_to_y"
    records = {
        "score": classify_log([example], [[("", 2.6)]], signature_name=classify),
        "label": classify_log([example], [[("yes", 2.5)]], signature_name=classify),
        "classes": classify_log([example], [[("", 2.5), ("", 1)]], signature_name=classify),
        "regression": regress_log([example] * 2, [2.5, 9], signature_name="regress_x_to_y"),
        "task": multi_inference_log([example], tasks, [[2.5], [3]]),
        "count": regress_log([example] * 2, [2.5], signature_name="regress_x_to_y"),
    }
    write_records(tmp_path / GOLDEN, records[record])

    with pytest.raises(FailedPrecondition) as raised:
        check(tmp_path, half_plus_two)

    assert miss in raised.value.message
