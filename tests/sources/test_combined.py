"""One source for folders and stores."""

from __future__ import annotations

from pathlib import Path

import pytest
from remote_fakes import BASE, World

from fakes import RecordingTarget
from salver.core.source import Target
from salver.errors import InvalidArgument
from salver.sources.combined import CombinedSource
from salver.sources.file_system import FileSystemSource, MonitoredServable
from salver.sources.remote import RemoteSource


class Both:
    """A combined source over a real folder and a fake store."""

    def __init__(self, tmp_path: Path) -> None:
        self.target = RecordingTarget()
        self.folder = tmp_path / "m"
        (self.folder / "5").mkdir(parents=True)
        self.world: World | None = None
        self._cache = tmp_path / "cache"
        self.source = CombinedSource(
            self.target,
            make_local=lambda target: FileSystemSource([], target, poll_wait_s=-1),
            make_remote=self._make_remote,
        )

    def _make_remote(self, target: Target[str]) -> RemoteSource:
        self.world = World(self._cache, target=target)
        self.world.store.put(1)
        return self.world.source

    def local(self, name: str) -> MonitoredServable:
        return MonitoredServable(name, str(self.folder))

    def wishes(self) -> list[tuple[str, list[int]]]:
        return [(name, [data.id.version for data in wish]) for name, wish in self.target.wishes]


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path)


def test_each_base_path_has_its_kind_of_source(both: Both):
    """A folder is polled, and a store is copied from."""
    both.source.update_config([both.local("here"), MonitoredServable("there", BASE)])

    both.source.poll()
    assert both.world is not None
    both.world.settle()

    assert both.wishes()[0] == ("here", [5])
    assert both.wishes()[-1] == ("there", [1])
    assert both.source.statistics().polls >= 2


def test_nothing_remote_is_made_without_a_remote_base_path(both: Both):
    """Whoever has folders only has folders only."""
    both.source.update_config([both.local("m")])
    both.source.start()
    both.source.stop()

    assert both.world is None


def test_servable_that_moves_to_a_store_makes_no_gap(both: Both):
    """What the folder served stays until the store's version is here, and the way back too."""
    both.source.update_config([both.local("m")])
    both.source.poll()
    both.source.update_config([MonitoredServable("m", BASE)])
    assert both.world is not None
    both.world.settle()
    assert both.wishes()[0] == ("m", [5])
    assert both.wishes()[-1] == ("m", [1])

    both.source.update_config([both.local("m")])
    both.source.poll()

    assert both.wishes()[-1] == ("m", [5])
    assert ("m", []) not in both.wishes()


def test_removed_servables_are_un_aspired_whatever_their_kind(both: Both):
    """A configuration without them un-aspires both at once."""
    both.source.update_config([both.local("here"), MonitoredServable("there", BASE)])

    both.source.update_config([])

    assert sorted(both.wishes()) == [("here", []), ("there", [])]


def test_name_listed_twice_is_refused_across_the_kinds(both: Both):
    """A folder and a store cannot both be one servable."""
    with pytest.raises(InvalidArgument, match="more than once"):
        both.source.update_config([both.local("m"), MonitoredServable("m", BASE)])
