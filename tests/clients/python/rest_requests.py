"""``requests`` over urllib3: HTTP/1.1 on connections that are kept."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import requests
import urllib3

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


def connect(target: Target) -> requests.Session:
    """A session that trusts the target's authority and no proxy."""
    session = requests.Session()
    session.trust_env = False
    if target.ca:
        session.verify = str(target.ca)
    return session


def predict(session: requests.Session, target: Target) -> None:
    answer = session.post(target.rest + PREDICT, json=QUESTION, timeout=TIMEOUT_S)

    assert (answer.status_code, answer.json()) == (200, ANSWER)
    assert answer.headers["Content-Type"] == "application/json"


def errors(session: requests.Session, target: Target) -> None:
    url = f"{target.rest}/v1/models/nope:predict"
    unknown = session.post(url, json=QUESTION, timeout=TIMEOUT_S)
    garbage = session.post(target.rest + PREDICT, data=b"{", timeout=TIMEOUT_S)

    assert unknown.status_code == 404
    assert unknown.json() == {"error": "Servable not found for request: Latest(nope)"}
    assert garbage.status_code == 400
    assert "JSON Parse error" in garbage.json()["error"]


def metadata(session: requests.Session, target: Target) -> None:
    """What is served, and how it is called."""
    status = session.get(f"{target.rest}/v1/models/half_plus_two", timeout=TIMEOUT_S).json()
    signatures = session.get(
        f"{target.rest}/v1/models/half_plus_two/metadata", timeout=TIMEOUT_S
    ).json()

    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    assert "serving_default" in signatures["metadata"]["signature_def"]["signature_def"]


def give_up(session: requests.Session, target: Target) -> None:
    """A client that hangs up harms nobody's next request."""
    inputs = {"arrived": "/dev/null", "leave": str(target.gate)}
    try:
        session.post(
            f"{target.rest}/v1/models/turnstile:predict", json={"inputs": inputs}, timeout=SHORT_S
        )
    except requests.Timeout:
        predict(session, target)
    else:
        raise AssertionError("the request was answered")


def large(session: requests.Session, target: Target) -> None:
    """Twenty megabytes of JSON each way."""
    values = b"0.5," * (LARGE_FLOATS - 1) + b"0.5"
    body = b'{"signature_name":"float","instances":[' + values + b"]}"
    answer = session.post(
        f"{target.rest}/v1/models/all_dtypes:predict", data=body, timeout=TIMEOUT_S
    )

    assert answer.status_code == 200
    assert answer.content.count(b"0.5") == LARGE_FLOATS


def compressed(session: requests.Session, target: Target) -> None:
    body = gzip.compress(json.dumps(QUESTION).encode())
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    answer = session.post(target.rest + PREDICT, data=body, headers=headers, timeout=TIMEOUT_S)

    assert answer.json() == ANSWER


def chunked(session: requests.Session, target: Target) -> None:
    """A body of unknown length."""

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(text), 5):
            yield text[start : start + 5]

    text = json.dumps(QUESTION).encode()
    answer = session.post(target.rest + PREDICT, data=pieces(), timeout=TIMEOUT_S)

    assert answer.json() == ANSWER


def many_requests(session: requests.Session, target: Target) -> None:
    """One connection."""
    url = target.rest + PREDICT
    for _ in range(target.calls):
        assert session.post(url, json=QUESTION, timeout=TIMEOUT_S).json() == ANSWER


CHECKS: Checks = {
    "predict": predict,
    "errors": errors,
    "metadata": metadata,
    "give up": give_up,
    "20 MB": large,
    "gzip": compressed,
    "chunked": chunked,
    "calls": many_requests,
}


def main() -> None:
    target = own_target()
    version = f"requests {requests.__version__}, urllib3 {urllib3.__version__}"
    with connect(target) as session:
        run_checks(version, CHECKS, session, target)


if __name__ == "__main__":
    main()
