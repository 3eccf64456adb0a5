"""``salver``: one word says which command, the rest is that command's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final

import salver
from salver.cli import check, options, serve, show
from salver.cli.console import leave, say
from salver.cli.help import HELP
from salver.cli.logs import set_up_logging
from salver.cli.starting import Serve, start_server
from salver.cli.versions import SPEAKS_AS, tensorflow_version

MISUSED: Final = 2

COMMANDS: Final = ("serve", "check", "show", "options", "version", "help")


def main() -> int:
    """The installed command."""
    set_up_logging(sys.stderr, os.environ)
    return leave(run(sys.argv, environ=os.environ, serve_models=start_server))


def run(argv: Sequence[str], *, environ: Mapping[str, str], serve_models: Serve) -> int:
    """Do what ``argv``, program name first, says; return the exit code."""
    command, *words = argv[1:] or ["help"]
    if command == "serve":
        return serve.run(words, environ=environ, serve=serve_models)
    if command == "check":
        return check.run(words)
    if command == "show":
        return show.run(words)
    if command == "options":
        return options.run(words)
    if command in ("version", "--version", "-V"):
        say(sys.stdout, version_text())
        return 0
    if command in ("help", "--help", "-h"):
        say(sys.stdout, HELP)
        return 0
    say(sys.stderr, f"salver: {complaint_about(command)}\n")
    return MISUSED


def version_text() -> str:
    """The versions, for a person."""
    return (
        f"Salver {salver.__version__}, speaking TensorFlow Serving {SPEAKS_AS}\n"
        f"TensorFlow {tensorflow_version()}\n"
    )


def complaint_about(command: str) -> str:
    """Why ``command`` is none, and what was perhaps meant."""
    if command.startswith("-"):
        return f"options follow a command, as in: salver serve {command}"
    close = get_close_matches(command, COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}."
    return f"there is no command {command!r}; {hint}"
