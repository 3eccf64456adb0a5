"""The whole story on one machine: train, serve, ask, and swap the model while it is in use.

    demo.py

Every step says what it does and checks what it got.  It ends with 0 if the server kept every
promise, with 1 and the reason if not; either way the server it started is stopped.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[1]))

import grpc

import data
from serving import NotServedError, Server, last_words, serving

HERE: Final = Path(__file__).resolve().parent
MODEL: Final = "/v1/models/mnist"
WORST_ERROR_RATE: Final = 0.1113
TEST_IMAGES: Final = 1000
SWAP_TIMEOUT_S: Final = 120
ANSWERS_AFTER_SWAP: Final = 500
PROGRESS_EVERY_S: Final = 2.0
VERSION_1: Final = ("--training_iteration=2000", "--model_version=1")
VERSION_2: Final = ("--training_iteration=3000", "--model_version=2", "--hidden_units=128")


class BrokenPromiseError(Exception):
    """Something is not as the demo says it is."""


def main() -> int:
    """Tell the story in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="salver-demo-") as folder:
        try:
            tell(Path(folder))
        except (BrokenPromiseError, NotServedError, OSError) as broken:
            print(f"\nThe demo failed: {broken}", file=sys.stderr)
            return 1
    print("\nAll as promised.")
    return 0


def tell(folder: Path) -> None:
    """The story, one line a chapter."""
    models = folder / "mnist"
    title("Train a softmax regression and export it as version 1")
    wait_for_trainer(start_trainer(folder, models, VERSION_1), folder)
    digits = data.load()
    tests = list(zip(digits.test_images, digits.test_labels, strict=True))
    tests = tests[:: max(1, len(tests) // TEST_IMAGES)]

    title("Serve it with tensorflow_model_server")
    client = import_client(folder)
    flags = ["--model_name=mnist", f"--model_base_path={models}"]
    started = time.monotonic()
    with serving(flags, folder, command=["tensorflow_model_server"]) as server:
        insist_on_version_1(server, time.monotonic() - started)
        with grpc.insecure_channel(server.grpc_address) as channel:
            title(f"Classify {len(tests)} images it has not seen, over gRPC")
            first_error_rate = classify(client, channel, tests)
            title("Ask the same over REST")
            ask_rest(server, tests[:3])
            title("Train a better version 2 while the predictions go on")
            error_rate = swap(client, channel, tests, folder, models)
        if error_rate > first_error_rate:
            raise BrokenPromiseError(f"version 2 errs at {error_rate:.2%}: worse than version 1")
        title("Stop the server")


def title(text: str) -> None:
    """Announce a chapter."""
    print(f"\n{text}", flush=True)


# --- training -------------------------------------------------------------------------------------


def start_trainer(folder: Path, models: Path, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Start to train and export a version; what it complains about goes to a log."""
    command = [sys.executable, str(HERE / "train_softmax.py"), *options, str(models)]
    print(f"  $ {' '.join(['train_softmax.py', *options, models.name])}", flush=True)
    with (folder / "training.log").open("wb") as log:
        return subprocess.Popen(command, stderr=log)


def wait_for_trainer(trainer: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until the version stands in its place."""
    if trainer.wait() != 0:
        raise BrokenPromiseError(f"training failed:\n{last_words(folder / 'training.log')}")


# --- asking ---------------------------------------------------------------------------------------


def insist_on_version_1(server: Server, after_s: float) -> None:
    """A server that has started has the version ready."""
    (status,) = server.ask(MODEL)["model_version_status"]
    if (status["version"], status["state"]) != ("1", "AVAILABLE"):
        raise BrokenPromiseError(f"the server has started, and version 1 is not there: {status}")
    print(f"  version 1 is AVAILABLE {after_s:.1f} s after the start")


def classify(client: ModuleType, channel: grpc.Channel, tests: list[Any]) -> float:
    """Send each image once; the error rate has to be that of a model that has learned."""
    classifier = client.Classifier(channel, model_name="mnist", concurrency=16)
    tally = classifier.classify(tests, client.show_progress)
    insist_on_no_failures(tally)
    error_rate: float = tally.error_rate()
    print(f"  Inference error rate: {error_rate:.2%}")
    if error_rate > WORST_ERROR_RATE:
        raise BrokenPromiseError(f"the error rate should be at most {WORST_ERROR_RATE:.2%}")
    return error_rate


def ask_rest(server: Server, tests: list[Any]) -> None:
    """Predictions, status and metadata as JSON."""
    request = {
        "signature_name": "predict_images",
        "instances": [image.tolist() for image, _ in tests],
    }
    predictions = server.ask(f"{MODEL}:predict", request)["predictions"]
    for scores, (_, label) in zip(predictions, tests, strict=True):
        seen, sure = scores.index(max(scores)), max(scores)
        print(f"  POST …:predict   a {label}, seen as a {seen} ({sure:.0%} sure)")
    status = server.ask(MODEL)["model_version_status"]
    print(f"  GET  …/mnist     {json.dumps(status)}")
    metadata = server.ask(f"{MODEL}/metadata")
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    for name in sorted(signatures):
        inputs, outputs = (", ".join(signatures[name][side]) for side in ("inputs", "outputs"))
        print(f"  GET  …/metadata  {name}: {inputs} → {outputs}")


def swap(
    client: ModuleType, channel: grpc.Channel, tests: list[Any], folder: Path, models: Path
) -> float:
    """Ask without a break while version 2 is trained, exported and loaded; no request may fail."""
    classifier = client.Classifier(channel, model_name="mnist", concurrency=4)
    trainer = start_trainer(folder, models, VERSION_2)
    try:
        tally = classifier.classify(until_swapped(classifier.tally, tests, trainer, folder))
    finally:
        trainer.kill()
        trainer.wait()
    insist_on_no_failures(tally)
    sent = sum(tally.answered.values()) + len(tally.failures)
    print(f"  {sent} requests sent, {len(tally.failures)} failed")
    for version in sorted(tally.answered):
        rate = tally.error_rate(version)
        print(f"  version {version}: {tally.answered[version]} answers, error rate {rate:.2%}")
    if set(tally.answered) != {1, 2}:
        raise BrokenPromiseError(f"versions {sorted(tally.answered)} answered, not both 1 and 2")
    return float(tally.error_rate(2))


def until_swapped(
    tally: Any, tests: list[Any], trainer: subprocess.Popen[bytes], folder: Path
) -> Iterator[Any]:
    """The test images over and over, until version 2 has given enough answers."""
    started = shown = time.monotonic()
    for test in itertools.cycle(tests):
        if tally.answered[2] >= ANSWERS_AFTER_SWAP or tally.failures:
            return
        now = time.monotonic()
        if now - shown > PROGRESS_EVERY_S:
            shown = now
            print(f"  answers by version: {dict(tally.answered)}", flush=True)
        if trainer.poll():
            wait_for_trainer(trainer, folder)
        if now - started > SWAP_TIMEOUT_S:
            raise BrokenPromiseError(f"version 2 does not answer after {SWAP_TIMEOUT_S} s")
        yield test


def insist_on_no_failures(tally: Any) -> None:
    """Every request has to be answered."""
    if tally.failures:
        raise BrokenPromiseError(
            f"{len(tally.failures)} requests failed, first: {tally.failures[0]}"
        )


# --- odds and ends of the machine -----------------------------------------------------------------


def import_client(folder: Path) -> ModuleType:
    """Import ``client``, and with it TensorFlow, whose C++ code greets on file descriptor 2."""
    terminal = os.dup(2)
    with (folder / "import.log").open("wb") as log:
        os.dup2(log.fileno(), 2)
        try:
            import client
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
    return client


if __name__ == "__main__":
    sys.exit(main())
