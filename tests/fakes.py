"""Stand-ins for the parts around the one under test; each does what its protocol says, simply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

import numpy as np

from salver.core.servable_data import ServableData
from salver.dtypes import DType
from salver.errors import ServingError
from salver.model_server.options import Face, Options
from salver.servables.servable import PreparedRun
from salver.signature import Signature, TensorInfo
from salver.wire.http1_messages import HttpAnswer, HttpResponse


class FakeServe:
    """Stands in for the server a command starts: notes what it was given and returns at once."""

    def __init__(self, *, exit_code: int = 0, error: ServingError | None = None) -> None:
        self.calls: list[tuple[Options, Face]] = []
        self._exit_code = exit_code
        self._error = error

    def __call__(self, options: Options, *, face: Face) -> int:
        self.calls.append((options, face))
        if self._error is not None:
            raise self._error
        return self._exit_code


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until a test moves it, and which never waits."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        super().__init__()

    def time(self) -> float:
        return self.now_s

    def step(self, rounds: int = 20) -> None:
        """Run what is ready, and what that makes ready, for a few rounds."""
        for _ in range(rounds):
            self.call_soon(self.stop)
            self.run_forever()

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what it makes due."""
        self.now_s += seconds
        self.step()


class FakeTransport(asyncio.Transport):
    """A connection without a socket: keeps what is sent, and notes what it is told.

    With ``high_water`` its peer reads nothing: that many unread bytes make it pause the protocol.
    """

    def __init__(self, protocol: asyncio.Protocol, *, high_water: int | None = None) -> None:
        super().__init__()
        self.protocol = protocol
        self.sent = bytearray()
        self.unread_bytes = 0
        self.is_reading_paused = False
        self.has_written_eof = False
        self.is_closed = False
        self.is_aborted = False
        self._high_water = high_water

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        if self._high_water is None:
            return
        self.unread_bytes += len(data)
        if self.unread_bytes > self._high_water:
            self.protocol.pause_writing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol  # type: ignore[assignment] # every one of ours is a Protocol

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_written_eof = True

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True
        self.is_aborted = True


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


class FakeServable:
    """What a FakeLoader loads; using it after its unload is an error that a test must see."""

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.is_unloaded = False

    def use(self) -> str:
        assert not self.is_unloaded, f"{self.label} was used after its unload"
        return self.label


class FakeLoader:
    """Loads a FakeServable and notes every call; fails as often as it is told to."""

    def __init__(
        self,
        label: str = "",
        *,
        needed_bytes: int = 0,
        load_errors: Sequence[BaseException] = (),
        estimate_error: Exception | None = None,
        servable_error: Exception | None = None,
        unload_error: Exception | None = None,
        on_load: Callable[[], None] = lambda: None,
    ) -> None:
        self.calls: list[str] = []
        self.made = FakeServable(label)
        self._needed_bytes = needed_bytes
        self._load_errors = list(load_errors)
        self._estimate_error = estimate_error
        self._servable_error = servable_error
        self._unload_error = unload_error
        self._on_load = on_load

    def estimate_resources(self) -> int:
        self.calls.append("estimate")
        if self._estimate_error is not None:
            raise self._estimate_error
        return self._needed_bytes

    def load(self) -> None:
        self.calls.append("load")
        if self.made.is_unloaded:  # loaded again after an unload
            self.made = FakeServable(self.made.label)
        self._on_load()
        if self._load_errors:
            raise self._load_errors.pop(0)

    def unload(self) -> None:
        self.calls.append("unload")
        self.made.is_unloaded = True
        if self._unload_error is not None:
            raise self._unload_error

    def servable(self) -> FakeServable:
        self.calls.append("servable")
        if self._servable_error is not None:
            raise self._servable_error
        return self.made


class StepExecutor(Executor):
    """A pool without threads: keeps every job until the test runs it."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], object]] = []

    def submit(self, fn, /, *args, **kwargs):
        self.jobs.append(partial(fn, *args, **kwargs))
        return Future()

    def run_next(self) -> None:
        self.jobs.pop(0)()


class RecordingTarget:
    """A target that notes every wish it hears, as name and versions."""

    def __init__(self) -> None:
        self.wishes: list[tuple[str, list[ServableData]]] = []

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData]) -> None:
        self.wishes.append((name, list(versions)))


class FakeModels:
    """The models of a server, as readiness sees them: a test sets what became of each."""

    def __init__(self, *names: str) -> None:
        self.configured = list(names)
        self.available: set[str] = set()
        self.failed: set[str] = set()

    def names(self) -> list[str]:
        return self.configured

    def is_available(self, name: str) -> bool:
        return name in self.available

    def waiting_for(self) -> list[str]:
        return [name for name in self.configured if name not in self.available | self.failed]


class FakeModel:
    """A servable with signatures of a test's own: ``answer`` makes a fetched array from the feeds.

    It notes the feeds and the time of every run, and fails as often as it is told to.
    """

    def __init__(
        self,
        signatures: Mapping[str, Signature],
        answer: Callable[[Mapping[str, np.ndarray], str], np.ndarray],
        *,
        errors: Sequence[ServingError] = (),
        on_run: Callable[[], None] = lambda: None,
    ) -> None:
        self.signatures = dict(signatures)
        self.signature_defs: dict[str, bytes] = {}
        self.predictable = True
        self.runs: list[tuple[dict[str, np.ndarray], list[str], float | None]] = []
        self._answer = answer
        self._errors = list(errors)
        self._on_run = on_run

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        self.runs.append((dict(feeds), list(fetches), timeout_s))
        self._on_run()
        if self._errors:
            raise self._errors.pop(0)
        return [self._answer(feeds, fetch) for fetch in fetches]

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        names = list(feeds)
        return lambda tensors, timeout_s: self.run(
            dict(zip(names, tensors, strict=True)), fetches, timeout_s=timeout_s
        )


def half_plus(offset: float, **arguments: Any) -> FakeModel:  # those of FakeModel
    """x/2 + ``offset`` for a vector x, as ``serving_default``."""
    signature = Signature(
        inputs={"x": TensorInfo("x:0", DType.FLOAT, (-1,))},
        outputs={"y": TensorInfo("y:0", DType.FLOAT, (-1,))},
    )
    return FakeModel(
        {"serving_default": signature},
        lambda feeds, _fetch: (feeds["x:0"] / 2 + offset).astype(np.float32),
        **arguments,
    )


class FakeModelLoader:
    """Loads the models it is given, one after another, and notes every call."""

    def __init__(self, *models: FakeModel) -> None:
        self.calls: list[str] = []
        self._models = list(models)

    def estimate_resources(self) -> int:
        return 7

    def load(self) -> None:
        self.calls.append("load")

    def unload(self) -> None:
        self.calls.append("unload")
        self._models.append(self._models.pop(0))

    def servable(self) -> FakeModel:
        return self._models[0]


async def answer_of(answer: HttpAnswer) -> HttpResponse:
    """What a handler answers, whether at once or after a while."""
    return answer if isinstance(answer, HttpResponse) else await answer
