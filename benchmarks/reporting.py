"""What the benchmarks print: the machine, tables in Markdown, and goals with a verdict."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

_PACKAGES: Final = (
    "salver",
    "tensorflow",
    "numpy",
    "protobuf",
    "orjson",
    "pysimdjson",
    "grpcio",
    "httptools",
    "uvloop",
)


def machine() -> str:
    """The machine and the versions that the figures belong to."""
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return (
        f"{_cores()} cores, {platform.machine()}, {platform.system()}, "
        f"Python {platform.python_version()}, {versions}"
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, labels: int = 1) -> None:
    """Print a table; the first ``labels`` columns are text, the others are figures."""
    widths = {i: max(len(row[i]) for row in (headers, *rows)) for i in range(len(headers))}
    rules = ["-" * width if i < labels else "-" * (width - 1) + ":" for i, width in widths.items()]
    print()
    for row in (headers, rules, *rows):
        cells = (f"{text:{'<' if i < labels else '>'}{widths[i]}}" for i, text in enumerate(row))
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def goal(text: str, *, met: bool) -> None:
    """Print a goal and whether the figures above reach it."""
    print(f"{'met' if met else 'MISSED'}: {text}", flush=True)


def duration(seconds: float) -> str:
    """A time in the unit that suits it, with three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def times(ratio: float) -> str:
    """A ratio."""
    return f"{ratio:.3g}x" if ratio < 0.8 or ratio > 1.25 else f"{ratio:.3f}x"


def _cores() -> int:
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable is not None else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
