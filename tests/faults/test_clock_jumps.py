"""A wall clock that somebody sets: a day ahead, a year back."""

from __future__ import annotations

import ast
import email.utils
import http.client
import mmap
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")

import salver
from broken_versions import GRAPH, put
from saved_models import Shelf
from server_process import PATIENCE_S, ServerProcess, config_file
from steady_client import HALF_PLUS_THREE, Asking, SteadyClient

SALVER: Final = ("salver", "serve")
DAY_S: Final = 24 * 3600
YEAR_S: Final = 365 * DAY_S
JUMPS: Final = (DAY_S, -YEAR_S)

WALL_CLOCK_READERS: Final[Mapping[str, str]] = {
    "cli/logs.py": "the time in front of each line",
    "core/manager.py": "when a state was announced, which nothing depends on",
    "wire/http1.py": "the Date of an answer",
    "wire/listener.py": "the Date of an answer",
}
"""The files that ask what time of day it is, and what for."""


class WallClock:
    """The wall clock of one server, in the test's hands."""

    def __init__(self, offset: mmap.mmap, environment: dict[str, str]) -> None:
        self._offset = offset
        self.environment = environment

    def jump(self, seconds: int) -> None:
        """Be so far from the true time from now on."""
        self._offset[:8] = struct.pack("=q", seconds)


@pytest.fixture
def wall_clock(tmp_path: Path) -> Iterator[WallClock]:
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("the clock is set by a library that is compiled and preloaded")
    library, offset = tmp_path / "wall_clock.so", tmp_path / "offset"
    source = Path(__file__).with_name("wall_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    offset.write_bytes(bytes(mmap.PAGESIZE))
    environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_OFFSET": str(offset)}
    with offset.open("r+b") as file, mmap.mmap(file.fileno(), mmap.PAGESIZE) as shared:
        yield WallClock(shared, environment)


def date_of_an_answer(server: ServerProcess) -> float:
    """What time the server says it is, from the true time on."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/healthz")
        date = connection.getresponse().headers["Date"]
    finally:
        connection.close()
    return email.utils.parsedate_to_datetime(date).timestamp() - time.time()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail where the block takes longer."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def test_a_clock_that_jumps_is_shown_and_nothing_else(
    wall_clock: WallClock, shelf: Shelf, tmp_path: Path
):
    """Polls, retries, timeouts and the drain keep their pace, whichever way the clock goes."""
    moving, whole = tmp_path / "moving", shelf.version("half_plus_three")
    put(shelf.version("half_plus_two"), moving, 1)
    config = config_file(tmp_path, healthy=shelf("half_plus_two"), moving=moving)
    with ServerProcess(
        f"--model_config_file={config}", command=SALVER, environment=wall_clock.environment
    ) as server:
        server.wait_until_started()
        with SteadyClient(server, "healthy") as client, Asking(server) as questions:
            offs = [date_of_an_answer(server)]
            answers = []
            for version, offset in enumerate(JUMPS, start=2):
                (moving / str(version)).mkdir()
                questions.wait_until("moving", version, "END")
                wall_clock.jump(offset)
                offs.append(date_of_an_answer(server))
                with within(PATIENCE_S / 4):
                    shutil.copytree(whole / "variables", moving / str(version) / "variables")
                    shutil.copyfile(whole / GRAPH, moving / str(version) / GRAPH)
                    questions.wait_until("moving", version, "AVAILABLE")
                answers.append(questions.predict("moving"))
                client.wait_for_answers()
            wall_clock.jump(YEAR_S)
        server.send(signal.SIGTERM)
        with within(PATIENCE_S / 4):
            code = server.wait()

    assert client.failures == []
    assert offs == pytest.approx([0, *JUMPS], abs=2)
    assert answers == [HALF_PLUS_THREE] * len(JUMPS)
    assert code == 0


def test_only_what_is_shown_is_taken_from_the_wall_clock():
    """Whatever decides or waits asks a clock that only runs forward."""
    root = Path(salver.__file__).parent
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    written = {name: path for name, path in files.items() if not name.startswith("protos/")}

    assert {name for name, path in written.items() if asks_for_the_time_of_day(path)} == set(
        WALL_CLOCK_READERS
    )


def asks_for_the_time_of_day(path: Path) -> bool:
    """Whether a file names anything that tells it."""
    tree = ast.parse(path.read_text())
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    tellers = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.strftime"}
    methods = {"now", "utcnow", "today", "fromtimestamp", "utcfromtimestamp"}
    return bool(
        tellers & (names | imported)
        or any(name.startswith("datetime.") and name.split(".")[-1] in methods for name in names)
    )
