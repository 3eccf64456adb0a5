"""A store, its lanes and a source over them, all of which stand still until a test moves them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from fakes import FakeClock, RecordingTarget
from salver.errors import Cancelled, NotFound, ServingError
from salver.sources.file_system import MonitoredServable
from salver.sources.model_cache import ModelCache
from salver.sources.remote import RemoteSource
from salver.sources.stores import StoredFile
from salver.sources.version_policy import Latest, VersionPolicy

BASE = "s3://bucket/m"

MODEL = {"saved_model.pb": b"", "variables/variables.index": b"i"} | {
    "variables/variables.data-00000-of-00001": b"data"
}
"""Files that look like a whole SavedModel; an empty graph needs nothing."""


class FakeStore:
    """Keys and contents; raises what it is told to, and calls back before each copied file."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.error: Exception | None = None
        self.fetch_error: Exception | None = None
        self.on_fetch: Callable[[str], None] = lambda _key: None
        self.fetched: list[str] = []

    def put(self, version: int | str, files: Mapping[str, bytes] = MODEL, base: str = BASE) -> None:
        self.contents |= {f"{base}/{version}/{path}": data for path, data in files.items()}

    def delete(self, version: int | str, base: str = BASE) -> None:
        prefix = f"{base}/{version}/"
        self.contents = {k: v for k, v in self.contents.items() if not k.startswith(prefix)}

    def children(self, uri: str) -> list[str]:
        self._fail()
        below = self._below(uri)
        if not below:
            raise NotFound(f"{uri} not found")
        return sorted({path.split("/")[0] for path in below})

    def files(self, uri: str) -> list[StoredFile]:
        self._fail()
        return [
            StoredFile(path, len(data), hashlib.sha256(data).hexdigest()[:8])
            for path, data in sorted(self._below(uri).items())
        ]

    def fetch(
        self, uri: str, file: StoredFile, target: Path, is_cancelled: Callable[[], bool]
    ) -> None:
        key = f"{uri}/{file.path}"
        self.on_fetch(key)
        if is_cancelled():
            raise Cancelled(f"the copy of {key} was cancelled")
        if self.fetch_error is not None:
            raise self.fetch_error
        self.fetched.append(key)
        target.write_bytes(self.contents[key])

    def _below(self, uri: str) -> dict[str, bytes]:
        prefix = f"{uri.rstrip('/')}/"
        return {k[len(prefix) :]: v for k, v in self.contents.items() if k.startswith(prefix)}

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class StepLane:
    """Keeps every job until the test runs it."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []
        self.is_closed = False

    def submit(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def close(self) -> None:
        self.is_closed = True
        self.jobs.clear()


class World:
    """A source over a fake store and a real cache folder; its time is the test's."""

    def __init__(
        self, folder: Path, *, store: FakeStore | None = None, target: object = None, **options: int
    ) -> None:
        self.clock = FakeClock()
        self.store = store or FakeStore()
        self.target = RecordingTarget()
        self.lanes: dict[str, list[StepLane]] = {}
        self.cache = ModelCache(folder, **options)
        self.source = RemoteSource(
            target or self.target,  # type: ignore[arg-type] # any target
            cache=self.cache,
            poll_wait_s=10.0,
            open_store=lambda _uri: self.store,
            make_lane=self._make_lane,
            check=lambda _uri: None,
            clock=self.clock,
            jitter=lambda: 1.0,
        )

    def watch(self, policy: VersionPolicy | None = None, base: str = BASE) -> World:
        self.source.update_config([MonitoredServable("m", base, policy or Latest())])
        return self

    def run(self) -> World:
        """Do everything that is due now, and what follows from it."""
        self.source.step()
        while lane := next((lane for lane in self._all_lanes() if lane.jobs), None):
            lane.jobs.pop(0)()
            self.source.step()
        return self

    def after(self, seconds: float) -> World:
        self.clock.advance(seconds)
        return self.run()

    def settle(self) -> World:
        """Let the time of a copy pass, second by second."""
        self.run()
        for _ in range(12):
            self.after(1.0)
        return self

    def close(self) -> None:
        """End as a killed process does: its locks go."""
        self.source.stop()
        for each in self.source.leases():
            each.close()

    def wish(self) -> list[int | tuple[int, ServingError]]:
        """The last wish for ``m``: versions, and those that failed with their errors."""
        if not self.target.wishes:
            return []
        return [
            data.id.version if data.error is None else (data.id.version, data.error)
            for data in self.target.wishes[-1][1]
        ]

    def path(self) -> Path:
        """Where the one version last wished for lies."""
        (data,) = self.target.wishes[-1][1]
        return Path(str(data.payload))

    def _all_lanes(self) -> list[StepLane]:
        return [lane for lanes in self.lanes.values() for lane in lanes]

    def _make_lane(self, name: str, threads: int) -> StepLane:
        lane = StepLane()
        self.lanes.setdefault(name, []).append(lane)
        return lane
