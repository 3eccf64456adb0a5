"""Run the examples one after the other and say what became of each: ``make examples``.

    run.py [--keep FOLDER] [--timeout SECONDS] [--folder FOLDER] [NAME ...]

Each runs in a process of its own: one may turn TensorFlow's eager mode off, or crash, and the next
one does not feel it.  Its folder comes first on its import path, then this one (``outcome``,
``serving``) and ``mnist`` (``data``, the digits).  What it writes to stderr, where TensorFlow
greets, is shown if it fails.  The end is a table, and 1 if an example failed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from outcome import Outcome

HERE: Final = Path(__file__).resolve().parent
MODULE: Final = "example.py"
TIMEOUT_S: Final = 1800.0
LINES_OF_LOG: Final = 40
MAX_WIDTH: Final = 240
HEADINGS: Final = Outcome("example", "exported with", "served by", "checked against", "error rate")


class FailedError(Exception):
    """An example that did not come to its end."""


def main(arguments: Sequence[str]) -> int:
    """Run the named examples, or all; 1 if one of them failed."""
    options = parse_arguments(arguments)
    if options.run_one:
        return run_here(*options.run_one)
    names = options.names or names_in(options.folder)
    if unknown := [name for name in names if not (options.folder / name / MODULE).exists()]:
        print(f"No example {', '.join(unknown)}; there are: {', '.join(names_in(options.folder))}")
        return 1
    with tempfile.TemporaryDirectory(prefix="salver-examples-") as temporary:
        kept = options.keep or Path(temporary)
        outcomes, failures = run_all(options.folder, names, kept, options.timeout)
    print()
    for line in table([HEADINGS, *outcomes]):
        print(line)
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; ``--run-one`` is how this program calls itself."""
    parser = argparse.ArgumentParser(description="Run the examples and print what they found.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="an example; all without one")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave what they write here")
    parser.add_argument("--folder", type=Path, default=HERE, help="where the examples are")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS")
    parser.add_argument("--run-one", nargs=3, type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def names_in(folder: Path) -> list[str]:
    """Every folder that holds an example."""
    return sorted(path.parent.name for path in folder.glob(f"*/{MODULE}"))


def run_all(
    folder: Path, names: Iterable[str], kept: Path, timeout_s: float
) -> tuple[list[Outcome], list[str]]:
    """What the examples found, and one line for each that failed."""
    outcomes: list[Outcome] = []
    failures: list[str] = []
    for name in names:
        print(f"\n=== {name}", flush=True)
        try:
            outcomes += run_apart(folder / name, kept.resolve() / name, timeout_s)
        except FailedError as failed:
            outcomes.append(Outcome(name, "-", "-", "-", "failed"))
            failures.append(f"{name}: {failed}")
    return outcomes, failures


def run_apart(example: Path, workdir: Path, timeout_s: float) -> list[Outcome]:
    """Run one example in a process, and in a group, of its own: none of its servers outlives it."""
    try:
        workdir.mkdir(parents=True)
    except OSError as error:
        raise FailedError(f"it needs a new folder: {error}") from error
    with tempfile.TemporaryDirectory(prefix="salver-example-") as folder:
        answer, log = Path(folder, "answer.json"), Path(folder, "stderr.log")
        command = [sys.executable, __file__, "--run-one", str(example), str(workdir), str(answer)]
        with log.open("wb") as errors:
            process = subprocess.Popen(command, stderr=errors, start_new_session=True)
        try:
            return read_answer(answer, wait_for(process, timeout_s))
        except FailedError:
            print(*log.read_text(errors="replace").splitlines()[-LINES_OF_LOG:], sep="\n")
            raise


def wait_for(process: subprocess.Popen[bytes], timeout_s: float) -> int:
    """Its status, when it has ended; it does not get more than its time."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise FailedError(f"not done after {timeout_s:g} s") from None
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever the process, or what it has started, still runs."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: macOS, all ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_answer(answer: Path, status: int) -> list[Outcome]:
    """The outcomes that the example's process left behind, or why there are none."""
    if not answer.exists():
        raise FailedError(f"its process ended with status {status} and without a word")
    content = json.loads(answer.read_text())
    if "error" in content:
        raise FailedError(content["error"])
    return [Outcome(**row) for row in content["outcomes"]]


def run_here(example: Path, workdir: Path, answer: Path) -> int:
    """In the example's own process: run it, and leave its outcomes, or what was raised."""
    sys.path[:1] = [str(example), str(HERE), str(HERE / "mnist")]
    try:
        found = importlib.import_module("example").run(workdir)
        outcomes = [found] if isinstance(found, Outcome) else list(found)
        content = {"outcomes": [dataclasses.asdict(outcome) for outcome in outcomes]}
    except Exception as error:  # noqa: BLE001 (whatever it is, it is told in one line)
        traceback.print_exc()
        content = {"error": in_one_line(error)}
    answer.write_text(json.dumps(content))
    return 1 if "error" in content else 0


def in_one_line(error: Exception) -> str:
    """The kind of an error and the beginning of what it says."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= MAX_WIDTH else text[: MAX_WIDTH - 1] + "…"


def table(rows: Sequence[Outcome]) -> list[str]:
    """Columns as wide as their widest entry; a rule below the first row."""
    cells = [dataclasses.astuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
