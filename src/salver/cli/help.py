"""The help texts of ``salver`` for a person at a terminal; the options come from their table."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from salver.cli.flags import written
from salver.model_server.options import ROWS, Face, Group, Kind, Row

WIDEST: Final = 96
"""Lines longer than this tire the eye, however wide the terminal."""

HELP: Final = """\
Salver serves machine-learned models over TensorFlow Serving's gRPC and REST.

Usage:
  salver serve [OPTIONS]    serve models until told to stop
  salver check FILE         check a configuration file, and start nothing
  salver show --dir=DIR     say what is in a SavedModel
  salver options            list every option with its type and defaults
  salver version            show the versions of Salver and TensorFlow
  salver help               show this text

Example:
  salver serve --model_name=mnist --model_base_path=/models/mnist
  curl localhost:8501/v1/models/mnist

`salver serve --help` explains the options, by subject.
`tensorflow_model_server`, installed beside this command, takes the same options and keeps
TensorFlow Serving's defaults and manners.
"""

_SERVE_INTRODUCTION: Final = """\
Usage: salver serve [OPTIONS]

Serve models over gRPC and REST until told to stop.

Examples:
  salver serve --model_name=mnist --model_base_path=/models/mnist
  salver serve --model_config_file=/models/models.config --rest_api_port=8080
  MODEL_NAME=mnist salver serve      as in a container: /models/mnist

A value follows its option after = or a space, and - may stand for _ in a name.
An option that shows no value is true when it stands alone; =false turns it off.
Without a model among the options, MODEL_NAME (or "model") and MODEL_BASE_PATH (or "/models")
name one, if either is set.
"""


def help_for_serve(columns: int | None = None) -> str:
    """Every option under its heading, wrapped to the terminal or to ``columns``."""
    width = min(columns or shutil.get_terminal_size().columns, WIDEST)
    return _SERVE_INTRODUCTION + "".join(_paragraphs(width))


def _paragraphs(width: int) -> Iterator[str]:
    for group in Group:
        rows = [row for row in ROWS if row.group is group and not row.later]
        if rows:
            yield f"\n{group.value}:\n"
            yield from (_entry(row, width) for row in rows)
    yield "\nAccepted, without effect yet:\n"
    yield _wrapped(_flags(row for row in ROWS if row.later), width, indent=2)


def _entry(row: Row, width: int) -> str:
    return f"  --{row.name}{_value_hint(row)}\n" + _wrapped(row.sentence, width, indent=6)


def _value_hint(row: Row) -> str:
    default = row.default_here(Face.SALVER)
    if row.kind is Kind.STRING:
        return f"=TEXT  (default: {default})" if default else "=TEXT"
    if row.kind is Kind.BOOL:
        return f"  (default: {written(default)})"
    return (
        f"=NUMBER  (default: {default:g})"
        if row.kind is Kind.FLOAT
        else (f"=NUMBER  (default: {default})")
    )


def _flags(rows: Iterable[Row]) -> str:
    return ", ".join(f"--{row.name}" for row in rows)


def _wrapped(text: str, width: int, *, indent: int) -> str:
    margin = " " * indent
    return textwrap.fill(text, width, initial_indent=margin, subsequent_indent=margin) + "\n"
