"""What is read of a SavedModel's file: the graph that is meant, its operations, what it parses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dtypes import DType
from salver.errors import DataLoss, NotFound, ResourceExhausted, ServingError
from salver.protos.saved_model_file_pb2 import GraphDef, MetaGraphDef, NodeDef, SavedModel
from salver.servables.concrete_functions import concrete_functions
from salver.servables.parsed_features import Feature, parsed_features
from salver.servables.saved_model_file import (
    MAX_FILE_BYTES,
    meta_graph_of,
    parse_binary,
    parse_text,
    read_saved_model,
    used_ops,
)
from salver.servables.trace_names import names_after_loading
from saved_models import ESTIMATORS

PATH = Path("saved_model.pb")


def node(name: str, op: str, *inputs: str) -> NodeDef:
    return NodeDef(name=name, op=op, input=inputs)


def calling(name: str, op: str, attr: str, function: str) -> NodeDef:
    called = node(name, op)
    called.attr[attr].func.name = function
    return called


def add_function(graph: GraphDef, name: str, *nodes: NodeDef, inputs: int = 0) -> None:
    function = graph.library.function.add()
    function.signature.name = name
    for _ in range(inputs):
        function.signature.input_arg.add()
    function.signature.output_arg.add()
    function.node_def.extend(nodes)


def text_constant(name: str, *values: bytes) -> NodeDef:
    constant = node(name, "Const")
    constant.attr["value"].tensor.string_val.extend(values)
    return constant


def test_a_graph_is_found_by_all_its_tags_in_any_order():
    """One tag less, or one more, is another tag-set."""
    saved_model = SavedModel()
    saved_model.meta_graphs.add().meta_info_def.tags.extend(["serve", "gpu"])
    saved_model.meta_graphs.add().meta_info_def.tags.append("serve")

    assert meta_graph_of(saved_model, ["gpu", "serve"]) == saved_model.meta_graphs[0]
    with pytest.raises(NotFound, match="there is 'serve,gpu' and 'serve'"):
        meta_graph_of(saved_model, ["gpu"])


def test_operations_count_where_they_are_called():
    """In the graph and in functions it calls; a loop's body is only named by the loop."""
    graph = GraphDef(node=[node("x", "Placeholder"), calling("call", "PartitionedCall", "f", "a")])
    add_function(graph, "a", node("m", "MatMul"), node("b", "b"))
    add_function(graph, "b", calling("w", "While", "body", "c"), node("again", "a"))
    add_function(graph, "c", node("s", "Sub"))
    add_function(graph, "never", node("d", "Div"))

    assert used_ops(graph) == {"Placeholder", "PartitionedCall", "MatMul", "While"}


def test_names_count_on_with_every_tensor():
    """Arguments, outputs of nodes, the function's graph and its name each take a number."""
    meta_graph = MetaGraphDef()
    split = meta_graph.meta_info_def.stripped_op_list.op.add(name="Split")
    split.output_arg.add(number_attr="num_split")
    meta_graph.meta_info_def.stripped_op_list.op.add(name="NoOp")
    splitting = node("s", "Split")
    splitting.attr["num_split"].i = 3
    graph = meta_graph.graph_def
    add_function(graph, "__inference_f_7", splitting, node("n", "NoOp"), inputs=2)
    add_function(graph, "plain", calling("p", "PartitionedCall", "f", "__inference_f_7"), inputs=1)

    names = names_after_loading(meta_graph)

    # two before all; then 1 graph + 2 arguments + 3 outputs, and the name is the next
    assert names == {"__inference_f_7": "__inference_f_8", "plain": "__inference_plain_12"}


def test_functions_that_call_each_other_are_counted_last():
    """TensorFlow writes no such file; somebody may."""
    graph = GraphDef()
    add_function(graph, "a", node("b", "b"))
    add_function(graph, "b", node("a", "a"))
    add_function(graph, "c", node("c", "c"))
    add_function(graph, "d", inputs=1)

    assert list(names_after_loading(MetaGraphDef(graph_def=graph))) == ["d", "a", "b", "c"]


def test_features_are_read_off_what_parses_them():
    """Both operations, sparse features and dense ones."""
    parse = node("parse", "ParseExample", "in", "no_names", "sparse_key", "dense_key", "default")
    parse.attr["Nsparse"].i = 1
    parse.attr["Ndense"].i = 1
    parse.attr["sparse_types"].list.type.append(7)
    parse.attr["Tdense"].list.type.append(9)
    parse.attr["dense_shapes"].list.shape.add().dim.add(size=3)
    keys = [text_constant("sparse_key", b"word"), text_constant("dense_key", b"count")]
    graph = GraphDef(node=[node("in", "Placeholder"), parse, *keys])

    assert parsed_features(graph, "in:0") == [
        Feature("count", DType.INT64, 3),
        Feature("word", DType.STRING),
    ]
    assert parsed_features(graph, "other:0") == []


def test_features_of_an_estimator_are_found():
    """As TensorFlow 2.15 exported it."""
    saved_model = read_saved_model(ESTIMATORS / "classifier_parsing" / "1")
    graph = saved_model.meta_graphs[0].graph_def

    assert parsed_features(graph, "input_example_tensor:0") == [Feature("x", DType.FLOAT, 2)]


def test_a_file_that_no_message_can_be_is_not_read(tmp_path: Path):
    """Its size is enough."""
    with (tmp_path / "saved_model.pb").open("wb") as sparse:
        sparse.truncate(MAX_FILE_BYTES + 1)

    with pytest.raises(ResourceExhausted, match="larger than the 2 GiB"):
        read_saved_model(tmp_path)


def test_text_nested_without_end_is_refused():
    """A reader that recurses must not be led to the end of its stack."""
    text = b"meta_graphs { " + b"a { " * 50_000 + b"} " * 50_000 + b"}"

    with pytest.raises(DataLoss, match="no SavedModel in text form"):
        parse_text(text, PATH)


def test_an_object_graph_that_names_what_is_not_there_is_told():
    """A child without a node, a function without a definition."""
    saved_model = SavedModel()
    objects = saved_model.meta_graphs.add().object_graph_def
    root = objects.nodes.add()
    root.children.add(local_name="f", node_id=1)
    with pytest.raises(DataLoss, match="'f' is not there"):
        concrete_functions(saved_model)

    objects.nodes.add().function.concrete_functions.append("__inference_f_1")
    with pytest.raises(DataLoss, match="'__inference_f_1' is not there"):
        concrete_functions(saved_model)


@pytest.mark.parametrize("parse", [parse_binary, parse_text])
@given(content=st.binary(max_size=100))
def test_any_bytes_are_a_model_or_an_error_of_ours(
    parse: Callable[[bytes, Path], SavedModel], content: bytes
):
    """In either form of file, read to the last function."""
    with contextlib.suppress(ServingError):
        saved_model = parse(content, PATH)
        for meta_graph in saved_model.meta_graphs:
            used_ops(meta_graph.graph_def)
            names_after_loading(meta_graph)
        concrete_functions(saved_model)
