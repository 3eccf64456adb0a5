"""TFRecord files: records one after another, each with its length, both under a checksum.

Nothing is taken on trust: a record is handed on only when its checksums agree, and memory is asked
for only after the length was found to be in order and in the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from salver.apis.crc32c import crc32c
from salver.errors import (
    DataLoss,
    PermissionDenied,
    ResourceExhausted,
    ServingError,
    Unavailable,
)

MAX_RECORD_BYTES: Final = (1 << 31) - 1
"""No message of protobuf's is longer, and these records hold messages."""

_LENGTH: Final = struct.Struct("<QI")
_CHECKSUM: Final = struct.Struct("<I")

_MASK_DELTA: Final = 0xA282EAD8
"""A checksum is stored rotated and shifted by this, so that one over checksums stays one."""


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a file, in order, each read when it is asked for.

    Raises:
        DataLoss: a record is cut off, or its bytes are not those that were written; the texts are
            TensorFlow's.
        ResourceExhausted: a record is longer than any message may be.
        PermissionDenied: the file may not be read.
        Unavailable: the file cannot be read, for another reason.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            try:
                record = _read_record(file, offset, size)
            except OSError as error:
                raise unreadable(path, error) from error
            yield record
            offset += _LENGTH.size + len(record) + _CHECKSUM.size


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> ServingError:
    """What to say of a file that the system does not let us read."""
    if isinstance(error, PermissionError):
        text = f"{path} cannot be read by user {os.geteuid()}: {error.strerror}"
        return PermissionDenied(text)
    return Unavailable(f"{path} cannot be read: {error.strerror}")


def _read_record(file: BinaryIO, offset: int, size: int) -> bytes:
    header = file.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise _truncated(offset)
    length, checksum = _LENGTH.unpack(header)
    if checksum != masked_crc32c(header[:8]):
        raise DataLoss(f"corrupted record at {offset} (Is this even a TFRecord file?)")
    start = offset + _LENGTH.size
    if length + _CHECKSUM.size > size - start:
        raise _truncated(offset)
    if length > MAX_RECORD_BYTES:
        raise ResourceExhausted(
            f"the record at {offset} has {length} bytes; at most {MAX_RECORD_BYTES} can be read"
        )
    record = file.read(length)
    footer = file.read(_CHECKSUM.size)
    if len(record) < length or len(footer) < _CHECKSUM.size:  # the file shrank as we read
        raise _truncated(offset)
    if _CHECKSUM.unpack(footer)[0] != masked_crc32c(record):
        raise DataLoss(f"corrupted record at {start}")
    return record


def masked_crc32c(data: bytes) -> int:
    """The checksum of ``data`` as it is stored."""
    checksum = crc32c(data)
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return (rotated + _MASK_DELTA) & 0xFFFFFFFF


def _truncated(offset: int) -> DataLoss:
    return DataLoss(f"truncated record at {offset}' failed with Read less bytes than requested")
