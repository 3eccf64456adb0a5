"""TensorProto to array and back.

Reading follows TensorFlow's ``Tensor::FromProto``: ``tensor_content`` wins over the typed field; a
field with fewer values than the shape repeats its last one; none at all means zeros; surplus values
are ignored; narrow integers wrap.  Writing fills the typed field, as TensorFlow Serving does, or
``tensor_content`` when asked to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError

from salver.dtypes import DType
from salver.errors import InvalidArgument
from salver.protos.tensor_pb2 import TensorProto
from salver.protos.tensor_plain_pb2 import TensorProto as PlainTensorProto
from salver.varints import decode_varints, encode_varints

MAX_RANK: Final = 254
"""TensorFlow's TensorShape holds no more dimensions."""

MAX_FILLED_BYTES: Final = 256 << 20
"""A tensor sent with fewer values than its shape may grow to this size, no further.

Without a bound, twenty bytes could ask for any amount of memory.
"""


def decode_tensor(proto: TensorProto) -> np.ndarray:
    """The array in ``proto``; it may be read-only and share the message's bytes.

    Raises:
        InvalidArgument: shape, type or length make no tensor; the text says which.
    """
    dtype = _dtype(proto.dtype)
    shape = _shape(proto)
    if proto.tensor_content:
        return _from_content(proto.tensor_content, dtype, shape)
    field = _FIELDS[dtype]
    size = math.prod(shape)
    try:
        values = field.read(getattr(proto, field.name), dtype)
    except ValueError:
        values = None
    if values is None or values.size != size:
        values = _fill(_read_plain(proto, field, dtype), dtype, size)
    return _shaped(values, shape)


def encode_tensor(proto: TensorProto, array: np.ndarray) -> None:
    """Write ``array`` into an empty ``proto``, its values into the typed field.

    Raises:
        InvalidArgument: TensorFlow has no such element type.
    """
    dtype = _start(proto, array)
    field = _FIELDS[dtype]
    if array.size:
        field.write(proto, array, dtype)


def encode_tensor_content(proto: TensorProto, array: np.ndarray) -> None:
    """Write ``array`` into an empty ``proto``, its values into ``tensor_content``."""
    dtype = _start(proto, array)
    if dtype is not DType.STRING:
        proto.tensor_content = array.tobytes()
        return
    strings = [_to_bytes(item) for item in array.flat]
    lengths = np.array([len(item) for item in strings], np.uint64)
    proto.tensor_content = encode_varints(lengths) + b"".join(strings)


def _start(proto: TensorProto, array: np.ndarray) -> DType:
    dtype = DType.of(array.dtype)
    proto.dtype = dtype
    shape = proto.tensor_shape
    shape.SetInParent()
    for size in array.shape:
        shape.dim.add().size = size
    return dtype


def _dtype(number: int) -> DType:
    try:
        dtype = DType(number)
    except ValueError:
        raise InvalidArgument(f"{number} is no tensor type") from None
    if dtype not in _FIELDS:
        raise InvalidArgument(f"a tensor of type {dtype.label} cannot be sent")
    return dtype


def _shape(proto: TensorProto) -> tuple[int, ...]:
    sizes = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or len(sizes) > MAX_RANK or any(n < 0 for n in sizes):
        raise InvalidArgument(f"{list(sizes)[:8]} is no tensor shape")
    if math.prod(sizes) >= 1 << 63:
        raise InvalidArgument(f"a tensor of shape {list(sizes)[:8]} has too many elements")
    return sizes


def _shaped(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """NumPy knows fewer dimensions than TensorFlow, and not every size next to one of 0."""
    try:
        return values.reshape(shape)
    except ValueError as error:
        raise InvalidArgument(f"a tensor of shape {list(shape)[:8]}: {error}") from error


def _from_content(content: bytes, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    if dtype is DType.STRING:
        return _shaped(_array_of_bytes(_split_string_content(content, size)), shape)
    expected = size * dtype.numpy.itemsize
    if len(content) != expected:
        raise InvalidArgument(
            f"tensor_content holds {len(content)} bytes; shape {list(shape)} of {dtype.label} "
            f"takes {expected}"
        )
    return _shaped(np.frombuffer(content, dtype.numpy), shape)


def _split_string_content(content: bytes, size: int) -> list[bytes]:
    """The strings of a ``tensor_content``: ``size`` lengths as varints, then the bytes."""
    octets = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    if size > ends.size:
        raise InvalidArgument(f"tensor_content has no room for the lengths of {size} strings")
    header = int(ends[size - 1]) + 1 if size else 0
    try:
        lengths = [int(n) for n in decode_varints(content[:header])]
    except ValueError as error:
        raise InvalidArgument(f"tensor_content: {error}") from error
    if header + sum(lengths) != len(content):
        raise InvalidArgument(
            f"tensor_content holds {len(content) - header} bytes of strings; "
            f"their lengths add up to {sum(lengths)}"
        )
    strings = []
    for length in lengths:
        strings.append(content[header : header + length])
        header += length
    return strings


def _read_plain(proto: TensorProto, field: _Field, dtype: DType) -> np.ndarray:
    """Read the field one number at a time: it is not packed, or not as long as the shape."""
    try:
        plain = PlainTensorProto.FromString(proto.SerializeToString())
    except DecodeError as error:
        raise InvalidArgument(f"{field.name} cannot be read: {error}") from error
    return field.read_numbers(getattr(plain, field.name), dtype)


def _fill(values: np.ndarray, dtype: DType, size: int) -> np.ndarray:
    if values.size >= size:
        return values[:size]
    if size * dtype.numpy.itemsize > MAX_FILLED_BYTES:
        raise InvalidArgument(
            f"{values.size} values were sent for a tensor of {size}; no more than "
            f"{MAX_FILLED_BYTES} bytes are filled in"
        )
    filled = np.empty(size, dtype.numpy)
    filled[: values.size] = values
    if values.size:
        filled[values.size :] = values[-1]
    elif dtype is DType.STRING:
        filled[:] = b""
    else:
        filled.view(np.uint8)[:] = 0
    return filled


def _to_bytes(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    raise InvalidArgument(f"a string tensor holds bytes or str, not {type(item).__name__}")


def _array_of_bytes(strings: list[bytes]) -> np.ndarray:
    array = np.empty(len(strings), object)
    array[:] = strings
    return array


@dataclass(frozen=True, slots=True)
class _Field:
    """How the values of some element types travel in one field of a TensorProto."""

    name: str
    read: Callable[..., np.ndarray]
    """Buffers of the wire-shadow field, and the type, to values of shape [n]."""

    read_numbers: Callable[..., np.ndarray]
    """The same from the plain message's numbers."""

    write: Callable[[TensorProto, np.ndarray, DType], None]


def _join(buffers: Iterable[bytes]) -> bytes:
    parts = list(buffers)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _fixed(name: str) -> _Field:
    """Floats and doubles: the packed field is the array."""

    def read(buffers: Iterable[bytes], dtype: DType) -> np.ndarray:
        return np.frombuffer(_join(buffers), dtype.numpy)

    def read_numbers(numbers: Iterable[float], dtype: DType) -> np.ndarray:
        part = dtype.numpy if dtype.numpy.kind == "f" else _part_of_complex(dtype)
        parts = np.array(numbers, part)
        # A complex value is two numbers; TensorFlow ignores an odd one left over.
        usable = len(parts) * part.itemsize // dtype.numpy.itemsize * dtype.numpy.itemsize
        return np.frombuffer(parts.tobytes()[:usable], dtype.numpy)

    def write(proto: TensorProto, array: np.ndarray, _dtype: DType) -> None:
        getattr(proto, name).append(array.tobytes())

    return _Field(name, read, read_numbers, write)


def _part_of_complex(dtype: DType) -> np.dtype:
    return np.dtype(np.float32 if dtype is DType.COMPLEX64 else np.float64)


def _varint(name: str, *, bits: bool = False) -> _Field:
    """Integers as varints; with ``bits`` the integer is the element's bit pattern."""

    def convert(numbers: np.ndarray, dtype: DType) -> np.ndarray:
        target = dtype.numpy
        if dtype is DType.BOOL:
            return numbers.astype(np.bool_)
        if target.fields is not None:  # a quantized integer is a structure around its base
            base = target.fields[target.names[0]][0]  # type: ignore[index]
            return numbers.astype(base).view(target)
        if bits:
            return numbers.astype(np.dtype(f"u{target.itemsize}")).view(target)
        if dtype in _NARROW:
            return numbers.astype(np.int8).astype(target)
        return numbers.astype(target)

    def read(buffers: Iterable[bytes], dtype: DType) -> np.ndarray:
        return convert(decode_varints(_join(buffers)), dtype)

    def read_numbers(numbers: Iterable[int], dtype: DType) -> np.ndarray:
        wide = np.uint64 if name == "uint64_val" else np.int64
        return convert(np.array(numbers, wide), dtype)

    def write(proto: TensorProto, array: np.ndarray, dtype: DType) -> None:
        flat = np.ascontiguousarray(array).reshape(-1)
        if flat.dtype.fields is not None:
            flat = flat.view(flat.dtype.fields[flat.dtype.names[0]][0])  # type: ignore[index]
        elif bits:
            flat = flat.view(np.dtype(f"u{flat.dtype.itemsize}"))
        elif dtype in _NARROW:
            flat = flat.astype(np.int8)
        getattr(proto, name).append(encode_varints(flat))

    return _Field(name, read, read_numbers, write)


_NARROW: Final = frozenset((DType.INT4, DType.UINT4, DType.INT2, DType.UINT2))
"""ml_dtypes converts these from and to eight-bit integers."""


def _strings() -> _Field:
    def read(values: Iterable[bytes], _dtype: DType) -> np.ndarray:
        return _array_of_bytes(list(values))

    def write(proto: TensorProto, array: np.ndarray, _dtype: DType) -> None:
        proto.string_val.extend(_to_bytes(item) for item in array.flat)

    return _Field("string_val", read, read, write)


def _octets() -> _Field:
    def read(value: bytes, dtype: DType) -> np.ndarray:
        return np.frombuffer(value, dtype.numpy)

    def write(proto: TensorProto, array: np.ndarray, _dtype: DType) -> None:
        proto.float8_val = array.tobytes()

    return _Field("float8_val", read, read, write)


def _fields() -> dict[DType, _Field]:
    small_ints = _varint("int_val")
    halves = _varint("half_val", bits=True)
    octets = _octets()
    return {
        DType.FLOAT: _fixed("float_val"),
        DType.DOUBLE: _fixed("double_val"),
        DType.COMPLEX64: _fixed("scomplex_val"),
        DType.COMPLEX128: _fixed("dcomplex_val"),
        DType.INT64: _varint("int64_val"),
        DType.UINT32: _varint("uint32_val"),
        DType.UINT64: _varint("uint64_val"),
        DType.BOOL: _varint("bool_val"),
        DType.HALF: halves,
        DType.BFLOAT16: halves,
        DType.STRING: _strings(),
        DType.FLOAT8_E5M2: octets,
        DType.FLOAT8_E4M3FN: octets,
        DType.FLOAT8_E4M3FNUZ: octets,
        DType.FLOAT8_E4M3B11FNUZ: octets,
        DType.FLOAT8_E5M2FNUZ: octets,
        DType.FLOAT4_E2M1FN: octets,
        **dict.fromkeys(
            (
                DType.INT32,
                DType.INT16,
                DType.INT8,
                DType.UINT16,
                DType.UINT8,
                DType.QINT8,
                DType.QUINT8,
                DType.QINT16,
                DType.QUINT16,
                DType.QINT32,
                *_NARROW,
            ),
            small_ints,
        ),
    }


_FIELDS: Final = _fields()
