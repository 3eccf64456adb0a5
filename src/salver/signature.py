"""What a servable takes and gives: its signatures.

A signature maps the names that clients use (aliases) to the names that the graph uses.
It is a value: made once when a version is loaded, read by every request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from google.protobuf import text_format

from salver.dtypes import DType
from salver.protos import saved_model_pb2
from salver.protos.tensor_pb2 import TensorProto
from salver.tensors import decode_tensor

DEFAULT_SERVING_SIGNATURE: Final = "serving_default"

PREDICT_METHOD: Final = "tensorflow/serving/predict"
CLASSIFY_METHOD: Final = "tensorflow/serving/classify"
REGRESS_METHOD: Final = "tensorflow/serving/regress"

_REF: Final = 100
"""TensorFlow numbers the reference twin of a type this much higher."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a signature.

    ``name`` is the tensor in the graph (``dense/BiasAdd:0``).
    ``shape`` holds -1 where a dimension is not fixed and is None where the rank is not known.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """A named way to call a servable: aliases to tensors, both ways.

    ``defaults`` fill inputs that a gRPC request leaves out (TensorFlow 2.16 and later export them).
    ``definition`` is the serialized ``tensorflow.SignatureDef`` the signature was exported as.
    """

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    method_name: str = PREDICT_METHOD
    defaults: Mapping[str, np.ndarray] = field(default_factory=dict)
    definition: bytes = b""

    def debug_string(self) -> str:
        """The SignatureDef in protobuf's text form, which some error texts quote."""
        message = saved_model_pb2.SignatureDef.FromString(self.definition)
        return text_format.MessageToString(message)


def read_signature(definition: bytes) -> Signature:
    """The signature in a serialized ``tensorflow.SignatureDef``.

    Raises:
        InvalidArgument: a default value is no tensor.
    """
    message = saved_model_pb2.SignatureDef.FromString(definition)
    return Signature(
        inputs={alias: _tensor_info(message.inputs[alias]) for alias in sorted(message.inputs)},
        outputs={alias: _tensor_info(message.outputs[alias]) for alias in sorted(message.outputs)},
        method_name=message.method_name,
        defaults={alias: _default(message.defaults[alias]) for alias in sorted(message.defaults)},
        definition=definition,
    )


def _tensor_info(message: saved_model_pb2.TensorInfo) -> TensorInfo:
    shape = message.tensor_shape
    return TensorInfo(
        name=message.name,
        dtype=_dtype(message.dtype),
        shape=None if shape.unknown_rank else tuple(dim.size for dim in shape.dim),
    )


def _dtype(number: int) -> DType:
    number = number - _REF if number > _REF else number
    return DType(number) if number in DType._value2member_map_ else DType.INVALID


def _default(message: object) -> np.ndarray:
    serialized: bytes = message.SerializeToString()  # type: ignore[attr-defined] # any TensorProto
    return decode_tensor(TensorProto.FromString(serialized))
