"""``salver show``: what is in a SavedModel, as ``saved_model_cli show`` prints it, and more.

TensorFlow is not imported, nothing is loaded, and no server needs to run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final

from salver.cli.console import say
from salver.errors import ServingError

if TYPE_CHECKING:  # at run time it is imported late: it brings protobuf along
    from salver.protos.saved_model_file_pb2 import SavedModel

GOOD: Final = 0
BAD: Final = 1
MISUSED: Final = 2

USAGE: Final = """\
Usage: salver show --dir=DIR [--all | --tag_set=TAGS [--signature_def=NAME] [--list_ops]]
                   [--details] [--log_device_placement [--session_config_file=FILE]]

Say what is in the SavedModel in DIR, the folder of a version: what saved_model_cli show prints,
line for line, and more if asked for.  TensorFlow is not needed, but for --log_device_placement.

  --dir=DIR             the folder that holds saved_model.pb; the name of the option may be left out
  --all                 everything: signatures, operations, and functions with their arguments
  --tag_set=TAGS        the names of the signatures of one graph, which has these tags: serve,gpu
  --signature_def=NAME  with --tag_set: inputs and outputs of one signature
  --list_ops            with --tag_set: the kinds of operation in the graph
  --details             size on disk, operations, devices, warmup and golden requests; for each
                        signature whether it can be batched, and requests to start from
  --log_device_placement
                        where each operation runs; the model is loaded and its signatures are run
  --session_config_file=FILE
                        the ConfigProto it is loaded with, in text form

With DIR alone: the tag-sets that there are.
The exit status is 0 if all could be shown, and 1 if not.
"""

_VALUED: Final = ("dir", "tag_set", "signature_def", "session_config_file")
_SWITCHES: Final = ("all", "list_ops", "details", "log_device_placement")
OPTIONS: Final = (*_VALUED, *_SWITCHES)

_TRUE: Final = ("true", "1", "t", "yes", "y")
_FALSE: Final = ("false", "0", "f", "no", "n")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line asks for."""

    folder: str = ""
    tag_set: str | None = None
    signature_def: str | None = None
    session_config_file: str = ""
    switches: frozenset[str] = frozenset()

    @property
    def tags(self) -> list[str] | None:
        """The tags by themselves, of which there may be none; None if none are asked for."""
        if self.tag_set is None:
            return None
        return [tag.strip() for tag in self.tag_set.split(",") if tag.strip()]


class Misused(Exception):  # noqa: N818 # it names what the words are
    """The words ask for nothing that can be done; the text says why."""


def run(words: Sequence[str]) -> int:
    """Show what ``words``, those after ``show``, ask for; return the exit code."""
    if not {"--help", "-h"}.isdisjoint(words):
        say(sys.stdout, USAGE)
        return GOOD
    try:
        asked = understood(words)
    except Misused as misuse:
        say(sys.stderr, f"salver show: {misuse}\n")
        return MISUSED
    try:
        say(sys.stdout, "".join(_shown(asked)))
    except ServingError as error:
        say(sys.stderr, f"salver show: {error.message}\n")
        return BAD
    except BrokenPipeError:  # the reader, a pager perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return GOOD


def understood(words: Sequence[str]) -> Asked:
    """What the words ask for.

    Raises:
        Misused: they cannot be understood.
    """
    values: dict[str, str] = {}
    switches: set[str] = set()
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            if "dir" in values:
                raise Misused("it takes one folder; see salver show --help.")
            values["dir"] = word
            continue
        name, equals, text = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if name in _VALUED:
            if not equals and not left:
                raise Misused(f"--{name} needs a value, as in --{name}=…")
            values[name] = text if equals else left.pop(0)
        elif name in _SWITCHES:
            _switch(switches, name, text if equals else "true")
        else:
            raise Misused(f"there is no option --{name}; {_hint(name)}")
    if not values.get("dir"):
        raise Misused("it needs the folder of a version, as in: salver show --dir=/models/mnist/1")
    if "signature_def" in values and not {"tag_set", "all"} & (values.keys() | switches):
        raise Misused("--signature_def needs --tag_set, too, as in --tag_set=serve")
    return Asked(
        folder=values["dir"],
        tag_set=values.get("tag_set"),
        signature_def=values.get("signature_def"),
        session_config_file=values.get("session_config_file", ""),
        switches=frozenset(switches),
    )


def _switch(switches: set[str], name: str, text: str) -> None:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise Misused(f"--{name} takes true or false, and {text!r} is not.")
    (switches.add if text.lower() in _TRUE else switches.discard)(name)


def _hint(name: str) -> str:
    close = get_close_matches(name, OPTIONS, n=1)
    return f"did you mean --{close[0]}?" if close else "see salver show --help."


def _shown(asked: Asked) -> Iterator[str]:
    from salver.servables.saved_model_file import read_saved_model

    folder = Path(asked.folder)
    saved_model = read_saved_model(folder)
    listed = list(_listed(asked, saved_model))
    yield from listed
    if "details" in asked.switches:
        from salver.cli.show_details import details

        yield from ["\n"] if listed else []
        yield from details(folder, saved_model, asked.tags, asked.signature_def)
    if "log_device_placement" in asked.switches:
        from salver.cli.show_placement import device_placement

        file = asked.session_config_file
        yield from device_placement(folder, asked.tags, asked.signature_def, file)


def _listed(asked: Asked, saved_model: SavedModel) -> Iterator[str]:
    """What saved_model_cli would print, unless only what it does not know is asked for."""
    from salver.cli import show_listing as listing
    from salver.servables.saved_model_file import meta_graph_of

    if "all" in asked.switches:
        yield from listing.everything(saved_model)
    elif asked.tags is not None:
        meta_graph = meta_graph_of(saved_model, asked.tags)
        if "list_ops" in asked.switches:
            yield listing.operations(meta_graph)
        if asked.signature_def is None:
            yield from listing.signature_names(meta_graph)
        else:
            yield from listing.signature(meta_graph, asked.signature_def)
    else:
        if "list_ops" in asked.switches:
            yield "--list_ops must be paired with a tag-set or with --all.\n"
        if not {"details", "log_device_placement"} & asked.switches:
            yield from listing.tag_sets(saved_model)
