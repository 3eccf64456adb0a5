"""HPACK's Huffman code, against another implementation and against itself."""

from __future__ import annotations

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from salver.wire.huffman import Huffman

HUFFMAN = Huffman()
OTHERS = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


@given(st.binary(max_size=200))
def test_what_was_encoded_decodes_to_itself(text):
    """Every text comes back, and another encoder writes the same bits."""
    encoded = HUFFMAN.encode(text)

    assert HUFFMAN.decode(encoded) == text
    assert encoded == OTHERS.encode(text)


@given(st.binary(max_size=40))
def test_any_bytes_decode_to_a_text_that_they_encode_or_not_at_all(encoded):
    """There is one encoding of a text, so whatever is accepted encodes to the same bytes."""
    try:
        text = HUFFMAN.decode(encoded)
    except ValueError:
        return

    assert HUFFMAN.encode(text) == encoded


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        (b"", ""),
        (b"www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
        (b"no-cache", "a8eb10649cbf"),
        (b"custom-key", "25a849e95ba97d7f"),
        (b"302", "6402"),
        (b"Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
    ],
)
def test_examples_of_the_rfc(text, encoded):
    """The strings of RFC 7541's appendix C."""
    assert HUFFMAN.encode(text) == bytes.fromhex(encoded)
    assert HUFFMAN.decode(bytes.fromhex(encoded)) == text


@pytest.mark.parametrize(
    ("encoded", "what"),
    [
        ("1fff", "eleven bits of padding"),
        ("ff", "eight bits of padding and nothing else"),
        ("00", "padding of zeros"),
        ("1e", "padding that is not all ones"),
        ("3fffffff", "the end-of-string symbol"),
        ("1fffffffff", "the end-of-string symbol after a letter"),
    ],
)
def test_bad_endings_are_refused(encoded, what):
    """Too much padding, padding of other bits, and an explicit end are errors (section 5.2)."""
    with pytest.raises(ValueError, match=r"."):
        HUFFMAN.decode(bytes.fromhex(encoded))
