"""The requests that the wire's benchmarks send, as bytes."""

from __future__ import annotations

import struct
from functools import cache
from typing import Final

import numpy as np
import orjson

from salver.protos.serving_pb2 import PredictRequest
from salver.tensors import encode_tensor
from salver.varints import encode_varint

IMAGE_SHAPE: Final = (1, 224, 224, 3)
IMAGE_MODEL: Final = "image_mean"


def predict(model: str, array: np.ndarray) -> bytes:
    """A PredictRequest with its floats in ``float_val``, as most clients send them."""
    message = PredictRequest()
    message.model_spec.name = model
    encode_tensor(message.inputs["x"], array)
    return message.SerializeToString()


def three_floats() -> np.ndarray:
    """What half_plus_two is asked."""
    return np.array([1.0, 2.0, 5.0], np.float32)


@cache
def image() -> np.ndarray:
    """An image whose floats need all their digits."""
    return np.random.default_rng(1).random(IMAGE_SHAPE, np.float32)


def json_image() -> bytes:
    """An image as a REST client sends it, 3 MB."""
    return orjson.dumps({"instances": image().tolist()})


def echo(payload: bytes) -> bytes:
    """A request of the echo service that carries ``payload`` in its one field."""
    return b"\x0a" + encode_varint(len(payload)) + payload


def framed(message: bytes) -> bytes:
    """The body of a gRPC call."""
    return struct.pack(">BI", 0, len(message)) + message
