"""What travels from a source to the manager: an id, and either something or the reason why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from salver.core.servable_id import ServableId
from salver.errors import ServingError

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)  # no slots: Python 3.11 cannot make a ServableData[str](…) with them
class ServableData(Generic[T_co]):
    """A version somebody wishes for: a path, a loader, or the error met on the way to one."""

    id: ServableId
    payload: T_co | None = None
    error: ServingError | None = None
    origin: str = field(default="", compare=False)
    """Where the version comes from, whatever form its payload has taken since."""

    def value(self) -> T_co:
        """The payload.

        Raises:
            ServingError: there is none, for this reason.
        """
        if self.error is not None:
            raise self.error
        return cast("T_co", self.payload)
