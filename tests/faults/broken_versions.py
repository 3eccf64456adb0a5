"""Versions that something is wrong with, made from one that is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

GRAPH: Final = "saved_model.pb"


def put(version: Path, base_path: Path, number: int) -> Path:
    """Copy a version into a base path as ``number``, all at once; where it lies now."""
    unfinished = base_path.with_name(f"{base_path.name}.unfinished")
    shutil.copytree(version, unfinished)
    base_path.mkdir(parents=True, exist_ok=True)
    return unfinished.rename(base_path / str(number))


def put_broken(
    version: Path, base_path: Path, number: int, break_it: Callable[[Path], None]
) -> Path:
    """The same of a version that is broken first."""
    unfinished = base_path.with_name(f"{base_path.name}.broken")
    shutil.copytree(version, unfinished)
    break_it(unfinished)
    return unfinished.rename(base_path / str(number))


def shard_of(version: Path) -> Path:
    """The file that holds the values of the variables."""
    (shard,) = (version / "variables").glob("variables.data-*")
    return shard


def corrupt_graph(version: Path) -> None:
    """Bytes that no exporter wrote."""
    (version / GRAPH).write_bytes(b"\xff" * 1000)


def truncated_graph(version: Path) -> None:
    """A copy that was broken off in the graph."""
    os.truncate(version / GRAPH, (version / GRAPH).stat().st_size // 2)


def empty_graph(version: Path) -> None:
    """What a full disk leaves behind."""
    os.truncate(version / GRAPH, 0)


def truncated_variables(version: Path) -> None:
    """A copy that was broken off in the variables."""
    shard = shard_of(version)
    os.truncate(shard, shard.stat().st_size // 2)


def corrupt_index(version: Path) -> None:
    """A table of variables that is none."""
    (version / "variables" / "variables.index").write_bytes(b"\0" * 100)


def missing_shard(version: Path) -> None:
    """A table of variables whose values are not there."""
    shard_of(version).unlink()


def missing_variables(version: Path) -> None:
    """A graph that was copied, and nothing else."""
    shutil.rmtree(version / "variables")


def no_files(version: Path) -> None:
    """A folder that was made, and nothing in it yet."""
    shutil.rmtree(version)
    version.mkdir()


def endless_variables(version: Path) -> Path:
    """Put a named pipe in place of the values: whoever opens it waits for ever; the pipe."""
    shard = shard_of(version)
    shard.unlink()
    os.mkfifo(shard)
    return shard


def let_go(pipe: Path) -> None:
    """Open the other end of a named pipe and close it, if somebody waits for that."""
    with suppress(OSError):  # nobody does
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


BREAKS: Final[Mapping[str, Callable[[Path], None]]] = MappingProxyType(
    {
        each.__name__: each
        for each in (
            corrupt_graph,
            truncated_graph,
            empty_graph,
            truncated_variables,
            corrupt_index,
            missing_shard,
            no_files,
        )
    }
)
