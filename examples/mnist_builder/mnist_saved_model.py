"""TensorFlow Serving's first exporter: softmax regression, saved with the SavedModel builder.

    mnist_saved_model.py [--training_iteration=N] [--model_version=N] [--answers=FILE] EXPORT_DIR

The command line and what is printed are those of TensorFlow Serving's tutorial; so are the two
signatures: ``predict_images`` takes ``images`` and gives ``scores``, ``serving_default`` classifies
serialized ``tf.Example`` messages and names the classes by a lookup table.  The graph and the
``tf.compat.v1.saved_model.builder`` that saves it are in ``mnist/train_softmax.py``.

``--answers`` is our own: what the trained model itself says about test images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "mnist"))

import tensorflow.compat.v1 as tf

import data
import train_softmax
from answers import Answers

USAGE: Final = "Usage: mnist_saved_model.py [--training_iteration=x] [--model_version=y] export_dir"
ANSWERED_IMAGES: Final = 100


class Parser(argparse.ArgumentParser):
    """Ends the program as the tutorial's does."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and how to call it."""
        end(f"{message}\n{USAGE}")


def main(arguments: list[str]) -> None:
    """Train, test, export."""
    options = parse_arguments(arguments)
    print("Training model...", flush=True)
    digits = data.load()
    tf.disable_eager_execution()
    tf.logging.set_verbosity(tf.logging.ERROR)  # it warns that all this is TensorFlow 1
    network = train_softmax.build(hidden_units=0)
    with tf.Session() as session:
        train_softmax.train(session, network, digits, options.training_iteration)
        feeds = {network.images: digits.test_images, network.labels: digits.test_labels}
        print(f"training accuracy {session.run(network.accuracy, feeds):g}")
        print("Done training!")
        if options.answers:
            answer(session, network, digits).save(options.answers)
        print(f"Exporting trained model to {options.export_dir / str(options.model_version)}")
        train_softmax.export(session, network, options.export_dir, options.model_version)
    print("Done exporting!")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line, with the tutorial's names, defaults and complaints."""
    if not arguments or arguments[-1].startswith("-"):
        end(USAGE)
    parser = Parser(add_help=False)
    parser.add_argument("--training_iteration", type=int, default=1000)
    parser.add_argument("--model_version", type=int, default=1)
    parser.add_argument("--answers", type=Path)
    parser.add_argument("export_dir", type=Path)
    parsed = parser.parse_args(arguments)
    if parsed.training_iteration <= 0:
        end("Please specify a positive value for training iteration.")
    if parsed.model_version <= 0:
        end("Please specify a positive value for version number.")
    if (parsed.export_dir / str(parsed.model_version)).exists():
        end(f"{parsed.export_dir} already has a version {parsed.model_version}.")
    return parsed


def answer(session: Any, network: train_softmax.Network, digits: data.Digits) -> Answers:
    """What TensorFlow says about the first test images."""
    images, labels = digits.test_images[:ANSWERED_IMAGES], digits.test_labels[:ANSWERED_IMAGES]
    return Answers(images, labels, session.run(network.scores, {network.images: images}))


def end(complaint: str) -> NoReturn:
    """Say why, and end with the status of the tutorial's program."""
    print(complaint)
    sys.exit(-1)


if __name__ == "__main__":
    main(sys.argv[1:])
