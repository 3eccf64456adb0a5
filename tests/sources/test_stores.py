"""What a store lists, and which base paths name one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import FailedPrecondition, InvalidArgument, ServingError, Unimplemented
from salver.sources import stores
from salver.sources.stores import (
    StoredFile,
    check_files,
    check_uri,
    fingerprint,
    is_remote,
    store_key,
)


@pytest.mark.parametrize(
    ("base_path", "expected"),
    [
        ("/models/m", False),
        ("file:///models/m", False),
        ("s3://bucket/m", True),
        ("gs://bucket/m", True),
        ("https://example.com/m", True),
        ("hdfs://host/m", True),
        ("/models/a://b", False),
    ],
)
def test_base_path_with_a_scheme_is_remote(base_path: str, expected: bool):
    """Whatever has a scheme is no folder of this machine, but for file://."""
    assert is_remote(base_path) is expected


def test_models_of_one_bucket_share_a_store():
    """Scheme and bucket make a store."""
    assert store_key("s3://bucket/a/m") == store_key("s3://bucket/b") == "s3://bucket"


def test_unknown_scheme_is_told_which_there_are():
    """A store of no known kind is refused, with the kinds there are."""
    with pytest.raises(Unimplemented, match="s3://, gs://, az://, http://, https://"):
        check_uri("hdfs://host/m")


def test_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch):
    """Without its extra, a base path is refused with the command that installs it."""
    monkeypatch.setattr(stores.importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(FailedPrecondition) as refused:
        check_uri("gs://bucket/m")

    assert refused.value.message == (
        "base path gs://bucket/m needs the package fsspec and gcsfs, which is not installed. "
        "Try: pip install 'salver[gcs]'"
    )


def test_credentials_in_a_base_path_are_refused_and_not_repeated():
    """A password in a URL would be logged; the refusal does not."""
    with pytest.raises(InvalidArgument) as refused:
        check_uri("https://me:secret@example.com/m")

    assert "secret" not in refused.value.message


def test_query_in_a_base_path_is_refused_and_not_repeated():
    """A signed URL names one object, not a folder; what signs it is a secret."""
    with pytest.raises(InvalidArgument) as refused:
        check_uri("https://example.com/m?sig=secret")

    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\0b", "a\\b", "x" * 256],
)
def test_path_that_leaves_its_version_is_refused(path: str):
    """A listing cannot name a file anywhere but below its version."""
    with pytest.raises(InvalidArgument, match="not plainly below it"):
        check_files("s3://bucket/m/1", [StoredFile(path, 1)])


@given(st.text(max_size=40))
def test_path_that_is_accepted_stays_below_its_version(path: str):
    """Whatever a store makes up: either it is refused, or it lies below the folder."""
    try:
        check_files("s3://bucket/m/1", [StoredFile(path, 1)])
    except InvalidArgument:
        return

    root = Path("/cache/1")
    assert root in (root / path).parents
    assert ".." not in (root / path).parts


def test_file_that_is_also_a_folder_is_refused():
    """A bucket may have both keys, and a disk cannot."""
    with pytest.raises(InvalidArgument, match="'a' as a file and as a folder"):
        check_files("s3://bucket/m/1", [StoredFile("a", 1), StoredFile("a/b", 1)])


def test_endless_listing_is_refused():
    """More files than any model has are a mistake."""
    files = (StoredFile(str(number), 0) for number in range(10_001))

    with pytest.raises(ServingError, match="more than 10000 files"):
        check_files("s3://bucket/m/1", files)


def test_fingerprint_is_of_the_files_and_not_of_their_order():
    """The same files have one fingerprint; any change of name, size or tag has another."""
    a, b = StoredFile("a", 1, "x"), StoredFile("b", 2, "y")

    assert fingerprint([a, b]) == fingerprint([b, a])
    others = [[a], [a, StoredFile("b", 3, "y")], [a, StoredFile("b", 2, "z")]]
    assert len({fingerprint([a, b]), *map(fingerprint, others)}) == 4


def test_nothing_of_fsspec_is_imported_with_the_sources():
    """A server without remote models never imports fsspec."""
    import subprocess

    code = "import sys, salver.model_server.server; print('fsspec' in sys.modules)"
    python = [sys.executable, "-c", code]

    printed = subprocess.run(python, check=True, capture_output=True, text=True, timeout=60)

    assert printed.stdout.strip() == "False"
