"""Whether calls may share a run: tried with rows of our own, and never taken on trust."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from salver.batching.sameness import NO_BATCH_DIMENSION, ROWS, TOLERANCE, verdict
from salver.dtypes import DType
from salver.errors import Cancelled, DeadlineExceeded, InvalidArgument
from salver.signature import Signature, TensorInfo

Model = Callable[[Sequence[np.ndarray]], list[np.ndarray]]

VECTOR = (-1, 4)


def signature(
    dtype: DType = DType.FLOAT,
    shape: tuple[int, ...] | None = VECTOR,
    out: tuple[int, ...] | None = VECTOR,
) -> Signature:
    return Signature(
        inputs={"x": TensorInfo("x:0", dtype, shape)},
        outputs={"y": TensorInfo("y:0", DType.FLOAT, out)},
    )


def doubled(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each row by itself, and exactly."""
    return [2 * inputs[0]]


def test_a_model_that_keeps_its_rows_apart_is_batched():
    """The same bits in a batch and alone."""
    found = verdict(signature(), doubled)

    assert found.is_batchable
    assert found.reason == "answers are the same in a batch and alone"


def test_a_sum_over_the_batch_is_found_out():
    """What a row gets must not depend on its neighbours."""
    found = verdict(signature(), lambda inputs: [inputs[0] - inputs[0].mean(axis=0)])

    assert not found.is_batchable
    assert "output 'y' of a row is another in a batch than alone" in found.reason


def test_a_random_number_is_found_out():
    """Nobody could say which answer is right."""
    random = np.random.default_rng(1)

    found = verdict(signature(), lambda inputs: [random.random(inputs[0].shape)])

    assert not found.is_batchable


def test_another_order_of_additions_is_within_the_tolerance():
    """As a matrix product of several rows has; the verdict says how much it was."""

    def product(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [inputs[0] * np.float32(1 + TOLERANCE / 10 * (len(inputs[0]) > 1))]

    found = verdict(signature(), product)

    assert found.is_batchable
    assert "differ by 1e-06 of the largest value at most" in found.reason


def test_whole_numbers_have_no_tolerance():
    """A class is another class."""

    def classes(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.int64(1000) * inputs[0].astype(np.int64) + (len(inputs[0]) > 1)]

    assert not verdict(signature(DType.INT64), classes).is_batchable


@pytest.mark.parametrize(
    ("shape", "out"), [((4,), VECTOR), (VECTOR, (4,)), (None, VECTOR), (VECTOR, None), ((), VECTOR)]
)
def test_a_signature_has_to_declare_its_batch_dimension(
    shape: tuple[int, ...] | None, out: tuple[int, ...] | None
):
    """In every input and output; nothing is run to find out."""
    runs: list[object] = []

    found = verdict(signature(shape=shape, out=out), lambda inputs: runs.append(inputs) or [])

    assert (found.is_batchable, found.reason, runs) == (False, NO_BATCH_DIMENSION, [])


def test_a_signature_without_inputs_is_not_batched():
    """There is no row to tell apart."""
    nothing = Signature(inputs={}, outputs=signature().outputs)

    assert verdict(nothing, doubled).reason == NO_BATCH_DIMENSION


def test_strings_cannot_be_made_up():
    """A graph would want images or Examples, and who knows which."""
    found = verdict(signature(DType.STRING), doubled)

    assert (found.is_batchable, found.reason) == (
        False,
        "rows of STRING for input 'x' cannot be made up",
    )


def test_an_output_that_loses_its_rows_is_found_out():
    """The declared dimension was another."""
    found = verdict(signature(), lambda inputs: [inputs[0].reshape(-1)])

    assert not found.is_batchable
    assert found.reason == f"output 'y' has [{4 * ROWS}] for {ROWS} rows and [4] for one"


def test_the_same_answer_to_every_row_proves_nothing():
    """Rows that were swapped would look the same."""
    found = verdict(signature(), lambda inputs: [np.zeros_like(inputs[0])])

    assert (found.is_batchable, found.reason) == (
        False,
        "it gave the same answer to different rows, which proves nothing",
    )


def test_answers_that_are_no_numbers_prove_nothing():
    """Where every row is NaN there is nothing to compare."""

    def nothing(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.full_like(inputs[0], np.nan)]

    assert not verdict(signature(), nothing).is_batchable


def test_open_dimensions_are_tried_in_several_sizes():
    """A convolution may want more than a few pixels."""

    def picky(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if inputs[0].shape[1] < 64:
            raise InvalidArgument("too small")
        return [inputs[0].sum(axis=(1, 2))[:, None] * np.ones((1, 4))]

    assert verdict(signature(shape=(-1, -1, -1)), picky).is_batchable


def test_a_model_that_refuses_made_up_rows_is_not_batched():
    """The verdict quotes the first line of what it said."""

    def refuse(_inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise InvalidArgument("indices[0] = 1 is not in [0, 1)\n\t [[node]]")

    assert verdict(signature(), refuse).reason == (
        "rows that were made up to try it are refused: indices[0] = 1 is not in [0, 1)"
    )


def test_rows_that_would_fill_the_memory_are_not_made_up():
    """An input may declare any size."""
    found = verdict(signature(shape=(-1, 1 << 28)), doubled)

    assert found.reason == "rows that were made up to try it are too large"


@pytest.mark.parametrize("error", [Cancelled("withdrawn"), DeadlineExceeded("no time")])
def test_an_end_of_the_load_is_no_verdict(error: Exception):
    """Whoever loads the version has to hear of it."""

    def run(_inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise error

    with pytest.raises(type(error)):
        verdict(signature(), run)


@pytest.mark.parametrize(
    "dtype", [DType.FLOAT, DType.BFLOAT16, DType.INT32, DType.BOOL, DType.HALF]
)
def test_numbers_of_every_kind_can_be_made_up(dtype: DType):
    """They come in the type that the signature declares."""
    seen: list[np.dtype] = []

    def note(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        seen.append(inputs[0].dtype)
        return [inputs[0].astype(np.float32)]

    verdict(signature(dtype), note)

    assert set(seen) == {dtype.numpy}
