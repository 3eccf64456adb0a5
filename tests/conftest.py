"""What every test may ask for by name."""

from __future__ import annotations

import pytest

from certificates import Authority
from saved_models import Shelf


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Real SavedModels by name, each written once: ``shelf("half_plus_two")`` is a base path."""
    return Shelf(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates of a test run."""
    return Authority(tmp_path_factory.mktemp("authority"))
