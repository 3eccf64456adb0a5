"""One version from a store into the cache, whole or not at all.

Two steps, because they take very different time: ``examine`` lists, ``copy`` copies.
A version is copied when its files are all there as far as anybody can tell, and two listings in a
row were the same; it is used when a third, after the copy, is the same once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from salver.errors import Cancelled
from salver.saved_model_files import (
    RECOGNISED_BY,
    graph_that_tells,
    missing_files,
    read_needs,
)
from salver.sources.model_cache import Lease, ModelCache
from salver.sources.stores import Store, StoredFile, check_files, fingerprint, joined

_MAX_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class NotYet:
    """A version that cannot be copied yet.

    A ``trouble`` that its graph told of holds until the files change: ``is_known_by_graph``.
    """

    fingerprint: str
    trouble: str = ""
    is_known_by_graph: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """A version whose files can be copied."""

    files: tuple[StoredFile, ...]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Version:
    """Which version it is: a child of a base path."""

    base: str
    child: str

    @property
    def uri(self) -> str:
        """Where it lies."""
        return joined(self.base, self.child)


def examine(
    store: Store, cache: ModelCache, version: Version, before: NotYet | None
) -> Lease | NotYet | Ready:
    """Look whether a version can be copied, or has been; ``before`` is what the last look found.

    Raises:
        ServingError: the store did not say, or what it said cannot be copied.
    """
    files = tuple(store.files(version.uri))
    check_files(version.uri, files)
    now = fingerprint(files)
    lease = cache.open(version.base, version.child, now)
    if lease is not None:
        return lease
    missing = missing_files({file.path for file in files})
    if missing:
        return NotYet(now, _lacks(version, missing))
    if before is None or before.fingerprint != now:
        return NotYet(now)
    return before if before.is_known_by_graph else Ready(files, now)


def copy(
    store: Store,
    cache: ModelCache,
    version: Version,
    ready: Ready,
    is_cancelled: Callable[[], bool],
) -> Lease | NotYet:
    """Copy a version that is ready; nothing stays of a copy that does not get to its end.

    Raises:
        ServingError: the store, or the cache, failed; or it was cancelled.
    """
    paths = {file.path for file in ready.files}
    graph = graph_that_tells(paths)
    with cache.drafting(version.base, version.child, ready.fingerprint, ready.files) as draft:
        # The graph first: it says what else has to be there.
        for file in sorted(
            ready.files, key=lambda file: (file.path not in RECOGNISED_BY, file.path)
        ):
            if is_cancelled():
                raise Cancelled(f"the copy of {version.uri} was cancelled")
            target = draft.folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            store.fetch(version.uri, file, target, is_cancelled)
            missing = missing_files(paths, read_needs(target)) if file.path == graph else []
            if missing:
                return NotYet(ready.fingerprint, _lacks(version, missing), is_known_by_graph=True)
        after = fingerprint(store.files(version.uri))
        if after != ready.fingerprint:
            return NotYet(after, f"{version.uri} changed while it was copied")
        return draft.commit(ready.files)


def _lacks(version: Version, missing: Sequence[str]) -> str:
    more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
    return f"{version.uri} is not complete yet: it lacks {', '.join(missing[:_MAX_NAMED])}{more}"
