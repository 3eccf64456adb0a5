"""Small Predict bodies that are plainly right, read in one go.

For a few numbers the careful readings cost more than the model.  Here orjson reads the text, and
the little that it hides is made sure of: of two equal keys it keeps the last, where TensorFlow
Serving keeps the first or refuses.  So quotation marks are counted: every key and every text that
was found accounts for two; one more, and something was hidden, or escaped.

The vow: what is returned is what ``read_predict`` returns.  None means "read it the long way",
never "wrong".
"""

from __future__ import annotations

from array import array
from typing import Any, Final

import numpy as np
import orjson

from salver.apis.rest_tensors import flatten, is_base64, to_array
from salver.dtypes import DType
from salver.signature import Signature

MAX_BYTES: Final = 2048
"""Of a small body: beyond it, an object per number costs more than to read without."""

_MARKS: Final = 2
"""Quotation marks of a key, and of a text."""
_BASE64_MARKS: Final = 2 * _MARKS

_FLOAT_KINDS: Final = (frozenset({float}), frozenset({int}), frozenset({int, float}))
_FLOAT32: Final = np.dtype(np.float32)

_Found = tuple[list[np.ndarray], int]
"""Tensors, and the quotation marks in the text that they were made of."""


def read_small(text: bytes) -> dict[str, Any] | None:  # Any: JSON
    """The members of a small JSON object; None for any other text, and where it is not certain."""
    if len(text) > MAX_BYTES:
        return None
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return members if type(members) is dict else None


def small_signature_name(members: dict[str, Any]) -> str | None:
    """The signature that is asked for, empty for the default one; None if it is no text."""
    name = members.get("signature_name", "")
    return name if type(name) is str else None


class SmallReader:
    """Reads the small bodies that are meant for one signature; on any thread."""

    __slots__ = ("_dtypes", "_names", "_only")

    def __init__(self, signature: Signature) -> None:
        self._dtypes = {name: info.dtype for name, info in signature.inputs.items()}
        self._names = self._dtypes.keys()
        self._only = next(iter(self._dtypes.values())) if len(self._dtypes) == 1 else None

    def read(self, text: bytes, members: dict[str, Any]) -> tuple[list[np.ndarray], bool] | None:
        """The tensors in the order of the signature's inputs, and whether the format is by row."""
        if "instances" in members:
            row_format, found = True, self._rows(members["instances"])
        elif "inputs" in members:
            row_format, found = False, self._columns(members["inputs"])
        else:
            return None
        if found is None:
            return None
        tensors, marks = found
        marks += _MARKS
        if len(members) > 1:
            if len(members) > 2 or "signature_name" not in members:
                return None
            marks += 2 * _MARKS
        return (tensors, row_format) if text.count(b'"') == marks else None

    def _rows(self, rows: Any) -> _Found | None:
        if type(rows) is not list or not rows:
            return None
        if type(rows[0]) is not dict or is_base64(rows[0]):
            return self._single(rows)
        names = self._names
        for row in rows:
            if type(row) is not dict or row.keys() != names or is_base64(row):
                return None
        columns = {name: [row[name] for row in rows] for name in names}
        return self._named(columns, len(rows))

    def _columns(self, columns: Any) -> _Found | None:
        if type(columns) is not dict or is_base64(columns):
            return self._single(columns)
        return self._named(columns, 1) if columns.keys() == self._names else None

    def _single(self, value: Any) -> _Found | None:
        """The one tensor of a body that names none."""
        found = None if self._only is None else _tensor(value, self._only)
        return None if found is None else ([found[0]], found[1])

    def _named(self, columns: dict[str, Any], times: int) -> _Found | None:
        """Several tensors, each of whose names stands so many times in the text."""
        tensors: list[np.ndarray] = []
        marks = _MARKS * len(columns) * times
        for name, dtype in self._dtypes.items():
            found = _tensor(columns[name], dtype)
            if found is None:
                return None
            tensors.append(found[0])
            marks += found[1]
        return tensors, marks


def _tensor(value: Any, dtype: DType) -> tuple[np.ndarray, int] | None:
    if dtype is DType.FLOAT and type(value) is list and set(map(type, value)) in _FLOAT_KINDS:
        return np.frombuffer(array("f", value), _FLOAT32), 0  # by far the most frequent
    leaves = flatten(value)
    tensor = None if leaves is None else to_array(leaves, dtype)
    if leaves is None or tensor is None:
        return None
    if dtype is not DType.STRING:
        return tensor, 0
    return tensor, sum(_MARKS if type(leaf) is str else _BASE64_MARKS for leaf in leaves.values)
