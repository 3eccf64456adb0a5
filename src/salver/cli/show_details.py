"""What ``salver show --details`` adds: what a SavedModel weighs, needs and brings along.

All of it is declared in files: nothing is loaded, so a signature's word is taken for its shapes.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from salver.apis.prediction_log import read_prediction_log
from salver.apis.tfrecord import read_records
from salver.cli.show_listing import signature_of
from salver.cli.show_samples import grpc_sample, rest_sample
from salver.errors import ServingError
from salver.model_server.golden import GOLDEN_REQUESTS
from salver.model_server.rehearsal import EXTRA_ASSETS
from salver.model_server.warmup import WARMUP_REQUESTS
from salver.protos.saved_model_file_pb2 import GraphDef, MetaGraphDef, NodeDef, SavedModel
from salver.protos.saved_model_pb2 import SignatureDef, TensorInfo
from salver.saved_model_files import GRAPH, missing_files, read_needs
from salver.servables.saved_model_file import meta_graph_of

_NOT_ASKED: Final = ("__saved_model_init_op", "__saved_model_train_op")
"""Signatures that TensorFlow's loader looks for; no client asks them."""

_WIDTH: Final = 96

_UNITS: Final = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}


def details(
    folder: Path, saved_model: SavedModel, tags: Collection[str] | None, signature: str | None
) -> Iterator[str]:
    """What there is to know of a version, or of its graph with ``tags``, or of one signature.

    Raises:
        NotFound: there is no such graph or signature.
    """
    graphs = list(saved_model.meta_graphs) if tags is None else [meta_graph_of(saved_model, tags)]
    if signature is not None and not any(signature in one.signature_def for one in graphs):
        signature_of(graphs[0], signature)
    yield from _on_disk(folder)
    yield f"Warmup requests: {_requests(folder, WARMUP_REQUESTS)}\n"
    yield f"Golden requests: {_requests(folder, GOLDEN_REQUESTS)}\n"
    for graph in graphs:
        yield from _graph(graph)
        for name in sorted(graph.signature_def):
            if name not in _NOT_ASKED and signature in (None, name):
                yield from _signature(folder, graph, name)


def why_not_batchable(definition: SignatureDef) -> list[str]:
    """What keeps requests to a signature from being run together; nothing, if they can be.

    To be batched, every input and output has to declare a first dimension that is left open.
    """
    if not definition.inputs:
        return ["it has no inputs"]
    return [
        f"{kind} {alias!r} {why}"
        for kind, infos in (("input", definition.inputs), ("output", definition.outputs))
        for alias, why in _unbatchable(infos)
    ]


def _unbatchable(infos: Mapping[str, TensorInfo]) -> Iterator[tuple[str, str]]:
    for alias in sorted(infos):
        info = infos[alias]
        sizes = [dim.size for dim in info.tensor_shape.dim]
        if info.WhichOneof("encoding") in ("coo_sparse", "composite_tensor"):
            yield alias, "is not one dense tensor"
        elif info.tensor_shape.unknown_rank:
            yield alias, "does not say how many dimensions it has"
        elif not sizes:
            yield alias, "has no dimensions"
        elif sizes[0] >= 0:
            yield alias, f"has a first dimension of exactly {sizes[0]}"


def _on_disk(folder: Path) -> Iterator[str]:
    sizes: dict[str, list[int]] = defaultdict(list)
    paths = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    for path in paths:
        sizes[path.relative_to(folder).parts[0]].append(_size(path))
    names = [path.relative_to(folder).as_posix() for path in paths]
    missing = missing_files(names, read_needs(folder / GRAPH))
    everything = [size for found in sizes.values() for size in found]
    yield f"Size on disk: {_weight(everything)}\n"
    for name in sorted(sizes):
        yield f"  {name}: {_weight(sizes[name])}\n"
    yield from (f"Missing, so that it cannot be served: {name}\n" for name in missing)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link that leads nowhere weighs nothing
        return 0


def _weight(sizes: list[int]) -> str:
    total = sum(sizes)
    files = f" in {len(sizes)} files" if len(sizes) > 1 else ""
    for unit, scale in _UNITS.items():
        if total >= scale:
            return f"{total / scale:.1f} {unit}{files}"
    return f"{total} bytes{files}"


def _requests(folder: Path, name: str) -> str:
    """How many of which kind are in a file of recorded requests."""
    path = folder / EXTRA_ASSETS / name
    if not path.exists():
        return "none"
    kinds: Counter[str] = Counter()
    try:
        for record in read_records(path):
            log = read_prediction_log(record)
            kinds["of no kind" if log is None else type(log).__name__.removesuffix("Log")] += 1
    except ServingError as error:
        return f"{path} cannot be used: after {kinds.total()} of them, {error.message}"
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"{kinds.total()} ({told})" if kinds else "none, though there is a file for them"


def _graph(meta_graph: MetaGraphDef) -> Iterator[str]:
    tags = ", ".join(meta_graph.meta_info_def.tags)
    graph = meta_graph.graph_def
    nodes = list(_nodes(graph))
    own = {function.signature.name for function in graph.library.function}
    ops = Counter(node.op for node in nodes if node.op not in own)
    yield f"\nMetaGraphDef with tag-set '{tags}':\n"
    yield f"  Written by TensorFlow {meta_graph.meta_info_def.tensorflow_version or '(unknown)'}\n"
    total = f"{ops.total()} of {len(ops)} kinds"
    yield f"  Operations: {total}, in the graph and {len(own)} functions\n"
    yield _told(ops, sorted(ops, key=lambda op: (-ops[op], op)))
    yield from _devices(nodes)


def _nodes(graph: GraphDef) -> Iterator[NodeDef]:
    """All there are, in functions that only an attribute names, too."""
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _devices(nodes: Collection[NodeDef]) -> Iterator[str]:
    pinned: dict[str, Counter[str]] = defaultdict(Counter)
    for node in nodes:
        if node.device:
            pinned[node.device][node.op] += 1
    if not pinned:
        yield "  Devices: no operation asks for one\n"
        return
    yield "  Devices that operations ask for:\n"
    for device in sorted(pinned):
        yield _told(pinned[device], sorted(pinned[device]), f"{device}: ")


def _told(ops: Mapping[str, int], order: Collection[str], start: str = "") -> str:
    """So many of each, with no line so long that it has to be; a count stays with its name."""
    lines = [f"    {start}"]
    for op in order:
        entry = f"{ops[op]} {op}, "
        if len(lines[-1]) + len(entry) > _WIDTH:
            lines.append("    ")
        lines[-1] += entry
    return "\n".join(line.rstrip() for line in lines).removesuffix(",") + "\n"


def _signature(folder: Path, meta_graph: MetaGraphDef, name: str) -> Iterator[str]:
    definition = meta_graph.signature_def[name]
    reasons = why_not_batchable(definition)
    yield f"\nsignature_def['{name}']:\n"
    yield f"  Batchable: {'no: ' + '; '.join(reasons) if reasons else 'yes'}\n"
    for door, make in (("REST", rest_sample), ("gRPC", grpc_sample)):
        yield _sample(
            door, partial(make, _model_name(folder), name, definition, meta_graph.graph_def)
        )


def _sample(door: str, make: Callable[[], str]) -> str:
    try:
        return f"  Sample request over {door}:\n    {make()}\n"
    except ServingError as error:
        return f"  No sample request over {door}: {error.message}\n"


def _model_name(folder: Path) -> str:
    """The name the model is probably served by: that of the folder its versions lie in."""
    path = folder.absolute()
    name = path.parent.name if path.name.isdecimal() else path.name
    return name or "default"
