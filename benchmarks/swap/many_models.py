"""Many models in one configuration: start, reload of all, memory, and what watching them costs.

    swap/many_models.py [--models 10,100,1000] [--idle SECONDS]

Each model has two versions of half_plus_two, hard links of one.  ``salver serve`` gets them in one
file; the reload gives every model another name, so that all are loaded and all are unloaded, and
ends when each new one answers.  A cost that grows faster than the number of models shows in the
columns per model.
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parent.parent))

import grpc
from google.protobuf import text_format

import models
import servers
from reporting import duration, goal, machine, table
from salver.protos import config_pb2

VERSIONS: Final = 2
TIMEOUT_S: Final = 600.0
LINEAR: Final = 1.5
"""How much more a model may cost among ten times as many."""

MIB: Final = 1 << 20
RELOAD: Final = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured for one number of models."""

    models: int
    start_s: float
    start_cpu_s: float
    reload_s: float
    reload_cpu_s: float
    resident_bytes: int
    idle_share: float


def main() -> None:
    """Measure each number of models in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default="10,100,1000", help="numbers of models (10,100,1000)")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of doing nothing (10)")
    arguments = parser.parse_args()
    print(machine())
    counts = [int(count) for count in arguments.models.split(",")]
    show([measure(count, arguments.idle) for count in [1, *counts]])


def measure(count: int, idle_s: float) -> Figures:
    """Start a server of ``count`` models, let it idle, and reload all of them."""
    with tempfile.TemporaryDirectory(dir=models.base_path(servers.MODEL).parent) as scratch:
        folder = Path(scratch)
        link_models(folder, count)
        path = folder / "models.config"
        path.write_text(text_format.MessageToString(config(folder, count, "m")))
        with running(path) as (pid, port, start_s):
            start_cpu_s, resident = cpu_s(pid), resident_bytes(pid)
            time.sleep(idle_s)
            idle_share = (cpu_s(pid) - start_cpu_s) / idle_s
            before_s, started = cpu_s(pid), time.perf_counter()
            reload(port, config(folder, count, "n"))
            reload_s = time.perf_counter() - started
            reload_cpu_s = cpu_s(pid) - before_s
    return Figures(count, start_s, start_cpu_s, reload_s, reload_cpu_s, resident, idle_share)


def show(figures: Sequence[Figures]) -> None:
    """The table and the verdicts; the first figures are those of a server with one model."""
    single, *rest = figures
    rows = []
    for each in rest:
        n = each.models
        more_bytes = (each.resident_bytes - single.resident_bytes) / (n - 1) / VERSIONS
        rows.append(
            (
                str(n),
                duration(each.start_s),
                duration((each.start_cpu_s - single.start_cpu_s) / (n - 1)),
                duration(each.reload_s),
                duration(each.reload_cpu_s / n),
                f"{each.resident_bytes / MIB:.0f} MiB",
                f"{more_bytes / MIB:.2f} MiB",
                f"{each.idle_share:.1%}",
            )
        )
    headers = ("models", "start", "CPU a model", "reload of all", "CPU a model")
    table((*headers, "resident", "a version", "CPU idle"), rows)
    for fewer, more in pairwise(rest):
        grown = (more.start_cpu_s - single.start_cpu_s) / (more.models - 1)
        grown /= max((fewer.start_cpu_s - single.start_cpu_s) / (fewer.models - 1), 1e-9)
        goal(
            f"a model among {more.models} starts with at most {LINEAR}x the CPU of one among "
            f"{fewer.models} ({grown:.2f}x)",
            met=grown <= LINEAR,
        )


def link_models(folder: Path, count: int) -> None:
    """A base path for each model, with hard links of the one that was written."""
    original = models.version_path(servers.MODEL)
    files = [file.relative_to(original) for file in original.rglob("*") if file.is_file()]
    for number in range(count):
        for version in range(1, VERSIONS + 1):
            for file in files:
                link = folder / str(number) / str(version) / file
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(original / file, link)


def config(folder: Path, count: int, prefix: str) -> config_pb2.ModelServerConfig:
    """The configuration of all models, under names that begin with ``prefix``."""
    message = config_pb2.ModelServerConfig()
    message.model_config_list.SetInParent()
    for number in range(count):
        model = message.model_config_list.config.add(
            name=f"{prefix}{number}",
            base_path=str(folder / str(number)),
            model_platform="tensorflow",
        )
        model.model_version_policy.all.SetInParent()
    return message


@contextmanager
def running(path: Path) -> Iterator[tuple[int, int, float]]:
    """A server of the file: its process, its gRPC port, and how long it took to be ready."""
    grpc_port, rest_port = servers.free_port(), servers.free_port()
    command = [
        str(Path(sys.executable).with_name("salver")),
        *("serve", f"--port={grpc_port}", f"--rest_api_port={rest_port}"),
        f"--model_config_file={path}",
    ]
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=servers.quiet_environment())
        try:
            wait_until_ready(rest_port, process)
            yield process.pid, grpc_port, time.perf_counter() - started
        except BaseException:
            log.seek(0)
            sys.stderr.buffer.write(log.read()[-10_000:])
            raise
        finally:
            servers.stop(process)


def wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    """Ask whether every model has been loaded, until that is so."""
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    raise RuntimeError("the server did not get ready")


def reload(port: int, message: config_pb2.ModelServerConfig) -> None:
    """Replace the configuration; returns when every new model is available."""
    request = config_pb2.ReloadConfigRequest(config=message).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        channel.unary_unary(RELOAD)(request, timeout=TIMEOUT_S)


def cpu_s(pid: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """VmRSS of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    main()
