"""Tensors on their way to another process: what arrives is what was sent, or an error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import DataLoss, InvalidArgument
from salver.servables.isolated_tensors import pack, unpack
from saved_models import DTYPES


def travelled(*tensors: np.ndarray, shared_from: float) -> list[np.ndarray]:
    packed = pack(tensors, shared_from=shared_from)
    shared = bytearray(packed.shared_bytes)
    packed.write_shared(shared)
    return unpack(packed.body, len(tensors), shared)


@pytest.mark.parametrize("shared_from", [0, float("inf")], ids=["shared", "here"])
@pytest.mark.parametrize("name", DTYPES)
def test_every_type_arrives_as_it_left(name: str, shared_from: float):
    """Element type, shape and values are the same on the other side."""
    tensor = DTYPES[name].reshape(1, 3, 1)

    (arrived,) = travelled(tensor, shared_from=shared_from)

    assert arrived.dtype == tensor.dtype
    assert arrived.shape == (1, 3, 1)
    assert arrived.tolist() == tensor.tolist()


@pytest.mark.parametrize("shared_from", [0, 64, float("inf")])
def test_several_tensors_keep_their_order_and_their_bytes(shared_from: float):
    """Scalars, empty ones, slices with steps and strings travel side by side."""
    tensors = [
        np.array(7, np.int8),
        np.zeros((2, 0, 3), np.float32),
        np.arange(100, dtype=np.int64)[::3],
        np.array([[b"", b"\x00\xff"], [b"x" * 1000, b"y"]], object),
        np.zeros((0,), object),
        np.arange(60, dtype=np.float64).reshape(3, 4, 5).T,
    ]

    arrived = travelled(*tensors, shared_from=shared_from)

    assert [each.shape for each in arrived] == [each.shape for each in tensors]
    assert [each.tolist() for each in arrived] == [each.tolist() for each in tensors]


def test_text_travels_as_utf8_and_other_objects_not_at_all():
    """As with the runtime itself: ``str`` is encoded, anything else is refused."""
    (arrived,) = travelled(np.array(["é"], object), shared_from=0)

    assert arrived.tolist() == ["é".encode()]
    with pytest.raises(InvalidArgument, match="not int"):
        pack([np.array([1], object)])


def test_what_lies_in_shared_memory_is_copied_out():
    """The memory may be written again as soon as the tensors are here."""
    packed = pack([np.ones(3, np.float32)], shared_from=0)
    shared = bytearray(packed.shared_bytes)
    packed.write_shared(shared)
    (arrived,) = unpack(packed.body, 1, shared)

    shared[:] = bytes(len(shared))

    assert arrived.tolist() == [1, 1, 1]


@given(st.binary(max_size=200), st.integers(0, 4), st.binary(max_size=64))
def test_any_bytes_are_tensors_or_lost_data(body: bytes, count: int, shared: bytes):
    """No bytes at all do more than raise DataLoss."""
    try:
        tensors = unpack(body, count, shared)
    except DataLoss:
        return

    assert len(tensors) == count


@given(st.data())
def test_damaged_tensors_are_tensors_or_lost_data(data: st.DataObject):
    """One changed byte, anywhere, reads nothing that was not sent."""
    tensors = [np.arange(4, dtype=np.int32), np.array([b"abc", b""], object), np.ones((2, 2))]
    packed = pack(tensors, shared_from=30)
    shared = bytearray(packed.shared_bytes)
    packed.write_shared(shared)
    body = bytearray(packed.body)
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    try:
        arrived = unpack(bytes(body), len(tensors), shared)
    except DataLoss:
        return

    assert sum(each.nbytes for each in arrived if not each.dtype.hasobject) <= len(body) + 64
