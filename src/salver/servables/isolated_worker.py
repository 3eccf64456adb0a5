"""The process of an isolated model: loads one version and answers its server's runs.

Started by ``isolated_process``, with the server's end of a socket and of a pipe; nothing else is
inherited.  It ends when the server ends, however that was, or hangs up: there is nothing to save,
so it leaves at once and the system takes back everything it held.
"""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import numpy as np

from salver.errors import Internal, ResourceExhausted, ServingError
from salver.servables.guarded import load_version
from salver.servables.isolated_channel import Channel, Kind, Message
from salver.servables.isolated_messages import (
    Recipe,
    read_names,
    read_run,
    write_error,
    write_signature_defs,
)
from salver.servables.servable import PreparedRun, Servable

logger = logging.getLogger(__name__)

Load = Callable[[Recipe], Servable]

_MAX_PREPARED: Final = 256
"""Sets of names that are kept ready; the runtime bounds its own in the same way."""

SWITCH_INTERVAL_S: Final = 1e-3
"""How long one run may keep the others waiting for the interpreter; the server's own figure."""

_OOM_SCORE: Final = "500"
"""When memory runs out, the system is to choose this process before the server's."""


def main(load: Load) -> NoReturn:
    """Live as a worker: ``argv`` names the two descriptors, and for people the model."""
    control, lifeline = (int(word) for word in sys.argv[1:3])
    _end_with(lifeline)
    faulthandler.enable(all_threads=False)  # a crash's last words are in the server's log
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _be_chosen_when_memory_runs_out()
    channel = Channel(socket.socket(fileno=control))
    with suppress(EOFError, OSError):
        _serve(channel, load)
    os._exit(0)


def load_with_platform(recipe: Recipe) -> Servable:
    """Load a version as the server itself would, through the same door."""
    return load_version(recipe.context, recipe.servable_id, recipe.path)


def _serve(control: Channel, load: Load) -> None:
    """Load what the first message says, then open a channel for each that follows."""
    recipe = Recipe.read(control.receive().text)
    try:
        os.chdir(recipe.working_folder)
        _limit_memory(recipe.memory_limit_bytes)
        servable = load(recipe)
    except Exception as error:  # noqa: BLE001 - whatever it is, the server is told
        control.send(Kind.ERROR, write_error(_as_serving_error(error)))
        return
    gc.collect()
    gc.freeze()
    control.send(Kind.LOADED, write_signature_defs(servable.signature_defs))
    runs = _Runs(servable)
    while True:
        message = control.receive()
        if message.file is None:
            continue  # no descriptor was left for it here, and the server notices
        channel = Channel(socket.socket(fileno=message.file), borrows=True)
        threading.Thread(target=_answer, args=(channel, runs), daemon=True).start()


def _answer(channel: Channel, runs: _Runs) -> None:
    """Answer run after run, until the server hangs up."""
    with suppress(EOFError, OSError):
        try:
            while True:
                _answer_one(channel, runs, channel.receive())
        except ServingError as error:  # what came cannot be read, so what follows cannot either
            channel.send(Kind.LAST_ERROR, write_error(error))
    channel.close()


def _answer_one(channel: Channel, runs: _Runs, message: Message) -> None:
    try:
        results = runs.run(message)
    except Exception as error:  # noqa: BLE001 - whatever it is, the server is told
        channel.send(Kind.ERROR, write_error(_as_serving_error(error)))
        return
    try:
        channel.send(Kind.RESULT, b"", results)
    except ServingError as error:  # it said so before it sent anything
        channel.send(Kind.ERROR, write_error(error))


class _Runs:
    """Runs of one servable, from any thread; names met before cost nothing."""

    def __init__(self, servable: Servable) -> None:
        self._servable = servable
        self._prepared: dict[bytes, PreparedRun] = {}

    def run(self, message: Message) -> list[np.ndarray]:
        """Run what a message asks for."""
        timeout_s, names = read_run(message.text)
        prepared = self._prepared.get(names)
        if prepared is not None:
            return prepared(message.tensors, timeout_s)
        feeds, fetches = read_names(names)
        if len(self._prepared) >= _MAX_PREPARED:
            given = dict(zip(feeds, message.tensors, strict=True))
            return self._servable.run(given, fetches, timeout_s=timeout_s)
        prepared = self._prepared[names] = self._servable.prepare(feeds, fetches)
        return prepared(message.tensors, timeout_s)


def _as_serving_error(error: Exception) -> ServingError:
    if isinstance(error, ServingError):
        return error
    if isinstance(error, MemoryError):
        return ResourceExhausted("the process of the model has no memory left for this")
    logger.error("An isolated model failed in an unforeseen way", exc_info=error)
    return Internal(f"{type(error).__name__}: {error}")


def _end_with(lifeline: int) -> None:
    """Have the system end this process when the server's end of the pipe is closed.

    Nobody here has to be able to act on it: a model may keep every thread, and the interpreter.
    Where the system cannot do that, the closed socket is noticed as soon as someone reads it.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        return
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(lifeline, 0)
    if poll.poll(0):
        os._exit(0)  # it was closed before the system was asked


def _be_chosen_when_memory_runs_out() -> None:
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")


def _limit_memory(limit_bytes: int) -> None:
    if limit_bytes:
        _soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s")
    main(load_with_platform)
