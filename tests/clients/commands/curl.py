"""curl over REST, by each protocol it can agree on, and a gRPC call by hand."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

from clients.commands.bodies import ANSWER, GRPC_HEADERS, QUESTION, Bodies, grpc_url
from clients.contract import (
    LARGE_FLOATS,
    PREDICT,
    Checks,
    Target,
    output_of,
    own_target,
    run_checks,
)

BY_HTTP2 = "as many by HTTP/2"

REUSES_NO_PRIOR_KNOWLEDGE = "7.88."
"""These fail on the second request of such a connection, whoever the server is; 8.0 does not."""

SHOW = ("--write-out", "%{stderr}HTTP/%{http_version} %{http_code}")


def curl(target: Target, *words: str | Path) -> str:
    """What curl says, the status last."""
    trust = ("--cacert", target.ca) if target.ca else ()
    quiet = ("--silent", "--show-error", "--noproxy", "*", "--max-time", "60")
    return output_of("curl", *quiet, *trust, *SHOW, *words)


def is_right(said: str, protocol: str) -> bool:
    body, _, rest = said.rpartition("HTTP/")
    return json.loads(body) == ANSWER and rest == f"{protocol} 200"


def protocols(bodies: Bodies, target: Target) -> None:
    """1.1, 2 if both want it, and 2 outright; an upgrade in the clear is passed over."""
    url = target.rest + PREDICT
    agreed = "2" if target.ca else "1.1"

    assert is_right(curl(target, "--http1.0", "--data", QUESTION, url), "1")
    assert is_right(curl(target, "--http1.1", "--data", QUESTION, url), "1.1")
    assert is_right(curl(target, "--http2", "--data", QUESTION, url), agreed)
    assert is_right(curl(target, "--http2-prior-knowledge", "--data", QUESTION, url), "2")


def errors(bodies: Bodies, target: Target) -> None:
    url = f"{target.rest}/v1/models/nope:predict"
    for protocol in ("--http1.1", "--http2-prior-knowledge"):
        said = curl(target, protocol, "--data", QUESTION, url)

        assert "Servable not found for request: Latest(nope)" in said
        assert said.endswith(" 404")


def large(bodies: Bodies, target: Target) -> None:
    """Twenty megabytes of JSON each way; over HTTP/1.1 curl waits to be told to go on."""
    url = f"{target.rest}/v1/models/all_dtypes:predict"
    body = f"@{bodies.large}"
    for protocol in ("--http1.1", "--http2-prior-knowledge"):
        said = curl(
            target, protocol, "--header", "Expect: 100-continue", "--data-binary", body, url
        )

        assert said.count("0.5") == LARGE_FLOATS


def bodies_of_all_kinds(bodies: Bodies, target: Target) -> None:
    """Packed, and of unknown length."""
    url = target.rest + PREDICT
    packed = bodies.file("question.gz", gzip.compress(QUESTION.encode()))
    gzipped = ("--header", "Content-Encoding: gzip", "--data-binary", f"@{packed}")
    chunked = ("--header", "Transfer-Encoding: chunked", "--data", QUESTION)

    assert is_right(curl(target, "--http1.1", *gzipped, url), "1.1")
    assert is_right(curl(target, "--http2-prior-knowledge", *gzipped, url), "2")
    assert is_right(curl(target, "--http1.1", *chunked, url), "1.1")


def many_requests(bodies: Bodies, target: Target) -> None:
    one_connection(target, "--http1.1")


def many_by_http2(bodies: Bodies, target: Target) -> None:
    one_connection(target, "--http2" if target.ca else "--http2-prior-knowledge")


def one_connection(target: Target, protocol: str) -> None:
    """The fragment tells the URLs apart and is not sent."""
    url = f"{target.rest}{PREDICT}#[1-{target.calls}]"
    said = curl(target, protocol, "--verbose", "--data", QUESTION, url)

    assert said.count('"predictions"') == target.calls
    assert said.count("Connected to") == 1


def grpc(bodies: Bodies, target: Target) -> None:
    """A call by hand: HTTP/2 is all it takes."""
    headers = [word for header in GRPC_HEADERS for word in ("--header", header)]
    words = ("--http2-prior-knowledge", "--include", "--output", "/dev/null", "--dump-header", "-")
    for body, status in ((bodies.call, 0), (bodies.unknown_call, 5)):
        data = ("--data-binary", f"@{body}")

        assert f"grpc-status: {status}" in curl(target, *words, *headers, *data, grpc_url(target))


CHECKS: Checks = {
    "1.0, 1.1, upgrade, 2": protocols,
    "errors": errors,
    "20 MB": large,
    "gzip, chunked": bodies_of_all_kinds,
    "calls": many_requests,
    "gRPC": grpc,
    BY_HTTP2: many_by_http2,
}


def main() -> None:
    version = output_of("curl", "--version").split()[1]
    target = own_target()
    checks = dict(CHECKS)
    if version.startswith(REUSES_NO_PRIOR_KNOWLEDGE) and not target.ca:
        del checks[BY_HTTP2]
    with tempfile.TemporaryDirectory() as folder:
        run_checks(f"curl {version}", checks, Bodies(Path(folder)), target)


if __name__ == "__main__":
    main()
