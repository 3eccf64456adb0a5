"""Load by h2load, and the processor time that a server and its children spend on it.

h2load costs the machine almost nothing, and what it does is the same for every server.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

sys.path.append(str(Path(__file__).resolve().parent.parent))

from timing import in_turns  # they are in the folder above

WARM_UP: Final = 2000
"""Requests before any count: the server learns from them where calls of their kind belong."""

ROUNDS: Final = 3
_TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class Shape:
    """Connections, and requests at a time on each."""

    connections: int
    streams: int

    def __str__(self) -> str:
        return f"{self.connections}x{self.streams}"


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one kind to one server."""

    name: str
    pid: int
    url: str
    body: Path
    is_http1: bool = False
    answer_bytes: int | None = None
    """Of the body of every answer, where that is known: h2load itself reads no gRPC status."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a load took, round by round."""

    cpu_s: Sequence[float]
    """Processor time of the server per request."""
    per_second: Sequence[float]

    @property
    def typical_cpu_s(self) -> float:
        """Of the middle one of the rounds."""
        return median(self.cpu_s)

    @property
    def typical_per_second(self) -> float:
        """Of the middle one of the rounds."""
        return median(self.per_second)


def is_there() -> bool:
    """Whether all that this needs is here; says what is missing."""
    if not Path("/proc/self/stat").exists():
        print("processor time is read from /proc, which this system lacks")
        return False
    if shutil.which("h2load") is None:
        print("h2load is not installed (Debian has it in nghttp2-client): no figures.")
        return False
    return True


def compare(
    loads: Sequence[Load], shape: Shape, *, seconds: float, warm_up: int = WARM_UP
) -> dict[str, Figures]:
    """Warm every server up, then put each under load in turns, ``seconds`` a turn."""
    counts = {
        load.name: max(int(run(load, shape, warm_up) * seconds), 8 * shape.connections)
        for load in loads
    }
    per_second: dict[str, list[float]] = {load.name: [] for load in loads}

    def turn(load: Load) -> float:
        count, cpu_s = counts[load.name], tree_cpu_seconds(load.pid)
        per_second[load.name].append(run(load, shape, count))
        return (tree_cpu_seconds(load.pid) - cpu_s) / count

    turns = {load.name: lambda load=load: turn(load) for load in loads}
    cpu_s = in_turns(turns, rounds=ROUNDS)
    return {name: Figures(cpu_s[name], per_second[name]) for name in cpu_s}


def run(load: Load, shape: Shape, requests: int) -> float:
    """Send ``requests``, all of which have to be answered; the requests per second."""
    kind = (
        ("--h1", "-Hcontent-type: application/json")
        if load.is_http1
        else ("-Hcontent-type: application/grpc", "-Hte: trailers")
    )
    command = [
        "h2load",
        f"-n{requests}",
        f"-c{shape.connections}",
        f"-m{shape.streams}",
        f"-d{load.body}",
        *kind,
        load.url,
    ]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(_found(r"(\d+) succeeded", printed)) == requests, printed
    if load.answer_bytes is not None:
        assert int(_found(r"\((\d+)\) data", printed)) == requests * load.answer_bytes, printed
    return float(_found(r"([\d.]+) req/s", printed))


def tree_cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its living children so far."""
    return sum(_cpu_seconds(each) for each in _tree(pid))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in _children(task):
            yield from _tree(child)


def _children(task: Path) -> list[int]:
    try:
        return [int(child) for child in (task / "children").read_text().split()]
    except OSError:  # a thread may end while it is looked at
        return []


def _cpu_seconds(pid: int) -> float:
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = after_name[11:13]
    return (int(user) + int(system)) / _TICKS


def _found(pattern: str, printed: str) -> str:
    found = re.search(pattern, printed)
    assert found is not None, printed
    return found[1]
