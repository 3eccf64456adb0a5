"""What the server counts: every metric declared once, in one object that is passed in.

Any thread may count, many at a time: an update takes one short lock, costs well under a
microsecond and is never lost.
What is counted by name can be named by a peer, so a metric has a bounded number of cells and a
label a bounded length; what goes beyond them is still counted, under ``other``.
So are the oldest versions of a model that has had many.
Names are TensorFlow's where it has the metric; how a page spells them is the page's business.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar, Final, TypeAlias

Labels: TypeAlias = tuple[str, ...]

MAX_CELLS: Final = 10_000
"""Label combinations one metric keeps apart."""

MAX_LABEL_LENGTH: Final = 256
"""Characters of a label value that are kept."""

MAX_VERSIONS: Final = 100
"""Versions of one model, the newest, that a metric by path keeps apart."""

OTHER: Final = "other"
"""The value of every label of the cell that takes what found no room."""


class _Paths:
    """The versions that have cells of their own in a metric whose first label is their path."""

    def __init__(self) -> None:
        # By the folder they lie in, which is a model's; in the order in which they were met.
        self._folders: dict[str, OrderedDict[str, list[Labels]]] = {}

    def add(self, labels: Labels) -> Sequence[Labels]:
        """Note a new cell; those of the version that has to go for it."""
        folder, slash, _ = labels[0].rpartition("/")
        if not slash:
            return ()
        versions = self._folders.setdefault(folder, OrderedDict())
        versions.setdefault(labels[0], []).append(labels)
        return versions.popitem(last=False)[1] if len(versions) > MAX_VERSIONS else ()


class Metric:
    """A named family of cells, one for each combination of label values it met.

    ``lock`` guards the cells.  Metrics that are updated together share one, so that whoever holds
    their cells can update them all under it at once.
    With ``by_path``, the first label is the path of a version: of many versions of one model the
    oldest are counted together.  No cell of such a metric may be held on to.
    """

    kind: ClassVar[str]

    def __init__(
        self, name: str, *label_names: str, lock: Lock | None = None, by_path: bool = False
    ) -> None:
        self.name = name
        self.label_names = label_names
        self.lock = lock or Lock()
        self._paths = _Paths() if by_path else None

    def _admitted(self, labels: Labels, known: int) -> Labels:
        """The cell that ``labels``, not met before as they are, belong to."""
        if len(labels) != len(self.label_names):
            raise ValueError(f"{self.name} has the labels {self.label_names}, got {labels}")
        if known >= MAX_CELLS and labels:
            return (OTHER,) * len(labels)
        return tuple(label[:MAX_LABEL_LENGTH] for label in labels)

    def _outdated(self, labels: Labels) -> Sequence[Labels]:
        """The cells that are to be counted together, now that there is a new one."""
        return () if self._paths is None else self._paths.add(labels)


class Counter(Metric):
    """A number that only grows."""

    kind = "counter"

    def __init__(
        self, name: str, *label_names: str, lock: Lock | None = None, by_path: bool = False
    ) -> None:
        super().__init__(name, *label_names, lock=lock, by_path=by_path)
        self._cells: dict[Labels, CounterCell] = {}

    def increment(self, *labels: str, by: int = 1) -> None:
        """Add ``by``, which is not negative, to the cell of ``labels``."""
        with self.lock:
            cell = self._cells.get(labels) or self._new_cell(labels)
            cell.value += by

    def cell(self, *labels: str) -> CounterCell:
        """The cell of ``labels``, to be changed only while ``lock`` is held."""
        with self.lock:
            return self._cells.get(labels) or self._new_cell(labels)

    def values(self) -> dict[Labels, int]:
        """Every cell as it is now."""
        with self.lock:
            return {labels: cell.value for labels, cell in self._cells.items()}

    def _new_cell(self, labels: Labels) -> CounterCell:
        labels = self._admitted(labels, len(self._cells))
        cell = self._cells.setdefault(labels, CounterCell())
        for old in self._outdated(labels):
            together = self._cells.setdefault((OTHER, *old[1:]), CounterCell())
            together.value += self._cells.pop(old).value
        return cell


class CounterCell:
    """One number of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Gauge(Metric):
    """A number that is what it was last set to."""

    kind = "gauge"

    def __init__(self, name: str, *label_names: str) -> None:
        super().__init__(name, *label_names)
        self._values: dict[Labels, int] = {}

    def set(self, value: int, *labels: str) -> None:
        """Make ``value`` the number of the cell of ``labels``."""
        with self.lock:
            if labels not in self._values:
                labels = self._admitted(labels, len(self._values))
            self._values[labels] = value

    def values(self) -> dict[Labels, int]:
        """Every cell as it is now."""
        with self.lock:
            return self._values.copy()


@dataclass(frozen=True, slots=True)
class Distribution:
    """How the values observed in one cell spread."""

    counts: tuple[int, ...]  # by bucket, each on its own; the last is for what no bound is above
    sum: float

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)


class Histogram(Metric):
    """Values counted by the bucket they fall in.

    A value equal to a bound belongs to the bucket above it, as in TensorFlow's histograms: the
    pages of both then agree on the same observations.
    """

    kind = "histogram"

    def __init__(
        self,
        name: str,
        *label_names: str,
        bounds: Sequence[float],
        lock: Lock | None = None,
        by_path: bool = False,
    ) -> None:
        super().__init__(name, *label_names, lock=lock, by_path=by_path)
        self.bounds = tuple(bounds)
        self._cells: dict[Labels, HistogramCell] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count ``value`` in the cell of ``labels``."""
        with self.lock:
            cell = self._cells.get(labels) or self._new_cell(labels)
            cell.add(value)

    def cell(self, *labels: str) -> HistogramCell:
        """The cell of ``labels``, to be changed only while ``lock`` is held."""
        with self.lock:
            return self._cells.get(labels) or self._new_cell(labels)

    def values(self) -> dict[Labels, Distribution]:
        """Every cell as it is now, each consistent in itself."""
        with self.lock:
            return {
                labels: Distribution(tuple(cell.counts), cell.sum)
                for labels, cell in self._cells.items()
            }

    def _new_cell(self, labels: Labels) -> HistogramCell:
        labels = self._admitted(labels, len(self._cells))
        cell = self._cells.setdefault(labels, HistogramCell(self.bounds))
        for old in self._outdated(labels):
            together = self._cells.setdefault((OTHER, *old[1:]), HistogramCell(self.bounds))
            together.take(self._cells.pop(old))
        return cell


class HistogramCell:
    """The buckets of one combination of labels."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value; the metric's ``lock`` is held."""
        self.counts[bisect_right(self._bounds, value)] += 1
        self.sum += value

    def take(self, other: HistogramCell) -> None:
        """Count what another cell of the same bounds has counted; ``lock`` is held."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


def growing_bounds(first: float, factor: float, count: int) -> tuple[float, ...]:
    """``count`` bounds, each ``factor`` times the one before it."""
    bounds = [first]
    while len(bounds) < count:
        bounds.append(bounds[-1] * factor)
    return tuple(bounds)


LATENCY_BOUNDS_US: Final = growing_bounds(10, 1.8, 33)
"""Ten microseconds to twenty-four minutes; dashboards name these very bounds."""

EXAMPLE_COUNT_BOUNDS: Final = growing_bounds(1, 2, 15)

QUEUING_BOUNDS_US: Final = growing_bounds(100, 1.2, 52)
"""A tenth of a millisecond to a second."""

BATCH_SIZE_BOUNDS: Final = growing_bounds(1, 2, 14)

LAG_BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """Every metric of one server."""

    def __init__(self) -> None:
        serving = "/tensorflow/serving"
        core = "/tensorflow/core"
        saved_model = "/tensorflow/cc/saved_model"
        calls = Lock()  # for what every request updates, all at once

        self.request_count = Counter(f"{serving}/request_count", "model_name", "status", lock=calls)
        self.request_latency = Histogram(
            f"{serving}/request_latency",
            "model_name",
            "API",
            "entrypoint",
            bounds=LATENCY_BOUNDS_US,
            lock=calls,
        )
        self.runtime_latency = Histogram(
            f"{serving}/runtime_latency",
            "model_name",
            "API",
            "runtime",
            bounds=LATENCY_BOUNDS_US,
            lock=calls,
        )
        self.request_example_counts = Histogram(
            f"{serving}/request_example_counts", "model", bounds=EXAMPLE_COUNT_BOUNDS
        )
        self.request_example_count_total = Counter(
            f"{serving}/request_example_count_total", "model"
        )

        self.model_warmup_latency = Histogram(
            f"{serving}/model_warmup_latency",
            "model_path",
            "status",
            bounds=LATENCY_BOUNDS_US,
            by_path=True,
        )
        self.model_warmup_records_read = Counter(
            f"{serving}/model_warmup_records_read", "model_path", "status", by_path=True
        )

        self.graph_runs = Counter(f"{core}/graph_runs", lock=calls)
        self.graph_run_time_usecs = Counter(f"{core}/graph_run_time_usecs", lock=calls)
        self.graph_build_calls = Counter(f"{core}/graph_build_calls")
        self.graph_build_time_usecs = Counter(f"{core}/graph_build_time_usecs")

        self.load_attempt_count = Counter(
            f"{saved_model}/load_attempt_count", "model_path", "status", by_path=True
        )
        self.load_latency = Counter(f"{saved_model}/load_latency", "model_path", by_path=True)

        session = f"{serving}/batching_session"
        self.batch_queuing_latency = Histogram(
            f"{session}/queuing_latency", "thread_pool_name", bounds=QUEUING_BOUNDS_US
        )
        self.batch_wrapped_run_count = Counter(f"{session}/wrapped_run_count")
        self.batch_padding_size = Histogram(
            f"{session}/padding_size", "execution_batch_size", bounds=BATCH_SIZE_BOUNDS
        )
        self.batch_input_size = Histogram(f"{session}/input_batch_size", bounds=BATCH_SIZE_BOUNDS)
        self.batch_processed_size = Histogram(
            f"{session}/processed_batch_size", bounds=BATCH_SIZE_BOUNDS
        )

        # Salver's own: what TensorFlow Serving does not tell.
        self.event_loop_lag = Histogram("salver_event_loop_lag_seconds", bounds=LAG_BOUNDS_S)
        self.models_ready = Gauge("salver_models_ready")
        self.load_failures = Counter("salver_load_failures_total", "model_name")
        self.isolated_deaths = Counter("salver_isolated_deaths_total", "model_name")
        self.isolated_restarts = Counter("salver_isolated_restarts_total", "model_name")
        self.warmup_replays = Counter(
            "salver_warmup_replays_total", "model_name", "source", "outcome"
        )
        self.golden_requests = Counter("salver_golden_requests_total", "model_name", "outcome")

    def by_name(self) -> Mapping[str, Metric]:
        """Every metric under its name, sorted."""
        metrics = (member for member in vars(self).values() if isinstance(member, Metric))
        return {metric.name: metric for metric in sorted(metrics, key=lambda each: each.name)}
