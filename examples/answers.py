"""What TensorFlow itself answers, kept in a file: a server of the same model has to say the same.

Whoever trains a model writes the file; whoever asks a server reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

RELATIVE_TOLERANCE: Final = 1e-4
ABSOLUTE_TOLERANCE: Final = 1e-6
"""Sums of floats depend on how many images are answered at once."""

ERROR_RATE: Final = re.compile(r"^Inference error rate: ([\d.]+)%$", re.MULTILINE)
WORST_ERROR_RATE: Final = 15.0


class DifferentAnswerError(Exception):
    """A server that does not say what TensorFlow says."""


@dataclass(frozen=True)
class Answers:
    """Test images, the digits on them, and the score that TensorFlow gives each digit."""

    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    @classmethod
    def load(cls, path: Path) -> Answers:
        """The answers in a file."""
        with np.load(path) as arrays:
            return cls(arrays["images"], arrays["labels"], arrays["scores"])

    def save(self, path: Path) -> None:
        """Write them to a file, whose name ends in ``.npz``."""
        np.savez(path, images=self.images, labels=self.labels, scores=self.scores)

    def check(self, served: Any) -> None:
        """Compare what a server answered to the same images: an array, or lists of JSON.

        Raises:
            DifferentAnswerError: a score is missing, or not TensorFlow's.
        """
        scores = np.asarray(served)
        if scores.shape != self.scores.shape:
            raise DifferentAnswerError(
                f"the server's answers have the shape {scores.shape}, "
                f"TensorFlow's have {self.scores.shape}"
            )
        is_close = np.isclose(scores, self.scores, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE)
        if not is_close.all():
            raise DifferentAnswerError(
                f"{np.sum(~is_close.all(axis=1))} of {len(scores)} answers are not TensorFlow's, "
                f"one by {np.abs(scores - self.scores).max():g}"
            )


def error_rate(printed: str) -> str:
    """What a client printed that compares answers with labels.

    Raises:
        DifferentAnswerError: it is not the error rate of a model that has learned something.
    """
    found = ERROR_RATE.search(printed)
    if not found or float(found[1]) > WORST_ERROR_RATE:
        raise DifferentAnswerError(f"the client said {printed!r}")
    return f"{found[1]}%"
