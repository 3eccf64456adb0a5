"""Contenders measured in turns, so that a busy machine slows all of them alike.

One round measures every contender once, each round in another order.
A ratio is the median over the rounds of what two contenders took in the same round: it holds on a
machine where no absolute time does.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Final

SAMPLE_S: Final = 0.01
"""A sample repeats a short call for about this long, so that reading the clock costs nothing."""

Samples = dict[str, list[float]]
"""Figures of each contender, in the order of the rounds."""


def in_turns(measurements: Mapping[str, Callable[[], float]], *, rounds: int) -> Samples:
    """Take every figure once a round."""
    names = list(measurements)
    samples: Samples = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            samples[name].append(measurements[name]())
    return samples


def time_calls(contenders: Mapping[str, Callable[[], object]], *, rounds: int) -> Samples:
    """Seconds per call of each contender; the first calls warm up and do not count."""
    counts = {name: _calls_per_sample(call) for name, call in contenders.items()}
    gc.collect()
    gc.freeze()  # TensorFlow's package leaves objects that would be walked in somebody's sample
    return in_turns(
        {
            name: lambda call=call, count=counts[name]: _seconds_per_call(call, count)
            for name, call in contenders.items()
        },
        rounds=rounds,
    )


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times what ``theirs`` took ``ours`` took, in the middle one of the rounds."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def percentile(figures: Sequence[float], percent: float) -> float:
    """The figure that ``percent`` of the others do not exceed."""
    ordered = sorted(figures)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def _calls_per_sample(call: Callable[[], object]) -> int:
    for _ in range(5):
        call()
    return max(int(SAMPLE_S / _seconds_per_call(call, 3)), 1)


def _seconds_per_call(call: Callable[[], object], count: int) -> float:
    started = perf_counter()
    for _ in range(count):
        call()
    return (perf_counter() - started) / count
