"""Versions that are corrupt, cut short, half copied, unreadable or gone.

One server lives through all of it.  Whatever is done to the other models, the one that is in order
answers every request; and each of the others comes back without a restart.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import pytest

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")

from broken_versions import (
    BREAKS,
    GRAPH,
    endless_variables,
    let_go,
    missing_variables,
    put,
    put_broken,
    shard_of,
)
from saved_models import Shelf
from server_process import ServerProcess, config_file, program
from steady_client import HALF_PLUS_THREE, HALF_PLUS_TWO, Asking, Patience, SteadyClient

LAUNCH: Final = Path(__file__).with_name("launch.py")
SALVER: Final = ("python", str(LAUNCH), "--no-rights", str(program("salver")), "serve")

PERMISSION_DENIED: Final = grpc.StatusCode.PERMISSION_DENIED.value[0]

NO_MODEL_FILE: Final = (
    "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
    "`saved_model.pb`)\nSpecified file path: {path}"
)

CAUSES: Final[Mapping[str, tuple[grpc.StatusCode, str]]] = {
    "corrupt_graph": (
        grpc.StatusCode.DATA_LOSS,
        "Can't parse {path}/saved_model.pb as binary proto",
    ),
    "truncated_graph": (grpc.StatusCode.OUT_OF_RANGE, "Read less bytes than requested"),
    "empty_graph": (
        grpc.StatusCode.NOT_FOUND,
        "Could not find meta graph def matching supplied tags: { serve }.",
    ),
    "truncated_variables": (grpc.StatusCode.OUT_OF_RANGE, "Read less bytes than requested"),
    "corrupt_index": (grpc.StatusCode.DATA_LOSS, "not an sstable (bad magic number)"),
    "missing_shard": (
        grpc.StatusCode.NOT_FOUND,
        "{path}/variables/variables.data-00000-of-00001; No such file or directory",
    ),
    "no_files": (grpc.StatusCode.NOT_FOUND, NO_MODEL_FILE),
    "unreadable_folder": (grpc.StatusCode.PERMISSION_DENIED, "{path} cannot be read by user "),
    "unreadable_graph": (
        grpc.StatusCode.PERMISSION_DENIED,
        "{path}/saved_model.pb; Permission denied",
    ),
    "unreadable_variables": (
        grpc.StatusCode.PERMISSION_DENIED,
        "{path}/variables/variables.data-00000-of-00001; Permission denied",
    ),
}
"""The code, and how the message begins, of each broken version."""

OTHERS: Final = (
    "copied",
    "graph_first",
    "shut",
    "fallen_back",
    "emptied",
    "removed",
    "pulled_away",
)


def unreadable_folder(version: Path) -> None:
    version.chmod(0)


def unreadable_graph(version: Path) -> None:
    (version / GRAPH).chmod(0)


def unreadable_variables(version: Path) -> None:
    shard_of(version).chmod(0)


HOW_TO_BREAK: Final = {
    each.__name__: each
    for each in (*BREAKS.values(), unreadable_folder, unreadable_graph, unreadable_variables)
}


@dataclass(frozen=True)
class Aftermath:
    """What came of a model whose second version was broken, and whose third was whole."""

    broken: Path
    status: tuple[str, int, str]
    answer_meanwhile: float
    answer_at_the_end: float


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the base paths are, each called as its model."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def server(shelf: Shelf, folder: Path) -> Iterator[ServerProcess]:
    """A model that is in order, and many to break: version 1 of each is half_plus_two."""
    bases = {name: folder / name for name in (*CAUSES, *OTHERS)}
    for base in bases.values():
        put(shelf.version("half_plus_two"), base, 1)
    put(shelf.version("half_plus_three"), bases["fallen_back"], 2)
    config = config_file(folder, healthy=shelf("half_plus_two"), **bases)
    flags = f"--model_config_file={config}", "--explain_load_errors=false"  # TensorFlow's texts
    with ServerProcess(*flags, command=SALVER) as running:
        yield running.wait_until_started()


@pytest.fixture(scope="module")
def questions(server: ServerProcess) -> Iterator[Asking]:
    with Asking(server) as asking:
        yield asking


@pytest.fixture(autouse=True)
def healthy(server: ServerProcess) -> Iterator[None]:
    """Through every test the healthy model answers each request."""
    with SteadyClient(server, "healthy") as client:
        yield
        client.wait_for_answers()
    assert client.failures == []


@pytest.fixture(scope="module")
def aftermath(questions: Asking, shelf: Shelf, folder: Path) -> dict[str, Aftermath]:
    """Break all of them at once, look at each, then give each a version that is whole."""
    whole = shelf.version("half_plus_three")
    broken = {name: put_broken(whole, folder / name, 2, HOW_TO_BREAK[name]) for name in CAUSES}
    statuses = {
        name: questions.wait_until_status(name, 2, lambda status: status[1] != 0) for name in CAUSES
    }
    meanwhile = {name: questions.predict(name) for name in CAUSES}
    for name in CAUSES:
        put(whole, folder / name, 3)
        questions.wait_until(name, 3, "AVAILABLE")
    return {
        name: Aftermath(broken[name], statuses[name], meanwhile[name], questions.predict(name))
        for name in CAUSES
    }


@pytest.mark.parametrize("fault", CAUSES)
def test_a_broken_version_harms_nobody(aftermath: dict[str, Aftermath], fault: str):
    """Its status says why it ended, the version before it answers, and a higher one replaces it."""
    found = aftermath[fault]
    code, text = CAUSES[fault]

    state, found_code, found_text = found.status
    assert (state, found_code) == ("END", code.value[0])
    assert found_text.startswith(text.replace("{path}", str(found.broken)))
    assert (found.answer_meanwhile, found.answer_at_the_end) == (HALF_PLUS_TWO, HALF_PLUS_THREE)


def test_a_version_that_is_copied_in_place_is_served_when_it_is_whole(
    questions: Asking, shelf: Shelf, folder: Path
):
    """Seen too early it fails; what was missing is said, and once all is there it begins anew."""
    whole, version = shelf.version("half_plus_three"), folder / "copied" / "2"
    version.mkdir()
    too_early = questions.wait_until("copied", 2, "END")
    meanwhile = questions.predict("copied")
    shutil.copytree(whole / "variables", version / "variables")
    shutil.copyfile(whole / GRAPH, version / GRAPH)
    at_the_end = questions.wait_until("copied", 2, "AVAILABLE")

    code = grpc.StatusCode.NOT_FOUND.value[0]
    assert too_early == ("END", code, NO_MODEL_FILE.replace("{path}", str(version)))
    assert at_the_end == ("AVAILABLE", 0, "")
    assert (meanwhile, questions.predict("copied")) == (HALF_PLUS_TWO, HALF_PLUS_THREE)


def test_a_graph_that_is_copied_before_its_variables_waits_for_them(
    questions: Asking, shelf: Shelf, folder: Path
):
    """A version that could only answer with errors does not take the place of one that answers."""
    whole = shelf.version("half_plus_three")
    version = put_broken(whole, folder / "graph_first", 2, missing_variables)
    too_early, code, _ = questions.wait_until_status(
        "graph_first", 2, lambda status: status[0] in ("END", "AVAILABLE")
    )
    assert (too_early, code) == ("END", grpc.StatusCode.NOT_FOUND.value[0])
    meanwhile = questions.predict("graph_first")
    shutil.copytree(whole / "variables", version / "variables")
    questions.wait_until("graph_first", 2, "AVAILABLE")

    assert (meanwhile, questions.predict("graph_first")) == (HALF_PLUS_TWO, HALF_PLUS_THREE)


def test_a_base_path_that_may_not_be_read_keeps_what_it_has(
    server: ServerProcess, questions: Asking, shelf: Shelf, folder: Path
):
    """The log says it once, the version that is loaded answers, and the poll goes on."""
    base = folder / "shut"
    base.chmod(0)
    try:
        server.wait_for(
            f"Could not find base path {base} for servable shut with error PERMISSION_D"
        )
        meanwhile = questions.predict("shut"), questions.status("shut", 1)
    finally:
        base.chmod(0o755)
    put(shelf.version("half_plus_three"), base, 2)
    questions.wait_until("shut", 2, "AVAILABLE")

    assert meanwhile == (HALF_PLUS_TWO, ("AVAILABLE", 0, ""))
    assert questions.predict("shut") == HALF_PLUS_THREE


def test_a_version_that_vanishes_gives_way_to_the_one_before_it(
    server: ServerProcess, questions: Asking, folder: Path
):
    """The older one loads first, so that no request for the model itself fails."""
    with SteadyClient(server, "fallen_back", HALF_PLUS_TWO, HALF_PLUS_THREE) as client:
        before = questions.predict("fallen_back")
        shutil.rmtree(folder / "fallen_back" / "2")
        left = questions.wait_until("fallen_back", 2, "END")
        client.wait_for_answers()

    assert client.failures == []
    assert (before, questions.predict("fallen_back")) == (HALF_PLUS_THREE, HALF_PLUS_TWO)
    assert left == ("END", 0, "")


def test_a_model_whose_last_version_vanishes_is_missed_and_comes_back(
    server: ServerProcess, questions: Asking, shelf: Shelf, folder: Path
):
    """An empty base path means that nothing is to be served, as in TensorFlow Serving."""
    shutil.rmtree(folder / "emptied" / "1")
    left = questions.wait_until("emptied", 1, "END")
    with pytest.raises(grpc.RpcError) as missed:
        questions.predict("emptied")
    said = server.wait_for("No versions of servable emptied found under base path")
    put(shelf.version("half_plus_three"), folder / "emptied", 1)
    questions.wait_until("emptied", 1, "AVAILABLE")

    assert left == ("END", 0, "")
    assert missed.value.code() is grpc.StatusCode.NOT_FOUND
    assert missed.value.details() == "Servable not found for request: Latest(emptied)"
    assert str(folder / "emptied") in said
    assert questions.predict("emptied") == HALF_PLUS_THREE


def test_a_base_path_that_vanishes_takes_nothing_with_it(
    server: ServerProcess, questions: Asking, shelf: Shelf, folder: Path
):
    """A path that cannot be listed says nothing about its versions; the last ones go on."""
    base = folder / "removed"
    base.rename(folder / "elsewhere")
    server.wait_for(f"Could not find base path {base} for servable removed with error NOT_FOUND")
    meanwhile = questions.predict("removed"), questions.status("removed", 1)
    put(shelf.version("half_plus_three"), base, 2)
    questions.wait_until("removed", 2, "AVAILABLE")

    assert meanwhile == (HALF_PLUS_TWO, ("AVAILABLE", 0, ""))
    assert questions.predict("removed") == HALF_PLUS_THREE


@pytest.mark.skipif(sys.platform == "win32", reason="a loader is held by a named pipe")
def test_a_version_that_vanishes_while_it_loads_leaves_the_old_one(
    questions: Asking, shelf: Shelf, folder: Path
):
    """What comes of the load is of no interest any more; the version before it never left."""
    base, whole = folder / "pulled_away", shelf.version("half_plus_three")
    held = folder / "held.pipe"
    version = put_broken(whole, base, 2, lambda path: os.link(endless_variables(path), held))
    questions.wait_until("pulled_away", 2, "LOADING")
    shutil.rmtree(version)
    patience = Patience()
    while (ended := questions.status("pulled_away", 2))[0] != "END":
        let_go(held)
        patience.lose_some(f"the load goes on: {ended}")
    meanwhile = questions.predict("pulled_away")
    put(whole, base, 3)
    questions.wait_until("pulled_away", 3, "AVAILABLE")

    assert (meanwhile, questions.predict("pulled_away")) == (HALF_PLUS_TWO, HALF_PLUS_THREE)
