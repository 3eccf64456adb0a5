"""Memory: what the process may use, wherever its limit is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from salver.wire.memory import LEAST_SHARE_BYTES, a_quarter_of_memory, memory_allowed

MIB = 1 << 20


def allowed(tmp_path: Path, groups: str, limits: Mapping[str, str]) -> int:
    """What a process in these groups may use; limits by the path of their file."""
    own = tmp_path / "own"
    own.write_text(groups)
    for path, limit in limits.items():
        file = tmp_path / "groups" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    return memory_allowed(control_groups=tmp_path / "groups", own_groups=own)


def test_without_groups_it_is_the_machines(tmp_path: Path):
    """A system that has no control groups gives what it has."""
    here = memory_allowed(control_groups=tmp_path, own_groups=tmp_path / "none")

    assert here > 64 * MIB


@pytest.mark.parametrize("groups", ["0::/\n", "0::/pod/of/which/only/the/end/is/seen\n"])
def test_container_knows_its_limit(tmp_path: Path, groups: str):
    """Version 2: the limit is at the root that the container sees."""
    assert allowed(tmp_path, groups, {"memory.max": f"{64 * MIB}"}) == 64 * MIB


def test_limit_of_a_group_around_counts(tmp_path: Path):
    """A group without a limit of its own is within those of the groups around it."""
    limits = {"a/b/memory.max": "max", "a/memory.max": f"{32 * MIB}"}

    assert allowed(tmp_path, "0::/a/b\n", limits) == 32 * MIB


def test_version_1_is_understood(tmp_path: Path):
    """There the controller has a folder and a file of its own."""
    groups = "5:cpu,cpuacct:/x\n4:memory:/a\n0::/\n"
    limits = {"memory/a/memory.limit_in_bytes": f"{16 * MIB}"}

    assert allowed(tmp_path, groups, limits) == 16 * MIB


def test_limit_beyond_the_machine_is_none(tmp_path: Path):
    """Some systems write a huge number where they mean no limit."""
    huge = allowed(tmp_path, "0::/\n", {"memory.max": f"{2**63 - 4096}"})

    assert huge == memory_allowed(control_groups=tmp_path / "none", own_groups=tmp_path / "none")


@pytest.mark.parametrize(
    ("memory", "share"), [(8 << 30, 2 << 30), (64 * MIB, LEAST_SHARE_BYTES), (0, LEAST_SHARE_BYTES)]
)
def test_quarter_has_a_floor(memory: int, share: int):
    """A small machine too has room for a few large requests."""
    assert a_quarter_of_memory(memory) == share
