"""The stores of fsspec, as ours: one in memory, and web servers with pages of links."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import FolderOverHttp

from salver.errors import Cancelled, InvalidArgument, NotFound, PermissionDenied, Unavailable
from salver.sources.fsspec_store import FsspecStore, HttpStore, open_store
from salver.sources.stores import StoredFile, check_files

fsspec = pytest.importorskip("fsspec")


def never() -> bool:
    return False


# A file system of fsspec.


class MemoryFiles:
    """fsspec's file system in memory, under paths as S3 has them, with an error when told to."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._files: dict[str, bytes] = {}

    def put(self, path: str, data: bytes) -> None:
        self._files[path] = data

    def invalidate_cache(self) -> None:
        if self.error is not None:
            raise self.error

    def _strip_protocol(self, uri: str) -> str:
        return uri.split("://")[1]

    def ls(self, root: str, *, detail: bool) -> list[str]:
        names = {path[len(root) + 1 :].split("/")[0] for path in self._files if root in path}
        return sorted(f"{root}/{name}" if name else f"{root}/" for name in names)

    def find(self, root: str, *, detail: bool) -> dict[str, dict[str, object]]:
        return {
            path: {
                "type": "file",
                "size": len(data),
                "ETag": '"tag"',
                "content_settings": {"content_md5": bytearray(hashlib.md5(data).digest())},  # noqa: S324 - what Azure gives
            }
            for path, data in self._files.items()
            if path.startswith(f"{root}/")
        }

    def get_file(self, source: str, target: str, *, callback) -> None:
        if self.error is not None:
            raise self.error
        with Path(target).open("wb") as file:
            for octet in self._files[source]:
                file.write(bytes([octet]))
                callback.relative_update(1)


@pytest.fixture
def files() -> MemoryFiles:
    files = MemoryFiles()
    files.put("bucket/m/", b"")  # what consoles put where a folder is made
    files.put("bucket/m/1/", b"")
    files.put("bucket/m/1/saved_model.pb", b"graph")
    files.put("bucket/m/1/assets/words", b"words")
    files.put("bucket/m/2", b"a file")
    return files


def test_children_are_names_right_below(files: MemoryFiles):
    """Versions are listed by their names alone; the placeholder of the folder is none."""
    assert FsspecStore(files).children("s3://bucket/m/") == ["1", "2"]


def test_files_are_listed_with_size_tag_and_checksum(files: MemoryFiles):
    """Every file below a version, by its relative path; placeholders of folders are none."""
    words, graph = FsspecStore(files).files("s3://bucket/m/1")

    md5 = hashlib.md5(b"graph").hexdigest()  # noqa: S324 - as above
    assert graph == StoredFile("saved_model.pb", 5, "tag", md5)
    assert words.path == "assets/words"


def test_prefix_of_nothing_is_not_found(files: MemoryFiles):
    """A folder of a store that has nothing in it is not there."""
    with pytest.raises(NotFound, match="s3://bucket/other not found"):
        FsspecStore(files).children("s3://bucket/other")


def test_file_is_copied_and_a_copy_can_be_cancelled(files: MemoryFiles, tmp_path: Path):
    """A copy has the content; one that nobody wants ends at its next piece."""
    store, (_, graph) = FsspecStore(files), FsspecStore(files).files("s3://bucket/m/1")
    store.fetch("s3://bucket/m/1", graph, tmp_path / "whole", never)
    cancels = iter([False, True])

    with pytest.raises(Cancelled):
        store.fetch("s3://bucket/m/1", graph, tmp_path / "part", lambda: next(cancels))

    assert (tmp_path / "whole").read_bytes() == b"graph"
    assert len((tmp_path / "part").read_bytes()) < 5


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (FileNotFoundError("m"), NotFound, "s3://bucket/m not found"),
        (PermissionError("Forbidden"), PermissionDenied, "PermissionError: Forbidden"),
        (OSError(5, "Input/output error"), Unavailable, "OSError: [Errno 5] Input/output error"),
        (TimeoutError(), Unavailable, "TimeoutError"),
        (
            RuntimeError("no https://host/m?sig=secret here\nand more"),
            Unavailable,
            "RuntimeError: no https://host/m?… here",
        ),
    ],
)
def test_errors_of_the_libraries_become_ours(
    files: MemoryFiles, error: Exception, expected: type[Exception], text: str
):
    """One line, with the base path, without what stands behind a question mark."""
    files.error = error

    with pytest.raises(expected) as raised:
        FsspecStore(files).children("s3://bucket/m")

    assert str(raised.value).endswith(text)
    assert "secret" not in str(raised.value)


# A web server.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    for path in ("m/1/saved_model.pb", "m/1/variables/variables.index", "m/1/assets/two words.txt"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    (folder / "m/2").mkdir()
    return folder


@pytest.fixture
def web(folder: Path) -> Iterator[FolderOverHttp]:
    with FolderOverHttp(folder) as web:
        yield web


def test_pages_of_links_are_folders(web: FolderOverHttp):
    """The links of a page are its children, and folders are followed."""
    store = open_store(web.url)
    uri = f"{web.url}/m"

    assert store.children(uri) == ["1", "2"]
    files = store.files(f"{uri}/1")
    assert [(file.path, file.size) for file in files] == [
        ("assets/two words.txt", 24),
        ("saved_model.pb", 18),
        ("variables/variables.index", 29),
    ]
    assert all(file.tag for file in files)


def test_files_are_copied_over_http(web: FolderOverHttp, folder: Path, tmp_path: Path):
    """Names that URLs quote come with their content, too."""
    store = open_store(web.url)

    for file in store.files(f"{web.url}/m/1"):
        store.fetch(f"{web.url}/m/1", file, tmp_path / "copy", never)

        assert (tmp_path / "copy").read_bytes() == (folder / "m/1" / file.path).read_bytes()


def test_page_that_is_not_there_is_not_found(web: FolderOverHttp):
    """A missing page, and one without links, is a base path that is not there."""
    store = open_store(web.url)

    for path in ("/nothing", "/m/2"):
        with pytest.raises(NotFound):
            store.children(web.url + path)


def test_server_that_is_gone_is_unavailable(folder: Path):
    """A refused connection is no answer."""
    with FolderOverHttp(folder) as web:
        url = f"{web.url}/m"
    store = open_store(url)

    with pytest.raises(Unavailable):
        store.children(url)


class Pages:
    """A web server's pages, as fsspec reads them."""

    def __init__(self, **pages: list[str]) -> None:
        self._pages = {f"http://host/m/{name}".rstrip("/") + "/": p for name, p in pages.items()}

    def ls(self, page: str, *, detail: bool) -> list[str]:
        return self._pages[page]

    def info(self, url: str) -> dict[str, object]:
        return {"size": 1}


def test_links_elsewhere_are_not_followed():
    """Parents, other hosts, orders of a table and links deeper down are no files of a version."""
    pages = ["..", "?C=N;O=D", "a?x", "#top", "b/c", "ok", "./", "//"]
    urls = [f"http://host/m/1/{link}" for link in pages]
    store = HttpStore(Pages(**{"1": [*urls, "http://other/m/1/x", "http://host/m/2"]}))

    files = store.files("http://host/m/1")

    assert sorted(file.path for file in files) == ["..", "ok"]
    with pytest.raises(InvalidArgument):
        check_files("http://host/m/1", files)


@pytest.mark.parametrize("link", ["%2e%2e%2fescaped", "a%2Fb"])
def test_quoted_slash_is_refused(link: str):
    """A name that hides a slash is none."""
    store = HttpStore(Pages(**{"1": [f"http://host/m/1/{link}"]}))

    with pytest.raises(InvalidArgument):
        check_files("http://host/m/1", store.files("http://host/m/1"))


def test_folders_without_end_are_refused():
    """A web server may make up folders for ever."""

    class Endless(Pages):
        def ls(self, page: str, *, detail: bool) -> list[str]:
            return [f"{page}again/"]

    with pytest.raises(InvalidArgument, match="more than 16 deep"):
        HttpStore(Endless()).files("http://host/m/1")
