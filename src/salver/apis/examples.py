"""``tensorflow.Example`` messages, written byte by byte.

The message is three fields deep and a request may carry thousands of them, so they are encoded
straight to protobuf's wire format: a feature first, then the map of features around it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from salver.errors import InvalidArgument

UNSET_FEATURE: Final = b""

MAX_REPEATED_BYTES: Final = 1 << 30
"""What the copies of one context may add up to: without a bound, a small request could ask for any
amount of memory."""

_BYTES_LIST: Final = 1
_FLOAT_LIST: Final = 2
_INT64_LIST: Final = 3
_FEATURES_OF_EXAMPLE: Final = 1
_ENTRY_OF_FEATURES: Final = 1
_KEY_OF_ENTRY: Final = 1
_VALUE_OF_ENTRY: Final = 2
_VALUES_OF_LIST: Final = 1


def encode_example(features: Mapping[bytes, bytes]) -> bytes:
    """An Example of encoded features by name; no features make the empty message."""
    if not features:
        return b""
    entries = (
        _field(_KEY_OF_ENTRY, name) + _field(_VALUE_OF_ENTRY, feature)
        for name, feature in features.items()
    )
    fields = b"".join(_field(_ENTRY_OF_FEATURES, entry) for entry in entries)
    return _field(_FEATURES_OF_EXAMPLE, fields)


def with_context(context: bytes, examples: Sequence[bytes]) -> list[bytes]:
    """Serialized examples, each behind the context that supplies what it leaves out.

    Protobuf merges messages that are concatenated; what stands later wins.

    Raises:
        InvalidArgument: a large context and many examples multiply beyond any use.
    """
    repeated = len(context) * len(examples)
    if repeated > MAX_REPEATED_BYTES:
        raise InvalidArgument(
            f"a context of {len(context)} bytes for {len(examples)} examples makes {repeated} "
            f"bytes; no more than {MAX_REPEATED_BYTES} are allowed. "
            "Send fewer examples with one request"
        )
    return [context + example for example in examples]


def encode_bytes_feature(values: Iterable[bytes]) -> bytes:
    """A Feature with a BytesList."""
    fields = b"".join(_field(_VALUES_OF_LIST, value) for value in values)
    return _field(_BYTES_LIST, fields)


def encode_float_feature(values: Sequence[float]) -> bytes:
    """A Feature with a FloatList; numbers beyond a float become infinite."""
    numbers = np.frombuffer(array("f", values), np.float32)
    return _field(_FLOAT_LIST, _field(_VALUES_OF_LIST, numbers.astype("<f4").tobytes()))


def encode_int64_feature(values: Sequence[int]) -> bytes:
    """A Feature with an Int64List."""
    packed = b"".join(map(_varint, values))
    return _field(_INT64_LIST, _field(_VALUES_OF_LIST, packed))


def _field(number: int, payload: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= 2**64 - 1  # negative numbers are written as their two's complement of 64 bits
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
