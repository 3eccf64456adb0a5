"""Small calls: what the wire, and the whole server, cost beside servers that do nothing.

    small_calls.py [--seconds N]

Five gRPC servers take turns under the same load: an echo in C++, grpcio's, Salver's wire with
nothing behind it, and the whole server with half_plus_two, once with calls that share runs and once
with each run alone.  REST and nginx join where a shape has one stream per connection, which is all
that HTTP/1.1 has.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import contenders
import h2load
import servers
from bodies import echo, framed, predict, three_floats
from contenders import CPP, GRPCIO, METHOD, NGINX, OURS, PREDICT
from h2load import Figures, Load, Shape
from reporting import duration, goal, machine, table, times
from timing import ratio

SHAPES: Final = (Shape(1, 1), Shape(4, 8), Shape(32, 1), Shape(1, 32))
SHAPES_OF_PREDICT: Final = (Shape(32, 1), Shape(1, 32))
"""Where the whole server has a goal."""

WHOLE: Final = "Salver, gRPC Predict"
REST: Final = "Salver, REST Predict"
WHOLE_ALONE: Final = "the same, each run alone"
REST_ALONE: Final = "the same over REST, alone"
"""As ``tensorflow_model_server`` does by default."""

ECHO_GOAL: Final = 0.5
PREDICT_GOAL: Final = 1.0

Found = Mapping[Shape, Mapping[str, Figures]]


def main() -> int:
    """Load all servers in turns, shape by shape, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.7, help="of each turn (0.7)")
    seconds = parser.parse_args().seconds
    if not h2load.is_there():
        return 0
    print(machine())
    with ExitStack() as stack:
        loads = start(stack)
        found = {
            shape: h2load.compare(
                [load for load in loads if shape.streams == 1 or not load.is_http1],
                shape,
                seconds=seconds,
            )
            for shape in SHAPES
        }
    show(found)
    if all(CPP in figures for figures in found.values()):
        judge(found)
    return 0


def start(stack: ExitStack) -> list[Load]:
    """All servers there are, and what each is asked."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    message = predict(servers.MODEL, three_floats())
    echo_body, predict_body, rest_body = (folder / name for name in ("echo", "predict", "rest"))
    echo_body.write_bytes(framed(echo(message)))
    predict_body.write_bytes(framed(message))
    rest_body.write_bytes(servers.REST_BODY)
    echoes = [
        stack.enter_context(contenders.cpp_echo()),
        stack.enter_context(contenders.python_echo(GRPCIO, "echo_grpcio.py")),
        stack.enter_context(contenders.python_echo(OURS, "echo_salver.py")),
    ]
    whole = stack.enter_context(contenders.model_server())
    alone = stack.enter_context(contenders.model_server(command=servers.TENSORFLOW_MODEL_SERVER))
    nginx = stack.enter_context(contenders.nginx())
    answer_bytes = len(framed(contenders.call(whole.grpc_address, PREDICT, message)))
    echo_bytes = len(framed(contenders.ANSWER))
    rest_path = f"/v1/models/{servers.MODEL}:predict"
    loads = [
        Load(
            each.name,
            each.pid,
            f"http://{each.grpc_address}{METHOD}",
            echo_body,
            answer_bytes=echo_bytes,
        )
        for each in echoes
        if each is not None
    ]
    for each, name, rest_name in ((whole, WHOLE, REST), (alone, WHOLE_ALONE, REST_ALONE)):
        url, rest_url = f"http://{each.grpc_address}{PREDICT}", f"http://{each.rest_address}"
        loads += [
            Load(name, each.pid, url, predict_body, answer_bytes=answer_bytes),
            Load(rest_name, each.pid, rest_url + rest_path, rest_body, is_http1=True),
        ]
    if nginx is not None:
        url = f"http://{nginx.rest_address}{rest_path}"
        loads.append(Load(NGINX, nginx.pid, url, rest_body, is_http1=True))
    return loads


def show(found: Found) -> None:
    """What a request costs each server, and how many it answers."""
    rows = [
        (
            str(shape),
            name,
            duration(each.typical_cpu_s),
            f"{each.typical_per_second:,.0f}",
            f"{1 / each.typical_cpu_s:,.0f}",
            times(ratio(each.cpu_s, figures[CPP].cpu_s)) if CPP in figures else "",
        )
        for shape, figures in found.items()
        for name, each in figures.items()
    ]
    headers = (
        "connections x streams",
        "server",
        "server CPU each",
        "per second",
        "per second of one core",
        "CPU to C++ echo's",
    )
    table(headers, rows, labels=2)


def judge(found: Found) -> None:
    """The goals, all of them beside the C++ echo in the same shape."""
    judge_one(found, OURS, SHAPES, ECHO_GOAL)
    judge_one(found, WHOLE, SHAPES_OF_PREDICT, PREDICT_GOAL)
    rest_shapes = [shape for shape in SHAPES if REST in found[shape]]
    judge_one(found, REST, rest_shapes, PREDICT_GOAL)


def judge_one(found: Found, name: str, shapes: Sequence[Shape], most: float) -> None:
    """One line for each shape; a core's throughput is the same ratio, the other way up."""
    for shape in shapes:
        factor = ratio(found[shape][name].cpu_s, found[shape][CPP].cpu_s)
        text = f"{name}, {shape}: at most {most:g}x of the C++ echo's CPU per call"
        goal(f"{text} ({times(factor)})", met=factor <= most)


if __name__ == "__main__":
    sys.exit(main())
