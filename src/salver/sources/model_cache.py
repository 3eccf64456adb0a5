"""The folder where copies of remote versions lie: whole ones, and ones in the making.

    <folder>/<name of the base path>/7.0f3a…/7/…            a version's files
    <folder>/<name of the base path>/7.0f3a…/complete.json  what they are; written last
    <folder>/<name of the base path>/.copying-…             a copy in the making

A copy gets its place by one rename, when all of it is on the disk, so whatever has a place is
whole.  Several servers may share the folder: whoever uses or makes a copy holds a lock on it,
which ends with its process, and nobody removes what is locked.  So what a killed server left
half-made is told from what another is making.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from salver.errors import FailedPrecondition, ResourceExhausted, ServingError, Unavailable
from salver.sources.stores import StoredFile, joined

logger = logging.getLogger(__name__)

MARKER: Final = "complete.json"
_COPYING: Final = ".copying-"
_REMOVING: Final = ".removing-"
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_MAX_SLUG: Final = 60


def default_folder() -> Path:
    """Where the user's caches lie, as the XDG base directories say.

    A user without a home, as containers have them, has a folder among the temporary files.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if caches.is_absolute():
        return caches / "salver"
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path's own raises where there is none
    if home.is_absolute() and os.access(home, os.W_OK):
        return home / ".cache" / "salver"
    return Path(tempfile.gettempdir()) / f"salver-{os.getuid()}"


class Lease:
    """A copy in use: it stays where it is until ``close``, or until the process ends."""

    def __init__(self, entry: Path, model: Path, descriptor: int) -> None:
        self.path = str(model)
        self._entry = entry
        self._descriptor = descriptor

    def is_there(self) -> bool:
        """Whether nobody has taken the files away, locks or no locks."""
        return (self._entry / MARKER).exists() and Path(self.path).is_dir()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let the copy be removed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(frozen=True, slots=True)
class _Entry:
    folder: Path
    child: str
    size: int
    used_ns: int


class Draft:
    """A copy in the making: files go below ``folder``; ``commit`` gives it its place."""

    def __init__(self, cache: ModelCache, uri: str, child: str, fingerprint: str) -> None:
        base = cache.base(uri)
        base.mkdir(parents=True, exist_ok=True)
        self._place = base / f"{child}.{fingerprint}"
        self._temporary = base / f"{_COPYING}{uuid.uuid4().hex}"
        self._temporary.mkdir(mode=0o700)
        self._descriptor = _locked(self._temporary, fcntl.LOCK_SH)
        self._uri = joined(uri, child)
        self._child = child
        self.folder = self._temporary / child
        self.folder.mkdir()

    def commit(self, files: Sequence[StoredFile]) -> Lease:
        """Put the copy, of exactly ``files``, in its place, unless an equal one is there already.

        Raises:
            Unavailable: a file is not as long as it should be, or not what its checksum says.
        """
        for file in files:
            _verify(self.folder / file.path, file)
        for folder in (self.folder, *(p for p in self.folder.rglob("*") if p.is_dir())):
            _sync(folder)
        self._mark(files)
        if not self._take_place():
            lease = _lease(self._place, self._child)
            if lease is not None:
                return lease  # another server was quicker
            if not (_remove(self._place) and self._take_place()):
                raise Unavailable(f"a damaged copy of {self._uri} is in use: {self._place}")
        _sync(self._place.parent)
        lease = Lease(self._place, self._place / self._child, self._descriptor)
        self._descriptor = -1
        return lease

    def close(self) -> None:
        """Leave nothing of what was not committed."""
        shutil.rmtree(self._temporary, ignore_errors=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _take_place(self) -> bool:
        """Whether the place was free."""
        try:
            self._temporary.rename(self._place)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise
        return True

    def _mark(self, files: Sequence[StoredFile]) -> None:
        marker = self._temporary / MARKER
        unfinished = marker.with_suffix(".unfinished")
        contents = {"uri": self._uri, "files": {file.path: file.size for file in files}}
        unfinished.write_text(json.dumps(contents, indent=1, sort_keys=True) + "\n")
        _sync(unfinished)
        unfinished.rename(marker)
        _sync(self._temporary)


class ModelCache:
    """The copies in one folder. Any thread may call; other processes may use the folder too.

    With ``max_bytes`` copies that nobody uses stay until their room is needed; without, they go
    when nobody wants them.
    """

    def __init__(self, folder: Path, *, max_bytes: int = 0) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._reserved: dict[int, int] = {}

    def base(self, uri: str) -> Path:
        """Where the copies of one base path lie."""
        uri = uri.rstrip("/")
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", uri.split("://", 1)[-1]).strip("-.")[-_MAX_SLUG:]
        return self.folder / f"{slug}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"

    def open(self, uri: str, child: str, fingerprint: str | None = None) -> Lease | None:
        """The copy of a version with this content, or the newest with any; None without one."""
        if fingerprint is not None:
            return _lease(self.base(uri) / f"{child}.{fingerprint}", child)
        entries = [entry for entry in _entries(self.base(uri)) if entry.child == child]
        for entry in sorted(entries, key=lambda entry: entry.used_ns, reverse=True):
            lease = _lease(entry.folder, child)
            if lease is not None:
                return lease
        return None

    def children(self, uri: str) -> list[str]:
        """The versions of a base path that there are copies of."""
        return sorted({entry.child for entry in _entries(self.base(uri))})

    @contextmanager
    def drafting(
        self, uri: str, child: str, fingerprint: str, files: Sequence[StoredFile]
    ) -> Iterator[Draft]:
        """Room for a copy, and a draft in it; what is not committed is removed at the end.

        Raises:
            ResourceExhausted: the disk, or the bound, has no room.
            FailedPrecondition: the folder cannot be written to.
        """
        size = sum(file.size for file in files)
        with self._translated():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._room_for(size):
                draft = Draft(self, uri, child, fingerprint)
                try:
                    yield draft
                finally:
                    draft.close()

    def remove_partial(self) -> None:
        """Remove what servers that are no more left half-made or half-removed."""
        with suppress(OSError):
            for leftover in self.folder.glob("*/.*-*"):
                if leftover.name.startswith((_COPYING, _REMOVING)):
                    logger.info("Removing a copy that was never finished: %s", leftover)
                    _remove(leftover)

    def remove_unwanted(self, uri: str, wanted: Collection[str], listed: Collection[str]) -> None:
        """Remove copies of a base path that nobody holds: of versions gone from the store, and,
        without a bound, of those not ``wanted``.
        """
        keep = listed if self._max_bytes else wanted
        with suppress(OSError):
            for entry in _entries(self.base(uri)):
                if entry.child not in keep and _remove(entry.folder):
                    logger.info("Removed the copy of %s: nobody wants it", joined(uri, entry.child))

    @contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        with self._lock:
            key = max(self._reserved, default=0) + 1
            self._make_room(size)
            self._reserved[key] = size
        try:
            yield
        finally:
            with self._lock:
                del self._reserved[key]

    def _make_room(self, size: int) -> None:
        entries = [e for base in _folders(self.folder) for e in _entries(base)]
        entries.sort(key=lambda entry: entry.used_ns)
        used = sum(entry.size for entry in entries) + sum(self._reserved.values())

        def is_enough() -> bool:
            fits = not self._max_bytes or used + size <= self._max_bytes
            return fits and size <= shutil.disk_usage(self.folder).free

        while not is_enough():
            if not entries:
                raise ResourceExhausted(self._no_room(size, used))
            entry = entries.pop(0)
            if _remove(entry.folder):
                logger.info("Removed a copy to make room: %s", entry.folder)
                used -= entry.size

    def _no_room(self, size: int, used: int) -> str:
        free = shutil.disk_usage(self.folder).free
        bound = f"its bound is {self._max_bytes}, " if self._max_bytes else ""
        return (
            f"the model cache {self.folder} has no room for a copy of {size} bytes: {bound}"
            f"{used} bytes are in use, and its disk has {free} bytes free"
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ServingError:
            raise
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise ResourceExhausted(
                    f"the disk of the model cache {self.folder} is full"
                ) from error
            raise FailedPrecondition(
                f"the model cache {self.folder} cannot be written to: {error.strerror or error}"
            ) from error


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def _entries(base: Path) -> list[_Entry]:
    """What has a place under one base path; something odd is passed over."""
    entries = []
    for folder in _folders(base):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            if not folder.name.startswith("."):
                marker = folder / MARKER
                size = sum(json.loads(marker.read_text())["files"].values())
                child = folder.name.rpartition(".")[0]
                entries.append(_Entry(folder, child, size, marker.stat().st_mtime_ns))
    return entries


def _lease(entry: Path, child: str) -> Lease | None:
    """Hold a copy, if it is there and every file is as long as it was when it was made."""
    try:
        descriptor = _locked(entry, fcntl.LOCK_SH)
    except OSError:
        return None
    if not (_is_same(entry, descriptor) and _is_whole(entry, child)):
        os.close(descriptor)
        return None
    with suppress(OSError):
        os.utime(entry / MARKER)
    return Lease(entry, entry / child, descriptor)


def _is_whole(entry: Path, child: str) -> bool:
    try:
        sizes = json.loads((entry / MARKER).read_text())["files"]
        return all((entry / child / path).stat().st_size == size for path, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _remove(folder: Path) -> bool:
    """Remove a folder that nobody holds; say whether it is gone.

    It is renamed first: from then on nobody can take what is half-removed for something.
    """
    try:
        descriptor = _locked(folder, fcntl.LOCK_EX)
    except OSError:
        return False
    try:
        if not _is_same(folder, descriptor):
            return False
        doomed = folder.with_name(f"{_REMOVING}{uuid.uuid4().hex}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _locked(folder: Path, kind: int) -> int:
    """An open folder with a lock; an OSError where there is none, or another has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_same(folder: Path, descriptor: int) -> bool:
    """Whether the path still leads to what was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(folder))
    except OSError:
        return False


def _verify(path: Path, file: StoredFile) -> None:
    size = path.stat().st_size
    if size != file.size:
        raise Unavailable(f"{file.path} came as {size} bytes, and {file.size} were promised")
    if file.md5 and _md5(path) != file.md5:
        raise Unavailable(f"{file.path} is not what its checksum says")
    _sync(path)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Have what was written survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
