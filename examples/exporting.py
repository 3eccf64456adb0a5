"""A version appears in its folder whole or not at all: a server may be watching."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_version(export_dir: Path, version: int) -> Iterator[Path]:
    """A path to save at, beside ``export_dir``; a block that ends well makes it the version."""
    unfinished = export_dir.parent / f".{export_dir.name}-{version}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    yield unfinished
    export_dir.mkdir(parents=True, exist_ok=True)
    unfinished.rename(export_dir / str(version))
