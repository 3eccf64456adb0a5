"""Packed varints to arrays and back, many at a time.

Protobuf writes integers in groups of seven bits, least significant first (Encoding, "Base 128
Varints").  A negative int32 or int64 takes ten bytes.  NumPy handles a whole field at once here,
because one Python step per number is what makes integer tensors slow.
"""

from __future__ import annotations

from typing import Final

import numpy as np

_MAX_BYTES: Final = 10


def decode_varints(packed: bytes) -> np.ndarray:
    """The numbers in ``packed`` as uint64, sign and width left to the caller: shape [n].

    Raises:
        ValueError: the last number is cut off, or one is longer than ten bytes.
    """
    octets = np.frombuffer(packed, np.uint8)
    if octets.size == 0:
        return np.empty(0, np.uint64)
    last = octets < 0x80
    if not last[-1]:
        raise ValueError("a varint is cut off")
    ends = np.flatnonzero(last)
    if ends.size == octets.size:
        return octets.astype(np.uint64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > _MAX_BYTES:
        raise ValueError("a varint is longer than ten bytes")
    numbers = (octets[starts] & 0x7F).astype(np.uint64)
    for i in range(1, longest):
        longer = np.flatnonzero(lengths > i)
        group = (octets[starts[longer] + i] & 0x7F).astype(np.uint64)
        numbers[longer] |= group << np.uint64(7 * i)
    return numbers


def encode_varints(numbers: np.ndarray) -> bytes:
    """Integers or booleans of any width, shape [n], as packed varints."""
    if numbers.dtype == np.bool_:
        return numbers.tobytes()
    if numbers.size and numbers.min() >= 0 and numbers.max() < 0x80:
        return numbers.astype(np.uint8).tobytes()
    values = numbers.astype(np.int64).view(np.uint64) if _signed(numbers) else numbers
    values = values.astype(np.uint64)
    lengths = np.ones(values.size, np.intp)
    for i in range(1, _MAX_BYTES):
        lengths += values >= np.uint64(1 << (7 * i))
    ends = np.cumsum(lengths)
    octets = np.empty(int(ends[-1]) if ends.size else 0, np.uint8)
    starts = ends - lengths
    for i in range(int(lengths.max()) if lengths.size else 0):
        longer = np.flatnonzero(lengths > i)
        group = (values[longer] >> np.uint64(7 * i)).astype(np.uint8) & 0x7F
        more = (lengths[longer] > i + 1).astype(np.uint8) << 7
        octets[starts[longer] + i] = group | more
    return octets.tobytes()


def encode_varint(number: int) -> bytes:
    """One number that is not negative."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _signed(numbers: np.ndarray) -> bool:
    return bool(np.issubdtype(numbers.dtype, np.signedinteger))
