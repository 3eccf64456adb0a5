"""TensorFlow Serving's exporter of before SavedModels: softmax regression as a SessionBundle.

    mnist_export.py [--training_iteration=N] [--export_version=N] [--answers=FILE] EXPORT_DIR

The command line, what is printed and the signatures are those of TensorFlow Serving's tutorial of
2016: classes and scores of serialized ``tf.Example`` messages by default, ``images`` to ``scores``
by the named signatures ``inputs`` and ``outputs``.  The names of the classes come from a file, so
that there is an asset and an op that reads it.

``--answers`` is our own: what the trained model itself says about test images.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NoReturn

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "mnist"))

import tensorflow.compat.v1 as tf

import data
import train_softmax
from answers import Answers
from exporter import classification_signature, export, generic_signature, version_folder

USAGE: Final = "Usage: mnist_export.py [--training_iteration=x] [--export_version=y] export_dir"
ANSWERED_IMAGES: Final = 100
NAMES: Final = "".join(f"{digit}\n" for digit in range(train_softmax.CLASSES))


def main(arguments: list[str]) -> None:
    """Train, test, export."""
    options = parse_arguments(arguments)
    print("Training model...", flush=True)
    digits = data.load()
    tf.disable_v2_behavior()
    tf.logging.set_verbosity(tf.logging.ERROR)  # it warns that all this is TensorFlow 1
    network = train_softmax.build(hidden_units=0)
    with tf.Session() as session:
        train_softmax.train(session, network, digits, options.training_iteration)
        feeds = {network.images: digits.test_images, network.labels: digits.test_labels}
        print(f"training accuracy {session.run(network.accuracy, feeds):g}")
        print("Done training!")
        if options.answers:
            answer(session, network, digits).save(options.answers)
        folder = version_folder(options.export_dir, options.export_version)
        print(f"Exporting trained model to {folder}")
        export_network(session, network, folder)
    print("Done exporting!")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line, with the tutorial's names, defaults and complaints."""
    if not arguments or arguments[-1].startswith("-"):
        end(USAGE)
    parser = argparse.ArgumentParser(description="Train and export a digit classifier.")
    parser.add_argument("--training_iteration", type=int, default=1000, metavar="N")
    parser.add_argument("--export_version", type=int, default=1, metavar="N")
    parser.add_argument("--answers", type=Path, metavar="FILE")
    parser.add_argument("export_dir", type=Path)
    parsed = parser.parse_args(arguments)
    if parsed.training_iteration <= 0:
        end("Please specify a positive value for training iteration.")
    if parsed.export_version <= 0:
        end("Please specify a positive value for version number.")
    folder = version_folder(parsed.export_dir, parsed.export_version)
    if folder.exists():
        end(f"Overwriting exports is not allowed. Duplicate export dir: {folder}")
    return parsed


def export_network(session: Any, network: train_softmax.Network, folder: Path) -> None:
    """Add what the signatures need, and write it all."""
    with tempfile.TemporaryDirectory() as elsewhere:
        names = Path(elsewhere, "digits.txt")
        names.write_text(NAMES)
        asset = tf.constant(str(names), name="digits_file")
        scores, indices = tf.nn.top_k(network.scores, train_softmax.CLASSES)
        classes = table_of(asset).lookup(tf.cast(indices, tf.int64))
        init_op = tf.group(tf.tables_initializer(), name="init_op")
        export(
            session,
            folder,
            default_signature=classification_signature(network.examples, classes, scores),
            named_signatures={
                "inputs": generic_signature(images=network.images),
                "outputs": generic_signature(scores=network.scores),
            },
            init_op=init_op,
            assets={names: asset},
        )


def table_of(file: Any) -> Any:
    """A lookup table from the number of a line to the line."""
    number, line = tf.lookup.TextFileIndex.LINE_NUMBER, tf.lookup.TextFileIndex.WHOLE_LINE
    initializer = tf.lookup.TextFileInitializer(file, tf.int64, number, tf.string, line)
    return tf.lookup.StaticHashTable(initializer, default_value="unknown")


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
