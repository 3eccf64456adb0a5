"""grpcurl, on grpc-go: it asks the server itself for its services and messages."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path

from google.protobuf import json_format

from clients.commands.go_modules import versions_of
from clients.contract import NAMELESS, NOT_FOUND, Checks, Target, output_of, own_target, run_checks
from clients.python.grpcio_sync import half_plus_two, waiting

SERVICE = "tensorflow.serving.PredictionService"
PREDICT = f"{SERVICE}/Predict"
LARGE = 20_000_000


def curl(target: Target, *words: str, error: str = "") -> str:
    """What grpcurl says; it has to succeed, or to fail with ``error``."""
    trust = ("-cacert", target.ca) if target.ca else ("-plaintext",)
    options = [word for word in words if word.startswith("-")]
    rest = [word for word in words if not word.startswith("-")]
    return output_of("grpcurl", *trust, *options, target.grpc, *rest, error=error)


def data(request: object) -> str:
    return f"-d={json_format.MessageToJson(request)}"


def reflection(folder: Path, target: Target) -> None:
    services = curl(target, "list")

    assert SERVICE in services
    assert "PredictRequest" in curl(target, "describe", f"{SERVICE}.Predict")


def predict(folder: Path, target: Target) -> None:
    answer = json.loads(curl(target, data(half_plus_two()), PREDICT))

    assert answer["outputs"]["y"]["floatVal"] == [2.5, 3, 4.5]


def errors(folder: Path, target: Target) -> None:
    said = curl(target, data(half_plus_two(NAMELESS)), PREDICT, error="Code: NotFound")

    assert f"Message: {NOT_FOUND}" in said
    curl(target, "-d={}", PREDICT, error="Missing ModelSpec")


def deadline(folder: Path, target: Target) -> None:
    curl(target, "-max-time=0.5", data(waiting(target.gate)), PREDICT, error="DeadlineExceeded")


def metadata(folder: Path, target: Target) -> None:
    """The trailers that grpcurl shows are those of a right answer."""
    headers = ("-H=x-request-id: e9aedbe", "-H=x-trace-bin: AAEC/w==", f"-H=x-long: {'ab' * 3000}")
    said = curl(target, "-v", *headers, data(half_plus_two()), PREDICT)

    assert "content-type: application/grpc" in said
    assert re.search(r"Sent 1 request and received 1 response", said)


def large(folder: Path, target: Target) -> None:
    """Twenty megabytes in one string."""
    text = "QUJD" * (LARGE // 3)
    tensor = {"dtype": "DT_STRING", "tensorShape": {}, "stringVal": [text]}
    spec = {"name": "all_dtypes", "signatureName": "string"}
    body = folder / "request.json"
    body.write_text(json.dumps({"modelSpec": spec, "inputs": {"x": tensor}}))
    trust = ("-cacert", str(target.ca)) if target.ca else ("-plaintext",)
    command = ("grpcurl", *trust, "-max-msg-sz=100000000", "-d=@", target.grpc, PREDICT)
    with body.open() as stdin:
        done = subprocess.run(command, stdin=stdin, capture_output=True, timeout=120, check=True)

    assert json.loads(done.stdout)["outputs"]["y"]["stringVal"] == [text]


def health(folder: Path, target: Target) -> None:
    assert "SERVING" in curl(target, "grpc.health.v1.Health/Check")


CHECKS: Checks = {
    "reflection": reflection,
    "predict": predict,
    "errors": errors,
    "deadline": deadline,
    "metadata": metadata,
    "20 MB": large,
    "health": health,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_checks(versions_of("grpcurl"), CHECKS, Path(folder), own_target())


if __name__ == "__main__":
    main()
