"""``tensorflow_model_server``: the command that scripts written for TensorFlow Serving call.

It parses, prints, keeps on and exits as TensorFlow Serving's does, warts included.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

from salver.cli.console import leave, say
from salver.cli.flags import parse, usage
from salver.cli.logs import set_up_logging
from salver.cli.starting import Serve, start_server, warn_of_options_without_effect
from salver.cli.versions import version_text
from salver.errors import ServingError
from salver.model_server.options import Face

logger = logging.getLogger(__name__)

FAILED: Final = 255
"""What a shell sees of an exit code of -1."""


def main() -> int:
    """The installed command."""
    set_up_logging(sys.stderr, os.environ)
    return leave(run(sys.argv, serve=start_server))


def run(argv: Sequence[str], *, serve: Serve) -> int:
    """Do what ``argv``, program name first, says; return the exit code."""
    program, *words = argv
    parsed = parse(words, Face.TENSORFLOW_MODEL_SERVER)
    for rejected in parsed.rejected:
        logger.error("Couldn't interpret value %s for flag %s.", rejected.text, rejected.row.name)
    if parsed.failed:
        say(sys.stdout, usage(program))
        return FAILED
    if parsed.options.version:
        say(sys.stdout, version_text())
        return 0
    if parsed.leftovers:  # told, and not fatal: old scripts carry flags that are long gone
        say(sys.stdout, f"unknown argument: {parsed.leftovers[0]}\n{usage(program)}")
    warn_of_options_without_effect(parsed)
    try:
        return serve(parsed.options, face=Face.TENSORFLOW_MODEL_SERVER)
    except ServingError as error:
        say(sys.stdout, f"Failed to start server. Error: {error}\n")
        return FAILED
