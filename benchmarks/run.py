"""All standing benchmarks, one after the other, each in a process of its own.

    run.py [NAME ...] [--list]

What TensorFlow says on the way is shown only if a benchmark fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Final

import models
import servers

BENCHMARKS: Final = {
    "run_one": "one run of a loaded model, beside TensorFlow's own quickest call",
    "start": "from the start of the process to the first right answer",
    "load_pause": "the longest pause another thread feels while a model loads",
    "codec_cost": "reading requests and writing answers, beside the usual ways",
    "memory": "resident memory over thirty loads and unloads",
    "whole_server": "throughput, latency and processor time per request",
    "swap": "what requests feel of switches between versions, and of reloads",
    "wire": "processor time per call beside echo servers in C++ and Python, and beside nginx",
}

MODELS: Final = (
    "half_plus_two",
    "keras_softmax",
    "keras_cnn",
    "mobilenet_v2",
    "large",
    "image_mean",
    "embedding",
)


def main() -> int:
    """Run those that are named, or all; 1 if one of them broke."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run (all)")
    parser.add_argument("--list", action="store_true", help="say what there is")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; see --list")
    if arguments.list:
        for name, text in BENCHMARKS.items():
            print(f"{name:14}{text}")
        return 0
    for name in MODELS:
        models.base_path(name)
    return max(run(name) for name in arguments.names or BENCHMARKS)


def run(name: str) -> int:
    """Run one benchmark and let it print."""
    print(f"\n## {name}: {BENCHMARKS[name]}\n", flush=True)
    script = Path(__file__).with_name(name)
    if not script.is_dir():  # one of several parts runs by its __main__.py
        script = script.with_suffix(".py")
    started = perf_counter()
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            [sys.executable, str(script)], stderr=said, env=servers.quiet_environment()
        )
        if done.returncode:
            said.seek(0)
            print(said.read().decode(errors="replace"))
            print(f"{name} broke with status {done.returncode}")
    print(f"\n({perf_counter() - started:.0f} s)", flush=True)
    return min(done.returncode, 1) if done.returncode >= 0 else 1


if __name__ == "__main__":
    sys.exit(main())
