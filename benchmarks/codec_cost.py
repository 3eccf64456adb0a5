"""What it costs to read a request and to write an answer, beside the usual ways to do it.

    codec_cost.py [--rounds N]

gRPC is held against the classes of ``tensorflow-serving-api`` and TensorFlow's helpers, JSON
against ``json`` and ``orjson`` with NumPy: what a server in Python would use.
Every way starts from the same bytes, or the same array, and must come to the same values.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np
import orjson
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

import models
from reporting import duration, goal, machine, table, times
from salver.apis import grpc_codec, rest_codec
from salver.apis.requests import ModelSpec
from salver.dtypes import DType
from salver.signature import Signature, TensorInfo
from timing import ratio, time_calls

SALVER: Final = "Salver"
SPEC: Final = ModelSpec("model", 1, signature_name="serving_default")
SIGNATURE: Final = Signature(
    inputs={"x": TensorInfo("x:0", DType.FLOAT)}, outputs={"y": TensorInfo("y:0", DType.FLOAT)}
)
TIMES_LESS: Final = 5
MB: Final = 1e6

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Size:
    """An array to send; ``is_large`` where the goal looks."""

    name: str
    shape: tuple[int, ...]
    is_large: bool = False


SIZES: Final = (
    Size("3 floats", (3,)),
    Size("784 floats", (1, 784)),
    Size("image", (1, 224, 224, 3), is_large=True),
)


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do with some bytes, several ways; Salver's is one of them."""

    name: str
    size: Size
    wire_bytes: int
    ways: Mapping[str, Call]
    has_goal: bool = False


def main() -> None:
    """Measure every task and print a table each for gRPC and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="rounds per task (9)")
    rounds = parser.parse_args().rounds
    print(machine())
    verdicts: list[tuple[str, float]] = []
    for protocol in (grpc_tasks, json_tasks):
        rows = []
        for size in SIZES:
            for task in protocol(size):
                rows += measure(task, rounds, verdicts)
        table(("task", "way", "bytes", "per request", "per MB", "to Salver's"), rows, labels=2)
    for name, found in verdicts:
        text = f"{name}: at least {TIMES_LESS}x less than the usual way ({found:.3g}x)"
        goal(text, met=found >= TIMES_LESS)


def measure(task: Task, rounds: int, verdicts: list[tuple[str, float]]) -> list[tuple[str, ...]]:
    """The lines of one task; notes how much less Salver costs than the way after it."""
    samples = time_calls(task.ways, rounds=rounds)
    label = f"{task.name}, {task.size.name}"
    rows = []
    for name, found in samples.items():
        typical = median(found)
        per_mb = duration(typical / task.wire_bytes * MB)
        compared = times(ratio(found, samples[SALVER]))
        bytes_ = f"{task.wire_bytes:,}"
        rows.append((label, name, bytes_, duration(typical), per_mb, compared))
    if task.has_goal:
        usual = list(samples)[1]
        verdicts.append((f"{label}, {usual}", ratio(samples[usual], samples[SALVER])))
    return rows


def values(size: Size) -> np.ndarray:
    """Floats that need all their digits; small ones are what a person would type."""
    if size.shape == (3,):
        return np.array([1.0, 2.0, 5.0], np.float32)
    return np.random.default_rng(1).random(size.shape, np.float32)


# --- gRPC -----------------------------------------------------------------------------------------


def grpc_tasks(size: Size) -> list[Task]:
    """Reading both forms of a tensor, and writing the form that TensorFlow Serving writes."""
    array = values(size)
    typed, content = predict_request(array, typed=True), predict_request(array, typed=False)
    answer = grpc_codec.write_predict(SPEC, {"y": array})
    return [
        Task("read float_val", size, len(typed), reading(typed, array), size.is_large),
        Task("read tensor_content", size, len(content), reading(content, array)),
        Task("write float_val", size, len(answer), writing(array, answer), size.is_large),
    ]


def reading(data: bytes, array: np.ndarray) -> dict[str, Call]:
    """From the bytes of a PredictRequest to its array."""
    make_ndarray = models.tensorflow().make_ndarray

    def salver() -> np.ndarray:
        _, request = grpc_codec.read_predict(data)
        return request.inputs["x"]

    def usual() -> Any:
        return make_ndarray(PredictRequest.FromString(data).inputs["x"])

    np.testing.assert_array_equal(salver(), array)
    np.testing.assert_array_equal(usual(), array)
    return {SALVER: salver, "FromString and make_ndarray": usual}


def writing(array: np.ndarray, answer: bytes) -> dict[str, Call]:
    """From an array to the bytes of a PredictResponse."""
    make_tensor_proto = models.tensorflow().make_tensor_proto

    def salver() -> bytes:
        return grpc_codec.write_predict(SPEC, {"y": array})

    def extend() -> bytes:
        response = response_without_values()
        tensor = response.outputs["y"]
        tensor.dtype = DType.FLOAT
        for size in array.shape:
            tensor.tensor_shape.dim.add().size = size
        tensor.float_val.extend(array.flat)
        return bytes(response.SerializeToString())

    def as_content() -> bytes:
        response = response_without_values()
        response.outputs["y"].CopyFrom(make_tensor_proto(array))
        return bytes(response.SerializeToString())

    assert PredictResponse.FromString(extend()) == PredictResponse.FromString(answer)
    return {
        SALVER: salver,
        "float_val.extend": extend,
        "make_tensor_proto (tensor_content)": as_content,
    }


def response_without_values() -> Any:
    """A PredictResponse that names what answered."""
    response = PredictResponse()
    response.model_spec.name = SPEC.name
    response.model_spec.version.value = SPEC.version
    response.model_spec.signature_name = SPEC.signature_name
    return response


def predict_request(array: np.ndarray, *, typed: bool) -> bytes:
    """A request as clients send it."""
    request = PredictRequest()
    request.model_spec.name = SPEC.name
    tensor = models.tensorflow().make_tensor_proto(array)
    if typed:
        tensor.tensor_content = b""
        tensor.float_val.extend(array.flat)
    request.inputs["x"].CopyFrom(tensor)
    return bytes(request.SerializeToString())


# --- JSON -----------------------------------------------------------------------------------------


def json_tasks(size: Size) -> list[Task]:
    """Reading ``instances`` and writing ``predictions``."""
    array = values(size)
    body = json.dumps({"instances": written_in_full(array)}).encode()
    answer = rest_codec.write_predict({"y": array}, True)
    return [
        Task("read JSON", size, len(body), json_reading(body, array), size.is_large),
        Task("write JSON", size, len(answer), json_writing(array), size.is_large),
    ]


def written_in_full(array: np.ndarray) -> Any:
    """Nested lists of the numbers as Python holds them: with all the digits of a double."""
    return array.tolist()


def json_reading(body: bytes, array: np.ndarray) -> dict[str, Call]:
    """From the body of a request to its array."""

    def salver() -> np.ndarray:
        document = rest_codec.read_document(body)
        return rest_codec.read_predict(document, SIGNATURE).inputs["x"]

    def usual() -> np.ndarray:
        return np.array(json.loads(body)["instances"], np.float32)

    def quicker() -> np.ndarray:
        return np.array(orjson.loads(body)["instances"], np.float32)

    for way in (salver, usual, quicker):
        np.testing.assert_array_equal(way(), array)
    return {SALVER: salver, "json.loads and np.array": usual, "orjson.loads and np.array": quicker}


def json_writing(array: np.ndarray) -> dict[str, Call]:
    """From an array to the body of an answer."""

    def salver() -> bytes:
        return rest_codec.write_predict({"y": array}, True)

    def usual() -> bytes:
        return json.dumps({"predictions": array.tolist()}).encode()

    def quicker() -> bytes:
        return orjson.dumps({"predictions": array.tolist()})

    for way in (salver, usual, quicker):
        back = np.array(json.loads(way())["predictions"], np.float32)
        np.testing.assert_array_equal(back, array)
    return {SALVER: salver, "json.dumps of tolist": usual, "orjson.dumps of tolist": quicker}


if __name__ == "__main__":
    main()
