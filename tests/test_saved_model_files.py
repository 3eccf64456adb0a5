"""When a version's files are all there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.saved_model_files import Needs, graph_that_tells, missing_files, read_needs
from saved_models import Shelf
from session_bundles import BUNDLES, BundleShelf

INDEX = "variables/variables.index"


def shard(number: int, count: int) -> str:
    return f"variables/variables.data-{number:05}-of-{count:05}"


def bundle_shard(number: int, count: int) -> str:
    return f"export-{number:05}-of-{count:05}"


@pytest.mark.parametrize(
    ("paths", "missing"),
    [
        ([], ["saved_model.pb"]),
        ([INDEX, shard(0, 1)], ["saved_model.pb"]),
        (["saved_model.pb"], []),
        (["saved_model.pbtxt"], []),
        (["model.tflite"], []),
        (["saved_model.pb", INDEX], [shard(0, 1)]),
        (["saved_model.pb", shard(0, 1)], [INDEX]),
        (["saved_model.pb", INDEX, shard(1, 3)], [shard(0, 3), shard(2, 3)]),
        (["saved_model.pb", INDEX, shard(0, 1)], []),
        (["export.meta"], []),
        (["export.meta", "export"], []),
        (["export.meta", "export-00000-of-00001", "checkpoint"], []),
        (["export.meta", "export-00001-of-00003"], [bundle_shard(0, 3), bundle_shard(2, 3)]),
        (["export.meta", "export.index"], ["export.data-00000-of-00001"]),
        (["export.meta", "export.data-00000-of-00001"], ["export.index"]),
        (["export-00000-of-00001"], ["saved_model.pb"]),
        (["export.meta", "saved_model.pb", INDEX], [shard(0, 1)]),
    ],
)
def test_names_tell_what_is_missing(paths: list[str], missing: list[str]):
    """A graph; and where there is anything of variables, all of them, in either format."""
    assert missing_files(paths) == missing


def test_needs_of_the_graph_count():
    """What the graph reads has to be there, though no name hints at it."""
    needs = Needs(variables=True, assets=frozenset({"vocabulary.txt"}))

    missing = missing_files(["saved_model.pb"], needs)

    assert missing == ["assets/vocabulary.txt", INDEX, shard(0, 1)]


def test_graph_with_variables_needs_them(shelf: Shelf):
    """A SavedModel as TensorFlow 2 writes it names its checkpoint."""
    needs = read_needs(shelf.version("half_plus_two") / "saved_model.pb")

    assert needs == Needs(variables=True)


def test_every_whole_model_is_complete(shelf: Shelf):
    """What TensorFlow wrote in full lacks nothing, old models and new ones alike."""
    for name in ("half_plus_two", "v1_half_plus_two", "v1_main_op", "v1_legacy_init_op"):
        version = shelf.version(name)
        paths = [p.relative_to(version).as_posix() for p in version.rglob("*") if p.is_file()]

        assert missing_files(paths, read_needs(version / "saved_model.pb")) == [], name


@pytest.mark.parametrize("name", sorted(BUNDLES))
def test_every_whole_session_bundle_is_complete(bundle_shelf: BundleShelf, name: str):
    """It needs its variables, and the assets that its collections name; and it has them."""
    version = bundle_shelf.version(name)
    paths = [p.relative_to(version).as_posix() for p in version.rglob("*") if p.is_file()]
    assets = frozenset(path.name for path in (version / "assets").iterdir())
    needs = read_needs(version / "export.meta")

    assert needs == Needs(variables=True, assets=assets)
    assert missing_files(paths, needs) == []


def test_a_bundles_graph_tells_of_what_no_name_hints_at():
    """A bundle alone is not a model when it needs variables."""
    needs = Needs(variables=True, assets=frozenset({"labels.txt"}))

    assert missing_files(["export.meta"], needs) == ["assets/labels.txt", bundle_shard(0, 1)]


@pytest.mark.parametrize(
    ("paths", "graph"),
    [
        (["saved_model.pb", "export.meta"], "saved_model.pb"),
        (["export.meta", "export"], "export.meta"),
        (["saved_model.pbtxt", "export.meta"], None),
        (["variables/variables.index"], None),
    ],
)
def test_the_graph_that_is_loaded_is_the_one_that_tells(paths: list[str], graph: str | None):
    """Where there are several, the first in order is loaded; not every form can be read here."""
    assert graph_that_tells(paths) == graph


@pytest.mark.parametrize("name", ["any_graph.pb", "export.meta"])
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes
):
    """A graph that is none needs nothing: whoever loads it says what is wrong."""
    graph = tmp_path_factory.getbasetemp() / name
    graph.write_bytes(data)

    assert isinstance(read_needs(graph), Needs)


def test_graph_that_is_not_there_needs_nothing(tmp_path: Path):
    """The same goes for a file that cannot be opened."""
    assert read_needs(tmp_path / "saved_model.pb") == Needs()


def test_a_graph_whose_variables_became_constants_needs_no_checkpoint(tmp_path: Path):
    """Freezing a graph leaves its saver behind; TensorFlow restores nothing then, nor do we ask."""
    saver = b"\x1a\x0dsave/Const:0\x00"  # any SaverDef that says something
    meta_graph = saver
    graph = tmp_path / "saved_model.pb"
    graph.write_bytes(b"\x12" + bytes([len(meta_graph)]) + meta_graph)

    assert read_needs(graph) == Needs()
