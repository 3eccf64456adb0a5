"""The programs of an example, each in a process of its own, which TensorFlow leaves with."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


class ScriptFailedError(Exception):
    """A program that ended with a status other than 0; the last it said stands in the message."""


def run_script(script: Path, *arguments: str) -> str:
    """What a program prints, which is shown as it comes; its complaints only if it fails."""
    print(f"  $ {' '.join([script.name, *arguments])}", flush=True)
    printed = []
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
        with process:
            for line in process.stdout or ():
                print(f"  {line}", end="", flush=True)
                printed.append(line)
        if process.returncode == 0:
            return "".join(printed)
        complaints.seek(0)
        last = [*printed, *complaints][-20:]
    raise ScriptFailedError(f"{script.name} ended with {process.returncode}:\n{''.join(last)}")
