"""The door for platforms: entry points by name, and what is wrong with them in one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fakes import FakeLoader
from installed_platforms import install
from salver.core.servable_id import ServableId
from salver.errors import FailedPrecondition, InvalidArgument
from salver.servables.platform import (
    BUILT_IN,
    GROUP,
    PlatformContext,
    find_platform,
    installed_platforms,
    is_installed,
    version_bytes,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python imports from."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_the_table_says_what_the_package_says():
    """Salver's own platforms stand in the group like everybody's; the table only saves a look."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition(f'[project.entry-points."{GROUP}"]')[2].partition("\n[")[0]
    points = dict(re.findall(r'^([\w-]+) = "([^"]+)"$', section, re.MULTILINE))

    assert points == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_platform_of_salvers_own_can_be_had(name: str):
    """Each target of the table is something to call."""
    make_loader = find_platform(name)(PlatformContext(name))

    assert callable(make_loader)


def test_a_built_in_platform_is_found_without_a_look_at_what_is_installed():
    """Finding TensorFlow's imports no ``importlib.metadata``, which is slow."""
    code = """
import sys
from salver.servables.platform import find_platform, is_installed
assert is_installed("tensorflow") and callable(find_platform("tensorflow"))
print("importlib.metadata" in sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def test_a_platform_is_there_as_soon_as_it_is_installed(site: Path):
    """An entry point is found by its name, and imported only when it is asked for."""
    before = is_installed("early_bird")
    install(site, "birds", {"early_bird": "early_bird:platform"}, early_bird="platform = print")

    assert (before, is_installed("early_bird")) == (False, True)
    assert {"early_bird", *BUILT_IN} <= set(installed_platforms())
    assert "early_bird" not in sys.modules
    assert find_platform("early_bird") is print


def test_a_target_may_lie_deeper_and_name_extras(site: Path):
    """As entry points may: ``module:object.attribute [extra]``."""
    code = "class Made:\n    platform = print"
    install(
        site, "nested", {"nested": "nested_platform:Made.platform [fast]"}, nested_platform=code
    )

    assert find_platform("nested") is print


def test_an_unknown_name_is_answered_with_those_there_are(site: Path):
    """Whoever mistyped one sees the right one."""
    install(site, "hats", {"top_hat": "hats:platform"})

    with pytest.raises(InvalidArgument, match=r"no platform tophat; installed are .*top_hat"):
        find_platform("tophat")


def test_two_packages_with_one_name_are_refused(site: Path):
    """Which one is meant is not ours to guess."""
    install(site, "one-package", {"twin": "twin_one:platform"}, twin_one="platform = print")
    install(site, "other-package", {"twin": "twin_other:platform"}, twin_other="platform = print")

    with pytest.raises(
        FailedPrecondition, match=r"twin_one:platform and twin_other:platform.*one-package"
    ):
        find_platform("twin")


def test_nobody_takes_the_place_of_a_built_in_platform(site: Path):
    """A package that claims one of their names is not asked."""
    install(site, "thief", {"tensorflow": "thief:platform"}, thief="raise SystemExit")

    assert find_platform("tensorflow").__module__ == "salver.servables.tensorflow"


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("", "has no attribute 'platform'"),
        ("platform = 7", "is of type int, which cannot be called"),
    ],
)
def test_one_that_cannot_be_used_says_why(site: Path, code: str, complaint: str):
    """Whatever its import does, it is an error of that platform."""
    name = f"broken_{abs(hash(code))}"
    install(site, "broken", {"broken": f"{name}:platform"}, **{name: code})

    with pytest.raises(FailedPrecondition, match=re.escape(complaint)):
        find_platform("broken")


def test_a_platform_can_have_the_loaders_of_another(site: Path):
    """The other is told what this one was told, under its own name."""
    told: list[PlatformContext] = []
    install(site, "inner", {"inner": "inner_platform:platform"}, inner_platform="")
    import inner_platform

    def platform(context: PlatformContext):
        told.append(context)
        return lambda _id, path: FakeLoader(path)

    inner_platform.platform = platform
    outer = PlatformContext("outer", tags=("a",), session_config=b"\x10\x01")

    loader = outer.make_loader("inner")(ServableId("m", 1), "/m/1")

    assert isinstance(loader, FakeLoader)
    assert told == [PlatformContext("inner", tags=("a",), session_config=b"\x10\x01")]


def test_a_version_weighs_what_its_files_weigh(tmp_path: Path):
    """In a folder or as a file; what is not there weighs nothing."""
    (tmp_path / "deeper").mkdir()
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "deeper" / "b").write_bytes(b"345")

    found = [version_bytes(str(tmp_path / name)) for name in ("", "a", "nothing")]

    assert found == [5, 2, 0]
