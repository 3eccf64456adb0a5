"""What a remote store of models is to us: children, files with their tags, and a copy of one file.

Base paths such as ``s3://bucket/models/mnist`` name a store by their scheme; each kind of store is
an extra of its own, and nothing of it is imported before a model lies there.
What a store lists is not trusted: a path that would leave its folder is refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol
from urllib.parse import urlsplit

from salver.errors import FailedPrecondition, InvalidArgument, Unimplemented

MAX_FILES: Final = 10_000
"""Files of one version; a SavedModel has tens, and a listing has to end."""

_MAX_NAME_BYTES: Final = 255  # what local file systems take

_AUTHORITY_END: Final = re.compile(r"[/?#]")
_PATH_END: Final = re.compile(r"[?#]")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a version, its path relative to the version.

    The ``tag`` changes with the content, as an ETag does; ``md5`` is known for sure, or empty.
    """

    path: str
    size: int
    tag: str = ""
    md5: str = ""


class Store(Protocol):
    """Where versions lie. Any thread may call; every call may take long, and ends some time.

    Each raises NotFound, PermissionDenied or Unavailable in a ServingError's words.
    """

    def children(self, uri: str) -> Sequence[str]:
        """The names right under ``uri``; an error where there is nothing."""

    def files(self, uri: str) -> Sequence[StoredFile]:
        """Every file below ``uri``, at any depth."""

    def fetch(
        self, uri: str, file: StoredFile, target: Path, is_cancelled: Callable[[], bool]
    ) -> None:
        """Copy one file below ``uri`` to ``target``; raise Cancelled soon after it is."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A kind of store: fsspec's name for it, the package it needs, and our extra that brings it."""

    protocol: str
    package: str
    extra: str


SCHEMES: Final[Mapping[str, Scheme]] = MappingProxyType(
    {
        "s3": Scheme("s3", "s3fs", "s3"),
        "gs": Scheme("gs", "gcsfs", "gcs"),
        "az": Scheme("az", "adlfs", "azure"),
        "http": Scheme("http", "aiohttp", "http"),
        "https": Scheme("https", "aiohttp", "http"),
    }
)


def is_remote(base_path: str) -> bool:
    """Whether a base path names a store, and not a folder of this machine."""
    return "://" in base_path and not base_path.startswith(("file://", "/"))


def scheme_of(uri: str) -> Scheme:
    """The kind of store that ``uri`` lies in.

    Raises:
        Unimplemented: none that we know.
    """
    name = uri.split("://", 1)[0].lower()
    if name not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise Unimplemented(f"base path {uri} is in a store of no known kind; there are {known}")
    return SCHEMES[name]


def store_key(uri: str) -> str:
    """What all base paths of one store have in common: scheme and bucket, container or host."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}"


def check_place(uri: str) -> None:
    """Check that ``uri`` says where something lies, and no more.

    Raises:
        InvalidArgument: it carries a secret, or something behind the path, or makes no sense.
        Unimplemented: the scheme is unknown.
    """
    # Secrets first: neither these texts nor any other repeats them, for base paths are logged.
    scheme, _, rest = uri.partition("://")
    host = _AUTHORITY_END.split(rest, maxsplit=1)[0]
    if "@" in host:
        raise InvalidArgument(
            f"a base path at {scheme}://…@{host.rpartition('@')[2]} carries credentials; "
            "give them by the environment instead"
        )
    bare = _PATH_END.split(uri, maxsplit=1)[0]
    if bare != uri:
        raise InvalidArgument(f"base path {bare} has to end with the path")
    scheme_of(uri)
    try:
        urlsplit(uri)
    except ValueError as error:
        raise InvalidArgument(f"base path {uri} makes no sense: {error}") from error


def check_uri(uri: str) -> None:
    """Check whether a base path can be looked at at all, without a look.

    Raises:
        Unimplemented, InvalidArgument: as ``check_place``.
        FailedPrecondition: a package is missing; the text has the command that installs it.
    """
    check_place(uri)
    scheme = scheme_of(uri)
    missing = [name for name in ("fsspec", scheme.package) if not _is_installed(name)]
    if missing:
        raise FailedPrecondition(
            f"base path {uri} needs the package {' and '.join(missing)}, which is not installed. "
            f"Try: pip install 'salver[{scheme.extra}]'"
        )


def joined(uri: str, path: str) -> str:
    """The URI of what lies at ``path`` below ``uri``."""
    return f"{uri.rstrip('/')}/{path}"


def check_files(uri: str, files: Iterable[StoredFile]) -> None:
    """Check that a listing can become files in a folder of ours, and in no other.

    Raises:
        InvalidArgument: a path is not plainly below its version, or two files cannot both be.
    """
    paths: set[str] = set()
    for file in files:
        if not _is_plain(file.path):
            raise InvalidArgument(f"{uri} lists a file that is not plainly below it: {file.path!r}")
        paths.add(file.path)
        if len(paths) > MAX_FILES:
            raise InvalidArgument(f"{uri} has more than {MAX_FILES} files")
    folders = {path[:at] for path in paths for at, c in enumerate(path) if c == "/"}
    for path in sorted(folders & paths):
        raise InvalidArgument(f"{uri} lists {path!r} as a file and as a folder")


def fingerprint(files: Iterable[StoredFile]) -> str:
    """A short name of exactly these files with exactly this content."""
    rows = sorted((file.path, file.size, file.tag, file.md5) for file in files)
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _is_plain(path: str) -> bool:
    parts = path.split("/")
    return not any(part in ("", ".", "..") for part in parts) and not any(
        "\0" in part or "\\" in part or len(part.encode()) > _MAX_NAME_BYTES for part in parts
    )


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
