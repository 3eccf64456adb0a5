"""The MNIST tutorial of TensorFlow Serving: train, export with the builder, serve, ask.

    mnist_saved_model.py /tmp/mnist
    tensorflow_model_server --model_name=mnist --model_base_path=/tmp/mnist
    mnist_client.py --num_tests=1000 --server=localhost:8500

Both signatures are asked, too, and have to answer as the trained model does.
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
SERVER: Final = "tensorflow_model_server"
MODEL: Final = "/v1/models/mnist"
CLASSES: Final = 10


def run(workdir: Path) -> Outcome:
    """The tutorial, from the first command to the last."""
    models, answers_file = workdir / "mnist", workdir / "answers.npz"
    run_script(HERE / "mnist_saved_model.py", f"--answers={answers_file}", str(models))
    answers = Answers.load(answers_file)
    flags = ["--model_name=mnist", f"--model_base_path={models}"]
    with serving(flags, workdir, command=[SERVER]) as server:
        answers.check(predict(server, answers.images))
        answers.check(classify(server, answers.images))
        server_flag = f"--server={server.grpc_address}"
        printed = run_script(
            HERE / "mnist_client.py", "--num_tests=1000", "--concurrency=8", server_flag
        )
    return Outcome(
        example="MNIST softmax, SavedModel builder",
        exported_with="tf.compat.v1.saved_model.builder",
        served_by=SERVER,
        checked_against="Session.run of the trained graph",
        error_rate=error_rate(printed),
    )


def predict(server: Server, images: np.ndarray) -> Any:
    """The scores, by the signature that takes images."""
    body = {"signature_name": "predict_images", "instances": images.tolist()}
    return server.ask(f"{MODEL}:predict", body)["predictions"]


def classify(server: Server, images: np.ndarray) -> list[list[float]]:
    """The same by the default signature, which names each digit and puts the likeliest first."""
    body = {"examples": [{"x": image} for image in images.tolist()]}
    return [in_order(result) for result in server.ask(f"{MODEL}:classify", body)["results"]]


def in_order(result: list[tuple[str, float]]) -> list[float]:
    """The scores of the digits 0 to 9."""
    scores = dict(result)
    return [scores[str(digit)] for digit in range(CLASSES)]
