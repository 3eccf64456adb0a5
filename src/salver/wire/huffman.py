"""HPACK's Huffman code (RFC 7541, section 5.2 and appendix B).

The code is canonical: shorter codes come first, and codes of one length are in the order of their
symbols.  So the lengths alone say everything, and both tables are derived from them.
"""

from __future__ import annotations

from typing import Final

# The length in bits of the code of each octet, and of the end-of-string symbol after them.
LENGTHS: Final = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b"
    "0a0a080b080606060505050606060606060607080f060c0a0d060707070707070707070707070707"
    "07070707070707070807080d130d0e060f0506050605060606050707060606050607060505060707"
    "0707070f0b0e0d1c1416141416161617161717171717181718181617181717171715161716171718"
    "16151416161717151716161815161717151516151716171714161616171616171a1a141316171619"
    "1a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a17"
    "1a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
MAX_PADDING_BITS: Final = 7
"""Padding is shorter than an octet and made of the highest bits of the end-of-string code: ones."""


Row = list[tuple["Row", int]]
"""For each four bits: the row that reads on from there, and the symbol they complete or -1."""


class Huffman:
    """Encodes and decodes header strings; its tables are made once and never change.

    Decoding reads four bits at a time.  A row is a place in the code's tree; each of its entries
    says where four bits lead and which symbol they complete: no code is shorter than five bits, so
    there is at most one.
    """

    def __init__(self) -> None:
        codes = _codes()
        self._codes = codes
        self._start, self._ends = _decoding_table(codes)

    def encode(self, text: bytes) -> bytes:
        """``text`` in Huffman code, padded with ones to whole octets."""
        bits, count = 0, 0
        for octet in text:
            code, length = self._codes[octet]
            bits = bits << length | code
            count += length
        padding = -count % 8
        return (bits << padding | (1 << padding) - 1).to_bytes((count + padding) // 8, "big")

    def decode(self, encoded: bytes) -> bytes:
        """The text that ``encoded`` stands for.

        Raises:
            ValueError: an end-of-string symbol, or padding that is too long or not all ones.
        """
        row, text = self._start, bytearray()
        for octet in encoded:
            row, symbol = row[octet >> 4]
            if symbol >= 0:
                text.append(symbol)  # the end-of-string symbol is no octet: a ValueError too
            row, symbol = row[octet & 15]
            if symbol >= 0:
                text.append(symbol)
        if id(row) not in self._ends:
            raise ValueError("a Huffman string ends in padding that is no padding")
        return bytes(text)


def _codes() -> list[tuple[int, int]]:
    """The code and its length for each symbol."""
    codes = [(0, 0)] * len(LENGTHS)
    code, previous = 0, 0
    for symbol in sorted(range(len(LENGTHS)), key=lambda symbol: (LENGTHS[symbol], symbol)):
        length = LENGTHS[symbol]
        code <<= length - previous
        codes[symbol] = (code, length)
        code, previous = code + 1, length
    return codes


def _decoding_table(codes: list[tuple[int, int]]) -> tuple[Row, frozenset[int]]:
    """The row to start with, and the ids of those that a string may end in."""
    symbols = {(length, code): symbol for symbol, (code, length) in enumerate(codes)}
    rows: dict[tuple[int, int], Row] = {(0, 0): []}
    for code, length in codes:
        for bits in range(1, length):
            rows.setdefault((bits, code >> (length - bits)), [])
    for (bits, prefix), row in rows.items():
        row += [_walk(rows, symbols, bits, prefix, nibble) for nibble in range(16)]
    ends = [rows[bits, (1 << bits) - 1] for bits in range(MAX_PADDING_BITS + 1)]
    return rows[0, 0], frozenset(map(id, ends))


def _walk(
    rows: dict[tuple[int, int], Row],
    symbols: dict[tuple[int, int], int],
    bits: int,
    prefix: int,
    nibble: int,
) -> tuple[Row, int]:
    completed = -1
    for shift in (3, 2, 1, 0):
        bits, prefix = bits + 1, prefix << 1 | nibble >> shift & 1
        symbol = symbols.get((bits, prefix))
        if symbol is not None:
            completed, bits, prefix = symbol, 0, 0
    return rows[bits, prefix], completed
