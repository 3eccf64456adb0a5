"""One run of a loaded model: Salver's servable against TensorFlow's own quickest call.

    run_one.py [--rounds N] [--threads N]

Both run the same SavedModel in this process, in turns, with the same thread settings.
TensorFlow's call is ``Session._make_callable_from_options``, which Keras and ``signatures[…]`` come
nowhere near; it is measured on TensorFlow's inter-op pool and in the caller's thread, and the
quicker of the two is what Salver is held against.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

import models
from reporting import duration, goal, machine, table, times
from salver.servables.tensorflow import SessionConfig, TensorFlowRuntime
from timing import Samples, ratio, time_calls


@dataclass(frozen=True, slots=True)
class Case:
    """A model, what it is fed, and how much longer than TensorFlow's call a run may take."""

    model: str
    shape: tuple[int, ...]
    allowed: float


CASES: Final = (
    Case("half_plus_two", (3,), 2.5),
    Case("keras_softmax", (1, 784), 1.02),
    Case("keras_cnn", (1, 28, 28, 1), 1.02),
    Case("mobilenet_v2", (1, 224, 224, 3), 1.02),
)

SALVER: Final = "Salver"
POOL: Final = "TensorFlow, its pool"
CALLER: Final = "TensorFlow, caller's thread"

INTER_OP_POOLS: Final = {POOL: 0, CALLER: -1}
"""``RunOptions.inter_op_thread_pool`` of each way to call."""


def main() -> None:
    """Measure every case and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=60, help="rounds per model (60)")
    parser.add_argument(
        "--threads", type=int, default=0, help="intra- and inter-op threads (0: as many as cores)"
    )
    arguments = parser.parse_args()
    print(machine())
    rows, verdicts = [], []
    for case in CASES:
        samples = time_calls(contenders(case, arguments.threads), rounds=arguments.rounds)
        quickest = min(INTER_OP_POOLS, key=lambda name: median(samples[name]))
        found = ratio(samples[SALVER], samples[quickest])
        rows.append(row(case, samples, quickest, found))
        verdicts.append((case, found))
    headers = ("one run", SALVER, POOL, CALLER, "the quicker", "Salver to it", "Salver adds")
    table(headers, rows)
    for case, found in verdicts:
        goal(f"{case.model} within {case.allowed}x of TensorFlow", met=found <= case.allowed)


def row(case: Case, samples: Samples, quickest: str, found: float) -> tuple[str, ...]:
    """A line of the table."""
    figures = (duration(median(samples[name])) for name in (SALVER, POOL, CALLER))
    added = median(a - b for a, b in zip(samples[SALVER], samples[quickest], strict=True))
    name = quickest.partition(", ")[2]
    return (case.model, *figures, name, times(found), f"{added * 1e6:+.1f} µs")


def contenders(case: Case, threads: int) -> dict[str, Callable[[], object]]:
    """The calls to time; all of them give the same answer."""
    path = models.version_path(case.model)
    tf = models.tensorflow()
    image = np.random.default_rng(1).random(case.shape, np.float32)
    salver = TensorFlowRuntime(config=SessionConfig(threads, threads)).load(path)
    signature = salver.signatures["serving_default"]
    (feed,) = (info.name for info in signature.inputs.values())
    fetches = [info.name for info in signature.outputs.values()]
    session = tensorflow_session(tf, path, threads)
    calls: dict[str, Callable[[], object]] = {SALVER: lambda: salver.run({feed: image}, fetches)}
    for name, pool in INTER_OP_POOLS.items():
        run = tensorflow_callable(session, feed, fetches, pool)
        calls[name] = lambda run=run: run(image)
        np.testing.assert_allclose(run(image)[0], salver.run({feed: image}, fetches)[0], rtol=1e-5)
    return calls


def tensorflow_session(tf: Any, path: Path, threads: int) -> Any:
    """A session of TensorFlow's Python package over the same SavedModel."""
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
    )
    with tf.Graph().as_default() as graph:
        session = tf.compat.v1.Session(graph=graph, config=config)
        tf.compat.v1.saved_model.load(session, ["serve"], str(path))
    return session


def tensorflow_callable(session: Any, feed: str, fetches: list[str], pool: int) -> Any:
    """The quickest way the package has to run one set of feeds and fetches."""
    from tensorflow.core.protobuf.config_pb2 import CallableOptions

    options = CallableOptions(feed=[feed], fetch=fetches)
    options.run_options.inter_op_thread_pool = pool
    return session._make_callable_from_options(options)  # noqa: SLF001 # Keras 2 called it, too


if __name__ == "__main__":
    main()
