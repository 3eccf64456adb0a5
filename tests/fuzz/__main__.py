"""Fuzz the parsers for a while, each in turn or several at a time: ``make fuzz``."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.engine import Fuzzer, Notebook, keep_in_corpus, read_corpus
from fuzz.targets import NAMES, corpus_of, target_of
from fuzz.watch import fail, say, watch


def main() -> int:
    """Read the command line, and fuzz; 1 if an input was found that fails."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--target", choices=NAMES, action="append", help="one of them (all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (60)")
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFF)
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (1)")
    parser.add_argument("--keep", action="store_true", help="add what reaches more to the corpus")
    parser.add_argument("--input", help="run one input, in hexadecimal or a file of it")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    names: Sequence[str] = chosen.target or NAMES
    if chosen.input is not None:
        return run_one(names, chosen.input)
    if chosen.worker is not None:
        return work(names[0], chosen)
    options = [f"--seed={chosen.seed}", *(["--keep"] if chosen.keep else [])]
    with ThreadPoolExecutor(chosen.jobs) as jobs:
        fine = list(jobs.map(lambda name: watch(name, chosen.seconds, options), names))
    wrong = [name for name, is_fine in zip(names, fine, strict=True) if not is_fine]
    say("fuzz", f"FAILED: {', '.join(wrong)}" if wrong else f"{len(names)} targets, none failed")
    return int(bool(wrong))


def work(name: str, chosen: argparse.Namespace) -> int:
    """Fuzz in this process, which ``watch`` has started."""
    faulthandler.register(signal.SIGVTALRM, chain=True)
    logging.disable()
    corpus = corpus_of(name)
    fuzzer = Fuzzer(
        target_of(name),
        read_corpus(corpus),
        seed=chosen.seed,
        say=lambda text: say(name, text),
        notebook=Notebook(chosen.worker),
    )
    outcome = fuzzer.run(chosen.seconds)
    if outcome.failure is not None:
        return int(not fail(name, "see above", outcome.failure))
    size = sum(map(len, outcome.found))
    say(name, f"{len(outcome.found)} inputs of {size} bytes reach more than the corpus")
    if chosen.keep:
        keep_in_corpus(corpus, outcome.found)
    return 0


def run_one(names: Sequence[str], text: str) -> int:
    """Run an input by itself, to see how it fails."""
    path = Path(text)
    data = bytes.fromhex(path.read_text() if path.suffix == ".hex" else text)
    for name in names:
        target_of(name).run(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
