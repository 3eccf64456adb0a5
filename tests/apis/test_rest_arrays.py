"""Large arrays straight to NumPy: only where the nesting is proved."""

import json

import numpy as np
import pytest
import simdjson
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from salver.apis.rest_arrays import find_arrays
from salver.dtypes import DType

PADDING = "x" * 1100  # short texts are declined: reading them another way is cheaper


def read(members: str, *path: str | int, dtype: DType = DType.FLOAT) -> np.ndarray | None:
    text = f'{{"padding": "{PADDING}", {members}}}'.encode()
    arrays = find_arrays(text, simdjson.Parser().parse(text))
    return None if arrays is None else arrays.read(path, dtype)


@given(
    nps.arrays(
        np.float64,
        nps.array_shapes(max_dims=4, max_side=4),
        elements=st.floats(allow_nan=False, allow_infinity=False) | st.just(3.0),
    )
)
def test_regular_arrays_are_read(array):
    """A regular array is the array that json and NumPy make of it."""
    found = read(f'"a": {json.dumps(array.tolist())}', "a", dtype=DType.DOUBLE)

    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "text",
    [
        "[[1, 2], [3]]",
        "[[1, 2], [3, 4, 5]]",
        "[[1], []]",
        "[[], [1]]",
        "[1, [2]]",
        "[[1], 2]",
        "[[[1], [2]], [[3]], [[4]]]",
        "[[1, 2], [3, null]]",
        "[true, false]",
        '["1", "2"]',
        '["[1]"]',
        "[[1, {}]]",
        "[]",
        "[[], []]",
        "3",
        '{"b": [1]}',
        "[" * 40 + "1" + "]" * 40,
        "[" + ",".join(["0"] * 1000) + ",[" + ",".join(["[]"] * 1000) + "]]",
    ],
)
def test_anything_else_is_declined(text):
    """Ragged, empty, mixed or other values are not certain, so they are left to other readers."""
    assert read(f'"a": {text}', "a") is None


@pytest.mark.parametrize(
    ("text", "dtype", "value"),
    [
        ("[1, 2.5, 3e2]", DType.FLOAT, np.float32([1, 2.5, 300])),
        ("[1e39, -1e39, 1e-50]", DType.FLOAT, np.float32([np.inf, -np.inf, 0])),
        ("[18446744073709551615, 1]", DType.DOUBLE, np.float64([2**64 - 1, 1])),
        ("[-1, 2147483647]", DType.INT32, np.int32([-1, 2**31 - 1])),
        ("[300, -1]", DType.UINT8, np.uint8([44, 255])),
        ("[40000]", DType.INT16, np.int16([-25536])),
        ("[9007199254740993]", DType.INT64, np.int64([9007199254740993])),
        ("[4294967295]", DType.UINT32, np.uint32([2**32 - 1])),
        ("[18446744073709551615]", DType.UINT64, np.uint64([2**64 - 1])),
        ("[2147483648]", DType.INT32, None),
        ("[2147483648]", DType.UINT8, None),
        ("[-1]", DType.UINT32, None),
        ("[-1]", DType.UINT64, None),
        ("[9223372036854775808]", DType.INT64, None),
        ("[1.0]", DType.INT32, None),
        ("[1e2]", DType.INT64, None),
        ("[1]", DType.BOOL, None),
        ("[1]", DType.HALF, None),
        ("[1]", DType.STRING, None),
    ],
)
def test_numbers_become_the_type_asked_for(text, dtype, value):
    """Floats overflow to infinity, narrow integers wrap, and what does not fit is declined."""
    found = read(f'"a": {text}', "a", dtype=dtype)

    if value is None:
        assert found is None
    else:
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)


def test_neighbours_do_not_matter():
    """Scalars, strings with brackets and further arrays may stand around an array."""
    found = read('"[e1": "],[0", "n": null, "t": true, "f": false, "a": [[1], [2]], "b": [3]', "a")

    np.testing.assert_array_equal(found, [[1], [2]])


def test_one_irregular_neighbour_spoils_all():
    """The proof is of the whole text."""
    assert read('"a": [1, 2], "b": [[1], 2]', "a") is None


def test_first_of_two_equal_names_is_found():
    """As everywhere, the first member of a name counts."""
    np.testing.assert_array_equal(read('"a": [1, 2], "a": [3, 4]', "a"), [1, 2])


def test_escapes_are_declined():
    """A backslash could disguise a key."""
    assert read('"\\u0061": [1, 2]', "a") is None


def test_members_of_rows_and_columns_have_paths():
    """Objects and lists of objects are looked into."""
    rows = ", ".join(f'{{"x": [{i}, 2], "s": "{PADDING}"}}' for i in range(3))

    np.testing.assert_array_equal(read(f'"rows": [{rows}]', "rows", 2, "x"), [2, 2])
    np.testing.assert_array_equal(read('"in": {"x": [1], "y": [2]}', "in", "y"), [2])
    assert read(f'"rows": [{rows}, 5]', "rows", 2, "x") is None


def test_deep_objects_and_short_texts_are_declined():
    """Neither is worth the effort."""
    short = b'{"a": [1, 2]}'

    assert read('"a": {"b": {"c": {"d": 1}}}, "x": [1]', "x") is None
    assert find_arrays(short, simdjson.Parser().parse(short)) is None


def test_crowded_object_is_declined():
    """simdjson walks an object for each key asked for: thousands of them are read another way."""
    many = ", ".join(f'"k{number}": 1' for number in range(1000))

    assert read(f'"a": [1.0], {many}', "a") is None
