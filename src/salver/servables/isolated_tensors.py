"""Tensors as bytes, for another process of the same machine.

A small tensor lies in the message itself; a large one lies in memory that both processes map, and
the message says where.  Whoever reads may not trust what was written, for a process that is about
to crash may write anything: each number is checked before it is used, and nothing is ever
unpickled.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from salver.dtypes import DType, numpy_dtypes
from salver.errors import DataLoss, InvalidArgument

Memory: TypeAlias = bytes | bytearray | memoryview

MAX_RANK: Final = 254
"""TensorFlow's TensorShape holds no more dimensions."""

_HEAD: Final = struct.Struct("<BBB5xQQ")
"""Element type, rank, place, bytes of the values, and where they begin if they are not here."""

_HERE, _SHARED = 0, 1

_ALIGNMENT: Final = 8
_SHARED_ALIGNMENT: Final = 64

_NUMPY: Final = numpy_dtypes()
_NUMBERS: Final = {dtype: number for number, dtype in _NUMPY.items()}
_STRING: Final = int(DType.STRING)
_PADDING: Final = tuple(bytes(count) for count in range(_ALIGNMENT))


@dataclass(frozen=True, slots=True)
class Packed:
    """Tensors made ready to go: what lies in the message, and what is to lie in shared memory."""

    body: bytes
    shared: Sequence[tuple[int, np.ndarray]] = ()
    shared_bytes: int = 0

    def write_shared(self, memory: Memory) -> None:
        """Copy each large tensor to its place in ``memory``, which has ``shared_bytes``."""
        for start, array in self.shared:
            place: np.ndarray = np.ndarray(array.shape, array.dtype, memory, start)
            place[...] = array


def pack(tensors: Sequence[np.ndarray], *, shared_from: float = math.inf) -> Packed:
    """Pack tensors; those of ``shared_from`` bytes and more go to shared memory.

    Strings always lie in the message: they have to be gathered anyway.

    Raises:
        InvalidArgument: TensorFlow has no such element type, or an item is not ``bytes``.
    """
    parts: list[bytes] = []
    shared: list[tuple[int, np.ndarray]] = []
    shared_bytes = 0
    for array in tensors:
        number = _NUMBERS.get(array.dtype) or int(DType.of(array.dtype))
        place = start = 0
        values = b""
        if number == _STRING:
            values = _pack_strings(array)
            size = len(values)
        elif (size := array.nbytes) >= shared_from:
            place, start = _SHARED, shared_bytes
            shared.append((start, array))
            shared_bytes += size + -size % _SHARED_ALIGNMENT
        else:
            values = array.tobytes()
        parts.append(_HEAD.pack(number, array.ndim, place, size, start))
        parts.append(struct.pack(f"<{array.ndim}Q", *array.shape))
        parts.append(values)
        parts.append(_PADDING[-len(values) % _ALIGNMENT])
    return Packed(b"".join(parts), shared, shared_bytes)


def unpack(
    body: Memory, count: int, shared: Memory = b"", *, copy: bool = True
) -> list[np.ndarray]:
    """The ``count`` tensors that fill ``body``, and which may look into it.

    What lies in ``shared`` is copied out, unless ``copy`` is off, because it may be written again.

    Raises:
        DataLoss: the bytes are no such tensors.
    """
    tensors: list[np.ndarray] = []
    at = 0
    for _ in range(count):
        array, at = _unpack_one(body, at, shared, copy=copy)
        tensors.append(array)
    if at != len(body):
        raise DataLoss(f"{count} tensors end at byte {at} of a message of {len(body)}")
    return tensors


def _unpack_one(body: Memory, at: int, shared: Memory, *, copy: bool) -> tuple[np.ndarray, int]:
    if at + _HEAD.size > len(body):
        raise DataLoss("a message is cut off in the head of a tensor")
    number, rank, place, size, start = _HEAD.unpack_from(body, at)
    at += _HEAD.size
    dtype = _NUMPY.get(number)
    if dtype is None or rank > MAX_RANK or place > _SHARED:
        raise DataLoss(f"no tensor has type {number}, rank {rank} and place {place}")
    if at + 8 * rank > len(body):
        raise DataLoss("a message is cut off in the shape of a tensor")
    shape: tuple[int, ...] = struct.unpack_from(f"<{rank}Q", body, at)
    at += 8 * rank
    if place == _SHARED:
        array = _values(dtype, shape, shared, start, size)
        return (array.copy() if copy else array), at
    if number == _STRING:
        array = _unpack_strings(body, at, size, shape)
    else:
        array = _values(dtype, shape, body, at, size)
    return array, at + size + -size % _ALIGNMENT


def _values(
    dtype: np.dtype, shape: tuple[int, ...], memory: Memory, start: int, size: int
) -> np.ndarray:
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != size or start + size > len(memory):
        raise DataLoss(
            f"a tensor of {dtype} and shape {shape} does not lie in {size} bytes "
            f"from byte {start} of {len(memory)}"
        )
    try:
        array: np.ndarray = np.ndarray(shape, dtype, memory, start)
    except (ValueError, OverflowError) as error:  # a zero hides dimensions beyond all bounds
        raise DataLoss(f"no tensor has the shape {shape}: {error}") from error
    return array


def _pack_strings(array: np.ndarray) -> bytes:
    items = [_bytes_of(item) for item in array.reshape(-1).tolist()]
    return struct.pack(f"<{len(items)}Q", *map(len, items)) + b"".join(items)


def _bytes_of(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    raise InvalidArgument(f"a string tensor holds bytes or str, not {type(item).__name__}")


def _unpack_strings(body: Memory, at: int, size: int, shape: tuple[int, ...]) -> np.ndarray:
    count = math.prod(shape)
    if at + size > len(body) or 8 * count > size:
        raise DataLoss(f"{count} strings do not lie in {size} bytes from byte {at} of {len(body)}")
    lengths = struct.unpack_from(f"<{count}Q", body, at)
    if 8 * count + sum(lengths) != size:
        raise DataLoss(f"{count} strings do not fill {size} bytes")
    position = at + 8 * count
    strings = []
    for length in lengths:
        strings.append(bytes(body[position : position + length]))
        position += length
    try:
        array = np.empty(shape, object)
    except (ValueError, OverflowError) as error:
        raise DataLoss(f"no tensor has the shape {shape}: {error}") from error
    array.reshape(-1)[:] = strings
    return array
