"""The folder of copies: whole or not there, shared, bounded, and tidy."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from salver.errors import FailedPrecondition, ResourceExhausted, Unavailable
from salver.sources import model_cache
from salver.sources.model_cache import Lease, ModelCache, default_folder
from salver.sources.stores import StoredFile

URI = "s3://bucket/models/m"
FILES = {"saved_model.pb": b"graph", "variables/variables.index": b"index"}


def listed(files: Mapping[str, bytes]) -> list[StoredFile]:
    return [StoredFile(path, len(data)) for path, data in files.items()]


def keep(
    cache: ModelCache, child: str = "7", fingerprint: str = "f", files: Mapping[str, bytes] = FILES
) -> Lease:
    """Put a version into the cache."""
    with cache.drafting(URI, child, fingerprint, listed(files)) as draft:
        for path, data in files.items():
            (draft.folder / path).parent.mkdir(exist_ok=True)
            (draft.folder / path).write_bytes(data)
        return draft.commit(listed(files))


def everything(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_copy_is_found_again_by_content_and_by_version(tmp_path: Path):
    """A committed copy is there for another start, by its fingerprint or by its number."""
    cache = ModelCache(tmp_path)
    keep(cache).close()

    again = ModelCache(tmp_path)

    assert again.children(URI) == ["7"]
    for lease in (again.open(URI, "7", "f"), again.open(URI, "7")):
        assert lease is not None
        assert (Path(lease.path) / "variables/variables.index").read_bytes() == b"index"
        assert Path(lease.path).name == "7"
    assert again.open(URI, "7", "other") is None
    assert again.open("s3://other/models/m", "7") is None


def break_off(cache: ModelCache) -> None:
    """Begin a copy that fails in the middle."""
    with cache.drafting(URI, "7", "f", listed(FILES)) as draft:
        (draft.folder / "saved_model.pb").write_bytes(b"graph")
        raise Unavailable("the store is gone")


def test_draft_that_is_not_committed_leaves_nothing(tmp_path: Path):
    """A copy that ends with an error gives all its room back."""
    cache = ModelCache(tmp_path)

    with pytest.raises(Unavailable, match="the store is gone"):
        break_off(cache)

    assert cache.children(URI) == []
    assert everything(tmp_path) == [cache.base(URI).name]


@pytest.mark.parametrize(
    ("promised", "text"),
    [
        (StoredFile("saved_model.pb", 6), "came as 5 bytes, and 6 were promised"),
        (StoredFile("saved_model.pb", 5, md5="0" * 32), "not what its checksum says"),
    ],
)
def test_file_other_than_promised_is_not_committed(tmp_path: Path, promised: StoredFile, text: str):
    """A file of another length, or with another checksum where the store knows one, fails."""
    cache = ModelCache(tmp_path)

    with cache.drafting(URI, "7", "f", [promised]) as draft:
        (draft.folder / "saved_model.pb").write_bytes(b"graph")
        with pytest.raises(Unavailable, match=text):
            draft.commit([promised])

    assert cache.children(URI) == []


def test_file_with_its_checksum_is_committed(tmp_path: Path):
    """The MD5 that a store tells is the MD5 of the content."""
    cache = ModelCache(tmp_path)
    files = [StoredFile("a", 5, md5=hashlib.md5(b"graph", usedforsecurity=False).hexdigest())]

    with cache.drafting(URI, "7", "f", files) as draft:
        (draft.folder / "a").write_bytes(b"graph")

        assert draft.commit(files).is_there()


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "7/saved_model.pb").write_bytes(b"gr"),
        lambda entry: (entry / "7/saved_model.pb").unlink(),
        lambda entry: (entry / "complete.json").unlink(),
        lambda entry: (entry / "complete.json").write_text("{"),
        lambda entry: (entry / "complete.json").write_text('{"files": []}'),
    ],
)
def test_damaged_copy_is_none_and_is_replaced(tmp_path: Path, damage):
    """A copy that somebody cut short is not used, and the next one takes its place."""
    cache = ModelCache(tmp_path)
    lease = keep(cache)
    lease.close()
    damage(Path(lease.path).parent)

    assert cache.open(URI, "7", "f") is None
    assert Path(keep(cache).path, "saved_model.pb").read_bytes() == b"graph"


def test_second_of_two_equal_copies_yields_to_the_first(tmp_path: Path):
    """Two servers that copy the same version end with one copy, and both use it."""
    ours, theirs = ModelCache(tmp_path), ModelCache(tmp_path)
    with ours.drafting(URI, "7", "f", listed(FILES)) as draft:
        for path, data in FILES.items():
            (draft.folder / path).parent.mkdir(exist_ok=True)
            (draft.folder / path).write_bytes(data)
        first = keep(theirs)
        second = draft.commit(listed(FILES))

    assert first.path == second.path
    assert len(list(ours.base(URI).iterdir())) == 1


def test_leftovers_of_the_dead_are_removed_and_work_in_progress_is_not(tmp_path: Path):
    """A killed server's half-made copy goes at the next start; a living one's stays."""
    cache = ModelCache(tmp_path)
    leftover = cache.base(URI) / ".copying-dead"
    (leftover / "7").mkdir(parents=True)

    with cache.drafting(URI, "7", "f", listed(FILES)) as draft:
        ModelCache(tmp_path).remove_partial()

        assert draft.folder.exists()
    assert not leftover.exists()


def test_copy_held_by_another_process_is_not_removed(tmp_path: Path):
    """Locks hold across processes, and end with them."""
    cache = ModelCache(tmp_path)
    lease = keep(cache)
    lease.close()
    hold = (
        "import pathlib, sys; from salver.sources.model_cache import ModelCache\n"
        f"lease = ModelCache(pathlib.Path({str(tmp_path)!r})).open({URI!r}, '7')\n"
        "print(lease is not None, flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        cache.remove_unwanted(URI, wanted=[], listed=[])
        assert cache.children(URI) == ["7"]
        holder.kill()

    cache.remove_unwanted(URI, wanted=[], listed=[])

    assert cache.children(URI) == []


def test_without_a_bound_unwanted_copies_go(tmp_path: Path):
    """A version that nobody wants any more leaves the cache; a held one when it is let go."""
    cache = ModelCache(tmp_path)
    keep(cache, "1").close()
    held = keep(cache, "2")

    cache.remove_unwanted(URI, wanted=["3"], listed=["1", "2", "3"])
    assert cache.children(URI) == ["2"]
    held.close()
    cache.remove_unwanted(URI, wanted=["3"], listed=["1", "2", "3"])

    assert cache.children(URI) == []


def test_with_a_bound_copies_stay_while_the_store_has_them(tmp_path: Path):
    """Room that is there is used; only what is gone from the store goes by itself."""
    cache = ModelCache(tmp_path, max_bytes=1000)
    keep(cache, "1").close()
    keep(cache, "2").close()

    cache.remove_unwanted(URI, wanted=["3"], listed=["2", "3"])

    assert cache.children(URI) == ["2"]


def test_bound_is_kept_by_removing_what_was_used_longest_ago(tmp_path: Path):
    """A copy makes room for a newer one, the one not used for longest first, never a held one."""
    cache = ModelCache(tmp_path, max_bytes=25)  # two copies of ten bytes
    for age, child in enumerate("12"):
        lease = keep(cache, child)
        os.utime(Path(lease.path).parent / "complete.json", (1000 - age, 1000 - age))
        lease.close()

    third = keep(cache, "3")
    assert cache.children(URI) == ["1", "3"]
    held = cache.open(URI, "1")
    with pytest.raises(ResourceExhausted, match="no room for a copy of 10 bytes: its bound is 25"):
        keep(cache, "4")

    assert held is not None
    assert third.is_there()


def test_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A copy that the disk has no room for is not begun; once there is room, it is made."""
    cache = ModelCache(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(model_cache.shutil, "disk_usage", lambda _: usage._replace(free=9))

    with pytest.raises(ResourceExhausted, match="no room for a copy of 10 bytes: 0 bytes are in"):
        keep(cache)
    assert everything(tmp_path) == []
    monkeypatch.setattr(model_cache.shutil, "disk_usage", lambda _: usage._replace(free=10))

    assert keep(cache).is_there()


def test_full_disk_makes_room_of_what_nobody_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before a copy is refused for want of space, copies out of use go."""
    cache = ModelCache(tmp_path)
    keep(cache, "1").close()
    usage = shutil.disk_usage(tmp_path)

    def disk_usage(_folder: Path) -> object:
        return usage._replace(free=0 if cache.children(URI) else 10)

    monkeypatch.setattr(model_cache.shutil, "disk_usage", disk_usage)

    keep(cache, "2")

    assert cache.children(URI) == ["2"]


def test_folder_that_cannot_be_made_is_named(tmp_path: Path):
    """A file in the way of the folder, like a read-only disk, gives one clear sentence."""
    (tmp_path / "file").touch()
    cache = ModelCache(tmp_path / "file" / "cache")

    with pytest.raises(FailedPrecondition) as refused:
        keep(cache)

    assert refused.value.message == (
        f"the model cache {tmp_path}/file/cache cannot be written to: Not a directory"
    )


def test_link_in_the_place_of_a_copy_is_not_followed(tmp_path: Path):
    """What is no folder of ours is no copy, wherever it leads."""
    cache = ModelCache(tmp_path / "cache")
    lease = keep(cache)
    lease.close()
    entry = Path(lease.path).parent
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")

    assert cache.open(URI, "7", "f") is None
    assert cache.children(URI) == []


def test_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The cache is where the user's caches are; without a home, among the temporary files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert default_folder() == tmp_path / "caches" / "salver"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "salver"
    monkeypatch.setenv("HOME", "/nowhere")

    assert default_folder().name == f"salver-{os.getuid()}"
