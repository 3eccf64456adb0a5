"""Features of tf.Examples as arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import InvalidArgument
from salver.protos.example_pb2 import Example
from salver.servables.example_features import feature


def example(**features: list[float] | list[int] | list[bytes]) -> bytes:
    message = Example()
    for name, values in features.items():
        kinds = {float: "float_list", int: "int64_list", bytes: "bytes_list"}
        held = getattr(message.features.feature[name], kinds[type(values[0])])
        held.value.extend(values)
    return message.SerializeToString()


def strings(*items: bytes) -> np.ndarray:
    return np.array(items, object)


def test_each_example_becomes_a_row():
    """In their order, with the type that was asked for."""
    examples = strings(example(x=[1.0, 2.0], n=[7]), example(x=[3.0, 4.0], n=[8]))

    assert feature(examples, "x").tolist() == [[1, 2], [3, 4]]
    assert feature(examples, "x").dtype == np.float32
    assert feature(examples, "n", np.int64).tolist() == [[7], [8]]


def test_bytes_stay_bytes():
    """Strings come as objects."""
    assert feature(strings(example(s=[b"\xff", b""])), "s", object).tolist() == [[b"\xff", b""]]


@pytest.mark.parametrize(
    ("examples", "complaint"),
    [
        (strings(b"\xff"), "Could not parse example input"),
        (strings(example(y=[1.0])), r"lacks the feature x; it has \['y'\]"),
        (strings(example(x=[1])), "feature x is a float_list; an example has it as int64_list"),
        (strings(example(x=[1.0]), example(x=[1.0, 2.0])), "1 values in one example and 2 in"),
    ],
)
def test_what_cannot_be_an_array_is_an_invalid_argument(examples: np.ndarray, complaint: str):
    """Each with what is wrong."""
    with pytest.raises(InvalidArgument, match=complaint):
        feature(examples, "x")


def test_other_types_are_not_in_examples():
    """A mistake of whoever wrote the model, not of the client."""
    with pytest.raises(TypeError, match="uint8"):
        feature(strings(example(x=[1.0])), "x", np.uint8)


@given(text=st.binary(max_size=60))
def test_any_bytes_are_read_or_an_invalid_argument(text: bytes):
    """No client can raise anything else."""
    try:
        found = feature(strings(text), "x")
    except InvalidArgument:
        return

    assert found.shape[0] == 1
