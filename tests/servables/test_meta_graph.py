"""Signatures and ops read off a MetaGraphDef without copying it, against TensorFlow's parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import DataLoss
from salver.servables.meta_graph import SEARCHED_AT_ONCE, mentions, signature_defs
from saved_models import Shelf, read_saved_model


def test_every_signature_is_found_as_it_was_exported(shelf: Shelf):
    """Names and definitions are those that TensorFlow's own message has."""
    meta_graph = read_saved_model(shelf.version("several_signatures")).meta_graphs[0]

    found = signature_defs(memoryview(meta_graph.SerializeToString()))

    assert found.keys() == meta_graph.signature_def.keys()
    for name, definition in found.items():
        assert (
            type(meta_graph.signature_def[name]).FromString(definition)
            == (meta_graph.signature_def[name])
        )


def test_a_message_without_signatures_has_none():
    """An empty map is an empty map."""
    assert signature_defs(memoryview(b"")) == {}


@pytest.mark.parametrize(
    "octets", [b"\x0a\x05ab", b"\x80", b"\x0b", b"\x08" + b"\xff" * 11, b"\x2a\x01\xff"]
)
def test_bytes_that_are_no_message_are_refused(octets: bytes):
    """Cut off, of an impossible kind, or a number without end."""
    with pytest.raises(DataLoss, match="MetaGraphDef"):
        signature_defs(memoryview(octets))


@given(st.binary(max_size=64))
def test_no_bytes_do_worse_than_data_loss(octets: bytes):
    """Whatever the bytes, they are read or refused."""
    try:
        found = signature_defs(memoryview(octets))
    except DataLoss:
        return

    assert all(isinstance(name, str) for name in found)


@pytest.mark.parametrize("position", [0, 5, SEARCHED_AT_ONCE - 3, SEARCHED_AT_ONCE, 600_000])
def test_a_word_is_found_wherever_it_stands(position: int):
    """Also where one piece ends and the next begins."""
    message = b"." * position + b"While" + b"." * 1000

    assert mentions(memoryview(message), [b"While", b"Enter"])
    assert not mentions(memoryview(message), [b"Wheel", b"Enter"])
