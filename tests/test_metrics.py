"""The metrics count right, from many threads, within bounds."""

import sys
from threading import Barrier, Thread

import pytest

from salver.metrics import (
    EXAMPLE_COUNT_BOUNDS,
    LATENCY_BOUNDS_US,
    MAX_CELLS,
    MAX_LABEL_LENGTH,
    MAX_VERSIONS,
    OTHER,
    Counter,
    Gauge,
    Histogram,
    Metrics,
)


def test_a_counter_counts_each_combination_of_labels():
    """Cells are kept apart by their label values and start at nothing."""
    counter = Counter("requests", "model_name", "status")

    counter.increment("mnist", "OK")
    counter.increment("mnist", "OK", by=2)
    counter.increment("mnist", "NOT_FOUND", by=0)

    assert counter.values() == {("mnist", "OK"): 3, ("mnist", "NOT_FOUND"): 0}


def test_a_gauge_is_what_it_was_last_set_to():
    """A gauge does not add up."""
    gauge = Gauge("ready")

    gauge.set(3)
    gauge.set(2)

    assert gauge.values() == {(): 2}


def test_a_histogram_counts_by_bucket():
    """A value on a bound counts in the bucket above it, and one above all bounds in the last."""
    histogram = Histogram("latency", "model", bounds=(10, 20))

    for value in (1, 9.5, 10, 20, 1e9):
        histogram.observe(value, "mnist")

    spread = histogram.values()["mnist",]
    assert spread.counts == (2, 1, 2)
    assert spread.count == 5
    assert spread.sum == 1 + 9.5 + 10 + 20 + 1e9


def test_a_snapshot_does_not_change():
    """What was read stays as it was when counting goes on."""
    counter, histogram = Counter("a"), Histogram("b", bounds=(1,))
    counter.increment()
    histogram.observe(0)

    before = counter.values(), histogram.values()
    counter.increment()
    histogram.observe(0)

    assert before[0] == {(): 1}
    assert before[1][()].counts == (1, 0)


def test_the_latency_bounds_are_tensorflow_servings():
    """Thirty-three bounds grow by 1.8 from ten microseconds; dashboards name them."""
    written = [f"{bound:g}" for bound in LATENCY_BOUNDS_US]

    assert len(written) == 33
    assert written[:5] == ["10", "18", "32.4", "58.32", "104.976"]
    assert written[19:21] == ["708235", "1.27482e+06"]
    assert written[-1] == "1.47476e+09"


def test_the_example_count_bounds_are_powers_of_two():
    """Fifteen bounds double from one."""
    assert [2**power for power in range(15)] == list(EXAMPLE_COUNT_BOUNDS)


def test_no_count_is_lost_between_threads():
    """Eight threads that count at the same time count everything."""
    counter = Counter("requests", "model_name")
    histogram = Histogram("latency", "model_name", bounds=(1, 2))
    start = Barrier(8)

    def count():
        start.wait(timeout=30)
        for _ in range(2000):
            counter.increment("mnist", by=3)
            histogram.observe(1.5, "mnist")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    finally:
        sys.setswitchinterval(interval)

    assert counter.values() == {("mnist",): 8 * 2000 * 3}
    spread = histogram.values()["mnist",]
    assert (spread.counts, spread.sum) == ((0, 16000, 0), 24000.0)


def test_a_peer_cannot_grow_a_metric_for_ever():
    """Beyond its bound a metric counts in one more cell, and known cells go on counting."""
    counter = Counter("requests", "model_name", "status")
    histogram = Histogram("latency", "model_name", bounds=(1,))

    for number in range(MAX_CELLS + 50):
        counter.increment(f"model {number}", "NOT_FOUND")
        histogram.observe(0, f"model {number}")
    counter.increment("model 0", "NOT_FOUND")

    values = counter.values()
    assert len(values) == len(histogram.values()) == MAX_CELLS + 1
    assert values[OTHER, OTHER] == histogram.values()[OTHER,].count == 50
    assert values["model 0", "NOT_FOUND"] == 2


def test_old_versions_of_a_model_are_counted_together():
    """Its newest hundred have cells of their own; of the others no count is lost."""
    loads = Counter("loads", "model_path", "status", by_path=True)
    latency = Histogram("latency", "model_path", bounds=(1,), by_path=True)
    loads.increment("/models/quiet/1", "success")

    for version in range(MAX_VERSIONS + 3):
        loads.increment(f"/models/m/{version}", "fail")
        loads.increment(f"/models/m/{version}", "success", by=2)
        latency.observe(5, f"/models/m/{version}")

    values = loads.values()
    assert (values[OTHER, "fail"], values[OTHER, "success"]) == (3, 6)
    assert ("/models/m/2", "fail") not in values
    assert values["/models/m/3", "success"] == 2
    assert values["/models/quiet/1", "success"] == 1
    assert len(values) == 2 * MAX_VERSIONS + 3
    assert (latency.values()[OTHER,].counts, latency.values()[OTHER,].sum) == ((0, 3), 15.0)


def test_a_model_that_changes_for_years_has_as_many_cells_as_one_that_changed_a_hundred_times():
    """What is counted by path is bounded in every metric of a server."""
    metrics = Metrics()

    for version in range(3 * MAX_VERSIONS):
        path = f"/models/m/{version}"
        metrics.load_attempt_count.increment(path, "success")
        metrics.load_latency.increment(path)
        metrics.model_warmup_records_read.increment(path, "OK")
        metrics.model_warmup_latency.observe(1, path, "OK")

    by_path = [m for m in metrics.by_name().values() if "model_path" in m.label_names]
    assert {len(metric.values()) for metric in by_path} == {MAX_VERSIONS + 1}


def test_a_peer_cannot_store_long_labels():
    """A label is cut, and what shares its beginning shares its cell."""
    counter, gauge = Counter("requests", "model_name"), Gauge("size", "model_name")
    long = "x" * MAX_LABEL_LENGTH

    counter.increment(long + "a" * 10**6)
    counter.increment(long + "b")
    gauge.set(7, long + "c")

    assert counter.values() == {(long,): 2}
    assert gauge.values() == {(long,): 7}


@pytest.mark.parametrize("labels", [(), ("a", "b", "c")])
def test_a_wrong_number_of_labels_is_a_mistake(labels):
    """The declaration says which labels a metric has."""
    with pytest.raises(ValueError, match="model_name"):
        Counter("requests", "model_name", "status").increment(*labels)


def test_every_metric_is_found_under_its_name():
    """The names are unique, sorted, and include those public dashboards are built on."""
    by_name = Metrics().by_name()

    assert list(by_name) == sorted(by_name)
    assert {metric.name for metric in by_name.values()} == set(by_name)
    assert len(by_name) == len(vars(Metrics()))
    assert by_name.keys() >= {
        "/tensorflow/serving/request_count",
        "/tensorflow/serving/request_latency",
        "/tensorflow/serving/runtime_latency",
        "/tensorflow/core/graph_runs",
        "/tensorflow/core/graph_run_time_usecs",
        "/tensorflow/core/graph_build_calls",
        "/tensorflow/core/graph_build_time_usecs",
    }


def test_two_servers_do_not_share_their_counts():
    """Metrics belong to the object they were made in."""
    one, other = Metrics(), Metrics()

    one.request_count.increment("mnist", "OK")

    assert other.request_count.values() == {}
