"""The element types a tensor can have: TensorFlow's numbers and names beside NumPy's.

NumPy lacks some of them. The floating and narrow integer ones come from ``ml_dtypes``, as in
TensorFlow itself; quantized integers are one-field structures, also as in TensorFlow.
Strings are object arrays of ``bytes``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import ml_dtypes
import numpy as np

from salver.errors import InvalidArgument


class DType(IntEnum):
    """``tensorflow.DataType`` without its reference twins (``number + 100``)."""

    INVALID = 0
    FLOAT = 1
    DOUBLE = 2
    INT32 = 3
    UINT8 = 4
    INT16 = 5
    INT8 = 6
    STRING = 7
    COMPLEX64 = 8
    INT64 = 9
    BOOL = 10
    QINT8 = 11
    QUINT8 = 12
    QINT32 = 13
    BFLOAT16 = 14
    QINT16 = 15
    QUINT16 = 16
    UINT16 = 17
    COMPLEX128 = 18
    HALF = 19
    RESOURCE = 20
    VARIANT = 21
    UINT32 = 22
    UINT64 = 23
    FLOAT8_E5M2 = 24
    FLOAT8_E4M3FN = 25
    FLOAT8_E4M3FNUZ = 26
    FLOAT8_E4M3B11FNUZ = 27
    FLOAT8_E5M2FNUZ = 28
    INT4 = 29
    UINT4 = 30
    INT2 = 31
    UINT2 = 32
    FLOAT4_E2M1FN = 33

    @property
    def label(self) -> str:
        """TensorFlow's short name: ``float``, ``int64``, ``bfloat16``."""
        return self.name.lower()

    @property
    def numpy(self) -> np.dtype:
        """The NumPy dtype of the same elements, object for strings.

        Raises:
            InvalidArgument: this type cannot leave the runtime (resource, variant, invalid).
        """
        try:
            return _NUMPY[self]
        except KeyError:
            raise InvalidArgument(f"tensors of type {self.label} cannot be sent") from None

    @classmethod
    def of(cls, dtype: np.dtype) -> DType:
        """The type of an array's elements.

        Raises:
            InvalidArgument: TensorFlow has no such type.
        """
        try:
            return _BY_NUMPY[dtype]
        except KeyError:
            raise InvalidArgument(f"TensorFlow has no type for NumPy's {dtype}") from None


def numpy_dtypes() -> dict[int, np.dtype]:
    """TensorFlow's numbers to NumPy's dtypes, for every type that can leave the runtime."""
    return {int(member): dtype for member, dtype in _NUMPY.items()}


def _quantized(name: str, base: str) -> np.dtype:
    return np.dtype([(name, base)])


_NUMPY: Final[dict[DType, np.dtype]] = {
    DType.FLOAT: np.dtype(np.float32),
    DType.DOUBLE: np.dtype(np.float64),
    DType.INT32: np.dtype(np.int32),
    DType.UINT8: np.dtype(np.uint8),
    DType.INT16: np.dtype(np.int16),
    DType.INT8: np.dtype(np.int8),
    DType.STRING: np.dtype(object),
    DType.COMPLEX64: np.dtype(np.complex64),
    DType.INT64: np.dtype(np.int64),
    DType.BOOL: np.dtype(np.bool_),
    DType.QINT8: _quantized("qint8", "i1"),
    DType.QUINT8: _quantized("quint8", "u1"),
    DType.QINT32: _quantized("qint32", "<i4"),
    DType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    DType.QINT16: _quantized("qint16", "<i2"),
    DType.QUINT16: _quantized("quint16", "<u2"),
    DType.UINT16: np.dtype(np.uint16),
    DType.COMPLEX128: np.dtype(np.complex128),
    DType.HALF: np.dtype(np.float16),
    DType.UINT32: np.dtype(np.uint32),
    DType.UINT64: np.dtype(np.uint64),
    DType.FLOAT8_E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DType.FLOAT8_E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    DType.FLOAT8_E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    DType.FLOAT8_E4M3B11FNUZ: np.dtype(ml_dtypes.float8_e4m3b11fnuz),
    DType.FLOAT8_E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    DType.INT4: np.dtype(ml_dtypes.int4),
    DType.UINT4: np.dtype(ml_dtypes.uint4),
    DType.INT2: np.dtype(ml_dtypes.int2),
    DType.UINT2: np.dtype(ml_dtypes.uint2),
    DType.FLOAT4_E2M1FN: np.dtype(ml_dtypes.float4_e2m1fn),
}

_BY_NUMPY: Final[dict[np.dtype, DType]] = {dtype: member for member, dtype in _NUMPY.items()}
