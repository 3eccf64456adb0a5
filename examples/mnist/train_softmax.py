"""Train a digit classifier and export it as a SavedModel with two signatures.

    train_softmax.py [--training_iteration=N] [--model_version=N] [--hidden_units=N] EXPORT_DIR

``predict_images`` takes ``images`` and gives ``scores``; ``serving_default`` classifies serialized
``tf.Example`` messages with a feature ``x``.  The graph is built and saved the way TensorFlow 1
does it, as the models are that have been in service the longest.

The version appears in EXPORT_DIR whole or not at all: a server may be watching.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow.compat.v1 as tf

import data
from exporting import new_version

BATCH_SIZE: Final = 50
LEARNING_RATE: Final = 0.3
PROGRESS_EVERY: Final = 500
PIXELS: Final = 784
CLASSES: Final = 10


@dataclass(frozen=True)
class Network:
    """The tensors that training, testing and the signatures use."""

    examples: Any
    images: Any
    scores: Any
    labels: Any
    loss: Any
    accuracy: Any


def build(hidden_units: int) -> Network:
    """Softmax regression, on one hidden layer if ``hidden_units`` is not zero."""
    examples = tf.placeholder(tf.string, [None], name="tf_example")
    features = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([PIXELS], tf.float32)})
    images = tf.identity(features["x"], name="x")  # fed directly by predict_images
    labels = tf.placeholder(tf.int64, [None], name="labels")

    last = images
    if hidden_units:
        last = tf.nn.relu(_dense(last, PIXELS, hidden_units, "hidden"))
    logits = _dense(last, hidden_units or PIXELS, CLASSES, "softmax")
    loss = tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )
    is_right = tf.equal(tf.argmax(logits, 1), labels)
    accuracy = tf.reduce_mean(tf.cast(is_right, tf.float32))
    scores = tf.nn.softmax(logits, name="y")
    return Network(examples, images, scores, labels, loss, accuracy)


def _dense(values: Any, width: int, units: int, name: str) -> Any:
    # Weights of a last layer start at zero, those of a hidden one must differ from each other.
    scale = 0.0 if name == "softmax" else (2 / width) ** 0.5
    weights = tf.Variable(tf.random.normal([width, units], stddev=scale, seed=1), name=name + "_w")
    return tf.matmul(values, weights) + tf.Variable(tf.zeros([units]), name=name + "_b")


def train(session: Any, network: Network, digits: data.Digits, iterations: int) -> None:
    """Stochastic gradient descent, with a line of progress now and then."""
    step = tf.train.GradientDescentOptimizer(LEARNING_RATE).minimize(network.loss)
    session.run(tf.global_variables_initializer())
    for number, rows in enumerate(batches(len(digits.train_images), iterations), 1):
        feeds = {
            network.images: digits.train_images[rows],
            network.labels: digits.train_labels[rows],
        }
        _, loss = session.run([step, network.loss], feeds)
        if number % PROGRESS_EVERY == 0 or number == iterations:
            print(f"  step {number} of {iterations}: loss {loss:.3f}", flush=True)


def batches(rows: int, count: int) -> Iterator[np.ndarray]:
    """``count`` batches of row numbers, drawn the same way every time."""
    random = np.random.default_rng(1)
    for _ in range(count):
        yield random.integers(0, rows, BATCH_SIZE)


def export(session: Any, network: Network, export_dir: Path, version: int) -> None:
    """Save the graph, its variables and its signatures, with what fills the lookup table."""
    with new_version(export_dir, version) as folder:
        builder = tf.saved_model.builder.SavedModelBuilder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            [tf.saved_model.SERVING],
            signature_def_map={
                "predict_images": predict_signature(network),
                "serving_default": classify_signature(network),
            },
            main_op=tf.tables_initializer(),
            strip_default_attrs=True,
        )
        builder.save()


def predict_signature(network: Network) -> Any:
    """Images to scores."""
    return tf.saved_model.build_signature_def(
        {"images": tf.saved_model.build_tensor_info(network.images)},
        {"scores": tf.saved_model.build_tensor_info(network.scores)},
        "tensorflow/serving/predict",
    )


def classify_signature(network: Network) -> Any:
    """Examples to digits and scores, the likeliest first."""
    scores, indices = tf.nn.top_k(network.scores, CLASSES)
    names = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(np.arange(CLASSES)), tf.constant([str(i) for i in range(CLASSES)])
        ),
        default_value="unknown",
    )
    classes = names.lookup(tf.cast(indices, tf.int64))
    return tf.saved_model.build_signature_def(
        {"inputs": tf.saved_model.build_tensor_info(network.examples)},
        {
            "classes": tf.saved_model.build_tensor_info(classes),
            "scores": tf.saved_model.build_tensor_info(scores),
        },
        "tensorflow/serving/classify",
    )


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line; names and defaults are those of TensorFlow Serving's tutorial."""
    parser = argparse.ArgumentParser(description="Train and export a digit classifier.")
    parser.add_argument("--training_iteration", type=int, default=1000, metavar="N")
    parser.add_argument("--model_version", type=int, default=1, metavar="N")
    parser.add_argument("--hidden_units", type=int, default=0, metavar="N")
    parser.add_argument("export_dir", type=Path)
    parsed = parser.parse_args(arguments)
    if parsed.training_iteration < 1 or parsed.model_version < 1 or parsed.hidden_units < 0:
        parser.error("iterations and version start at 1, hidden units at 0")
    if (parsed.export_dir / str(parsed.model_version)).exists():
        parser.error(f"{parsed.export_dir} already has a version {parsed.model_version}")
    return parsed


def main(arguments: list[str]) -> None:
    """Train, test, export."""
    options = parse_arguments(arguments)
    digits = data.load()
    print(f"Training on {len(digits.train_images)} images: {digits.source}")
    tf.disable_eager_execution()
    tf.logging.set_verbosity(tf.logging.ERROR)  # it warns that all this is TensorFlow 1
    network = build(options.hidden_units)
    with tf.Session() as session:
        train(session, network, digits, options.training_iteration)
        feeds = {network.images: digits.test_images, network.labels: digits.test_labels}
        print(f"Training accuracy on unseen images: {session.run(network.accuracy, feeds):.2%}")
        export(session, network, options.export_dir, options.model_version)
    print(f"Exported version {options.model_version} to {options.export_dir}")


if __name__ == "__main__":
    main(sys.argv[1:])
