"""Train a model of one's own class and export its ``call`` as a signature of that name.

    export_custom.py [--model_version=N] [--epochs=N] [--answers=FILE] EXPORT_DIR

``call`` is a ``tf.function`` with an ``input_signature``, which names the input ``images``; the
dictionary that it returns names the outputs ``scores`` and ``digit``.  There is no
``serving_default``, so clients have to name the signature.

``--answers`` writes what the trained model itself says about test images.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "mnist"))

import keras
import tensorflow as tf

import data
from answers import Answers
from exporting import new_version

PIXELS: Final = 784
HIDDEN_UNITS: Final = 64
CLASSES: Final = 10
TRAIN_IMAGES: Final = 10_000
ANSWERED_IMAGES: Final = 100


class DigitModel(keras.Model):
    """One hidden layer, and an answer of two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(HIDDEN_UNITS, activation="relu")
        self.last = keras.layers.Dense(CLASSES, activation="softmax")

    def build(self, input_shape: Any) -> None:
        """Make the variables, which must be there before ``call`` is traced."""
        self.hidden.build(input_shape)
        self.last.build((None, HIDDEN_UNITS))

    @tf.function(input_signature=[tf.TensorSpec([None, PIXELS], tf.float32, name="images")])
    def call(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The score of each digit, and the digit with the highest."""
        scores = self.last(self.hidden(images))
        return {"scores": scores, "digit": tf.argmax(scores, axis=1)}


def main(arguments: list[str]) -> None:
    """Train, test, export."""
    options = parse_arguments(arguments)
    digits = data.load()
    print(f"Training on {digits.source}", flush=True)
    keras.utils.set_random_seed(1)
    model = DigitModel()
    model.compile("adam", loss={"scores": "sparse_categorical_crossentropy"})
    images, labels = digits.train_images[:TRAIN_IMAGES], digits.train_labels[:TRAIN_IMAGES]
    model.fit(images, {"scores": labels}, epochs=options.epochs, verbose=0)
    seen = model.call(tf.constant(digits.test_images))["digit"].numpy()
    print(f"Test accuracy: {(seen == digits.test_labels).mean():.4f}")
    if options.answers:
        asked = digits.test_images[:ANSWERED_IMAGES]
        scores = model.call(tf.constant(asked))["scores"].numpy()
        Answers(asked, digits.test_labels[:ANSWERED_IMAGES], scores).save(options.answers)
    with new_version(options.export_dir, options.model_version) as folder:
        tf.saved_model.save(model, str(folder), signatures={"call": model.call})
    print(f"Exported to {options.export_dir / str(options.model_version)}")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train and export a custom keras.Model.")
    parser.add_argument("--model_version", type=int, default=1, metavar="N")
    parser.add_argument("--epochs", type=int, default=8, metavar="N")
    parser.add_argument("--answers", type=Path, metavar="FILE")
    parser.add_argument("export_dir", type=Path)
    parsed = parser.parse_args(arguments)
    if parsed.model_version < 1 or parsed.epochs < 1:
        parser.error("versions and epochs start at 1")
    if (parsed.export_dir / str(parsed.model_version)).exists():
        parser.error(f"{parsed.export_dir} already has a version {parsed.model_version}")
    return parsed


if __name__ == "__main__":
    main(sys.argv[1:])
