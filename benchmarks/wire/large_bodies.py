"""Large bodies: an image as a tensor over gRPC, and as JSON over REST.

    large_bodies.py [--seconds N]

The model takes the image's mean, which is next to nothing, and its own time is known: it runs in
this process, too.  The tensor is held against the C++ echo that receives the same bytes; the JSON,
without the model, against ``orjson.loads`` and ``np.array`` in this process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Final

import numpy as np
import orjson

import contenders
import h2load
import models
from bodies import IMAGE_MODEL, echo, framed, image, json_image, predict
from contenders import CPP, METHOD, PREDICT
from h2load import ROUNDS, Load, Shape
from reporting import duration, goal, machine, table, times
from salver.servables.tensorflow import SessionConfig, TensorFlowRuntime
from timing import ratio

TENSOR_SHAPES: Final = (Shape(1, 1), Shape(4, 1))
JSON_SHAPE: Final = Shape(2, 1)
TENSOR_WARM_UP: Final = 2000
JSON_WARM_UP: Final = 200
"""Each takes milliseconds, so fewer do."""

TENSOR: Final = "Salver, gRPC image tensor"
JSON: Final = "Salver, REST image"
MODEL_ALONE: Final = "the model alone"
ORJSON: Final = "orjson.loads and np.array"
RECEIVED: Final = "C++ gRPC echo, image"

TENSOR_GOAL: Final = 1.5
JSON_GOAL: Final = 0.35

Row = tuple[str, ...]


def main() -> int:
    """Measure both in turns with what they are held against."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn (1)")
    seconds = parser.parse_args().seconds
    if not h2load.is_there():
        return 0
    print(machine())
    model_s = in_process_s(model_run(), seconds)
    rows: list[Row] = [("in process", MODEL_ALONE, duration(model_s), "", "", "")]
    verdicts: list[tuple[str, bool]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        whole = stack.enter_context(contenders.model_server(IMAGE_MODEL))
        cpp = stack.enter_context(contenders.cpp_echo())
        measure_tensor(whole, cpp, folder, seconds, model_s, rows, verdicts)
        measure_json(whole, folder, seconds, model_s, rows, verdicts)
    headers = (
        "connections x streams",
        "what",
        "CPU each",
        "without the model",
        "per second",
        "to the other",
    )
    table(headers, rows, labels=2)
    for text, met in verdicts:
        goal(text, met=met)
    return 0


def measure_tensor(
    whole: contenders.Contender,
    cpp: contenders.Contender | None,
    folder: Path,
    seconds: float,
    model_s: float,
    rows: list[Row],
    verdicts: list[tuple[str, bool]],
) -> None:
    """An image in ``float_val`` to the whole server, beside the C++ echo that takes the same."""
    message = predict(IMAGE_MODEL, image())
    body, echo_body = folder / "tensor", folder / "echo"
    body.write_bytes(framed(message))
    echo_body.write_bytes(framed(echo(message)))
    answer_bytes = len(framed(contenders.call(whole.grpc_address, PREDICT, message)))
    url = f"http://{whole.grpc_address}{PREDICT}"
    loads = [Load(TENSOR, whole.pid, url, body, answer_bytes=answer_bytes)]
    if cpp is not None:
        loads.append(Load(RECEIVED, cpp.pid, f"http://{cpp.grpc_address}{METHOD}", echo_body))
    for shape in TENSOR_SHAPES:
        found = h2load.compare(loads, shape, seconds=seconds, warm_up=TENSOR_WARM_UP)
        factor = ratio(found[TENSOR].cpu_s, found[RECEIVED].cpu_s) if cpp is not None else None
        for name, each in found.items():
            without = duration(each.typical_cpu_s - model_s) if name == TENSOR else ""
            compared = times(factor) if factor is not None and name == TENSOR else ""
            rate = f"{each.typical_per_second:,.0f}"
            rows.append((str(shape), name, duration(each.typical_cpu_s), without, rate, compared))
        if factor is not None:
            text = f"{TENSOR}, {shape}, model and all: at most {TENSOR_GOAL:g}x of {CPP}'s CPU"
            verdicts.append((f"{text} ({times(factor)})", factor <= TENSOR_GOAL))


def measure_json(
    whole: contenders.Contender,
    folder: Path,
    seconds: float,
    model_s: float,
    rows: list[Row],
    verdicts: list[tuple[str, bool]],
) -> None:
    """An image as JSON to the whole server, beside what a server in Python would begin with."""
    document = json_image()
    body = folder / "json"
    body.write_bytes(document)
    url = f"http://{whole.rest_address}/v1/models/{IMAGE_MODEL}:predict"
    load = Load(JSON, whole.pid, url, body, is_http1=True)
    usual_s: list[float] = []
    ours_s: list[float] = []
    rates: list[float] = []
    h2load.run(load, JSON_SHAPE, JSON_WARM_UP)
    for _ in range(ROUNDS):
        usual_s.append(in_process_s(lambda: usual_way(document), seconds))
        found = h2load.compare([load], JSON_SHAPE, seconds=seconds / ROUNDS, warm_up=20)[JSON]
        ours_s.append(found.typical_cpu_s)
        rates.append(found.typical_per_second)
    beyond_s = [each - model_s for each in ours_s]
    factor = ratio(beyond_s, usual_s)
    without, rate = duration(median(beyond_s)), f"{median(rates):,.0f}"
    each = duration(median(ours_s))
    rows.append((str(JSON_SHAPE), JSON, each, without, rate, times(factor)))
    rows.append(("in process", ORJSON, duration(median(usual_s)), "", "", ""))
    text = f"{JSON}, without the model: at most {JSON_GOAL:g}x of {ORJSON}"
    verdicts.append((f"{text} ({times(factor)})", factor <= JSON_GOAL))


def usual_way(document: bytes) -> np.ndarray:
    """From a JSON document to its array, as most servers in Python go."""
    return np.array(orjson.loads(document)["instances"], np.float32)


def model_run() -> Callable[[], object]:
    """One run of the model itself, in this process."""
    loaded = TensorFlowRuntime(config=SessionConfig(0, 0)).load(models.version_path(IMAGE_MODEL))
    signature = loaded.signatures["serving_default"]
    (feed,) = (info.name for info in signature.inputs.values())
    fetches = [info.name for info in signature.outputs.values()]
    array = image()
    return lambda: loaded.run({feed: array}, fetches)


def in_process_s(call: Callable[[], object], seconds: float) -> float:
    """Processor time per call of this process, all threads together."""
    for _ in range(3):
        call()
    count, ends = 0, perf_counter() + seconds
    began = process_time()
    while perf_counter() < ends:
        call()
        count += 1
    return (process_time() - began) / count


if __name__ == "__main__":
    sys.exit(main())
