"""What TensorFlow is told that a version's folder is called.

TensorFlow counts loads by the folder's path, in metrics that nobody can shrink: each path it was
ever told costs the process two kilobytes for good.  So of a model's versions the first hundred go
by their paths, as everybody expects to see them in TensorFlow's log; each later one by a name of
the system's for the open folder, which comes back for others.  Its errors name the path again.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from salver.errors import ServingError, error_for

logger = logging.getLogger(__name__)

MAX_VERSIONS: Final = 100
"""Of one model, that TensorFlow is told the paths of."""

MAX_PATHS: Final = 10_000
"""Of all models."""

_OPEN_FOLDERS: Final = Path("/proc/self/fd")


class FolderName:
    """How TensorFlow is to call a folder, for as long as it may look into it."""

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        self._path = path
        self._descriptor = descriptor
        self.told = path if descriptor is None else _OPEN_FOLDERS / str(descriptor)

    def translated(self, error: ServingError) -> ServingError:
        """The same error, with the path that everybody knows."""
        if self.told == self._path:
            return error
        return error_for(error.code, error.message.replace(str(self.told), str(self._path)))

    def close(self) -> None:
        """TensorFlow looks into the folder no more."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class FolderNames:
    """The names for one process; may be asked from several threads at once."""

    def __init__(self, *, max_versions: int = MAX_VERSIONS, max_paths: int = MAX_PATHS) -> None:
        self._max_versions = max_versions
        self._max_paths = max_paths
        self._lock = threading.Lock()
        self._count = 0
        self._told: dict[Path, set[str]] = {}  # by the folder of a model

    def name(self, path: Path) -> FolderName:
        """A name for a folder, which is to be closed; its path where the system gives no other."""
        if self._may_be_told(path):
            return FolderName(path)
        descriptor = _opened(path)
        if descriptor is not None:
            logger.info("TensorFlow is told %s as %s/%d", path, _OPEN_FOLDERS, descriptor)
        return FolderName(path, descriptor)

    def _may_be_told(self, path: Path) -> bool:
        with self._lock:
            told = self._told.get(path.parent, set())
            if path.name in told:
                return True
            if len(told) >= self._max_versions or self._count >= self._max_paths:
                return False
            self._told.setdefault(path.parent, told).add(path.name)
            self._count += 1
            return True


def _opened(path: Path) -> int | None:
    """The folder's descriptor, if that is a way into it, as on Linux."""
    with suppress(OSError, AttributeError):
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
        if (_OPEN_FOLDERS / str(descriptor)).is_dir():
            return descriptor
        os.close(descriptor)
    return None
