"""The short way to read and write a Predict, always beside the long one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salver.apis.grpc_codec import read_predict, write_predict
from salver.apis.grpc_memo import MAX_KNOWN, KnownPredict, PredictMemo
from salver.apis.requests import ModelSpec
from salver.protos import serving_pb2
from salver.tensors import encode_tensor, encode_tensor_content

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4)
ENCODERS = st.sampled_from([encode_tensor, encode_tensor_content])
FLOATS = st.sampled_from([np.float32, np.float64])


def request(tensors: dict[str, np.ndarray], encode=encode_tensor, *, name: str = "m") -> bytes:
    message = serving_pb2.PredictRequest()
    message.model_spec.name = name
    for alias, array in tensors.items():
        encode(message.inputs[alias], array)
    message.output_filter.extend(["y"])
    return message.SerializeToString(deterministic=True)


def learned(memo: PredictMemo, data: bytes) -> KnownPredict | None:
    spec, parsed = read_predict(data)
    return memo.learn(data, spec, parsed)


def same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return (ours.dtype, ours.shape, ours.tobytes()) == (
        theirs.dtype,
        theirs.shape,
        theirs.tobytes(),
    )


@given(
    st.data(),
    st.lists(st.tuples(FLOATS, SHAPES), min_size=1, max_size=3),
    ENCODERS,
)
def test_other_numbers_are_read_as_protobuf_reads_them(data, kinds, encode):
    """Any message like a learned one gives the same tensors both ways, in any number."""
    first, second = (
        {f"in{i}": data.draw(hnp.arrays(dtype, shape)) for i, (dtype, shape) in enumerate(kinds)}
        for _ in range(2)
    )
    memo = PredictMemo()
    if learned(memo, request(first, encode)) is None:
        return  # numbers that stand there twice are left to the long way
    sent = request(second, encode)

    known = memo.find(sent)
    _, parsed = read_predict(sent)

    assert known is not None
    assert known.request.output_filter == ("y",)
    for alias, array in zip(known.aliases, known.inputs(sent), strict=True):
        assert same(array, parsed.inputs[alias])


def test_what_is_known_of_one_model_is_listed_apart():
    """A model's own messages, and no other's."""
    memo = PredictMemo()
    ours = learned(memo, request({"x": np.array([1.5], np.float32)}, name="mine"))
    learned(memo, request({"x": np.array([1.5], np.float32)}, name="another"))

    assert memo.of_model("mine") == [ours]
    assert memo.of_model("nobody") == []


@given(st.data(), hnp.arrays(np.float32, SHAPES))
def test_a_change_outside_the_numbers_is_never_taken_for_the_same(data, array):
    """One octet that differs elsewhere, and the message is not known."""
    memo = PredictMemo()
    sent = request({"x": array})
    if learned(memo, sent) is None:
        return
    payload = sent.find(array.tobytes())
    outside = [i for i in range(len(sent)) if not payload <= i < payload + array.nbytes]
    at = data.draw(st.sampled_from(outside))
    changed = bytearray(sent)
    changed[at] ^= data.draw(st.integers(1, 255))

    assert memo.find(bytes(changed)) is None


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, 2, 3], np.int64),  # varints change their length with their value
        np.array([b"text"], object),
        np.empty((0, 4), np.float32),
        np.zeros(300_000, np.float32),  # parsing is not what takes time
    ],
)
def test_what_the_short_way_cannot_read_is_not_learned(array: np.ndarray):
    """It stays with the long way, and is not tried again and again."""
    memo = PredictMemo()
    sent = request({"x": array})

    assert learned(memo, sent) is None
    assert learned(memo, sent) is None
    assert memo.find(sent) is None


def test_numbers_that_stand_there_twice_are_not_learned():
    """Where they are is not beyond doubt."""
    array = np.array([1.5, 2.5], np.float32)

    assert learned(PredictMemo(), request({"a": array, "b": array})) is None


def test_values_that_were_filled_in_are_not_learned():
    """A shape with fewer values than it says needs the long way."""
    message = serving_pb2.PredictRequest()
    message.model_spec.name = "m"
    encode_tensor(message.inputs["x"], np.array([1.0], np.float32))
    message.inputs["x"].tensor_shape.dim[0].size = 3

    assert learned(PredictMemo(), message.SerializeToString()) is None


def test_the_memory_is_bounded():
    """A client that keeps changing its sizes starts over."""
    memo = PredictMemo()
    sent = [request({"x": np.arange(n, dtype=np.float32) + 1}) for n in range(1, MAX_KNOWN + 3)]
    for each in sent:
        learned(memo, each)

    assert sum(memo.find(each) is not None for each in sent) <= MAX_KNOWN
    assert memo.find(sent[-1]) is not None


@given(st.data(), SHAPES, FLOATS)
def test_an_answer_like_one_before_is_written_as_protobuf_writes_it(data, shape, dtype):
    """Byte for byte, as long as version, type and shape stay."""
    memo = PredictMemo()
    known = learned(memo, request({"x": np.array([1.5], np.float32)}))
    spec = ModelSpec("m", version=3, signature_name="serving_default")
    first, second = ({"y": data.draw(hnp.arrays(dtype, shape))} for _ in range(2))
    known.learn_answer(3, ("y",), list(first.values()), write_predict(spec, first))

    answer = known.answer(3, list(second.values()))

    assert answer in (None, write_predict(spec, second))
    assert known.answer(4, list(second.values())) is None
    assert known.answer(3, [np.zeros((*shape, 2), dtype)]) is None


def test_an_answer_with_other_types_takes_the_long_way():
    """Nothing is known of how it is written."""
    known = learned(PredictMemo(), request({"x": np.array([1.5], np.float32)}))
    spec = ModelSpec("m", version=1, signature_name="s")
    outputs = {"y": np.array([2.5], np.float32)}
    known.learn_answer(1, ("y",), list(outputs.values()), write_predict(spec, outputs))

    assert known.answer(1, [np.array([3.5], np.float32)]) is not None
    assert known.answer(1, [np.array([3.5], np.float64)]) is None


@pytest.mark.parametrize(
    "message",
    [
        "0a030a016d12120a017a120d08011204120208012d616263644a062a0461626364",
        "0a030a016d12120a017a120d08011204120208012d0000003f1a062a040000003f",
    ],
    ids=["a field that nobody knows", "an output filter"],
)
def test_numbers_that_stand_in_another_place_are_not_taken_for_the_tensors(message: str):
    """The tensor has its one value unpacked; the same bytes, packed, stand elsewhere."""
    assert learned(PredictMemo(), bytes.fromhex(message)) is None
