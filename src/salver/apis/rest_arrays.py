"""Large regular arrays of numbers, from JSON text to NumPy without an object per number.

simdjson can pour all numbers below an array into one buffer, which says nothing of how they were
nested. So the nesting is proved apart: take from the text every byte that numbers and white
space are made of, and what is left, the outline, must be byte for byte the outline of a document
whose arrays are all nested as their first elements are. Then the count of the numbers must be
the product of the sizes: an empty list and a list of one number share their outline.

Why equal outlines prove equal nesting: everything outside arrays is known from the parsed
document and written into the expected outline; inside, the expected outline holds only brackets
and commas, and a balanced run of brackets ends in one place. Escapes could disguise a key, so a
text with a backslash is declined.

The vow: what is returned is certainly right. None means "read it the long way", never "wrong".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import simdjson

from salver.apis.rest_tensors import INTEGER_RANGES, shaped
from salver.dtypes import DType

Path: TypeAlias = tuple[str | int, ...]

_NUMBER_BYTES: Final = b"0123456789+-.eE \t\r\n"
_WORTHWHILE: Final = 1024  # bytes of text; below, an object per number is cheaper than the proof
ROW_WORTHWHILE: Final = 1024  # bytes of text per row that is an object
_MOST_DIMENSIONS: Final = 32
_MOST_KEYS: Final = 256  # simdjson finds a key by walking all before it
_DEEPEST_OBJECT: Final = 3  # the document, a row or the inputs, a base64 object


class Arrays:
    """The arrays of one document, with the proof that each is nested as its shape says."""

    __slots__ = ("_found",)

    def __init__(self, found: Mapping[Path, tuple[Any, tuple[int, ...]]]) -> None:
        self._found = found  # simdjson has no types of its own: its arrays are Any

    def read(self, path: Path, dtype: DType) -> np.ndarray | None:
        """The array at ``path`` as a tensor, None where that is not certain."""
        array, shape = self._found.get(path, (None, (0,)))
        size = math.prod(shape)
        if not size or dtype not in _READERS:
            return None
        of_type, wide = _READERS[dtype]
        try:
            numbers = np.frombuffer(array.as_buffer(of_type=of_type), wide)
        except (TypeError, ValueError, RuntimeError):  # a value of another kind, or out of range
            return None
        if len(numbers) != size:
            return None
        narrow = _narrowed(numbers, dtype)
        return None if narrow is None else shaped(narrow, shape)


def find_arrays(text: bytes, document: Any) -> Arrays | None:
    """Every array of a parsed document (a ``simdjson.Object``), if all are regular numbers."""
    if len(text) < _WORTHWHILE or b"\\" in text:
        return None
    outline = text.translate(None, _NUMBER_BYTES)
    expected = _Outline(len(text), len(outline))
    if not expected.add_object(document, ()) or expected.text() != outline:
        return None
    return Arrays(expected.found)


_READERS: Final[Mapping[DType, tuple[str, type[np.generic]]]] = {
    DType.FLOAT: ("d", np.float64),
    DType.DOUBLE: ("d", np.float64),
    **dict.fromkeys(INTEGER_RANGES, ("i", np.int64)),
    DType.UINT64: ("u", np.uint64),
}


def _narrowed(numbers: np.ndarray, dtype: DType) -> np.ndarray | None:
    if dtype is DType.FLOAT:
        with np.errstate(over="ignore"):  # too big for a float is infinity, not a warning
            return numbers.astype(np.float32)
    if dtype in INTEGER_RANGES:
        low, high = INTEGER_RANGES[dtype]
        if numbers.min() < low or numbers.max() > high:
            return None
    return numbers.astype(dtype.numpy, copy=False)


class _Outline:
    """Builds the outline a document must have. Each ``add`` says whether it could be told."""

    __slots__ = ("_limit", "_pieces", "_text_size", "found")

    def __init__(self, text_size: int, limit: int) -> None:
        self.found: dict[Path, tuple[Any, tuple[int, ...]]] = {}
        self._pieces: list[bytes] = []
        self._text_size = text_size
        self._limit = limit

    def text(self) -> bytes:
        return b"".join(self._pieces)

    def add_object(self, value: Any, path: Path) -> bool:
        if len(path) >= _DEEPEST_OBJECT or len(value) > _MOST_KEYS:
            return False
        self._pieces.append(b"{")
        for index, key in enumerate(value.keys()):  # items() would build every list below
            separator = b"," if index else b""
            self._pieces.append(separator + _outline_of_text(key) + b":")
            if not self._add(value[key], (*path, key)):
                return False
        self._pieces.append(b"}")
        return True

    def _add(self, value: Any, path: Path) -> bool:
        if isinstance(value, simdjson.Array):
            return self._add_array(value, path)
        if isinstance(value, simdjson.Object):
            return self.add_object(value, path)
        self._pieces.append(_outline_of_scalar(value))
        return True

    def _add_array(self, value: Any, path: Path) -> bool:
        if len(value) and isinstance(value[0], simdjson.Object):
            return self._add_rows(value, path)
        shape = _shape_along_first_elements(value)
        if len(shape) > _MOST_DIMENSIONS or _outline_size(shape) > self._limit:
            return False
        self._pieces.append(_outline_of_shape(shape))
        self.found[path] = (value, shape)
        return True

    def _add_rows(self, rows: Any, path: Path) -> bool:
        if len(rows) * ROW_WORTHWHILE > self._text_size:
            return False
        self._pieces.append(b"[")
        for index, row in enumerate(rows):
            self._pieces.append(b"," if index else b"")
            if not isinstance(row, simdjson.Object) or not self.add_object(row, (*path, index)):
                return False
        self._pieces.append(b"]")
        return True


def _shape_along_first_elements(value: Any) -> tuple[int, ...]:
    shape: list[int] = []
    while isinstance(value, simdjson.Array) and len(shape) <= _MOST_DIMENSIONS:
        shape.append(len(value))
        if not shape[-1]:
            break
        value = value[0]
    return tuple(shape)


def _outline_size(shape: Sequence[int]) -> int:
    """The size of ``_outline_of_shape``, without building it: the sizes are the client's."""
    size = 0
    for dimension in reversed(shape):
        size = 2 + dimension * size + max(dimension - 1, 0)
    return size


def _outline_of_shape(shape: Sequence[int]) -> bytes:
    outline = b""
    for dimension in reversed(shape):
        repeated = (outline + b",") * (dimension - 1) + outline if dimension else b""
        outline = b"[" + repeated + b"]"
    return outline


def _outline_of_scalar(value: str | float | bool | None) -> bytes:
    if isinstance(value, str):
        return _outline_of_text(value)
    if value is None:
        return b"null"
    if isinstance(value, bool):
        return b"tru" if value else b"fals"  # an e is a byte of numbers
    return b""


def _outline_of_text(text: str) -> bytes:
    return b'"' + text.encode().translate(None, _NUMBER_BYTES) + b'"'
