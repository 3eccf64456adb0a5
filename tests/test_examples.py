"""``make examples``: what its runner makes of examples that succeed, fail, crash or never end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from example_run import EXAMPLES, cells

ROOT = Path(__file__).parents[1]
PATIENCE_S = 60

HEADINGS = ["example", "exported with", "served by", "checked against", "error rate"]

GOOD = """
    from outcome import Outcome

    def run(workdir):
        (workdir / "model").write_text("trained")
        return Outcome("good", "a builder", "salver serve", "TensorFlow", "1.25%")
"""


@pytest.fixture
def folder(tmp_path: Path):
    """Writes examples by name, and gives the folder that holds them."""

    def write(**examples: str) -> Path:
        for name, content in examples.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "example.py").write_text(dedent(content))
        return tmp_path

    return write


def run(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """The status of the runner and the lines it prints; it holds the pipe until all has ended."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "run.py"), f"--folder={folder}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_every_example_has_its_rows_in_the_table(folder):
    """An example may report one outcome or several."""
    several = """
        from outcome import Outcome

        def run(workdir):
            return [Outcome(f"several {n}", "e", "s", "c", "0.00%") for n in (1, 2)]
    """
    status, lines = run(folder(good=GOOD, several=several))

    assert status == 0
    assert cells(lines[-5]) == HEADINGS
    assert [cells(line)[0] for line in lines[-3:]] == ["good", "several 1", "several 2"]
    assert cells(lines[-3]) == ["good", "a builder", "salver serve", "TensorFlow", "1.25%"]


def test_an_example_that_fails_is_named_and_the_others_still_run(folder):
    """The reason stands in one line, and the runner's status is 1."""
    failing = """
        def run(workdir):
            raise ValueError("3 answers are not TensorFlow's")
    """
    status, lines = run(folder(bad=failing, good=GOOD))

    assert status == 1
    assert lines[-1] == "FAILED bad: ValueError: 3 answers are not TensorFlow's"
    assert any(line.startswith("good ") and line.endswith("1.25%") for line in lines)
    assert any(line.startswith("bad ") and line.endswith("failed") for line in lines)


def test_what_an_example_complains_about_is_shown_only_if_it_fails(folder):
    """TensorFlow greets at every start; nobody wants to read that before they have to."""
    loud = "import sys\nprint('a greeting', file=sys.stderr)\n"
    _, calm = run(folder(good=loud + dedent(GOOD)))
    _, failed = run(folder(bad=loud + "def run(workdir):\n    raise ValueError\n"), "bad")

    assert "a greeting" not in calm
    assert "a greeting" in failed


def test_an_example_that_crashes_is_told_by_its_status(folder):
    """A process that dies takes nothing with it but its own row."""
    status, lines = run(folder(crash="import os\nos._exit(3)\n", good=GOOD))

    assert status == 1
    assert lines[-1] == "FAILED crash: its process ended with status 3 and without a word"


def test_an_example_that_never_ends_is_ended(folder):
    """Its time is bounded."""
    endless = """
        import threading

        def run(workdir):
            threading.Event().wait()
    """
    status, lines = run(folder(endless=endless), "--timeout=0.5")

    assert status == 1
    assert lines[-1] == "FAILED endless: not done after 0.5 s"


def test_no_process_of_an_example_outlives_it(folder):
    """A server that an example forgot is ended: it would hold the runner's output open."""
    forgetful = """
        import subprocess
        import sys
        from outcome import Outcome

        def run(workdir):
            subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
            return Outcome("forgetful", "e", "s", "c", "0.00%")
    """
    status, lines = run(folder(forgetful=forgetful))

    assert status == 0
    assert lines[-1].startswith("forgetful")


def test_examples_do_not_share_modules(folder):
    """Each sees its own ``client``, whatever the one before it imported."""
    content = """
        import client
        from outcome import Outcome

        def run(workdir):
            return Outcome(client.NAME, "e", "s", "c", "0.00%")
    """
    root = folder(one=content, two=content)
    for name in ("one", "two"):
        (root / name / "client.py").write_text(f"NAME = 'client of {name}'\n")

    status, lines = run(root)

    assert status == 0
    assert [line[:13] for line in lines[-2:]] == ["client of one", "client of two"]


def test_what_an_example_wrote_can_be_kept(folder, tmp_path: Path):
    """Its models stay, to be served again; a folder that is there already is left alone."""
    keep = f"--keep={tmp_path / 'kept'}"
    first, _ = run(folder(good=GOOD), keep)
    second, lines = run(tmp_path, keep)

    assert (first, second) == (0, 1)
    assert (tmp_path / "kept" / "good" / "model").read_text() == "trained"
    assert lines[-1].startswith("FAILED good: it needs a new folder: ")


def test_an_unknown_example_is_refused_with_the_known_ones(folder):
    """Nothing runs for a name that is mistyped."""
    status, lines = run(folder(good=GOOD), "god")

    assert status == 1
    assert lines == ["No example god; there are: good"]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/example.py")))
def test_every_example_stands_on_the_page_of_exports(name: str):
    """Whoever reads docs/exports.md finds each of them."""
    assert f"](../examples/{name})" in (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")
