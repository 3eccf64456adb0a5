"""The model config file while the server runs: followed, and never trusted to be whole."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from pathlib import Path

import pytest

from core_house import CoreHouse, model
from salver.model_server.config_poll import ModelConfigFile


def listed(*names: str) -> str:
    entries = "".join(
        f'config {{ name: "{name}" base_path: "/models/{name}" model_platform: "tensorflow" }}\n'
        for name in names
    )
    return f"model_config_list {{\n{entries}}}\n"


class Followed:
    """A file, a core that follows it, and what the log says about it."""

    def __init__(
        self, folder: Path, caplog: pytest.LogCaptureFixture, *, prevails: bool = False
    ) -> None:
        self.house = CoreHouse()
        self.path = folder / "models.config"
        self._caplog = caplog
        self.file = ModelConfigFile(str(self.path), self.house.core, prevails=prevails)
        self.write(listed("m"))

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.file.refresh()

    def names(self) -> list[str]:
        return list(self.house.core.names())

    def complaints(self) -> list[str]:
        return [r.getMessage() for r in self._caplog.records if r.levelno >= logging.ERROR]


@pytest.fixture
def followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Followed:
    return Followed(tmp_path, caplog)


def test_a_changed_file_holds_from_the_next_look(followed: Followed):
    """Models come and go as it says."""
    followed.write(listed("m", "n"))
    assert followed.names() == ["m", "n"]

    followed.write(listed("n"))
    assert followed.names() == ["n"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "model_config_list { config {",
        listed("m", "m"),
        listed("m")[:-20],
        'model_config_list { config { name: "x" base_path: "x" model_platform: "tensorflow" } }',
    ],
    ids=["empty", "only a comment", "cut off", "twice the same", "cut off later", "wrong"],
)
def test_a_file_that_cannot_be_applied_changes_nothing_until_it_is_mended(
    followed: Followed, text: str
):
    """It is complained about once, however often it is looked at."""
    followed.write(text)
    complaints = followed.complaints()
    followed.file.refresh()

    assert followed.names() == ["m"]
    assert complaints
    assert followed.complaints() == complaints
    followed.write(listed("m", "n"))
    assert followed.names() == ["m", "n"]


def test_a_file_that_goes_or_becomes_a_folder_changes_nothing(followed: Followed):
    """When it is back, it is followed again."""
    followed.path.unlink()
    followed.file.refresh()
    followed.path.mkdir()
    followed.file.refresh()
    followed.path.rmdir()

    assert followed.names() == ["m"]
    assert len(followed.complaints()) == 2
    followed.write(listed("n"))
    assert followed.names() == ["n"]


def test_the_same_complaint_is_made_again_after_the_file_was_right(followed: Followed):
    """A mistake made anew is news."""
    followed.write("")
    followed.write(listed("m"))
    followed.write("")

    assert len(followed.complaints()) == 2


def test_a_file_rewritten_all_the_time_is_followed(followed: Followed):
    """Each look applies what is there then."""
    for number in range(50):
        followed.write(listed("m", f"n{number}"))

    assert followed.names() == ["m", "n49"]
    assert followed.complaints() == []


def test_what_came_by_other_ways_stays_until_the_file_changes(followed: Followed):
    """Then the file says all again."""
    followed.house.core.edit("n", model("n"), if_revision=followed.house.core.revision())
    followed.file.refresh()
    assert followed.names() == ["m", "n"]

    followed.write(listed("m", "o"))
    assert followed.names() == ["m", "o"]


def test_a_file_seen_half_written_that_is_the_old_one_again_has_not_changed(followed: Followed):
    """What came by other ways meanwhile stays."""
    followed.house.core.edit("n", model("n"), if_revision=followed.house.core.revision())
    followed.write(listed("m")[:-20])
    followed.write(listed("m"))

    assert followed.names() == ["m", "n"]


def test_a_file_that_cannot_be_read_to_its_end_does_not_hold_up_the_end():
    """As on a mount that is dead; the thread that reads it is left alone."""
    reading, never = threading.Event(), threading.Event()

    def read(_path: str) -> bytes:
        reading.set()
        never.wait()
        return b""

    async def follow() -> None:
        file = ModelConfigFile("f", CoreHouse().core, prevails=False, read=read)
        task = asyncio.ensure_future(file.keep_fresh(0))
        await asyncio.get_running_loop().run_in_executor(None, reading.wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(follow())  # which joins the threads of the loop's pool

    assert not never.is_set()
    never.set()


def test_a_file_that_becomes_a_pipe_changes_nothing(followed: Followed):
    """It is not even waited for."""
    followed.path.unlink()
    os.mkfifo(followed.path)
    followed.file.refresh()

    assert followed.names() == ["m"]
    assert "no regular file" in followed.complaints()[0]


def test_a_file_that_prevails_undoes_what_came_by_other_ways(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """As in TensorFlow Serving, where it is applied at every look."""
    followed = Followed(tmp_path, caplog, prevails=True)
    followed.house.core.configure([model("n")])
    followed.file.refresh()

    assert followed.names() == ["m"]


def test_labels_that_were_early_are_tried_again(followed: Followed):
    """With TensorFlow Serving's rules they hold once their version is loaded."""
    followed.house.add("m", 1)
    labels = ' version_labels { key: "stable" value: 1 } } }'
    followed.write(listed("m").replace("}\n}\n", labels))
    assert len(followed.complaints()) == 1
    followed.house.settle()

    followed.file.refresh()

    (view,) = followed.house.core.views()
    assert view.labels == {"stable": 1}


def test_new_models_are_looked_for_at_once(followed: Followed):
    """Also where the folders are looked at once only."""
    polled = asyncio.Event()

    async def add() -> None:
        loop = asyncio.get_running_loop()
        followed.house.shelf.is_polled = lambda: loop.call_soon_threadsafe(polled.set)
        followed.write(listed("m", "n"))
        await polled.wait()

    asyncio.run(add())

    assert followed.house.shelf.polls >= 1


def test_the_file_is_looked_at_again_and_again(tmp_path: Path):
    """Until it is not wanted any more; a look that breaks is followed by the next."""
    looks = 0
    seen = asyncio.Event()

    async def follow() -> None:
        loop = asyncio.get_running_loop()

        def read(_path: str) -> bytes:
            nonlocal looks
            looks += 1
            if looks == 3:
                loop.call_soon_threadsafe(seen.set)
            raise RuntimeError("a bug")

        file = ModelConfigFile("f", CoreHouse().core, prevails=False, read=read)
        task = asyncio.ensure_future(file.keep_fresh(0))
        await seen.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(follow())

    assert looks >= 3
