"""A small fuzzer: inputs are mutated, and those that reach new code are mutated further.

It needs nothing but the standard library, so it runs wherever the tests do.  Coverage is counted in
steps from one line to the next, in the files under test only.  An input fails if the target raises,
takes too much processor time or makes the process grow; ``watch`` sees to what ends the process.
"""

from __future__ import annotations

import hashlib
import mmap
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

MAX_INPUT_BYTES: Final = 4096
REPORT_S: Final = 30.0
INTERESTING: Final = (0, 1, 2, 3, 4, 5, 8, 9, 31, 32, 0x3F, 0x40, 0x7F, 0x80, 0xBE, 0xFE, 0xFF)

SLOWEST_S: Final = 4.0
"""Processor time that one input may take, counting what watching it costs."""

MAX_GROWTH_BYTES: Final = 64 << 20
"""By how much one input may move the peak of the process's memory."""

MAX_TOTAL_GROWTH_BYTES: Final = 256 << 20
"""The same for all inputs together."""

TRIMS: Final = 120
"""Attempts to make one input smaller."""

Step = tuple[int, int, int]
Mutate = Callable[[bytes, random.Random], bytes]


class GrewTooMuchError(Exception):
    """The process needed more memory than any input should make it need."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed: ``run`` raises if something is wrong, ``mutate`` knows the input's shape."""

    run: Callable[[bytes], None]
    mutate: Mutate
    files: tuple[str, ...]
    """Where coverage is counted: files whose paths hold one of these."""
    blind: float = 0.4
    """The part of changes that know nothing of the input's shape."""


class Coverage:
    """Which steps between lines of some files an input takes."""

    def __init__(self, files: tuple[str, ...]) -> None:
        self._files = files
        self._codes: dict[object, bool] = {}
        self._steps: set[Step] = set()

    def of(self, run: Callable[[bytes], None], data: bytes) -> set[Step]:
        """Run, and say which steps were taken."""
        self._steps = set()
        sys.settrace(self._on_call)
        try:
            run(data)
        finally:
            sys.settrace(None)
        return self._steps

    # Any: what a trace function gets and gives is between it and the interpreter.
    def _on_call(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        is_ours = self._codes.get(code)
        if is_ours is None:
            path = code.co_filename
            is_ours = self._codes[code] = any(part in path for part in self._files)
        if not is_ours:
            return None
        last, number, steps = 0, id(code), self._steps

        def on_line(frame: FrameType, _event: str, _argument: Any) -> Any:
            nonlocal last
            line = frame.f_lineno
            steps.add((number, last, line))
            last = line
            return on_line

        return on_line


class Notebook:
    """The input that is being run, where it can be read after the process has died."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(MAX_INPUT_BYTES + 4))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 0)

    def note(self, data: bytes) -> None:
        """Write an input down."""
        size = min(len(data), MAX_INPUT_BYTES)
        self._page[: 4 + size] = size.to_bytes(4, "big") + data[:size]

    @staticmethod
    def read(path: Path) -> bytes:
        """The input that was written down last."""
        page = path.read_bytes()
        return page[4 : 4 + int.from_bytes(page[:4], "big")]


class Trial:
    """Runs inputs one at a time, and holds each to its bounds."""

    def __init__(self, target: Target, notebook: Notebook | None = None) -> None:
        self._target = target
        self._notebook = notebook
        self._coverage = Coverage(target.files)
        self._base_bytes: int | None = None

    def settle(self) -> None:
        """From now on the process may grow only so much."""
        self._base_bytes = peak_bytes()

    def steps_of(self, data: bytes) -> set[Step]:
        """Run one; the signal that too much time raises ends the process, whatever it is doing."""
        if self._notebook is not None:
            self._notebook.note(data)
        before = peak_bytes()
        signal.setitimer(signal.ITIMER_VIRTUAL, SLOWEST_S)
        try:
            steps = self._coverage.of(self._target.run, data)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        self._check_growth(before)
        return steps

    def _check_growth(self, before: int) -> None:
        peak = peak_bytes()
        base = self._base_bytes
        if base is None:
            return
        if peak - before > MAX_GROWTH_BYTES:
            raise GrewTooMuchError(f"one input made the process grow by {peak - before} bytes")
        if peak - base > MAX_TOTAL_GROWTH_BYTES:
            raise GrewTooMuchError(f"the process has grown by {peak - base} bytes; this input may")


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class Outcome:
    """What a run brought."""

    failure: bytes | None
    found: list[bytes]
    """The fewest and smallest inputs that reach what the corpus does not."""


class Fuzzer:
    """One run: from a corpus, for some time."""

    def __init__(
        self,
        target: Target,
        corpus: Sequence[bytes],
        *,
        seed: int,
        say: Callable[[str], None],
        notebook: Notebook | None = None,
    ) -> None:
        self._target = target
        self._corpus = corpus
        self._inputs = list(corpus) or [b""]
        self._rng = random.Random(seed)  # noqa: S311 -- repeatable, not secret
        self._say = say
        self._trial = Trial(target, notebook)
        self._seen: set[Step] = set()
        self._runs = 0

    def run(self, seconds: float) -> Outcome:
        """Mutate until the time is up, or until an input fails."""
        data = b""
        try:
            for data in self._corpus:
                self._seen |= self._trial.steps_of(data)
            self._trial.settle()
            began_s = said_s = time.monotonic()
            while (now_s := time.monotonic()) - began_s < seconds:
                if now_s - said_s > REPORT_S:
                    said_s = now_s
                    self._say(self._count(now_s - began_s))
                data = mutated(self._target, self._inputs, self._rng)
                self._try(data)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is what we look for
            self._say(f"after {self._runs} runs an input failed: {type(error).__name__}: {error}")
            sys.excepthook(type(error), error, error.__traceback__)
            return Outcome(self._smaller(data, type(error)), [])
        self._say(f"done, nothing failed: {self._count(time.monotonic() - began_s)}")
        return Outcome(None, self._minimised())

    def _try(self, data: bytes) -> None:
        self._runs += 1
        steps = self._trial.steps_of(data)
        if not steps <= self._seen:
            self._seen |= steps
            self._inputs.append(data)

    def _count(self, took_s: float) -> str:
        speed = self._runs / max(took_s, 1e-3)
        megabytes = peak_bytes() >> 20
        return (
            f"{self._runs} runs, {speed:.0f} a second, {len(self._inputs)} inputs, "
            f"{len(self._seen)} steps, {megabytes} MiB at most"
        )

    def _smaller(self, data: bytes, error: type[Exception]) -> bytes:
        """The same failure from less."""

        def fails(smaller: bytes) -> bool:
            try:
                self._target.run(smaller)
            except Exception as other:  # noqa: BLE001 -- only the same one counts
                return type(other) is error
            return False

        return trimmed(data, fails) if error is not GrewTooMuchError else data

    def _minimised(self) -> list[bytes]:
        seen: set[Step] = set()
        for data in self._corpus:
            seen |= self._trial.steps_of(data)
        found = []
        for data in sorted(self._inputs[len(self._corpus) :], key=len):
            new = self._trial.steps_of(data) - seen
            if new:
                smaller = trimmed(data, partial(self._reaches, new))
                seen |= self._trial.steps_of(smaller)
                found.append(smaller)
        return [data for data in found if data]

    def _reaches(self, steps: set[Step], data: bytes) -> bool:
        try:
            return steps <= self._trial.steps_of(data)
        except Exception:  # noqa: BLE001 -- it will be found when it is mutated again
            return False


def trimmed(data: bytes, still: Callable[[bytes], bool]) -> bytes:
    """As few bytes as a number of attempts can find of which ``still`` holds."""
    attempts, size = 0, max(len(data) // 2, 1)
    while size and attempts < TRIMS:
        start = 0
        while start < len(data) and attempts < TRIMS:
            attempts += 1
            less = data[:start] + data[start + size :]
            if still(less):
                data = less
            else:
                start += size
        size //= 2
    return data


def mutated(target: Target, inputs: Sequence[bytes], rng: random.Random) -> bytes:
    """One of the inputs, changed in a few places."""
    data = rng.choice(inputs[-50:]) if rng.random() < 0.5 else rng.choice(inputs)
    if rng.random() < target.blind / 2:
        other = rng.choice(inputs)
        data = data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        change = mutated_bytes if rng.random() < target.blind else target.mutate
        data = change(data, rng)[:MAX_INPUT_BYTES]
    return data


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


def with_words(words: Sequence[bytes]) -> Mutate:
    """A mutation that knows the words of a language: it puts them in, or in others' places."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        word = rng.choice(words)
        places = [place for other in words if (place := data.find(other)) >= 0]
        if places and rng.random() < 0.5:
            place = rng.choice(places)
            out = max((len(each) for each in words if data.startswith(each, place)), default=0)
            return data[:place] + word + data[place + out :]
        place = rng.randrange(len(data) + 1)
        return data[:place] + word * rng.choice((1, 1, 1, 3)) + data[place:]

    return mutate


def cuts_of(size: int, seed: int, pieces: int) -> list[int]:
    """Where to cut an input of this size, the same each time."""
    rng = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    return sorted(rng.choices(range(size + 1), k=pieces))


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """An input cut there."""
    ends = [*cuts, len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends)]  # noqa: B905 - one more start


FOUND: Final = "# found by fuzzing"


def read_corpus(path: Path) -> list[bytes]:
    """Inputs in hexadecimal, one each line; a line that begins with # says what the next one is."""
    lines = path.read_text(encoding="ascii").splitlines()
    return [bytes.fromhex(line) for line in lines if line and not line.startswith("#")]


def keep_in_corpus(path: Path, found: Iterable[bytes]) -> None:
    """Add inputs behind those that are there."""
    text = path.read_text(encoding="ascii")
    if f"{FOUND}\n" not in text:
        text += f"{FOUND}\n"
    path.write_text(text + "".join(f"{data.hex()}\n" for data in found), encoding="ascii")


def name_of(data: bytes) -> str:
    """A short name for an input."""
    return hashlib.sha256(data).hexdigest()[:12]
