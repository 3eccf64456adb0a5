"""The Prometheus page is TensorFlow Serving's, and safe to scrape."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import InvalidArgument, NotFound
from salver.metrics import Metrics
from salver.model_server.monitoring import page, page_path

SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{(.*)\} (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\["\\n])*)"(?:,|$)')


def scraped(text):
    """The samples of a page as a scraper reads them: (name, labels) → value."""
    samples = {}
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# TYPE "):
            continue
        name, labels, value = SAMPLE.fullmatch(line).groups()
        assert LABEL.sub("", labels) == "", line
        pairs = tuple((key, unescaped(raw)) for key, raw in LABEL.findall(labels))
        samples[name, pairs] = float(value)
    return samples


def unescaped(raw):
    return re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), raw)


def test_a_fresh_server_shows_the_type_of_every_metric():
    """Metrics without cells have their TYPE line, sorted by name, and nothing else."""
    lines = page(Metrics()).decode().splitlines()

    assert "# TYPE :tensorflow:serving:request_count counter" in lines
    assert "# TYPE :tensorflow:serving:request_latency histogram" in lines
    assert "# TYPE salver_models_ready gauge" in lines
    assert lines == sorted(lines)
    assert len(lines) == len(Metrics().by_name())


def test_counters_are_written_in_full_and_sorted_by_their_labels():
    """A count has all its digits; an unlabelled one has empty braces; the last line is ended."""
    metrics = Metrics()
    metrics.graph_runs.increment(by=5)
    metrics.request_count.increment("mnist", "OK", by=123_456_789)
    metrics.request_count.increment("mnist", "INTERNAL")
    metrics.request_count.increment("iris", "OK")

    text = page(metrics).decode()

    assert ":tensorflow:core:graph_runs{} 5\n" in text
    assert (
        "# TYPE :tensorflow:serving:request_count counter\n"
        ':tensorflow:serving:request_count{model_name="iris",status="OK"} 1\n'
        ':tensorflow:serving:request_count{model_name="mnist",status="INTERNAL"} 1\n'
        ':tensorflow:serving:request_count{model_name="mnist",status="OK"} 123456789\n'
    ) in text
    assert text.endswith("\n")


def test_a_histogram_is_cumulative_and_has_tensorflow_servings_bounds():
    """Buckets add up to the count, and the bounds are spelt with six digits."""
    metrics = Metrics()
    for latency_us in (12.5, 700_000, 2e9):
        metrics.request_latency.observe(latency_us, "mnist", "predict", "REST")

    lines = page(metrics).decode().splitlines()

    name = ":tensorflow:serving:request_latency"
    labels = 'model_name="mnist",API="predict",entrypoint="REST"'
    assert f'{name}_bucket{{{labels},le="10"}} 0' in lines
    assert f'{name}_bucket{{{labels},le="18"}} 1' in lines
    assert f'{name}_bucket{{{labels},le="708235"}} 2' in lines
    assert f'{name}_bucket{{{labels},le="1.27482e+06"}} 2' in lines
    assert f'{name}_bucket{{{labels},le="+Inf"}} 3' in lines
    assert f"{name}_sum{{{labels}}} 2000700012.5" in lines
    assert f"{name}_count{{{labels}}} 3" in lines


def test_an_unlabelled_histogram_has_braces_where_tensorflow_serving_has_them():
    """The bound is the only label of a bucket; sum and count have none."""
    metrics = Metrics()
    metrics.event_loop_lag.observe(0.002)

    lines = page(metrics).decode().splitlines()

    assert 'salver_event_loop_lag_seconds_bucket{le="0.001"} 0' in lines
    assert 'salver_event_loop_lag_seconds_bucket{le="+Inf"} 1' in lines
    assert "salver_event_loop_lag_seconds_sum{} 0.002" in lines
    assert "salver_event_loop_lag_seconds_count{} 1" in lines


@given(st.lists(st.text(), unique=True, max_size=5))
def test_a_name_cannot_break_out_of_its_quotes(names):
    """Whatever a peer calls a model, a scraper reads one sample per model and its very name."""
    metrics = Metrics()
    for name in names:
        metrics.request_count.increment(name, "NOT_FOUND")

    samples = scraped(page(metrics).decode())

    assert samples == {
        (":tensorflow:serving:request_count", (("model_name", name), ("status", "NOT_FOUND"))): 1
        for name in names
    }


def test_a_name_that_is_no_text_can_be_written():
    """A lone surrogate, which UTF-8 cannot spell, is escaped."""
    metrics = Metrics()
    metrics.request_count.increment("\udcff", "NOT_FOUND")

    assert b'model_name="\\udcff"' in page(metrics)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('prometheus_config { enable: true, path: "/metrics" }', "/metrics"),
        ("prometheus_config: { enable: true }", "/monitoring/prometheus/metrics"),
        ('prometheus_config { enable: false; path: "/metrics" }', None),
        ('prometheus_config { path: "/metrics" }', None),
        ("# nothing yet\n", None),
    ],
)
def test_the_file_says_whether_and_where_the_page_is(tmp_path, text, path):
    """The page is off unless enabled, and has TensorFlow Serving's path unless given another."""
    file = tmp_path / "monitoring.config"
    file.write_text(text)

    assert page_path(str(file)) == path


def test_without_a_file_there_is_no_page():
    """The page is off by default."""
    assert page_path("") is None


@pytest.mark.parametrize("content", [b"prometheus_config { enabled: true }", b"{", b"\xff"])
def test_a_file_that_cannot_be_understood_is_refused(tmp_path, content, caplog):
    """A misspelt field must not pass for a page that was never wanted; the log says where it is."""
    file = tmp_path / "monitoring.config"
    file.write_bytes(content)

    with pytest.raises(InvalidArgument) as refused:
        page_path(str(file))

    assert refused.value.message == f"Invalid protobuf file: '{file}'"
    assert "MonitoringConfig" in caplog.text


def test_an_empty_file_is_refused(tmp_path):
    """TensorFlow Serving cannot map an empty file into memory, and says so."""
    file = tmp_path / "monitoring.config"
    file.touch()

    with pytest.raises(InvalidArgument, match=r"monitoring\.config; Invalid argument"):
        page_path(str(file))


def test_a_missing_file_is_not_found(tmp_path):
    """The path that was asked for is named."""
    with pytest.raises(NotFound, match="nowhere; No such file or directory"):
        page_path(str(tmp_path / "nowhere"))
