"""Rows of several calls become one batch and come back to whom they belong."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.batching.batcher import join, merge, padding_rows, rows_of, split
from salver.dtypes import DType
from salver.errors import FailedPrecondition, InvalidArgument


def array(*values: object, dtype: object = np.float32) -> np.ndarray:
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([], "Batching Run() must have at least one input tensor"),
        (
            [np.float32(1)],
            "Batching Run() input tensors must have at least one dimension",
        ),
        (
            [np.zeros(2), np.zeros(3)],
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
    ],
)
def test_what_is_no_rows_is_refused(tensors: list[np.ndarray], words: str):
    """In TensorFlow Serving's words."""
    with pytest.raises(InvalidArgument) as error:
        rows_of([np.asarray(tensor) for tensor in tensors])

    assert error.value.message == words


@pytest.mark.parametrize(
    ("rows", "allowed", "padding"),
    [(3, (), 0), (3, (2, 4, 8), 1), (4, (2, 4, 8), 0), (9, (2, 4, 8), 0), (0, (2,), 0)],
)
def test_batch_grows_to_the_next_allowed_size(rows: int, allowed: tuple[int, ...], padding: int):
    """Beyond the last one, and without any row to repeat, it stays as it is."""
    assert padding_rows(rows, allowed) == padding


def test_padding_repeats_the_first_row_of_the_last_call():
    """Which need not be its last row."""
    (merged,) = merge(["x"], [[array(1, 2)], [array(3, 4)], [array()]], padding=2)

    assert merged.tolist() == [1, 2, 3, 4, 3, 3]


def test_other_shapes_fail_the_whole_batch():
    """Unless they are to be padded, in TensorFlow Serving's words and with its code."""
    with pytest.raises(FailedPrecondition) as error:
        merge(["x:0"], [[np.zeros((1, 2))], [np.zeros((1, 3))]])

    assert error.value.message == (
        "Tensors with name 'x:0' from different tasks have different shapes and padding is turned "
        "off. Set pad_variable_length_inputs to true, or ensure that all tensors with the same "
        "name have equal dimensions starting with the first dim."
    )


def test_variable_lengths_are_padded_with_the_first_element():
    """The call's own, at the end of every dimension but the first."""
    short = np.array([[[1, 2]], [[3, 4]]], np.int32)
    long = np.array([[[5, 6, 7], [8, 9, 10]]], np.int32)

    (merged,) = merge(["x"], [[short], [long]], pads_variable_lengths=True)

    assert merged.tolist() == [
        [[1, 2, 1], [1, 1, 1]],
        [[3, 4, 1], [1, 1, 1]],
        [[5, 6, 7], [8, 9, 10]],
    ]


def test_strings_are_padded_too():
    """They are objects, and stay so."""
    short, long = array([b"a"], dtype=object), array([b"b", b"c"], dtype=object)

    (merged,) = merge(["x"], [[short], [long]], pads_variable_lengths=True)

    assert merged.dtype == object
    assert merged.tolist() == [[b"a", b"a"], [b"b", b"c"]]


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.complex64, np.bool_])
def test_types_of_all_sorts_are_padded(dtype: object):
    """Those that NumPy lacks among them."""
    tensors = [[np.ones((1, 1), dtype)], [np.zeros((1, 2), dtype)]]

    (merged,) = merge(["x"], tensors, pads_variable_lengths=True)

    assert merged.dtype == dtype
    assert merged.tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (
            np.zeros((1,) * 7),
            np.zeros((1, 2, *(1,) * 5)),
            "Only tensors with rank from 1 to 6 can be padded.",
        ),
        (
            np.zeros((1, 0)),
            np.zeros((1, 2)),
            "Got empty tensor in batch of non-empty tensors.",
        ),
        (
            np.zeros((1, 1), DType.QINT8.numpy),
            np.zeros((1, 2), DType.QINT8.numpy),
            "Unsupported type",
        ),
        (
            np.zeros((1, 1)),
            np.zeros((1, 1, 1)),
            (
                "Tensors with name 'x' from different tasks have different ranks: [2, 3]; none of "
                "them can be padded"
            ),
        ),
    ],
)
def test_what_cannot_be_padded_is_said(one: np.ndarray, other: np.ndarray, words: str):
    """In TensorFlow Serving's words, where it has some."""
    with pytest.raises(InvalidArgument) as error:
        merge(["x"], [[one], [other]], pads_variable_lengths=True)

    assert error.value.message == words


def test_output_without_dimensions_cannot_be_taken_apart():
    """In TensorFlow Serving's words and with its code."""
    with pytest.raises(FailedPrecondition) as error:
        split([np.asarray(1.0)], [1])

    assert error.value.message == "Batched output tensor has 0 dimensions"


def test_output_of_another_size_cannot_be_taken_apart():
    """Padding counts."""
    with pytest.raises(FailedPrecondition) as error:
        split([np.zeros(3)], [1, 2], padding=1)

    assert error.value.message == (
        "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes "
        "of the input tensors"
    )


def test_pieces_of_other_shapes_do_not_fit_together():
    """A call that was split into batches that were padded in different ways hears of it."""
    with pytest.raises(FailedPrecondition, match="a call was split"):
        join([[np.zeros((1, 2))], [np.zeros((1, 3))]])


SHAPES = st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 3))


@given(
    st.lists(SHAPES, min_size=1, max_size=6),
    st.sampled_from([(), (8,), (4, 16, 32)]),
    st.sampled_from([np.dtype(np.float32), np.dtype(np.int64), np.dtype(object)]),
)
def test_everybody_gets_their_own_rows_back(
    shapes: list[tuple[int, int, int]], allowed: tuple[int, ...], dtype: np.dtype
):
    """Whatever the sizes, the shapes and the padding; nobody sees the padding of rows."""
    calls = []
    for number, (rows, *others) in enumerate(shapes):
        if rows:
            values = np.full((rows, *others), number, np.int64)
            values += 100 * np.arange(rows).reshape(rows, 1, 1)
            calls.append([values.astype(dtype)])
    sizes = [len(call[0]) for call in calls]
    padding = padding_rows(sum(sizes), allowed)
    if not calls:
        return

    merged = merge(["x"], calls, padding=padding, pads_variable_lengths=True)
    answered = split(merged, sizes, padding=padding)

    assert len(merged[0]) == sum(sizes) + padding
    for (given_rows,), (own,) in zip(calls, answered, strict=True):
        rows, wide, deep = given_rows.shape
        assert own.dtype == dtype
        assert own[:, :wide, :deep].tolist() == given_rows.tolist()
        # What was added for others' lengths is the call's own first element, and nobody else's.
        assert {value % 100 for value in own.ravel().tolist()} == {
            given_rows.flat[0] % 100,
        }
        assert len(own) == rows


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_split_and_join_are_each_others_inverse(sizes: list[int]):
    """A call that was split gets its rows in their order."""
    whole = np.arange(sum(sizes))

    (joined,) = join(split([whole], sizes))

    assert joined.tolist() == whole.tolist()
