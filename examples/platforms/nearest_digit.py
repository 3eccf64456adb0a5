"""A class in Python as a model: the digit whose average image is nearest.

A version is a file ``averages.npy`` with ten images as rows of 784 grey values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from salver.servables.example_features import feature
from salver.servables.python import Call, PythonPlatform, Tensor

DIGITS: Final = [str(digit) for digit in range(10)]
PIXELS: Final = 784


class NearestDigit:
    """One version: it classifies images, or ``tf.Example``s with a feature ``x``."""

    signatures: ClassVar = {
        "serving_default": Call(
            inputs={"images": Tensor("float32", [None, PIXELS])},
            outputs={"digits": Tensor("string", [None]), "scores": Tensor("float32", [None, 10])},
        ),
        "classify": Call(
            inputs={"inputs": Tensor("string", [None])},
            outputs={
                "classes": Tensor("string", [None, 10]),
                "scores": Tensor("float32", [None, 10]),
            },
            answered_by="classify",
            api="classify",
        ),
    }
    thread_safe = True
    predictable = True

    def __init__(self, path: Path) -> None:
        self._averages: np.ndarray = np.load(path / "averages.npy")

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The nearest digit of each image, and how near each of them is."""
        scores = self.scores(inputs["images"])
        return {"digits": [DIGITS[nearest] for nearest in scores.argmax(1)], "scores": scores}

    def classify(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The same for images in Examples."""
        scores = self.scores(feature(inputs["inputs"], "x"))
        return {"classes": np.broadcast_to(DIGITS, scores.shape), "scores": scores}

    def scores(self, images: np.ndarray) -> np.ndarray:
        """How near each digit is, in the sense of a mixture of Gaussians around the averages."""
        products = images @ self._averages.T
        distances = (self._averages**2).sum(1) - 2 * products  # but for what all ten share
        nearness = np.exp((distances.min(1, keepdims=True) - distances) / 8)
        scores: np.ndarray = nearness / nearness.sum(1, keepdims=True)
        return scores


platform = PythonPlatform(NearestDigit)
