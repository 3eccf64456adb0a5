"""The fuzz targets hold for their corpus, and for a few mutations of it in every test run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fuzz import hpack_target, http2_target
from fuzz.engine import mutated, read_corpus

TARGETS = {"hpack": hpack_target.TARGET, "http2": http2_target.TARGET}


@pytest.mark.parametrize("name", TARGETS)
def test_corpus_and_its_neighbours_hold(name):
    """Every input of the corpus, and some hundred that are derived from it."""
    target = TARGETS[name]
    corpus = read_corpus(Path(__file__).parent / "corpus" / f"{name}.txt")
    rng = random.Random(7541)  # noqa: S311 -- repeatable, not secret

    for data in corpus:
        target.run(data)
    for _ in range(500):
        target.run(mutated(target, corpus, rng))
