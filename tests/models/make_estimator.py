"""Two Estimator exports and what TensorFlow answers to them: ``make_estimator.py OUTPUT_FOLDER``.

TensorFlow 2.15 is the last that can write such models, and it needs Python 3.11 or older; there are
many of them in service.  So their exports are kept here, with the answers of the TensorFlow that
wrote them, and the tests need no second TensorFlow.  ``make estimator-model`` writes them anew.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

EXAMPLES: Final = [{"x": [1.0, 0.0]}, {"x": [-0.5, 2.0]}, {"x": [0.25, 0.75]}]
SEED: Final = 7

COLUMNS: Final = [tf.feature_column.numeric_column("x", shape=(2,))]


def training_data() -> tf.data.Dataset:
    """Points of a plane; the label is the side of a line they lie on."""
    points = np.random.default_rng(SEED).normal(size=(256, 2)).astype(np.float32)
    labels = (points[:, 0] > points[:, 1]).astype(np.int64)
    return tf.data.Dataset.from_tensor_slices(({"x": points}, labels)).batch(32).repeat()


def classifier(folder: Path) -> Any:
    """A small network that names its classes."""
    return tf.estimator.DNNClassifier(
        hidden_units=[4],
        feature_columns=COLUMNS,
        n_classes=2,
        optimizer=tf.keras.optimizers.legacy.Adam(0.01),
        model_dir=str(folder),
        config=tf.estimator.RunConfig(tf_random_seed=SEED),
    )


def regressor(folder: Path) -> Any:
    """A linear regression."""
    return tf.estimator.LinearRegressor(
        feature_columns=COLUMNS,
        model_dir=str(folder),
        config=tf.estimator.RunConfig(tf_random_seed=SEED),
    )


def parsing_receiver() -> Any:
    """Takes serialized ``tf.Example`` messages, as most Estimator exports do."""
    spec = tf.feature_column.make_parse_example_spec(COLUMNS)
    return tf.estimator.export.build_parsing_serving_input_receiver_fn(spec)


def raw_receiver() -> Any:
    """Takes the features themselves, as tensors."""

    def receiver() -> Any:
        x = tf.compat.v1.placeholder(tf.float32, [None, 2], name="x")
        return tf.estimator.export.ServingInputReceiver({"x": x}, {"x": x})

    return receiver


def serialized(example: dict[str, list[float]]) -> bytes:
    """One example as the bytes of a ``tf.Example``, features in the order of their names."""
    feature = {
        name: tf.train.Feature(float_list=tf.train.FloatList(value=values))
        for name, values in sorted(example.items())
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(
        deterministic=True
    )


def answers(version: Path) -> dict[str, Any]:
    """What every signature of a model answers to ``EXAMPLES``."""
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(version))
        return {
            name: answer(session, signature)
            for name, signature in sorted(meta_graph.signature_def.items())
        }


def answer(session: tf.compat.v1.Session, signature: Any) -> dict[str, Any]:
    """What one signature answers, and the words it is described with."""
    ((alias, info),) = signature.inputs.items()
    if info.dtype == tf.string.as_datatype_enum:
        fed: Any = [serialized(example) for example in EXAMPLES]
    else:
        fed = [example["x"] for example in EXAMPLES]
    fetches = {name: output.name for name, output in sorted(signature.outputs.items())}
    return {
        "method_name": signature.method_name,
        "input": alias,
        "outputs": {
            name: as_json(value) for name, value in session.run(fetches, {info.name: fed}).items()
        },
    }


def as_json(value: np.ndarray) -> Any:
    """Nested lists; text for strings.  Every float32 is exact as a JSON number of Python's."""
    if value.dtype == object:
        return np.vectorize(lambda item: item.decode(), otypes=[object])(value).tolist()
    return value.tolist()


def export(estimator: Any, receiver: Any, version: Path) -> None:
    """Export into ``version`` itself; Estimators insist on a folder named after the time."""
    written = Path(estimator.export_saved_model(str(version.parent), receiver).decode())
    shutil.rmtree(version, ignore_errors=True)
    written.rename(version)


def main(output: Path) -> None:
    """Train, export and ask both models, in both ways of giving them their inputs."""
    expected: dict[str, Any] = {"tensorflow": tf.__version__, "examples": EXAMPLES, "models": {}}
    for make in (classifier, regressor):
        with tempfile.TemporaryDirectory() as folder:
            estimator = make(Path(folder))
            estimator.train(training_data, steps=1000)
            for kind, receiver in (("parsing", parsing_receiver()), ("raw", raw_receiver())):
                name = f"{make.__name__}_{kind}"
                version = output / name / "1"
                export(estimator, receiver, version)
                expected["models"][name] = answers(version)
    (output / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
