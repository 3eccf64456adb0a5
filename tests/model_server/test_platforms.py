"""Which platforms a server has: those it was configured with, and those that are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes import FakeLoader
from installed_platforms import install
from salver.errors import InvalidArgument
from salver.model_server.config_check import check
from salver.model_server.model_config import model_configs
from salver.model_server.platforms import PlatformNames, Platforms
from salver.protos import config_pb2


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python imports from, with the platform ``abacus`` in it."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))
    return install(folder, "abacus", {"abacus": "abacus:platform"}, abacus="raise OSError")


def message(*platforms: str) -> config_pb2.ModelServerConfig:
    config = config_pb2.ModelServerConfig()
    for platform in platforms:
        listed = config.model_config_list.config
        listed.add(name=f"m{len(listed)}", base_path="/m", model_platform=platform)
    return config


def test_a_configuration_may_name_what_is_installed(site: Path):
    """Without its being imported: that one could not be."""
    configs = model_configs(message("tensorflow", "abacus"), PlatformNames({"tensorflow"}))

    assert configs is not None
    assert [config.platform for config in configs] == ["tensorflow", "abacus"]


def test_one_that_nobody_has_is_answered_with_those_there_are(site: Path):
    """TensorFlow Serving's words first."""
    with pytest.raises(
        InvalidArgument,
        match=r"Model m0 requests unsupported platform abbacus; there are: abacus, .*tensorflow",
    ):
        model_configs(message("abbacus"), PlatformNames({"tensorflow"}))


def test_a_platform_file_says_whether_there_is_tensorflow(site: Path):
    """It is all there is to know of SavedModels; what is installed needs no entry."""
    names = PlatformNames({"with_my_tags"})

    assert "tensorflow" not in names
    assert {"abacus", "with_my_tags"} <= set(names)
    assert "tensorflow" not in set(names)
    assert len(names) == len(list(names))


def test_what_is_not_text_is_no_platform():
    """Membership never raises."""
    assert 7 not in PlatformNames(set())


def test_loaders_are_made_by_what_was_configured_or_else_by_what_is_installed(site: Path):
    """Each name has its own."""

    def configured(_id, path):
        return FakeLoader(f"configured {path}")

    platforms = Platforms(
        {"tensorflow": configured},
        lambda name: lambda _id, path: FakeLoader(f"{name} {path}"),
    )

    made = {name: platforms[name](None, "/m").made.label for name in ("tensorflow", "abacus")}

    assert made == {"tensorflow": "configured /m", "abacus": "abacus /m"}
    assert "abacus" in platforms
    assert "abbacus" not in platforms
    assert len(platforms) == len(list(platforms))


def test_a_check_of_a_file_knows_what_is_installed(site: Path):
    """And says by which platform a model would be served."""
    text = b'model_config_list { config { name: "m" base_path: "/m" model_platform: "abacus" } }'

    report = check(text, list_children=lambda _path: ["1"])

    assert report.is_good
    assert report.honoured == ["m: the latest version in /m, by platform abacus; loads 1 of 1"]
