"""Train five Estimators, export each, and write down what TensorFlow itself answers.

    train.py DIGITS OUTPUT      DIGITS: train_images, train_labels, test_images, test_labels (.npz)

Runs with TensorFlow 2.15, the last with Estimators.  OUTPUT gets ``models/NAME/TIMESTAMP/``, the
way Estimators name versions, and ``answers/NAME.npz``: features, labels, and for every signature
``SIGNATURE|OUTPUT``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import canvases

v1 = tf.compat.v1

SEED: Final = 7
PIXELS: Final = 784
CLASSES: Final = 10
BATCH_SIZE: Final = 64
STEPS: Final = 400
CANVAS_BATCH_SIZE: Final = 16
CANVAS_STEPS: Final = 120
TESTS: Final = 200
CANVAS_TESTS: Final = 24

Features = Mapping[str, np.ndarray]

FEATURE_SPEC: Final = {"x": tf.io.FixedLenFeature([PIXELS], tf.float32)}


# --- what goes in ---------------------------------------------------------------------------------


def parsing_receiver() -> Any:
    """Serialized ``tf.Example`` messages, as most Estimator exports take them."""
    return tf.estimator.export.build_parsing_serving_input_receiver_fn(FEATURE_SPEC)


def raw_receiver(**shapes: list[int | None]) -> Any:
    """The features themselves, as tensors."""
    with tf.Graph().as_default():
        features = {
            name: v1.placeholder(tf.float32, shape, name=name) for name, shape in shapes.items()
        }
        return tf.estimator.export.build_raw_serving_input_receiver_fn(features)


def either_receiver() -> Any:
    """Serialized messages, or, for signatures named ``raw:…``, the pixels."""
    examples = v1.placeholder(tf.string, [None], name="input_example_tensor")
    features = tf.io.parse_example(examples, FEATURE_SPEC)
    return tf.estimator.export.ServingInputReceiver(
        features, {"examples": examples}, receiver_tensors_alternatives={"raw": dict(features)}
    )


# --- models ---------------------------------------------------------------------------------------


def linear_classifier(folder: str) -> Any:
    """One of the Estimators that come ready made."""
    return v1.estimator.LinearClassifier(
        feature_columns=[tf.feature_column.numeric_column("x", shape=(PIXELS,))],
        n_classes=CLASSES,
        optimizer=v1.train.AdamOptimizer(0.01),
        model_dir=folder,
        config=run_config(),
    )


def two_heads(features: Any, labels: Any, mode: str) -> Any:
    """A model of two answers: which digit it is, and how much ink was used for it."""
    head = tf.estimator.MultiHead(
        [
            tf.estimator.MultiClassHead(CLASSES, name="digit"),
            tf.estimator.RegressionHead(name="ink"),
        ]
    )
    pixels = features["x"]
    hidden = v1.layers.dense(pixels, 32, tf.nn.relu)
    logits = {"digit": v1.layers.dense(hidden, CLASSES), "ink": v1.layers.dense(pixels, 1)}
    if labels is not None:
        labels = {"digit": labels, "ink": tf.reduce_mean(pixels, axis=1, keepdims=True)}
    return head.create_estimator_spec(features, mode, logits, labels, train_op_fn=minimize)


def named_outputs(features: Any, labels: Any, mode: str) -> Any:
    """A ``model_fn`` that names each of its ``export_outputs`` itself, one of every kind."""
    logits = v1.layers.dense(features["x"], CLASSES)
    if mode == tf.estimator.ModeKeys.TRAIN:
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels[:, 0], logits=logits)
        )
        return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=minimize(loss))
    scores = tf.nn.softmax(logits)
    digit = tf.argmax(logits, axis=1)
    names = tf.constant([[f"digit {number}" for number in range(CLASSES)]])
    export = tf.estimator.export
    return tf.estimator.EstimatorSpec(
        mode,
        predictions={"digit": digit, "scores": scores},
        export_outputs={
            "serving_default": export.PredictOutput({"digit": digit, "scores": scores}),
            "classes": export.ClassificationOutput(
                scores, tf.tile(names, [tf.shape(scores)[0], 1])
            ),
            "surest": export.RegressionOutput(tf.reduce_max(scores, axis=1)),
        },
    )


def keypoint(features: Any, labels: Any, mode: str) -> Any:
    """Where on a picture the digit is, and whether there is one.

    A small convolutional net draws a map of where a digit might be; the keypoint is its mean.
    """
    pictures = features["images"]
    coarse = v1.layers.conv2d(pictures, 8, 8, 8, "same", activation=tf.nn.relu)
    fine = v1.layers.conv2d(coarse, 16, 7, 1, "same", activation=tf.nn.relu)
    likely = v1.layers.conv2d(fine, 1, 7, 1, "same")[:, :, :, 0]
    side = likely.shape[1]
    weights = tf.reshape(tf.nn.softmax(tf.reshape(likely, [-1, side * side])), [-1, side, side])
    steps = (tf.range(side, dtype=tf.float32) + 0.5) / float(side)
    x_ratio = tf.reduce_sum(weights * steps[None, None, :], axis=[1, 2])
    y_ratio = tf.reduce_sum(weights * steps[None, :, None], axis=[1, 2])
    seen = v1.layers.dense(tf.reduce_max(fine, axis=[1, 2]), 2)
    if mode == tf.estimator.ModeKeys.TRAIN:
        is_there = tf.cast(labels["v"], tf.float32)
        distance = tf.square(x_ratio - labels["x_ratio"]) + tf.square(y_ratio - labels["y_ratio"])
        loss = 20.0 * tf.reduce_mean(is_there * distance) + tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels["v"], logits=seen)
        )
        return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=minimize(loss))
    predictions = {
        "pred_x_ratio": x_ratio,
        "pred_y_ratio": y_ratio,
        "pred_v": tf.argmax(seen, axis=1, output_type=tf.int64),
    }
    outputs = {"serving_default": tf.estimator.export.PredictOutput(predictions)}
    return tf.estimator.EstimatorSpec(mode, predictions=predictions, export_outputs=outputs)


def minimize(loss: Any) -> Any:
    """One step downhill."""
    return v1.train.AdamOptimizer(0.005).minimize(loss, v1.train.get_global_step())


def custom(model_fn: Callable[..., Any]) -> Callable[[str], Any]:
    """An Estimator around a model function."""
    return lambda folder: v1.estimator.Estimator(model_fn, folder, run_config())


def run_config() -> Any:
    """The same random numbers every time, and no summaries."""
    return v1.estimator.RunConfig(tf_random_seed=SEED, save_summary_steps=None)


# --- training, export, answers --------------------------------------------------------------------


def digit_batches(digits: Features) -> Callable[[], Any]:
    """The training digits in a shuffled order, for ever."""

    def batches() -> Any:
        rows = np.random.default_rng(SEED).permutation(len(digits["train_images"]))[:20_000]
        images, labels = digits["train_images"][rows], digits["train_labels"][rows, None]
        data = tf.data.Dataset.from_tensor_slices(({"x": images}, labels))
        return data.repeat().batch(BATCH_SIZE)

    return batches


def canvas_batches(digits: Features) -> Callable[[], Any]:
    """Canvases, each drawn when it is needed: a thousand of them would fill 1.7 GB."""

    def draw() -> Any:
        random = np.random.default_rng(SEED)
        for _ in range(CANVAS_STEPS):
            rows = random.integers(0, len(digits["train_images"]), CANVAS_BATCH_SIZE)
            drawn = canvases.draw(digits["train_images"][rows], random)
            places = {"x_ratio": drawn.x_ratio, "y_ratio": drawn.y_ratio, "v": drawn.visibility}
            yield {"images": drawn.images}, places

    side, numbers = canvases.SIDE, tf.TensorSpec([None], tf.float32)
    images = {"images": tf.TensorSpec([None, side, side, 3], tf.float32)}
    places = {"x_ratio": numbers, "y_ratio": numbers, "v": tf.TensorSpec([None], tf.int64)}
    return lambda: tf.data.Dataset.from_generator(draw, output_signature=(images, places))


def train(make: Callable[[str], Any], batches: Callable[[], Any], steps: int) -> Any:
    """An Estimator, trained in a folder that is gone when this program ends."""
    estimator = make(tempfile.mkdtemp(dir=os.environ.get("TMPDIR")))
    estimator.train(batches, steps=steps)
    return estimator


def export(estimator: Any, receiver: Any, base_path: Path) -> Path:
    """The version that the Estimator writes, in a folder named after the time."""
    version = Path(
        estimator.export_savedmodel(str(base_path), receiver, strip_default_attrs=True).decode()
    )
    model = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    if not model.meta_graphs[0].meta_info_def.stripped_default_attrs:
        raise AssertionError(f"{version} was to be exported without default attributes")
    print(f"  exported {base_path.name}/{version.name}", flush=True)
    return version


def answers(version: Path, features: Features) -> dict[str, np.ndarray]:
    """What TensorFlow answers with every signature, by ``SIGNATURE|OUTPUT``."""
    with v1.Session(graph=tf.Graph()) as session:
        meta_graph = v1.saved_model.load(session, ["serve"], str(version))
        found: dict[str, np.ndarray] = {}
        for name, signature in meta_graph.signature_def.items():
            ((alias, info),) = signature.inputs.items()
            fed = serialized(features) if info.dtype == tf.string else features[alias]
            fetches = {f"{name}|{key}": output.name for key, output in signature.outputs.items()}
            found |= session.run(fetches, {info.name: fed})
        return {key: as_text(value) for key, value in found.items()}


def serialized(features: Features) -> list[bytes]:
    """One ``tf.Example`` for each row."""
    return [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    name: tf.train.Feature(float_list=tf.train.FloatList(value=row))
                    for name, row in zip(features, rows, strict=True)
                }
            )
        ).SerializeToString()
        for rows in zip(*features.values(), strict=True)
    ]


def as_text(value: np.ndarray) -> np.ndarray:
    """Strings as an array that needs no pickle."""
    return np.char.decode(value.astype(bytes)) if value.dtype == object else value


def main(digits_file: Path, output: Path) -> None:
    """Train, export and ask each model."""
    v1.logging.set_verbosity(v1.logging.ERROR)
    digits = dict(np.load(digits_file))
    pixels = {"x": digits["test_images"][:TESTS]}
    labels = {"digit": digits["test_labels"][:TESTS]}
    random = np.random.default_rng(SEED + 1)
    drawn = canvases.draw(digits["test_images"][:CANVAS_TESTS], random)
    places = {"x_ratio": drawn.x_ratio, "y_ratio": drawn.y_ratio, "v": drawn.visibility}

    def tell(name: str, estimator: Any, receiver: Any, tests: Features, truth: Features) -> None:
        version = export(estimator, receiver, output / "models" / name)
        known = {f"feature|{key}": value for key, value in tests.items()}
        known |= {f"label|{key}": value for key, value in truth.items()}
        (output / "answers").mkdir(exist_ok=True)
        np.savez(output / "answers" / f"{name}.npz", **known, **answers(version, tests))

    print(f"Training with TensorFlow {tf.__version__}", flush=True)
    batches = digit_batches(digits)
    linear = train(linear_classifier, batches, STEPS)
    tell("digits_parsing", linear, parsing_receiver(), pixels, labels)
    tell("digits_raw", linear, raw_receiver(x=[None, PIXELS]), pixels, labels)
    heads = train(custom(two_heads), batches, STEPS)
    tell("digits_two_heads", heads, parsing_receiver(), pixels, labels)
    named = train(custom(named_outputs), batches, STEPS)
    tell("digits_named_outputs", named, either_receiver, pixels, labels)
    finder = train(custom(keypoint), canvas_batches(digits), CANVAS_STEPS)
    images = raw_receiver(images=[None, canvases.SIDE, canvases.SIDE, 3])
    tell("keypoint", finder, images, {"images": drawn.images}, places)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
