"""What a loaded version goes through before anybody may ask it: a loader around a loader.

A rehearsal asks the version something on the thread that loads it, never on the event loop.  If it
raises, the version is unloaded again and the load has failed, to be tried anew like any other.  A
version that nobody wishes for any more stops at the next request of its rehearsal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from salver.apis.tfrecord import unreadable
from salver.core.loader import Cancellable, Loader
from salver.core.servable_id import ServableId
from salver.errors import Cancelled, DeadlineExceeded, ServingError
from salver.servables.servable import Servable

logger = logging.getLogger(__name__)

EXTRA_ASSETS: Final = "assets.extra"
"""The folder of a version for what is neither graph nor variables."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that is loaded, and not to be seen yet."""

    id: ServableId
    path: Path
    servable: Servable

    def extra_asset(self, name: str) -> Path | None:
        """The path of a file in the version's extra assets, or None if there is none.

        Raises:
            ServingError: whether there is one cannot be told.
        """
        path = self.path / EXTRA_ASSETS / name
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        return path


class Pace:
    """How long a rehearsal may go on, asked before each of its requests."""

    def __init__(
        self,
        is_cancelled: Callable[[], bool] = lambda: False,
        *,
        timeout_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_cancelled = is_cancelled
        self._timeout_s = timeout_s
        self._clock = clock
        self._started_s = clock()

    def left_s(self) -> float | None:
        """The seconds that are left; None where there is no limit.

        Raises:
            Cancelled: nobody wishes for the version any more.
            DeadlineExceeded: none are left.
        """
        if self._is_cancelled():
            raise Cancelled("Loading of servable cancelled")
        if self._is_over():
            raise DeadlineExceeded(f"the {self._timeout_s:g} s of warmup_timeout_seconds are over")
        return self._timeout_s - self._elapsed_s() if self._timeout_s > 0 else None

    def cut_short(self, error: ServingError) -> bool:
        """Whether a request failed for want of time, before it began or in its run."""
        return isinstance(error, DeadlineExceeded) and self._is_over()

    def _is_over(self) -> bool:
        return 0 < self._timeout_s <= self._elapsed_s()

    def _elapsed_s(self) -> float:
        return self._clock() - self._started_s


class Rehearsal(Protocol):
    """Something to ask of a version.  Called on the thread that loads it."""

    def __call__(self, candidate: Candidate, pace: Pace) -> None:
        """Ask it; ``pace.left_s()`` comes before each request.

        Raises:
            ServingError: the version must not serve.
        """


class RehearsingLoader:
    """Loads a version and rehearses it.  The manager calls it, one call at a time.

    ``cancel`` alone comes from another thread than the load that it ends.
    """

    def __init__(
        self,
        loader: Loader[Servable],
        servable_id: ServableId,
        path: Path,
        rehearsals: Sequence[Rehearsal],
        *,
        timeout_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loader = loader
        self._id = servable_id
        self._path = path
        self._rehearsals = rehearsals
        self._timeout_s = timeout_s
        self._clock = clock
        self._is_cancelled = False
        self._is_rehearsing = False

    def estimate_resources(self) -> int:
        """As the loader's: a rehearsal takes what requests will take anyway."""
        return self._loader.estimate_resources()

    def load(self) -> None:
        """Load the version and rehearse it; if that fails nothing stays behind."""
        self._is_cancelled = False
        self._loader.load()
        self._is_rehearsing = True
        try:
            self._rehearse(self._loader.servable())
        except BaseException:
            self._loader.unload()
            raise
        finally:
            self._is_rehearsing = False

    def cancel(self) -> None:
        """End the load under way, if there is one, before its next request."""
        self._is_cancelled = True
        if self._is_rehearsing:
            logger.info("Servable %s is withdrawn: its warmup ends", self._id)
        if isinstance(self._loader, Cancellable):
            self._loader.cancel()

    def unload(self) -> None:
        """Unload the version."""
        self._loader.unload()

    def servable(self) -> Servable:
        """As the loader's."""
        return self._loader.servable()

    def _rehearse(self, servable: Servable) -> None:
        candidate = Candidate(self._id, self._path, servable)
        pace = Pace(lambda: self._is_cancelled, timeout_s=self._timeout_s, clock=self._clock)
        for rehearsal in self._rehearsals:
            rehearsal(candidate, pace)
