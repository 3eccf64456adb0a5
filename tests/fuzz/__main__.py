"""Fuzz a parser for a while: ``python -m fuzz {hpack,http2} [--seconds N] [--seed N]``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from fuzz import hpack_target, http2_target
from fuzz.engine import fuzz, read_corpus

TARGETS = {"hpack": hpack_target.TARGET, "http2": http2_target.TARGET}
CORPUS = Path(__file__).with_name("corpus")


def main() -> int:
    """Read the command line, and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFF)
    chosen = parser.parse_args()
    corpus = read_corpus(CORPUS / f"{chosen.target}.txt")
    return fuzz(TARGETS[chosen.target], corpus, chosen.seconds, chosen.seed)


if __name__ == "__main__":
    sys.exit(main())
