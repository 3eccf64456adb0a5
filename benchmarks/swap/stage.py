"""A server with a large model, what it is asked, and the process that changes its models.

The model is an embedding of 100 MB: heavy to load, and cheap to run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent
sys.path += [str(FOLDER.parent), str(FOLDER.parent / "wire")]

import numpy as np  # noqa: E402

import h2load  # noqa: E402 # the folders above
import models  # noqa: E402
import servers  # noqa: E402
from paced import Client, Grpc, Http1, Kind, Tally  # noqa: E402
from salver.protos.serving_pb2 import PredictRequest  # noqa: E402
from salver.tensors import encode_tensor  # noqa: E402

MODEL: Final = "embedding"
SMALL_MODEL: Final = servers.MODEL
IDS: Final = np.arange(0, 1_600_000, 100_000, np.int64)
"""Rows from all over the table, which a version that is not whole could not give."""

CONNECTIONS: Final = 4
"""For each protocol."""

PEAK_SHAPE: Final = h2load.Shape(8, 1)
PEAK_REQUESTS: Final = 10_000
PEAK_ROUNDS: Final = 3
MOST_PER_SECOND: Final = 2000.0
"""Of each protocol: what this client sends without needing much of a processor itself."""

PROBE_EVERY_S: Final = 2e-3
GRPC, REST, PROBE = "gRPC", "REST", "status"
PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
METRICS: Final = "/monitoring/prometheus/metrics"
LAG: Final = re.compile(r'salver_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\d+)')

START_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A running server, and where its large model lies."""

    pid: int
    grpc_port: int
    rest_port: int
    folder: Path
    base_path: Path

    def get(self, path: str) -> bytes:
        """What the REST port says to a GET."""
        url = f"http://127.0.0.1:{self.rest_port}{path}"
        with urllib.request.urlopen(url, timeout=START_TIMEOUT_S) as answer:
            content: bytes = answer.read()
            return content

    def lags(self) -> dict[float, int]:
        """How often the event loop was late, up to each bound in seconds."""
        found = LAG.findall(self.get(METRICS).decode())
        return {float(bound): int(count) for bound, count in found}


@contextmanager
def running_stage() -> Iterator[Stage]:
    """``salver serve`` with both models loaded."""
    models.base_path(MODEL)
    models.base_path(SMALL_MODEL)
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(dir=models.SHELF.parent)  # where links can be made
        folder = Path(stack.enter_context(temporary))
        base_path = folder / MODEL
        base_path.mkdir()
        shutil.copytree(models.version_path(MODEL), base_path / "1", copy_function=os.link)
        grpc_port, rest_port = servers.free_port(), servers.free_port()
        log = stack.enter_context((folder / "log").open("w+b"))
        process = subprocess.Popen(
            _command(folder, base_path, grpc_port, rest_port),
            stdout=log,
            stderr=log,
            env=servers.quiet_environment(),
        )
        stack.callback(servers.stop, process)
        stage = Stage(process.pid, grpc_port, rest_port, folder, base_path)
        try:
            _wait_until_ready(stage, process)
            yield stage
        except BaseException:
            log.flush()
            sys.stderr.write((folder / "log").read_text(errors="replace")[-10_000:])
            raise


def _command(folder: Path, base_path: Path, grpc_port: int, rest_port: int) -> list[str]:
    config, monitoring = folder / "models.config", folder / "monitoring.config"
    paths = {MODEL: base_path, SMALL_MODEL: models.base_path(SMALL_MODEL)}
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}\n'
        for name, path in paths.items()
    )
    config.write_text(f"model_config_list {{\n{entries}}}\n")
    monitoring.write_text("prometheus_config { enable: true }\n")
    return [
        str(Path(sys.executable).with_name("salver")),
        "serve",
        f"--port={grpc_port}",
        f"--rest_api_port={rest_port}",
        "--warmup_from_traffic=4",
        f"--model_config_file={config}",
        f"--monitoring_config_file={monitoring}",
    ]


def _wait_until_ready(stage: Stage, process: subprocess.Popen[bytes]) -> None:
    gives_up_s = monotonic() + START_TIMEOUT_S
    while not _is_ready(stage):
        if process.poll() is not None or monotonic() > gives_up_s:
            raise RuntimeError("the server did not become ready")
        sleep(0.05)


def _is_ready(stage: Stage) -> bool:
    try:
        stage.get("/readyz")
    except OSError:
        return False
    return True


# --- What it is asked -----------------------------------------------------------------------------


def grpc_message() -> bytes:
    """A Predict for some rows."""
    message = PredictRequest()
    message.model_spec.name = MODEL
    encode_tensor(message.inputs["ids"], IDS)
    return message.SerializeToString()


def http_request(path: str, body: bytes = b"", *, method: str = "") -> bytes:
    """A request with its head."""
    head = (
        f"{method or ('POST' if body else 'GET')} {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def rest_body() -> bytes:
    """The same rows."""
    return json.dumps({"inputs": {"ids": IDS.tolist()}}).encode()


REST_PATH: Final = f"/v1/models/{MODEL}:predict"


def kinds(
    stage: Stage, *, grpc_per_second: float, rest_per_second: float, keeps_latencies: bool
) -> list[Kind]:
    """Predict over both protocols, and the status that tells how calm the event loop is.

    Every version holds the same numbers, so there is one right answer over REST; over gRPC the
    version stands in it too, and the numbers have to be in there.
    """
    values = expected_values().tobytes()
    outputs = rest_outputs(stage)
    assert np.allclose(outputs, expected_values()), "the model's first answer is wrong"
    status = f"/v1/models/{SMALL_MODEL}"
    seen: set[bytes] = set()

    def rest_is_right(content: bytes) -> bool:
        if content in seen:
            return True
        head, _, body = content.partition(b"\n")
        is_right = head == b"HTTP/1.1 200 OK" and np.allclose(
            np.asarray(json.loads(body)["outputs"]), expected_values(), rtol=1e-6
        )
        if is_right:
            seen.add(content)
        return is_right

    return [
        Kind(
            GRPC,
            stage.grpc_port,
            lambda: Grpc(PREDICT, grpc_message()),
            lambda content: values in content,
            grpc_per_second,
            CONNECTIONS,
            keeps_latencies,
        ),
        Kind(
            REST,
            stage.rest_port,
            lambda: Http1(http_request(REST_PATH, rest_body())),
            rest_is_right,
            rest_per_second,
            CONNECTIONS,
            keeps_latencies,
        ),
        Kind(
            PROBE,
            stage.rest_port,
            lambda: Http1(http_request(status)),
            lambda content: content.startswith(b"HTTP/1.1 200") and b"AVAILABLE" in content,
            1 / PROBE_EVERY_S,
            1,
            keeps_latencies,
        ),
    ]


def expected_values() -> np.ndarray:
    """The rows that were asked for."""
    return models.embedding_rows(IDS)


def rest_outputs(stage: Stage) -> np.ndarray:
    """The same, as the server gives them."""
    request = urllib.request.Request(f"http://127.0.0.1:{stage.rest_port}{REST_PATH}", rest_body())
    with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as answer:  # noqa: S310 - ours
        return np.asarray(json.load(answer)["outputs"], np.float32)


@dataclass(frozen=True, slots=True)
class Rates:
    """How much a server can take, and how much of it is sent."""

    grpc_peak: float
    rest_peak: float

    @property
    def grpc(self) -> float:
        """A quarter, for the other quarter is REST's: half of what the server can do at all."""
        return min(self.grpc_peak / 4, MOST_PER_SECOND)

    @property
    def rest(self) -> float:
        """The other quarter."""
        return min(self.rest_peak / 4, MOST_PER_SECOND)

    @property
    def part(self) -> float:
        """Of the peak load that is sent."""
        return self.grpc / self.grpc_peak + self.rest / self.rest_peak

    def __str__(self) -> str:
        return (
            f"peak: {self.grpc_peak:,.0f} a second over gRPC or {self.rest_peak:,.0f} over REST; "
            f"sent: {self.grpc:,.0f} and {self.rest:,.0f} at once, {self.part:.0%} of the peak"
        )


def measure_peaks(stage: Stage) -> Rates:
    """The most requests a second over each protocol alone."""
    message = grpc_message()
    grpc_body, body = stage.folder / "grpc.body", stage.folder / "rest.body"
    grpc_body.write_bytes(len(message).to_bytes(5, "big") + message)
    body.write_bytes(rest_body())
    host = "http://127.0.0.1"
    loads = [
        h2load.Load(GRPC, stage.pid, f"{host}:{stage.grpc_port}{PREDICT}", grpc_body),
        h2load.Load(REST, stage.pid, f"{host}:{stage.rest_port}{REST_PATH}", body, is_http1=True),
    ]
    return Rates(*(_peak(load) for load in loads))


def _peak(load: h2load.Load) -> float:
    h2load.run(load, PEAK_SHAPE, PEAK_REQUESTS)  # the server learns, too
    return median(h2load.run(load, PEAK_SHAPE, PEAK_REQUESTS) for _ in range(PEAK_ROUNDS))


# --- Whoever changes it ---------------------------------------------------------------------------


class Changes:
    """The process of ``changer.py``, told what to do one thing after the other."""

    def __init__(self, stage: Stage) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                str(FOLDER / "changer.py"),
                str(stage.grpc_port),
                str(stage.base_path),
                str(models.version_path(MODEL)),
                str(models.base_path(SMALL_MODEL)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=servers.quiet_environment(),
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._left: list[str] = []
        self._held = b""
        self.done = 0
        self.failures: list[str] = []
        assert self._stdout.readline() == b"ready\n"

    def run(self, client: Client, what: Sequence[str]) -> dict[str, Tally]:
        """Make changes while the client sends; what came of the requests."""
        self._left = list(what)
        self._next()
        return client.run(lambda: self.is_idle, wakes=self.wakes())

    def start(self, what: str) -> None:
        """Have one change made."""
        self._left = [what]
        self._next()

    @property
    def is_idle(self) -> bool:
        """Whether all changes were made."""
        return not self._left

    def wakes(self) -> dict[int, Callable[[], None]]:
        """What to call when the process has said something."""
        return {self._stdout.fileno(): self._heard}

    def _heard(self) -> None:
        said = self._stdout.read(4096)
        if not said:
            raise RuntimeError("the process that makes changes has ended")
        *lines, self._held = (self._held + said).split(b"\n")
        for line in lines:
            if line == b"done":
                self.done += 1
            else:
                self.failures.append(line.decode())
            self._left.pop(0)
            self._next()

    def _next(self) -> None:
        if self._left:
            self._stdin.write(self._left[0].encode() + b"\n")

    def close(self) -> None:
        """End the process."""
        self._stdin.close()
        servers.stop(self._process)
