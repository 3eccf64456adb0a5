"""``salver check``: words in, a report and an exit code out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fakes import FakeServe
from salver.cli import main
from salver.model_server.text_proto import MAX_FILE_BYTES

MODEL = 'name: "m" base_path: "{}" model_platform: "tensorflow"'


def run(*words: str) -> int:
    return main.run(["salver", "check", *words], environ={}, serve_models=FakeServe())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "m" / "3").mkdir(parents=True)
    path = tmp_path / "models.config"
    path.write_text(f"model_config_list {{ config {{ {MODEL.format(tmp_path / 'm')} }} }}\n")
    return path


def test_a_good_file_ends_with_0(file: Path, capsys: pytest.CaptureFixture[str]):
    """And says what it brings about."""
    code = run(str(file))

    assert code == 0
    assert capsys.readouterr().out == (
        f"{file}: ModelServerConfig\n"
        f"  m: the latest version in {file.parent / 'm'}; loads 3 of 3\n"
        "It can be served.\n"
    )


def test_a_bad_file_ends_with_1(file: Path, capsys: pytest.CaptureFixture[str]):
    """Each finding is a line that editors can jump to."""
    file.write_text("model_config_list {\n  config { nmae: 'm' }\n}\n")

    assert run(str(file), "--kind=model") == 1
    assert capsys.readouterr().out.splitlines()[1] == (
        f'{file}:2:12: error: Message type "tensorflow.serving.ModelConfig" has no field named '
        '"nmae". Did you mean "name"?'
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("pipe", "no regular file"),
        ("device", "no regular file"),
        ("folder", "Is a directory"),
        ("huge", "larger than 64 MiB"),
    ],
)
def test_what_need_not_end_is_not_read(
    file: Path, kind: str, text: str, capsys: pytest.CaptureFixture[str]
):
    """Nor waited for: it is told at once what it is."""
    other = file.with_name("other")
    if kind == "pipe":
        os.mkfifo(other)
    elif kind == "device":
        other.symlink_to("/dev/zero")
    elif kind == "folder":
        other.mkdir()
    else:
        with other.open("wb") as sparse:
            sparse.truncate(MAX_FILE_BYTES + 1)

    assert run(str(other)) == 1
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, ""])
def test_a_file_that_cannot_be_read_ends_with_1(
    file: Path, content: str | None, capsys: pytest.CaptureFixture[str]
):
    """One that is not there, and one that is empty."""
    file.unlink()
    if content is not None:
        file.write_text(content)

    assert run(str(file)) == 1
    assert f"{file}: error: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "it takes one file"),
        (("a", "b"), "it takes one file"),
        (("a", "--kind"), "--kind needs a value"),
        (("a", "--knid=model"), "there is no option --knid"),
    ],
)
def test_words_that_mean_nothing_end_with_2(
    words: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
):
    """With a hint."""
    assert run(*words) == 2
    assert complaint in capsys.readouterr().err


def test_a_kind_that_is_not_there_ends_with_2(file: Path, capsys: pytest.CaptureFixture[str]):
    """With those that are; the value may follow after a space."""
    assert run("--kind", "modle", str(file)) == 2
    assert "there are model, platform" in capsys.readouterr().err


def test_help_is_printed(capsys: pytest.CaptureFixture[str]):
    """With the kinds and the exit status."""
    assert run("--help") == 0
    assert "model, platform, batching" in capsys.readouterr().out
