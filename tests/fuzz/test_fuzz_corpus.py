"""The fuzz targets hold for their corpus, and for a few mutations of it in every test run."""

from __future__ import annotations

import random

import pytest

from fuzz.engine import mutated, read_corpus
from fuzz.targets import NAMES, corpus_of, target_of

MUTATIONS = 200


@pytest.mark.parametrize("name", NAMES)
def test_corpus_and_its_neighbours_hold(name):
    """Every input of the corpus, and some hundred that are derived from it."""
    target = target_of(name)
    corpus = read_corpus(corpus_of(name))
    rng = random.Random(7541)  # noqa: S311 -- repeatable, not secret

    for data in corpus:
        target.run(data)
    for _ in range(MUTATIONS):
        target.run(mutated(target, corpus, rng))
