"""``tf.Example`` messages as arrays, for models in Python that classify or regress.

What TensorFlow's own graphs do with a ParseExample op: the messages come as strings, and out come
the features they must have.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError

from salver.errors import InvalidArgument
from salver.protos.example_pb2 import Example, Feature

_KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {"f": "float_list", "i": "int64_list", "O": "bytes_list"}
)
"""What NumPy's kinds of types are called in an Example."""


def feature(examples: np.ndarray, name: str, dtype: type = np.float32) -> np.ndarray:
    """One feature of serialized Examples, a row for each; ``dtype`` float32, int64 or object.

    Raises:
        InvalidArgument: a message is no Example, lacks the feature or has it with another type, or
            they do not all have as many values of it.
        TypeError: Examples have no features of that type.
    """
    kind = _KINDS.get(np.dtype(dtype).kind)
    if kind is None:
        raise TypeError(f"features are float32, int64 or object, not {np.dtype(dtype)}")
    rows = [_values(serialized, name, kind) for serialized in examples.reshape(-1)]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise InvalidArgument(
            f"feature {name} has {lengths[0]} values in one example and {lengths[-1]} in another"
        )
    array: np.ndarray = np.empty((len(rows), lengths[0] if lengths else 0), dtype)
    for at, row in enumerate(rows):
        array[at] = row
    return array


def _values(serialized: bytes, name: str, wanted: str) -> list[object]:
    try:
        found = Example.FromString(serialized).features.feature
    except DecodeError as error:
        raise InvalidArgument(f"Could not parse example input: {error}") from error
    if name not in found:
        raise InvalidArgument(f"an example lacks the feature {name}; it has {sorted(found)}")
    held: Feature = found[name]
    kind = held.WhichOneof("kind")
    if kind != wanted:
        raise InvalidArgument(f"feature {name} is a {wanted}; an example has it as {kind}")
    return list(getattr(held, wanted).value)
