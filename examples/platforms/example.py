"""Three platforms that come with no server: a lookup table, a class, and models made of models.

    pip install examples/platforms
    salver serve --model_config_file=models.config

The composite asks a SavedModel and the class, and answers with the mean of both.  Then a table is
replaced while it is served, counted, and unloaded, as a SavedModel would be.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import data
from answers import RELATIVE_TOLERANCE, Answers, DifferentAnswerError
from exporting import new_version
from nearest_digit import NearestDigit
from outcome import Outcome
from scripts import run_script
from serving import NotServedError, Server, serving

HERE: Final = Path(__file__).resolve().parent
TRAIN: Final = HERE.parent / "mnist_builder" / "mnist_saved_model.py"

WORDS: Final = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PATIENCE_S: Final = 30.0
METRICS: Final = "/monitoring/prometheus/metrics"
COUNTED: Final = ':tensorflow:serving:request_latency_count{model_name="words",API="predict"'

COMPOSITE: Final = {
    "parts": {
        "softmax": {"platform": "tensorflow", "path": "softmax"},
        "nearest": {"platform": "nearest_digit", "path": "nearest"},
        "words": {"platform": "lookup_table", "path": "words"},
    },
    "signatures": {
        "serving_default": {
            "steps": [
                {
                    "part": "softmax",
                    "signature": "predict_images",
                    "takes": {"images": "images"},
                    "gives": {"scores": "by_softmax"},
                },
                {
                    "part": "nearest",
                    "signature": "serving_default",
                    "takes": {"images": "images"},
                    "gives": {"scores": "by_nearest"},
                },
            ],
            "outputs": {"scores": ["by_softmax", "by_nearest"]},
        },
        "read_out": {
            "steps": [
                {
                    "part": "nearest",
                    "signature": "serving_default",
                    "takes": {"images": "images"},
                    "gives": {"digits": "digits"},
                },
                {
                    "part": "words",
                    "signature": "serving_default",
                    "takes": {"keys": "digits"},
                    "gives": {"values": "words"},
                },
            ],
            "outputs": {"words": "words"},
        },
    },
}


def run(workdir: Path) -> list[Outcome]:
    """Install the platforms, make a model for each, serve them, and ask."""
    site, models = workdir / "site", workdir / "models"
    install(site, workdir)
    digits = data.load()
    answers = write_models(models, workdir, digits)
    config = write_config(workdir, models, ["words", "nearest", "digits"])
    monitoring = workdir / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    flags = [
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=1",
        f"--monitoring_config_file={monitoring}",
    ]
    with serving(flags, workdir, environment={"PYTHONPATH": str(site)}) as server:
        outcomes = [
            ask_table(server),
            ask_class(server, models / "nearest" / "1", digits),
            ask_composite(server, models / "digits" / "1" / "nearest", answers),
        ]
        replace_and_unload(server, workdir, models)
    return outcomes


def install(site: Path, workdir: Path) -> None:
    """What ``pip install`` does, into a folder that goes away with the example."""
    source = workdir / "platforms"
    source.mkdir()
    for file in (*HERE.glob("*.py"), HERE / "pyproject.toml"):
        shutil.copy(file, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True)


def write_models(models: Path, workdir: Path, digits: data.Digits) -> Answers:
    """A version of each model, and what TensorFlow says to the images it was tested with."""
    answers_file, trained = workdir / "answers.npz", workdir / "trained"
    run_script(TRAIN, "--training_iteration=300", f"--answers={answers_file}", str(trained))
    write_table(models / "words", 1, WORDS)
    with new_version(models / "nearest", 1) as folder:
        write_averages(folder, digits)
    with new_version(models / "digits", 1) as folder:
        shutil.copytree(trained / "1", folder / "softmax")
        write_averages(folder / "nearest", digits)
        write_lines(folder / "words", WORDS)
        (folder / "composite.json").write_text(json.dumps(COMPOSITE, indent=2))
    return Answers.load(answers_file)


def write_averages(folder: Path, digits: data.Digits) -> None:
    """The average image of each digit: all that the class has to learn."""
    folder.mkdir(parents=True)
    averages = [digits.train_images[digits.train_labels == digit].mean(0) for digit in range(10)]
    np.save(folder / "averages.npy", np.array(averages, np.float32))


def write_table(base_path: Path, version: int, words: Sequence[str]) -> None:
    """A version of a table from digits to words."""
    with new_version(base_path, version) as folder:
        write_lines(folder, words)


def write_lines(folder: Path, words: Sequence[str]) -> None:
    """The file of a table."""
    folder.mkdir(parents=True)
    lines = [f"{digit},{word}\n" for digit, word in enumerate(words)]
    (folder / "table.csv").write_text("".join(lines))


def write_config(workdir: Path, models: Path, names: Sequence[str]) -> Path:
    """Which models to serve, and by which platform."""
    platforms = {"words": "lookup_table", "nearest": "nearest_digit", "digits": "composite"}
    config = workdir / "models.config"
    unfinished = config.with_suffix(".unfinished")
    unfinished.write_text(
        "model_config_list {\n"
        + "".join(
            f'  config {{ name: "{name}" base_path: "{models / name}" '
            f'model_platform: "{platforms[name]}" }}\n'
            for name in names
        )
        + "}\n"
    )
    unfinished.rename(config)
    return config


def ask_table(server: Server) -> Outcome:
    """Every key, and one that there is not."""
    keys = [str(digit) for digit in range(10)]
    answer = predict(server, "words", [*keys, "ten"])
    expected = [
        *({"values": word, "found": True} for word in WORDS),
        {"values": "", "found": False},
    ]
    check(answer == expected, "words", answer)
    return Outcome(
        example="a lookup table as a servable",
        exported_with="a file of keys and values",
        served_by="salver serve, platform lookup_table",
        checked_against="the file",
        error_rate="0.00%",
    )


def ask_class(server: Server, version: Path, digits: data.Digits) -> Outcome:
    """Images in both of the class's signatures; the class itself has to say the same."""
    images, labels = digits.test_images[:500], digits.test_labels[:500]
    own = NearestDigit(version).predict({"images": images})
    served = predict(server, "nearest", images.tolist())
    scores = np.array([row["scores"] for row in served])
    check(np.allclose(scores, own["scores"], RELATIVE_TOLERANCE), "nearest", scores)
    check([row["digits"] for row in served] == own["digits"], "nearest", served[:3])
    body = {
        "signature_name": "classify",
        "examples": [{"x": image} for image in images[:10].tolist()],
    }
    classified = server.ask("/v1/models/nearest:classify", body)["results"]
    likeliest = [max(result, key=lambda pair: pair[1])[0] for result in classified]
    check(likeliest == own["digits"][:10], "nearest", likeliest)
    wrong = np.mean(
        [int(row["digits"]) != label for row, label in zip(served, labels, strict=True)]
    )
    return Outcome(
        example="a class in Python as a servable",
        exported_with="numpy.save",
        served_by="salver serve, platform nearest_digit",
        checked_against="the class itself",
        error_rate=f"{wrong:.2%}",
    )


def ask_composite(server: Server, nearest: Path, answers: Answers) -> Outcome:
    """The mean of what TensorFlow says and what the class says; a pipeline; and a part alone."""
    images = answers.images.tolist()
    own = NearestDigit(nearest).predict({"images": answers.images})
    scores = np.array(predict(server, "digits", images))
    expected = (answers.scores + own["scores"]) / 2
    check(np.allclose(scores, expected, 1e-3, 1e-5), "digits", scores[:3])
    answers.check(predict(server, "digits", images, "softmax/predict_images"))
    words = predict(server, "digits", images, "read_out")
    check(words == [WORDS[int(digit)] for digit in own["digits"]], "digits", words[:3])
    return Outcome(
        example="a composite: SavedModel + class + table",
        exported_with="composite.json over three versions",
        served_by="salver serve, platform composite",
        checked_against="Session.run and the class",
        error_rate=f"{np.mean(scores.argmax(1) != answers.labels):.2%}",
    )


def replace_and_unload(server: Server, workdir: Path, models: Path) -> None:
    """A second version takes over; requests were counted; a model that is left out goes."""
    write_table(models / "words", 2, [word.upper() for word in WORDS])
    wait_until(lambda: states(server, "words") == {"1": "END", "2": "AVAILABLE"}, "version 2")
    answer = predict(server, "words", ["7"])
    check(answer == [{"values": "SEVEN", "found": True}], "words", answer)
    with urllib.request.urlopen(server.url(METRICS)) as page:  # noqa: S310 (ours)
        counted = [line for line in page.read().decode().splitlines() if line.startswith(COUNTED)]
    check([line.split()[-1] for line in counted] == ["2"], "words", counted)
    write_config(workdir, models, ["nearest", "digits"])
    wait_until(lambda: states(server, "words") == {"1": "END", "2": "END"}, "the end of words")


def predict(
    server: Server, model: str, instances: Sequence[Any], signature: str = "serving_default"
) -> list[Any]:
    """The predictions for some instances."""
    body = {"signature_name": signature, "instances": instances}
    predictions: list[Any] = server.ask(f"/v1/models/{model}:predict", body)["predictions"]
    return predictions


def states(server: Server, model: str) -> Mapping[str, str]:
    """The state of each version of a model."""
    answer = server.ask(f"/v1/models/{model}")
    return {entry["version"]: entry["state"] for entry in answer["model_version_status"]}


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise NotServedError(f"{what} did not come within {PATIENCE_S:g} s")
        time.sleep(0.1)


def check(is_right: object, model: str, answer: object) -> None:
    """Fail the example if an answer is not what it should be."""
    if not is_right:
        raise DifferentAnswerError(f"model {model} answered {answer}")
