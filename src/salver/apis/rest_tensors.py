"""JSON values to tensors, by TensorFlow Serving's rules.

A tensor is a value, or lists of lists of values that are nested equally everywhere, every value
of the kind its element type wants. Two steps: ``flatten`` proves the nesting, ``to_array`` proves
the kinds and converts. Both only answer yes or no, at the speed of C loops; when the answer is
no, ``first_error`` walks the value in TensorFlow Serving's order and says what is wrong first.

The values may come from either reader: text as ``str`` or ``bytes``, objects as ``dict`` or
``JsonObject``.
"""

from __future__ import annotations

import binascii
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np

from salver.apis.json_excerpt import excerpt, kind_of
from salver.apis.json_reader import JsonObject, Value
from salver.dtypes import DType
from salver.errors import InvalidArgument, ServingError, Unimplemented

INT32_RANGE: Final = (-(2**31), 2**31 - 1)
UINT32_RANGE: Final = (0, 2**32 - 1)
INT64_RANGE: Final = (-(2**63), 2**63 - 1)
UINT64_RANGE: Final = (0, 2**64 - 1)

# Narrow integers are held to the range of an int32, then wrapped: TensorFlow Serving does so.
INTEGER_RANGES: Final[Mapping[DType, tuple[int, int]]] = {
    DType.INT32: INT32_RANGE,
    DType.INT16: INT32_RANGE,
    DType.INT8: INT32_RANGE,
    DType.UINT8: INT32_RANGE,
    DType.INT64: INT64_RANGE,
    DType.UINT32: UINT32_RANGE,
    DType.UINT64: UINT64_RANGE,
}

_LISTS: Final = frozenset({list})
_NUMBERS: Final = frozenset({int, float})
_TEXTS: Final = frozenset({str, bytes, dict, JsonObject})


class Leaves(NamedTuple):
    """The values of an equally nested value, in order, with the sizes of the nesting."""

    values: Sequence[Any]  # values of either reader
    kinds: set[type]
    shape: tuple[int, ...]


def flatten(value: object) -> Leaves | None:
    """Unfold lists until there are none; None if two lists of one level differ in size."""
    if not isinstance(value, list):
        return Leaves([value], {type(value)}, ())
    level: list[Any] = value  # values of either reader
    shape = [len(level)]
    while True:
        kinds = set(map(type, level))
        if kinds != _LISTS:
            return Leaves(level, kinds, tuple(shape))
        sizes = set(map(len, level))
        if len(sizes) != 1:
            return None
        shape.append(sizes.pop())
        level = level[0] if len(level) == 1 else list(chain.from_iterable(level))


def to_array(leaves: Leaves, dtype: DType) -> np.ndarray | None:
    """The tensor, or None if a value is of the wrong kind, size or level."""
    if not leaves.values:
        return shaped(np.empty(0, dtype.numpy), leaves.shape)
    convert = _CONVERTERS.get(dtype)
    flat = None if convert is None else convert(leaves)
    return None if flat is None else shaped(flat, leaves.shape)


def shaped(flat: np.ndarray, shape: Sequence[int]) -> np.ndarray | None:
    """The array in this shape; None where NumPy knows no array of so many dimensions."""
    if len(shape) == 1:
        return flat
    try:
        return flat.reshape(shape)
    except ValueError:
        return None


def text_of(value: object) -> bytes | None:
    """The bytes that a string or a ``{"b64": …}`` object stands for; None if it is neither."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    encoded = _base64_of(value)
    return None if encoded is None else decode_base64(encoded)


def is_base64(value: object) -> bool:
    """Whether the value is an object with one key ``b64`` that holds a string."""
    return _base64_of(value) is not None


def decode_base64(text: bytes) -> bytes | None:
    """Standard alphabet; padding may be missing or dots; white space does not count."""
    try:
        data = binascii.a2b_base64(text)
    except binascii.Error:
        data = None
    padding = len(text) - len(text.rstrip(b"="))
    if data is not None and len(text) % 4 == 0 and len(data) == len(text) // 4 * 3 - padding:
        return data  # not a byte was skipped, so each was of the alphabet
    return _decode_loose_base64(text.translate(None, b" \t\n\v\f\r"))


def first_error(value: Value, dtype: DType) -> ServingError | None:
    """What is wrong with the value as a tensor, first in the order of the text."""
    shape = shape_of(value)
    levels: list[Iterator[Value]] = [iter((value,))]
    while levels:
        level = len(levels) - 1
        for item in levels[-1]:
            if type(item) is list:
                error = _list_error(item, level, shape)
                levels.append(iter(item))
            else:
                error = _leaf_error(item, level, len(shape), dtype)
            if error is not None:
                return error
            if type(item) is list:
                break
        else:
            levels.pop()
    return None


def shape_of(value: Value) -> tuple[int, ...]:
    """The sizes along the first elements."""
    shape = []
    while type(value) is list:
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _base64_of(value: object) -> bytes | None:
    encoded: object = None
    if isinstance(value, JsonObject) and len(value) == 1 and b"b64" in value:
        encoded = value[b"b64"]
    elif isinstance(value, dict) and len(value) == 1:
        encoded = value.get("b64")
    if isinstance(encoded, str):
        return encoded.encode()
    return encoded if isinstance(encoded, bytes) else None


_LOOSE_BASE64: Final = re.compile(rb"([A-Za-z0-9+/]*)([=.]*)")


def _decode_loose_base64(text: bytes) -> bytes | None:
    match = _LOOSE_BASE64.fullmatch(text)
    if match is None:
        return None
    wanted = -len(match[1]) % 4
    if wanted == 3 or len(match[2]) not in {0, wanted}:
        return None
    return binascii.a2b_base64(match[1] + b"=" * wanted)


def _list_error(items: list[Value], level: int, shape: Sequence[int]) -> ServingError | None:
    if level >= len(shape):
        return InvalidArgument(
            f"Encountered list at unexpected level: {level} expected < {len(shape)}"
        )
    if len(items) != shape[level]:
        return InvalidArgument(
            f"Encountered list at unexpected size: {len(items)} at level: {level}"
            f" expected size: {shape[level]}"
        )
    return None


def _leaf_error(value: Value, level: int, rank: int, dtype: DType) -> ServingError | None:
    if level != rank:
        return InvalidArgument(
            f"JSON Value: {excerpt(value)} found at incorrect level: {level + 1}"
            f" in the JSON DOM. Expected at level: {rank}"
        )
    if isinstance(value, JsonObject) and dtype is DType.STRING:
        return _base64_error(value)
    if not isinstance(value, JsonObject) and dtype not in _CONVERTERS:
        return Unimplemented(f"Conversion of JSON Value: {excerpt(value)} to type: {dtype.label}")
    if _is_of(value, dtype):
        return None
    return InvalidArgument(
        f"JSON Value: {excerpt(value)} Type: {kind_of(value)}"
        f" is not of expected type: {dtype.label}"
    )


def _base64_error(value: JsonObject) -> ServingError | None:
    encoded = _base64_of(value)
    if encoded is None:
        return InvalidArgument(
            f"JSON Value: {excerpt(value)} not formatted correctly for base64 data"
        )
    if decode_base64(encoded) is None:
        return InvalidArgument("Unable to base64 decode")
    return None


def _is_of(value: Value, dtype: DType) -> bool:
    if dtype in (DType.FLOAT, DType.DOUBLE):
        return type(value) in _NUMBERS
    if dtype is DType.BOOL:
        return type(value) is bool
    if dtype is DType.STRING:
        return type(value) is bytes
    if type(value) is not int or dtype not in INTEGER_RANGES:
        return False
    low, high = INTEGER_RANGES[dtype]
    return low <= value <= high


def _floats(leaves: Leaves) -> np.ndarray | None:
    """``array`` narrows silently; NumPy would warn of each number that becomes infinite."""
    if not leaves.kinds <= _NUMBERS:
        return None
    return np.frombuffer(array("f", leaves.values), np.float32)


def _doubles(leaves: Leaves) -> np.ndarray | None:
    if not leaves.kinds <= _NUMBERS:
        return None
    return np.array(leaves.values, np.float64)


def _booleans(leaves: Leaves) -> np.ndarray | None:
    if leaves.kinds != {bool}:
        return None
    return np.array(leaves.values, np.bool_)


def _strings(leaves: Leaves) -> np.ndarray | None:
    if not leaves.kinds <= _TEXTS:
        return None
    texts = [text_of(value) for value in leaves.values]
    return None if None in texts else np.array(texts, object)


def _integers(dtype: DType) -> Callable[[Leaves], np.ndarray | None]:
    low, high = INTEGER_RANGES[dtype]
    wide = np.uint64 if dtype is DType.UINT64 else np.int64

    def convert(leaves: Leaves) -> np.ndarray | None:
        if leaves.kinds != {int} or min(leaves.values) < low or max(leaves.values) > high:
            return None
        return np.array(leaves.values, wide).astype(dtype.numpy, copy=False)

    return convert


_CONVERTERS: Final[Mapping[DType, Callable[[Leaves], np.ndarray | None]]] = {
    DType.FLOAT: _floats,
    DType.DOUBLE: _doubles,
    DType.BOOL: _booleans,
    DType.STRING: _strings,
    **{dtype: _integers(dtype) for dtype in INTEGER_RANGES},
}
