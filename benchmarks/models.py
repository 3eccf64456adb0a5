"""The models that the benchmarks serve: written once, by a process of their own, and kept.

    models.py [NAME ...]

Most are the ones of the tests.  Who asks for a model gets a path and imports no TensorFlow.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parent.parent
SHELF: Final = ROOT / ".cache" / "benchmark-models"

sys.path.append(str(ROOT / "tests"))

from saved_models import MODELS, tensorflow  # noqa: E402 # the tests are no package

LARGE_LAYERS: Final = 8
LARGE_WIDTH: Final = 2048
EMBEDDING_ROWS: Final = 1_638_400
EMBEDDING_WIDTH: Final = 16


def base_path(name: str) -> Path:
    """The folder a server is given: it holds version 1."""
    path = SHELF / name
    if not path.exists():
        print(f"Writing the model {name} ...", file=sys.stderr, flush=True)
        environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        command = [sys.executable, __file__, name]
        written = subprocess.run(command, env=environ, stderr=subprocess.PIPE)
        if written.returncode:
            sys.stderr.buffer.write(written.stderr)
            raise RuntimeError(f"the model {name} could not be written")
    return path


def version_path(name: str) -> Path:
    """The folder of version 1 itself."""
    return base_path(name) / "1"


def size_bytes(name: str) -> int:
    """What the files of a model weigh."""
    return sum(file.stat().st_size for file in base_path(name).rglob("*") if file.is_file())


def large(version: Path) -> None:
    """Eight matrices of 16 MiB each, multiplied one after the other."""
    tf = tensorflow()
    module = tf.Module()
    width = LARGE_WIDTH
    module.layers = [
        tf.Variable(tf.random.stateless_uniform([width, width], seed=[1, i]) / width)
        for i in range(LARGE_LAYERS)
    ]

    @tf.function(input_signature=[tf.TensorSpec([None, width], tf.float32, name="x")])
    def through(x):
        for layer in module.layers:
            x = tf.matmul(x, layer)
        return {"y": x}

    module.through = through
    tf.saved_model.save(module, str(version), signatures=through)


def image_mean(version: Path) -> None:
    """The mean of each image: a large input, next to no work, a small output."""
    tf = tensorflow()
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None, 224, 224, 3], tf.float32, name="x")])
    def mean(x):
        return {"y": tf.reduce_mean(x, axis=[1, 2, 3])}

    module.mean = mean
    tf.saved_model.save(module, str(version), signatures=mean)


def embedding(version: Path) -> None:
    """A table of 100 MB, of which some rows are looked up: heavy to load and cheap to run."""
    tf = tensorflow()
    module = tf.Module()
    module.table = tf.Variable(embedding_rows(np.arange(EMBEDDING_ROWS)))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="ids")])
    def look_up(ids):
        return {"rows": tf.gather(module.table, ids)}

    module.look_up = look_up
    tf.saved_model.save(module, str(version), signatures=look_up)


def embedding_rows(ids: np.ndarray) -> np.ndarray:
    """What the table of ``embedding`` holds for each id: numbers that tell the rows apart."""
    columns = np.arange(EMBEDDING_WIDTH, dtype=np.float32) / EMBEDDING_WIDTH
    return (ids.astype(np.float32) / 1000)[:, None] + columns


WRITERS: Final[Mapping[str, Callable[[Path], None]]] = {
    **MODELS,
    "large": large,
    "image_mean": image_mean,
    "embedding": embedding,
}


def main() -> None:
    """Write the models that are named and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=sorted(WRITERS), metavar="NAME")
    for name in parser.parse_args().names:
        if not (SHELF / name).exists():
            _write(name)


def _write(name: str) -> None:
    unfinished = SHELF / f"{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    WRITERS[name](unfinished / "1")
    unfinished.rename(SHELF / name)


if __name__ == "__main__":
    main()
