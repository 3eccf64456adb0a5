"""Runs each fuzzer in a process of its own, and tells what ended it.

A parser that crashes, hangs in C or is killed takes its process along; the input it died of stands
in a notebook that outlives it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fuzz.engine import Notebook, name_of

CACHE: Final = Path(__file__).parents[2] / ".cache/fuzz"

GRACE_S: Final = 900.0
"""To start, to make what was found smaller, and to end."""


def watch(target: str, seconds: float, options: Sequence[str]) -> bool:
    """Fuzz one target; whether nothing was wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder, "input")
        command = [sys.executable, "-X", "faulthandler", "-m", "fuzz", "--worker", str(notebook)]
        command += ["--target", target, f"--seconds={seconds}", *options]
        try:
            code = subprocess.run(command, check=False, timeout=seconds + GRACE_S).returncode
        except subprocess.TimeoutExpired:
            return fail(target, "it was not done long after its time", Notebook.read(notebook))
        if code < 0:
            return fail(target, ending(-code), Notebook.read(notebook))
    return code == 0


def ending(number: int) -> str:
    """Why a signal ends a process."""
    name = signal.Signals(number).name
    if number == signal.SIGVTALRM:
        return f"{name}: an input took too much time"
    return f"{name} ended the process"


def fail(target: str, why: str, data: bytes) -> bool:
    """Keep and show an input that fails."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{target}-{name_of(data)}.hex"
    path.write_text(f"{data.hex()}\n", encoding="ascii")
    say(target, f"FAILED: {why}\n{data!r}\n{data.hex()}\nkept in {path}")
    return False


def say(target: str, text: str) -> None:
    """One line to whoever waits."""
    print(f"{target}: {text}", flush=True)  # noqa: T201 -- a command's output
