"""Which features a graph looks for in the ``tf.Example`` messages it is given.

A signature says only that it takes strings.  What has to be in them is told by the operation that
parses them: the names are its inputs, constants of the graph, and the types its attributes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from salver.dtypes import DType
from salver.protos.saved_model_file_pb2 import AttrValue, GraphDef, NodeDef
from salver.protos.tensor_plain_pb2 import TensorShapeProto


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature: how many values of which type; one is as good as any where that is not fixed."""

    name: str
    dtype: DType
    size: int = 1


def parsed_features(graph: GraphDef, tensor: str) -> list[Feature]:
    """The features that are parsed out of ``tensor``, by name.

    Where the tensor goes through a function first, those that any function parses are told.
    """
    fed = tensor.split(":")[0]
    features = dict(_features_in(graph.node, fed))
    if not features:
        for function in graph.library.function:
            features.update(_features_in(function.node_def))
    return [features[name] for name in sorted(features)]


def _features_in(nodes: Sequence[NodeDef], fed: str = "") -> Iterator[tuple[str, Feature]]:
    """The features of the operations among ``nodes`` that parse ``fed``, or anything if empty."""
    parsers = [node for node in nodes if node.op in ("ParseExample", "ParseExampleV2")]
    if not parsers:
        return
    constants = {node.name: node for node in nodes if node.op == "Const"}
    for node in parsers:
        if node.input and (not fed or _source(node.input[0]) == fed):
            parsed = _parsed(node) if node.op == "ParseExample" else _parsed_v2(node)
            for keys, types, shapes in parsed:
                for feature in _paired(_strings(keys, constants), types, shapes):
                    yield feature.name, feature


def _parsed(node: NodeDef) -> Iterator[tuple[Sequence[str], Sequence[int], Sequence[int]]]:
    """References to names, types and sizes: sparse features, then dense ones."""
    sparse = max(_attr(node, "Nsparse").i, 0)
    dense = max(_attr(node, "Ndense").i, 0)
    keys = list(node.input[2:])  # after the messages and their names
    yield keys[:sparse], _attr(node, "sparse_types").list.type, ()
    yield keys[sparse : sparse + dense], _attr(node, "Tdense").list.type, _sizes(node)


def _parsed_v2(node: NodeDef) -> Iterator[tuple[Sequence[str], Sequence[int], Sequence[int]]]:
    """The same, and ragged features; the names of each kind are one constant."""
    _, _, sparse, dense, ragged, *_ = [*node.input, "", "", "", "", ""]
    yield [sparse], _attr(node, "sparse_types").list.type, ()
    yield [dense], _attr(node, "Tdense").list.type, _sizes(node)
    yield [ragged], _attr(node, "ragged_value_types").list.type, ()


def _paired(names: Iterable[str], types: Sequence[int], sizes: Sequence[int]) -> Iterator[Feature]:
    for place, (name, number) in enumerate(zip(names, types, strict=False)):
        dtype = DType(number) if number in DType._value2member_map_ else DType.STRING
        yield Feature(name, dtype, sizes[place] if place < len(sizes) else 1)


def _sizes(node: NodeDef) -> list[int]:
    return [_size(shape) for shape in _attr(node, "dense_shapes").list.shape]


def _size(shape: TensorShapeProto) -> int:
    return math.prod(dim.size if dim.size >= 0 else 1 for dim in shape.dim)


def _strings(references: Iterable[str], constants: Mapping[str, NodeDef]) -> list[str]:
    found: list[str] = []
    for reference in references:
        node = constants.get(_source(reference))
        if node is not None:
            values = _attr(node, "value").tensor.string_val
            found += [value.decode("utf-8", "backslashreplace") for value in values]
    return found


def _source(reference: str) -> str:
    """The node in ``node``, ``node:0``, ``node:output:0`` or ``^node``."""
    return reference.split(":")[0].lstrip("^")


def _attr(node: NodeDef, name: str) -> AttrValue:
    return node.attr[name] if name in node.attr else AttrValue()
