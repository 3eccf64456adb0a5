"""Train a classifier of handwritten digits and write it as TensorFlow Lite models, in three ways.

    export_lite.py [--epochs=N] [--answers] EXPORT_DIR

EXPORT_DIR/float/1/model.tflite      as the converter writes it
EXPORT_DIR/quantized/1/model.tflite  with weights of eight bits
EXPORT_DIR/metadata/1/model.tflite   with its signature in the metadata, where TensorFlow Serving
                                     looks for it

Each has the signature ``predict_images``, which takes ``images`` and gives ``scores``.
``--answers`` writes an ``answers.npz`` beside each version: what TensorFlow's own interpreter says
about test images.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "mnist"))

import keras
import numpy as np
import tensorflow as tf

import data
from answers import Answers
from exporting import new_version
from metadata import with_signature

PIXELS: Final = 784
CLASSES: Final = 10
TRAIN_IMAGES: Final = 10_000
ANSWERED_IMAGES: Final = 100
SIGNATURE: Final = "predict_images"


def main(arguments: list[str]) -> None:
    """Train, test, convert."""
    parser = argparse.ArgumentParser(description="Train a model and write it for TensorFlow Lite.")
    parser.add_argument("--epochs", type=int, default=6, metavar="N")
    parser.add_argument("--answers", action="store_true", help="write TensorFlow's answers, too")
    parser.add_argument("export_dir", type=Path)
    options = parser.parse_args(arguments)

    digits = data.load()
    print(f"Training on {digits.source}", flush=True)
    model = build()
    images, labels = digits.train_images[:TRAIN_IMAGES], digits.train_labels[:TRAIN_IMAGES]
    model.fit(images, labels, epochs=options.epochs, verbose=0)
    _, accuracy = model.evaluate(digits.test_images, digits.test_labels, verbose=0)
    print(f"Test accuracy: {accuracy:.4f}")

    with tempfile.TemporaryDirectory() as folder:
        saved_model = save(model, Path(folder))
        for kind, convert in KINDS.items():
            with new_version(options.export_dir / kind, 1) as version:
                version.mkdir(parents=True)
                content = convert(saved_model)
                (version / "model.tflite").write_bytes(content)
            print(f"Exported to {options.export_dir / kind / '1'}: {len(content):,} bytes")
            if options.answers:
                answers(content, digits).save(options.export_dir / kind / "answers.npz")


def build() -> keras.Sequential:
    """One hidden layer between pixels and digits."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((PIXELS,)),
            layers.Dense(64, activation="relu"),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def save(model: keras.Model, folder: Path) -> Path:
    """A SavedModel, of which the converter takes the signature."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    images = tf.TensorSpec([None, PIXELS], tf.float32, name="images")
    archive.add_endpoint(SIGNATURE, lambda images: {"scores": model(images)}, [images])
    archive.write_out(str(folder), verbose=False)
    return folder


def as_it_is(saved_model: Path) -> bytes:
    """Numbers of 32 bits."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), [SIGNATURE])
    content: bytes = converter.convert()
    return content


def quantized(saved_model: Path) -> bytes:
    """Weights of eight bits: a quarter of the size, and all but the same answers."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), [SIGNATURE])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    content: bytes = converter.convert()
    return content


def with_metadata(saved_model: Path) -> bytes:
    """What TensorFlow Serving needs to know the signature by its name."""
    content = as_it_is(saved_model)
    runner = interpreter(content).get_signature_runner(SIGNATURE)
    inputs = {alias: tensor["name"] for alias, tensor in runner.get_input_details().items()}
    outputs = {alias: tensor["name"] for alias, tensor in runner.get_output_details().items()}
    return with_signature(content, SIGNATURE, inputs, outputs)


KINDS: Final[Mapping[str, Callable[[Path], bytes]]] = {
    "float": as_it_is,
    "quantized": quantized,
    "metadata": with_metadata,
}


def answers(content: bytes, digits: data.Digits) -> Answers:
    """What TensorFlow's own interpreter says."""
    images = np.ascontiguousarray(digits.test_images[:ANSWERED_IMAGES])
    runner = interpreter(content).get_signature_runner(SIGNATURE)
    return Answers(images, digits.test_labels[:ANSWERED_IMAGES], runner(images=images)["scores"])


def interpreter(content: bytes) -> Any:
    """TensorFlow's, which says of itself that LiteRT is to take its place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tf.lite.Interpreter(model_content=content)


if __name__ == "__main__":
    main(sys.argv[1:])
