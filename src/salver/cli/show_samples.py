"""Requests to start from: one for each signature, of zeros and empty strings, ready to be pasted.

A signature that takes serialized ``tf.Example`` messages is given one with the features that its
graph parses.  A dimension that is left open is 1.
"""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from salver.apis.examples import (
    encode_bytes_feature,
    encode_example,
    encode_float_feature,
    encode_int64_feature,
)
from salver.dtypes import DType
from salver.errors import InvalidArgument
from salver.protos.saved_model_file_pb2 import GraphDef
from salver.protos.saved_model_pb2 import SignatureDef, TensorInfo
from salver.servables.parsed_features import Feature, parsed_features
from salver.signature import CLASSIFY_METHOD, DEFAULT_SERVING_SIGNATURE, REGRESS_METHOD

GRPC_ADDRESS: Final = "localhost:8500"
REST_ADDRESS: Final = "localhost:8501"

MAX_VALUES: Final = 64
"""More of them are not written out, but made by a line of Python where that can be."""

MAX_RANK: Final = 254
"""No tensor of TensorFlow's has more dimensions."""

_REF: Final = 100

_PLAIN: Final = frozenset(range(ord(" "), ord("~") + 1)) - frozenset(b"\"'\\")
"""Octets that stand for themselves in protobuf's text form and in any shell's quotes."""

_VERBS: Final = {CLASSIFY_METHOD: "Classify", REGRESS_METHOD: "Regress"}


@dataclass(frozen=True, slots=True)
class _Input:
    """One input: its shape with 1 for what is left open, and what stands in it."""

    dtype: DType
    sizes: Sequence[int]
    example: bytes | None
    """The serialized Example it takes, where it takes one."""

    @property
    def is_empty(self) -> bool:
        return 0 in self.sizes

    @property
    def written(self) -> int:
        """How many values it takes to write it as nested lists."""
        return math.prod(max(size, 1) for size in self.sizes)


def rest_sample(model: str, name: str, definition: SignatureDef, graph: GraphDef) -> str:
    """A line for a shell that asks over REST.

    Raises:
        InvalidArgument: JSON cannot say what the signature takes.
    """
    verb = _VERBS.get(definition.method_name, "Predict").lower()
    url = f"{REST_ADDRESS}/v1/models/{model}:{verb}"
    body: dict[str, object] = {}
    if name != DEFAULT_SERVING_SIGNATURE:
        body["signature_name"] = name
    if definition.method_name in _VERBS:
        body["examples"] = [_example_as_json(_features(definition, graph))]
        return f"curl -d {shlex.quote(json.dumps(body))} {shlex.quote(url)}"
    if not definition.inputs:
        raise InvalidArgument("it needs an input, and the signature takes none")
    inputs = {alias: _input(alias, info, graph) for alias, info in _sorted(definition.inputs)}
    for alias, each in inputs.items():
        if each.dtype not in _JSON:
            raise InvalidArgument(f"JSON has no {each.dtype.label}, which input {alias!r} takes")
    by_rows = _by_rows(definition)
    if sum(each.written for each in inputs.values()) > MAX_VALUES:
        return f"{_python(body, inputs, by_rows=by_rows)} | curl -d @- {shlex.quote(url)}"
    values = {alias: _nested(_JSON[each.dtype](each), each.sizes) for alias, each in inputs.items()}
    body.update(_laid_out(values, by_rows=by_rows))
    return f"curl -d {shlex.quote(json.dumps(body))} {shlex.quote(url)}"


def grpc_sample(model: str, name: str, definition: SignatureDef, graph: GraphDef) -> str:
    """A line for a shell that asks over gRPC, with the request in protobuf's text form.

    A tensor is written with one value: those that are left out are as the last one.  An input that
    has a default is left out, too.

    Raises:
        InvalidArgument: a request cannot hold what the signature takes.
    """
    verb = _VERBS.get(definition.method_name, "Predict")
    request = f"model_spec {{ name: {_quoted(model)} signature_name: {_quoted(name)} }}"
    if definition.method_name in _VERBS:
        example = _example_as_text(_features(definition, graph))
        request += f" input {{ example_list {{ examples {{ {example}}} }} }}"
    else:
        for alias, info in _sorted(definition.inputs):
            if alias not in definition.defaults:
                value = _tensor(_input(alias, info, graph))
                request += f" inputs {{ key: {_quoted(alias)} value {{ {value} }} }}"
    return (
        f"grpcurl -plaintext -format text -d {shlex.quote(request)} {GRPC_ADDRESS} "
        f"tensorflow.serving.PredictionService/{verb}"
    )


def _sorted(infos: Mapping[str, TensorInfo]) -> list[tuple[str, TensorInfo]]:
    return [(alias, infos[alias]) for alias in sorted(infos)]


def _input(alias: str, info: TensorInfo, graph: GraphDef) -> _Input:
    if info.WhichOneof("encoding") in ("coo_sparse", "composite_tensor"):
        raise InvalidArgument(f"input {alias!r} is not one dense tensor")
    number = info.dtype - _REF if info.dtype > _REF else info.dtype
    dtype = DType(number) if number in DType._value2member_map_ else DType.INVALID
    if dtype not in _FIELDS:
        raise InvalidArgument(f"input {alias!r} is of a type that cannot be sent: {dtype.label}")
    sizes = [1 if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
    if info.tensor_shape.unknown_rank:
        sizes = [1]
    if len(sizes) > MAX_RANK:
        raise InvalidArgument(f"input {alias!r} has more dimensions than a tensor can have")
    features = parsed_features(graph, info.name) if dtype is DType.STRING else []
    _check(features)
    return _Input(dtype, sizes, _serialized(features) if features else None)


def _by_rows(definition: SignatureDef) -> bool:
    """Whether a request may list instances: every tensor has a row for each."""
    tensors = [*definition.inputs.values(), *definition.outputs.values()]
    return all(info.tensor_shape.dim and info.tensor_shape.dim[0].size < 0 for info in tensors)


def _laid_out(values: Mapping[str, object], *, by_rows: bool) -> dict[str, object]:
    if not by_rows:
        return {"inputs": next(iter(values.values())) if len(values) == 1 else dict(values)}
    rows = {alias: rows[0] for alias, rows in values.items() if isinstance(rows, list)}
    return {"instances": [next(iter(rows.values())) if len(rows) == 1 else rows]}


def _nested(value: object, sizes: Sequence[int]) -> object:
    """``value`` in as many lists as there are sizes."""
    for size in reversed(sizes):
        value = [value] * size
    return value


def _python(body: Mapping[str, object], inputs: Mapping[str, _Input], *, by_rows: bool) -> str:
    """A command that writes a body too long to be shown."""
    values = {
        alias: _as_python(_JSON[each.dtype](each), each.sizes[1:] if by_rows else each.sizes)
        for alias, each in inputs.items()
    }
    laid_out = next(iter(values.values())) if len(values) == 1 else _dict_as_python(values)
    entries = {key: json.dumps(value) for key, value in body.items()}
    entries["instances" if by_rows else "inputs"] = f"[{laid_out}]" if by_rows else laid_out
    code = f"import json; print(json.dumps({_dict_as_python(entries)}))"
    return f"python3 -c {shlex.quote(code)}"


def _dict_as_python(entries: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(key)}: {text}" for key, text in entries.items()) + "}"


def _as_python(value: object, sizes: Sequence[int]) -> str:
    text = repr(value) if isinstance(value, bool) else json.dumps(value)
    for size in reversed(sizes):
        text = f"[{text}] * {size}" if size != 1 else f"[{text}]"
    return text


def _tensor(each: _Input) -> str:
    dims = "".join(f"dim {{ size: {size} }} " for size in each.sizes)
    start = f"dtype: DT_{each.dtype.name} tensor_shape {{ {dims}}}"
    if each.is_empty:
        return start
    if each.example is not None:
        return f"{start} string_val: {_quoted(each.example)}"
    return f"{start} {_FIELDS[each.dtype]}"


def _quoted(text: str | bytes) -> str:
    """A string of protobuf's text form: what is not plain is octal."""
    octets = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return (
        '"' + "".join(chr(octet) if octet in _PLAIN else f"\\{octet:03o}" for octet in octets) + '"'
    )


def _features(definition: SignatureDef, graph: GraphDef) -> list[Feature]:
    """Those of the one input of a signature for Classify or Regress."""
    found = [
        feature
        for info in definition.inputs.values()
        for feature in parsed_features(graph, info.name)
    ]
    if not found:
        raise InvalidArgument("which features its graph looks for cannot be told")
    _check(found)
    return found


def _check(features: Sequence[Feature]) -> None:
    for feature in features:
        if feature.size > MAX_VALUES:
            text = f"feature {feature.name!r} has {feature.size} values, too many to be shown"
            raise InvalidArgument(text)


def _serialized(features: Sequence[Feature]) -> bytes:
    return encode_example(
        {each.name.encode("utf-8", "surrogateescape"): _encoded(each) for each in features}
    )


def _encoded(feature: Feature) -> bytes:
    if feature.dtype is DType.STRING:
        return encode_bytes_feature([b""] * feature.size)
    if feature.dtype is DType.INT64:
        return encode_int64_feature([0] * feature.size)
    return encode_float_feature([0.0] * feature.size)


def _example_as_json(features: Sequence[Feature]) -> dict[str, object]:
    zeros = {DType.STRING: "", DType.INT64: 0}
    return {each.name: [zeros.get(each.dtype, 0.0)] * each.size for each in features}


def _example_as_text(features: Sequence[Feature]) -> str:
    kinds = {DType.STRING: ("bytes_list", '""'), DType.INT64: ("int64_list", "0")}
    text = ""
    for each in features:
        kind, zero = kinds.get(each.dtype, ("float_list", "0"))
        values = f"value: {zero} " * each.size
        text += f"feature {{ key: {_quoted(each.name)} value {{ {kind} {{ {values}}} }} }} "
    return f"features {{ {text}}} "


def _string_as_json(each: _Input) -> object:
    if each.example is None:
        return ""
    return {"b64": base64.b64encode(each.example).decode()}


_JSON: Final[Mapping[DType, Callable[[_Input], object]]] = {
    DType.FLOAT: lambda _: 0.0,
    DType.DOUBLE: lambda _: 0.0,
    DType.BOOL: lambda _: False,
    DType.STRING: _string_as_json,
    **dict.fromkeys(
        (
            DType.INT8,
            DType.INT16,
            DType.INT32,
            DType.INT64,
            DType.UINT8,
            DType.UINT32,
            DType.UINT64,
        ),
        lambda _: 0,
    ),
}
"""The types that a REST request can say."""

_FIELDS: Final[Mapping[DType, str]] = {
    DType.FLOAT: "float_val: 0",
    DType.DOUBLE: "double_val: 0",
    DType.STRING: 'string_val: ""',
    DType.BOOL: "bool_val: false",
    DType.INT64: "int64_val: 0",
    DType.UINT32: "uint32_val: 0",
    DType.UINT64: "uint64_val: 0",
    DType.HALF: "half_val: 0",
    DType.BFLOAT16: "half_val: 0",
    DType.COMPLEX64: "scomplex_val: 0 scomplex_val: 0",
    DType.COMPLEX128: "dcomplex_val: 0 dcomplex_val: 0",
    **dict.fromkeys(
        (
            DType.INT8,
            DType.INT16,
            DType.INT32,
            DType.UINT8,
            DType.UINT16,
            DType.INT4,
            DType.UINT4,
            DType.QINT8,
            DType.QINT16,
            DType.QINT32,
            DType.QUINT8,
            DType.QUINT16,
        ),
        "int_val: 0",
    ),
    **dict.fromkeys(
        (
            DType.FLOAT8_E5M2,
            DType.FLOAT8_E4M3FN,
            DType.FLOAT8_E4M3FNUZ,
            DType.FLOAT8_E4M3B11FNUZ,
            DType.FLOAT8_E5M2FNUZ,
        ),
        'float8_val: "\\000"',
    ),
}
"""A zero of each type that a TensorProto carries."""
