"""The target of a REST request: a path, and the model and version in it.

make fuzz ARGS="--target rest_path"
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from fuzz.engine import Target, with_words
from salver.model_server.rest_api import Verb, parse_target, route_of

FILES = ("model_server/rest_api.py",)
MAX_VERSION = 2**63 - 1

WORDS = (
    *(b"/v1/models/", b"/v1/models", b"/V1/MODELS/", b"m", b"/versions/", b"/labels/", b"1", b":"),
    *(b":predict", b":classify", b":regress", b":Predict", b"/metadata", b"/Metadata", b"%20"),
    *(b"%E4%F6", b"%", b"%zz", b"%00", b"9223372036854775807", b"9223372036854775808", b"0" * 30),
    *(
        b"?a=b",
        b"#f",
        b"##",
        b"http://h:1",
        b"//",
        b"/../",
        b"\xc3\xa4",
        b" ",
        b"*",
        b"%2F",
        b"%3A",
    ),
    *(b"stable", b"/v1/", b"/monitoring/prometheus/metrics", b"9" * 40),
)


def run(data: bytes) -> None:
    """Take a target apart, and route it."""
    text = data.decode("latin-1")
    target = parse_target(text)
    if target is None:
        return
    if not text.endswith(target.full_path) or not target.full_path.startswith(target.path):
        raise AssertionError(f"{target} is not of {text!r}")
    for method in ("GET", "POST"):
        check_route(method, target.full_path)


def check_route(method: str, path: str) -> None:
    """What a route names stands in the path."""
    route = route_of(method, path)
    spec = route.spec
    if spec.version is not None:
        if not 0 <= spec.version <= MAX_VERSION or str(spec.version) not in path:
            raise AssertionError(f"{path!r} has no version {spec.version}")
        if spec.version_label is not None:
            raise AssertionError("a version and a label")
    plain = unquote_to_bytes(path)
    for name in (spec.name, spec.version_label or ""):
        if name.encode() not in plain:
            raise AssertionError(f"{path!r} has no {name!r}")
    if route.verb is Verb.UNREADABLE and not route.complaint:
        raise AssertionError("nobody says why it cannot be read")


TARGET = Target(run, with_words(WORDS), FILES)
