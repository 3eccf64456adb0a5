"""An example, run as ``make examples`` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
PATIENCE_S = 240


def run_example(name: str) -> list[str]:
    """The lines that are printed for an example, which has to succeed; the table comes last."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "run.py"), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return [line.strip() for line in done.stdout.splitlines()]


def cells(line: str) -> list[str]:
    """What stands in the columns of a line of the table."""
    return re.split(r" {2,}", line)
