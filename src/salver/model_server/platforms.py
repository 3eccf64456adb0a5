"""The platforms of one server: those it was configured with, and those that are installed.

``tensorflow`` is as flags or ``platform_config_file`` describe it, and so is whatever else that
file lists.  Any other name is looked up among what is installed when a configuration names it, and
not before; code of a platform runs when a model of it loads, on the thread of that load.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from salver.model_server.model_config import TENSORFLOW_PLATFORM
from salver.servables.platform import MakeLoader, installed_platforms, is_installed


class PlatformNames(Collection[str]):
    """What a model's platform may be called.  ``in`` looks one name up; a loop lists them all.

    From any thread.  A package that is installed while the server runs is found.
    """

    def __init__(self, configured: Collection[str]) -> None:
        self._configured = configured

    def __contains__(self, name: object) -> bool:
        """Whether a model may ask for ``name``."""
        if name in self._configured:
            return True
        return isinstance(name, str) and name != TENSORFLOW_PLATFORM and is_installed(name)

    def __iter__(self) -> Iterator[str]:
        """All names, in order."""
        others = {name for name in installed_platforms() if name != TENSORFLOW_PLATFORM}
        return iter(sorted(others.union(self._configured)))

    def __len__(self) -> int:
        """How many there are."""
        return len(list(iter(self)))


class Platforms(Mapping[str, MakeLoader]):
    """What makes the loaders of each platform; made when a configuration names it."""

    def __init__(
        self, configured: Mapping[str, MakeLoader], make: Callable[[str], MakeLoader]
    ) -> None:
        """``make`` is for the platforms that are installed, and not configured."""
        self._names = PlatformNames(configured)
        self._configured = configured
        self._make = make

    def __getitem__(self, name: str) -> MakeLoader:
        """What makes the loaders of platform ``name``.

        Should it be gone since a configuration was checked, the loads say so.
        """
        return self._configured.get(name) or self._make(name)

    def __contains__(self, name: object) -> bool:
        """Whether there is such a platform."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """All names, in order."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)
