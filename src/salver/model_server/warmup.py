"""Warmup: requests asked of a version before it serves, so that its first client need not wait.

TensorFlow builds what it needs for a signature when it first runs; here that happens in the load.
Requests come from the file that TensorFlow Serving reads, which fails the load when it cannot be
replayed, or, when asked for, are made of zeros, which may fail without harm.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from salver.apis.prediction_log import PredictionLog, read_prediction_log
from salver.apis.tfrecord import read_records
from salver.dtypes import DType
from salver.errors import Code, DataLoss, DeadlineExceeded, InvalidArgument, ServingError
from salver.metrics import Metrics
from salver.model_server.rehearsal import EXTRA_ASSETS, Candidate, Pace
from salver.model_server.replay import Replayer
from salver.servables.servable import Servable
from salver.signature import Signature, TensorInfo

logger = logging.getLogger(__name__)

WARMUP_REQUESTS: Final = "tf_serving_warmup_requests"

MAX_RECORDS: Final = 1000

_QUOTED_BYTES: Final = 1024
"""Of a record that is none, in an error text."""

MAX_ZEROS_BYTES: Final = 64 << 20
"""Of an input that is made up; a larger one is not worth the while."""


class StoredWarmup:
    """Replays a version's warmup file, each request ``iterations`` times, in order."""

    def __init__(
        self,
        replayer: Replayer,
        metrics: Metrics,
        *,
        iterations: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replayer = replayer
        self._metrics = metrics
        self._iterations = max(iterations, 1)
        self._clock = clock

    def __call__(self, candidate: Candidate, pace: Pace) -> None:
        """Replay the file, if there is one.

        Raises:
            DataLoss: it is no TFRecord file, or a damaged one.
            InvalidArgument: a record is no PredictionLog, or there are too many.
            Unimplemented: a record is of a kind that cannot be replayed.
            ServingError: what the version says to a request.
        """
        path = candidate.extra_asset(WARMUP_REQUESTS)
        if path is None:
            missing = candidate.path / EXTRA_ASSETS / WARMUP_REQUESTS
            logger.info("No warmup data file found at %s", missing)
        else:
            self._replay(path, candidate, pace)

    def _replay(self, path: Path, candidate: Candidate, pace: Pace) -> None:
        logger.info(
            "Starting to read warmup data for model at %s, each request %d time(s)",
            path,
            self._iterations,
        )
        started_s = self._clock()
        records = 0
        status = Code.UNKNOWN.name
        try:
            for _ in self._replayed(path, candidate, pace):
                records += 1
            status = Code.OK.name
        except ServingError as error:
            status = str(error)
            if not pace.cut_short(error):
                raise
            logger.warning("Warmup of servable %s was cut short: %s", candidate.id, error.message)
        finally:
            took_us = (self._clock() - started_s) * 1e6
            labels = str(candidate.path), status
            self._metrics.model_warmup_latency.observe(took_us, *labels)
            self._metrics.model_warmup_records_read.increment(*labels, by=records)
        logger.info(
            "Finished reading warmup data for model at %s. Number of warmup records read: %d. "
            "Elapsed time (microseconds): %d.",
            path,
            records,
            took_us,
        )

    def _replayed(self, path: Path, candidate: Candidate, pace: Pace) -> Iterator[None]:
        """Each record of the file once it was replayed."""
        for number, log in enumerate(_logs(path), 1):
            for _ in range(self._iterations):
                left_s = pace.left_s()
                if log is not None:
                    self._replayer.replay(candidate.servable, log, left_s)
            yield
            if number > MAX_RECORDS:
                raise InvalidArgument(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
                )


class ZerosWarmup:
    """Asks every signature once, with zeros and empty strings; a size that is not fixed is 1.

    It may fail without harm, since zeros need not make sense to the graph.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __call__(self, candidate: Candidate, pace: Pace) -> None:
        """Run each signature that has inputs: one without may do anything."""
        servable = candidate.servable
        asks = [
            partial(_run, servable, feeds, [info.name for info in signature.outputs.values()])
            for signature in servable.signatures.values()
            if (feeds := _zeros(signature))
        ]
        replay_leniently(candidate, pace, asks, "zeros", self._metrics)


def replay_leniently(
    candidate: Candidate,
    pace: Pace,
    asks: Sequence[Callable[[float | None], object]],
    source: str,
    metrics: Metrics,
) -> None:
    """Ask what may fail, each with the seconds left; failures are counted and cost nothing else.

    Raises:
        Cancelled: nobody wishes for the version any more.
    """
    outcomes = Counter[str]()
    first_error: ServingError | None = None
    for ask in asks:
        error = _error_of(ask, pace)
        if error is not None and pace.cut_short(error):
            logger.warning("Warmup of servable %s was cut short: %s", candidate.id, error)
            break
        outcomes["ok" if error is None else "failed"] += 1
        first_error = first_error or error
    for outcome, count in outcomes.items():
        metrics.warmup_replays.increment(candidate.id.name, source, outcome, by=count)
    logger.info(
        "Warmed servable %s with %s: %d requests, %d of them failed%s",
        candidate.id,
        source,
        sum(outcomes.values()),
        outcomes["failed"],
        f", the first with {first_error}" if first_error is not None else "",
    )


def _error_of(ask: Callable[[float | None], object], pace: Pace) -> ServingError | None:
    try:
        left_s = pace.left_s()
    except DeadlineExceeded as error:
        return error
    try:
        ask(left_s)
    except ServingError as error:
        return error
    return None


def _run(
    servable: Servable,
    feeds: Mapping[str, np.ndarray],
    fetches: Sequence[str],
    timeout_s: float | None,
) -> None:
    servable.run(feeds, fetches, timeout_s=timeout_s)


def _logs(path: Path) -> Iterator[PredictionLog | None]:
    try:
        for record in read_records(path):
            yield _read(record, path)
    except DataLoss as error:
        raise DataLoss(
            f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from error


def _read(record: bytes, path: Path) -> PredictionLog | None:
    try:
        return read_prediction_log(record)
    except InvalidArgument as error:
        quoted = record[:_QUOTED_BYTES].decode("utf-8", "backslashreplace")
        raise InvalidArgument(f"Failed to parse warmup record: {quoted} from {path}") from error


def _zeros(signature: Signature) -> dict[str, np.ndarray] | None:
    """Feeds for a signature; None where there are none, or one cannot be made."""
    try:
        return {
            info.name: signature.defaults.get(alias, _zero(info))
            for alias, info in signature.inputs.items()
        }
    except InvalidArgument:
        return None


def _zero(info: TensorInfo) -> np.ndarray:
    dtype = info.dtype.numpy
    shape = [1 if size < 0 else size for size in (info.shape or ())]
    if math.prod(shape) * dtype.itemsize > MAX_ZEROS_BYTES:
        raise InvalidArgument(f"{shape} is more than a warmup makes up")
    if info.dtype is DType.STRING:
        return np.full(shape, b"", object)
    return np.zeros(shape, dtype)
