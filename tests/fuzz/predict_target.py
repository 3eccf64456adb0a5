"""PredictRequests: read the long way as protobuf reads them, and the short way as the long one.

    make fuzz ARGS="--target predict"

An input is one message.  It is learned, then changed in many places without a change of its length;
whatever the memo still takes for a message it knows has to mean what a full parse says.
"""

from __future__ import annotations

import math
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

import salver.protos
from fuzz.engine import INTERESTING, Target, mutated_bytes, with_words
from salver.apis.grpc_codec import declared_values, read_predict
from salver.apis.grpc_memo import PredictMemo
from salver.apis.requests import ModelSpec, PredictRequest
from salver.dtypes import DType
from salver.errors import Code, ServingError
from salver.varints import encode_varint

FILES = ("apis/grpc_codec.py", "apis/grpc_memo.py", "salver/tensors.py", "salver/varints.py")
CHANGES = 24
MAX_DECLARED = 1 << 16
"""A shape may ask for more in earnest; here nothing is learned from filling it."""

FIELDS = {
    DType.FLOAT: "float_val",
    DType.DOUBLE: "double_val",
    DType.INT64: "int64_val",
    DType.UINT32: "uint32_val",
    DType.UINT64: "uint64_val",
    DType.BOOL: "bool_val",
    DType.STRING: "string_val",
    DType.INT32: "int_val",
}
"""Types whose values an oracle of a few lines can read."""


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return encode_varint(number << 3 | 2) + encode_varint(len(payload)) + payload


def tensor(dtype: int, dims: tuple[int, ...], *values: bytes) -> bytes:
    """A TensorProto."""
    shape = b"".join(field(2, b"\x08" + encode_varint(dim)) for dim in dims)
    return b"\x08" + encode_varint(dtype) + field(2, shape) + b"".join(values)


def entry(name: bytes, value: bytes) -> bytes:
    """One input of a request."""
    return field(2, field(1, name) + field(2, value))


NUMBERS = np.arange(4, dtype=np.float32).tobytes()
WORDS = (
    *(field(1, field(1, b"m")), field(1, b""), field(1, field(1, b"m") + field(2, b"\x08\x07"))),
    *(field(3, b"y"), field(3, b"\x2a\x04\x00\x00\x80\x3f"), field(1, field(3, b"sig"))),
    *(entry(b"x", tensor(1, (4,), field(5, NUMBERS))), entry(b"x", tensor(1, (4,)))),
    entry(b"x", tensor(1, (4,), field(4, NUMBERS))),
    entry(b"z", tensor(1, (1,), b"\x2d\x00\x00\x80\x3f")),
    entry(b"z", tensor(2, (2, 1), field(6, NUMBERS))),
    entry(b"i", tensor(9, (3,), field(10, b"\x01\xff\x01\x02"))),
    entry(b"s", tensor(7, (2,), field(8, b"ab"), field(8, b""))),
    entry(b"b", tensor(10, (2, 0), field(11, b"\x01\x00"))),
    entry(b"q", tensor(3, (2, 3), field(7, b"\x05"))),
    entry(b"w", tensor(23, (2,), field(17, b"\x05\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))),
    *(field(2, b"\x08\x04"), b"\x18\x01", b"\x08\x01", field(5, NUMBERS), field(4, NUMBERS)),
)


@cache
def public_request() -> Any:
    """The message as TensorFlow Serving publishes it, in a pool of its own."""
    path = Path(salver.protos.__file__).with_name("public.binpb")
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file:
        pool.Add(file)
    name = "tensorflow.serving.PredictRequest"
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


Meaning = tuple[ModelSpec, tuple[str, ...], dict[str, object]]


def run(data: bytes) -> None:
    """Read it the long way, then its neighbours the short way."""
    parsed = read(data)
    if parsed is None:
        return
    spec, request = parsed
    meaning = meaning_of(spec, request)
    compare_with_protobuf(data, meaning)
    memo: PredictMemo[Any] = PredictMemo()
    try:
        known = memo.learn(data, spec, request)
    except ServingError:
        return  # the verb would have refused it before
    if known is None:
        return
    for other in (data, *neighbours(data)):
        compare_with_memo(memo, other)


def read(data: bytes) -> tuple[ModelSpec, PredictRequest] | None:
    """The long way; None for what is refused, or too large to be looked at here."""
    try:
        spec, request = read_predict(data)
    except ServingError as error:
        is_message = accepts(data)
        if is_message is not None and error.code is Code.INTERNAL:
            raise AssertionError("protobuf takes it for a message") from error
        return None
    return None if declared_values(request) > MAX_DECLARED else (spec, request)


def accepts(data: bytes) -> Any:
    """The published message, None for what is none."""
    try:
        return public_request().FromString(data)
    except DecodeError:
        return None


def meaning_of(spec: ModelSpec, request: PredictRequest) -> Meaning:
    """All there is to know of a request; the code of its error for what is no tensor."""
    tensors = {alias: tensor_or_code(request, alias) for alias in request.inputs}
    return spec, tuple(request.output_filter), tensors


def tensor_or_code(request: PredictRequest, alias: str) -> object:
    """One tensor, or why it is none."""
    try:
        return comparable(request.inputs[alias])
    except ServingError as error:
        return error.code


def comparable(array: np.ndarray) -> object:
    """An array as something that is equal to its equals; one NaN is as good as another."""
    if array.dtype == object:
        return array.dtype, array.shape, list(array.flat)
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), array.dtype.type("nan"), array)
    return array.dtype, array.shape, array.tobytes()


def compare_with_protobuf(data: bytes, meaning: Meaning) -> None:
    """The published message says the same; where it is none, we may be more patient."""
    message = accepts(data)
    if message is None:
        return
    spec, output_filter, tensors = meaning
    if (spec.name, spec.signature_name) != (
        message.model_spec.name,
        message.model_spec.signature_name,
    ) or output_filter != tuple(message.output_filter):
        raise AssertionError("the model or the filter is another one")
    if tensors.keys() != set(message.inputs):
        raise AssertionError("the inputs are not the same")
    for alias, ours in tensors.items():
        theirs = tensor_of(message.inputs[alias])
        if theirs is not None and ours != theirs:
            raise AssertionError(f"{alias}: {ours} is not {theirs}")


def tensor_of(proto: Any) -> object:
    """What TensorFlow makes of a message, as far as a few lines can tell."""
    dims = [dim.size for dim in proto.tensor_shape.dim]
    if proto.dtype not in FIELDS or proto.tensor_shape.unknown_rank or len(dims) > 8:
        return None
    size = math.prod(dims)
    if any(dim < 0 for dim in dims) or not 0 < size <= MAX_DECLARED:
        return None
    dtype = DType(proto.dtype)
    if proto.tensor_content:
        if dtype is DType.STRING:
            return None
        if len(proto.tensor_content) != size * dtype.numpy.itemsize:
            return Code.INVALID_ARGUMENT
        return comparable(np.frombuffer(proto.tensor_content, dtype.numpy).reshape(dims))
    values = list(getattr(proto, FIELDS[dtype]))[:size]
    filling = values[-1] if values else b"" if dtype is DType.STRING else 0
    array = np.empty(size, dtype.numpy)
    array[:] = values + [filling] * (size - len(values))
    return comparable(array.reshape(dims))


def neighbours(data: bytes) -> list[bytes]:
    """Messages of the same length that differ in a few bytes, the same ones each time."""
    rng = random.Random(len(data))  # noqa: S311 -- repeatable, not secret
    others = []
    for count in range(CHANGES):
        other = bytearray(data)
        for _ in range(1 + count % 3):
            other[rng.randrange(len(data))] = rng.choice((*INTERESTING, rng.randrange(256)))
        others.append(bytes(other))
    return others


def compare_with_memo(memo: PredictMemo[Any], data: bytes) -> None:
    """What the memo takes for known has to be what a full parse says."""
    known = memo.find(data)
    if known is None:
        return
    try:
        spec, request = read_predict(data)
    except ServingError as error:
        raise AssertionError("the memo knows what is no message") from error
    inputs = zip(known.aliases, known.inputs(data), strict=True)
    short = (
        known.spec,
        tuple(known.request.output_filter),
        {alias: comparable(array) for alias, array in inputs},
    )
    long = meaning_of(spec, request)
    if short != long:
        raise AssertionError(f"the short way says {short}, the long way {long}")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a field of the message somewhere down its tree, and keep all lengths right."""
    fields = fields_of(data)
    if not fields or rng.random() < 0.05:
        return with_words(WORDS)(data, rng)
    index = rng.randrange(len(fields))
    kind = rng.randrange(6)
    if kind == 0:
        fields.insert(rng.randrange(len(fields) + 1), fields[index])
    elif kind == 1:
        del fields[index]
    elif kind == 2:
        fields.insert(index, rng.choice(WORDS))
    else:
        head, payload = split(fields[index])
        if payload is None:
            fields[index] = mutated_bytes(fields[index], rng)
        else:
            deeper = mutate if kind < 5 and payload else mutated_bytes
            changed = deeper(payload, rng)
            fields[index] = head + encode_varint(len(changed)) + changed
    return b"".join(fields)


def fields_of(data: bytes) -> list[bytes]:
    """A message cut into its fields, none if it is no message."""
    fields, position = [], 0
    while position < len(data):
        end = end_of_field(data, position)
        if end is None:
            return []
        fields.append(data[position:end])
        position = end
    return fields


def end_of_field(data: bytes, start: int) -> int | None:
    """Where a field ends, None if it does not."""
    tag, position = varint(data, start)
    size = {1: 8, 5: 4}.get(tag & 7, 0)
    if tag & 7 == 0:
        _, position = varint(data, position)
    elif tag & 7 == 2:
        size, position = varint(data, position)
    elif not size:
        return None
    return position + size if start < position + size <= len(data) else None


def split(field: bytes) -> tuple[bytes, bytes | None]:
    """The tag and the payload of a length-delimited field; None for others."""
    tag, position = varint(field, 0)
    if tag & 7 != 2:
        return field, None
    _, start = varint(field, position)
    return field[:position], field[start:]


def varint(data: bytes, position: int) -> tuple[int, int]:
    """A number and where it ends."""
    number = shift = 0
    while position < len(data) and shift < 64:
        number |= (data[position] & 0x7F) << shift
        shift, position = shift + 7, position + 1
        if data[position - 1] < 0x80:
            break
    return number, position


TARGET = Target(run, mutate, FILES, blind=0.05)
