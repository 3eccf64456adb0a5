"""Memory that comes back: a large model is loaded, run once and unloaded, again and again.

    memory.py [--rounds N] [--model NAME]

The loader is the server's own.  Resident memory is read from /proc after each unload.
TensorFlow's builds for x86 keep freed tensors in a pool of oneDNN's, for the next ones to use: the
series is flat, and the size of one model stays resident.  With these two in the environment, all
of it goes back to the system, and runs with large tensors inside take longer:

    TF_ONEDNN_USE_SYSTEM_ALLOCATOR=1 MALLOC_MMAP_THRESHOLD_=1048576 memory.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import numpy as np

import models
from reporting import goal, machine, table
from salver.servables.tensorflow import SavedModel, TensorFlowRuntime

FIRST_COMPARED: Final = 3
ALLOWED: Final = 1.05
PER_ROW: Final = 6
MIB: Final = 1 << 20


def main() -> int:
    """Print the series and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="loads and unloads (30)")
    parser.add_argument(
        "--model", choices=sorted(models.WRITERS), default="large", metavar="NAME", help="(large)"
    )
    arguments = parser.parse_args()
    if not Path("/proc/self/status").exists():
        print("resident memory is read from /proc, which this system lacks")
        return 0
    if arguments.rounds < FIRST_COMPARED:
        parser.error(f"at least {FIRST_COMPARED} rounds are compared")
    print(machine())
    path = models.version_path(arguments.model)
    print(f"{arguments.model}: {models.size_bytes(arguments.model) / MIB:.0f} MiB of files")
    runtime = TensorFlowRuntime()
    runtime.open()
    before = resident_bytes()
    show(before, *measure(runtime, path, arguments.rounds))
    return 0


def measure(runtime: TensorFlowRuntime, path: Path, rounds: int) -> tuple[list[int], list[int]]:
    """Resident bytes while loaded and after each unload."""
    loaded, unloaded = [], []
    for _ in range(rounds):
        loader = runtime.loader(str(path))
        loader.load()
        run_once(loader.servable())
        loaded.append(resident_bytes())
        loader.unload()
        unloaded.append(resident_bytes())
    return loaded, unloaded


def show(before: int, loaded: list[int], unloaded: list[int]) -> None:
    """The series and the verdict."""
    starts = range(0, len(unloaded), PER_ROW)
    rows = [
        (f"{start + 1} to {min(start + PER_ROW, len(unloaded))}", *in_mib(unloaded, start))
        for start in starts
    ]
    table(("MiB after unload", *(f"+{i}" for i in range(PER_ROW))), rows)
    grown = unloaded[-1] / unloaded[FIRST_COMPARED - 1]
    print(
        f"before the first load {before / MIB:.0f} MiB, at most {max(loaded) / MIB:.0f} while "
        f"loaded; after the last unload {grown:.3f}x of after number {FIRST_COMPARED}\n"
    )
    goal(
        f"after {len(unloaded)} loads and unloads within {ALLOWED}x of after {FIRST_COMPARED}",
        met=grown <= ALLOWED,
    )


def in_mib(figures: list[int], start: int) -> list[str]:
    """One row of figures, filled up with blanks."""
    row = [f"{size / MIB:.0f}" for size in figures[start : start + PER_ROW]]
    return row + [""] * (PER_ROW - len(row))


def run_once(servable: SavedModel) -> None:
    """One run with a batch of one, so that the executor is built, too."""
    signature = servable.signatures["serving_default"]
    feeds = {
        info.name: np.ones([max(size, 1) for size in info.shape or ()], info.dtype.numpy)
        for info in signature.inputs.values()
    }
    servable.run(feeds, [info.name for info in signature.outputs.values()])


def resident_bytes() -> int:
    """VmRSS of this process."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    sys.exit(main())
