"""A version served from a process of its own: a crash there is that version's alone.

    STARTING ─▶ SERVING
        │ ▲        │
        ▼ │        ▼
       WAITING ◀───┘         and from each of them to CLOSED

A process that dies is followed by another, later each time it dies again soon.  Until that one has
loaded, calls are refused at once, with the reason and the time.  The signatures stay what they were
at the first load.  Nothing here runs on an event loop, and nothing waits without a bound but a run
that came without a deadline.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np

from salver.core.retries import Backoff
from salver.errors import (
    Cancelled,
    FailedPrecondition,
    Internal,
    NotFound,
    ServingError,
    Unavailable,
)
from salver.servables.isolated_messages import write_names
from salver.servables.isolated_process import WorkerProcess
from salver.servables.servable import PreparedRun
from salver.signature import Signature, read_signature

logger = logging.getLogger(__name__)

_LINES_LOGGED: Final = 20
"""Of what a process wrote before it died; all of it was logged when it was written."""


class Phase(Enum):
    """Where a version in a process of its own stands."""

    STARTING = auto()
    """A process is loading."""
    SERVING = auto()
    """It answers."""
    WAITING = auto()
    """It died; another one is to be started later."""
    CLOSED = auto()
    """Unloaded."""


class Event(Enum):
    """What can happen to it."""

    LOADED = auto()
    DIED = auto()
    DUE = auto()
    CLOSE = auto()


TRANSITIONS: Final[Mapping[Phase, Mapping[Event, Phase]]] = MappingProxyType(
    {
        Phase.STARTING: {
            Event.LOADED: Phase.SERVING,
            Event.DIED: Phase.WAITING,
            Event.CLOSE: Phase.CLOSED,
        },
        Phase.SERVING: {Event.DIED: Phase.WAITING, Event.CLOSE: Phase.CLOSED},
        Phase.WAITING: {Event.DUE: Phase.STARTING, Event.CLOSE: Phase.CLOSED},
        Phase.CLOSED: {},
    }
)


RESTARTS: Final = Backoff(first_s=0.1, longest_s=30.0)

FORGIVEN_AFTER_S: Final = 60.0
"""A process that served so long has made good for all that died before it."""


class Observer(Protocol):
    """Who is told what becomes of the processes.  Called from any thread."""

    def started(self, took_s: float) -> None:
        """A process has loaded its version and serves it."""

    def start_failed(self) -> None:
        """A process could not load its version."""

    def died(self, how: str) -> None:
        """A process that served is gone; another one will be started."""


class IsolatedServable:
    """One version in a process of its own (the contract is ``servable.Servable``).

    ``start`` it once; ``cancel`` may end that early, and ``close`` follows only a start that
    succeeded.
    """

    predictable: Final = False
    """A call may wait for the other process, which must not be felt by an event loop."""

    def __init__(
        self,
        title: str,
        make_process: Callable[[], WorkerProcess],
        observer: Observer,
        *,
        backoff: Backoff | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._title = title
        self._make_process = make_process
        self._observer = observer
        self._backoff = backoff or RESTARTS
        self._chance = chance
        self._news = threading.Condition()
        self._phase = Phase.STARTING
        self._is_cancelled = False
        self._why = ""
        self._due_s = self._serving_since_s = self._load_took_s = 0.0
        self._deaths = 0
        self._process: WorkerProcess | None = None
        self._signature_defs: dict[str, bytes] = {}
        self._signatures: dict[str, Signature] = {}
        self._supervisor = threading.Thread(
            target=self._supervise, name=f"salver-isolated {title}", daemon=True
        )

    def start(self) -> None:
        """Start the first process and wait until it has loaded.

        Raises:
            Cancelled: ``cancel`` was called.
            ServingError: it could not load, for this reason; nothing is left behind.
        """
        try:
            process = self._made_process()
            self._signature_defs = self._load(process)
        except ServingError:
            if self._is_cancelled:
                raise Cancelled("Loading of servable cancelled") from None
            raise
        try:
            self._signatures = {
                name: read_signature(definition)
                for name, definition in self._signature_defs.items()
            }
            self._serving_since_s = monotonic()
            self._advance(Event.LOADED)
            self._observer.started(self._load_took_s)
            self._supervisor.start()
        except BaseException:
            process.end()
            raise

    def cancel(self) -> None:
        """End a start under way; never blocks."""
        with self._news:
            self._is_cancelled = True
            process = self._process
        if process is not None:
            process.kill("nobody wishes for the model any more")

    def _made_process(self) -> WorkerProcess:
        """The first process, unless it is too late for one."""
        if self._is_cancelled:
            raise Unavailable("there is no need for a process any more")
        process = self._make_process()
        with self._news:
            self._process = process
        if self._is_cancelled:
            process.kill("nobody wishes for the model any more")
        return process

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Every signature, by name."""
        return self._signatures

    @property
    def signature_defs(self) -> Mapping[str, bytes]:
        """Every signature as it was exported."""
        return self._signature_defs

    @property
    def phase(self) -> Phase:
        """Where it stands."""
        return self._phase

    @property
    def pid(self) -> int | None:
        """The id of the newest process."""
        return None if self._process is None else self._process.pid

    @property
    def trouble(self) -> ServingError | None:
        """Why it cannot answer just now; None when it can."""
        with self._news:
            return None if self._phase is Phase.SERVING else self._refusal()

    def wait_until(self, claim: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something is true, which is asked at each change of phase; whether it is."""
        with self._news:
            return self._news.wait_for(claim, timeout_s)

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        """Feed and fetch tensors by graph name, once.

        Raises:
            Unavailable: the process died, or is being followed by another.
            ServingError: what the runtime says.
        """
        return self._run(write_names(tuple(feeds), fetches), list(feeds.values()), timeout_s)

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        """What ``run`` does for these names, to be called again and again with other tensors."""
        return partial(self._run, write_names(feeds, fetches))

    def close(self) -> None:
        """End the process and wait until it is gone."""
        with self._news:
            was_serving = self._phase is Phase.SERVING
            self._advance(Event.CLOSE)
            process = self._process
        if process is not None:
            if not was_serving:
                process.kill("the model was unloaded")
            process.end()
        self._supervisor.join()

    def _run(
        self, names: bytes, tensors: Sequence[np.ndarray], timeout_s: float | None
    ) -> list[np.ndarray]:
        process = self._process
        if self._phase is not Phase.SERVING and (trouble := self.trouble) is not None:
            raise trouble
        assert process is not None  # noqa: S101 - it serves
        return process.run(names, tensors, timeout_s)

    # The supervisor's thread.

    def _supervise(self) -> None:
        process = self._process
        while process is not None:
            process.wait()
            self._note_death(process)
            process = self._another_process()

    def _another_process(self) -> WorkerProcess | None:
        """The process that serves next, however often one has to be started; None at the end."""
        while self._phase is not Phase.CLOSED:
            process = self._next_process()
            if process is not None and self._serves(process):
                return process
        return None

    def _note_death(self, process: WorkerProcess) -> None:
        with self._news:
            if self._phase is Phase.CLOSED:
                return
            if monotonic() - self._serving_since_s >= FORGIVEN_AFTER_S:
                self._deaths = 0
            self._wait_after(f"its process {process.ending}")
        lines = list(process.last_lines)[-_LINES_LOGGED:]
        logger.error(
            "The process %d of model %s %s%s",
            process.pid,
            self._title,
            process.ending,
            "".join(f"\n    {line}" for line in lines),
        )
        self._observer.died(process.ending)

    def _serves(self, process: WorkerProcess) -> bool:
        """Let a process load; whether it serves now."""
        try:
            self._check_same(process, self._load(process))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next try follows
            self._note_failure(error)
            return False
        with self._news:
            if self._phase is Phase.CLOSED:
                return False  # and ``close`` ends the process
            self._serving_since_s = monotonic()
            self._advance(Event.LOADED)
        self._observer.started(self._load_took_s)
        logger.info("Model %s is served again, by process %d", self._title, process.pid)
        return True

    def _next_process(self) -> WorkerProcess | None:
        """A process, when it is time; None if there cannot be one, or need not."""
        with self._news:
            left_s = self._due_s - monotonic()
            if self._news.wait_for(lambda: self._phase is Phase.CLOSED, max(left_s, 0.0)):
                return None
            self._advance(Event.DUE)
        try:
            process = self._make_process()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next try follows
            self._observer.start_failed()
            self._note_failure(error)
            return None
        with self._news:
            if self._phase is not Phase.CLOSED:
                self._process = process
                return process
        process.kill("the model was unloaded")
        process.wait()
        return None

    def _load(self, process: WorkerProcess) -> dict[str, bytes]:
        started = monotonic()
        try:
            definitions = process.load()
        except BaseException:
            self._observer.start_failed()
            raise
        self._load_took_s = monotonic() - started
        return definitions

    def _check_same(self, process: WorkerProcess, definitions: dict[str, bytes]) -> None:
        """See that the signatures are still those that everybody was told."""
        if definitions != self._signature_defs:
            process.end()
            raise FailedPrecondition("its files have changed since: they have other signatures")

    def _note_failure(self, error: Exception) -> None:
        with self._news:
            if self._phase is Phase.CLOSED:
                return
            self._wait_after(f"another process could not load it ({error})")
        logger.error("Model %s is still not served: %s", self._title, error)

    # With the lock held.

    def _wait_after(self, why: str) -> None:
        self._deaths += 1
        self._why = why
        self._due_s = monotonic() + self._backoff.wait_s(self._deaths, self._chance())
        self._advance(Event.DIED)

    def _advance(self, event: Event) -> None:
        """Move as TRANSITIONS says: the one place where the phase changes."""
        moves = TRANSITIONS[self._phase]
        if event not in moves:
            raise Internal(f"model {self._title} in phase {self._phase.name} cannot {event.name}")
        with self._news:
            self._phase = moves[event]
            self._news.notify_all()

    def _refusal(self) -> ServingError:
        if self._phase is Phase.CLOSED:
            return Unavailable(f"Model {self._title} is unloaded")
        if self._phase is Phase.WAITING:
            when = f"is started in {max(self._due_s - monotonic(), 0.0):.1f} s; try again then"
        else:
            when = "is loading; try again soon"
        return Unavailable(f"Model {self._title} is down: {self._why}. A new process {when}")


class IsolatedLoader:
    """Loads and unloads one version.  The manager calls it, one call at a time, but ``cancel``."""

    def __init__(
        self,
        title: str,
        estimate: Callable[[], int],
        make: Callable[[], IsolatedServable],
        loaded: Callable[[IsolatedServable], None] = lambda _: None,
    ) -> None:
        """``make`` makes a servable that is not started yet; ``loaded`` is told of one that has."""
        self._title = title
        self._estimate = estimate
        self._make = make
        self._loaded = loaded
        self._starting: IsolatedServable | None = None
        self._servable: IsolatedServable | None = None

    def estimate_resources(self) -> int:
        """The bytes of memory the version will need, as its runtime estimates them."""
        return self._estimate()

    def load(self) -> None:
        """Start the process and wait until it has loaded."""
        servable = self._starting = self._make()
        try:
            servable.start()
        finally:
            self._starting = None
        self._servable = servable
        self._loaded(servable)

    def cancel(self) -> None:
        """End a load under way; from any thread."""
        servable = self._starting
        if servable is not None:
            servable.cancel()

    def unload(self) -> None:
        """End the process; the system takes back everything it held."""
        servable, self._servable = self._servable, None
        if servable is not None:
            servable.close()

    def servable(self) -> IsolatedServable:
        """What ``load`` loaded.

        Raises:
            NotFound: nothing is loaded.
        """
        if self._servable is None:
            raise NotFound(f"{self._title} is not loaded")
        return self._servable
