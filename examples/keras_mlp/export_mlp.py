"""Train a Keras ``Sequential`` on handwritten digits and export it, in either of two ways.

    export_mlp.py [--save_with=model.export|tf.saved_model.save] [--model_version=N] [--epochs=N]
                  [--answers=FILE] EXPORT_DIR

Both write a signature ``serving_default`` that takes images of 28 by 28 and gives ten scores, under
names that Keras makes up; ``model.export`` adds the same as ``serve``.

``--answers`` writes what the trained model itself says about test images.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
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

SIDE: Final = 28
CLASSES: Final = 10
TRAIN_IMAGES: Final = 10_000
ANSWERED_IMAGES: Final = 100

SAVERS: Final[Mapping[str, Callable[[Any, str], object]]] = {
    "model.export": lambda model, path: model.export(path, verbose=False),
    "tf.saved_model.save": tf.saved_model.save,
}


def main(arguments: list[str]) -> None:
    """Train, test, export."""
    options = parse_arguments(arguments)
    digits = data.load()
    print(f"Training on {digits.source}", flush=True)
    model = build()
    images = digits.train_images[:TRAIN_IMAGES].reshape(-1, SIDE, SIDE)
    model.fit(images, digits.train_labels[:TRAIN_IMAGES], epochs=options.epochs, verbose=0)
    test_images = digits.test_images.reshape(-1, SIDE, SIDE)
    _, accuracy = model.evaluate(test_images, digits.test_labels, verbose=0)
    print(f"Test accuracy: {accuracy:.4f}")
    if options.answers:
        asked, labels = test_images[:ANSWERED_IMAGES], digits.test_labels[:ANSWERED_IMAGES]
        Answers(asked, labels, model.predict(asked, verbose=0)).save(options.answers)
    with new_version(options.export_dir, options.model_version) as folder:
        SAVERS[options.save_with](model, str(folder))
    print(f"Exported to {options.export_dir / str(options.model_version)}")


def build() -> keras.Sequential:
    """A multilayer perceptron: one hidden layer between pixels and digits."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE)),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train and export a Keras Sequential.")
    parser.add_argument("--save_with", choices=SAVERS, default="model.export")
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
