"""One process that serves one version: its start, its runs and its end, as the server sees them.

It is a fresh interpreter, not a copy of the server, and gets two descriptors and no others: one end
of a socket, and one of a pipe whose other end the server holds as long as it lives.  It leads a
session of its own, so that a Ctrl-C meant for the server is the server's to handle.

Runs may be made from several threads; each borrows a channel to the process for its time.  However
the process ends, it is reaped, and runs in flight are told how it ended.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import BinaryIO, Final

import numpy as np

from salver.errors import (
    DataLoss,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    ServingError,
    Unavailable,
)
from salver.servables.isolated_channel import Channel, Kind, Message
from salver.servables.isolated_messages import (
    Recipe,
    read_error,
    read_signature_defs,
    write_run,
)

logger = logging.getLogger(__name__)

WORKER: Final = (sys.executable, "-m", "salver.servables.isolated_worker")

LATE_S: Final = 0.25
"""Time that an answer has beyond its run's deadline: the runtime keeps time too, and says more."""

REAP_S: Final = 2.0
"""How long a run that lost its process waits to be told how the process ended."""

_LAST_LINES: Final = 40
_LONGEST_LINE: Final = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one process."""

    load_timeout_s: float | None = 1800.0
    """A load that takes longer is killed."""
    hang_grace_s: float = 30.0
    """A run that is not over so long after its deadline hangs, and its process is killed."""
    end_grace_s: float = 5.0
    """A process that was asked to end and has not by then is killed."""
    channels: int = 256
    """Runs at a time."""


class WorkerProcess:
    """A process, started with its making.  ``load``, then ``run``s, then ``end``."""

    def __init__(
        self,
        title: str,
        recipe: Recipe,
        *,
        limits: Limits,
        command: Sequence[str] = WORKER,
    ) -> None:
        """Start it.  ``title`` is what the model is called in texts and in the list of processes.

        Raises:
            ResourceExhausted: the system has no process, descriptor or memory to spare.
        """
        self._title = title
        self._recipe = recipe
        self._limits = limits
        self._channels: deque[Channel] = deque()
        self._channels_lock = threading.Lock()
        self._free_channels = threading.Semaphore(limits.channels)
        self._reaping = threading.Lock()
        self._is_reaped = self._is_closed = False
        self._has_ended = threading.Event()
        self._why_killed = ""
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        """What it wrote last."""
        try:
            self._start(command)
        except OSError as error:
            raise ResourceExhausted(
                f"no process could be started for model {title}: {error}"
            ) from error

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def _start(self, command: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._control = Channel(ours)
        try:
            with theirs:
                lifeline, self._lifeline = os.pipe()
                try:
                    self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                        [*command, str(theirs.fileno()), str(lifeline), self._title],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        pass_fds=(theirs.fileno(), lifeline),
                        start_new_session=True,
                        cwd="/",  # which ``-m`` looks for modules in; the recipe has the real one
                        env={**os.environ, "PYTHONPATH": _module_path()},
                    )
                except BaseException:
                    os.close(self._lifeline)
                    raise
                finally:
                    os.close(lifeline)
        except BaseException:
            self._control.close()
            raise
        self._watch()

    def _watch(self) -> None:
        """Read what it writes, and wait for its end, each on a thread."""
        self._reader = threading.Thread(
            target=self._read_lines, args=(self._process.stdout,), daemon=True
        )
        try:
            self._reader.start()
            threading.Thread(target=self._reap, daemon=True).start()
        except RuntimeError as error:
            self._kill_group()
            self._process.wait()
            self._give_back()
            raise OSError(str(error)) from error

    def load(self) -> dict[str, bytes]:
        """Have it load; the signatures as they were exported.

        When this raises, the process is gone.

        Raises:
            DeadlineExceeded: it took too long and was killed.
            Unavailable: the process died.
            ServingError: what the runtime says.
        """
        try:
            return self._load()
        except BaseException:
            self.kill("its load was given up")
            self.wait()
            raise

    def _load(self) -> dict[str, bytes]:
        try:
            with self._channels_lock:  # so that an end in the middle does not close what is read
                self._control.set_timeout(self._limits.load_timeout_s)
                self._control.send(Kind.RECIPE, self._recipe.serialized())
                answer = self._control.receive()
                self._control.set_timeout(self._limits.end_grace_s)
        except TimeoutError:
            self.kill("it took too long to load")
            raise DeadlineExceeded(
                f"Loading model {self._title} in a process of its own took longer than "
                f"{self._limits.load_timeout_s:g} s; the process was killed"
            ) from None
        except (EOFError, OSError):
            self._has_ended.wait(REAP_S)
            raise Unavailable(
                f"The process of model {self._title} {self.ending} while it loaded"
                f"{self._last_words()}"
            ) from None
        if answer.kind is Kind.ERROR:
            raise read_error(answer.text)
        if answer.kind is not Kind.LOADED:
            raise DataLoss(f"a {answer.kind.name} came where signatures were expected")
        return read_signature_defs(answer.text)

    def run(
        self, names: bytes, tensors: Sequence[np.ndarray], timeout_s: float | None
    ) -> list[np.ndarray]:
        """Run once, with names from ``write_names``.

        Raises:
            Unavailable: the process died, maybe of this run.
            DeadlineExceeded: it took longer than ``timeout_s``.
            ServingError: what the runtime says.
        """
        started = monotonic()
        if not self._free_channels.acquire(timeout=timeout_s):
            raise DeadlineExceeded(
                f"{self._limits.channels} runs of model {self._title} were under way all the time"
            )
        is_over = True
        try:
            channel = self._channel()
            try:
                left_s = None if timeout_s is None else timeout_s - (monotonic() - started)
                channel.set_timeout(None if left_s is None else max(left_s, 0.0) + LATE_S)
                channel.send(Kind.RUN, write_run(left_s, names), tensors)
                answer = channel.receive()
            except TimeoutError:
                is_over = False
                self._leave_alone(channel)
                raise DeadlineExceeded(
                    f"model {self._title} did not answer within {timeout_s:g} s"
                ) from None
            except (EOFError, OSError):
                channel.close()
                raise self._lost() from None
            except BaseException:
                channel.close()
                raise
            if answer.kind is Kind.LAST_ERROR:
                channel.close()
            else:
                self._put_back(channel)
        finally:
            if is_over:
                self._free_channels.release()
        return _results(answer)

    def wait(self) -> None:
        """Wait until it has ended and left nothing behind."""
        self._has_ended.wait()

    def kill(self, why: str) -> None:
        """End it at once; ``why`` is for people."""
        with self._reaping:
            if not self._is_reaped:
                self._why_killed = self._why_killed or why
                self._kill_group()

    def end(self) -> None:
        """Ask it to end, insist after a while, and return when it is gone."""
        self._why_killed = self._why_killed or "it was not needed any more"
        with self._channels_lock:
            if not self._is_closed:
                self._control.finish()
        if not self._has_ended.wait(self._limits.end_grace_s):
            self.kill("")
            self._has_ended.wait()

    @property
    def ending(self) -> str:
        """How it ended, to follow its name in a sentence."""
        code = self._process.returncode
        if code is None:
            return "does not answer any more"
        why = f", because {self._why_killed}" if self._why_killed else ""
        if code >= 0:
            return f"ended with exit code {code}{why}"
        if not why and -code == signal.SIGKILL:
            why = ", as the system does when memory runs out"
        return f"was killed by signal {-code} ({_signal_name(-code)}){why}"

    # Channels.

    def _channel(self) -> Channel:
        """A channel that nobody uses."""
        with suppress(IndexError):
            return self._channels.pop()
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise ResourceExhausted(
                f"no further run of model {self._title} can be started: {error}"
            ) from error
        with theirs:
            try:
                with self._channels_lock:
                    self._control.send(Kind.CONNECT, b"", file=theirs.fileno())
            except OSError:
                ours.close()
                raise self._lost() from None
        return Channel(ours)

    def _put_back(self, channel: Channel) -> None:
        with self._channels_lock:
            if not self._is_closed:
                self._channels.append(channel)
                return
        channel.close()

    def _leave_alone(self, channel: Channel) -> None:
        """Let a run that is late come to its end, for as long as that is believable."""
        try:
            threading.Thread(target=self._await_late_answer, args=(channel,), daemon=True).start()
        except RuntimeError:
            self.kill("a run was late, and no thread was left to wait for it")
            channel.close()
            self._free_channels.release()

    def _await_late_answer(self, channel: Channel) -> None:
        try:
            channel.set_timeout(self._limits.hang_grace_s)
            channel.receive()
        except TimeoutError:
            self.kill(f"a run did not end {self._limits.hang_grace_s:g} s after its deadline")
        except (EOFError, OSError, ServingError):
            pass
        finally:
            channel.close()
            self._free_channels.release()

    def _lost(self) -> ServingError:
        """What a run is told whose channel was closed at the other end."""
        if not self._has_ended.wait(REAP_S):
            return Unavailable(f"The process of model {self._title} broke off a run; try again")
        return Unavailable(
            f"The process of model {self._title} {self.ending}; another one is started, "
            "try again soon"
        )

    # The process.

    def _reap(self) -> None:
        """Wait for the end of the process and give back what it leaves here."""
        if hasattr(os, "waitid"):  # so that its id is its own as long as it may be killed by it
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._process.wait()
        with self._reaping:
            self._kill_group()  # what it may have started itself
            self._process.wait()
            self._is_reaped = True
        self._reader.join(REAP_S)
        self._give_back()
        self._has_ended.set()

    def _give_back(self) -> None:
        os.close(self._lifeline)
        with self._channels_lock:
            self._is_closed = True
            self._control.close()
            while self._channels:
                self._channels.pop().close()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read_lines(self, stream: BinaryIO) -> None:
        """Hand on to the log what it writes, line by line, as long as it lives."""
        with stream:
            while line := stream.readline(_LONGEST_LINE):
                text = line.decode("utf-8", "replace").rstrip()
                self.last_lines.append(text)
                logger.info("Model %s (process %d): %s", self._title, self.pid, text)

    def _last_words(self) -> str:
        """What it wrote last of its own accord, before the interpreter's report of a crash."""
        lines = list(self.last_lines)
        reports = (i for i, line in enumerate(lines) if line.startswith("Fatal Python error"))
        words = [line for line in lines[: next(reports, len(lines))] if line]
        return f"; its last words: {words[-1]}" if words else ""


def _module_path() -> str:
    """Where the worker finds what this process has found; relative to no folder."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    folders = [str(Path(folder).absolute()) for folder in given if folder]
    return os.pathsep.join([*folders, str(Path(__file__).parents[2])])


def _results(answer: Message) -> list[np.ndarray]:
    if answer.kind in (Kind.ERROR, Kind.LAST_ERROR):
        raise read_error(answer.text)
    if answer.kind is not Kind.RESULT:
        raise Internal(f"a {answer.kind.name} came where a result was expected")
    return answer.tensors


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return "unknown"
