"""Whose batching parameters count, and what becomes of wrong ones."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from fakes import FakeModelLoader, half_plus
from salver.batching.parameters import BatchingParameters
from salver.errors import InvalidArgument, NotFound, Unavailable
from salver.metrics import Metrics
from salver.model_server.batching import (
    FILE_OF_VERSION,
    MAX_WAITING_CALLS,
    Batching,
    BatchingLoaders,
    BatchingMetrics,
    batching_of,
    batching_of_flags,
)
from salver.model_server.options import Options, usable_cpus
from salver.model_server.platform_config import platform_of_flags
from salver.protos import config_pb2
from salver.servables.batched import BatchedServable

SMALL = "max_batch_size { value: 1 }"


def message(text: str) -> config_pb2.BatchingParameters:
    return text_format.Parse(text, config_pb2.BatchingParameters())


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_nothing_is_batched_without_the_flag(caplog: pytest.LogCaptureFixture):
    """A flag that has no effect without it is told of."""
    with caplog.at_level(logging.WARNING):
        found = batching_of_flags(Options(enable_per_model_batching_parameters=True))

    assert found is None
    assert caplog.messages == [
        "enable_per_model_batching_parameters has no effect without enable_batching"
    ]


def test_without_a_file_the_defaults_are_tensorflow_servings():
    """Those of the message, with another name for the threads."""
    found = platform_of_flags(Options(enable_batching=True)).batching

    assert found == Batching(BatchingParameters(thread_pool_name="model_server_batch_threads"))
    assert found.num_threads == usable_cpus()


def test_file_of_parameters_is_read(tmp_path: Path):
    """Once, for all models."""
    file = written(tmp_path / "batching", "num_batch_threads { value: 3 } " + SMALL)

    found = batching_of_flags(Options(enable_batching=True, batching_parameters_file=file))

    assert found is not None
    assert found.num_threads == 3
    assert found.parameters.max_batch_size == 1


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("max_batch_sise { value: 1 }", InvalidArgument, "Invalid protobuf file"),
        ("num_batch_threads { value: 0 }", InvalidArgument, "must be positive; was 0"),
        (None, NotFound, "batching"),
    ],
)
def test_file_that_cannot_be_used_ends_the_start(
    tmp_path: Path, text: str | None, error: type[Exception], words: str
):
    """Before anything is loaded."""
    file = tmp_path / "batching"
    if text is not None:
        file.write_text(text)

    with pytest.raises(error, match=words):
        batching_of_flags(Options(enable_batching=True, batching_parameters_file=str(file)))


def test_wrong_parameters_fail_every_load(tmp_path: Path):
    """As in TensorFlow Serving, and not the start."""
    inner = FakeModelLoader(half_plus(2))
    batching = batching_of(message("allowed_batch_sizes: 3"))

    loader = BatchingLoaders(Metrics()).around(inner, tmp_path, batching)

    with pytest.raises(InvalidArgument, match="last entry was 3; expected 1000"):
        loader.load()
    assert inner.calls == []


def test_version_that_is_not_batched_has_its_loader_as_it_is(tmp_path: Path):
    """Batching that is off costs nothing."""
    inner = FakeModelLoader(half_plus(2))

    assert BatchingLoaders(Metrics()).around(inner, tmp_path, None) is inner


def test_versions_have_parameters_of_their_own(tmp_path: Path):
    """Where the folder has them, and a number of threads counts only in the file for all."""
    (tmp_path / FILE_OF_VERSION).write_text("num_batch_threads { value: 0 } " + SMALL)
    batching = batching_of(message("max_batch_size { value: 9 }"), by_version=True)
    loader = BatchingLoaders(Metrics()).around(FakeModelLoader(half_plus(2)), tmp_path, batching)
    loader.load()
    servable = loader.servable()

    with pytest.raises(InvalidArgument, match="Task size 2 is larger than maximum input batch"):
        servable.run({"x:0": np.zeros(2, np.float32)}, ["y:0"])


def test_version_without_a_file_is_not_batched(tmp_path: Path):
    """Though the file for all is not empty."""
    batching = batching_of(message(SMALL), by_version=True)
    loader = BatchingLoaders(Metrics()).around(FakeModelLoader(half_plus(2)), tmp_path, batching)
    loader.load()

    assert not isinstance(loader.servable(), BatchedServable)


@pytest.mark.parametrize(
    ("text", "words"),
    [("max_batch_sise: 1", "Invalid protobuf file"), ("max_batch_size { }", "input_batch_size")],
)
def test_file_of_a_version_that_cannot_be_used_fails_its_load(
    tmp_path: Path, text: str, words: str
):
    """And nobody else's."""
    (tmp_path / FILE_OF_VERSION).write_text(text)
    batching = batching_of(message(""), by_version=True)
    loader = BatchingLoaders(Metrics()).around(FakeModelLoader(half_plus(2)), tmp_path, batching)

    with pytest.raises(InvalidArgument, match=words):
        loader.load()


def test_batches_are_run_and_end_with_the_server(tmp_path: Path):
    """On threads of their own."""
    batching = batching_of(message("max_batch_size { value: 2 }"))
    feeds = {"x:0": np.array([2, 4], np.float32)}

    with BatchingLoaders(Metrics()) as loaders:
        loader = loaders.around(FakeModelLoader(half_plus(2)), tmp_path, batching)
        loader.load()
        servable = loader.servable()
        (output,) = servable.run(feeds, ["y:0"])

    assert output.tolist() == [3, 4]
    with pytest.raises(Unavailable, match="the server ends"):
        servable.run(feeds, ["y:0"])


@pytest.mark.parametrize(
    ("text", "by_version", "calls"),
    [
        (
            (
                "max_batch_size { value: 8 } max_enqueued_batches { value: 3 } "
                "num_batch_threads { value: 2 }"
            ),
            False,
            41,
        ),
        ("", False, MAX_WAITING_CALLS),
        ("max_batch_size { value: 1 }", True, MAX_WAITING_CALLS),
    ],
)
def test_as_many_calls_may_wait_as_fill_the_queue(text: str, by_version: bool, calls: int):
    """Each on a thread of its own, within a bound."""
    assert batching_of(message(text), by_version=by_version).waiting_calls == calls


def test_batches_are_counted_in_tensorflow_servings_names():
    """With its bounds, and the label of threads that it leaves empty."""
    metrics = Metrics()
    counted = BatchingMetrics(metrics)

    counted.left_queue([50.0, 110.0])
    counted.will_run([1, 2], 3, 1)

    by_name = metrics.by_name()
    session = "/tensorflow/serving/batching_session"
    assert {name for name in by_name if name.startswith(session)} == {
        f"{session}/queuing_latency",
        f"{session}/wrapped_run_count",
        f"{session}/padding_size",
        f"{session}/input_batch_size",
        f"{session}/processed_batch_size",
    }
    waited = metrics.batch_queuing_latency
    assert waited.label_names == ("thread_pool_name",)
    assert waited.values()[("",)].counts[:3] == (1, 1, 0)
    assert (len(waited.bounds), waited.bounds[1]) == (52, 120)
    assert metrics.batch_wrapped_run_count.values() == {(): 1}
    assert metrics.batch_padding_size.label_names == ("execution_batch_size",)
    assert metrics.batch_padding_size.values()[("4",)].sum == 1
    assert metrics.batch_padding_size.bounds == tuple(2**power for power in range(14))
    assert metrics.batch_input_size.values()[()].sum == 3
    assert metrics.batch_input_size.values()[()].count == 2
    assert metrics.batch_processed_size.values()[()].sum == 4
