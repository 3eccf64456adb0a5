"""What a ``model.tflite`` says of itself: operators, and signatures in its metadata."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import InvalidArgument
from salver.servables.tflite_file import MAX_SIGNATURE_BYTES, read_tflite_file
from tflite_models import METADATA, LiteShelf, flexbuffer_map

KEYS = st.text(st.characters(min_codepoint=1, max_codepoint=126), min_size=1, max_size=20)
MAPS = st.dictionaries(KEYS, st.binary(max_size=400), min_size=1, max_size=5)


def model(metadata: bytes, *, name: str = METADATA) -> bytes:
    """A model with two operators, an early one and a late one, and one entry of metadata."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    made, entry, buffer = schema.ModelT(), schema.MetadataT(), schema.BufferT()
    made.operatorCodes = [schema.OperatorCodeT(), schema.OperatorCodeT()]
    made.operatorCodes[0].deprecatedBuiltinCode = 9
    made.operatorCodes[1].deprecatedBuiltinCode = 127
    made.operatorCodes[1].builtinCode = 150
    entry.name, entry.buffer, buffer.data = name, 1, list(metadata)
    made.metadata, made.buffers = [entry], [schema.BufferT(), buffer]
    builder = flatbuffers.Builder()
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def complaint_about(content: bytes) -> str | None:
    """What is said to a file; None if it could be read."""
    try:
        read_tflite_file(content)
    except InvalidArgument as error:
        return error.message
    return None


def test_operators_have_the_larger_of_their_two_numbers():
    """The early field has an octet, which says 127 of all that came later."""
    assert read_tflite_file(model(b"", name="other")).operators == {9, 150}


def test_metadata_of_other_names_is_not_looked_at():
    """Converters write plenty of it."""
    assert read_tflite_file(model(b"no map", name="min_runtime_version")).signature_defs == {}


@given(MAPS)
def test_signatures_are_read_as_they_were_written(signatures: dict[str, bytes]):
    """Any keys, any bytes."""
    assert read_tflite_file(model(flexbuffer_map(signatures))).signature_defs == signatures


@given(MAPS, st.data())
def test_broken_metadata_is_refused_or_read(signatures: dict[str, bytes], data: st.DataObject):
    """Nothing else can happen, whatever is changed in it or cut off."""
    whole = bytearray(flexbuffer_map(signatures))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    content = model(bytes(whole[: data.draw(st.integers(0, len(whole)))]))

    complaint = complaint_about(content)

    assert complaint is None or "Invalid SignatureDefs found in TfLite model" in complaint


@given(st.data())
def test_broken_models_are_refused_or_read(lite_shelf: LiteShelf, data: st.DataObject):
    """Nothing else can happen, whatever is changed or cut off."""
    whole = bytearray((lite_shelf.version("with_metadata") / "model.tflite").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, 400) | st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    content = bytes(whole[: data.draw(st.integers(0, len(whole)))])

    assert complaint_about(content) != ""


@given(st.binary(max_size=200))
def test_anything_is_refused_or_read(content: bytes):
    """Right behind the identifier, too."""
    assert complaint_about(content) != ""
    assert complaint_about(b"\x10\x00\x00\x00TFL3" + content) != ""


def test_a_map_that_names_the_same_bytes_again_and_again_is_refused():
    """A megabyte could ask for all memory there is."""
    size = 300
    large = bytes(1 << 20)
    # One string, then the map: keys, values that all point to the string, types, the root.
    start = 8 + len(large) + 1
    key = start
    keys = key + 2 + 8
    values = keys + 8 * size + 24
    content = struct.pack("<Q", len(large)) + large + b"\0" + b"k\0" + struct.pack("<Q", size)
    content += b"".join(struct.pack("<Q", keys + 8 * i - key) for i in range(size))
    content += struct.pack("<QQQ", values - 24 - keys, 8, size)
    content += b"".join(struct.pack("<Q", values + 8 * i - 8) for i in range(size))
    content += bytes([5 << 2 | 3]) * size
    root = len(content)
    content += struct.pack("<Q", root - values) + bytes([9 << 2 | 3, 8])
    assert size * len(large) > MAX_SIGNATURE_BYTES

    with pytest.raises(InvalidArgument, match=f"more than {MAX_SIGNATURE_BYTES} bytes"):
        read_tflite_file(model(content))
