"""What a function of a SavedModel takes: structures of Python values and specs of tensors.

They are stored as a ``StructuredValue``.  Here they become Python's own lists, tuples, dicts and
numbers, and for what only TensorFlow has, values that print themselves as TensorFlow prints them.
No class is looked up and no code is made: what the file says stays data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from salver.dtypes import DType
from salver.errors import DataLoss, InvalidArgument
from salver.protos import saved_model_file_pb2 as file_pb2
from salver.protos import tensor_plain_pb2
from salver.protos.tensor_pb2 import TensorProto
from salver.tensors import decode_tensor

_REF: Final = 100
"""TensorFlow numbers the reference twin of a type this much higher."""

_NAMES: Final = {"float": "float32", "double": "float64", "half": "float16"}
"""Where TensorFlow's Python package has another name for a type than its protobuf."""


@dataclass(frozen=True, slots=True)
class ElementType:
    """A ``tf.DType``."""

    name: str

    def __repr__(self) -> str:
        return f"tf.{self.name}"

    def __str__(self) -> str:
        return f"<dtype: {self.name!r}>"


@dataclass(frozen=True, slots=True)
class Shape:
    """A ``tf.TensorShape``: sizes, None where one is not fixed; no sizes where not even their
    number is."""

    sizes: tuple[int | None, ...] | None

    def __iter__(self) -> Iterator[int | None]:
        return iter(self.sizes or ())

    def __repr__(self) -> str:
        return f"TensorShape({None if self.sizes is None else list(self.sizes)})"

    def __str__(self) -> str:
        if self.sizes is None:
            return "<unknown>"
        comma = "," if len(self.sizes) == 1 else ""
        return f"({', '.join(map(str, self.sizes))}{comma})"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A ``tf.TensorSpec``, or a ``tf.BoundedTensorSpec`` if it has ``bounds``."""

    shape: Shape
    dtype: ElementType
    name: str | None
    bounds: tuple[np.ndarray, np.ndarray] | None = None

    def __repr__(self) -> str:
        said = f"shape={self.shape}, dtype={self.dtype!r}, name={self.name!r}"
        if self.bounds is None:
            return f"TensorSpec({said})"
        least, most = self.bounds
        return f"BoundedTensorSpec({said}, minimum={least!r}, maximum={most!r})"


@dataclass(frozen=True, slots=True)
class TypeSpec:
    """A ``tf.TypeSpec`` of any other kind: the name of its class, and how it prints itself."""

    class_name: str
    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class NamedTuple:
    """A named tuple, without a class of its own."""

    class_name: str
    fields: tuple[tuple[str, object], ...]

    def __iter__(self) -> Iterator[object]:
        return (value for _, value in self.fields)

    def __repr__(self) -> str:
        return f"{self.class_name}({', '.join(f'{key}={value!r}' for key, value in self.fields)})"


def type_name(value: object) -> str:
    """What TensorFlow calls the type of a value."""
    if isinstance(value, (NamedTuple, TypeSpec)):
        return value.class_name
    return _OURS.get(type(value), type(value).__name__)


def decode(message: file_pb2.StructuredValue) -> object:
    """The value in a message.  A mapping has no order in the file; it gets that of its keys.

    Raises:
        DataLoss: there is none in it, or one that makes no sense.
    """
    kind = message.WhichOneof("kind")
    if kind is None:
        raise DataLoss("the file has an argument of a kind that is not known here")
    return _DECODERS[kind](getattr(message, kind))


def element_type(number: int) -> ElementType:
    """The type of a number of ``tensorflow.DataType``."""
    base, suffix = (number - _REF, "_ref") if number > _REF else (number, "")
    if base not in DType._value2member_map_:
        return ElementType(f"type_{number}")
    label = DType(base).label
    return ElementType(_NAMES.get(label, label) + suffix)


def _shape(message: tensor_plain_pb2.TensorShapeProto) -> Shape:
    if message.unknown_rank:
        return Shape(None)
    return Shape(tuple(None if dim.size < 0 else dim.size for dim in message.dim))


def _array(message: tensor_plain_pb2.TensorProto) -> np.ndarray:
    try:
        return decode_tensor(TensorProto.FromString(message.SerializeToString()))
    except InvalidArgument as error:
        raise DataLoss(f"the file has a constant that is none: {error.message}") from error


def _tensor_spec(message: file_pb2.TensorSpecProto) -> TensorSpec:
    return TensorSpec(_shape(message.shape), element_type(message.dtype), message.name or None)


def _bounded(message: file_pb2.BoundedTensorSpecProto) -> TensorSpec:
    bounds = _array(message.minimum), _array(message.maximum)
    dtype = element_type(message.dtype)
    return TensorSpec(_shape(message.shape), dtype, message.name or None, bounds)


def _dict(message: file_pb2.DictValue) -> dict[str, object]:
    return {key: decode(message.fields[key]) for key in sorted(message.fields)}


def _named_tuple(message: file_pb2.NamedTupleValue) -> NamedTuple:
    fields = tuple((pair.key, decode(pair.value)) for pair in message.values)
    return NamedTuple(message.name, fields)


def _type_spec(message: file_pb2.TypeSpecProto) -> TypeSpec:
    specs = file_pb2.TypeSpecProto
    name = _SPECS.get(message.type_spec_class) or message.type_spec_class_name.split(".")[-1]
    state = decode(message.type_state)
    if message.type_spec_class == specs.VARIABLE_SPEC:
        return TypeSpec(name, _with_keys(name, _VARIABLE_KEYS, state))
    if message.type_spec_class == specs.ROW_PARTITION_SPEC:
        return TypeSpec(name, _with_keys(name, _ROW_KEYS, _row_state(state)))
    if message.type_spec_class == specs.EXTENSION_TYPE_SPEC:
        return TypeSpec(name, f"{name}({_pairs(state)})")
    return TypeSpec(name, f"{name}{state!r}")


def _with_keys(name: str, keys: tuple[str, ...], state: object) -> str:
    """``Name(key=value, …)``; what an older TensorFlow did not store is None."""
    values = list(state) if isinstance(state, tuple) else [state]
    values += [None] * (len(keys) - len(values))
    said = ", ".join(
        f"{key}={value if isinstance(value, Shape) else repr(value)}"
        for key, value in zip(keys, values, strict=False)
    )
    return f"{name}({said})"


def _row_state(state: object) -> object:
    """Counts are stored as shapes of one size."""
    if not isinstance(state, tuple):
        return state
    return tuple(next(iter(each), None) if isinstance(each, Shape) else each for each in state)


def _pairs(state: object) -> str:
    if not isinstance(state, tuple):
        return repr(state)
    pairs = [each for each in state if isinstance(each, tuple) and len(each) == len(("k", "v"))]
    return ", ".join(f"{key}={value!r}" for key, value in pairs)


_OURS: Final[Mapping[type, str]] = MappingProxyType({ElementType: "DType", Shape: "TensorShape"})

_VARIABLE_KEYS: Final = ("shape", "dtype", "trainable", "alias_id")
_ROW_KEYS: Final = ("nrows", "nvals", "uniform_row_length", "dtype")

_SPECS: Final[Mapping[int, str]] = MappingProxyType(
    {
        file_pb2.TypeSpecProto.SPARSE_TENSOR_SPEC: "SparseTensorSpec",
        file_pb2.TypeSpecProto.INDEXED_SLICES_SPEC: "IndexedSlicesSpec",
        file_pb2.TypeSpecProto.RAGGED_TENSOR_SPEC: "RaggedTensorSpec",
        file_pb2.TypeSpecProto.TENSOR_ARRAY_SPEC: "TensorArraySpec",
        file_pb2.TypeSpecProto.DATA_DATASET_SPEC: "DatasetSpec",
        file_pb2.TypeSpecProto.DATA_ITERATOR_SPEC: "IteratorSpec",
        file_pb2.TypeSpecProto.OPTIONAL_SPEC: "OptionalSpec",
        file_pb2.TypeSpecProto.PER_REPLICA_SPEC: "PerReplicaSpec",
        file_pb2.TypeSpecProto.VARIABLE_SPEC: "VariableSpec",
        file_pb2.TypeSpecProto.ROW_PARTITION_SPEC: "RowPartitionSpec",
        file_pb2.TypeSpecProto.EXTENSION_TYPE_SPEC: "AnonymousExtensionTypeSpec",
    }
)
"""The classes that TensorFlow itself has; an extension's own is not there when it is looked at."""

_DECODERS: Final[Mapping[str, Callable[[Any], object]]] = MappingProxyType(  # each its own message
    {
        "none_value": lambda _: None,
        "float64_value": float,
        "int64_value": int,
        "string_value": str,
        "bool_value": bool,
        "tensor_shape_value": _shape,
        "tensor_dtype_value": element_type,
        "tensor_spec_value": _tensor_spec,
        "type_spec_value": _type_spec,
        "bounded_tensor_spec_value": _bounded,
        "list_value": lambda message: [decode(value) for value in message.values],
        "tuple_value": lambda message: tuple(decode(value) for value in message.values),
        "dict_value": _dict,
        "named_tuple_value": _named_tuple,
        "tensor_value": _array,
        "numpy_value": _array,
    }
)
