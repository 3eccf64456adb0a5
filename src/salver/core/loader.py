"""The contract between the manager and whatever brings a version into memory."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

T_co = TypeVar("T_co", covariant=True)


class Loader(Protocol[T_co]):
    """Brings one version into memory and takes it out again.

    The manager calls one method at a time, from whichever thread does the work:
    ``estimate_resources``, then ``load`` until it succeeds, then ``servable``, then ``unload``.
    A load that raises leaves nothing behind and may be tried again; ``unload`` follows only a load
    that succeeded, exactly once, when no handle is left.  After it all may begin again.
    """

    def estimate_resources(self) -> int:
        """The memory in bytes that the loaded version will need."""

    def load(self) -> None:
        """Bring the version into memory; takes as long as it takes."""

    def unload(self) -> None:
        """Give everything back."""

    def servable(self) -> T_co:
        """What was loaded."""


@runtime_checkable
class Cancellable(Protocol):
    """What a loader may be besides: one whose load can end early."""

    def cancel(self) -> None:
        """End the load under way soon, with Cancelled, if there is one: nobody wishes for it.

        Called from another thread than the load; never blocks.  A load that comes after it counts.
        """
