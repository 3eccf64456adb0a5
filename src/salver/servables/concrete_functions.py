"""The functions that a SavedModel of TensorFlow 2 offers in Python, and how each may be called.

They hang on the object that was exported.  A function was traced once for each way it was called;
the traces are told in the order in which TensorFlow tells them once it has loaded the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from salver.errors import DataLoss
from salver.protos.saved_model_file_pb2 import MetaGraphDef, SavedModel, SavedObjectGraph
from salver.servables.structured_values import decode
from salver.servables.trace_names import names_after_loading


@dataclass(frozen=True, slots=True)
class Trace:
    """One way to call a function: what it takes by position and what by name."""

    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConcreteFunction:
    """An attribute of the exported object that can be called."""

    name: str
    traces: Sequence[Trace]


def has_functions(saved_model: SavedModel) -> bool:
    """Whether there are objects at all: TensorFlow 1 exported none."""
    return any(one.HasField("object_graph_def") for one in saved_model.meta_graphs)


def concrete_functions(saved_model: SavedModel) -> list[ConcreteFunction]:
    """The functions of the exported object, by name.

    Raises:
        DataLoss: the object graph names what is not there, or a structure cannot be read.
    """
    if len(saved_model.meta_graphs) != 1:
        raise DataLoss("objects can be listed only where there is one MetaGraphDef")
    meta_graph = saved_model.meta_graphs[0]
    traces_of = _traces_by_child(meta_graph.object_graph_def)
    names = names_after_loading(meta_graph) if traces_of else {}
    return [
        ConcreteFunction(name, _traces(meta_graph, traces_of[name], names))
        for name in sorted(traces_of)
    ]


@dataclass(frozen=True, slots=True)
class _Stored:
    """The traces that a child has, and the names of a bare one's arguments, which may be all."""

    functions: Sequence[str]
    keywords: Sequence[str] = ()


def _traces_by_child(objects: SavedObjectGraph) -> dict[str, _Stored]:
    if not objects.nodes:
        return {}
    found: dict[str, _Stored] = {}
    for child in objects.nodes[0].children:
        if not 0 <= child.node_id < len(objects.nodes):
            raise DataLoss(f"the object {child.local_name!r} is not there")
        node = objects.nodes[child.node_id]
        kind = node.WhichOneof("kind")
        if kind == "function":
            found[child.local_name] = _Stored(list(node.function.concrete_functions))
        elif kind == "bare_concrete_function":
            bare = node.bare_concrete_function
            found[child.local_name] = _Stored(
                [bare.concrete_function_name], list(bare.argument_keywords)
            )
        else:
            found.pop(child.local_name, None)
    return found


def _traces(meta_graph: MetaGraphDef, stored: _Stored, names: Mapping[str, str]) -> list[Trace]:
    missing = [function for function in stored.functions if function not in names]
    if missing:
        raise DataLoss(f"the function {missing[0]!r} is not there")
    functions = sorted(stored.functions, key=lambda function: names[function].encode())
    return [_trace(meta_graph.object_graph_def, one, stored.keywords) for one in functions]


def _trace(objects: SavedObjectGraph, function: str, keywords: Sequence[str]) -> Trace:
    if function not in objects.concrete_functions:
        return Trace(keywords)
    signature = decode(objects.concrete_functions[function].canonicalized_input_signature)
    if not (isinstance(signature, tuple) and len(signature) == len(("args", "kwargs"))):
        raise DataLoss(f"the function {function!r} has no signature")
    args, kwargs = signature
    if not (isinstance(args, (tuple, list)) and isinstance(kwargs, dict)):
        raise DataLoss(f"the function {function!r} has a signature that is none")
    return Trace(args, kwargs)
