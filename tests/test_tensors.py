"""TensorProtos read and written, with TensorFlow's own code as the judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salver.dtypes import DType
from salver.errors import InvalidArgument, ServingError
from salver.protos.tensor_pb2 import TensorProto
from salver.tensors import MAX_FILLED_BYTES, decode_tensor, encode_tensor, encode_tensor_content
from saved_models import tensorflow

SENDABLE = [d for d in DType if d not in (DType.INVALID, DType.RESOURCE, DType.VARIANT)]
UNKNOWN_TO_TENSORFLOW_PYTHON = (DType.FLOAT8_E4M3FNUZ, DType.FLOAT8_E5M2FNUZ)
"""TensorFlow's Python has numbers but no types for these."""


def sample(dtype: DType) -> np.ndarray:
    if dtype is DType.STRING:
        return np.array([[b"", b"text"], [b"\xff\x00" * 200, "ä".encode()]], object)
    if dtype.numpy.fields is not None:
        return np.array([[(1,), (2,)], [(3,), (100,)]], dtype.numpy)
    return np.array([[0, 1], [1, 0]], np.float32).astype(dtype.numpy)


def plain(shadow: TensorProto):
    """The same bytes as TensorFlow's own message."""
    tensorflow()
    from tensorflow.core.framework import tensor_pb2

    return tensor_pb2.TensorProto.FromString(shadow.SerializeToString())


def shadow(**fields: object) -> TensorProto:
    """A message built with TensorFlow's own class, as a client would send it."""
    tensorflow()
    from tensorflow.core.framework import tensor_pb2

    shape = fields.pop("shape", None)
    message = tensor_pb2.TensorProto(**fields)
    if shape is not None:
        message.tensor_shape.SetInParent()
        for size in shape:
            message.tensor_shape.dim.add().size = size
    return TensorProto.FromString(message.SerializeToString())


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()


@pytest.mark.parametrize("dtype", SENDABLE, ids=lambda d: d.label)
def test_typed_fields_survive_a_round_trip(dtype: DType):
    """Every type that can be sent is read back from its typed field as it was."""
    message = TensorProto()
    encode_tensor(message, sample(dtype))

    assert not message.tensor_content
    assert same(decode_tensor(message), sample(dtype))


@pytest.mark.parametrize("dtype", SENDABLE, ids=lambda d: d.label)
def test_tensor_content_survives_a_round_trip(dtype: DType):
    """Every type that can be sent is read back from ``tensor_content`` as it was."""
    message = TensorProto()
    encode_tensor_content(message, sample(dtype))

    assert same(decode_tensor(message), sample(dtype))


@pytest.mark.parametrize(
    "dtype", [d for d in SENDABLE if d not in UNKNOWN_TO_TENSORFLOW_PYTHON], ids=lambda d: d.label
)
@pytest.mark.parametrize("encode", [encode_tensor, encode_tensor_content])
def test_tensorflow_reads_what_is_written(dtype: DType, encode):
    """TensorFlow's C++ ``Tensor::FromProto`` makes the same tensor of our bytes."""
    tf = tensorflow()
    message = TensorProto()
    encode(message, sample(dtype))

    definition = tf.compat.v1.GraphDef()
    node = definition.node.add(name="constant", op="Const")
    node.attr["dtype"].type = int(dtype)
    node.attr["value"].tensor.CopyFrom(plain(message))
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.import_graph_def(definition, name="")
        answer = session.run("constant:0")

    assert answer.shape == (2, 2)
    if dtype is DType.STRING:
        assert answer.tolist() == sample(dtype).tolist()
    else:
        assert answer.tobytes() == sample(dtype).tobytes()


@pytest.mark.parametrize(
    "dtype",
    [DType.FLOAT, DType.DOUBLE, DType.INT32, DType.INT64, DType.UINT8, DType.BOOL, DType.STRING],
    ids=lambda d: d.label,
)
def test_what_tensorflow_writes_is_read(dtype: DType):
    """``tf.make_tensor_proto``, which most clients use, is understood."""
    made = tensorflow().make_tensor_proto(sample(dtype), dtype=tensorflow().as_dtype(int(dtype)))
    message = TensorProto.FromString(made.SerializeToString())

    assert same(decode_tensor(message), sample(dtype))


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.uint8, np.complex64]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
@settings(max_examples=200)
def test_any_array_survives_and_tensorflow_agrees(array: np.ndarray):
    """Bit for bit, empty and scalar shapes included."""
    message = TensorProto()
    encode_tensor(message, array)

    assert decode_tensor(message).tobytes() == array.tobytes()
    assert tensorflow().make_ndarray(plain(message)).tobytes() == array.tobytes()


def test_missing_values_repeat_the_last_one():
    """Fewer values than the shape: the last is repeated, as ``Tensor::FromProto`` does."""
    message = shadow(dtype=1, shape=[2, 2], float_val=[1.0, 2.0])

    assert decode_tensor(message).tolist() == [[1.0, 2.0], [2.0, 2.0]]


@pytest.mark.parametrize("dtype", SENDABLE, ids=lambda d: d.label)
def test_no_values_at_all_mean_zeros(dtype: DType):
    """A shape without values is a tensor of zeros or of empty strings."""
    decoded = decode_tensor(shadow(dtype=int(dtype), shape=[3]))

    zero = b"" if dtype is DType.STRING else np.zeros(1, dtype.numpy).tolist()[0]
    assert decoded.tolist() == [zero] * 3


def test_surplus_values_are_ignored():
    """More values than the shape: the first ones count."""
    message = shadow(dtype=3, shape=[2], int_val=[7, 8, 9])

    assert decode_tensor(message).tolist() == [7, 8]


def test_narrow_integers_wrap():
    """300 in an int8 tensor is 44, as in TensorFlow."""
    assert decode_tensor(shadow(dtype=6, shape=[1], int_val=[300])).tolist() == [44]


def test_no_shape_means_a_scalar():
    """A message without ``tensor_shape`` is one value."""
    assert decode_tensor(shadow(dtype=1, float_val=[4.0])).tolist() == 4.0


def test_content_wins_over_the_typed_field():
    """Where both are filled, ``tensor_content`` is what counts."""
    message = shadow(dtype=1, shape=[1], float_val=[4.0], tensor_content=b"\0\0\0\0")

    assert decode_tensor(message).tolist() == [0.0]


def test_values_that_are_not_packed_are_read():
    """Senders of proto2 habits write one field per number."""
    one_by_one = b"".join(b"\x2d" + np.float32(x).tobytes() for x in (1, 2, 3))
    message = TensorProto.FromString(shadow(dtype=1, shape=[3]).SerializeToString() + one_by_one)

    assert decode_tensor(message).tolist() == [1.0, 2.0, 3.0]


def test_values_packed_in_several_runs_are_read():
    """A packed field may arrive in pieces; they are joined in order."""
    first, second = shadow(dtype=9, shape=[4], int64_val=[1, -2]), shadow(int64_val=[300, 4])
    message = TensorProto.FromString(first.SerializeToString() + second.SerializeToString())

    assert decode_tensor(message).tolist() == [1, -2, 300, 4]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (TensorProto(dtype=0), "cannot be sent"),
        (TensorProto(dtype=20), "cannot be sent"),
        (TensorProto(dtype=101), "no tensor type"),
        (TensorProto(dtype=-5), "no tensor type"),
        (shadow(dtype=1, shape=[-1]), "no tensor shape"),
        (shadow(dtype=1, shape=[1] * 255), "no tensor shape"),
        (shadow(dtype=1, shape=[2**40, 2**40]), "too many elements"),
        (shadow(dtype=1, shape=[MAX_FILLED_BYTES], float_val=[1.0]), "are filled in"),
        (shadow(dtype=1, shape=[2], tensor_content=b"1234567"), "takes 8"),
        (shadow(dtype=7, shape=[2], tensor_content=b"\x05"), "no room for the lengths"),
        (shadow(dtype=7, shape=[1], tensor_content=b"\x05abc"), "add up to 5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_makes_no_tensor_is_refused(message: TensorProto, text: str):
    """Shape, type and length are checked before anything is allocated."""
    with pytest.raises(InvalidArgument, match=text):
        decode_tensor(message)


def test_unknown_rank_is_refused():
    """A tensor that is sent has a rank."""
    message = TensorProto(dtype=1)
    message.tensor_shape.unknown_rank = True

    with pytest.raises(InvalidArgument):
        decode_tensor(message)


@given(st.binary(max_size=120), st.sampled_from(SENDABLE))
def test_no_message_does_worse_than_an_error_of_the_tree(octets: bytes, dtype: DType):
    """Any bytes that parse at all give a tensor of the shape they say, or a ServingError."""
    try:
        message = TensorProto.FromString(octets)
    except DecodeError:
        return
    message.dtype = int(dtype)
    try:
        decoded = decode_tensor(message)
    except ServingError:
        return

    assert decoded.size == math.prod(dim.size for dim in message.tensor_shape.dim)


@pytest.mark.parametrize("sizes", [[1] * 100, [1] * 254, [0, 2**62], [0, 2**62, 2**62]])
def test_shape_that_numpy_cannot_hold_is_refused(sizes):
    """Dimensions that TensorFlow would take and NumPy does not are the client's error."""
    proto = TensorProto(dtype=DType.FLOAT)
    for size in sizes:
        proto.tensor_shape.dim.add().size = size

    with pytest.raises(InvalidArgument, match="a tensor of shape"):
        decode_tensor(proto)
