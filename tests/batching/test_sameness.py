"""Whether calls may share a run: tried with rows of our own, and never taken on trust."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from salver.batching.sameness import NO_BATCH_DIMENSION, ROWS, TOLERANCE, verdict
from salver.dtypes import DType
from salver.errors import InvalidArgument
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
    assert found.reason == "output 'y' of a row is another with other rows beside it"


def test_a_small_number_that_mixes_is_found_out_beside_a_large_one():
    """Neighbours may not change a single bit, so nothing hides in a tolerance."""

    def mixed(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.stack([1e6 * inputs[0], inputs[0] - inputs[0].mean(axis=0)], axis=1)]

    assert not verdict(signature(), mixed).is_batchable


def test_a_batch_that_is_not_what_rows_are_alone_is_found_out():
    """Even where neighbours change nothing."""

    def sized(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [inputs[0] + np.float32(len(inputs[0]))]

    found = verdict(signature(), sized)

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
        return [1000 * inputs[0] + (len(inputs[0]) > 1)]

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
    assert found.reason == f"output 'y' has shape [{4 * ROWS}] for {ROWS} rows"


def test_the_same_answer_to_every_row_proves_nothing():
    """Rows that were swapped would look the same."""
    found = verdict(signature(), lambda inputs: [np.zeros_like(inputs[0])])

    assert (found.is_batchable, found.reason) == (
        False,
        "output 'y' is the same for different rows, which proves nothing",
    )


def test_every_output_has_to_tell_rows_apart():
    """One that does not was not tried, whatever the others say."""
    one = TensorInfo("y:0", DType.FLOAT, VECTOR)
    two = Signature(inputs=signature().inputs, outputs={"y": one, "z": one})

    found = verdict(two, lambda inputs: [inputs[0], np.zeros_like(inputs[0])])

    assert found.reason == "output 'z' is the same for different rows, which proves nothing"


def test_an_answer_that_would_fill_the_memory_is_not_compared():
    """A small input may have a large output."""
    huge = np.broadcast_to(np.float32(0), (ROWS, 1 << 24))

    found = verdict(signature(), lambda _inputs: [huge])

    assert found.reason == "output 'y' is too large to be tried"


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
