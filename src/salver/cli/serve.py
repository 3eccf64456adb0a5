"""``salver serve``: the same flags, read by the same rules, with a kinder ear.

A dash may stand for an underscore and a space for the ``=``; what cannot be understood ends the
command with a hint instead of being passed over.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from salver.cli.console import say
from salver.cli.entrypoint import model_of
from salver.cli.flags import Parsed, Rejected, parse
from salver.cli.help import help_for_serve
from salver.cli.starting import Serve, warn_of_options_without_effect
from salver.cli.versions import version_text
from salver.errors import ServingError
from salver.model_server.options import ROW_BY_NAME, Face, Kind, Options, Row

FAILED: Final = 1
MISUSED: Final = 2

_TYPE_IN_WORDS: Final[Mapping[Kind, str]] = {
    Kind.INT32: "a whole number of at most 32 bits",
    Kind.INT64: "a whole number of at most 64 bits",
    Kind.BOOL: "true or false",
    Kind.FLOAT: "a number",
    Kind.STRING: "text",
}


def run(words: Sequence[str], *, environ: Mapping[str, str], serve: Serve) -> int:
    """Do what ``words``, those after ``serve``, say; return the exit code."""
    parsed = parse(list(tidied(words)), Face.SALVER)
    if not {"--help", "-h"}.isdisjoint(parsed.leftovers):
        say(sys.stdout, help_for_serve())
        return 0
    if parsed.options.version:
        say(sys.stdout, version_text())
        return 0
    options = with_absolute_path(with_model_of_environment(parsed, environ))
    if complaint := complaint_about(parsed) or complaint_about_models(options):
        say(sys.stderr, f"salver serve: {complaint}\n")
        return MISUSED
    warn_of_options_without_effect(parsed)
    try:
        return serve(options, face=Face.SALVER)
    except ServingError as error:
        say(sys.stderr, f"salver serve: the server did not start.\n{error}\n")
        return FAILED


def tidied(words: Sequence[str]) -> Iterator[str]:
    """The words as the parser wants them: ``--rest-api-port 8501`` → ``--rest_api_port=8501``."""
    left = deque(words)
    while left:
        word = left.popleft()
        if word == "--":
            yield from (word, *left)
            return
        name, equals, text = word.partition("=")
        row = ROW_BY_NAME.get(name[2:].replace("-", "_")) if name.startswith("--") else None
        if row is None:
            yield word
        elif equals or not left or not _is_value(left[0], row):
            yield f"--{row.name}{equals}{text}"
        else:
            yield f"--{row.name}={left.popleft()}"


def _is_value(word: str, row: Row) -> bool:
    if row.kind is Kind.BOOL:  # which may stand alone, so only what cannot be anything else
        return word.lower() in {"true", "false"}
    return not word.startswith("--")


def with_model_of_environment(parsed: Parsed, environ: Mapping[str, str]) -> Options:
    """The options, completed as the Docker image does when they name no model."""
    options = parsed.options
    if options.model_base_path or options.model_config_file:
        return options
    if {"MODEL_NAME", "MODEL_BASE_PATH"}.isdisjoint(environ):
        return options
    name, base_path = model_of(environ)
    if "model_name" in parsed.given:
        name = options.model_name
    return replace(options, model_name=name, model_base_path=base_path)


def with_absolute_path(options: Options) -> Options:
    """The options, with a relative ``model_base_path`` taken from the current folder."""
    path = options.model_base_path
    if not path or "://" in path:
        return options
    return replace(options, model_base_path=str(Path(path).absolute()))


def complaint_about(parsed: Parsed) -> str | None:
    """What is wrong with the words, if anything."""
    if parsed.rejected:
        return _complaint_about_value(parsed.rejected[0])
    if parsed.leftovers:
        return _complaint_about_word(parsed.leftovers[0])
    return None


def complaint_about_models(options: Options) -> str | None:
    """What is missing, if nothing was named that could be served."""
    if options.model_base_path or options.model_config_file:
        return None
    return (
        "there is nothing to serve.\n"
        "Name a model:        --model_name=mnist --model_base_path=/models/mnist\n"
        "or several in a file: --model_config_file=/models/models.config"
    )


def _complaint_about_value(rejected: Rejected) -> str:
    name, wanted = rejected.row.name, _TYPE_IN_WORDS[rejected.row.kind]
    return f"--{name} takes {wanted}, and {rejected.text!r} is not."


def _complaint_about_word(word: str) -> str:
    name = word.partition("=")[0].lstrip("-").replace("-", "_")
    row = ROW_BY_NAME.get(name)
    if row is not None and word.startswith("--"):
        return f"--{name} needs a value, as in --{name}=…"
    if not word.startswith("-"):
        return f"{word!r} belongs to no option; see salver serve --help."
    close = [name] if row is not None else get_close_matches(name, ROW_BY_NAME, n=1)
    hint = f"did you mean --{close[0]}?" if close else "see salver serve --help."
    return f"there is no option {word.partition('=')[0]}; {hint}"
