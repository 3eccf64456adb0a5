"""What every test may ask for by name."""

from __future__ import annotations

import pytest

from saved_models import Shelf


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Real SavedModels by name, each written once: ``shelf("half_plus_two")`` is a base path."""
    return Shelf(tmp_path_factory.mktemp("models"))
