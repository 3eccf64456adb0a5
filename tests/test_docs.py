"""What the documentation says is so: its examples work, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from importlib import metadata
from pathlib import Path
from textwrap import dedent

import pytest

from salver.cli.show import OPTIONS
from salver.model_server.options import ROW_BY_NAME
from saved_models import Shelf, tensorflow
from server_process import ServerProcess
from walkthrough import Reader, curl

ROOT = Path(__file__).parents[1]

PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "examples", "benchmarks")
    for page in (ROOT / folder).glob("**/*.md" if folder != "." else "*.md")
)

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--([a-z0-9]+(?:_[a-z0-9]+)+)")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def test_the_tutorial_is_true_from_the_first_line_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whoever types what the tutorial says gets the answers it shows."""
    pytest.importorskip("tensorflow_serving", reason="the tutorial's client uses its stubs")
    tensorflow()
    monkeypatch.chdir(tmp_path)

    with Reader(tmp_path, folder_on_page="/tmp/salver-tutorial") as reader:  # noqa: S108
        reader.follow(read("docs/tutorial.md"))


def test_the_readmes_example_works_as_printed(shelf: Shelf):
    """The command of the README starts a server, and the request below it is answered like that."""
    readme = read("README.md")
    serve = re.search(r"^    salver serve (.*)$", readme, re.MULTILINE)
    example = re.search(r"^    (curl .*)\n((?:    .*\n)+)", readme, re.MULTILINE)
    assert serve
    assert example

    flags = serve[1].replace("/models/half_plus_two", str(shelf("half_plus_two")))
    with ServerProcess(*shlex.split(flags), command=("salver", "serve")) as server:
        server.wait_until_started()
        request = example[1].replace("localhost:8501", f"127.0.0.1:{server.rest_port}")
        answer = curl(shlex.split(request)[1:])

    assert answer == dedent(example[2]).rstrip("\n")


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_what_a_page_installs_is_there_to_install(page: str):
    """The extra in brackets behind every ``pip install`` exists."""
    extras = re.findall(r"pip install .*\[([\w-]+)\]", read(page))

    assert extras
    assert set(extras) <= set(metadata.metadata("salver").get_all("Provides-Extra"))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_what_a_page_makes_can_be_made(page: str):
    """Every ``make`` at the start of a line names a target of the Makefile."""
    wanted = set(re.findall(r"^    make ([\w-]+)", read(page), re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))

    assert wanted
    assert wanted <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str):
    """A relative link names a file that is there, and a heading in it if it names one."""
    lost = [link for link in LINK.findall(read(page)) if not leads_somewhere(page, link)]

    assert lost == []


def leads_somewhere(page: str, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return True  # the web is somebody else's
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    if not target.exists():
        return False
    return not anchor or anchor in map(anchor_of, HEADING.findall(target.read_text("utf-8")))


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_every_option_a_page_names_exists(page: str):
    """No page promises a flag that the server, or ``salver show``, would not know."""
    known = {*ROW_BY_NAME, *OPTIONS}
    unknown = {name for name in FLAG.findall(read(page)) if name not in known}

    assert unknown == set()
