"""``salver check``: a configuration file looked at as the server would, and nothing started."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from salver.cli.console import say
from salver.errors import ServingError

if TYPE_CHECKING:  # at run time it is imported late: it brings protobuf along
    from salver.model_server.config_check import Report

GOOD: Final = 0
BAD: Final = 1
MISUSED: Final = 2

USAGE: Final = """\
Usage: salver check FILE [--kind=KIND]

Say what a configuration file brings about, what in it has no effect, and what is wrong, by line
and column.  Nothing is started; for models, the base paths are looked into.

KIND is model, platform, batching, monitoring, ssl or session; without it, the one the file reads
as.  The exit status is 0 if a server would take the file, and 1 if not.
"""


def run(words: Sequence[str]) -> int:
    """Check the file that ``words``, those after ``check``, name; return the exit code."""
    if not {"--help", "-h"}.isdisjoint(words):
        say(sys.stdout, USAGE)
        return GOOD
    path, kind, complaint = understood(words)
    if complaint:
        say(sys.stderr, f"salver check: {complaint}\n")
        return MISUSED
    return _check(path, kind)


def understood(words: Sequence[str]) -> tuple[str, str, str]:
    """The file, the kind (empty if it is to be found out), and what is wrong with the words."""
    left = list(words)
    paths: list[str] = []
    kind = ""
    while left:
        word = left.pop(0)
        name, equals, text = word.partition("=")
        if name == "--kind":
            kind = text if equals else left.pop(0) if left else ""
            if not kind:
                return "", "", "--kind needs a value, as in --kind=model"
        elif word.startswith("-"):
            return "", "", f"there is no option {name}; see salver check --help."
        else:
            paths.append(word)
    if len(paths) != 1:
        return "", "", "it takes one file; see salver check --help."
    return paths[0], kind, ""


def _check(path: str, kind: str) -> int:
    from salver.model_server.config_check import Kind, check
    from salver.model_server.text_proto import read_file

    kinds = {each.value: each for each in Kind}
    if kind and kind not in kinds:
        say(sys.stderr, f"salver check: there is no kind {kind!r}; there are {', '.join(kinds)}.\n")
        return MISUSED
    try:
        text = read_file(path)
    except ServingError as error:
        say(sys.stdout, f"{path}: error: {error}\n")
        return BAD
    report = check(text, kinds.get(kind))
    say(sys.stdout, "".join(_lines(path, report)))
    return GOOD if report.is_good else BAD


def _lines(path: str, report: Report) -> Iterator[str]:
    yield f"{path}: {report.message}\n"
    for line in report.honoured:
        yield f"  {line}\n"
    for finding in report.findings:
        yield f"{path}:{finding.position}: {finding.level.value}: {finding.text}\n"
    if report.is_good:
        yield "It can be served.\n" if not report.findings else "It can be served, as said above.\n"
