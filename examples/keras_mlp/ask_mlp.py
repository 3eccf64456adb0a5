"""Ask a server for the digits on test images, over REST, with ``requests``.

ask_mlp.py [--server=HOST:PORT] [--images=N]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).resolve().parents[1] / "mnist"))

import numpy as np
import requests

import data

SIDE: Final = 28
SHOWN: Final = 10
REQUEST_TIMEOUT_S: Final = 30.0


def predict(server: str, images: np.ndarray) -> Any:
    """The scores that the model ``MLP`` gives the ten digits, a list for each image."""
    response = requests.post(
        f"http://{server}/v1/models/MLP:predict",
        data=json.dumps({"signature_name": "serving_default", "instances": images.tolist()}),
        headers={"content-type": "application/json"},
        timeout=REQUEST_TIMEOUT_S,
    )
    response.raise_for_status()
    return json.loads(response.text)["predictions"]


def main(arguments: list[str]) -> None:
    """Ask and compare with the labels."""
    parser = argparse.ArgumentParser(description="Classify test images with a running server.")
    parser.add_argument("--server", default="localhost:8501", metavar="HOST:PORT")
    parser.add_argument("--images", type=int, default=10, metavar="N")
    options = parser.parse_args(arguments)

    digits = data.load()
    images = digits.test_images[: options.images].reshape(-1, SIDE, SIDE)
    seen = np.argmax(predict(options.server, images), axis=1)
    labels = digits.test_labels[: options.images]
    for digit, label in zip(seen[:SHOWN], labels[:SHOWN], strict=True):
        print(f"a {label}, seen as a {digit}")
    print(f"Inference error rate: {np.mean(seen != labels):.2%}")


if __name__ == "__main__":
    main(sys.argv[1:])
