"""``tf_serving_entrypoint``: the start of a container, as TensorFlow Serving's images do it.

MODEL_NAME and MODEL_BASE_PATH name the one model; both ports are open.
Arguments of the container come last, so they win.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from salver.cli import tensorflow_model_server
from salver.cli.console import leave
from salver.cli.logs import set_up_logging
from salver.cli.starting import start_server


def main() -> int:
    """The installed command."""
    set_up_logging(sys.stderr, os.environ)
    words = arguments(sys.argv[1:], os.environ)
    return leave(tensorflow_model_server.run(words, serve=start_server))


def arguments(words: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The command line of ``tensorflow_model_server`` that ``words`` are appended to."""
    name, base_path = model_of(environ)
    return [
        "tensorflow_model_server",
        "--port=8500",
        "--rest_api_port=8501",
        f"--model_name={name}",
        f"--model_base_path={base_path}",
        *words,
    ]


def model_of(environ: Mapping[str, str]) -> tuple[str, str]:
    """The name and the folder of the model a container is to serve."""
    name = environ.get("MODEL_NAME", "model")
    return name, f"{environ.get('MODEL_BASE_PATH', '/models')}/{name}"
