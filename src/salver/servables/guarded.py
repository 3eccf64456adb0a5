"""What stands between the server and a platform somebody else wrote: a loader and a servable.

Whatever their code raises becomes a ``ServingError`` with one line that says where it came from,
even what is meant to end a process or a task.  What a model claims of itself is checked once, when
it loads.  The runtimes that come with Salver do all that themselves, so their runs pay for nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from time import perf_counter
from typing import Final, Protocol, TypeVar

import numpy as np
from google.protobuf.message import DecodeError

import salver
from salver.core.loader import Cancellable, Loader
from salver.core.servable_id import ServableId
from salver.errors import (
    FailedPrecondition,
    Internal,
    ResourceExhausted,
    ServingError,
)
from salver.servables.memory import return_memory
from salver.servables.platform import (
    BUILT_IN,
    MakeLoader,
    PlatformContext,
    find_platform,
)
from salver.servables.servable import PreparedRun, Servable
from salver.signature import Signature, read_signature

logger = logging.getLogger(__name__)

MAX_WORDS: Final = 1000
"""Of what an exception says; a model may put its whole input into it."""

MAX_TRACEBACKS: Final = 16
"""Places of a version's code whose tracebacks are logged, each once."""

_OURS: Final = f"{PurePath(salver.__file__).parent}{os.sep}"

R = TypeVar("R")


class Observer(Protocol):
    """Who is told of loads.  Called from any thread."""

    def loaded(self, path: str, took_s: float) -> None:
        """A version was loaded."""

    def load_failed(self, path: str) -> None:
        """A version could not be loaded."""


class GuardedPlatform:
    """A platform, imported when the first of its models loads.  From any thread.

    ``make_loader`` is what a server or a model's own process calls.
    """

    def __init__(self, context: PlatformContext, observer: Observer | None = None) -> None:
        self._context = context
        self._observer = observer
        self._opening = threading.Lock()
        self._make: MakeLoader | None = None

    def make_loader(self, servable_id: ServableId, path: str) -> Loader[Servable]:
        """A loader for one version; nothing is imported or looked at yet."""
        return GuardedLoader(
            lambda: self._make_loader()(servable_id, path),
            self._context.name,
            servable_id,
            path,
            observer=self._observer,
        )

    def _make_loader(self) -> MakeLoader:
        """What the platform made of the context.  A failure is tried again with the next load."""
        with self._opening:
            if self._make is None:
                made = find_platform(self._context.name)(self._context)
                if not callable(made):
                    raise FailedPrecondition(
                        f"platform {self._context.name} made a {type(made).__name__} of its "
                        "PlatformContext; it must return what makes loaders"
                    )
                self._make = made
            return self._make


class GuardedLoader:
    """A loader around a platform's, which is made when it is first needed: on a load's thread.

    The manager calls it, one call at a time; ``cancel`` alone may come from another thread.
    """

    def __init__(
        self,
        make: Callable[[], Loader[Servable]],
        platform: str,
        servable_id: ServableId,
        path: str,
        *,
        observer: Observer | None = None,
    ) -> None:
        self._make = make
        self._platform = platform
        self._id = servable_id
        self._path = path
        self._observer = observer
        self._loader: Loader[Servable] | None = None

    def estimate_resources(self) -> int:
        """The platform's estimate of the bytes that the version will need."""
        return _guarded(lambda: _bytes(self._made().estimate_resources()), self._doing("estimate"))

    def load(self) -> None:
        """Load the version, and count that."""
        started = perf_counter()
        try:
            _guarded(lambda: self._made().load(), self._doing("load"))
        except ServingError:
            self._loader = None
            if self._observer is not None:
                self._observer.load_failed(self._path)
            raise
        if self._observer is not None:
            self._observer.loaded(self._path, perf_counter() - started)

    def cancel(self) -> None:
        """End a load under way, where the platform's loader can."""
        loader = self._loader
        if isinstance(loader, Cancellable):
            _guarded(loader.cancel, self._doing("cancel"))

    def unload(self) -> None:
        """Unload the version and let go of its loader."""
        loader, self._loader = self._loader, None
        if loader is None:
            return
        _guarded(loader.unload, self._doing("unload"))
        if self._platform not in BUILT_IN:
            del loader
            return_memory()

    def servable(self) -> Servable:
        """What was loaded; around what others wrote there is a guard."""
        loaded = _guarded(lambda: self._made().servable(), self._doing("load"))
        if self._platform in BUILT_IN:
            return loaded
        return _guarded(lambda: GuardedServable(loaded, str(self._id)), self._doing("load"))

    def _made(self) -> Loader[Servable]:
        if self._loader is None:
            self._loader = self._make()
        return self._loader

    def _doing(self, verb: str) -> str:
        return f"platform {self._platform} could not {verb} {self._id}"


class GuardedServable:
    """A servable around one that somebody else wrote (the contract is ``servable.Servable``)."""

    __slots__ = ("_guard", "_servable", "predictable", "signature_defs", "signatures")

    def __init__(self, servable: Servable, title: str) -> None:
        """Check what the servable says of itself, which holds from now on.

        Raises:
            FailedPrecondition: it does not keep to the contract.
        """
        self._servable = servable
        self._guard = RunGuard(f"model {title} failed")
        self.signatures: Mapping[str, Signature] = dict(servable.signatures)
        self.signature_defs: Mapping[str, bytes] = dict(servable.signature_defs)
        self.predictable = bool(servable.predictable)
        _check_signatures(self.signatures, self.signature_defs)

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        """As the servable's; what it raises is a ServingError."""
        try:
            results = self._servable.run(feeds, fetches, timeout_s=timeout_s)
        except BaseException as error:  # noqa: BLE001 - a model may raise anything
            raise self._guard.told(error) from None
        return _checked(results, fetches)

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        """As the servable's; what a run raises is a ServingError."""
        guard = self._guard
        try:
            prepared = self._servable.prepare(feeds, fetches)
        except BaseException as error:  # noqa: BLE001 - a model may raise anything
            raise guard.told(error) from None

        def run(tensors: Sequence[np.ndarray], timeout_s: float | None) -> list[np.ndarray]:
            try:
                results = prepared(tensors, timeout_s)
            except BaseException as error:  # noqa: BLE001 - a model may raise anything
                raise guard.told(error) from None
            return _checked(results, fetches)

        return run


class RunGuard:
    """Turns what a model's runs raise into ``ServingError``s, from any thread.

    The first traceback from each place of its code is logged, and the others are not: a model may
    fail at every request.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._told: set[tuple[str, str]] = set()

    def told(self, error: BaseException) -> ServingError:
        """The error to raise for ``error``, which is itself if it is one of ours."""
        if isinstance(error, ServingError):
            return error
        key = (type(error).__name__, place_of(error))
        if key not in self._told and len(self._told) < MAX_TRACEBACKS:
            self._told.add(key)
            logger.error("%s; the next times without a traceback", self._doing, exc_info=error)
        return as_serving_error(error, self._doing)


def load_version(context: PlatformContext, servable_id: ServableId, path: str) -> Servable:
    """Load one version for good: in a process that ends with it."""
    loader = GuardedPlatform(context).make_loader(servable_id, path)
    loader.load()
    return loader.servable()


def as_serving_error(error: BaseException, doing: str) -> ServingError:
    """One line for something that was raised by code that is not ours."""
    if isinstance(error, ServingError):
        return error
    words = " ".join(str(error).split())[:MAX_WORDS]
    line = f"{doing}: {type(error).__name__}{': ' if words else ''}{words}"
    if place := place_of(error):
        line = f"{line} ({place})"
    return ResourceExhausted(line) if isinstance(error, MemoryError) else Internal(line)


def place_of(error: BaseException) -> str:
    """File and line of the first code that is not ours, as deep as that file was gone into."""
    places = [
        (frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    theirs = [(file, line) for file, line in places if not file.startswith(_OURS)]
    if not theirs:
        return ""
    file, line = [place for place in theirs if place[0] == theirs[0][0]][-1]
    return f"{PurePath(file).name}:{line}"


def _guarded(call: Callable[[], R], doing: str) -> R:
    try:
        return call()
    except ServingError:
        raise
    except BaseException as error:
        logger.exception("%s", doing)
        raise as_serving_error(error, doing) from error


def _bytes(estimate: object) -> int:
    if isinstance(estimate, int) and estimate >= 0:
        return estimate
    raise FailedPrecondition(f"an estimate is a number of bytes, not {estimate!r}")


def _checked(results: object, fetches: Sequence[str]) -> list[np.ndarray]:
    if type(results) is list and len(results) == len(fetches):
        for result in results:
            if not isinstance(result, np.ndarray):
                break
        else:
            return results
    raise Internal(f"the model did not return a list of {len(fetches)} arrays")


def _check_signatures(
    signatures: Mapping[str, Signature], definitions: Mapping[str, bytes]
) -> None:
    if set(signatures) != set(definitions):
        raise FailedPrecondition(
            f"it has signatures for {sorted(signatures)} and signature_defs for "
            f"{sorted(definitions)}; both must have the same names"
        )
    for name, definition in definitions.items():
        try:
            same = read_signature(definition).inputs.keys() == signatures[name].inputs.keys()
        except (DecodeError, TypeError) as error:
            raise FailedPrecondition(
                f"the signature_def of {name} is no serialized tensorflow.SignatureDef: {error}"
            ) from error
        if not same:
            raise FailedPrecondition(f"signature {name} has other inputs than its signature_def")
