"""Header blocks: ours against another decoder, and what we decode against what we encode.

    python -m fuzz hpack --seconds 1800

An input is a list of blocks for one connection, each after its length in one byte.
"""

from __future__ import annotations

import random

import hpack

from fuzz.engine import INTERESTING, Target
from salver.wire.hpack import HpackDecoder, HpackEncoder, HpackError
from salver.wire.huffman import Huffman

HUFFMAN = Huffman()
LIST_BYTES = 3000
FILES = ("wire/hpack.py", "wire/huffman.py")


def blocks_of(data: bytes) -> list[bytes]:
    """The blocks of an input."""
    blocks, position = [], 0
    while position < len(data):
        end = position + 1 + data[position]
        blocks.append(data[position + 1 : end])
        position = end
    return blocks


def joined(blocks: list[bytes]) -> bytes:
    """An input of blocks."""
    return b"".join(bytes([len(block[:255])]) + block[:255] for block in blocks)


def run(data: bytes) -> None:
    """Decode everything until something is malformed; whoever else decodes has to agree."""
    ours = HpackDecoder(HUFFMAN, max_list_bytes=LIST_BYTES)
    others = hpack.Decoder(max_header_list_size=1 << 30)
    encoder, peer = HpackEncoder(), HpackDecoder(HUFFMAN)
    for block in blocks_of(data):
        try:
            decoded = ours.decode(block)
        except HpackError:
            return
        expected = tuple(
            (bytes(name), bytes(value)) for name, value in others.decode(block, raw=True)
        )
        size = sum(len(name) + len(value) + 32 for name, value in expected)
        if decoded.is_too_large is not (size > LIST_BYTES):
            raise AssertionError(f"{size} octets, and is_too_large is {decoded.is_too_large}")
        if not decoded.is_too_large and decoded.headers != expected:
            raise AssertionError(f"{decoded.headers} is not {expected}")
        if list(ours.table.entries) != list(others.header_table.dynamic_entries):
            raise AssertionError("the tables differ")
        if peer.decode(encoder.encode(decoded.headers)).headers != decoded.headers:
            raise AssertionError("what we encode is not what we meant")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change, move, copy or drop blocks, and keep their lengths right."""
    blocks = blocks_of(data) or [b""]
    index = rng.randrange(len(blocks))
    kind = rng.randrange(5)
    if kind == 0:
        blocks.insert(index, blocks[rng.randrange(len(blocks))])
    elif kind == 1:
        del blocks[index]
    elif kind == 2:
        blocks[index] += rng.choice(blocks)
    else:
        block = blocks[index]
        place = rng.randrange(len(block) + 1)
        blocks[index] = block[:place] + bytes([rng.choice(INTERESTING)]) + block[place + kind - 3 :]
    return joined(blocks)


TARGET = Target(run, mutate, FILES)
