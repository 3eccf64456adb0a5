"""httpx: HTTP/1.1 by h11, then HTTP/2 by h2, over TLS and with prior knowledge."""

from __future__ import annotations

import gzip
import json
import ssl
import sys
from importlib.metadata import version

import httpx

from clients.contract import (
    LARGE_FLOATS,
    PREDICT,
    SHORT_S,
    TIMEOUT_S,
    Checks,
    Target,
    own_target,
    run_checks,
)

QUESTION = {"instances": [1, 2, 5]}
ANSWER = {"predictions": [2.5, 3.0, 4.5]}

PROTOCOLS = {
    "http1": {"http1": True, "http2": False},
    "http2": {"http1": False, "http2": True},
}
ENGINES = {"http1": "h11", "http2": "h2"}


def connect(target: Target, protocols: dict[str, bool]) -> httpx.Client:
    """A client of one protocol that trusts the target's authority and no proxy."""
    trust = ssl.create_default_context(cafile=target.ca)
    return httpx.Client(
        base_url=target.rest, timeout=TIMEOUT_S, verify=trust, trust_env=False, **protocols
    )


def predict(client: httpx.Client, target: Target) -> None:
    answer = client.post(PREDICT, json=QUESTION)

    assert (answer.status_code, answer.json()) == (200, ANSWER)


def errors(client: httpx.Client, target: Target) -> None:
    unknown = client.post("/v1/models/nope:predict", json=QUESTION)
    garbage = client.post(PREDICT, content=b"{")

    assert (unknown.status_code, garbage.status_code) == (404, 400)
    assert unknown.json() == {"error": "Servable not found for request: Latest(nope)"}
    assert "JSON Parse error" in garbage.json()["error"]


def metadata(client: httpx.Client, target: Target) -> None:
    status = client.get("/v1/models/half_plus_two", headers={"x-long": "ab" * 3000}).json()

    assert status["model_version_status"][0]["state"] == "AVAILABLE"


def give_up(client: httpx.Client, target: Target) -> None:
    """A client that gives up harms nobody's next request."""
    inputs = {"arrived": "/dev/null", "leave": str(target.gate)}
    try:
        client.post("/v1/models/turnstile:predict", json={"inputs": inputs}, timeout=SHORT_S)
    except httpx.TimeoutException:
        predict(client, target)
    else:
        raise AssertionError("the request was answered")


def large(client: httpx.Client, target: Target) -> None:
    """Twenty megabytes of JSON each way."""
    values = b"0.5," * (LARGE_FLOATS - 1) + b"0.5"
    body = b'{"signature_name":"float","instances":[' + values + b"]}"
    answer = client.post("/v1/models/all_dtypes:predict", content=body)

    assert answer.status_code == 200
    assert answer.content.count(b"0.5") == LARGE_FLOATS


def compressed(client: httpx.Client, target: Target) -> None:
    body = gzip.compress(json.dumps(QUESTION).encode())
    answer = client.post(PREDICT, content=body, headers={"Content-Encoding": "gzip"})

    assert answer.json() == ANSWER


def many_requests(client: httpx.Client, target: Target) -> None:
    for _ in range(target.calls):
        assert client.post(PREDICT, json=QUESTION).json() == ANSWER


CHECKS: Checks = {
    "predict": predict,
    "errors": errors,
    "metadata": metadata,
    "give up": give_up,
    "20 MB": large,
    "gzip": compressed,
    "calls": many_requests,
}


def main(protocol: str) -> None:
    target = own_target()
    engine = ENGINES[protocol]
    versions = f"httpx {httpx.__version__}, {engine} {version(engine)}"
    with connect(target, PROTOCOLS[protocol]) as client:
        run_checks(versions, CHECKS, client, target)


if __name__ == "__main__":
    main(sys.argv[1])
