"""A SavedModel's file, read to be explained: nothing is loaded, and nothing of it runs.

Whoever asks gets the messages or one line that says what is in the folder instead.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from salver.errors import (
    DataLoss,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServingError,
    Unavailable,
)
from salver.protos.saved_model_file_pb2 import GraphDef, MetaGraphDef, NodeDef, SavedModel

BINARY: Final = "saved_model.pb"
TEXT: Final = "saved_model.pbtxt"

MAX_FILE_BYTES: Final = (1 << 31) - 1
"""No message of protobuf's is longer."""

_OTHER_FORMATS: Final = {
    "saved_model.cpb": "a SavedModel in pieces (saved_model.cpb), which only TensorFlow can read",
    "model.tflite": "a TensorFlow Lite model (model.tflite)",
    "export.meta": "a SessionBundle (export.meta)",
}
"""What a version can be besides a SavedModel, by the file that tells."""

_NAMED: Final = 8
"""So many files or versions are named in an error text."""

_CALLS: Final = ("PartitionedCall", "StatefulPartitionedCall")


def read_saved_model(folder: Path) -> SavedModel:
    """The SavedModel in a version's folder.

    Raises:
        NotFound: the folder is not there, or has no SavedModel in it.
        FailedPrecondition: it is a model's folder, whose versions have one, or no folder.
        DataLoss: the file is cut off or something else.
        ServingError: the file cannot be read.
    """
    names = _names(folder)
    if BINARY in names:
        return parse_binary(_content(folder / BINARY), folder / BINARY)
    if TEXT in names:
        return parse_text(_content(folder / TEXT), folder / TEXT)
    raise _something_else(folder, names)


def parse_binary(content: bytes, path: Path) -> SavedModel:
    """The SavedModel in the bytes of a ``saved_model.pb``.

    Raises:
        DataLoss: they are none, or one without a graph.
    """
    try:
        return _with_graph(SavedModel.FromString(content), path)
    except DecodeError as error:
        text = f"{path} is no SavedModel, or was cut off; export the model again, or copy it anew"
        raise DataLoss(text) from error


def parse_text(content: bytes, path: Path) -> SavedModel:
    """The SavedModel in the bytes of a ``saved_model.pbtxt``.

    Raises:
        DataLoss: they are none, or one without a graph.
    """
    message = SavedModel()
    try:
        text_format.Parse(content.decode(), message, allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise DataLoss(f"{path} is no SavedModel in text form: {error}") from error
    return _with_graph(message, path)


def meta_graph_of(saved_model: SavedModel, tags: Collection[str]) -> MetaGraphDef:
    """The graph that has exactly these tags.

    Raises:
        NotFound: there is none; the text says which tag-sets there are.
    """
    wanted = set(tags)
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == wanted:
            return meta_graph
    there = " and ".join(repr(",".join(one.meta_info_def.tags)) for one in saved_model.meta_graphs)
    asked = ",".join(sorted(wanted))
    raise NotFound(f"there is no MetaGraphDef with the tag-set {asked!r}; there is {there}")


def used_nodes(graph: GraphDef) -> Iterator[NodeDef]:
    """The nodes of the graph and of the functions it calls, directly or not.

    A function that is only named by an attribute, such as a loop's body, does not count as called:
    so does ``saved_model_cli`` have it.
    """
    functions = {function.signature.name: function for function in graph.library.function}
    yield from graph.node
    called = list(_called(graph.node))
    while called:
        function = functions.pop(called.pop(), None)
        if function is not None:
            yield from function.node_def
            called += _called(function.node_def)


def used_ops(graph: GraphDef) -> set[str]:
    """The kinds of operation in those nodes; calls of the graph's own functions are none."""
    own = {function.signature.name for function in graph.library.function}
    return {node.op for node in used_nodes(graph)} - own


def _called(nodes: Collection[NodeDef]) -> Iterator[str]:
    for node in nodes:
        yield node.op
        if node.op in _CALLS and "f" in node.attr:
            yield node.attr["f"].func.name


def _with_graph(saved_model: SavedModel, path: Path) -> SavedModel:
    if not saved_model.meta_graphs:
        raise DataLoss(f"{path} has no graph in it: it is empty, or no SavedModel")
    return saved_model


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        raise NotFound(f"there is no folder {folder}") from None
    except NotADirectoryError:
        text = f"{folder} is no folder; the folder of a version is asked for, as in {folder.parent}"
        raise FailedPrecondition(text) from None
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def _content(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise FailedPrecondition(f"{path} is no regular file")
        if found.st_size > MAX_FILE_BYTES:
            raise ResourceExhausted(f"{path} is larger than the 2 GiB a SavedModel can have")
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | ValueError) -> ServingError:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    kind = PermissionDenied if isinstance(error, PermissionError) else Unavailable
    return kind(f"{path} cannot be read: {reason}")


def _something_else(folder: Path, names: list[str]) -> ServingError:
    for name, format_ in _OTHER_FORMATS.items():
        if name in names:
            return FailedPrecondition(f"{folder} holds {format_}; only SavedModels can be shown")
    versions = sorted(int(name) for name in names if name.isdecimal() and name.isascii())
    if versions:
        return FailedPrecondition(
            f"{folder} is the folder of a model; its versions: {_listed(versions)}. "
            f"Show one of them, as in --dir={folder / str(versions[-1])}"
        )
    return NotFound(f"there is no {BINARY} in {folder}; what there is: {_listed(names)}")


def _listed(values: list[int] | list[str]) -> str:
    """The last few, which are the newest of versions, after the count of those left out."""
    left_out = len(values) - _NAMED
    shown = [f"{left_out} more", *values[left_out:]] if left_out > 0 else values
    return ", ".join(map(str, shown)) or "nothing"
