"""A worker without a runtime: what it loads does what its name says, and what is fetched, too.

Loads ``good``, ``while:FILE``, which is good as long as the file exists, and ``first:FILE:PIPE``,
which is good that long and then waits at a named pipe; ``named:FILE``, whose input has the name in
the file; and all that it can run.
Runs ``echo``, which gives back what it is fed; ``pid``; ``timeout``; ``error:TEXT``; ``raise``;
``die:SIGNAL``; ``exit:CODE``; ``hang``; ``turnstile:PIPE``, which writes to a named pipe and hangs;
``hold:PIPE``, which does so with the pipe open; ``take:MIB`` of memory; and ``orphan:PIPE``, which
leaves a child of its own that keeps a named pipe open.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from salver.errors import FailedPrecondition, NotFound
from salver.protos import saved_model_pb2
from salver.servables.isolated_messages import Recipe
from salver.servables.isolated_worker import main

HANG = "import threading; threading.Event().wait()"


class Doing:
    """A servable that does what it is told."""

    def __init__(self, name: str = "x:0") -> None:
        message = saved_model_pb2.SignatureDef(method_name="tensorflow/serving/predict")
        message.inputs["x"].name = name
        self.signature_defs = {"serving_default": message.SerializeToString()}

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        results: list[np.ndarray] = []
        for fetch in fetches:
            results.extend(do(fetch, list(feeds.values()), timeout_s))
        return results

    def prepare(self, feeds, fetches):
        return partial(self._run_prepared, feeds, fetches)

    def _run_prepared(self, feeds, fetches, tensors, timeout_s):
        return self.run(dict(zip(feeds, tensors, strict=True)), fetches, timeout_s=timeout_s)


def do(what: str, tensors: list[np.ndarray], timeout_s: float | None) -> list[np.ndarray]:
    word, _, argument = what.partition(":")
    if word == "echo":
        return tensors
    if word == "pid":
        return [np.array(os.getpid())]
    if word == "timeout":
        return [np.array(-1.0 if timeout_s is None else timeout_s)]
    if word == "error":
        raise NotFound(argument)
    if word == "raise":
        raise RuntimeError("something else")
    if word == "die":
        sys.stderr.write("these are my last words\n")
        sys.stderr.flush()
        os.kill(os.getpid(), int(argument))
        hang()
    if word == "exit":
        os._exit(int(argument))
    if word == "turnstile":
        Path(argument).write_text("in", encoding="ascii")
        hang()
    if word == "hold":
        with Path(argument).open("w", encoding="ascii") as pipe:
            pipe.write(f"{os.getpid()}\n")
            pipe.flush()
            hang()
    if word == "take":
        return [np.array(len(bytearray(int(argument) << 20)))]
    if word == "orphan":
        with Path(argument).open("w") as pipe:
            subprocess.Popen([sys.executable, "-c", HANG], stdout=pipe, stderr=pipe)
        return []
    if word == "hang":
        hang()
    raise FailedPrecondition(f"nobody knows how to do {what}")


def hang() -> None:
    threading.Event().wait()


def load(recipe: Recipe) -> Doing:
    word, _, argument = recipe.path.partition(":")
    if word == "while":
        if not Path(argument).exists():
            raise NotFound(f"{argument} is gone")
    elif word == "first":
        marker, _, pipe = argument.partition(":")
        if not Path(marker).exists():
            do(f"turnstile:{pipe}", [], None)
    elif word == "named":
        return Doing(Path(argument).read_text(encoding="ascii"))
    elif word != "good":
        do(recipe.path, [], None)
    return Doing()


if __name__ == "__main__":
    main(load)
