r"""The lines of ``saved_model_cli show``, TensorFlow 2.21's, from a SavedModel that was only read.

Two things have no order in the file and another one in TensorFlow's output each time it runs: the
set of operations, and mappings among the arguments of a function.  They are sorted here.
The ``\b\b`` after the last value of a list is TensorFlow's, which so takes back a comma.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from salver.errors import DataLoss, NotFound
from salver.protos.saved_model_file_pb2 import MetaGraphDef, SavedModel
from salver.protos.saved_model_pb2 import SignatureDef, TensorInfo
from salver.protos.tensor_plain_pb2 import DataType
from salver.servables.concrete_functions import ConcreteFunction, concrete_functions, has_functions
from salver.servables.saved_model_file import used_ops
from salver.servables.structured_values import NamedTuple, Shape, TensorSpec, type_name

_REF = 100


def tag_sets(saved_model: SavedModel) -> Iterator[str]:
    """Which graphs there are."""
    yield "The given SavedModel contains the following tag-sets:\n"
    for tags in sorted(list(one.meta_info_def.tags) for one in saved_model.meta_graphs):
        yield f"{', '.join(sorted(tags))!r}\n"


def signature_names(meta_graph: MetaGraphDef) -> Iterator[str]:
    """Which signatures a graph has."""
    yield "The given SavedModel MetaGraphDef contains SignatureDefs with the following keys:\n"
    for name in sorted(meta_graph.signature_def):
        yield f'SignatureDef key: "{name}"\n'


def signature_of(meta_graph: MetaGraphDef, name: str) -> SignatureDef:
    """The signature with a name.

    Raises:
        NotFound: there is none; the text says which there are.
    """
    if name not in meta_graph.signature_def:
        there = ", ".join(sorted(meta_graph.signature_def)) or "none"
        raise NotFound(f"there is no signature {name!r}; there is {there}")
    return meta_graph.signature_def[name]


def signature(meta_graph: MetaGraphDef, name: str, margin: str = "") -> Iterator[str]:
    """What a signature takes and gives.

    Raises:
        NotFound: there is none of that name.
    """
    definition = signature_of(meta_graph, name)
    yield f"{margin}The given SavedModel SignatureDef contains the following input(s):\n"
    yield from _tensors("inputs", definition.inputs, margin)
    yield f"{margin}The given SavedModel SignatureDef contains the following output(s):\n"
    yield from _tensors("outputs", definition.outputs, margin)
    yield f"{margin}Method name is: {definition.method_name}\n"


def operations(meta_graph: MetaGraphDef) -> str:
    """Which kinds of operation a graph is made of."""
    ops = sorted(used_ops(meta_graph.graph_def))
    listed = "{" + ", ".join(map(repr, ops)) + "}" if ops else "set()"
    tags = list(meta_graph.meta_info_def.tags)
    return f"The MetaGraph with tag set {tags} contains the following ops: {listed}\n"


def everything(saved_model: SavedModel) -> Iterator[str]:
    """Every signature of every graph, their operations, and the functions of the object."""
    for meta_graph in sorted(saved_model.meta_graphs, key=lambda one: list(one.meta_info_def.tags)):
        tags = ", ".join(meta_graph.meta_info_def.tags)
        yield f"\nMetaGraphDef with tag-set: '{tags}' contains the following SignatureDefs:\n"
        for name in sorted(meta_graph.signature_def):
            yield f"\nsignature_def['{name}']:\n"
            yield from signature(meta_graph, name, "  ")
        yield operations(meta_graph)
    if has_functions(saved_model):
        yield "\nConcrete Functions:"
        yield from _functions(saved_model)


def _tensors(kind: str, infos: Mapping[str, TensorInfo], margin: str) -> Iterator[str]:
    for alias in sorted(infos):
        info = infos[alias]
        shape = info.tensor_shape
        sizes = "unknown_rank" if shape.unknown_rank else _sizes(dim.size for dim in shape.dim)
        yield f"{margin}  {kind}['{alias}'] tensor_info:\n"
        yield f"{margin}      dtype: {_type(info.dtype)}\n"
        yield f"{margin}      shape: {sizes}\n"
        yield f"{margin}      name: {info.name}\n"


def _sizes(sizes: Iterable[int]) -> str:
    return f"({', '.join(map(str, sizes))})"


def _type(number: int) -> str:
    names = DataType.values()
    if number in names:
        return DataType.Name(number)
    return f"{_type(number - _REF)}_REF" if number > _REF else str(number)


def _functions(saved_model: SavedModel) -> Iterator[str]:
    try:
        functions = concrete_functions(saved_model)
    except DataLoss:
        yield " N/A (could not be listed due to unknown reasons)\n"
        return
    for function in functions:
        yield from _function(function)
    if not functions:
        yield "\n"


def _function(function: ConcreteFunction) -> Iterator[str]:
    yield f"\n  Function Name: '{function.name}'\n"
    for number, trace in enumerate(function.traces, 1):
        if trace.args:
            yield f"    Option #{number}\n      Callable with:\n"
        for place, value in enumerate(trace.args, 1):
            yield f"        Argument #{place}\n"
            yield from _argument(value)
        for place, name in enumerate(trace.kwargs, 1):  # their names are all TensorFlow prints
            yield f"        Named Argument #{place}\n          {name}\n"


def _argument(value: object) -> Iterator[str]:
    margin = " " * 10
    if isinstance(value, str):
        yield f"{margin}{value}\n"
        return
    if isinstance(value, TensorSpec):
        yield f"{margin}{value.name}: {value!r}\n"
        return
    yield f"{margin}DType: {type_name(value)}\n{margin}Value: "
    if isinstance(value, (list, tuple, NamedTuple, Shape)) or _is_array(value):
        yield "[" + "".join(f"{_quoted(each)}, " for each in _elements(value)) + "\b\b]\n"
    elif isinstance(value, dict):
        yield (
            "{" + "".join(f"'{key}': {_quoted(each)}, " for key, each in value.items()) + "\b\b}\n"
        )
    else:
        yield f"{value}\n"


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) and bool(value.ndim)


def _elements(value: object) -> Iterable[object]:
    return value if isinstance(value, Iterable) else ()


def _quoted(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
