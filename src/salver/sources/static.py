"""A source that wishes for one version, once: for tests, tools and images with a model inside."""

from __future__ import annotations

from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.source import Target


class StaticSource:
    """Aspires one version, found at one path, when it is started."""

    def __init__(self, servable_id: ServableId, path: str, target: Target[str]) -> None:
        self._data = ServableData(servable_id, path)
        self._target = target

    def start(self) -> None:
        """Tell the target, on this thread."""
        self._target.set_aspired_versions(self._data.id.name, [self._data])

    def stop(self) -> None:
        """Nothing to end: all was said at the start."""
