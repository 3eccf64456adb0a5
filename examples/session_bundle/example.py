"""A legacy SessionBundle: train, export as of 2016, serve, ask by both of its signatures.

    mnist_export.py /tmp/mnist_bundle
    salver serve --model_name=mnist --model_base_path=/tmp/mnist_bundle

``tensorflow_model_server`` refuses it, as TensorFlow Serving does, unless it is told
``--load_session_bundles``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from answers import Answers, error_rate
from outcome import Outcome
from scripts import run_script
from serving import Server, serving

HERE: Final = Path(__file__).resolve().parent
MODEL: Final = "/v1/models/mnist"
CLASSES: Final = 10


def run(workdir: Path) -> Outcome:
    """From the training to the answers of a server, which have to be the model's own."""
    models, answers_file = workdir / "mnist", workdir / "answers.npz"
    run_script(HERE / "mnist_export.py", f"--answers={answers_file}", str(models))
    answers = Answers.load(answers_file)
    flags = ["--model_name=mnist", f"--model_base_path={models}"]
    with serving(flags, workdir) as server:
        scores = predict(server, answers.images)
        answers.check(scores)
        answers.check(classify(server, answers.images))
    wrong = np.mean(np.argmax(scores, axis=1) != answers.labels)
    printed = f"Inference error rate: {wrong:.2%}"
    print(f"  {printed}")
    return Outcome(
        example="MNIST softmax, legacy SessionBundle",
        exported_with="export.meta and a sharded Saver, format V1",
        served_by="salver serve",
        checked_against="Session.run of the trained graph",
        error_rate=error_rate(printed),
    )


def predict(server: Server, images: np.ndarray) -> Any:
    """The scores, by what the signatures ``inputs`` and ``outputs`` have become."""
    body = {"signature_name": "predict", "instances": images.tolist()}
    return server.ask(f"{MODEL}:predict", body)["predictions"]


def classify(server: Server, images: np.ndarray) -> list[list[float]]:
    """The same by the default signature, which names each digit and puts the likeliest first."""
    body = {"examples": [{"x": image} for image in images.tolist()]}
    results = server.ask(f"{MODEL}:classify", body)["results"]
    by_digit = [dict(result) for result in results]
    return [[scores[str(digit)] for digit in range(CLASSES)] for scores in by_digit]
