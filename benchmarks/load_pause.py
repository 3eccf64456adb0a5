"""The longest pause that another thread feels while MobileNetV2 loads.

    load_pause.py [--rounds N] [--loads N]

A thread wakes every 0.2 ms and notes the longest it was kept from doing so: what an event loop, and
each request on it, would feel.  The load runs in another thread of a process that already serves
half_plus_two and, as in Salver's server, is followed by ``gc.collect()`` and ``gc.freeze()``.
``tf.saved_model.load`` is measured in the same way, without those two.

The machine has pauses of its own.  Before each load the thread ticks for as long with no load; and
during the load a thread of another process ticks, which feels the load on the processor and
nothing of the interpreter.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any, Final

import models
import servers
from reporting import duration, goal, machine, table

TICK_S: Final = 0.2e-3
MODEL: Final = "mobilenet_v2"
ALLOWED_S: Final = 10e-3

PLACES: Final = {"within": "in the process", "beside": "in another", "idle": "without a load"}
"""Where a pause is felt, and what the table calls it."""


def main() -> None:
    """Measure in processes of their own, in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind (3)")
    parser.add_argument("--loads", type=int, default=4, help="loads in each process (4)")
    parser.add_argument("--in-this-process", choices=sorted(LOADERS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_this_process:
        print(json.dumps(pauses(LOADERS[arguments.in_this_process](), arguments.loads)))
        return
    print(machine())
    for name in (MODEL, servers.MODEL):
        models.base_path(name)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in LOADERS}
    for _ in range(arguments.rounds):
        for name, loads in found.items():
            loads.extend(in_child(name, arguments.loads))
    print("\nThe longest pause of each load:")
    headers = ["load", "load takes"]
    headers += [f"{where}: {what}" for where in PLACES.values() for what in ("median", "max")]
    table(headers, [row(name, loads) for name, loads in found.items()])
    typical = median(load["within"] for load in found["Salver"])
    longest = max(load["within"] for load in found["Salver"])
    goal(f"the median of the longest pauses below {duration(ALLOWED_S)}", met=typical < ALLOWED_S)
    goal(f"every pause below {duration(ALLOWED_S)}", met=longest < ALLOWED_S)


def row(name: str, loads: list[dict[str, float]]) -> tuple[str, ...]:
    """A line of the table."""
    cells = [name, duration(median(load["ended"] - load["started"] for load in loads))]
    for place in PLACES:
        longest = [load[place] for load in loads]
        cells += [duration(median(longest)), duration(max(longest))]
    return tuple(cells)


def in_child(name: str, loads: int) -> list[dict[str, float]]:
    """The pauses of several loads in a fresh process."""
    command = [sys.executable, __file__, "--in-this-process", name, "--loads", str(loads)]
    environ = servers.quiet_environment()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
    ) as child:
        ticks = ticks_until(lambda: child.poll() is not None)
        assert child.stdout is not None
        found: list[dict[str, float]] = json.loads(child.stdout.read())
    for load in found:
        load["beside"] = longest_gap([t for t in ticks if load["started"] <= t <= load["ended"]])
    return found


def pauses(load: Callable[[], object], count: int) -> list[dict[str, float]]:
    """The longest pauses of ``count`` loads, and of as long a time without one before each."""
    warm_up = ticks_during(load)
    took_s = warm_up[-1] - warm_up[0]
    found = []
    for _ in range(count):
        idle = ticks_during(partial(time.sleep, took_s))
        ticks = ticks_during(load)
        took_s = ticks[-1] - ticks[0]
        found.append(
            {
                "started": ticks[0],
                "ended": ticks[-1],
                "within": longest_gap(ticks),
                "idle": longest_gap(idle),
            }
        )
    return found


def ticks_during(work: Callable[[], object]) -> list[float]:
    """When this thread could tick while ``work`` ran in another."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        ticks = ticks_until(future.done)
        future.result()
    return ticks


def ticks_until(is_over: Callable[[], bool]) -> list[float]:
    """Tick until something is over; the system's clock at each tick."""
    ticks = [time.perf_counter()]
    while not is_over():
        time.sleep(TICK_S)
        ticks.append(time.perf_counter())
    return ticks


def longest_gap(ticks: list[float]) -> float:
    """The longest time in seconds from one tick to the next."""
    return max((b - a for a, b in itertools.pairwise(ticks)), default=0.0)


def salver_load() -> Callable[[], object]:
    """What the server does to load a version, in a process that holds what the server's does."""
    import salver.model_server.server  # noqa: F401 # its objects are what a collection walks
    from salver.servables.tensorflow import TensorFlowRuntime

    runtime = TensorFlowRuntime()
    kept: list[Any] = [runtime.load(models.version_path(servers.MODEL))]
    path = models.version_path(MODEL)

    def load() -> None:
        kept.append(runtime.load(path))
        gc.collect()
        gc.freeze()

    return load


def tensorflow_load() -> Callable[[], object]:
    """The loader of TensorFlow's Python package."""
    tf = models.tensorflow()
    kept: list[Any] = [tf.saved_model.load(str(models.version_path(servers.MODEL)))]
    path = str(models.version_path(MODEL))
    return lambda: kept.append(tf.saved_model.load(path))


LOADERS: Final = {"Salver": salver_load, "tf.saved_model.load": tensorflow_load}

if __name__ == "__main__":
    main()
