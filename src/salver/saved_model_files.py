"""When the files of a version are all there: what a model needs, read off names and one file.

A version appears file by file, in any order, and large files late.
TensorFlow loads a SavedModel whose variables are missing without a word, and then answers from
memory nobody filled; so what ``saved_model.pb`` needs is looked up before anything is loaded.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

GRAPH: Final = "saved_model.pb"
GRAPHS: Final = (GRAPH, "saved_model.pbtxt", "saved_model.cpb", "model.tflite")
BUNDLE: Final = "export.meta"
"""The graph of a legacy SessionBundle, which counts where there is no other."""
RECOGNISED_BY: Final = (*GRAPHS, BUNDLE)
"""What a version is recognised by: one of these has to be there."""

INDEX: Final = "variables/variables.index"
_SHARD: Final = re.compile(r"variables/variables\.data-(\d{5})-of-(\d{5})")

BUNDLE_VARIABLES: Final = "export"
"""What the files of a bundle's variables are called, or begin with."""
_BUNDLE_SHARD: Final = re.compile(r"export-(\d{5})-of-(\d{5})")
_BUNDLE_DATA: Final = re.compile(r"export\.data-(\d{5})-of-(\d{5})")

# Field numbers of SavedModel, MetaGraphDef, CollectionDef and what they hold.
_META_GRAPHS: Final = 2
SAVER_DEF: Final = 3
COLLECTION_DEF: Final = 4
ANY_VALUES: Final = (5, 1)
"""From a CollectionDef to each Any in it."""
_ASSET_FILE_DEF: Final = 6
_FILENAME: Final = 2
_ANY_VALUE: Final = 2

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
    if not any(name in paths for name in RECOGNISED_BY):
        return [GRAPH]
    needs = needs or Needs()
    missing = [f"assets/{name}" for name in sorted(needs.assets) if f"assets/{name}" not in paths]
    if not any(name in paths for name in GRAPHS):
        return missing + _missing_bundle_variables(paths, needs)
    if needs.variables or any(path.startswith("variables/") for path in paths):
        missing += _missing_variables(paths)
    return missing


def graph_that_tells(paths: Collection[str]) -> str | None:
    """The file among ``paths`` that ``read_needs`` can read, if what is loaded has one."""
    graph = next((name for name in RECOGNISED_BY if name in paths), None)
    return graph if graph in (GRAPH, BUNDLE) else None


def read_needs(graph: Path) -> Needs:
    """What the graph in a ``saved_model.pb`` or ``export.meta`` needs; nothing, if it is neither.

    Whoever loads it then says what is wrong with it.
    """
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _bundle_needs(data) if graph.name == BUNDLE else _needs(data)
    except (OSError, ValueError):
        return Needs()


def read_assets(graph: Path) -> frozenset[str]:
    """The files that the graph in a ``saved_model.pb`` names as its assets; none if it is none."""
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _assets(data)
    except (OSError, ValueError):
        return frozenset()


def lies_outside(asset: str) -> bool:
    """Whether the name of an asset leads out of the folder ``assets``.

    A link in there does not count: whoever put the version in its place made it.
    """
    name = PurePosixPath(asset)
    return not name.parts or name.is_absolute() or ".." in name.parts


def fields(data: mmap.mmap | memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number of each field of a message, start and end of what it holds.

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


def nested(
    data: mmap.mmap | memoryview, at: int, end: int, numbers: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Start and end of each field that is reached by going down ``numbers``, message by message.

    Raises:
        ValueError: this is no message.
    """
    number, *below = numbers
    for found, start, stop in fields(data, at, end):
        if found != number:
            continue
        if below:
            yield from nested(data, start, stop, below)
        else:
            yield start, stop


def collections(
    data: mmap.mmap | memoryview, at: int = 0, end: int | None = None
) -> Iterator[tuple[str, int, int]]:
    """Name of each collection of a MetaGraphDef, start and end of its CollectionDef.

    Raises:
        ValueError: this is no MetaGraphDef.
    """
    for start, stop in nested(data, at, len(data) if end is None else end, (COLLECTION_DEF,)):
        entry = {number: (a, b) for number, a, b in fields(data, start, stop)}
        if entry.keys() >= {1, 2}:  # key and value of a map's entry
            (a, b), (value_start, value_end) = entry[1], entry[2]
            yield bytes(data[a:b]).decode(), value_start, value_end


def _missing_variables(paths: Collection[str]) -> list[str]:
    missing = [] if INDEX in paths else [INDEX]
    return missing + _missing_shards(paths, _SHARD, "variables/variables.data")


def _missing_bundle_variables(paths: Collection[str], needs: Needs) -> list[str]:
    """One file, shards of the first format, or an index and shards of the second."""
    if BUNDLE_VARIABLES in paths:
        return []
    index = f"{BUNDLE_VARIABLES}.index"
    if index in paths or any(map(_BUNDLE_DATA.fullmatch, paths)):
        missing = [] if index in paths else [index]
        return missing + _missing_shards(paths, _BUNDLE_DATA, f"{BUNDLE_VARIABLES}.data")
    if needs.variables or any(map(_BUNDLE_SHARD.fullmatch, paths)):
        return _missing_shards(paths, _BUNDLE_SHARD, BUNDLE_VARIABLES)
    return []


def _missing_shards(paths: Collection[str], shard: re.Pattern[str], name: str) -> list[str]:
    shards = [match for match in map(shard.fullmatch, paths) if match]
    count = max((int(match[2]) for match in shards), default=1)
    names = (f"{name}-{number:05}-of-{count:05}" for number in range(count))
    return [name for name in names if name not in paths]


def _needs(data: mmap.mmap) -> Needs:
    saver = any(end > start for start, end in nested(data, 0, len(data), (_META_GRAPHS, SAVER_DEF)))
    return Needs(saver and _has_variables(data), _assets(data))


def _assets(data: mmap.mmap) -> frozenset[str]:
    """Where TensorFlow 2 lists them, and where TensorFlow 1 did."""
    assets: set[str] = set()
    listed = (*ANY_VALUES, _ANY_VALUE, _FILENAME)
    for start, end in nested(data, 0, len(data), (_META_GRAPHS,)):
        assets.update(_strings(data, start, end, (_ASSET_FILE_DEF, _FILENAME)))
        for name, at, stop in collections(data, start, end):
            if name == "saved_model_assets":
                assets.update(_strings(data, at, stop, listed))
    return frozenset(assets)


def _bundle_needs(data: mmap.mmap) -> Needs:
    saver = any(end > start for start, end in nested(data, 0, len(data), (SAVER_DEF,)))
    path = (*ANY_VALUES, _ANY_VALUE, _FILENAME)
    assets = {
        asset
        for name, start, end in collections(data)
        if name == "serving_assets"
        for asset in _strings(data, start, end, path)
    }
    return Needs(saver and _has_variables(data), frozenset(assets))


def _has_variables(data: mmap.mmap) -> bool:
    return any(data.find(op) >= 0 for op in _VARIABLE_OPS)


def _strings(data: mmap.mmap, at: int, end: int, numbers: Sequence[int]) -> Iterator[str]:
    for start, stop in nested(data, at, end, numbers):
        yield data[start:stop].decode()


def _varint(data: mmap.mmap | memoryview, at: int, end: int) -> tuple[int, int]:
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
