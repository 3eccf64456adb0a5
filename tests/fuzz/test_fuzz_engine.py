"""The fuzzer finds what is planted, and makes it small."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.engine import (
    Fuzzer,
    Notebook,
    Outcome,
    Target,
    keep_in_corpus,
    mutated_bytes,
    read_corpus,
)
from fuzz.watch import ending

LONG_S = 60.0
"""It ends as soon as something is found."""


def door(data: bytes) -> None:
    """Opens step by step: who tries blindly needs years."""
    if data[:1] != b"s":
        return
    if data[1:2] != b"a":
        return
    if data[2:3] != b"l":
        return
    if data[3:4] == b"t":
        raise LookupError("planted")


def fuzzed(run, *, corpus=(b"....",), seconds: float = LONG_S, changed=mutated_bytes) -> Outcome:
    target = Target(run, changed, (Path(__file__).name,))
    return Fuzzer(target, list(corpus), seed=1, say=lambda _text: None).run(seconds)


def test_coverage_leads_to_what_is_behind_several_conditions(capsys):
    """Each condition that is met is kept, so the next one is within reach."""
    outcome = fuzzed(door)

    assert outcome.failure == b"salt"


def test_an_input_that_makes_the_process_grow_fails():
    """Memory is watched, for one input and for all together."""
    held = []

    def grow(data: bytes) -> None:
        if data != b"....":
            held.append(b"x" * (100 << 20))

    outcome = fuzzed(grow)
    held.clear()

    assert outcome.failure is not None


def test_what_is_found_is_kept_small(tmp_path):
    """The corpus gets as few bytes as reach the same code."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("# the first\n2e2e2e2e\n")

    def letter(data: bytes) -> None:
        if data.startswith(b"s"):
            data.count(b"s")  # a line of its own in every Python

    def found_at_once(*_: object) -> bytes:
        return b"s" * 50

    outcome = fuzzed(letter, corpus=[b"." * 50], seconds=0.5, changed=found_at_once)
    keep_in_corpus(corpus, outcome.found)

    assert outcome.found == [b"s"]
    assert read_corpus(corpus) == [b"....", b"s"]


def test_the_last_input_outlives_the_process(tmp_path):
    """What a process died of can be read afterwards."""
    Notebook(tmp_path / "input").note(b"the last")

    assert Notebook.read(tmp_path / "input") == b"the last"


@pytest.mark.parametrize(("number", "words"), [(26, "too much time"), (11, "SIGSEGV")])
def test_a_signal_says_what_was_wrong(number, words):
    """A hang and a crash are told apart."""
    assert words in ending(number)
