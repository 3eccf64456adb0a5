"""Arrays and strings to JSON text.

Numbers keep the fewest digits that read back to the same value of their own type, floats keep
their ``.0``, and what JSON has no word for is written as TensorFlow Serving writes it:
``NaN``, ``Infinity``, ``-Infinity``, unquoted. Strings are copied byte for byte, UTF-8 or not.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import orjson

from salver.dtypes import DType
from salver.errors import InvalidArgument

_SHORT: Final = 4096  # a text up to here gets a space behind each comma; longer ones save the time
_ESCAPED: Final = re.compile(rb'[\x00-\x1f"\\]')
_ESCAPES: Final[dict[bytes, bytes]] = {
    b'"': b'\\"',
    b"\\": b"\\\\",
    b"\b": b"\\b",
    b"\f": b"\\f",
    b"\n": b"\\n",
    b"\r": b"\\r",
    b"\t": b"\\t",
}

_NUMERIC: Final = frozenset(
    dtype.numpy
    for dtype in (
        DType.FLOAT,
        DType.DOUBLE,
        DType.INT32,
        DType.INT16,
        DType.INT8,
        DType.UINT8,
        DType.INT64,
        DType.UINT32,
        DType.UINT64,
        DType.BOOL,
    )
)


def quote(text: bytes) -> bytes:
    """A JSON string of these bytes, escaped only where it must be."""
    if _ESCAPED.search(text) is None:
        return b'"' + text + b'"'
    return b'"' + _ESCAPED.sub(_escape, text) + b'"'


def quote_base64(data: bytes) -> bytes:
    """The object that stands for bytes: ``{"b64": "…"}``."""
    return b'{"b64": "' + base64.b64encode(data) + b'"}'


def write_array(array: np.ndarray, write_string: Callable[[bytes], bytes] = quote) -> bytes:
    """The array as nested lists, a scalar as itself.

    Raises:
        InvalidArgument: JSON has no place for elements of this type.
    """
    if array.dtype in _NUMERIC and array.size:
        return _spaced(_numbers(array))
    return _nest(_leaves(array, DType.of(array.dtype), write_string), array.shape)


def write_rows(array: np.ndarray, write_string: Callable[[bytes], bytes] = quote) -> list[bytes]:
    """Each element along the first dimension as a text of its own.

    Raises:
        InvalidArgument: as ``write_array``.
    """
    if array.dtype in _NUMERIC and array.size:
        return _rows_of_numbers(_numbers(array), array.ndim)
    leaves = _leaves(array, DType.of(array.dtype), write_string)
    per_row = math.prod(array.shape[1:])
    starts = (row * per_row for row in range(array.shape[0]))
    return [_nest(leaves[start : start + per_row], array.shape[1:]) for start in starts]


def write_floats(numbers: Sequence[float]) -> list[bytes]:
    """Numbers of float precision, each as a text of its own."""
    if not len(numbers):
        return []
    return _rows_of_numbers(_numbers(np.asarray(numbers, np.float32)), 1)


def _escape(match: re.Match[bytes]) -> bytes:
    byte = match[0]
    return _ESCAPES.get(byte) or b"\\u%04X" % byte[0]


def _spaced(text: bytes) -> bytes:
    return text.replace(b",", b", ") if len(text) <= _SHORT else text


def _numbers(array: np.ndarray) -> bytes:
    rows = array
    if not (array.ndim and array.flags.c_contiguous):
        rows = np.ascontiguousarray(array)  # also lends a scalar the dimension the writer needs
    text = orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in text:
        text = _name_not_finite(text, rows)
    return text if array.ndim else text[1:-1]


def _name_not_finite(text: bytes, array: np.ndarray) -> bytes:
    """Each null of the text stands for a value of the array that is not finite, in order."""
    flat = array.ravel()
    names = [_name_of(value) for value in flat[~np.isfinite(flat)].tolist()]
    parts = text.split(b"null")
    named = [part + name for part, name in zip(parts, names, strict=False)]
    return b"".join(named) + parts[-1]


def _name_of(value: float) -> bytes:
    if math.isnan(value):
        return b"NaN"
    return b"Infinity" if value > 0 else b"-Infinity"


def _rows_of_numbers(text: bytes, rank: int) -> list[bytes]:
    """Cut the text of a whole array between the elements of its first dimension."""
    opening, closing = b"[" * (rank - 1), b"]" * (rank - 1)
    rows = text[rank:-rank].split(closing + b"," + opening)
    return [opening + _spaced(row) + closing for row in rows] if rank > 1 else rows


def _leaves(
    array: np.ndarray, dtype: DType, write_string: Callable[[bytes], bytes]
) -> Sequence[bytes]:
    if dtype is DType.STRING:
        return [write_string(element) for element in array.ravel().tolist()]
    if array.size:
        raise InvalidArgument(f"Failed to write JSON value for tensor type: {dtype.label}")
    return []


def _nest(leaves: Sequence[bytes], shape: Sequence[int]) -> bytes:
    """Fold texts into lists, the last dimension first."""
    for axis in reversed(range(len(shape))):
        size, count = shape[axis], math.prod(shape[:axis])
        groups = (leaves[index * size : (index + 1) * size] for index in range(count))
        leaves = [b"[" + b", ".join(group) + b"]" for group in groups]
    return leaves[0]
