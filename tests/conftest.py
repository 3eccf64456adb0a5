"""What every test may ask for by name."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from certificates import Authority
from saved_models import Shelf
from session_bundles import BundleShelf
from tflite_models import LiteShelf

# No example has a deadline: a busy machine is not a bug.  Where a change has to pass, the examples
# are the same each time; everywhere else they are new ones.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# The examples would fetch MNIST, and no traffic of a test leaves the machine.
os.environ["SALVER_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Real SavedModels by name, each written once: ``shelf("half_plus_two")`` is a base path."""
    return Shelf(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def bundle_shelf(tmp_path_factory: pytest.TempPathFactory) -> BundleShelf:
    """Legacy SessionBundles by name, each written once."""
    return BundleShelf(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def lite_shelf(tmp_path_factory: pytest.TempPathFactory) -> LiteShelf:
    """TensorFlow Lite models by name, all written when the first is asked for."""
    return LiteShelf(tmp_path_factory.mktemp("lite"))


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates of a test run."""
    return Authority(tmp_path_factory.mktemp("authority"))
