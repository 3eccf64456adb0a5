"""Hostile and broken clients against the real server, and a well-behaved one beside them.

    hostile.py [--seconds S] [--only REGEX] [--wait-s S]

For each attack: what the attacker got, the server's memory and processor share, how many lines its
log grew by, and what the other client felt, who asks for a Predict over gRPC and one over REST
every few milliseconds from a process of its own.  Its calm p99 is taken just before each attack;
both are those of the middle one of five parts, since the machine may have other work.
All of it shares one machine; the attacker gets the processor last, since it would have its own.
At the end stands what the logs say: the server says each kind of thing once a minute at most, so an
attack of a kind that was there just before adds no line of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter, sleep
from typing import Any, Final

import grpc

sys.path.append(str(Path(__file__).resolve().parent.parent))

import models  # they are in the folder above
import servers
from attacks import FLOODS, HANDSHAKES, WAITS, Doors, Outcome, Warden, no_descriptors
from reporting import goal, machine, table
from timing import percentile
from whole_server import cpu_seconds, grpc_request

PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
PERIOD_S: Final = 4e-3
SAMPLE_S: Final = 0.02
ANSWER_TIMEOUT_S: Final = 5.0
ALLOWED_RATIO: Final = 3.0
MIB: Final = 1 << 20
FEW_DESCRIPTORS: Final = 300
LAST: Final = 19
"""How nice the attacker is."""

PARTS: Final = 5

Attack = Callable[[Doors, Warden, float], Outcome]


def main() -> int:
    """Run the attacks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each attack (3)")
    parser.add_argument("--only", default="", metavar="REGEX", help="names of attacks")
    parser.add_argument("--wait-s", type=float, default=70.0, help="for the server's patience (70)")
    parser.add_argument("--beside", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.beside:
        be_well_behaved(*arguments.beside)
        return 0
    if not Path("/proc/self/status").exists():
        print("memory and processor time are read from /proc, which this system lacks")
        return 0
    allow_many_files()
    print(machine())
    rows: list[Row] = []
    targets: list[Target] = []

    def start(**settings: Any) -> Target:  # Any: they are running_target's
        targets.append(stack.enter_context(running_target(**settings)))
        return targets[-1]

    def chosen(attacks: Mapping[str, Attack]) -> dict[str, Attack]:
        return {name: run for name, run in attacks.items() if re.search(arguments.only, name)}

    with ExitStack() as stack:
        seconds = arguments.seconds
        warden = Warden()
        plain = start()
        rows += attack_all(plain, {**chosen(FLOODS), **chosen(WAITS)}, warden, seconds)
        if attacks := chosen(HANDSHAKES):
            tls = start(with_tls=True)
            rows += attack_all(tls, attacks, warden, seconds)
        if attacks := chosen({"more connections than descriptors": no_descriptors}):
            few = start(descriptors=FEW_DESCRIPTORS)
            rows += attack_all(few, attacks, warden, seconds)
        wait_for_ends(warden, rows, arguments.wait_s)
        said = [line for target in targets for line in target.said()]
    show(rows)
    print(*(f"log: {line}" for line in said), sep="\n")
    return 0


# --- the server and the client beside -------------------------------------------------------------


@dataclass(slots=True)
class Target:
    """A server under attack and the well-behaved client beside."""

    pid: int
    doors: Doors
    log_path: Path
    beside: subprocess.Popen[str]
    lines_of_start: int = 0

    def said(self) -> list[str]:
        """What the log has said since the start."""
        return self.log_path.read_text().splitlines()[self.lines_of_start :]

    def log_lines(self) -> int:
        """Lines in the server's log so far."""
        return self.log_path.read_bytes().count(b"\n")

    def resident_bytes(self) -> int:
        """The server's memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) << 10

    def felt(self) -> Felt:
        """What the well-behaved client has felt since it was last asked."""
        stdin, stdout = self.beside.stdin, self.beside.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write("so far?\n")
        stdin.flush()
        return Felt(**json.loads(stdout.readline()))


@dataclass(slots=True)
class Felt:
    """What a well-behaved client has felt for a while: latencies, and what was lost."""

    grpc_s: list[float] = field(default_factory=list)
    rest_s: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@contextmanager
def running_target(*, with_tls: bool = False, descriptors: int = 0) -> Iterator[Target]:
    """A server of half_plus_two and the client beside it; both are stopped at the end."""
    grpc_port, rest_port = servers.free_port(), servers.free_port()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        log_path, certificate = Path(folder, "log"), ""
        flags = [f"--port={grpc_port}", f"--rest_api_port={rest_port}"]
        flags += [f"--model_name={servers.MODEL}"]
        flags += [f"--model_base_path={models.base_path(servers.MODEL)}"]
        if with_tls:
            certificate, config = make_certificate(Path(folder))
            flags.append(f"--ssl_config_file={config}")
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("tensorflow_model_server")), *flags],
            stdout=stack.enter_context(log_path.open("wb")),
            stderr=subprocess.STDOUT,
            env={**servers.quiet_environment(), "TF_CPP_MIN_LOG_LEVEL": "0"},
            preexec_fn=lambda: allow_files(descriptors) if descriptors else None,
        )
        stack.callback(servers.stop, process)
        wait_for_port(rest_port)
        beside = subprocess.Popen(
            [sys.executable, __file__, "--beside", str(grpc_port), str(rest_port), certificate],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(servers.stop, beside)
        target = Target(process.pid, Doors(grpc_port, rest_port), log_path, beside)
        sleep(1)
        target.felt()  # the first answers are slow
        target.lines_of_start = target.log_lines()
        yield target


def make_certificate(folder: Path) -> tuple[str, Path]:
    """A certificate for this machine, and the server's configuration with it."""
    certificate, key = folder / "certificate", folder / "key"
    # fmt: off
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
               "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost",
               "-keyout", key, "-out", certificate,
               "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    # fmt: on
    subprocess.run(command, check=True, capture_output=True)
    config = folder / "ssl.config"
    texts = {"server_key": key.read_text(), "server_cert": certificate.read_text()}
    config.write_text("".join(f"{name}: {json.dumps(text)}\n" for name, text in texts.items()))
    return str(certificate), config


def wait_for_port(port: int) -> None:
    """Wait until the model answers."""
    until_s = monotonic() + servers.START_TIMEOUT_S
    while (failure := failure_of_one_request(port)) and monotonic() < until_s:
        sleep(0.05)
    if failure:
        raise RuntimeError(f"the server gave no right answer: {failure}")


def failure_of_one_request(port: int) -> str:
    """What went wrong with a request on a connection of its own; empty if it was answered."""
    try:
        with socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S) as connection:
            connection.sendall(servers.REST_REQUEST)
            _, body = servers.read_response(connection)
    except OSError as error:
        return str(error)
    return "" if servers.RIGHT_ANSWER in body else "a wrong answer"


def allow_many_files() -> None:
    """Let this process, and those it starts, have all the descriptors there are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def allow_files(number: int) -> None:
    """Let this process have so many descriptors."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


def be_well_behaved(grpc_port: str, rest_port: str, certificate: str) -> None:
    """Ask every few milliseconds, and tell what it was like when asked; until stdin ends."""
    felt = Felt()
    address, options = f"127.0.0.1:{grpc_port}", [("grpc.use_local_subchannel_pool", 1)]
    if certificate:
        trusted = grpc.ssl_channel_credentials(Path(certificate).read_bytes())
        channel = grpc.secure_channel(address, trusted, options)
    else:
        channel = grpc.insecure_channel(address, options)
    call, grpc_body = channel.unary_unary(PREDICT), grpc_request()
    rest = RestClient(int(rest_port))
    due_s = perf_counter()
    while True:
        if select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                return
            print(json.dumps({name: getattr(felt, name) for name in Felt.__slots__}), flush=True)
            felt = Felt()
        for latencies_s, request in (
            (felt.grpc_s, lambda: call(grpc_body, timeout=ANSWER_TIMEOUT_S)),
            (felt.rest_s, rest.ask),
        ):
            due_s += PERIOD_S
            sleep(max(due_s - perf_counter(), 0.0))
            ask(felt, latencies_s, request, due_s)


def ask(felt: Felt, latencies_s: list[float], request: Callable[[], object], due_s: float) -> None:
    """One request, timed from when it was due: what waits behind a slow one waits, too."""
    try:
        request()
    except (OSError, grpc.RpcError) as error:
        felt.lost.append(str(error)[:200])
    latencies_s.append(perf_counter() - due_s)


class RestClient:
    """A kept-alive connection, made anew when it breaks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: socket.socket | None = None

    def ask(self) -> None:
        """One Predict."""
        if self._connection is None:
            self._connection = socket.create_connection(("127.0.0.1", self._port), ANSWER_TIMEOUT_S)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._connection.sendall(servers.REST_REQUEST)
            _, body = servers.read_response(self._connection)
        except OSError:
            self._connection.close()
            self._connection = None
            raise
        if servers.RIGHT_ANSWER not in body:
            raise ConnectionError("a wrong answer")


# --- the attacks ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """One attack and its figures."""

    name: str
    outcome: Outcome
    before_bytes: int
    peak_bytes: int
    after_bytes: int
    calm_cpu_share: float
    cpu_share: float
    log_lines: int
    calm: Felt
    beside: Felt
    newcomer: str


class Sampler:
    """The highest memory of a process while the block lasts."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.peak_bytes = 0

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, self._target.resident_bytes())


def attack_all(
    target: Target, attacks: Mapping[str, Attack], warden: Warden, seconds: float
) -> list[Row]:
    """One attack after the other."""
    rows = []
    for name, attack in attacks.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows.append(attack_once(target, name, attack, warden, seconds))
    return rows


def attack_once(target: Target, name: str, attack: Attack, warden: Warden, seconds: float) -> Row:
    """A calm while, then the attack."""
    target.felt()
    calm_cpu_s, began_s = cpu_seconds(target.pid), monotonic()
    warden.watch(seconds)
    calm_share = (cpu_seconds(target.pid) - calm_cpu_s) / (monotonic() - began_s)
    calm = target.felt()
    before_bytes, lines = target.resident_bytes(), target.log_lines()
    with Sampler(target) as sampler:
        cpu_s, began_s = cpu_seconds(target.pid), monotonic()
        outcome = in_the_background(lambda: attack(target.doors, warden, monotonic() + seconds))
        elapsed_s = monotonic() - began_s
        cpu_share = (cpu_seconds(target.pid) - cpu_s) / elapsed_s
        beside = target.felt()
    peak_bytes = max(sampler.peak_bytes, before_bytes)
    if outcome.may_stay and outcome.waiting:
        staying, outcome = outcome.waiting, Outcome(outcome.text())
        warden.let_go(staying)
    warden.watch(0.5)
    came_s = monotonic()
    newcomer = failure_of_one_request(target.doors.rest_port)
    newcomer = newcomer or f"answered in {(monotonic() - came_s) * 1e3:,.0f} ms"
    return Row(
        name, outcome, before_bytes, peak_bytes, target.resident_bytes(), calm_share, cpu_share,
        target.log_lines() - lines, calm, beside, newcomer,
    )  # fmt: skip


def in_the_background(work: Callable[[], Outcome]) -> Outcome:
    """Do it on a thread that gets the processor last."""

    def work_last() -> Outcome:
        os.nice(LAST)  # on Linux the thread's own affair
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work_last).result()


def wait_for_ends(warden: Warden, rows: list[Row], seconds: float) -> None:
    """Let the server's patience end."""
    waiting = [line for row in rows for line in row.outcome.waiting or ()]
    until_s = monotonic() + seconds
    while monotonic() < until_s and warden.is_waiting_for(waiting):
        warden.watch(1)


def show(rows: list[Row]) -> None:
    """The table and the verdict."""
    ratios = {row.name: max(ratio(row, "grpc_s"), ratio(row, "rest_s")) for row in rows}
    lost = {row.name: len(row.beside.lost) + len(row.calm.lost) for row in rows}
    table(
        (
            "attack",
            "what the attacker got",
            "MiB before",
            "peak",
            "after",
            "CPU calm",
            "under attack",
            "log lines",
            "gRPC p99 calm",
            "beside",
            "REST p99 calm",
            "beside",
            "ratio",
            "lost",
            "newcomer",
        ),
        [
            (
                row.name,
                row.outcome.text(),
                *(f"{b / MIB:.0f}" for b in (row.before_bytes, row.peak_bytes, row.after_bytes)),
                f"{row.calm_cpu_share:.0%}",
                f"{row.cpu_share:.0%}",
                str(row.log_lines),
                *(
                    f"{p99(figures) * 1e3:.1f} ms"
                    for figures in (row.calm.grpc_s, row.beside.grpc_s)
                ),
                *(
                    f"{p99(figures) * 1e3:.1f} ms"
                    for figures in (row.calm.rest_s, row.beside.rest_s)
                ),
                f"{ratios[row.name]:.1f}x",
                str(lost[row.name]),
                row.newcomer,
            )
            for row in rows
        ],
        labels=2,
    )
    for row in rows:
        for error in (row.beside.lost + row.calm.lost)[:2]:
            print(f"lost beside {row.name}: {error}")
    worst = max(ratios, key=lambda name: ratios[name])
    goal(
        f"p99 beside an attack within {ALLOWED_RATIO:g}x of the calm one "
        f"(worst: {ratios[worst]:.1f}x, {worst})",
        met=ratios[worst] <= ALLOWED_RATIO,
    )
    goal("nothing lost", met=not sum(lost.values()))


def ratio(row: Row, kind: str) -> float:
    """How the p99 beside the attack compares to the calm one."""
    return p99(getattr(row.beside, kind)) / p99(getattr(row.calm, kind))


def p99(latencies_s: list[float]) -> float:
    """The p99 of the middle one of the parts."""
    size = max(len(latencies_s) // PARTS, 1)
    parts = [latencies_s[start : start + size] for start in range(0, size * PARTS, size)]
    return median(percentile(part, 99) for part in parts if part)


if __name__ == "__main__":
    sys.exit(main())
