"""The polling source, on real directories and on ones that misbehave."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from fakes import RecordingTarget
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.errors import InvalidArgument, NotFound
from salver.sources.file_system import FileSystemSource, MonitoredServable
from salver.sources.static import StaticSource
from salver.sources.version_policy import All, Latest, Specific, VersionPolicy


def make(base_path: Path, *children: str) -> Path:
    for child in children:
        (base_path / child).mkdir(parents=True)
    return base_path


def wishes(target: RecordingTarget) -> list[tuple[str, list[int]]]:
    return [(name, [data.id.version for data in versions]) for name, versions in target.wishes]


class FakeTree:
    """Directories without a disk; one that is an error raises it, and a missing one likewise."""

    def __init__(self, **children: Sequence[str] | Exception) -> None:
        self.children = dict(children)

    def listed(self, path: str) -> Sequence[str]:
        children = self.children.get(path.lstrip("/"), FileNotFoundError())
        if isinstance(children, Exception):
            raise children
        return children


def tree_source(
    tree: FakeTree, target: RecordingTarget, *names: str, **options: bool
) -> FileSystemSource:
    servables = [MonitoredServable(name, f"/{name}") for name in names]
    return FileSystemSource(servables, target, list_children=tree.listed, **options)


# What a poll finds.


def test_poll_aspires_the_latest_version_with_its_path(tmp_path: Path):
    """Of the versions there, the highest is wished for, by the path it lies at."""
    target = RecordingTarget()
    base_path = make(tmp_path / "m", "1", "00000123", "tmp")

    FileSystemSource([MonitoredServable("m", str(base_path))], target).poll()

    path = f"{base_path}/00000123"
    assert target.wishes == [("m", [ServableData(ServableId("m", 123), path)])]


@pytest.mark.parametrize("policy", [Latest(), Specific((3,))])
@pytest.mark.parametrize("host", ["", "localhost"])
def test_a_folder_may_be_written_as_a_uri(tmp_path: Path, host: str, policy: VersionPolicy):
    """Versions are loaded from plain paths."""
    target = RecordingTarget()
    base_path = make(tmp_path / "m", "3")

    FileSystemSource([MonitoredServable("m", f"file://{host}{base_path}", policy)], target).poll()

    assert target.wishes == [("m", [ServableData(ServableId("m", 3), f"{base_path}/3")])]


def test_trailing_slash_of_the_base_path_does_not_matter(tmp_path: Path):
    """Version paths have one slash between base path and name."""
    target = RecordingTarget()
    base_path = make(tmp_path / "m", "1")

    FileSystemSource([MonitoredServable("m", f"{base_path}//")], target).poll()

    assert target.wishes[0][1][0].payload == f"{base_path}/1"


def test_files_count_as_versions(tmp_path: Path):
    """A file whose name is a number is a version like any other."""
    target = RecordingTarget()
    (make(tmp_path / "m", "1") / "2").touch()

    FileSystemSource([MonitoredServable("m", str(tmp_path / "m"))], target).poll()

    assert wishes(target) == [("m", [2])]


def test_policies_choose(tmp_path: Path):
    """Each servable has its own policy."""
    target = RecordingTarget()
    base_path = str(make(tmp_path / "m", "1", "2", "3"))
    servables = [
        MonitoredServable("latest_two", base_path, Latest(2)),
        MonitoredServable("all", base_path, All()),
        MonitoredServable("specific", base_path, Specific((3, 1))),
    ]

    FileSystemSource(servables, target).poll()

    assert wishes(target) == [("latest_two", [2, 3]), ("all", [1, 2, 3]), ("specific", [1, 3])]


def test_every_poll_says_what_is_there_now(tmp_path: Path):
    """A new version is wished for at the next poll; one removed is not any more."""
    target = RecordingTarget()
    base_path = make(tmp_path / "m", "1")
    source = FileSystemSource([MonitoredServable("m", str(base_path))], target)
    source.poll()

    make(base_path, "2")
    source.poll()
    (base_path / "2").rmdir()
    source.poll()

    assert wishes(target) == [("m", [1]), ("m", [2]), ("m", [1])]
    assert source.statistics().polls == 3


def test_no_versions_is_a_wish_for_none_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """An empty base path un-aspires everything, with TensorFlow Serving's advice at every poll."""
    target = RecordingTarget()
    base_path = make(tmp_path / "m", "tmp")
    source = FileSystemSource([MonitoredServable("m", str(base_path))], target)

    source.poll()
    source.poll()

    warning = (
        f"No versions of servable m found under base path {base_path}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?"
    )
    assert wishes(target) == [("m", []), ("m", [])]
    assert caplog.messages == [warning, warning]
    assert source.statistics().complaints == {"m": (warning,)}


def test_duplicate_directories_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Two names for one number: the later one is taken, and somebody is told."""
    target = RecordingTarget()
    base_path = make(tmp_path / "m", "1", "001")

    FileSystemSource([MonitoredServable("m", str(base_path))], target).poll()

    assert target.wishes[0][1][0].payload == f"{base_path}/1"
    assert caplog.messages[0].startswith("Duplicate version directories detected: '001', '1'")


# Specific versions.


def test_specific_versions_need_no_listing():
    """Where all versions asked for lie under their plain names, the directory is not listed."""
    target = RecordingTarget()
    asked: list[str] = []

    def never(path: str) -> list[str]:
        raise AssertionError(f"{path} was listed")

    def exists(path: str) -> bool:
        asked.append(path)
        return True

    servable = MonitoredServable("m", "/base/m", Specific((2, 1, 2)))
    FileSystemSource([servable], target, list_children=never, path_exists=exists).poll()

    assert wishes(target) == [("m", [1, 2])]
    assert asked == ["/base/m/1", "/base/m/2"]


def test_missing_specific_version_is_only_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """What is there of the versions asked for is wished for; the rest is complained of."""
    target = RecordingTarget()
    base_path = make(tmp_path / "m", "0001")
    servable = MonitoredServable("m", str(base_path), Specific((1, 7)))

    FileSystemSource([servable], target).poll()

    assert wishes(target) == [("m", [1])]
    (warning,) = caplog.messages
    assert warning == (
        "Version 7 of servable m is asked for by its version policy "
        f"and not there under base path {base_path}"
    )


def test_empty_list_of_specific_versions_unloads_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Asking for no version at all is a wish for none, and worth a warning."""
    target = RecordingTarget()
    servable = MonitoredServable("m", str(make(tmp_path / "m", "1")), Specific(()))

    FileSystemSource([servable], target).poll()

    assert wishes(target) == [("m", [])]
    assert caplog.messages == ["No specific versions requested for servable m."]


# Base paths that cannot be read.


def test_missing_base_path_stops_the_whole_poll(caplog: pytest.LogCaptureFixture):
    """As in TensorFlow Serving, nothing changes for any servable, and the log says why."""
    target = RecordingTarget()
    source = tree_source(FakeTree(good=["1"], after=["1"]), target, "good", "bad", "after")

    source.poll()
    source.poll()

    line = (
        "FileSystemStoragePathSource encountered a filesystem access error: Could not find "
        "base path /bad for servable bad with error NOT_FOUND: /bad not found"
    )
    assert target.wishes == []
    assert caplog.messages == [line, line]
    assert caplog.records[0].levelno == logging.ERROR


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PermissionError(13, "Permission denied"), "PERMISSION_DENIED: /bad; Permission denied"),
        (NotADirectoryError(20, "Not a directory"), "UNKNOWN: /bad; [Errno 20] Not a directory"),
        (ValueError("embedded null byte"), "UNKNOWN: /bad; embedded null byte"),
    ],
)
def test_unreadable_base_path_is_as_good_as_missing(
    error: Exception, status: str, caplog: pytest.LogCaptureFixture
):
    """Whatever keeps the listing from us is named, and ends the poll."""
    target = RecordingTarget()
    source = tree_source(FakeTree(good=["1"], bad=error), target, "good", "bad")

    source.poll()

    assert target.wishes == []
    assert caplog.messages[0].endswith(f"for servable bad with error {status}")


def test_poll_goes_on_once_the_base_path_is_there():
    """When the missing path appears, everything is wished for at the next poll."""
    target = RecordingTarget()
    tree = FakeTree(good=["1"])
    source = tree_source(tree, target, "good", "bad")
    source.poll()

    tree.children["bad"] = ["5"]
    source.poll()

    assert wishes(target) == [("good", [1]), ("bad", [5])]
    assert source.statistics().complaints == {}


def test_independent_source_passes_over_the_missing_base_path(caplog: pytest.LogCaptureFixture):
    """The others are wished for; the missing one keeps what it has, and is complained of once."""
    target = RecordingTarget()
    tree = FakeTree(good=["1"], other=["2"])
    source = tree_source(tree, target, "good", "bad", "other", independent=True)

    source.poll()
    source.poll()

    assert wishes(target) == [("good", [1]), ("other", [2])] * 2
    assert len(caplog.messages) == 1
    assert set(source.statistics().complaints) == {"bad"}


def test_independent_source_complains_again_of_something_new(caplog: pytest.LogCaptureFixture):
    """A complaint that changes, or comes back after it was gone, is logged anew."""
    target = RecordingTarget()
    tree = FakeTree()
    source = tree_source(tree, target, "m", independent=True)

    for children in (FileNotFoundError(), [], ["1"], FileNotFoundError()):
        tree.children["m"] = children
        source.poll()
        source.poll()

    assert [line.split()[0] for line in caplog.messages] == [
        "FileSystemStoragePathSource",
        "No",
        "FileSystemStoragePathSource",
    ]


# Required versions.


@pytest.mark.parametrize(
    "option", ["fail_if_zero_versions_at_startup", "servable_versions_always_present"]
)
def test_required_versions_are_checked_at_the_start(option: str):
    """With either option a servable without a version is refused, before anything is told."""
    target = RecordingTarget()

    with pytest.raises(NotFound) as refused:
        tree_source(FakeTree(m=["tmp"]), target, "m", **{option: True})
    assert refused.value.message == (
        "Unable to find a numerical version path for servable m at: /m"
    )
    with pytest.raises(InvalidArgument, match="Could not find base path /m for servable m"):
        tree_source(FakeTree(), target, "m", **{option: True})
    assert target.wishes == []


def test_required_versions_are_checked_for_new_servables_only():
    """An update is refused for a new servable without versions, and then changes nothing."""
    target = RecordingTarget()
    tree = FakeTree(old=["1"], new=[])
    source = tree_source(tree, target, "old", fail_if_zero_versions_at_startup=True)
    tree.children["old"] = []

    with pytest.raises(NotFound, match="for servable new at: /new"):
        source.update_config([MonitoredServable(name, f"/{name}") for name in ("old", "new")])
    source.poll()

    assert wishes(target) == [("old", [])]


def test_versions_always_present_are_never_unloaded_by_an_empty_poll(
    caplog: pytest.LogCaptureFixture,
):
    """With this option a base path that became empty leaves the last versions in place."""
    target = RecordingTarget()
    tree = FakeTree(m=["1"])
    source = tree_source(tree, target, "m", servable_versions_always_present=True)
    source.poll()

    tree.children["m"] = []
    source.poll()

    assert wishes(target) == [("m", [1])]
    assert "Servable m has no versions any more; its last ones stay" in caplog.messages


# Another configuration.


def test_removed_servable_is_unaspired_at_once():
    """A servable that is not listed any more is un-aspired without waiting for a poll."""
    target = RecordingTarget()
    source = tree_source(FakeTree(a=["1"], b=["1"]), target, "a", "b")
    source.poll()
    target.wishes.clear()

    source.update_config([MonitoredServable("b", "/b")])
    assert wishes(target) == [("a", [])]
    source.poll()

    assert wishes(target) == [("a", []), ("b", [1])]


def test_changed_servable_is_seen_at_the_next_poll():
    """Another policy, or a new servable, takes effect with the next look."""
    target = RecordingTarget()
    source = tree_source(FakeTree(a=["1", "2"], b=["7"]), target, "a")

    source.update_config([MonitoredServable("a", "/a", All()), MonitoredServable("b", "/b")])
    assert target.wishes == []
    source.poll()

    assert wishes(target) == [("a", [1, 2]), ("b", [7])]


def test_servable_removed_while_the_source_looks_is_not_wished_for():
    """What a look began with and an update took away is not told any more."""
    target = RecordingTarget()

    def list_while_updating(path: str) -> list[str]:
        source.update_config([MonitoredServable("b", "/b")])
        return ["1"]

    servables = [MonitoredServable(name, f"/{name}") for name in ("a", "b")]
    source = FileSystemSource(servables, target, list_children=list_while_updating)

    source.poll()

    assert ("a", [1]) not in wishes(target)
    assert wishes(target)[0] == ("a", [])


def test_servable_listed_twice_is_refused():
    """Two entries for one name cannot both be meant."""
    twice = [MonitoredServable("m", "/a"), MonitoredServable("m", "/b")]

    with pytest.raises(InvalidArgument, match="listed more than once among m, m"):
        FileSystemSource(twice, RecordingTarget())


# The thread.


class SignallingTarget(RecordingTarget):
    """Says when it has heard a number of wishes."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.heard = threading.Event()
        self._count = count

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData]) -> None:
        super().set_aspired_versions(name, versions)
        if len(self.wishes) == self._count:
            self.heard.set()


def test_started_source_polls_again_and_again():
    """With a period the source keeps looking until it is stopped."""
    target = SignallingTarget(3)
    servables = [MonitoredServable("m", "/m")]
    source = FileSystemSource(servables, target, poll_wait_s=1e-4, list_children=lambda _: ["1"])

    source.start()

    assert target.heard.wait(30)
    source.stop()


def test_period_of_zero_polls_once_and_less_never():
    """Zero means one look at the start; a negative period none at all."""
    target = SignallingTarget(1)
    servables = [MonitoredServable("m", "/m")]

    for poll_wait_s in (-1, 0):
        FileSystemSource(
            servables, target, poll_wait_s=poll_wait_s, list_children=lambda _: ["1"]
        ).start()

    assert target.heard.wait(30)
    assert len(target.wishes) == 1


def test_thread_survives_a_poll_that_fails(caplog: pytest.LogCaptureFixture):
    """An error nobody expected is logged, and the next poll follows."""
    target = SignallingTarget(1)
    errors = [RuntimeError("a bad driver")]

    def listed(path: str) -> list[str]:
        if errors:
            raise errors.pop()
        return ["1"]

    servables = [MonitoredServable("m", "/m")]
    source = FileSystemSource(servables, target, poll_wait_s=1e-4, list_children=listed)

    source.start()

    assert target.heard.wait(30)
    source.stop()
    assert "A poll of the file system failed; the next one follows" in caplog.text


def test_stopped_source_tells_nothing():
    """After stop a look is unheard."""
    target = RecordingTarget()
    source = tree_source(FakeTree(m=["1"]), target, "m")

    source.stop()
    source.poll()

    assert target.wishes == []


def test_static_source_tells_once():
    """The static source wishes for its one version when it is started, and for nothing else."""
    target = RecordingTarget()
    source = StaticSource(ServableId("m", 3), "/models/m/3", target)

    assert target.wishes == []
    source.start()
    source.stop()

    assert target.wishes == [("m", [ServableData(ServableId("m", 3), "/models/m/3")])]
