"""The Prometheus page: the metrics in the text format scrapers read.

Names, order and digits are those of TensorFlow Serving's page, because dashboards match on them.
Label values may come from a peer and cannot break out of their quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from salver.metrics import Counter, Distribution, Gauge, Histogram, Labels, Metric, Metrics
from salver.model_server.text_proto import read_text_proto
from salver.protos import config_pb2

DEFAULT_PATH: Final = "/monitoring/prometheus/metrics"


def page_path(monitoring_config_file: str) -> str | None:
    """The path of the page on the REST port, or None if there is to be none.

    Raises:
        ServingError: the file cannot be read or holds no MonitoringConfig.
    """
    if not monitoring_config_file:
        return None
    return page_path_of(read_text_proto(monitoring_config_file, config_pb2.MonitoringConfig()))


def page_path_of(config: config_pb2.MonitoringConfig) -> str | None:
    """The path that a configuration gives the page, or None if there is to be none."""
    prometheus = config.prometheus_config
    return (prometheus.path or DEFAULT_PATH) if prometheus.enable else None


def page(metrics: Metrics) -> bytes:
    """All metrics as they are now."""
    text = "".join(line + "\n" for metric in metrics.by_name().values() for line in _lines(metric))
    return text.encode("utf-8", "backslashreplace")


def _lines(metric: Metric) -> Iterator[str]:
    name = _metric_name(metric.name)
    yield f"# TYPE {name} {metric.kind}"
    if isinstance(metric, Histogram):
        for labels, spread in sorted(metric.values().items()):
            yield from _histogram_lines(name, _labels(metric, labels), metric.bounds, spread)
    elif isinstance(metric, (Counter, Gauge)):
        for labels, value in sorted(metric.values().items()):
            yield f"{name}{{{_labels(metric, labels)}}} {value}"


def _histogram_lines(
    name: str, labels: str, bounds: Sequence[float], spread: Distribution
) -> Iterator[str]:
    comma = "," if labels else ""
    limits = (*(f"{bound:g}" for bound in bounds), "+Inf")
    for limit, count in zip(limits, accumulate(spread.counts), strict=True):
        yield f'{name}_bucket{{{labels}{comma}le="{limit}"}} {count}'
    yield f"{name}_sum{{{labels}}} {_sum(spread.sum)}"
    yield f"{name}_count{{{labels}}} {spread.count}"


def _sum(value: float) -> str:
    """All digits: six, as TensorFlow Serving writes, would turn a busy server's rate into steps."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _labels(metric: Metric, values: Labels) -> str:
    named = zip(metric.label_names, values, strict=True)
    return ",".join(f'{_label_name(name)}="{_escaped(value)}"' for name, value in named)


def _metric_name(name: str) -> str:
    """TensorFlow's name as Prometheus may have it: ``/`` becomes ``:``."""
    spelled = re.sub(r"[^a-zA-Z0-9_]", ":", name)
    return f"_{spelled}" if spelled[:1].isdigit() else spelled


def _label_name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]", "_", name)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
