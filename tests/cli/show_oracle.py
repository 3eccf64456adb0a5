"""What TensorFlow's own ``saved_model_cli`` prints, for many command lines in one process.

Run as a program it reads a JSON list of command lines from stdin and writes a list of texts.
TensorFlow is imported once; each command line then gets a process of its own, forked off, as the
real command would have: the numbers in the names of functions count from its start.

Two things are given an order, because TensorFlow prints them in another one each time: the set of
operations and mappings among the arguments of functions.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def saved_model_cli(commands: Sequence[Sequence[str]]) -> list[str]:
    """What ``saved_model_cli show`` prints for each list of options."""
    finished = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(commands),
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        text=True,
        timeout=300,
    )
    return json.loads(finished.stdout)


class SortedSet(set):  # type: ignore[type-arg] # of anything
    """A set that prints itself in order."""

    def __repr__(self) -> str:
        return "{" + ", ".join(map(repr, sorted(self))) + "}" if self else "set()"

    __str__ = __repr__


def show(cli: Any, words: Sequence[str]) -> str:
    """Run one command in a fork and return what it printed."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(BaseException):
            cli.flags.FLAGS(["saved_model_cli", *words])
            cli.show()
        with os.fdopen(write_end, "w") as pipe:
            pipe.write(printed.getvalue())
        os._exit(0)
    os.close(write_end)
    text = Path(f"/dev/fd/{read_end}").read_text(encoding="utf-8")
    os.close(read_end)
    os.waitpid(child, 0)
    return text


def main() -> None:
    """Answer the command lines on stdin."""
    from tensorflow.python.saved_model import nested_structure_coder
    from tensorflow.python.tools import saved_model_cli as cli

    ops_of = cli._get_ops_in_metagraph  # noqa: SLF001 # to give its set an order
    cli._get_ops_in_metagraph = lambda graph: SortedSet(ops_of(graph))  # noqa: SLF001
    coder = nested_structure_coder._DictCodec  # noqa: SLF001 # to give its mapping one
    coder.do_decode = lambda _, value, decode: {
        key: decode(value.dict_value.fields[key]) for key in sorted(value.dict_value.fields)
    }
    commands = json.load(sys.stdin)
    json.dump([show(cli, words) for words in commands], sys.stdout)


if __name__ == "__main__":
    main()
