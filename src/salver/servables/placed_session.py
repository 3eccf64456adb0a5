"""A SavedModel on a device that its server chose: TensorFlow's loader, step by step.

TensorFlow's own loader has no word for "this model there": its session config is about all devices
at once, and the one device filter it has is for other machines.  An import of a graph has a default
device, though.  So the graph is imported with one, and the variables, assets and the init op follow
in the loader's order and with its feeds.  Functions run where they are called from, so they need no
device of their own; what the model itself pinned stays pinned.

Placement is soft: strings, tables and the reading of variables have no kernels on a GPU, and a
model that is given one means the part that has.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from salver.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from salver.protos.saved_model_pb2 import AssetFileDef, MetaGraphDef, SignatureDef
from salver.protos.session_bundle_pb2 import CollectionDef, SaverDef
from salver.saved_model_files import GRAPH, INDEX, SAVER_DEF, collections, fields, nested
from salver.servables.devices import device_name
from salver.servables.libtensorflow import LibTensorFlow
from salver.servables.tensorflow_graph import Graph, GraphSession, devices_of, run_op
from salver.servables.tensorflow_session import Session

SOFT_PLACEMENT: Final = b"\x38\x01"
"""tensorflow.ConfigProto { allow_soft_placement: true }."""

_PLACED: Final = "salver_placed"

# Field numbers of SavedModel, MetaGraphDef and MetaInfoDef.
_META_GRAPHS: Final = 2
_META_INFO: Final = 1
_GRAPH_DEF: Final = 2
_SIGNATURE_DEF: Final = 5
_ASSET_FILE_DEF: Final = 6

_INIT_SIGNATURE: Final = "__saved_model_init_op"
_INIT_COLLECTIONS: Final = ("saved_model_main_op", "legacy_init_op")
"""Where the init op stands, in the order in which TensorFlow looks."""
_ASSETS: Final = "saved_model_assets"


@dataclass(frozen=True, slots=True)
class _MetaGraph:
    """What of a MetaGraphDef a load needs; the graph is named by where it lies."""

    graph: tuple[int, int]
    saver: SaverDef
    assets: tuple[AssetFileDef, ...]
    init_op: str


def load_session_on(
    device: str, library: LibTensorFlow, folder: Path, tags: Sequence[str], config: bytes = b""
) -> Session:
    """Load the SavedModel in ``folder``; ops that it has not pinned itself run on ``device``.

    ``config`` is a serialized ``tensorflow.ConfigProto``.

    Raises:
        FailedPrecondition: there is no such device here.
        ServingError: what is wrong with the SavedModel, in TensorFlow's words where it has some.
    """
    content = _read(folder / GRAPH)
    try:
        start, end = _tagged(content, tags)
        meta_graph = _meta_graph(content, start, end)
    except (ValueError, DecodeError) as error:
        raise DataLoss(f"{folder / GRAPH} cannot be read: {error}; copy it anew") from error
    graph = Graph(library)
    try:
        address = graph.new_session(config + SOFT_PLACEMENT)
        view = memoryview(content)[start:end]
        session = GraphSession(library, address, graph.address, view)
    except BaseException:
        graph.close()
        raise
    try:
        check_device(device, devices_of(library, session.address))
        graph.add(content, *meta_graph.graph, default_device=device)
        run_op(session, graph.add_no_op(_PLACED), [])
        _initialise(session, graph, folder, meta_graph)
    except BaseException:
        session.close()
        raise
    return session


def _initialise(session: Session, graph: Graph, folder: Path, meta_graph: _MetaGraph) -> None:
    """Restore the variables, then run the init op; both are fed the paths of the assets."""
    assets = [
        (graph.output(asset.tensor_info.name), bytes(folder / "assets" / asset.filename))
        for asset in meta_graph.assets
    ]
    if (folder / INDEX).exists() and meta_graph.saver.restore_op_name:
        filename = graph.output(meta_graph.saver.filename_tensor_name)
        restore = graph.operation(meta_graph.saver.restore_op_name)
        prefix = bytes(folder / INDEX.removesuffix(".index"))
        run_op(session, restore, [(filename, prefix), *assets])
    if meta_graph.init_op:
        run_op(session, graph.operation(meta_graph.init_op), assets)


def check_device(device: str, available: Sequence[str]) -> None:
    """TensorFlow would place softly on the CPU, and nobody would know."""
    found = [device_name(name) for name in available]
    if device not in found:
        raise FailedPrecondition(
            f"the model is to run on {device}, and there are only {', '.join(found)}; "
            "choose one of these, or make more: a GPU that TensorFlow can see, or device_count "
            "in a session config file for CPUs"
        )


def _read(path: Path) -> bytearray:
    try:
        return bytearray(path.read_bytes())
    except FileNotFoundError as error:
        raise InvalidArgument(
            f"{path} is not there, and a model whose server chooses its device needs it; export "
            "the model in binary, or leave the device to TensorFlow"
        ) from error
    except OSError as error:
        raise PermissionDenied(
            f"{path} cannot be read by user {os.geteuid()}: {error.strerror}"
        ) from error


def _tagged(content: bytearray, tags: Sequence[str]) -> tuple[int, int]:
    """Where the MetaGraphDef with exactly these tags lies."""
    with memoryview(content) as view:
        for start, end in nested(view, 0, len(view), (_META_GRAPHS,)):
            info = b"".join(view[at:stop] for at, stop in nested(view, start, end, (_META_INFO,)))
            if set(MetaGraphDef.MetaInfoDef.FromString(info).tags) == set(tags):
                return start, end
    raise NotFound(
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(sorted(tags))} }}. To "
        "inspect available tag-sets in the SavedModel, please use the SavedModel CLI: "
        "`saved_model_cli`"
    )


def _meta_graph(content: bytearray, start: int, end: int) -> _MetaGraph:
    with memoryview(content) as view:
        parts = [(number, at, stop) for number, at, stop in fields(view, start, end)]
        graphs = [(at, stop) for number, at, stop in parts if number == _GRAPH_DEF]
        if len(graphs) != 1:
            raise ValueError(f"it holds {len(graphs)} graphs where one is meant")
        saver = SaverDef()
        assets: list[AssetFileDef] = []
        for number, at, stop in parts:
            if number == SAVER_DEF:
                saver.MergeFromString(bytes(view[at:stop]))
            elif number == _ASSET_FILE_DEF:
                assets.append(AssetFileDef.FromString(bytes(view[at:stop])))
        found = {
            name: CollectionDef.FromString(bytes(view[at:stop]))
            for name, at, stop in collections(view, start, end)
            if name in (*_INIT_COLLECTIONS, _ASSETS)
        }
        init_op = _init_op(view, parts) or _init_op_of_version_1(found)
    return _MetaGraph(graphs[0], saver, tuple(assets) or _assets_of_version_1(found), init_op)


def _init_op(view: memoryview, parts: Sequence[tuple[int, int, int]]) -> str:
    """The init op that a signature of its own names, as TensorFlow 2 writes it."""
    for number, at, stop in parts:
        if number != _SIGNATURE_DEF:
            continue
        entry = {part: bytes(view[a:b]) for part, a, b in fields(view, at, stop)}
        if entry.get(1) == _INIT_SIGNATURE.encode():  # key and value of a map's entry
            signature = SignatureDef.FromString(entry.get(2, b""))
            return signature.outputs[_INIT_SIGNATURE].name
    return ""


def _init_op_of_version_1(found: Mapping[str, CollectionDef]) -> str:
    for name in _INIT_COLLECTIONS:
        if name in found:
            ops = found[name].node_list.value
            if len(ops) != 1:
                raise FailedPrecondition(
                    f"the collection {name} names {len(ops)} ops and has to name one; export the "
                    "model again"
                )
            return ops[0]
    return ""


def _assets_of_version_1(found: Mapping[str, CollectionDef]) -> tuple[AssetFileDef, ...]:
    if _ASSETS not in found:
        return ()
    return tuple(AssetFileDef.FromString(value.value) for value in found[_ASSETS].any_list.value)
