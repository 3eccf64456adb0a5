"""From the start of the process to its first right answer, beside ``import tensorflow``.

    start.py [--rounds N] [--imports N]

The server is the installed command with half_plus_two, asked over REST every millisecond until the
numbers are right.  A second table says where the time goes, step by step in one process;
``--imports`` adds the modules that take longest to import.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Final

import models
import servers
from reporting import duration, goal, machine, table, times
from timing import in_turns, ratio

MODEL_SERVER: Final = "tensorflow_model_server: first answer"
SALVER: Final = "salver serve: first answer"
TENSORFLOW: Final = "python -c 'import tensorflow'"
ALLOWED: Final = 0.5

STEPS: Final = """
import sys, time
started = time.perf_counter()
def step(name):
    global started
    print(f"{name}\\t{time.perf_counter() - started}")
    started = time.perf_counter()
import salver.cli.tensorflow_model_server
step("import the command")
import salver.model_server.server
step("import the server")
import pathlib, numpy
from salver.servables.tensorflow import TensorFlowRuntime
runtime = TensorFlowRuntime()
runtime.open()
step("open TensorFlow's library")
servable = runtime.load(pathlib.Path(sys.argv[1]))
step("load half_plus_two")
signature = servable.signatures["serving_default"]
feeds = {info.name: numpy.ones(3, numpy.float32) for info in signature.inputs.values()}
fetches = [info.name for info in signature.outputs.values()]
servable.run(feeds, fetches)
step("first run")
"""


def main() -> None:
    """Measure in turns and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="starts of each kind (7)")
    parser.add_argument("--imports", type=int, default=0, help="slowest imports to list (0)")
    arguments = parser.parse_args()
    print(machine())
    measure_starts(arguments.rounds)
    measure_steps(arguments.rounds)
    if arguments.imports:
        list_imports(arguments.imports)


def measure_starts(rounds: int) -> None:
    """The first table and the verdict."""
    measurements = {
        MODEL_SERVER: lambda: first_answer_s(servers.TENSORFLOW_MODEL_SERVER),
        SALVER: lambda: first_answer_s(servers.SALVER_SERVE),
        TENSORFLOW: lambda: command_s("import tensorflow"),
        "python -c 'import salver'": lambda: command_s("import salver"),
        "python -c pass": lambda: command_s("pass"),
    }
    in_turns(measurements, rounds=1)  # compiles what is not compiled, fills the disk cache
    samples = in_turns(measurements, rounds=rounds)
    rows = [
        (
            name,
            duration(median(found)),
            duration(max(found)),
            times(ratio(found, samples[TENSORFLOW])),
        )
        for name, found in samples.items()
    ]
    table(("start", "median", "longest", "to import tensorflow"), rows)
    for name in (MODEL_SERVER, SALVER):
        found = ratio(samples[name], samples[TENSORFLOW])
        goal(f"{name} within {ALLOWED}x of 'import tensorflow'", met=found <= ALLOWED)


def measure_steps(rounds: int) -> None:
    """Where the time goes, each step's median."""
    taken = [steps() for _ in range(rounds)]
    rows = [(name, duration(median(steps[name] for steps in taken))) for name in taken[0]]
    table(("step in one process", "median"), rows)


def first_answer_s(command: Sequence[str]) -> float:
    """Start a server, wait for its answer, stop it."""
    with servers.running_server(command) as server:
        return server.first_answer_s


def command_s(code: str) -> float:
    """How long a Python process takes that does nothing but ``code``."""
    started = perf_counter()
    python("-c", code)
    return perf_counter() - started


def steps() -> dict[str, float]:
    """The seconds of each step on the way to a first run."""
    printed = python("-c", STEPS, str(models.version_path(servers.MODEL))).stdout
    pairs = (line.split("\t") for line in printed.splitlines())
    return {name: float(seconds) for name, seconds in pairs}


def list_imports(count: int) -> None:
    """The modules that take longest by themselves, and with what they import in turn."""
    printed = python("-X", "importtime", "-c", "import salver.model_server.server").stderr
    lines = re.findall(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)", printed)
    slowest = sorted(lines, key=lambda line: int(line[0]), reverse=True)[:count]
    rows = [(name, *(duration(int(us) / 1e6) for us in (own, all_))) for own, all_, name in slowest]
    table(("import", "itself", "with its own imports"), rows)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this Python once more."""
    return subprocess.run(
        [sys.executable, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=servers.quiet_environment(),
    )


if __name__ == "__main__":
    main()
