"""The versions a person or script asks for; nothing heavy is imported to find them."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import salver

SPEAKS_AS: Final = "2.21.0"
"""The release of TensorFlow Serving whose behaviour this server keeps."""


def model_server_version() -> str:
    """The version clients of ``tensorflow_model_server`` compare, with ours as build metadata."""
    return f"{SPEAKS_AS}+salver.{salver.__version__}"


def tensorflow_version() -> str:
    """The installed TensorFlow's, from its package metadata: importing it takes seconds."""
    from importlib import metadata  # slow to import itself, and only this question needs it

    for package in ("tensorflow", "tensorflow-cpu"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return "not installed"


def version_text() -> str:
    """What ``--version`` prints, in TensorFlow Serving's words."""
    return (
        f"TensorFlow ModelServer: {model_server_version()}\n"
        f"TensorFlow Library: {tensorflow_version()}\n"
    )
