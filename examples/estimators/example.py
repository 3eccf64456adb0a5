"""Estimators of TensorFlow 2.15, served by today's.

``train.py`` runs with TensorFlow 2.15, in an environment that ``environment.py`` makes.  It trains
and exports five models and writes down what TensorFlow 2.15 answers to some tests.  Then they are
served as they are, timestamps for versions and all, and every signature is asked for every test
over gRPC and over REST.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import grpc
import numpy as np

import data
import environment
from client import Answers, Rows, Served, connected
from outcome import Outcome
from serving import Server, last_words, serving

HERE: Final = Path(__file__).resolve().parent
TOLERANCE: Final = 1e-5
NEAR: Final = 0.05
"""A keypoint is found if it is missed by no more than a twentieth of the picture's side."""
WORST_ERROR_RATE: Final = 0.2


class WrongAnswerError(Exception):
    """The server does not answer as TensorFlow 2.15 did."""


@dataclass(frozen=True)
class Expected:
    """Tests of one model: what is asked, what is true, and what TensorFlow 2.15 answered."""

    rows: Rows
    labels: Rows
    answers: Mapping[str, Answers]  # by signature


@dataclass(frozen=True)
class Model:
    """One of the exports, and how to tell from its answers which tests it got wrong."""

    name: str
    exported_with: str
    errors: Callable[[Mapping[str, Answers], Rows], np.ndarray]


def wrong_digit(signature: str, scores: str) -> Callable[[Mapping[str, Answers], Rows], np.ndarray]:
    """The tests whose likeliest digit is another than it should be."""
    return lambda answers, labels: np.argmax(answers[signature][scores], axis=1) != labels["digit"]


def missed_keypoint(answers: Mapping[str, Answers], labels: Rows) -> np.ndarray:
    """The tests where it sees a digit and there is none, or the reverse, or looks elsewhere."""
    found = answers["serving_default"]
    distance = np.hypot(
        found["pred_x_ratio"] - labels["x_ratio"], found["pred_y_ratio"] - labels["y_ratio"]
    )
    return (found["pred_v"] != labels["v"]) | ((labels["v"] == 1) & (distance > NEAR))


MODELS: Final = (
    Model("digits_parsing", "parsing receiver", wrong_digit("serving_default", "scores")),
    Model("digits_raw", "raw receiver", wrong_digit("predict", "probabilities")),
    Model("digits_two_heads", "two heads", wrong_digit("digit", "scores")),
    Model(
        "digits_named_outputs",
        "named export_outputs",
        wrong_digit("raw:serving_default", "scores"),
    ),
    Model("keypoint", "raw images", missed_keypoint),
)


def run(workdir: Path) -> list[Outcome]:
    """Train, export, serve and ask; raises if an answer is not TensorFlow 2.15's."""
    python = environment.python()
    train(python, workdir)
    with (
        serving([f"--model_config_file={config_file(workdir)}"], workdir) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        return [check(model, connected(model.name, channel, server), workdir) for model in MODELS]


def train(python: Path, workdir: Path) -> None:
    """Hand the digits to TensorFlow 2.15's process and wait for its exports."""
    digits = data.load()
    print(f"  {digits.source}", flush=True)
    digits_file, log = workdir / "digits.npz", workdir / "train.log"
    np.savez(
        digits_file,
        train_images=digits.train_images,
        train_labels=digits.train_labels,
        test_images=digits.test_images,
        test_labels=digits.test_labels,
    )
    with log.open("wb") as errors:
        done = subprocess.run(
            [python, HERE / "train.py", digits_file, workdir], stderr=errors, check=False
        )
    if done.returncode:
        raise RuntimeError(f"train.py ended with {done.returncode}: {last_words(log)}")


def config_file(workdir: Path) -> Path:
    """A model config file with all models, each below ``models/``."""
    entries = "".join(
        f'  config {{ name: "{model.name}" base_path: "{workdir / "models" / model.name}"'
        ' model_platform: "tensorflow" }\n'
        for model in MODELS
    )
    path = workdir / "models.config"
    path.write_text(f"model_config_list {{\n{entries}}}\n")
    return path


def check(model: Model, served: Served, workdir: Path) -> Outcome:
    """Ask every signature in both ways, and compare."""
    expected = read_expected(workdir / "answers" / f"{model.name}.npz")
    signatures = served.signatures()
    insist(set(signatures) == set(expected.answers), f"{model.name} has {sorted(signatures)}")
    insist_on_version(served.server, model.name, workdir)
    answers = {}
    for name, definition in sorted(signatures.items()):
        verb = definition.method_name.rpartition("/")[2]
        print(f"  {model.name}: {verb} with {name}", flush=True)
        answers[name] = served.over_grpc(name, definition, expected.rows)
        compare(f"{model.name} {name} over gRPC", answers[name], expected.answers[name])
        again = served.over_rest(name, definition, expected.rows)
        compare(f"{model.name} {name} over REST", again, expected.answers[name])
    if "ink" in signatures:
        for name, found in zip(
            ("digit", "ink"), served.multi_inference("digit", "ink", expected.rows), strict=True
        ):
            compare(f"{model.name} {name} by MultiInference", found, expected.answers[name])
    return outcome(model, expected, answers)


def outcome(model: Model, expected: Expected, answers: Mapping[str, Answers]) -> Outcome:
    """The model's row of the table."""
    errors = model.errors(answers, expected.labels)
    insist(errors.mean() <= WORST_ERROR_RATE, f"{model.name} errs at {errors.mean():.2%}")
    signatures = f"{len(answers)} signature{'s' * (len(answers) > 1)}"
    return Outcome(
        example=f"Estimator, {model.name}",
        exported_with=f"export_savedmodel, {model.exported_with}",
        served_by="salver serve",
        checked_against=f"TensorFlow 2.15, {signatures}",
        error_rate=f"{errors.mean():.2%}",
    )


def read_expected(path: Path) -> Expected:
    """What ``train.py`` wrote down."""
    groups: dict[str, Answers] = {}
    with np.load(path) as arrays:
        for key, values in arrays.items():
            group, _, name = key.partition("|")
            groups.setdefault(group, {})[name] = values
    return Expected(groups.pop("feature"), groups.pop("label"), groups)


def insist_on_version(server: Server, name: str, workdir: Path) -> None:
    """The version is the timestamp that the Estimator chose."""
    (exported,) = (path.name for path in (workdir / "models" / name).iterdir())
    (status,) = server.ask(f"/v1/models/{name}")["model_version_status"]
    insist((status["version"], status["state"]) == (exported, "AVAILABLE"), f"{name}: {status}")


def compare(what: str, found: Answers, expected: Answers) -> None:
    """The same outputs, the same numbers and words; a regression may have lost a dimension of 1."""
    insist(set(found) == set(expected), f"{what}: {sorted(found)}, not {sorted(expected)}")
    for name, values in expected.items():
        given = found[name].reshape(values.shape)
        if values.dtype.kind == "f":
            equal = np.allclose(given, values, rtol=TOLERANCE, atol=TOLERANCE)
        else:
            equal = bool(np.array_equal(given, values))
        insist(equal, f"{what}: {name} is {given.ravel()[:3]}…, not {values.ravel()[:3]}…")


def insist(is_so: bool, otherwise: str) -> None:
    """Nothing less will do."""
    if not is_so:
        raise WrongAnswerError(otherwise)
