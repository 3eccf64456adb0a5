"""Serialized tf.Example messages, against TensorFlow's own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.example import example_pb2

from salver.apis.examples import (
    UNSET_FEATURE,
    encode_bytes_feature,
    encode_example,
    encode_float_feature,
    encode_int64_feature,
    with_context,
)
from salver.errors import InvalidArgument

FLOATS = st.floats(width=32, allow_nan=False)
FEATURES = st.dictionaries(
    st.text(max_size=8),
    st.one_of(
        st.lists(st.binary(max_size=200), min_size=1),
        st.lists(FLOATS, min_size=1),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
        st.none(),
    ),
    max_size=5,
)


def encoded(values):
    if values is None:
        return UNSET_FEATURE
    kind = type(values[0])
    return {
        bytes: encode_bytes_feature,
        float: encode_float_feature,
        int: encode_int64_feature,
    }[kind](values)


@given(FEATURES)
def test_tensorflow_reads_the_same_example(features):
    """An encoded example, parsed by TensorFlow's classes, is the example they build."""
    expected = example_pb2.Example()
    for name, values in features.items():
        feature = expected.features.feature[name]
        if values is not None:
            kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
            getattr(feature, kind).value.extend(values)

    raw = encode_example({name.encode(): encoded(values) for name, values in features.items()})

    assert example_pb2.Example.FromString(raw) == expected


def test_no_features_make_the_empty_message():
    """An example without features takes no bytes."""
    assert encode_example({}) == b""


def test_floats_beyond_float32_become_infinite():
    """A feature holds floats of 32 bits; larger numbers overflow silently."""
    raw = encode_example({b"x": encode_float_feature([1e39, -1e39])})

    values = example_pb2.Example.FromString(raw).features.feature["x"].float_list.value
    assert list(values) == [np.inf, -np.inf]


def test_a_context_is_not_copied_without_end():
    """A small request whose context and examples multiply to gigabytes is refused."""
    with pytest.raises(InvalidArgument, match="no more than"):
        with_context(b"c" * 1_000_000, [b""] * 10_000)
