"""TensorFlow Serving's batching for those who ask for it: whose parameters count, which threads.

The parameters are those of one file for all models, or of a file in each version's own folder; a
version without such a file is not batched then, and of the one for all only the threads count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from salver.batching.parameters import (
    THREADS_FIELD,
    BatchingParameters,
    Fault,
    faults,
    parameters_of,
)
from salver.core.loader import Loader
from salver.errors import NotFound, ServingError
from salver.metrics import Metrics
from salver.model_server.options import Options, usable_cpus
from salver.model_server.text_proto import read_text_proto
from salver.protos import config_pb2
from salver.servables.batch_threads import BatchThreads
from salver.servables.batched import BatchedLoader, Call, run_batch
from salver.servables.servable import Servable

logger = logging.getLogger(__name__)

FILE_OF_VERSION: Final = "batching_params.pbtxt"
"""Of a version's own parameters, in its folder."""

MAX_WAITING_CALLS: Final = 512
"""Calls of a model that may wait for their batches, each of which holds a thread."""

THREAD_POOL_NAME: Final = ""
"""The label of the metrics, which TensorFlow Serving never fills."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How the models of a platform are batched."""

    parameters: BatchingParameters
    by_version: bool = False  # each version has parameters of its own, or is not batched
    fault: ServingError | None = field(default=None, compare=False)
    """Why no model can be loaded with these parameters, if so."""

    @property
    def num_threads(self) -> int:
        """The threads that run batches."""
        return self.parameters.num_batch_threads or usable_cpus()

    @property
    def waiting_calls(self) -> int:
        """As many calls of a model may have a place in its queues, each of them on a thread."""
        parameters = self.parameters
        if self.by_version:
            return MAX_WAITING_CALLS
        batches = parameters.max_enqueued_batches + self.num_threads
        calls = batches * parameters.max_execution_batch_size + 1  # one to hear that it is full
        return min(max(calls, 1), MAX_WAITING_CALLS)


def batching_of(message: config_pb2.BatchingParameters, *, by_version: bool = False) -> Batching:
    """What a message says.

    Raises:
        InvalidArgument: there would be no thread to run a batch.
    """
    found = list(faults(message))
    for fault in found:
        if fault.field == THREADS_FIELD:
            raise fault.error
    return Batching(parameters_of(message), by_version, _first(found))


def batching_of_flags(options: Options) -> Batching | None:
    """What the flags say; None where they do not ask for batching.

    Raises:
        ServingError: the file of parameters cannot be read, is something else, or leaves no thread.
    """
    if not options.enable_batching:
        if options.enable_per_model_batching_parameters:
            logger.warning(
                "enable_per_model_batching_parameters has no effect without enable_batching"
            )
        return None
    message = config_pb2.BatchingParameters()
    if options.batching_parameters_file:
        read_text_proto(options.batching_parameters_file, message)
    else:
        message.thread_pool_name.value = "model_server_batch_threads"
    return batching_of(message, by_version=options.enable_per_model_batching_parameters)


class BatchingLoaders:
    """Wraps the loaders of versions that are batched; platforms with the same rules share threads.

    Used on whichever thread configures models, one at a time.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._observer = BatchingMetrics(metrics)
        self._threads: dict[Batching, BatchThreads[Call]] = {}

    def around(
        self, loader: Loader[Servable], path: Path, batching: Batching | None
    ) -> Loader[Servable]:
        """The loader of a version at ``path``, with its runs batched as ``batching`` says."""
        if batching is None:
            return loader
        threads = self._threads.get(batching)
        if threads is None:
            name = f"salver-{batching.parameters.thread_pool_name}"
            threads = BatchThreads(run_batch, batching.num_threads, name=name)
            self._threads[batching] = threads
        return BatchedLoader(loader, _reader(batching, path), threads, self._observer)

    def __enter__(self) -> BatchingLoaders:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End all threads; whoever waits is told, so that nobody holds a model any more."""
        for threads in self._threads.values():
            threads.stop()


class BatchingMetrics:
    """Counts batches, in TensorFlow Serving's names."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def left_queue(self, waited_us: Sequence[float]) -> None:
        """Count how long the tasks of a batch have waited."""
        for each_us in waited_us:
            self._metrics.batch_queuing_latency.observe(each_us, THREAD_POOL_NAME)

    def will_run(self, input_rows: Sequence[int], rows: int, padding: int) -> None:
        """Count a batch."""
        metrics = self._metrics
        metrics.batch_wrapped_run_count.increment()
        for each in input_rows:
            metrics.batch_input_size.observe(each)
        metrics.batch_padding_size.observe(padding, str(rows + padding))
        metrics.batch_processed_size.observe(rows + padding)


def _reader(batching: Batching, path: Path) -> Callable[[], BatchingParameters | None]:
    return partial(_own if batching.by_version else _of_all, batching, path)


def _of_all(batching: Batching, _path: Path) -> BatchingParameters:
    if batching.fault is not None:
        raise batching.fault
    return batching.parameters


def _own(_batching: Batching, path: Path) -> BatchingParameters | None:
    """The parameters in a version's folder.

    Raises:
        ServingError: the file cannot be read, or what it says is refused.
    """
    message = config_pb2.BatchingParameters()
    try:
        read_text_proto(str(path / FILE_OF_VERSION), message)
    except NotFound:
        return None
    refusal = _first([fault for fault in faults(message) if fault.field != THREADS_FIELD])
    if refusal is not None:
        raise refusal
    return parameters_of(message)


def _first(found: Sequence[Fault]) -> ServingError | None:
    return found[0].error if found else None
