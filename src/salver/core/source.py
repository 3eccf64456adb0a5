"""Who wishes for versions, who is told, and what stands between them.

A source says which versions of a servable should exist; what it leaves out is to go.
Wishes are whole lists, so the newest one is all a target ever has to know.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.errors import ServingError, Unknown, error_for

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
In = TypeVar("In")
Out = TypeVar("Out")


class Target(Protocol[T_contra]):
    """Whoever wants to know which versions are wished for. Called from any source's thread."""

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[T_contra]]) -> None:
        """Take the whole list of versions wished for of ``name``; one left out is to go.

        Saying the same again changes nothing.
        """


class Source(Protocol):
    """Whoever knows which versions should exist, and tells the target it was made with."""

    def start(self) -> None:
        """Begin to tell the target."""

    def stop(self) -> None:
        """Fall silent; what was wished for stays wished for."""


class SourceAdapter(Generic[In, Out]):
    """A target that hands every wish on in another form: a path becomes a loader.

    A conversion that raises costs its own version only, which travels on as that error.
    """

    def __init__(self, convert: Callable[[ServableId, In], Out], target: Target[Out]) -> None:
        self._convert = convert
        self._target = target

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[In]]) -> None:
        """Convert each version and tell the next target."""
        self._target.set_aspired_versions(name, [self._converted(data) for data in versions])

    def _converted(self, data: ServableData[In]) -> ServableData[Out]:
        try:
            given = data.value()
            converted = self._convert(data.id, given)
            return ServableData(data.id, converted, origin=data.origin or str(given))
        except ServingError as error:
            # A fresh error: the caught one holds on to this frame and everything in it.
            return ServableData(data.id, error=error_for(error.code, error.message))
        except Exception as error:
            logger.exception("Converting the source data of servable %s failed", data.id)
            return ServableData(data.id, error=Unknown(f"{type(error).__name__}: {error}"))


class ErrorInjectingAdapter(Generic[In, Out]):
    """A target that hands every version on as the same error: where unrouted servables end."""

    def __init__(self, error: ServingError, target: Target[Out]) -> None:
        self._error = error
        self._target = target

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[In]]) -> None:
        """Tell the next target of every version that it cannot be had."""
        failed: list[ServableData[Out]] = [
            ServableData(data.id, error=self._error) for data in versions
        ]
        self._target.set_aspired_versions(name, failed)


class SourceRouter(Generic[T]):
    """A target that sends each servable to a target of its own, chosen by name.

    The table is replaced whole while sources are talking; a name it lacks goes to ``unrouted``.
    """

    def __init__(
        self,
        unrouted: Target[T],
        routes: Mapping[str, Target[T]] = MappingProxyType({}),
    ) -> None:
        self._unrouted = unrouted
        self._routes = dict(routes)

    def update_routes(self, routes: Mapping[str, Target[T]]) -> None:
        """Replace the whole table; it holds from the next wish on."""
        self._routes = dict(routes)

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[T]]) -> None:
        """Hand the wish to the target of its name."""
        self._routes.get(name, self._unrouted).set_aspired_versions(name, versions)
