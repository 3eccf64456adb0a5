"""What a server reads of a ``model.tflite`` itself: its operators, and early signatures.

LiteRT tells the rest.  It does not tell of signatures that were written before TensorFlow Lite had
any: they lie in the file's metadata, a FlexBuffer map from signature keys to serialized
SignatureDefs, and TensorFlow Serving knows no others.  Every offset is checked before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from salver.errors import InvalidArgument

METADATA_NAME: Final = b"signature_defs_metadata"
IDENTIFIER: Final = b"TFL3"

# The slots of the tables' fields: Model, OperatorCode, Metadata and Buffer.
_OPERATOR_CODES: Final = 1
_BUFFERS: Final = 4
_METADATA: Final = 6
_EARLY_CODE: Final = 0
_CODE: Final = 3
_NAME: Final = 0
_BUFFER: Final = 1
_DATA: Final = 0

MAX_SIGNATURE_BYTES: Final = 64 << 20
"""Of all signatures of a file; a broken map may name the same bytes again and again."""

# The types of FlexBuffer values that are of any use here.
_KEY: Final = 4
_STRING: Final = 5
_MAP: Final = 9
_BLOB: Final = 25


@dataclass(frozen=True, slots=True)
class TfLiteFile:
    """What was read."""

    operators: frozenset[int]
    """The numbers of ``tflite.BuiltinOperator``; one of them stands for all custom operators."""
    signature_defs: dict[str, bytes]
    """The serialized ``tensorflow.SignatureDef`` of each signature in the metadata, by its key."""


def read_tflite_file(content: bytes) -> TfLiteFile:
    """Read the content of a ``model.tflite``.

    Raises:
        InvalidArgument: it is none, or its metadata is broken.
    """
    if content[4:8] != IDENTIFIER:
        raise InvalidArgument(
            "Cannot build FlatBufferModel from buffer: it is no TensorFlow Lite model"
        )
    file = _Bytes(content)
    try:
        model = _Table(file, file.unsigned(0, 4))
        operators = frozenset(_operator(table) for table in model.tables(_OPERATOR_CODES))
    except ValueError as error:
        raise InvalidArgument(
            f"Cannot build FlatBufferModel from buffer: {error}; "
            "if it is still being copied, it will be tried again"
        ) from error
    try:
        return TfLiteFile(operators, dict(_signature_defs(model)))
    except ValueError as error:
        raise InvalidArgument(
            f"Invalid SignatureDefs found in TfLite model: {error}; convert the model again"
        ) from error


def _operator(code: _Table) -> int:
    """An operator's number: the first 127 had an octet for it, which later ones leave at 127."""
    return max(code.unsigned(_EARLY_CODE, 1), code.unsigned(_CODE, 4))


def _signature_defs(model: _Table) -> Iterator[tuple[str, bytes]]:
    for metadata in model.tables(_METADATA):
        if metadata.octets(_NAME) == METADATA_NAME:
            buffers = model.tables(_BUFFERS)
            number = metadata.unsigned(_BUFFER, 4)
            buffer = next((table for i, table in enumerate(buffers) if i == number), None)
            if buffer is None:
                raise ValueError(f"there is no buffer {number}")
            yield from _flexbuffer_map(_Bytes(buffer.octets(_DATA)))


def _flexbuffer_map(data: _Bytes) -> Iterator[tuple[str, bytes]]:
    """The entries of a FlexBuffer that is a map of strings; its root stands at the end."""
    root_width = data.unsigned(len(data) - 1, 1)
    kind, width = _unpacked(data.unsigned(len(data) - 2, 1))
    if kind != _MAP:
        raise ValueError("the metadata is no map")
    start = data.before(len(data) - 2 - root_width, root_width)
    size = data.unsigned(start - width, width)
    keys_width = data.unsigned(start - 2 * width, width)
    keys = data.before(start - 3 * width, width)
    types = data.piece(start + size * width, size)
    bytes_left = MAX_SIGNATURE_BYTES
    for i, packed in enumerate(types):
        key = data.text(data.before(keys + i * keys_width, keys_width))
        kind, size_width = _unpacked(packed)
        if kind not in (_KEY, _STRING, _BLOB):
            raise ValueError(f"signature {key} is no string")
        at = data.before(start + i * width, width)
        value = data.piece(at, data.unsigned(at - size_width, size_width))
        bytes_left -= len(key) + len(value)
        if bytes_left < 0:
            raise ValueError(f"they take more than {MAX_SIGNATURE_BYTES} bytes")
        yield key, value


def _unpacked(packed: int) -> tuple[int, int]:
    """The type of a FlexBuffer value, and the width in bytes of what it holds."""
    return packed >> 2, 1 << (packed & 3)


class _Table:
    """A FlatBuffer table: fields by slot, each of which may be absent."""

    def __init__(self, file: _Bytes, at: int) -> None:
        self._file = file
        self._at = at
        self._fields = at - file.signed(at)
        self._end = file.unsigned(self._fields, 2)

    def unsigned(self, slot: int, width: int) -> int:
        """A number; 0 if absent."""
        at = self._field(slot)
        return self._file.unsigned(at, width) if at else 0

    def octets(self, slot: int) -> bytes:
        """A string or a vector of octets; empty if absent."""
        at, size = self._vector(slot)
        return self._file.piece(at, size)

    def tables(self, slot: int) -> Iterator[_Table]:
        """A vector of tables; empty if absent."""
        at, size = self._vector(slot)
        for place in range(at, at + 4 * size, 4):
            yield _Table(self._file, place + self._file.unsigned(place, 4))

    def _vector(self, slot: int) -> tuple[int, int]:
        at = self._field(slot)
        if not at:
            return 0, 0
        at += self._file.unsigned(at, 4)
        return at + 4, self._file.unsigned(at, 4)

    def _field(self, slot: int) -> int:
        """Where a field is; 0 if it is absent."""
        entry = 4 + 2 * slot
        offset = self._file.unsigned(self._fields + entry, 2) if entry < self._end else 0
        return self._at + offset if offset else 0


class _Bytes:
    """Bytes that are read at offsets which were read from them, and may be anywhere."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __len__(self) -> int:
        return len(self._content)

    def piece(self, at: int, size: int) -> bytes:
        """So many octets.

        Raises:
            ValueError: they are not all there.
        """
        if at < 0 or at + size > len(self._content):
            raise ValueError(f"{size} bytes at offset {at} are not there")
        return self._content[at : at + size]

    def unsigned(self, at: int, width: int) -> int:
        """A number of so many octets, at most eight."""
        if not 0 < width <= 8:
            raise ValueError(f"a number at offset {at} has {width} bytes")
        return int.from_bytes(self.piece(at, width), "little")

    def signed(self, at: int) -> int:
        """A number of four octets that may be negative."""
        return int.from_bytes(self.piece(at, 4), "little", signed=True)

    def before(self, at: int, width: int) -> int:
        """What the distance at ``at`` points back to."""
        return at - self.unsigned(at, width)

    def text(self, at: int) -> str:
        """A string that ends with a zero."""
        end = self._content.find(b"\0", at) if at >= 0 else -1
        if end < 0:
            raise ValueError(f"no string ends after offset {at}")
        return self._content[at:end].decode()  # a UnicodeDecodeError is a ValueError
