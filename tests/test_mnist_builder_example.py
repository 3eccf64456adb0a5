"""The MNIST tutorial of TensorFlow Serving as an example, from end to end, and its complaints."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from example_run import EXAMPLES, cells, run_example
from saved_models import tensorflow
from server_process import free_ports

pytest.importorskip("tensorflow_serving", reason="the examples' clients use its stubs")
pytest.importorskip("sklearn", reason="the examples train on its digits where MNIST cannot be had")

USAGE = "Usage: mnist_saved_model.py [--training_iteration=x] [--model_version=y] export_dir"


def positions(lines: list[str], *patterns: str) -> list[int]:
    """Where the first line stands that each pattern matches."""
    return [
        next(at for at, line in enumerate(lines) if re.fullmatch(pattern, line))
        for pattern in patterns
    ]


def test_the_mnist_tutorial_of_tensorflow_serving():
    """Trained, exported by the builder, served and asked a thousand times: the lines it prints."""
    lines = run_example("mnist_builder")

    at = positions(
        lines,
        r"Training model\.\.\.",
        r"training accuracy 0\.\d+",
        "Done training!",
        r"Exporting trained model to \S+/mnist/1",
        "Done exporting!",
        r"\.{1000}",
        r"Inference error rate: \d+\.\d\d%",
    )
    *columns, error_rate = cells(lines[-1])
    assert at == sorted(at)
    assert columns == [
        "MNIST softmax, SavedModel builder",
        "tf.compat.v1.saved_model.builder",
        "tensorflow_model_server",
        "Session.run of the trained graph",
    ]
    assert lines[at[-1]] == f"Inference error rate: {error_rate}"


@pytest.fixture(scope="module")
def exporter() -> Callable[[list[str]], None]:
    """The ``main`` of mnist_saved_model.py."""
    return main_of("mnist_builder/mnist_saved_model.py")


@pytest.fixture(scope="module")
def client() -> Callable[[list[str]], int]:
    """The ``main`` of mnist_client.py."""
    return main_of("mnist_builder/mnist_client.py")


def main_of(script: str) -> Callable[[list[str]], int]:
    """A script's ``main``, with the import path as it was."""
    tensorflow()
    path = list(sys.path)
    try:
        return runpy.run_path(str(EXAMPLES / script))["main"]
    finally:
        sys.path[:] = path


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], USAGE),
        (["--model_version=2"], USAGE),
        (
            ["--training_iteration=0", "/tmp/mnist"],  # noqa: S108 - nothing is written
            "Please specify a positive value for training iteration.",
        ),
        (
            ["--model_version=-1", "/tmp/mnist"],  # noqa: S108 - nothing is written
            "Please specify a positive value for version number.",
        ),
    ],
)
def test_the_exporter_complains_as_the_tutorials_does(
    exporter, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
):
    """The texts and the status are those of TensorFlow Serving's program."""
    with pytest.raises(SystemExit) as ended:
        exporter(words)

    assert (capsys.readouterr().out, ended.value.code) == (f"{complaint}\n", -1)


def test_the_exporter_leaves_a_version_that_is_there_alone(
    exporter, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """A server may be using it."""
    (tmp_path / "3").mkdir()

    with pytest.raises(SystemExit):
        exporter(["--model_version=3", str(tmp_path)])

    assert capsys.readouterr().out == f"{tmp_path} already has a version 3.\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "please specify server host:port"),
        (["--num_tests=1000"], "please specify server host:port"),
        (["--num_tests=10001"], "num_tests should not be greater than 10k"),
    ],
)
def test_the_client_complains_as_the_tutorials_does(
    client, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
):
    """The texts are those of TensorFlow Serving's program."""
    status = client(words)

    assert (capsys.readouterr().out, status) == (f"{complaint}\n", 1)


def test_a_request_that_fails_counts_as_an_error(client, capsys: pytest.CaptureFixture[str]):
    """Where nobody listens all do, and the reason is told once."""
    port, _ = free_ports()

    status = client([f"--server=127.0.0.1:{port}", "--num_tests=3", "--concurrency=2"])

    printed = capsys.readouterr().out
    assert status == 1
    assert "3 requests failed: UNAVAILABLE: " in printed
    assert printed.endswith("\nInference error rate: 100.00%\n")
