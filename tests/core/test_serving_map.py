"""Reading what is ready, and how a version outlives its place in the map."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from fakes import FakeServable
from salver.core.servable_id import ServableId
from salver.core.serving_map import ServingMap
from salver.errors import Internal, NotFound


def map_of(*versions: int) -> ServingMap[FakeServable]:
    serving_map: ServingMap[FakeServable] = ServingMap()
    for version in versions:
        serving_map.insert(ServableId("m", version), FakeServable(str(version)))
    return serving_map


def test_latest_is_the_highest_ready_version():
    """Without a version the highest is meant, whatever the order of arrival."""
    serving_map = map_of(3, 10, 7)

    with serving_map.latest("m") as handle:
        assert handle.id == ServableId("m", 10)
        assert handle.servable.use() == "10"


def test_specific_is_the_version_named():
    """Several versions are there at once, each by its number."""
    serving_map = map_of(1, 2)

    with serving_map.specific("m", 1) as old, serving_map.specific("m", 2) as new:
        assert (old.servable.use(), new.servable.use()) == ("1", "2")


def test_what_is_not_ready_is_not_found():
    """The errors carry TensorFlow Serving's words."""
    serving_map = map_of(1)

    with pytest.raises(NotFound) as no_model:
        serving_map.latest("other")
    with pytest.raises(NotFound) as no_version:
        serving_map.specific("m", 2)
    with pytest.raises(NotFound) as neither:
        serving_map.specific("other", 2)

    assert no_model.value.message == "Servable not found for request: Latest(other)"
    assert no_version.value.message == "Servable not found for request: Specific(m, 2)"
    assert neither.value.message == "Servable not found for request: Specific(other, 2)"


def test_available_lists_every_version():
    """The list goes by name, highest version first."""
    serving_map = map_of(1, 2)
    serving_map.insert(ServableId("a", 5), FakeServable())

    assert serving_map.available() == [
        ServableId("a", 5),
        ServableId("m", 2),
        ServableId("m", 1),
    ]
    assert serving_map.versions("m") == [2, 1]
    assert serving_map.versions("other") == []


def test_removed_version_is_found_no_more():
    """After a removal the next highest is the latest; after the last one, nothing is."""
    serving_map = map_of(1, 2)
    notes: list[str] = []

    serving_map.remove(ServableId("m", 2), lambda: notes.append("2 drained"))
    with serving_map.latest("m") as handle:
        assert handle.id.version == 1
    serving_map.remove(ServableId("m", 1), lambda: notes.append("1 drained"))
    with pytest.raises(NotFound):
        serving_map.latest("m")

    assert notes == ["2 drained", "1 drained"]


def test_version_in_use_drains_with_its_last_handle():
    """A version taken out stays usable for those who have it; the last one back is the news."""
    serving_map = map_of(1)
    notes: list[str] = []
    first, second = serving_map.latest("m"), serving_map.latest("m")

    serving_map.remove(ServableId("m", 1), lambda: notes.append("drained"))
    first.release()
    assert second.servable.use() == "1"
    assert serving_map.draining() == [ServableId("m", 1)]
    assert notes == []
    second.release()

    assert notes == ["drained"]
    assert serving_map.draining() == []


def test_returning_a_handle_twice_counts_once():
    """A second return does not cost another caller the version."""
    serving_map = map_of(1)
    notes: list[str] = []
    first, second = serving_map.latest("m"), serving_map.latest("m")
    serving_map.remove(ServableId("m", 1), lambda: notes.append("drained"))

    first.release()
    first.release()

    assert notes == []
    assert second.servable.use() == "1"


def test_returned_handle_cannot_be_used():
    """Whoever uses a handle after its return is told so, with the version's name."""
    with map_of(1).latest("m") as handle:
        pass

    with pytest.raises(Internal, match=r"\{name: m version: 1\} was used after it was returned"):
        _ = handle.servable


def test_forgotten_handle_returns_itself():
    """A handle that nobody returned and nobody has any more does not keep its version."""
    serving_map = map_of(1)
    notes: list[str] = []
    handle = serving_map.latest("m")
    serving_map.remove(ServableId("m", 1), lambda: notes.append("drained"))

    del handle

    assert notes == ["drained"]


def test_handle_in_a_cycle_returns_itself_at_the_next_collection():
    """Even a handle caught in a reference cycle comes back."""
    serving_map = map_of(1)
    notes: list[str] = []
    cycle: list[object] = [serving_map.latest("m")]
    cycle.append(cycle)
    serving_map.remove(ServableId("m", 1), lambda: notes.append("drained"))

    del cycle
    gc.collect()

    assert notes == ["drained"]


def test_handle_is_returned_when_its_block_fails():
    """An error inside the with block returns the handle, though the traceback lives on."""
    serving_map = map_of(1)
    notes: list[str] = []

    def fail() -> None:
        with serving_map.latest("m"):
            serving_map.remove(ServableId("m", 1), lambda: notes.append("drained"))
            assert notes == []
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail()

    assert notes == ["drained"]


def test_nothing_is_used_after_it_drained_while_threads_read_and_versions_swap():
    """Readers on two threads never see a version that has drained, nor a moment without one."""
    servables = [FakeServable(str(version)) for version in range(500)]
    serving_map: ServingMap[FakeServable] = ServingMap()
    serving_map.insert(ServableId("m", 0), servables[0])
    drained: list[int] = []
    is_over = threading.Event()

    def read() -> int:
        count = 0
        while count < 100 or not is_over.is_set():
            with serving_map.latest("m") as handle:
                handle.servable.use()
                handle.servable.use()
            count += 1
        return count

    def note_end(version: int) -> None:
        servables[version].is_unloaded = True
        drained.append(version)

    with ThreadPoolExecutor(2) as readers:
        reads = [readers.submit(read) for _ in range(2)]
        for old in range(499):
            serving_map.insert(ServableId("m", old + 1), servables[old + 1])
            serving_map.remove(ServableId("m", old), partial(note_end, old))
        is_over.set()

    assert all(done.result() >= 100 for done in reads)
    assert sorted(drained) == list(range(499))
