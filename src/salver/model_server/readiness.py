"""Whether the server is to be sent requests: its own phase, and each model's part in it.

Asked and waited on from the event loop; told of news from any thread.
No state of a model is kept here: every question goes to the models anew, so no answer is stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from typing import Protocol


class Phase(Enum):
    """The life of a server, as those who send it requests see it; the value is what they read."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Models(Protocol):
    """What readiness needs of the server core, from any thread."""

    def names(self) -> Sequence[str]:
        """The models that are to be served."""

    def is_available(self, name: str) -> bool:
        """Whether a version of the model is ready."""

    def waiting_for(self) -> list[str]:
        """The models of which no version is ready or has ended."""


class Readiness:
    """Says who is ready, and when to ask again.

    It begins as STARTING; ``started`` and ``drain`` are called once each, on the event loop.
    """

    def __init__(self, models: Models, loop: asyncio.AbstractEventLoop) -> None:
        self._models = models
        self._loop = loop
        self._phase = Phase.STARTING
        self._news = asyncio.Event()

    @property
    def phase(self) -> Phase:
        """Where the server stands."""
        return self._phase

    def is_ready(self) -> bool:
        """Whether the first load is over and the end has not begun.

        A model that failed to load, or comes later, takes nothing away from the others.
        """
        return self._phase is Phase.SERVING

    def waiting_for(self) -> list[str]:
        """The models that have neither become ready nor failed."""
        return self._models.waiting_for()

    def model_names(self) -> Sequence[str]:
        """The models that are to be served, ready or not."""
        return self._models.names()

    def is_model_ready(self, name: str) -> bool:
        """Whether a version of the model answers; other models may still be loading."""
        return self._phase is not Phase.DRAINING and self._models.is_available(name)

    def news(self) -> asyncio.Event:
        """What the next change sets: take it first, then ask, then wait, and no change is lost."""
        return self._news

    def started(self) -> None:
        """Every model of the start is ready or has failed."""
        if self._phase is Phase.STARTING:
            self._phase = Phase.SERVING
        self._wake()

    def drain(self) -> None:
        """Nothing more is to be sent here."""
        self._phase = Phase.DRAINING
        self._wake()

    def models_changed(self) -> None:
        """Something became of a model; called from any thread, and after the loop's end too."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
