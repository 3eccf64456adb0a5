"""What requests feel of switches between versions, and of changes of the configuration.

    hot_swap.py [--swaps N] [--reloads N] [--calm SECONDS]

Half of the load that the server can take comes over gRPC and REST at once, and every answer is
looked at.  First nothing happens; then a model of 100 MB is replaced by its next version, again and
again; then the configuration is, each time with some models more and some less.

How long the event loop is held up is measured twice.  From outside, a tiny status request is sent
every two milliseconds: what the slowest of them took is the longest stall, and more than that.
From inside, the server itself notes how late its loop is.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import inf
from time import perf_counter, process_time
from typing import Final

import stage as stages
from paced import Client, Tally
from reporting import duration, goal, machine, table, times
from stage import GRPC, PROBE, REST, Changes, Rates, Stage
from timing import percentile

SWAPS: Final = 50
RELOADS: Final = 50
CALM_S: Final = 30.0
P99_GOAL: Final = 1.5
STALL_GOAL_S: Final = 20e-3


@dataclass(frozen=True, slots=True)
class Phase:
    """What came of the requests while something went on."""

    name: str
    tallies: Mapping[str, Tally]
    lags: Mapping[float, int]
    """How often the loop was late by at most so many seconds."""
    seconds: float
    own_cpu: float
    """The part of a processor that this process took."""

    @property
    def failed(self) -> int:
        """Requests of every kind that were not answered as they should have been."""
        return sum(tally.failed for tally in self.tallies.values())

    @property
    def stall_s(self) -> float:
        """The longest time that a tiny request took."""
        return self.tallies[PROBE].longest_s

    def p99_s(self, kind: str) -> float:
        """Of the requests that say something."""
        return at(self.tallies[kind], 99)

    @property
    def lag_s(self) -> float:
        """A bound for how late the loop was at worst, by its own account."""
        most = max(self.lags.values(), default=0)
        return min((bound for bound, count in self.lags.items() if count == most), default=inf)


def main() -> int:
    """Load the server, change it, and print what was felt of that; 1 if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--swaps", type=int, default=SWAPS, help=f"of versions ({SWAPS})")
    parser.add_argument("--reloads", type=int, default=RELOADS, help=f"of models ({RELOADS})")
    parser.add_argument("--calm", type=float, default=CALM_S, help=f"seconds before ({CALM_S:g})")
    arguments = parser.parse_args()
    if not stages.h2load.is_there():
        return 0
    print(machine())
    with stages.running_stage() as stage:
        rates = stages.measure_peaks(stage)
        print(f"\n{rates}", flush=True)
        gc.collect()
        gc.freeze()
        phases, complaints = measured(stage, rates, arguments)
    show(phases)
    judge(phases)
    for complaint in complaints:
        print(complaint)
    return int(bool(complaints))


def measured(
    stage: Stage, rates: Rates, arguments: argparse.Namespace
) -> tuple[list[Phase], list[str]]:
    """The three phases, and whatever went wrong in words."""
    kinds = stages.kinds(
        stage, grpc_per_second=rates.grpc, rest_per_second=rates.rest, keeps_latencies=True
    )
    with closing(Client(kinds)) as client, closing(Changes(stage)) as changes:
        client.run(over_after(1.0))  # the server learns where these calls belong
        phases = [
            phase("calm", stage, client, changes, [], arguments.calm),
            phase("switches", stage, client, changes, ["swap"] * arguments.swaps),
            phase("reloads", stage, client, changes, ["reload", "pause"] * arguments.reloads),
        ]
        failures = changes.failures
    complaints = [text for each in phases for t in each.tallies.values() for text in t.complaints]
    return phases, complaints + failures


def phase(
    name: str,
    stage: Stage,
    client: Client,
    changes: Changes,
    what: Sequence[str],
    seconds: float = 0.0,
) -> Phase:
    """Send until the changes are made, or for some seconds where there are none."""
    lags = stage.lags()
    began_s, began_cpu_s = perf_counter(), process_time()
    tallies = changes.run(client, what) if what else client.run(over_after(seconds))
    took_s, cpu_s = perf_counter() - began_s, process_time() - began_cpu_s
    late = {bound: count - lags.get(bound, 0) for bound, count in stage.lags().items()}
    label = f"{sum(each != 'pause' for each in what)} {name}" if what else name
    return Phase(label, tallies, late, took_s, cpu_s / took_s)


def over_after(seconds: float) -> stages.Callable[[], bool]:
    """Whether some seconds have gone by."""
    end_s = perf_counter() + seconds
    return lambda: perf_counter() >= end_s


def at(tally: Tally, part: float) -> float:
    """A percentile of the latencies that say something."""
    return percentile(tally.latencies_s, part) if tally.latencies_s else inf


def show(phases: Sequence[Phase]) -> None:
    """The table."""
    rows = [
        (
            each.name,
            kind,
            f"{tally.sent:,}",
            f"{tally.failed:,}",
            *(duration(at(tally, part)) for part in (50, 99)),
            duration(tally.longest_s),
            f"{tally.disturbed / max(tally.answered, 1):.1%}",
        )
        for each in phases
        for kind, tally in each.tallies.items()
    ]
    headers = ("phase", "requests", "sent", "failed", "p50", "p99", "max", "left out")
    table(headers, rows, labels=2)
    for each in phases:
        print(
            f"{each.name}: {each.seconds:.0f} s; the longest stall {duration(each.stall_s)} from "
            f"outside, at most {duration(each.lag_s)} by the loop's own account; this client took "
            f"{each.own_cpu:.0%} of a processor"
        )
    print()


def judge(phases: Sequence[Phase]) -> None:
    """The goals."""
    calm, *changing = phases
    failed = sum(each.failed for each in phases)
    goal(f"no failed request ({failed} failed)", met=not failed)
    for each in changing:
        for kind in (GRPC, REST):
            factor = each.p99_s(kind) / calm.p99_s(kind)
            text = f"{kind}, {each.name}: p99 within {P99_GOAL:g}x of calm ({times(factor)})"
            goal(text, met=factor <= P99_GOAL)
        text = f"{each.name}: no stall of {duration(STALL_GOAL_S)} ({duration(each.stall_s)})"
        goal(f"{text}; calm had {duration(calm.stall_s)}", met=each.stall_s < STALL_GOAL_S)


if __name__ == "__main__":
    sys.exit(main())
