"""Structures of arguments: what was stored comes back, and prints itself as TensorFlow would."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import DataLoss
from salver.protos.saved_model_file_pb2 import StructuredValue, TypeSpecProto
from salver.protos.tensor_plain_pb2 import TensorProto, TensorShapeProto
from salver.servables.structured_values import NamedTuple, decode, element_type, type_name

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
)
STRUCTURES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(), inner, max_size=4),
    ),
    max_leaves=20,
)
SHAPES = st.builds(
    TensorShapeProto,
    dim=st.lists(st.builds(TensorShapeProto.Dim, size=st.integers(-2, 2**63 - 1)), max_size=5),
    unknown_rank=st.booleans(),
)
ANY_SPEC = st.builds(
    TypeSpecProto,
    type_spec_class=st.integers(0, 20),
    type_spec_class_name=st.text(),
    type_state=st.one_of(
        STRUCTURES.map(lambda value: encoded(value)),
        SHAPES.map(lambda shape: StructuredValue(tensor_shape_value=shape)),
    ),
)


def encoded(value: object) -> StructuredValue:
    """The message that TensorFlow stores a value as."""
    message = StructuredValue()
    if value is None:
        message.none_value.SetInParent()
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int):
        message.int64_value = value
    elif isinstance(value, float):
        message.float64_value = value
    elif isinstance(value, str):
        message.string_value = value
    elif isinstance(value, list):
        message.list_value.SetInParent()
        message.list_value.values.extend(map(encoded, value))
    elif isinstance(value, tuple):
        message.tuple_value.SetInParent()
        message.tuple_value.values.extend(map(encoded, value))
    elif isinstance(value, dict):
        message.dict_value.SetInParent()
        for key, each in value.items():
            message.dict_value.fields[key].CopyFrom(encoded(each))
    return message


def shape(*sizes: int) -> StructuredValue:
    dims = [TensorShapeProto.Dim(size=size) for size in sizes]
    return StructuredValue(tensor_shape_value=TensorShapeProto(dim=dims))


@given(STRUCTURES)
def test_a_structure_comes_back(value: object):
    """Lists, tuples and mappings of Python's own values, nested in any way."""
    assert decode(encoded(value)) == value


@given(ANY_SPEC)
def test_any_spec_has_a_text(spec: TypeSpecProto):
    """Whatever its state is; one of another TensorFlow may hold anything."""
    assert isinstance(repr(decode(StructuredValue(type_spec_value=spec))), str)


def test_a_mapping_gets_the_order_of_its_keys():
    """It has none in the file."""
    value = decode(encoded({"b": 1, "a": 2, "c": 3}))

    assert list(value) == ["a", "b", "c"]


def test_a_named_tuple_needs_no_class():
    """Its fields are data, even where they could name none in Python."""
    message = StructuredValue()
    message.named_tuple_value.name = "Pair"
    message.named_tuple_value.values.add(key="left", value=encoded([1]))
    message.named_tuple_value.values.add(key="class", value=encoded("x"))

    value = decode(message)

    assert isinstance(value, NamedTuple)
    assert (repr(value), type_name(value)) == ("Pair(left=[1], class='x')", "Pair")
    assert list(value) == [[1], "x"]


def test_a_shape_prints_itself_as_in_tensorflow():
    """Beside other values in one form, by itself in another."""
    texts = [(str(value), repr(value)) for value in map(decode, [shape(), shape(-1), shape(2, -1)])]

    assert texts == [
        ("()", "TensorShape([])"),
        ("(None,)", "TensorShape([None])"),
        ("(2, None)", "TensorShape([2, None])"),
    ]


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (1, "float32"),
        (2, "float64"),
        (19, "float16"),
        (14, "bfloat16"),
        (7, "string"),
        (101, "float32_ref"),
        (77, "type_77"),
    ],
)
def test_an_element_type_has_the_name_of_tensorflows_python_package(number: int, name: str):
    """Which is not always that of its protobuf; a number from the future is told as such."""
    assert repr(element_type(number)) == f"tf.{name}"
    assert str(element_type(number)) == f"<dtype: '{name}'>"


def test_a_bounded_spec_tells_its_bounds():
    """They are tensors."""
    message = StructuredValue()
    spec = message.bounded_tensor_spec_value
    spec.name, spec.dtype = "x", 1
    spec.minimum.CopyFrom(TensorProto(dtype=1, float_val=[0.5], tensor_shape=TensorShapeProto()))
    spec.maximum.CopyFrom(TensorProto(dtype=1, float_val=[2.0], tensor_shape=TensorShapeProto()))

    assert repr(decode(message)) == (
        "BoundedTensorSpec(shape=(), dtype=tf.float32, name='x', "
        "minimum=array(0.5, dtype=float32), maximum=array(2., dtype=float32))"
    )


def test_a_constant_is_an_array():
    """Stored by NumPy or as a tensor."""
    tensor = TensorProto(dtype=3, int_val=[1, 2])
    tensor.tensor_shape.dim.add(size=2)

    value = decode(StructuredValue(numpy_value=tensor))

    assert isinstance(value, np.ndarray)
    assert value.tolist() == [1, 2]


@pytest.mark.parametrize(
    "message",
    [
        StructuredValue(),
        StructuredValue(numpy_value=TensorProto(dtype=3, tensor_content=b"123")),
        StructuredValue(numpy_value=TensorProto(dtype=20)),
        StructuredValue(type_spec_value=TypeSpecProto(type_spec_class=1)),
    ],
)
def test_what_makes_no_sense_is_told(message: StructuredValue):
    """A kind that is not known, a constant that is none, a spec without a state."""
    with pytest.raises(DataLoss):
        decode(message)


def test_no_number_stays_one():
    """NaN is not equal to itself, and comes back all the same."""
    value = decode(encoded(math.nan))

    assert isinstance(value, float)
    assert math.isnan(value)
