"""``salver options``: the table of options, for a terminal or, ``--markdown``, for the docs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Final

from salver.cli.console import say
from salver.cli.flags import written
from salver.model_server.options import ROWS, Default, Face, Group, Kind, PerCpu, Row

MISUSED: Final = 2

_INTRODUCTION: Final = """\
# Options

This page is written by `salver options --markdown`; a test keeps it in step with the server.

`tensorflow_model_server` and `salver serve` take the same options.
The first keeps TensorFlow Serving's defaults and its way of reading a command line; \
the second has kinder defaults where the table below says so.

## How an option is written

`--name=value`; a boolean may stand alone and then means true.
The last one wins when an option is repeated, and `--` ends the options.
`tensorflow_model_server` names an argument it does not know and starts all the same, \
as TensorFlow Serving does.
`salver serve` also takes `--name value`, and `-` for `_` in a name; \
it refuses what it does not know.

## Models named by the environment

`tensorflow_model_server` reads no environment variable of its own.
`tf_serving_entrypoint` does what the start script of TensorFlow Serving's Docker images does: \
it runs `tensorflow_model_server` with `--port=8500 --rest_api_port=8501 \
--model_name=$MODEL_NAME --model_base_path=$MODEL_BASE_PATH/$MODEL_NAME` \
and then its own arguments.
`MODEL_NAME` is `model` and `MODEL_BASE_PATH` is `/models` unless set.
`salver serve` does the same for the model when its options name none and either variable is set.
All three quiet their log as TensorFlow does when `TF_CPP_MIN_LOG_LEVEL` is 1, 2 or 3.
"""

_DIFFERENCES: Final = """
## Two commands, two defaults

| Option | `tensorflow_model_server` | `salver serve` |
|---|---|---|
"""

_HEADING: Final = """
| Option | Type | Default | What it does |
|---|---|---|---|
"""

_LATER: Final = """
## Accepted, without effect yet

These options may stand on a command line, and one warning at start-up names those that do.
Their part of the server is not built yet.
`use_alts_credentials` is the exception: \
the server refuses to start rather than leave protection out.

| Option | Type | Default | What it is to do |
|---|---|---|---|
"""


def run(words: Sequence[str]) -> int:
    """Print the table in the form ``words`` ask for; return the exit code."""
    if list(words) not in ([], ["--markdown"]):
        say(sys.stderr, "salver options: takes nothing but --markdown.\n")
        return MISUSED
    say(sys.stdout, markdown() if words else table())
    return 0


def markdown() -> str:
    """The page ``docs/options.md``, the same on every machine."""
    return "".join(_page())


def table() -> str:
    """The options in columns: name, type, and the default of either command."""
    heading = ("option", "type", *(face.value for face in Face))
    lines = [heading, *(_columns(row) for row in ROWS)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(_aligned(line, widths) for line in lines)


def _columns(row: Row) -> tuple[str, ...]:
    return (row.name, row.kind.value, *(_default(row, face) or '""' for face in Face))


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
    return "  ".join(cells).rstrip() + "\n"


def _page() -> Iterator[str]:
    yield _INTRODUCTION
    yield _DIFFERENCES
    for row in ROWS:
        if row.default != row.salver_default:
            defaults = (_code(_default(row, face)) for face in Face)
            yield _line(f"`{row.name}`", *defaults)
    for group in Group:
        yield from _section(group)
    yield _LATER
    yield from map(_entry, (row for row in ROWS if row.later))


def _section(group: Group) -> Iterator[str]:
    rows = [row for row in ROWS if row.group is group and not row.later]
    if rows:
        yield f"\n## {group.value}\n{_HEADING}"
        yield from map(_entry, rows)


def _entry(row: Row) -> str:
    origin = " *Salver's own.*" if row.own else ""
    return _line(f"`{row.name}`", row.kind.value, _both_defaults(row), row.sentence + origin)


def _both_defaults(row: Row) -> str:
    default, salver_default = (_code(_default(row, face)) for face in Face)
    if default == salver_default:
        return default
    return f"{default}; `salver serve`: {salver_default}"


def _default(row: Row, face: Face) -> str:
    return _written(row.default_of(face), row.kind)


def _written(default: Default, kind: Kind) -> str:
    if isinstance(default, PerCpu):
        return str(default)
    return f"{default:g}" if kind is Kind.FLOAT else written(default)


def _code(text: str) -> str:
    return f"`{text}`" if text else "empty"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"
