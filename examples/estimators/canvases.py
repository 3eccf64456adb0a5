"""Digits somewhere on a large picture: what the keypoint model learns to find.

A picture is 384 by 384 pixels in three colours from 0 to 1.  On three of four there is a
handwritten digit; its keypoint is its centre, as a part of the width and of the height.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

SIDE: Final = 384
ENLARGED: Final = 4
DIGIT: Final = 28 * ENLARGED
VISIBLE: Final = 0.75


@dataclass(frozen=True)
class Canvases:
    """Pictures, where the centre of the digit is, and whether there is one."""

    images: np.ndarray  # float32 [n, 384, 384, 3]
    x_ratio: np.ndarray  # float32 [n], 0.5 where there is no digit
    y_ratio: np.ndarray
    visibility: np.ndarray  # int64 [n], 0 or 1


def draw(digits: np.ndarray, random: np.random.Generator) -> Canvases:
    """One picture for each digit (a row of 784 grey values), drawn or left out as chance wills."""
    count = len(digits)
    left, top = random.integers(0, SIDE - DIGIT + 1, (2, count))
    visibility = (random.random(count) < VISIBLE).astype(np.int64)
    colours = random.uniform(0.5, 1.0, (count, 3)).astype(np.float32)
    paper = random.uniform(0.0, 0.2, (count, 1, 1, 3)).astype(np.float32)
    images = np.broadcast_to(paper, (count, SIDE, SIDE, 3)).copy()
    large = np.kron(digits.reshape(-1, 28, 28), np.ones((ENLARGED, ENLARGED), np.float32))
    for n in np.flatnonzero(visibility):
        place = images[n, top[n] : top[n] + DIGIT, left[n] : left[n] + DIGIT]
        np.maximum(place, large[n, :, :, None] * colours[n], out=place)
    return Canvases(images, ratio(left, visibility), ratio(top, visibility), visibility)


def ratio(corner: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    """Where the centre of a digit with this corner is, from 0 to 1."""
    centre = (corner + DIGIT / 2) / SIDE
    return np.where(visibility, centre, 0.5).astype(np.float32)
