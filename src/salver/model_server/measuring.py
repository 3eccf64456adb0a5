"""What is measured where a request meets a model: run times, loads, and the calm of the loop.

Measuring wraps what it measures; no room below counts anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Final

import numpy as np

from salver.metrics import Metrics
from salver.servables.servable import Servable
from salver.signature import Signature

LAG_INTERVAL_S: Final = 0.25
"""How often the event loop is asked for its lag."""


class MeasuredServable:
    """A servable around a servable: it times each run for one model and one API.

    Without an API a run counts only in TensorFlow's own metrics, as MultiInference's do there.
    """

    __slots__ = ("_api", "_metrics", "_model_name", "_servable")

    def __init__(
        self, servable: Servable, metrics: Metrics, model_name: str, api: str | None
    ) -> None:
        self._servable = servable
        self._metrics = metrics
        self._model_name = model_name
        self._api = api

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
        """Run the servable; a run that succeeds is observed in microseconds."""
        started = perf_counter()
        results = self._servable.run(feeds, fetches, timeout_s=timeout_s)
        took_us = (perf_counter() - started) * 1e6
        metrics = self._metrics
        if self._api is not None:
            metrics.runtime_latency.observe(took_us, self._model_name, self._api, "TF1")
        metrics.graph_runs.increment()
        metrics.graph_run_time_usecs.increment(by=int(took_us))
        return results


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
