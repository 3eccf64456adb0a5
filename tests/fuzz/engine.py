"""A small fuzzer: inputs are mutated, and those that reach new code are mutated further.

It needs nothing but the standard library, so it runs wherever the tests do.  Coverage is counted in
steps from one line to the next, in the files under test only.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

MAX_INPUT_BYTES = 4096
REPORT_S = 10.0
INTERESTING = (0, 1, 2, 3, 4, 5, 8, 9, 0x1F, 0x20, 0x3F, 0x40, 0x7F, 0x80, 0xBE, 0xFE, 0xFF)


@dataclass(frozen=True)
class Target:
    """What is fuzzed: ``run`` raises if something is wrong, ``mutate`` knows the input's shape."""

    run: Callable[[bytes], None]
    mutate: Callable[[bytes, random.Random], bytes]
    files: tuple[str, ...]


class Coverage:
    """Which steps between lines of some files have been seen."""

    def __init__(self, files: tuple[str, ...]) -> None:
        self.seen: set[tuple[int, int, int]] = set()
        self._files = files
        self._codes: dict[object, bool] = {}

    def of(self, run: Callable[[bytes], None], data: bytes) -> int:
        """Run, and say how many steps were new."""
        before = len(self.seen)
        sys.settrace(self._on_call)
        try:
            run(data)
        finally:
            sys.settrace(None)
        return len(self.seen) - before

    # Any: what a trace function gets and gives is between it and the interpreter.
    def _on_call(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        is_ours = self._codes.get(code)
        if is_ours is None:
            is_ours = self._codes[code] = code.co_filename.endswith(self._files)
        if not is_ours:
            return None
        last, number, seen = 0, id(code), self.seen

        def on_line(frame: FrameType, _event: str, _argument: Any) -> Any:
            nonlocal last
            line = frame.f_lineno
            seen.add((number, last, line))
            last = line
            return on_line

        return on_line


def fuzz(target: Target, corpus: list[bytes], seconds: float, seed: int) -> int:
    """Mutate until the time is up; the exit code: 1 if an input was found that fails."""
    rng = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    coverage = Coverage(target.files)
    inputs = list(corpus)
    for data in inputs:
        coverage.of(target.run, data)
    began_s = said_s = time.monotonic()
    runs = 0
    while (now_s := time.monotonic()) - began_s < seconds:
        if now_s - said_s > REPORT_S:
            said_s = now_s
            say(f"{runs} runs, {len(inputs)} inputs, {len(coverage.seen)} steps")
        data = mutated(target, inputs, rng)
        runs += 1
        try:
            if coverage.of(target.run, data):
                inputs.append(data)
        except Exception:  # whatever it is, it is what we look for
            say(f"after {runs} runs this input failed:\n{data.hex()}")
            raise
    say(f"done: {runs} runs, {len(inputs)} inputs, {len(coverage.seen)} steps, nothing failed")
    return 0


def mutated(target: Target, inputs: list[bytes], rng: random.Random) -> bytes:
    """One of the inputs, changed in a few places."""
    data = rng.choice(inputs[-50:]) if rng.random() < 0.5 else rng.choice(inputs)
    if rng.random() < 0.2:
        other = rng.choice(inputs)
        data = data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        data = target.mutate(data, rng) if rng.random() < 0.6 else mutated_bytes(data, rng)
    return data[:MAX_INPUT_BYTES]


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """A change that knows nothing of the input: bits, bytes, pieces."""
    place = rng.randrange(len(data) + 1)
    end = min(place + rng.choice((1, 1, 2, 4, 9, 30)), len(data))
    kind = rng.randrange(6)
    if kind == 0 and place < len(data):
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    if kind == 1:
        return data[:place] + bytes([rng.choice(INTERESTING)]) + data[place + 1 :]
    if kind == 2:
        return data[:place] + data[end:]
    if kind == 3:
        return data[:end] + data[place:end] * rng.choice((1, 1, 2, 10)) + data[end:]
    if kind == 4:
        return data[:place] + rng.randbytes(rng.choice((1, 2, 4))) + data[place:]
    return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]


def read_corpus(path: Path) -> list[bytes]:
    """Inputs in hexadecimal, one each line; a line that begins with # says what the next one is."""
    lines = path.read_text(encoding="ascii").splitlines()
    return [bytes.fromhex(line) for line in lines if line and not line.startswith("#")]


def say(text: str) -> None:
    """One line to whoever waits."""
    print(text, flush=True)  # noqa: T201 -- a command's output
