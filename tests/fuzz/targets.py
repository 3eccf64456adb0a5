"""The parsers that are fuzzed, each in a module of its own that is imported only to fuzz it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

from fuzz.engine import Target

NAMES: Final = (
    "hpack",
    "http2",
    "http1",
    "connection",
    "grpc",
    "grpc_headers",
    "predict",
    "json",
    "rest_predict",
    "rest_path",
    "text_proto",
    "channel_arguments",
)


def target_of(name: str) -> Target:
    """The target of that name."""
    target: Target = import_module(f"fuzz.{name}_target").TARGET
    return target


def corpus_of(name: str) -> Path:
    """The file of its inputs."""
    return Path(__file__).parent / "corpus" / f"{name}.txt"
