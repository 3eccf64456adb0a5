"""The handwritten digits of the example, 28 by 28 grey values from 0 to 1, and their labels.

MNIST itself where it can be fetched (11 MB, kept in ``.cache/``); otherwise the digits that come
with scikit-learn, drawn larger.  ``Digits.source`` says which.  Nothing is fetched where the
environment variable SALVER_OFFLINE is set.
"""

from __future__ import annotations

import hashlib
import os
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

MNIST_URL: Final = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_SHA256: Final = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
MAX_BYTES: Final = 20_000_000
CACHE: Final = Path(__file__).resolve().parents[2] / ".cache"
OFFLINE: Final = "SALVER_OFFLINE"
CONNECT_TIMEOUT_S: Final = 5
DOWNLOAD_TIMEOUT_S: Final = 60


@dataclass(frozen=True)
class Digits:
    """Images as float32 rows of 784, labels as integers; ``source`` says where they come from."""

    source: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load() -> Digits:
    """MNIST from the cache or the net, or else scikit-learn's digits."""
    try:
        return _mnist(_fetch_mnist())
    except OSError as error:
        return _scikit_learn_digits(instead_because=error)


def _fetch_mnist() -> Path:
    path = CACHE / "mnist.npz"
    if path.exists():
        return path
    if os.environ.get(OFFLINE):
        raise OSError(f"{OFFLINE} is set")
    CACHE.mkdir(exist_ok=True)
    content = _download(MNIST_URL)
    if hashlib.sha256(content).hexdigest() != MNIST_SHA256:
        raise OSError(f"{MNIST_URL} is not the file it should be")
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.rename(path)
    return path


def _download(url: str) -> bytes:
    """The body, refused when it is larger or slower than MNIST has a reason to be."""
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_S
    content = bytearray()
    with urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S) as response:  # noqa: S310 (https)
        while chunk := response.read(1 << 20):
            content += chunk
            print(f"  fetching MNIST: {len(content) >> 20} of 11 MB", flush=True)
            if time.monotonic() > deadline or len(content) > MAX_BYTES:
                raise OSError(f"{url} takes too long or is too large")
    return bytes(content)


def _mnist(path: Path) -> Digits:
    with np.load(path) as arrays:
        return Digits(
            "MNIST",
            _flat(arrays["x_train"] / np.float32(255)),
            arrays["y_train"].astype(np.int64),
            _flat(arrays["x_test"] / np.float32(255)),
            arrays["y_test"].astype(np.int64),
        )


def _scikit_learn_digits(*, instead_because: OSError) -> Digits:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 8 by 8 pixels, each drawn 3 by 3, in a frame of 2: the margins MNIST has, too.
    large = np.kron(digits.images / np.float32(16), np.ones((3, 3), np.float32))
    images = _flat(np.pad(large, ((0, 0), (2, 2), (2, 2))))
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1297], order[1297:]
    labels = digits.target.astype(np.int64)
    source = f"scikit-learn's digits (MNIST cannot be fetched: {instead_because})"
    return Digits(source, images[train], labels[train], images[test], labels[test])


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), 784).astype(np.float32)
