"""What TensorFlow calls the traces of a SavedModel once it has loaded them.

It renames each ``__inference_<name>_<number>``, with a number from a counter of its process that
every graph, tensor and function of the load moves on, and lists traces in the order of these names
as text.  So ``…_99`` comes after ``…_105``, and which number a trace gets has to be counted here as
it is there, from the start of a process that loads nothing else.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from salver.protos.saved_model_file_pb2 import (
    FunctionDef,
    FunctionDefLibrary,
    MetaGraphDef,
    NodeDef,
    OpDef,
)

_TRACE: Final = re.compile(r"__inference_(.*)_\d+", re.DOTALL)

_CALLS: Final = ("PartitionedCall", "StatefulPartitionedCall")

_TAKEN_BEFORE: Final = 2
"""Numbers that go to the graph that is loaded into, and to the load itself."""


def names_after_loading(meta_graph: MetaGraphDef) -> dict[str, str]:
    """The new name of each function by the one it has in the file."""
    library = meta_graph.graph_def.library
    outputs = _Outputs(meta_graph)
    number = _TAKEN_BEFORE + sum(
        1 for one in library.registered_gradients if one.registered_op_type
    )
    names = {}
    for function in _in_load_order(library):
        number += 1  # for the graph of the function
        number += len(function.signature.input_arg) + sum(map(outputs.of, function.node_def))
        number += sum(map(_is_table_of_old, function.node_def))
        old = function.signature.name
        match = _TRACE.fullmatch(old)
        names[old] = f"__inference_{match[1] if match else old}_{number}"
        number += 1  # for the name itself
    return names


class _Outputs:
    """How many tensors a node gives: the file holds the definitions of the operations it uses."""

    def __init__(self, meta_graph: MetaGraphDef) -> None:
        definitions = meta_graph.meta_info_def.stripped_op_list.op
        functions = meta_graph.graph_def.library.function
        self._definitions: Mapping[str, OpDef] = {
            **{definition.name: definition for definition in definitions},
            **{function.signature.name: function.signature for function in functions},
        }

    def of(self, node: NodeDef) -> int:
        """The number; a guess where the operation has no definition in the file."""
        definition = self._definitions.get(node.op)
        if definition is not None:
            return sum(_width(output, node) for output in definition.output_arg)
        if "_output_shapes" in node.attr:
            return len(node.attr["_output_shapes"].list.shape)
        return 1


def _width(output: OpDef.ArgDef, node: NodeDef) -> int:
    """How many tensors one output stands for."""
    if output.number_attr in node.attr:
        return max(node.attr[output.number_attr].i, 0)
    if output.type_list_attr in node.attr:
        return len(node.attr[output.type_list_attr].list.type)
    return 1


def _is_table_of_old(node: NodeDef) -> bool:
    """Whether it is a table that TensorFlow gives a name of its own, to mend an old mistake."""
    sharing = node.attr.get("use_node_name_sharing")
    return node.op == "HashTableV2" and not (sharing is not None and sharing.b)


def _in_load_order(library: FunctionDefLibrary) -> Iterator[FunctionDef]:
    """Functions after those they need; of those that are free the last one first.

    A cycle, which TensorFlow never writes, comes last as it stands in the file.
    """
    functions = {function.signature.name: function for function in library.function}
    gradients = {
        one.registered_op_type.encode(): one.gradient_func
        for one in library.registered_gradients
        if one.registered_op_type
    }
    needed_by: dict[str, list[str]] = defaultdict(list)
    waits_for: dict[str, int] = {}
    for name, function in functions.items():
        needs = {need for need in _needs(function, functions, gradients) if need in functions}
        waits_for[name] = len(needs)
        for need in needs:
            needed_by[need].append(name)
    free = [name for name, count in waits_for.items() if not count]
    while free:
        name = free.pop()
        yield functions.pop(name)
        for other in needed_by[name]:
            waits_for[other] -= 1
            if not waits_for[other]:
                free.append(other)
    yield from functions.values()


def _needs(
    function: FunctionDef, functions: Mapping[str, FunctionDef], gradients: Mapping[bytes, str]
) -> Iterator[str]:
    for node in function.node_def:
        gradient = None if node.op in _CALLS else node.attr.get("_gradient_op_type")
        if node.op in functions:
            yield node.op
        elif gradient is not None and gradient.s in gradients:
            yield gradients[gradient.s]
        else:
            for value in node.attr.values():
                if value.WhichOneof("value") == "func":
                    yield value.func.name
                for each in value.list.func:
                    yield each.name
