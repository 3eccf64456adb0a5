"""ghz, a load generator on grpc-go, with the compiled .proto files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from clients.commands.go_modules import versions_of
from clients.contract import NAMELESS, Checks, Target, output_of, own_target, run_checks
from clients.python.grpcio_sync import half_plus_two, waiting

CALLS_AT_ONCE = 50

METADATA = {"x-request-id": "e9aedbe", "x-long": "ab" * 3000}


def load(
    target: Target, folder: Path, request: Message, *options: str, timeout: str = "60s"
) -> dict[str, Any]:
    """What ghz reports of calls with this request on one connection."""
    body = folder / "request"
    body.write_bytes(request.SerializeToString())
    trust = f"--cacert={target.ca}" if target.ca else "--insecure"
    report = folder / "report.json"
    output_of(
        *("ghz", trust, f"--protoset={target.descriptors}", f"--binary-file={body}"),
        *("--call=tensorflow.serving.PredictionService/Predict", "--connections=1"),
        *(f"--timeout={timeout}", "--format=json", f"--output={report}", *options, target.grpc),
    )
    return json.loads(report.read_text())


def predict(folder: Path, target: Target) -> None:
    report = load(target, folder, half_plus_two(), "--total=1", "--concurrency=1")

    assert report["statusCodeDistribution"] == {"OK": 1}, report


def errors(folder: Path, target: Target) -> None:
    report = load(target, folder, half_plus_two(NAMELESS), "--total=1", "--concurrency=1")

    assert report["statusCodeDistribution"] == {"NotFound": 1}, report
    assert any(f"Latest({NAMELESS})" in text for text in report["errorDistribution"])


def deadline(folder: Path, target: Target) -> None:
    options = ("--total=2", "--concurrency=2")
    report = load(target, folder, waiting(target.gate), *options, timeout="200ms")

    assert report["statusCodeDistribution"] == {"DeadlineExceeded": 2}, report


def metadata(folder: Path, target: Target) -> None:
    options = ("--total=10", "--concurrency=1", f"--metadata={json.dumps(METADATA)}")
    report = load(target, folder, half_plus_two(), *options)

    assert report["statusCodeDistribution"] == {"OK": 10}, report


def many_calls(folder: Path, target: Target) -> None:
    options = (f"--total={target.calls}", f"--concurrency={CALLS_AT_ONCE}")
    report = load(target, folder, half_plus_two(), *options)

    assert report["statusCodeDistribution"] == {"OK": target.calls}, report


CHECKS: Checks = {
    "predict": predict,
    "errors": errors,
    "deadline": deadline,
    "metadata": metadata,
    "calls": many_calls,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_checks(versions_of("ghz"), CHECKS, Path(folder), own_target())


if __name__ == "__main__":
    main()
