"""Hours of everything at once: load, changes, mistakes and slow clients; and what grows.

    soak.py [--minutes N]

Half of the load that the server can take comes over gRPC and REST, and every answer is looked at.
Versions and configurations change all the time.  Some clients ask for what is not there or send
what nobody can read, and are to be told so; others connect and say nothing, or an octet a second.
Nothing of that may cost another client an answer, or the server memory that it keeps.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np

import stage as stages
from paced import Client, Grpc, Http1, Kind, Tally
from reporting import goal, machine, table
from salver.protos.serving_pb2 import PredictRequest
from salver.tensors import encode_tensor
from stage import MODEL, PREDICT, REST_PATH, Changes, Stage

MINUTES: Final = 60.0
SAMPLE_EVERY_S: Final = 10.0
TICK_S: Final = 1.0
MISTAKES_PER_SECOND: Final = 5.0
SLOW_CLIENTS: Final = 20
"""Of each sort."""

SLOPE_GOAL_MIB: Final = 1.0
"""An hour."""

CHANGES: Final = ("swap", "reload", "pause")
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds."""

    resident_mib: float
    files: int
    threads: int


@dataclass(slots=True)
class Watch:
    """Looks at the server now and then."""

    pid: int
    samples: list[tuple[float, Footprint]] = field(default_factory=list)

    def look(self, at_s: float) -> None:
        """Take a sample."""
        self.samples.append((at_s, footprint(self.pid)))

    def slope_mib_per_hour(self) -> float:
        """How memory grows, by least squares; the first tenth of the time is left out."""
        settled_s = self.samples[-1][0] / 10
        kept = [(at_s, each.resident_mib) for at_s, each in self.samples if at_s >= settled_s]
        if len(kept) < 3:
            return float("nan")
        slope, _ = np.polyfit(*zip(*kept, strict=True), 1)
        return float(slope) * 3600


class SlowClients:
    """Connections that say nothing, and some that say an octet a second; renewed when refused."""

    def __init__(self, stage: Stage) -> None:
        request = stages.http_request(REST_PATH, stages.rest_body())
        preface = Grpc(PREDICT, stages.grpc_message()).greeting()
        self._clients = [
            _SlowClient(port, says)
            for port, says in (
                (stage.rest_port, b""),
                (stage.grpc_port, b""),
                (stage.rest_port, request),
                (stage.grpc_port, preface),
            )
            for _ in range(SLOW_CLIENTS)
        ]

    def tick(self) -> None:
        """Say the next octet, or come back."""
        for client in self._clients:
            client.tick()

    @property
    def renewed(self) -> int:
        """How often the server had enough of one."""
        return sum(client.renewed for client in self._clients)

    def close(self) -> None:
        """Leave."""
        for client in self._clients:
            client.close()


class _SlowClient:
    def __init__(self, port: int, says: bytes) -> None:
        self._port, self._says = port, says
        self._at = 0
        self._socket: socket.socket | None = None
        self.renewed = -1

    def tick(self) -> None:
        if self._socket is None or self._has_been_left():
            self.close()
            self._socket = socket.create_connection(("127.0.0.1", self._port), 5)
            self._socket.setblocking(False)
            self._at = 0
            self.renewed += 1
        if self._at < len(self._says):
            with suppress(OSError):  # seen at the next tick
                self._socket.send(self._says[self._at : self._at + 1])
            self._at += 1

    def _has_been_left(self) -> bool:
        assert self._socket is not None
        try:
            return not self._socket.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def main() -> int:
    """Run for as long as was asked for, and print what became of it; 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"({MINUTES:g})")
    minutes = parser.parse_args().minutes
    if not stages.h2load.is_there():
        return 0
    print(machine())
    with stages.running_stage() as stage:
        rates = stages.measure_peaks(stage)
        print(f"\n{rates}", flush=True)
        gc.collect()
        gc.freeze()
        return soak(stage, rates, minutes * 60)


def soak(stage: Stage, rates: stages.Rates, seconds: float) -> int:
    """Everything at once."""
    kinds = stages.kinds(
        stage, grpc_per_second=rates.grpc, rest_per_second=rates.rest, keeps_latencies=False
    )
    watch = Watch(stage.pid)
    with (
        closing(Client([*kinds, *mistakes(stage)])) as client,
        closing(Changes(stage)) as changes,
        closing(SlowClients(stage)) as slow,
    ):
        is_over = conductor(changes, slow, watch, seconds)
        tallies = client.run(is_over, wakes=changes.wakes())
        return report(tallies, changes, slow, watch)


def conductor(
    changes: Changes, slow: SlowClients, watch: Watch, seconds: float
) -> Callable[[], bool]:
    """Whether it is over; and whatever is due meanwhile, for this is asked all the time."""
    what = itertools.cycle(CHANGES)
    began_s = perf_counter()
    tick_s, sample_s = 0.0, 0.0

    def is_over() -> bool:
        nonlocal tick_s, sample_s
        now_s = perf_counter() - began_s
        if now_s >= tick_s:
            tick_s = now_s + TICK_S
            slow.tick()
        if now_s >= sample_s:
            sample_s = now_s + SAMPLE_EVERY_S
            watch.look(now_s)
        if now_s >= seconds:
            return changes.is_idle
        if changes.is_idle:
            changes.start(next(what))
        return False

    return is_over


# --- Mistakes -------------------------------------------------------------------------------------


def mistakes(stage: Stage) -> list[Kind]:
    """Requests that are wrong, each in one way, and how each has to be answered."""
    over_rest = {
        "unknown model": ("/v1/models/nobody:predict", stages.rest_body(), b"404"),
        "unknown path": ("/v2/nothing", b"{}", b"404"),
        "no JSON": (REST_PATH, b'{"inputs": [1, 2', b"400"),
        "wrong type": (REST_PATH, b'{"inputs": {"ids": ["a"]}}', b"400"),
        "no shape": (REST_PATH, b'{"inputs": {"ids": [[1, 2], [3]]}}', b"400"),
        "row that is not there": (REST_PATH, json.dumps({"inputs": [10**9]}).encode(), b"400"),
    }
    over_grpc = {
        "unknown model": predict_message("nobody", np.zeros(1, np.int64)),
        "wrong type": predict_message(MODEL, np.zeros(1, np.float32)),
        "wrong shape": impossible_message(),
        "no protobuf": b"\xff" * 20,
    }
    return [
        *(
            Kind(
                f"REST, {name}",
                stage.rest_port,
                lambda path=path, body=body: Http1(stages.http_request(path, body)),
                lambda content, status=status: content.startswith(b"HTTP/1.1 " + status),
                MISTAKES_PER_SECOND,
                keeps_latencies=False,
            )
            for name, (path, body, status) in over_rest.items()
        ),
        *(
            Kind(
                f"gRPC, {name}",
                stage.grpc_port,
                lambda message=message: Grpc(PREDICT, message),
                lambda content: content == b"",
                MISTAKES_PER_SECOND,
                keeps_latencies=False,
            )
            for name, message in over_grpc.items()
        ),
    ]


def predict_message(model: str, ids: np.ndarray) -> bytes:
    """A Predict with these ids."""
    message = PredictRequest()
    message.model_spec.name = model
    encode_tensor(message.inputs["ids"], ids)
    return message.SerializeToString()


def impossible_message() -> bytes:
    """A Predict with less than no numbers."""
    message = PredictRequest.FromString(predict_message(MODEL, np.zeros(3, np.int64)))
    message.inputs["ids"].tensor_shape.dim[0].size = -2
    return message.SerializeToString()


# --- What became of it ----------------------------------------------------------------------------


def footprint(pid: int) -> Footprint:
    """What a process holds now."""
    process = Path(f"/proc/{pid}")
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    return Footprint(
        resident_mib=int(status["VmRSS"].split()[0]) * 1024 / MIB,
        files=sum(1 for _ in (process / "fd").iterdir()),
        threads=int(status["Threads"]),
    )


def report(tallies: dict[str, Tally], changes: Changes, slow: SlowClients, watch: Watch) -> int:
    """The tables and the goals; 1 if one was missed."""
    rows = [
        (name, f"{tally.sent:,}", f"{tally.answered:,}", f"{tally.failed:,}")
        for name, tally in tallies.items()
    ]
    table(("requests", "sent", "answered", "answered wrongly or not"), rows)
    table(("at", "resident MiB", "files", "threads"), [row(*each) for each in picked(watch)])
    print(
        f"{changes.done} changes were made while requests came in, "
        f"and {slow.renewed} slow clients were turned away"
    )
    for text in [*changes.failures, *(c for tally in tallies.values() for c in tally.complaints)]:
        print(text)
    failed = sum(tally.failed for tally in tallies.values())
    slope = watch.slope_mib_per_hour()
    goal(f"no failed request ({failed} failed)", met=not failed)
    goal(f"no failed change ({len(changes.failures)} failed)", met=not changes.failures)
    goal(
        f"memory grows by less than {SLOPE_GOAL_MIB:g} MiB an hour ({slope:.2f} MiB)",
        met=slope < SLOPE_GOAL_MIB,
    )
    return int(bool(failed or changes.failures or slope >= SLOPE_GOAL_MIB))


def picked(watch: Watch) -> Sequence[tuple[float, Footprint]]:
    """The first, the last, and some in between."""
    samples = watch.samples
    step = max(len(samples) // 12, 1)
    return [*samples[:-1:step], samples[-1]]


def row(at_s: float, each: Footprint) -> tuple[str, ...]:
    """A line of the table."""
    return f"{at_s / 60:.1f} min", f"{each.resident_mib:.1f}", str(each.files), str(each.threads)


if __name__ == "__main__":
    sys.exit(main())
