"""What a process of its own costs a model, and what it gives back.

    isolation.py [--rounds N]

A large model is loaded, run and unloaded in a process of its own: resident memory is read from
/proc, of this process and of the model's.  A process is killed, again and again: how long until a
caller knows, and until another process answers.  Then runs are timed beside runs in this process,
with the processor time that each takes, here and there.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

import models
from memory import MIB, resident_bytes
from reporting import duration, goal, machine, table, times
from salver.core.retries import Backoff
from salver.errors import Unavailable
from salver.servables.isolated import IsolatedServable
from salver.servables.isolated_process import Limits, WorkerProcess
from salver.servables.servable import PreparedRun, Servable
from salver.servables.tensorflow import TensorFlowRuntime

CASES: Final = (
    ("half_plus_two, 12 bytes", "half_plus_two", (3,), 2000),
    ("image_mean, 602 KB in", "image_mean", (1, 224, 224, 3), 500),
    ("half_plus_two, 600 KB both ways", "half_plus_two", (150_000,), 300),
    ("image_mean, 19 MB in", "image_mean", (32, 224, 224, 3), 20),
)
"""A label, a model, what it is fed, and how many runs a sample has."""

ALLOWED_GROWTH: Final = 2 * MIB
RESTART: Final = Backoff(first_s=0.001, longest_s=0.001)


class Silent:
    """An observer that keeps what it is told to itself."""

    def started(self, took_s: float) -> None:
        """A load."""

    def start_failed(self) -> None:
        """A load that failed."""

    def died(self, how: str) -> None:
        """A death."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that one run took: by the clock, and of processors here and there."""

    wall_s: float
    here_s: float
    there_s: float


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="samples of everything (5)")
    rounds = parser.parse_args().rounds
    if not Path("/proc/self/schedstat").exists():
        print("processor time and memory are read from /proc, which this system lacks")
        return 0
    print(machine())
    show_memory(rounds)
    show_crashes(rounds)
    show_runs(rounds)
    return 0


def run_once(servable: Servable) -> None:
    """One run with a batch of one."""
    (info,) = servable.signatures["serving_default"].inputs.values()
    shape = [max(size, 1) for size in info.shape or ()]
    prepared(servable)([np.ones(shape, info.dtype.numpy)], 30.0)


def isolated(name: str) -> IsolatedServable:
    """A model of the benchmarks in a process of its own."""
    recipe = replace(
        TensorFlowRuntime().recipe(),
        path=str(models.version_path(name)),
        working_folder=str(Path.cwd()),
    )
    servable = IsolatedServable(
        name, lambda: WorkerProcess(name, recipe, limits=Limits()), Silent(), backoff=RESTART
    )
    servable.start()
    return servable


def show_memory(rounds: int) -> None:
    """What a large model takes, where, and what is left of it."""
    size = models.size_bytes("large")
    warm_up = isolated("half_plus_two")  # so that what is made once is there
    run_once(warm_up)
    warm_up.close()
    before = resident_bytes()
    theirs, after = [], []
    for _ in range(rounds):
        servable = isolated("large")
        run_once(servable)
        theirs.append(status_bytes(servable.pid))
        servable.close()
        after.append(resident_bytes())
    print(f"\nA model of {size / MIB:.0f} MiB, loaded, run and unloaded {rounds} times:")
    rows = [
        ("this process before", f"{before / MIB:.1f} MiB"),
        ("its own process while loaded", f"{median(theirs) / MIB:.0f} MiB"),
        ("this process after the last", f"{after[-1] / MIB:.1f} MiB"),
    ]
    table(("resident memory", "size"), rows)
    goal("what an unload leaves is below 2 MiB", met=after[-1] - before < ALLOWED_GROWTH)


def show_crashes(rounds: int) -> None:
    """How long a crash goes unnoticed, and how long a model is away."""
    servable = isolated("half_plus_two")
    noticed, back, unloaded = [], [], []
    for _ in range(rounds):
        dead = servable.pid or 0
        killed = time.perf_counter()
        os.kill(dead, signal.SIGKILL)
        while is_answering(servable):
            pass
        noticed.append(time.perf_counter() - killed)
        wait_for_another(servable, dead)
        back.append(time.perf_counter() - killed)
    for _ in range(rounds):
        started = time.perf_counter()
        servable.close()
        unloaded.append(time.perf_counter() - started)
        servable = isolated("half_plus_two")
    servable.close()
    rows = [
        ("from the kill to the first refusal", duration(median(noticed)), duration(max(noticed))),
        ("from the kill to the next answer", duration(median(back)), duration(max(back))),
        ("an unload", duration(median(unloaded)), duration(max(unloaded))),
    ]
    table(("half_plus_two", "median", "max"), rows)


def wait_for_another(servable: IsolatedServable, dead: int) -> None:
    """Wait until another process serves."""
    servable.wait_until(lambda: servable.trouble is None and servable.pid != dead, 60)


def is_answering(servable: IsolatedServable) -> bool:
    """Whether a run succeeds."""
    try:
        run_once(servable)
    except Unavailable:
        return False
    return True


def show_runs(rounds: int) -> None:
    """One run, here and in a process of its own."""
    rows = []
    for label, name, shape, count in CASES:
        here = TensorFlowRuntime().load(models.version_path(name))
        there = isolated(name)
        tensors = [np.ones(shape, np.float32)]
        costs: dict[str, list[Cost]] = {"here": [], "there": []}
        for _ in range(rounds):
            costs["here"].append(cost(prepared(here), tensors, count, None))
            costs["there"].append(cost(prepared(there), tensors, count, there.pid))
        there.close()
        here.close()
        rows.append((label, *figures(costs["here"], costs["there"])))
    headers = ("one run", "here", "isolated", "to here", "processor here", "isolated", "of it here")
    table(headers, rows)


def figures(here: Sequence[Cost], there: Sequence[Cost]) -> list[str]:
    """A line of the table."""
    wall, isolated_wall = (median(cost.wall_s for cost in costs) for costs in (here, there))
    spent = median(cost.here_s for cost in here)
    isolated_here = median(cost.here_s for cost in there)
    isolated_there = median(cost.there_s for cost in there)
    return [
        duration(wall),
        duration(isolated_wall),
        times(isolated_wall / wall),
        duration(spent),
        duration(isolated_here + isolated_there),
        duration(isolated_here),
    ]


def prepared(servable: Servable) -> PreparedRun:
    """The one signature of a model, ready to run."""
    signature = servable.signatures["serving_default"]
    feeds = [info.name for info in signature.inputs.values()]
    return servable.prepare(feeds, [info.name for info in signature.outputs.values()])


def cost(run: PreparedRun, tensors: Sequence[np.ndarray], count: int, pid: int | None) -> Cost:
    """What one run takes, over ``count`` of them; ``pid`` is the other process."""
    for _ in range(min(count, 50)):
        run(tensors, 30.0)
    there = processor_s(pid)
    here, started = time.process_time(), time.perf_counter()
    for _ in range(count):
        run(tensors, 30.0)
    wall_s, here_s = time.perf_counter() - started, time.process_time() - here
    return Cost(wall_s / count, here_s / count, (processor_s(pid) - there) / count)


def processor_s(pid: int | None) -> float:
    """What the threads of a process have spent; none for no process."""
    if pid is None:
        return 0.0
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def status_bytes(pid: int | None) -> int:
    """VmRSS of another process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) << 10


if __name__ == "__main__":
    sys.exit(main())
