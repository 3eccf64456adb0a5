"""How much memory this process may use: the machine's, or less where its control group says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")
OWN_GROUPS: Final = Path("/proc/self/cgroup")

UNKNOWN_BYTES: Final = 4 << 30
"""Assumed of a system that does not tell."""

LEAST_SHARE_BYTES: Final = 256 << 20


def a_quarter_of_memory(allowed_bytes: int | None = None) -> int:
    """A quarter of what the process may use, yet never less than a few large requests need."""
    if allowed_bytes is None:
        allowed_bytes = memory_allowed()
    return max(allowed_bytes // 4, LEAST_SHARE_BYTES)


def memory_allowed(*, control_groups: Path = CONTROL_GROUPS, own_groups: Path = OWN_GROUPS) -> int:
    """Bytes of memory: the smallest of the machine's and its control groups' limits."""
    limits = [limit for limit in _limits(control_groups, own_groups) if limit > 0]
    return min([_physical_bytes(), *limits])


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return UNKNOWN_BYTES


def _limits(control_groups: Path, own_groups: Path) -> Iterator[int]:
    """The limits of the process's groups and of all groups around them, in both versions.

    A container may see its own group as the root, or a path of which it has only the end.
    """
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, file = control_groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, file = control_groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for each in (group, *group.parents):
            yield _limit_in(root / each / file)


def _limit_in(file: Path) -> int:
    """A group's limit; 0 where it has none."""
    try:
        text = file.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
