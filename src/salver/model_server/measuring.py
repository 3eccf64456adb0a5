"""What is measured where a request meets a model: run times, loads, and the calm of the loop.

Measuring wraps what it measures; no room below counts anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Final

import numpy as np

from salver.errors import Code
from salver.metrics import Metrics
from salver.servables.servable import PreparedRun, Servable
from salver.signature import Signature

MAX_RECORDERS: Final = 1024
"""Kinds of call whose cells are kept at hand."""

LAG_INTERVAL_S: Final = 0.25
"""How often the event loop is asked for its lag."""


class TimedServable:
    """A servable around a servable, for one request: it keeps how long its run took."""

    __slots__ = ("_servable", "took_us")

    def __init__(self, servable: Servable) -> None:
        self._servable = servable
        self.took_us = 0.0

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """As the servable's."""
        return self._servable.signatures

    @property
    def signature_defs(self) -> Mapping[str, bytes]:
        """As the servable's."""
        return self._servable.signature_defs

    @property
    def predictable(self) -> bool:
        """As the servable's."""
        return self._servable.predictable

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        """Run the servable; the time of a run that succeeds is kept."""
        started = perf_counter()
        results = self._servable.run(feeds, fetches, timeout_s=timeout_s)
        self.took_us = (perf_counter() - started) * 1e6
        return results

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        """As the servable's, and not timed."""
        return self._servable.prepare(feeds, fetches)


class CallRecorder:
    """Counts the answered calls of one kind: a model, an API, a door.  Its cells are found once.

    One lock for all of them: a request pays for it once.
    """

    __slots__ = (
        "_graph_run_time",
        "_graph_runs",
        "_latency",
        "_lock",
        "_ok",
        "_runtime",
    )

    def __init__(
        self, metrics: Metrics, model_name: str, api: str, runtime_api: str, entrypoint: str
    ) -> None:
        self._lock = metrics.request_count.lock
        self._ok = metrics.request_count.cell(model_name, Code.OK.name)
        self._latency = metrics.request_latency.cell(model_name, api, entrypoint)
        self._runtime = metrics.runtime_latency.cell(model_name, runtime_api, "TF1")
        self._graph_runs = metrics.graph_runs.cell()
        self._graph_run_time = metrics.graph_run_time_usecs.cell()

    def succeeded(self, took_us: float, run_us: float) -> None:
        """Count a call that was answered after ``took_us``, ``run_us`` of them in the model."""
        with self._lock:
            self._ok.value += 1
            self._latency.add(took_us)
            self._runtime.add(run_us)
            self._graph_runs.value += 1
            self._graph_run_time.value += int(run_us)

    def succeeded_together(self, times_us: Sequence[tuple[float, float]]) -> None:
        """Count calls by how long they took and how long their runs; who ran counts those."""
        with self._lock:
            self._ok.value += len(times_us)
            for took_us, run_us in times_us:
                self._latency.add(took_us)
                self._runtime.add(run_us)


class CallRecorders:
    """The recorders of one door."""

    def __init__(self, metrics: Metrics, entrypoint: str) -> None:
        self._metrics = metrics
        self._entrypoint = entrypoint
        self._of = lru_cache(MAX_RECORDERS)(self._make)

    def of(self, model_name: str, api: str, runtime_api: str) -> CallRecorder:
        """The recorder of a model's calls; ``runtime_api`` is how run times spell the API."""
        return self._of(model_name, api, runtime_api)

    def _make(self, model_name: str, api: str, runtime_api: str) -> CallRecorder:
        return CallRecorder(self._metrics, model_name, api, runtime_api, self._entrypoint)


class RuntimeMetrics:
    """Tells the metrics what the TensorFlow runtime does, in TensorFlow's own names."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def loaded(self, path: str, took_s: float) -> None:
        """Count a load."""
        self._metrics.load_attempt_count.increment(path, "success")
        self._metrics.load_latency.increment(path, by=int(took_s * 1e6))

    def load_failed(self, path: str) -> None:
        """Count a load that failed."""
        self._metrics.load_attempt_count.increment(path, "fail")

    def graph_built(self, took_s: float) -> None:
        """Count an executor."""
        self._metrics.graph_build_calls.increment()
        self._metrics.graph_build_time_usecs.increment(by=int(took_s * 1e6))


async def measure_lag(metrics: Metrics) -> None:
    """Observe, until cancelled, how late the event loop is to wake a task."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)
        metrics.event_loop_lag.observe(max(loop.time() - due_s, 0.0))
