"""Packed varints, against protobuf's own encoder and decoder."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salver.protos.tensor_pb2 import TensorProto as ShadowTensorProto
from salver.protos.tensor_plain_pb2 import TensorProto
from salver.varints import decode_varints, encode_varints

INT64 = st.integers(-(2**63), 2**63 - 1)
EDGES = [0, 1, 127, 128, 16383, 16384, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), -1]


def packed_by_protobuf(numbers: list[int]) -> bytes:
    message = TensorProto(int64_val=numbers)
    shadow = ShadowTensorProto.FromString(message.SerializeToString())
    return b"".join(shadow.int64_val)


@given(st.lists(INT64 | st.sampled_from(EDGES)))
def test_numbers_are_encoded_as_protobuf_encodes_them(numbers: list[int]):
    """Any int64 list becomes the very bytes that protobuf writes for it."""
    assert encode_varints(np.array(numbers, np.int64)) == packed_by_protobuf(numbers)


@given(st.lists(INT64 | st.sampled_from(EDGES)))
def test_numbers_come_back_from_protobufs_bytes(numbers: list[int]):
    """What protobuf packed is read back, sign and all."""
    decoded = decode_varints(packed_by_protobuf(numbers))

    assert decoded.astype(np.int64).tolist() == numbers


@given(
    hnp.arrays(
        st.sampled_from([np.bool_, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint64]),
        st.integers(0, 40),
    )
)
def test_every_integer_width_survives_the_way_there_and_back(numbers: np.ndarray):
    """Whatever its width, an array is the same after a round trip."""
    decoded = decode_varints(encode_varints(numbers)).astype(numbers.dtype)

    assert decoded.tolist() == numbers.tolist()


@given(st.binary(max_size=60))
def test_no_bytes_do_worse_than_a_value_error(octets: bytes):
    """Garbage is decoded or refused, nothing else."""
    try:
        decoded = decode_varints(octets)
    except ValueError:
        return

    assert decoded.size == sum(octet < 0x80 for octet in octets)


@pytest.mark.parametrize("octets", [b"\x80", b"\x01\xff", b"\x80" * 10 + b"\x01"])
def test_a_number_cut_off_or_too_long_is_refused(octets: bytes):
    """A varint has an end, within ten bytes."""
    with pytest.raises(ValueError, match="varint"):
        decode_varints(octets)
