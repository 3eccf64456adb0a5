"""The remote source: what it wishes for, and when, with a store and a clock that stand still."""

from __future__ import annotations

import errno
import itertools
import logging
import shutil
import threading
from pathlib import Path

import pytest
from remote_fakes import BASE, MODEL, FakeStore, World

from fakes import FakeLoader
from salver.core.event_bus import EventBus
from salver.core.manager import AspiredVersionsManager
from salver.core.servable_id import ServableId
from salver.core.source import SourceAdapter
from salver.core.state_monitor import ServableStateMonitor
from salver.errors import Internal, PermissionDenied, ResourceExhausted, Unavailable
from salver.sources.file_system import MonitoredServable
from salver.sources.lane import Lane
from salver.sources.model_cache import ModelCache
from salver.sources.remote import KEEP_S, RemoteSource
from salver.sources.version_policy import All, Latest, Specific

GONE = Unavailable("s3://bucket; no answer")

NEEDS_VARIABLES = b"\x12\x12\x1a\x01\x00\x0a\x0d\x12\x0bVarHandleOp"
"""A graph with a saver in it, a variable, and nothing else."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "cache").watch()


# From the store to the wish.


def test_version_is_copied_whole_and_then_wished_for(world: World):
    """The newest version is wished for by the path of its copy, and no other is copied."""
    world.store.put(1)
    world.store.put(2)

    world.settle()

    assert world.wish() == [2]
    copied = {p.relative_to(world.path()).as_posix() for p in world.path().rglob("*.*")}
    assert copied == set(MODEL)
    assert {key.split("/")[4] for key in world.store.fetched} == {"2"}


def test_nothing_is_wished_for_before_it_is_here(world: World):
    """Until the first copy is whole, the target hears nothing at all."""
    world.store.put(1)

    world.run()

    assert world.target.wishes == []


def test_policies_choose_among_remote_versions(tmp_path: Path):
    """Latest, all and specific mean what they mean for folders."""
    wishes = []
    for number, policy in enumerate([Latest(2), All(), Specific((1, 3))]):
        world = World(tmp_path / str(number)).watch(policy)
        for version in (1, 2, "003", "tmp"):
            world.store.put(version)
        wishes.append(world.settle().wish())

    assert wishes == [[3, 2], [3, 1, 2], [3, 1]]


def test_old_version_stays_wished_for_while_the_new_one_is_copied(world: World):
    """A new version takes the place of the old one in one step, when it is here."""
    world.store.put(1)
    world.settle()
    world.store.put(2)

    world.settle()

    assert [[d.id.version for d in wish] for _, wish in world.target.wishes if wish][-1] == [2]
    assert all(len(wish) == 1 for _, wish in world.target.wishes)


def test_version_gone_from_the_store_is_un_aspired(world: World):
    """Deleting the newest version goes back to the one before it."""
    world.store.put(1)
    world.store.put(2)
    world.settle()

    world.store.delete(2)
    world.settle()

    assert world.wish() == [1]


def test_names_that_are_no_versions_unload_everything(world: World):
    """As with folders, a base path without a version is a wish for none."""
    world.store.put(1)
    world.settle()

    world.store.put("tmp")
    world.store.delete(1)
    world.settle()

    assert world.wish() == []
    assert "Did you forget" in world.source.statistics().complaints["m"][0]


def test_base_path_without_anything_changes_nothing(world: World):
    """In a store an empty folder is no folder: what is loaded stays."""
    world.store.put(1)
    world.settle()

    world.store.delete(1)
    world.settle()

    assert world.wish() == [1]


# Whole or not at all.


def test_version_whose_files_appear_one_by_one_waits_for_the_last(
    world: World, caplog: pytest.LogCaptureFixture
):
    """However long an upload takes, and in whatever order, nothing is copied before its end."""
    for path, data in {**MODEL, "saved_model.pb": NEEDS_VARIABLES}.items():
        assert world.settle().target.wishes == []
        world.store.put(1, {path: data})

    world.settle()

    assert world.wish() == [1]
    lacks = [line for line in caplog.messages if "is not complete yet" in line]
    prefix = "Version 1 of servable m cannot be copied: s3://bucket/m/1 is not complete yet: "
    assert [line.removeprefix(prefix) for line in lacks] == [
        "it lacks variables/variables.index, variables/variables.data-00000-of-00001",
        "it lacks variables/variables.data-00000-of-00001",
    ]


def test_graph_tells_of_variables_that_no_name_hints_at(world: World):
    """A graph alone is not a model when it needs variables, though its listing rests."""
    world.store.put(1, {"saved_model.pb": NEEDS_VARIABLES})

    world.settle()
    world.settle()

    assert world.target.wishes == []
    assert world.store.fetched == [f"{BASE}/1/saved_model.pb"]
    assert "lacks variables/variables.index" in world.source.statistics().complaints["m"][0]


def test_graph_tells_of_assets(world: World):
    """The vocabulary that is uploaded last is waited for."""
    graph = b"\x12\x07\x32\x05\x12\x03v.t"  # an asset file in a graph
    world.store.put(1, {"saved_model.pb": graph})
    world.settle()
    assert world.target.wishes == []

    world.store.put(1, {"assets/v.t": b"words"})
    world.settle()

    assert world.wish() == [1]


def test_session_bundle_waits_for_its_shards_and_assets(world: World):
    """A legacy bundle is whole by rules of its own: names tell of shards, its graph of assets."""
    asset = b"\x12\x03v.t"  # AssetFile.filename, in an Any, in the collection of assets
    held = b"\x2a\x09\x0a\x07\x12\x05" + asset
    graph = b"\x22\x1d\x0a\x0eserving_assets\x12\x0b" + held
    world.store.put(1, {"export.meta": graph, "export-00000-of-00002": b"first"})
    world.settle()
    assert "lacks export-00001-of-00002" in world.source.statistics().complaints["m"][0]

    world.store.put(1, {"export-00001-of-00002": b"second"})
    world.settle()
    world.settle()
    assert "lacks assets/v.t" in world.source.statistics().complaints["m"][0]

    world.store.put(1, {"assets/v.t": b"words"})
    world.settle()

    assert world.wish() == [1]


def test_version_that_changes_between_two_listings_waits(world: World):
    """A copy takes two equal listings in a row."""
    world.store.put(1)
    for round_ in range(5):
        world.store.put(1, {"assets/words": b"x" * round_})
        world.run()
        world.clock.advance(2.0)

    assert world.store.fetched == []
    assert world.settle().wish() == [1]


def test_version_that_changes_during_the_copy_is_copied_anew(world: World):
    """What was copied from two moments is thrown away."""
    changes = [b"new"]

    def replace(key: str) -> None:
        if changes:
            world.store.contents[f"{BASE}/1/variables/variables.index"] = changes.pop()

    world.store.put(1)
    world.store.on_fetch = replace
    world.run()
    world.after(2.0)
    assert world.target.wishes == []

    world.settle()

    assert (world.path() / "variables/variables.index").read_bytes() == b"new"


def test_version_that_changes_after_it_was_copied_is_not_reloaded(world: World):
    """As with folders: other content takes another number."""
    world.store.put(1)
    world.settle()
    before = world.path()

    world.store.put(1, {"assets/words": b"other"})
    world.settle()

    assert world.path() == before


@pytest.mark.parametrize("path", ["../../escaped", "/etc/escaped", "a/../../escaped", ".."])
def test_listing_that_leaves_its_version_is_refused(world: World, tmp_path: Path, path: str):
    """Nothing is written outside of the cache, and the status says why."""
    world.store.put(1)
    world.store.put(1, {path: b"x"})

    world.settle()

    ((version, error),) = world.wish()
    assert version == 1
    assert "not plainly below it" in error.message
    assert not list(tmp_path.rglob("escaped"))


# Stores that fail.


def test_unreachable_store_changes_nothing(world: World, caplog: pytest.LogCaptureFixture):
    """An error is not an empty listing: what is wished for stays, and one line says why."""
    world.store.put(1)
    world.settle()
    told = len(world.target.wishes)

    world.store.error = GONE
    for _ in range(6):
        world.after(10.0)

    assert len(world.target.wishes) == told
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    text = (
        "FileSystemStoragePathSource encountered a filesystem access error: Could not find base "
        f"path {BASE} for servable m with error UNAVAILABLE: s3://bucket; no answer"
    )
    assert [record.message for record in errors] == [text]


def test_new_version_is_found_soon_after_the_store_is_back(world: World):
    """The longest wait between two looks at a store that fails is half a minute."""
    world.store.put(1)
    world.settle()
    world.store.error = GONE
    for _ in range(60):
        world.after(10.0)
    world.store.error = None
    world.store.put(2)

    world.after(30.0)
    world.settle()

    assert world.wish() == [2]
    assert world.source.statistics().complaints == {}


def test_looks_at_a_failing_store_grow_rarer(world: World):
    """The waits double from one second to thirty."""
    world.store.error = GONE
    polls = []
    for _ in range(120):
        world.after(1.0)
        polls.append(world.source.statistics().polls)

    looks = [second for second, (a, b) in enumerate(itertools.pairwise(polls)) if b > a]
    assert [b - a for a, b in itertools.pairwise(looks)] == [2, 4, 8, 16, 30, 30]


def test_copy_that_fails_is_tried_again_and_leaves_nothing(world: World):
    """A store that breaks off in the middle costs one more try."""
    world.store.put(1)
    world.store.fetch_error = GONE
    world.run()
    world.after(2.0)
    assert not list(world.cache.folder.glob("*/*"))

    world.store.fetch_error = None
    world.settle()

    assert world.wish() == [1]


def test_version_that_keeps_failing_is_announced_with_its_error(world: World):
    """After three failures in a row the status may know; the old version stays, and so do tries."""
    world.store.put(1)
    world.settle()
    world.store.put(2)
    world.store.fetch_error = PermissionDenied("s3://bucket/m/2/saved_model.pb; no access")
    world.after(10.0)
    world.after(2.0)
    world.after(1.0)
    assert world.wish() == [1]

    world.after(2.0)
    old, (version, error) = world.wish()
    world.store.fetch_error = None
    world.after(4.0)

    assert (old, version, error.message) == (1, 2, "s3://bucket/m/2/saved_model.pb; no access")
    assert world.wish() == [2]


def test_full_disk_is_announced_and_recovered_from(world: World):
    """A disk that is full in the middle of a copy is told of, and tried again until it is not."""
    world.store.put(1)
    world.store.fetch_error = OSError(errno.ENOSPC, "No space left on device")
    world.settle()
    ((version, error),) = world.wish()

    world.store.fetch_error = None
    world.settle()

    assert version == 1
    assert isinstance(error, ResourceExhausted)
    assert error.message == f"the disk of the model cache {world.cache.folder} is full"
    assert world.wish() == [1]


def test_failure_nobody_expected_is_told_as_it_is(world: World, caplog: pytest.LogCaptureFixture):
    """A library's bug is one version's trouble, with a trace in the log."""
    world.store.put(1)
    world.store.fetch_error = Internal("a broken invariant")
    world.settle()
    assert world.wish()[0][1].message == "a broken invariant"
    world.store.fetch_error = ZeroDivisionError("a bug")

    world.settle()
    world.after(30.0)

    assert world.wish()[0][1].message == "ZeroDivisionError: a bug"
    assert "The work for a remote store failed" in caplog.text


# The cache and its restarts.


def test_restart_copies_nothing_anew(world: World, tmp_path: Path):
    """A copy of the same content is used again, without a wait and without a byte."""
    world.store.put(1)
    world.settle()
    world.close()
    world.store.fetched.clear()

    again = World(tmp_path / "cache", store=world.store).watch().run()

    assert again.wish() == [1]
    assert world.store.fetched == []


def test_restart_takes_content_that_changed_meanwhile(world: World, tmp_path: Path):
    """What a folder would give after a restart, a store does: what lies there now."""
    world.store.put(1)
    world.settle()
    world.close()
    world.store.put(1, {"assets/words": b"other"})

    again = World(tmp_path / "cache", store=world.store).watch().settle()

    assert (again.path() / "assets/words").exists()


def test_restart_serves_from_the_cache_while_the_store_is_away(world: World, tmp_path: Path):
    """Without an answer from the store, what was copied before is served until there is one."""
    world.store.put(1)
    world.settle()
    world.close()
    world.store.error = GONE

    again = World(tmp_path / "cache", store=world.store).watch().run()
    assert again.wish() == [1]
    world.store.error = None
    world.store.put(2)
    again.settle()

    assert again.wish() == [2]


def test_restart_serves_the_old_version_while_the_new_one_is_copied(world: World, tmp_path: Path):
    """A version that appeared while no server ran does not keep the old one from serving."""
    world.store.put(1)
    world.settle()
    world.close()
    world.store.put(2)
    world.store.fetch_error = GONE

    again = World(tmp_path / "cache", store=world.store).watch().run()
    assert again.wish() == [1]
    world.store.fetch_error = None
    again.settle()

    assert again.wish() == [2]


def test_cache_that_is_wiped_is_filled_again(world: World):
    """Files taken out of the cache behind our back are copied anew; the wish stays as it was."""
    world.store.put(1)
    world.settle()
    path = world.path()

    shutil.rmtree(world.cache.folder)
    world.after(10.0)
    assert world.wish() == [1]
    world.settle()

    assert world.path() == path
    assert (path / "saved_model.pb").exists()


def test_copy_stays_a_while_after_the_last_wish_for_it(world: World):
    """A model may still be in use when it is not wished for any more; later its copy goes."""
    world.store.put(1)
    world.settle()
    world.store.put(2)
    world.settle()
    assert world.cache.children(BASE) == ["1", "2"]

    world.after(KEEP_S)
    world.after(10.0)

    assert world.cache.children(BASE) == ["2"]


# Other configurations.


def test_removed_servable_is_un_aspired_at_once_and_its_copy_called_off(world: World):
    """No look is waited for, and a copy under way ends at its next piece."""
    world.store.put(1)
    world.settle()
    world.store.put(2)
    world.store.on_fetch = lambda _key: world.source.update_config([])
    world.store.fetched.clear()

    world.settle()

    assert world.target.wishes[-1] == ("m", [])
    assert world.store.fetched == []


def test_changed_policy_keeps_the_old_version_until_the_new_one_is_here(world: World):
    """Pinning another version makes no gap, though it has to be copied first."""
    world.store.put(1)
    world.store.put(2)
    world.settle()
    wished = len(world.target.wishes)

    world.watch(Specific((1,))).settle()

    assert [[data.id.version for data in wish] for _, wish in world.target.wishes[wished:]][-1] == [
        1
    ]
    assert all(wish for _, wish in world.target.wishes[wished:])


def test_models_with_one_base_path_share_one_copy(world: World):
    """Two names for one base path cost one copy."""
    world.store.put(1)
    world.source.update_config([MonitoredServable(name, BASE) for name in ("m", "n")])

    world.settle()

    assert len(world.store.fetched) == len(MODEL)
    assert {name: len(wish) for name, wish in world.target.wishes} == {"m": 1, "n": 1}


def test_poll_looks_at_once_whatever_was_waited_for(world: World):
    """Whoever asks for a look gets one, even of a store that was given a rest."""
    world.store.error = GONE
    for _ in range(8):
        world.after(10.0)
    world.store.error = None
    world.store.put(1)

    world.source.poll()
    world.run()
    world.after(2.0)

    assert world.wish() == [1]


def test_missing_extra_is_a_complaint_with_the_command(tmp_path: Path):
    """A base path whose package is missing says what to install, and holds up nobody else."""
    world = World(tmp_path)
    source = RemoteSource(
        world.target,
        cache=world.cache,
        open_store=lambda _uri: world.store,
        make_lane=world._make_lane,  # noqa: SLF001 - the lanes are the world's
        clock=world.clock,
    )
    source.update_config([MonitoredServable("m", "hdfs://host/m")])
    world.source = source

    world.run()

    assert "in a store of no known kind" in source.statistics().complaints["m"][0]


def test_stopped_source_tells_nothing_and_calls_off_its_copies(world: World):
    """After stop nothing is begun, nothing is told, and a copy ends at its next piece."""
    world.store.put(1)
    world.store.on_fetch = lambda _key: world.source.stop()

    world.settle()

    assert world.target.wishes == []
    assert world.store.fetched == []
    assert all(lane.is_closed for lanes in world.lanes.values() for lane in lanes)


# With a manager and with threads.


def test_failed_copy_shows_in_the_status_and_recovers(tmp_path: Path):
    """END with the error while the copy fails, AVAILABLE once it does not."""
    bus: EventBus = EventBus()
    monitor = ServableStateMonitor(bus)
    manager: AspiredVersionsManager = AspiredVersionsManager(bus)
    target = SourceAdapter(lambda _id, path: FakeLoader(path), manager)
    world = World(tmp_path, target=target).watch()
    world.store.put(1)
    world.store.fetch_error = GONE
    world.settle()
    while manager.step():
        pass
    failed = monitor.state(ServableId("m", 1))

    world.store.fetch_error = None
    world.settle()
    while manager.step():
        pass
    state = monitor.state(ServableId("m", 1))

    assert failed is not None
    assert state is not None
    assert (failed.manager_state.name, str(failed.error)) == ("END", str(GONE))
    assert (state.manager_state.name, state.error) == ("AVAILABLE", None)


def test_hanging_store_is_felt_by_its_own_models_only(tmp_path: Path):
    """While one store does not answer, a model of another is copied and wished for."""
    hang, heard = threading.Event(), threading.Event()
    stores = {"s3://slow": FakeStore(), "s3://quick": FakeStore()}
    stores["s3://quick"].put(1, base="s3://quick/m")

    class HangingStore(FakeStore):
        def children(self, uri: str) -> list[str]:
            hang.wait(60)
            return []

    stores["s3://slow"] = HangingStore()

    class Target:
        def set_aspired_versions(self, name, versions) -> None:
            if name == "quick" and versions:
                heard.set()

    source = RemoteSource(
        Target(),
        cache=ModelCache(tmp_path),
        poll_wait_s=0.01,
        open_store=lambda uri: stores[uri.rpartition("/")[0]],
        check=lambda _uri: None,
    )
    slow = [MonitoredServable(f"slow{n}", f"s3://slow/{n}") for n in range(20)]
    source.update_config([*slow, MonitoredServable("quick", "s3://quick/m")])

    source.start()

    assert heard.wait(60)
    source.stop()
    hang.set()


def test_lane_runs_jobs_on_a_few_threads_and_survives_one_that_fails(
    caplog: pytest.LogCaptureFixture,
):
    """No more threads than it was given, and a job that raises ends nothing."""
    lane, done = Lane("lane", 2), threading.Event()
    threads: set[int] = set()
    together = threading.Barrier(2)

    def meet() -> None:
        threads.add(threading.get_ident())
        together.wait(60)

    def fail() -> None:
        raise ZeroDivisionError

    for job in (fail, meet, meet, done.set):
        lane.submit(job)

    assert done.wait(60)
    assert len(threads) == 2
    assert "A job of lane failed" in caplog.text
    lane.close()
    lane.submit(fail)
