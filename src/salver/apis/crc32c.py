"""The Castagnoli CRC that guards TFRecords, many bytes at a time.

A CRC is linear over the bits of a message: parts of it may be reduced side by side and joined.
So NumPy reduces thousands of stretches at once, a word of each per step, where a loop of Python's
own would take a minute for what a large warmup file holds.  No package is needed for it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

_POLYNOMIAL: Final = 0x82F63B78
"""Castagnoli's, with the bits in the order in which the register shifts them out."""

_ONES: Final = 0xFFFFFFFF

_BITS: Final = np.arange(32, dtype=np.uint32)

_FEW_BYTES: Final = 1024
"""Up to here the loop over single bytes is quicker than setting up the arrays."""

_STRETCH_BYTES: Final = 256
_MAX_STRETCHES: Final = 8192


def crc32c(data: bytes) -> int:
    """The checksum of ``data``, as RFC 3720 defines it."""
    if len(data) <= _FEW_BYTES:
        return _of_few(data)
    # The register starts with ones: the same as zeros and the first four bytes inverted.  Zeros in
    # front of that change nothing, so they make the message as long as it has to be.
    stretches = _stretches(len(data))
    words = -(-len(data) // (4 * stretches))
    padded = np.zeros(stretches * words * 4, np.uint8)
    start = padded.size - len(data)
    padded[start:] = np.frombuffer(data, np.uint8)
    padded[start : start + 4] ^= 0xFF
    registers = _reduced(padded.view("<u4").reshape(stretches, words))
    return _joined(registers, words) ^ _ONES


def _of_few(data: bytes) -> int:
    table = _byte_table()
    register = _ONES
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ _ONES


def _stretches(size: int) -> int:
    """A power of two, so that halves can be joined."""
    wanted = min(size // _STRETCH_BYTES, _MAX_STRETCHES)
    return 1 << max(wanted.bit_length() - 1, 0)


def _reduced(words: np.ndarray) -> np.ndarray:
    """The register after each row, starting from zero."""
    low, high = _word_tables()
    registers = np.zeros(len(words), np.uint32)
    for column in words.T:
        registers ^= column
        registers = low[registers & 0xFFFF] ^ high[registers >> 16]
    return registers


def _joined(registers: np.ndarray, words: int) -> int:
    """The register after all rows: of two neighbours the first has the second's length to go on."""
    shift = _power(_four_zero_bytes(), words)
    while registers.size > 1:
        registers = _applied(shift, registers[0::2]) ^ registers[1::2]
        shift = _applied(shift, shift)
    return int(registers[0])


# A change of the register by zero bytes is a linear map; here, what it makes of each single bit.


def _four_zero_bytes() -> np.ndarray:
    low, high = _word_tables()
    each = np.uint32(1) << _BITS
    images: np.ndarray = low[each & 0xFFFF] ^ high[each >> 16]
    return images


def _applied(linear: np.ndarray, registers: np.ndarray) -> np.ndarray:
    bits = (registers[:, np.newaxis] >> _BITS) & np.uint32(1)
    images: np.ndarray = np.bitwise_xor.reduce(bits * linear, axis=1)
    return images


def _power(linear: np.ndarray, times: int) -> np.ndarray:
    result: np.ndarray = np.uint32(1) << _BITS  # changes nothing
    while times:
        if times & 1:
            result = _applied(linear, result)
        linear = _applied(linear, linear)
        times >>= 1
    return result


@lru_cache(1)
def _byte_table() -> tuple[int, ...]:
    """What the register's last byte turns into when it is shifted out."""
    return tuple(map(_shifted_out, range(256)))


def _shifted_out(byte: int) -> int:
    register = byte
    for _ in range(8):
        register = (register >> 1) ^ (_POLYNOMIAL if register & 1 else 0)
    return register


@lru_cache(1)
def _word_tables() -> tuple[np.ndarray, np.ndarray]:
    """What the register's low and high half turn into when all of it is shifted out."""
    table = np.array(_byte_table(), np.uint32)
    low = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(4):
        low = table[low & 0xFF] ^ (low >> 8)
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    for _ in range(4):
        high = table[high & 0xFF] ^ (high >> 8)
    return low, high
