"""What a server reads of a MetaGraphDef: its signatures, and which ops it mentions.

The message lies in TensorFlow's memory and holds the graph, sometimes with all its weights.  So it
is neither copied nor parsed as a whole: its top-level fields are stepped over, and a search takes
a breath between pieces, because either would keep every other thread waiting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import sleep
from typing import Final

from google.protobuf.message import DecodeError

from salver.errors import DataLoss
from salver.protos import saved_model_pb2

SIGNATURE_DEF: Final = 5
"""The number of MetaGraphDef's field of signatures, a map."""

SEARCHED_AT_ONCE: Final = 256 << 10
BREATH_S: Final = 100e-6

_LENGTH_DELIMITED: Final = 2
_FIXED_BYTES: Final = {1: 8, 5: 4}


def signature_defs(meta_graph: memoryview) -> dict[str, bytes]:
    """Every signature by name, as the serialized SignatureDef it was exported with.

    Raises:
        DataLoss: the bytes are no MetaGraphDef.
    """
    definitions = saved_model_pb2.MetaGraphDef()
    for number, start, end in _fields(meta_graph):
        if number == SIGNATURE_DEF:
            _merge(definitions, bytes(meta_graph[start:end]))
    found = definitions.signature_def
    return {name: bytes(found[name]) for name in sorted(found)}


def mentions(meta_graph: memoryview, words: Sequence[bytes]) -> bool:
    """Whether one of ``words`` stands anywhere in the message."""
    overlap = max(map(len, words)) - 1
    for start in range(0, len(meta_graph), SEARCHED_AT_ONCE):
        piece = bytes(meta_graph[start : start + SEARCHED_AT_ONCE + overlap])
        if any(word in piece for word in words):
            return True
        sleep(BREATH_S)
    return False


def _merge(definitions: saved_model_pb2.MetaGraphDef, field: bytes) -> None:
    try:
        definitions.MergeFromString(field)
    except DecodeError as error:
        raise DataLoss(f"the MetaGraphDef has a signature that cannot be read: {error}") from error


def _fields(message: memoryview) -> Iterator[tuple[int, int, int]]:
    """The top-level fields: number, start and end, tag included."""
    position, size = 0, len(message)
    while position < size:
        start = position
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, position = _varint(message, position)
            position += length
        elif kind in _FIXED_BYTES:
            position += _FIXED_BYTES[kind]
        elif kind == 0:
            _, position = _varint(message, position)
        else:
            raise DataLoss("the MetaGraphDef has a field of a kind that does not exist")
        if position > size:
            raise DataLoss("the MetaGraphDef is cut off")
        yield tag >> 3, start, position


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 70:
        octet = message[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
        shift += 7
    raise DataLoss("the MetaGraphDef is cut off")
