"""TensorFlow Serving's first client: test images over asynchronous gRPC, so many at a time.

    mnist_client.py --num_tests=1000 --server=HOST:PORT [--concurrency=N]

It prints a dot for each answer and then the error rate, as TensorFlow Serving's tutorial shows it;
a request that failed counts as an error.  The calls themselves are in ``mnist/client.py``.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[1] / "mnist"))

import grpc

import data
from client import Classifier, Tally

MAX_TESTS: Final = 10_000


def main(arguments: list[str]) -> int:
    """Classify and print the error rate; 1 if a request failed or none could be sent."""
    parser = argparse.ArgumentParser(description="Classify test images with a running server.")
    parser.add_argument("--concurrency", type=int, default=1, metavar="N")
    parser.add_argument("--num_tests", type=int, default=100, metavar="N")
    parser.add_argument("--server", default="", metavar="HOST:PORT")
    options = parser.parse_args(arguments)
    if options.num_tests > MAX_TESTS:
        print("num_tests should not be greater than 10k")
        return 1
    if not options.server:
        print("please specify server host:port")
        return 1
    if options.num_tests < 1 or options.concurrency < 1:
        parser.error("num_tests and concurrency start at 1")

    tally = classify(options.server, options.num_tests, options.concurrency)
    for failure in sorted(set(tally.failures)):
        print(f"\n{tally.failures.count(failure)} requests failed: {failure}", end="")
    errors = sum(tally.wrong.values()) + len(tally.failures)
    print(f"\nInference error rate: {errors / options.num_tests:.2%}")
    return 1 if tally.failures else 0


def classify(server: str, num_tests: int, concurrency: int) -> Tally:
    """Send test images, the first ones again when there are no more."""
    digits = data.load()
    tests = itertools.cycle(zip(digits.test_images, digits.test_labels, strict=True))
    with grpc.insecure_channel(server) as channel:
        classifier = Classifier(channel, model_name="mnist", concurrency=concurrency)
        return classifier.classify(itertools.islice(tests, num_tests), show_dot)


def show_dot(_tally: Tally) -> None:
    """One more answer."""
    print(".", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
