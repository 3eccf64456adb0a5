"""When the files of a version are all there: what a SavedModel needs, read off names and one file.

A version appears file by file, in any order, and large files late.
TensorFlow loads a SavedModel whose variables are missing without a word, and then answers from
memory nobody filled; so what ``saved_model.pb`` needs is looked up before anything is loaded.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GRAPH: Final = "saved_model.pb"
GRAPHS: Final = (GRAPH, "saved_model.pbtxt", "saved_model.cpb", "model.tflite")
"""What a version is recognised by: one of these has to be there."""

INDEX: Final = "variables/variables.index"
_SHARD: Final = re.compile(r"variables/variables\.data-(\d{5})-of-(\d{5})")

# Field numbers of SavedModel, MetaGraphDef and AssetFileDef.
_META_GRAPHS: Final = 2
_SAVER_DEF: Final = 3
_ASSET_FILE_DEF: Final = 6
_FILENAME: Final = 2

_VARIABLE_OPS: Final = (b"\x12\x0bVarHandleOp", b"\x12\nVariableV2", b"\x12\x08Variable")
"""The field ``NodeDef.op`` of the ops that hold what a checkpoint restores.

A graph whose variables were made constants may have kept the saver, and needs no checkpoint.
"""

_FIXED_WIDTHS: Final = {1: 8, 5: 4}  # wire type to bytes
_MAX_VARINT_BITS: Final = 64


@dataclass(frozen=True, slots=True)
class Needs:
    """What a graph reads besides itself."""

    variables: bool = False
    assets: frozenset[str] = frozenset()


def missing_files(paths: Collection[str], needs: Needs | None = None) -> list[str]:
    """The files that a version lacks, as far as names and ``needs`` tell; empty if complete."""
    if not any(name in paths for name in GRAPHS):
        return [GRAPH]
    needs = needs or Needs()
    missing = [f"assets/{name}" for name in sorted(needs.assets) if f"assets/{name}" not in paths]
    if needs.variables or any(path.startswith("variables/") for path in paths):
        missing += _missing_variables(paths)
    return missing


def read_needs(graph: Path) -> Needs:
    """What the graph in a ``saved_model.pb`` needs; nothing, where it cannot be read.

    Whoever loads it then says what is wrong with it.
    """
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _needs(data)
    except (OSError, ValueError):
        return Needs()


def _missing_variables(paths: Collection[str]) -> list[str]:
    missing = [] if INDEX in paths else [INDEX]
    shards = [match for match in map(_SHARD.fullmatch, paths) if match]
    count = max((int(match[2]) for match in shards), default=1)
    names = (f"variables/variables.data-{number:05}-of-{count:05}" for number in range(count))
    return missing + [name for name in names if name not in paths]


def _needs(data: mmap.mmap) -> Needs:
    variables = False
    assets: set[str] = set()
    for number, start, end in _fields(data, 0, len(data)):
        if number != _META_GRAPHS:
            continue
        for part, part_start, part_end in _fields(data, start, end):
            if part == _SAVER_DEF:
                variables |= part_end > part_start
            elif part == _ASSET_FILE_DEF:
                assets |= {
                    data[a:b].decode()
                    for field, a, b in _fields(data, part_start, part_end)
                    if field == _FILENAME
                }
    variables = variables and any(data.find(op) >= 0 for op in _VARIABLE_OPS)
    return Needs(variables, frozenset(assets))


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field; only of length-delimited ones is it worth a look.

    Raises:
        ValueError: this is no message.
    """
    while at < end:
        key, at = _varint(data, at, end)
        number, wire_type = key >> 3, key & 7
        start = at
        if wire_type == 0:
            _, at = _varint(data, at, end)
        elif wire_type == 2:  # the encoding's own number
            length, start = _varint(data, at, end)
            at = start + length
        elif wire_type in _FIXED_WIDTHS:
            at += _FIXED_WIDTHS[wire_type]
        else:
            raise ValueError(f"wire type {wire_type}")
        if at > end:
            raise ValueError("a field is cut off")
        yield number, start, at


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, _MAX_VARINT_BITS + 6, 7):
        if at >= end:
            break
        octet = data[at]
        at += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:  # the last group has its high bit clear
            return value, at
    raise ValueError("a number is cut off or too long")
