"""A model config file to which everything happens that can happen to a file, while it is followed.

The server reads it every second.  What it cannot read or understand changes nothing and is said
once; the next reading that makes sense holds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")

from saved_models import Shelf
from server_process import ServerProcess, config_file
from steady_client import HALF_PLUS_TWO, Asking, SteadyClient

SALVER: Final = ("salver", "serve")
COMPLAINT: Final = "cannot be applied, the configuration stays as it is"
REWRITTEN_EVERY_S: Final = 0.5
REWRITES: Final = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("followed")


@pytest.fixture(scope="module")
def server(shelf: Shelf, folder: Path) -> Iterator[ServerProcess]:
    """One model, by a file that is followed."""
    config = config_file(folder, healthy=shelf("half_plus_two"))
    flags = f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1"
    with ServerProcess(*flags, command=SALVER) as running:
        yield running.wait_until_started()


@pytest.fixture(autouse=True)
def healthy(server: ServerProcess) -> Iterator[None]:
    """Through every test the model that was there from the start answers each request."""
    with SteadyClient(server, "healthy") as client:
        yield
        client.wait_for_answers()
    assert client.failures == []


def empty(config: Path) -> None:
    config.write_text("")


def truncated(config: Path) -> None:
    config.write_text(config.read_text()[:-10])


def gone(config: Path) -> None:
    config.unlink()


def a_folder(config: Path) -> None:
    config.unlink()
    config.mkdir()


FAULTS: Final = {each.__name__: each for each in (empty, truncated, gone, a_folder)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_cannot_be_used_changes_nothing(
    server: ServerProcess, shelf: Shelf, folder: Path, fault: str
):
    """The log says why, once; what was configured serves; and a file that is whole holds again."""
    config, added = folder / "models.config", f"after_{fault}"
    told_before = sum(COMPLAINT in line for line in server.log)
    FAULTS[fault](config)
    said = server.wait_for(COMPLAINT, times=told_before + 1)
    if config.is_dir():
        config.rmdir()
    config_file(folder, healthy=shelf("half_plus_two"), **{added: shelf("half_plus_two")})
    with Asking(server) as questions:
        questions.wait_until(added, 1, "AVAILABLE")
        answer = questions.predict(added)

    assert str(config) in said
    assert answer == HALF_PLUS_TWO
    assert sum(COMPLAINT in line for line in server.log) == told_before + 1


def test_a_file_that_is_rewritten_all_the_time_comes_to_rest(
    server: ServerProcess, shelf: Shelf, folder: Path
):
    """Twice a second another model comes and goes, and the last word holds."""
    pace = threading.Event()
    base = shelf("half_plus_two")
    for number in range(REWRITES):
        fresh = folder / "fresh"
        fresh.mkdir(exist_ok=True)
        written = config_file(fresh, healthy=base, **{f"number_{number}": base})
        written.replace(folder / "models.config")
        pace.wait(REWRITTEN_EVERY_S)
    with Asking(server) as questions:
        last = questions.wait_until(f"number_{REWRITES - 1}", 1, "AVAILABLE")
        for number in range(REWRITES - 1):
            questions.wait_until_status(
                f"number_{number}", 1, lambda status: status[0] in ("unknown", "END")
            )

    assert last == ("AVAILABLE", 0, "")
