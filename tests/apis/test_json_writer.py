"""Arrays and strings to JSON text."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from salver.apis.json_writer import quote, quote_base64, write_array, write_floats, write_rows
from salver.errors import InvalidArgument

NUMERIC = [np.float32, np.float64, np.int32, np.int16, np.int8, np.uint8, np.int64, np.uint32]
NUMERIC += [np.uint64, np.bool_]


@st.composite
def numeric_arrays(draw, min_dims=0):
    dtype = draw(st.sampled_from(NUMERIC))
    shapes = nps.array_shapes(min_dims=min_dims, max_dims=4, min_side=0, max_side=4)
    return draw(nps.arrays(dtype, draw(shapes)))


def read_back(text: bytes, like: np.ndarray) -> np.ndarray:
    return np.array(json.loads(text), dtype=like.dtype).reshape(like.shape)


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal bit for bit, but that one NaN is as good as another."""
    if left.dtype.kind == "f":
        nans = np.isnan(left)
        if (nans != np.isnan(right)).any():
            return False
        left, right = np.where(nans, 0, left), np.where(nans, 0, right)
    return left.tobytes() == right.tobytes()


@given(numeric_arrays())
def test_numbers_read_back_to_the_same_bits(array):
    """Written numbers, parsed again in their own type, are the numbers written."""
    assert same(read_back(write_array(array), array), array)


@given(numeric_arrays(min_dims=1))
def test_rows_are_the_array_cut_along_its_first_dimension(array):
    """One text per row, each reading back to that row."""
    rows = write_rows(array)

    assert len(rows) == len(array)
    assert all(same(read_back(text, row), row) for text, row in zip(rows, array, strict=True))


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.float32(2.5), b"2.5"),
        (np.float32([1, 0.1, -0.0]), b"[1.0, 0.1, -0.0]"),
        (np.float64([np.nan, np.inf, -np.inf, 1]), b"[NaN, Infinity, -Infinity, 1.0]"),
        (np.float32(np.nan), b"NaN"),
        (np.int64([[1], [-2]]), b"[[1], [-2]]"),
        (np.uint64(2**64 - 1), b"18446744073709551615"),
        (np.bool_([True, False]), b"[true, false]"),
        (np.zeros((2, 0, 3), np.float32), b"[[], []]"),
        (np.zeros((0,), np.float16), b"[]"),
        (np.array([[b"a", b"\xff"], [b'"', b""]], object), b'[["a", "\xff"], ["\\"", ""]]'),
        (np.array(b"x", object), b'"x"'),
        (np.asfortranarray(np.int32([[1, 2], [3, 4]])), b"[[1, 2], [3, 4]]"),
    ],
)
def test_writes(array, text):
    """Scalars stand bare, floats keep their point, what JSON lacks is named."""
    assert write_array(np.asarray(array)) == text


def test_long_arrays_save_their_spaces():
    """A long text is written without spaces, to the same values."""
    array = np.arange(5000)

    assert b" " not in write_array(array)
    assert json.loads(write_array(array)) == array.tolist()


@pytest.mark.parametrize(
    ("dtype", "label"),
    [
        (np.float16, "half"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (np.uint16, "uint16"),
        (np.complex64, "complex64"),
    ],
)
def test_types_without_json_are_refused(dtype, label):
    """TensorFlow Serving writes ten types; any other is an invalid argument."""
    with pytest.raises(InvalidArgument) as caught:
        write_array(np.ones(1, dtype))

    assert caught.value.message == f"Failed to write JSON value for tensor type: {label}"


@given(st.text())
def test_quoted_text_reads_back(text):
    """Any text, quoted, is a JSON string of the same text."""
    quoted = quote(text.encode("utf-8", "surrogatepass"))

    assert json.loads(quoted.decode("utf-8", "surrogatepass")) == text


def test_escapes_as_rapidjson_does():
    """Short escapes where JSON has them, upper-case hex elsewhere, no more than needed."""
    assert quote(b'\b\f\n\r\t"\\/\x00\x1b\x7f\xc3\xa9\xff') == (
        b'"\\b\\f\\n\\r\\t\\"\\\\/\\u0000\\u001B\x7f\xc3\xa9\xff"'
    )


def test_base64_objects_are_padded():
    """Bytes become an object with one key."""
    assert json.loads(quote_base64(b"\xff")) == {"b64": "/w=="}


def test_strings_can_be_written_otherwise():
    """The caller says how a string is written, in arrays and in rows."""
    array = np.array([[b"a"], [b"b"]], object)

    assert json.loads(write_array(array, quote_base64)) == [[{"b64": "YQ=="}], [{"b64": "Yg=="}]]
    assert [json.loads(row) for row in write_rows(array, quote_base64)] == [
        [{"b64": "YQ=="}],
        [{"b64": "Yg=="}],
    ]


def test_floats_are_written_in_float_precision():
    """A Python float that came from a float32 keeps no noise digits."""
    assert write_floats([float(np.float32(0.1)), np.nan]) == [b"0.1", b"NaN"]
    assert write_floats([]) == []
