"""The stores that fsspec knows, as ours: S3, Google Cloud Storage, Azure Blob Storage, HTTP.

fsspec and its parts are imported when a store is first opened, on the thread that opens it.
Credentials, endpoints and proxies come from where each library looks for them; nothing of them
passes through here, and no error's text keeps what stands behind a URL's question mark.
"""

from __future__ import annotations

import base64
import errno
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from salver.errors import (
    Cancelled,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServingError,
    Unavailable,
)
from salver.sources.stores import MAX_FILES, StoredFile, joined, scheme_of

CONNECT_TIMEOUT_S: Final = 10
READ_TIMEOUT_S: Final = 60
"""Without a byte for so long, a copy has failed."""

MAX_DEPTH: Final = 16
"""Folders in folders of an HTTP index."""

_PART_BYTES: Final = 8 << 20
_PARTS_AT_ONCE: Final = 4
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_MAX_TEXT: Final = 300

_TALKATIVE: Final = (
    "aiobotocore",
    "botocore",
    "s3fs",
    "gcsfs",
    "google",
    "adlfs",
    "azure",
    "fsspec",
)

_QUERY: Final = re.compile(r"\?[^\s'\"<>]+")


def open_store(uri: str) -> FsspecStore | HttpStore:
    """The store that ``uri`` lies in; what it takes is imported now.

    Raises:
        Unavailable: it cannot be made, say for settings that contradict each other.
    """
    protocol = scheme_of(uri).protocol
    _hush()
    with _translated(uri):
        file_system = _file_system(protocol)
    if protocol in ("http", "https"):
        return HttpStore(file_system)
    return FsspecStore(file_system)


def _file_system(protocol: str) -> Any:  # fsspec has no types of its own
    options = {**_settings(protocol), "skip_instance_cache": True, "use_listings_cache": False}
    if protocol == "gs":
        # The plain one: gcsfs's newer default asks another service about each bucket first, and
        # where that does not answer, every listing waits a minute for it.
        from gcsfs.core import GCSFileSystem

        return GCSFileSystem(**options)
    import fsspec

    file_system = fsspec.filesystem(protocol, **options)
    if protocol == "s3":
        file_system.retries = 1  # trying again is for those who can do something else meanwhile
    return file_system


def _hush() -> None:
    """Keep the libraries from telling of every request and where they found credentials.

    What goes wrong reaches us as an error, and is told once.
    """
    for name in _TALKATIVE:
        library = logging.getLogger(name)
        if library.level == logging.NOTSET:
            library.setLevel(logging.CRITICAL)


def _settings(protocol: str) -> dict[str, object]:
    """Bounds that the libraries leave open: on waits without end, and on memory."""
    if protocol == "s3":
        config = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"total_max_attempts": 2},
        }
        return {
            "config_kwargs": config,
            "default_block_size": _PART_BYTES,
            "max_concurrency": _PARTS_AT_ONCE,
        }
    if protocol == "az":
        return {
            "connection_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "max_concurrency": _PARTS_AT_ONCE,
        }
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
    if protocol == "gs":
        return {"session_kwargs": {"timeout": timeout}}
    return {
        "client_kwargs": {"timeout": timeout, "trust_env": True},
        "simple_links": False,
        # A body that is unpacked on the way would not have the size that was promised.
        "headers": {"Accept-Encoding": "identity"},
    }


class FsspecStore:
    """A store behind an fsspec file system that lists whole trees with size and tag."""

    def __init__(self, file_system: Any) -> None:  # fsspec has no types of its own
        self._file_system = file_system

    def children(self, uri: str) -> list[str]:
        """The names right under ``uri``."""
        with _translated(uri):
            self._file_system.invalidate_cache()
            root = self._root(uri)
            names = self._file_system.ls(root, detail=False)
        below = [_relative(root, name) for name in names]
        return _some(uri, [name.rstrip("/") for name in below if name])

    def files(self, uri: str) -> list[StoredFile]:
        """Every file below ``uri``."""
        with _translated(uri):
            self._file_system.invalidate_cache()
            root = self._root(uri)
            found: Mapping[str, Mapping[str, Any]] = self._file_system.find(root, detail=True)
        if len(found) > MAX_FILES:
            raise InvalidArgument(f"{uri} has more than {MAX_FILES} files")
        files = [
            _stored_file(_relative(root, name), info)
            for name, info in found.items()
            if info.get("type") != "directory" and not name.endswith("/")
        ]
        return sorted((file for file in files if file.path), key=lambda file: file.path)

    def fetch(
        self, uri: str, file: StoredFile, target: Path, is_cancelled: Callable[[], bool]
    ) -> None:
        """Copy one file."""
        source = joined(self._root(uri), file.path)
        _get_file(self._file_system, source, target, is_cancelled)

    def _root(self, uri: str) -> str:
        return str(self._file_system._strip_protocol(uri)).rstrip("/")  # noqa: SLF001 - fsspec's own way


class HttpStore:
    """A web server that shows its folders as pages of links, as most do when asked.

    Only links right below a page count; one that ends with a slash is a folder.
    """

    def __init__(self, file_system: Any) -> None:  # as above
        self._file_system = file_system

    def children(self, uri: str) -> list[str]:
        """The names right under ``uri``."""
        return _some(uri, sorted(name.rstrip("/") for name in self._links(uri)))

    def files(self, uri: str) -> list[StoredFile]:
        """Every file below ``uri``; size and tag take a request for each."""
        return [self._stored_file(uri, link) for link in sorted(self._tree(uri, "", 0))]

    def fetch(
        self, uri: str, file: StoredFile, target: Path, is_cancelled: Callable[[], bool]
    ) -> None:
        """Copy one file."""
        import yarl

        source = str(yarl.URL(uri.rstrip("/") + "/").joinpath(*file.path.split("/")))
        _get_file(self._file_system, source, target, is_cancelled)

    def _tree(self, uri: str, folder: str, depth: int) -> list[str]:
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"{uri} has folders more than {MAX_DEPTH} deep")
        links: list[str] = []
        for link in sorted(self._links(joined(uri, folder))):
            path = folder + link
            links += self._tree(uri, path, depth + 1) if link.endswith("/") else [path]
            if len(links) > MAX_FILES:
                raise InvalidArgument(f"{uri} has more than {MAX_FILES} files")
        return links

    def _links(self, uri: str) -> set[str]:
        page = uri.rstrip("/") + "/"
        with _translated(uri):
            urls = self._file_system.ls(page, detail=False)
        links = {url[len(page) :] for url in urls if url.startswith(page)}
        plain = {link.removeprefix("./") for link in links if not re.search(r"[?#]", link)}
        return {link for link in plain if link.strip("/") and "/" not in link[:-1]}

    def _stored_file(self, uri: str, link: str) -> StoredFile:
        with _translated(uri):
            info: Mapping[str, Any] = self._file_system.info(joined(uri, link))
        if info.get("size") is None:
            raise Unavailable(f"{joined(uri, link)} does not say how long it is")
        if "%2f" in link.lower():
            raise InvalidArgument(f"{uri} lists {link!r}, whose slash is none")
        return _stored_file(unquote(link), info)


def _get_file(
    file_system: Any, source: str, target: Path, is_cancelled: Callable[[], bool]
) -> None:
    from fsspec.callbacks import Callback

    def stop_if_cancelled(*_progress: object, **_more: object) -> None:
        if is_cancelled():
            raise Cancelled(f"the copy of {source} was cancelled")

    with _translated(source):
        file_system.get_file(
            source, str(target), callback=Callback(hooks={"cancel": stop_if_cancelled})
        )


def _some(uri: str, names: list[str]) -> list[str]:
    """A store has no empty folders: what looks like one is not there, which unloads nothing."""
    if not names:
        raise NotFound(f"{uri} not found")
    return names


def _relative(root: str, name: str) -> str:
    """The part of ``name`` below ``root``; a name elsewhere stays whole, to be refused."""
    name = name.lstrip("/") if not root.startswith("/") else name
    if name.rstrip("/") == root:
        return ""
    return name[len(root) + 1 :] if name.startswith(f"{root}/") else f"/{name}"


def _stored_file(path: str, info: Mapping[str, Any]) -> StoredFile:
    tags = (info.get(key) for key in ("ETag", "etag", "generation", "crc32c", "Last-Modified"))
    times = (info.get(key) for key in ("LastModified", "updated", "last_modified", "mtime"))
    tag = next((str(tag) for tag in (*tags, *times) if tag), "")
    return StoredFile(path, int(info["size"]), tag.strip('"'), _md5(info))


def _md5(info: Mapping[str, Any]) -> str:
    """The MD5 of the content, in hexadecimal, where the store calls it that.

    An ETag of S3 often is one, and under encryption looks like one and is none: it is left out.
    """
    content = info.get("content_settings") or {}
    md5 = info.get("md5Hash") or info.get("Content-MD5") or content.get("content_md5")
    if not md5:
        return ""
    return bytes(md5).hex() if not isinstance(md5, str) else base64.b64decode(md5).hex()


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Errors of the libraries, as ours; this disk's own are told apart by their numbers."""
    try:
        yield
    except ServingError:
        raise
    except FileNotFoundError as error:
        raise NotFound(f"{what} not found") from error
    except PermissionError as error:
        raise PermissionDenied(f"{what}; {_text(error)}") from error
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise ResourceExhausted(f"{what}; {os.strerror(error.errno)}") from error
        raise Unavailable(f"{what}; {_text(error)}") from error
    except Exception as error:
        raise Unavailable(f"{what}; {_text(error)}") from error


def _text(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = _QUERY.sub("?…", lines[0] if lines else "")[:_MAX_TEXT]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
