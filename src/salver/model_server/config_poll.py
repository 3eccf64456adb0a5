"""``model_config_file``, read again and again while the server runs.

Whatever becomes of the file meanwhile (empty, cut off, gone, a folder, rewritten at this moment)
costs a line in the log, once, and changes nothing: the next look may find it mended.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from salver.errors import ServingError
from salver.model_server.model_config import ModelConfig, model_configs
from salver.model_server.server_core import ServerCore
from salver.model_server.text_proto import parse_file, read_file
from salver.protos import config_pb2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Content:
    """What was read, and what it says, or why it says nothing."""

    text: bytes = b""
    configs: Sequence[ModelConfig] | None = None
    fault: ServingError | None = None


class ModelConfigFile:
    """The file and what was last made of it.  ``refresh`` is called from one thread at a time."""

    def __init__(
        self,
        path: str,
        core: ServerCore,
        *,
        prevails: bool,
        read: Callable[[str], bytes] = read_file,
    ) -> None:
        """A file that ``prevails`` is applied at every look, over what came by other ways since."""
        self._path = path
        self._core = core
        self._prevails = prevails
        self._read = read
        self._seen = self._applied = _Content()
        self._complaint = ""

    def refresh(self) -> None:
        """Look at the file, and apply it if there is something to apply."""
        try:
            text = self._read(self._path)
            if text != self._seen.text:
                self._seen = self._content(text)
            # A file seen half-written in between has not changed if it is the old one again.
            is_news = self._seen.text != self._applied.text
            if self._seen.fault is None and (self._prevails or is_news):
                self._apply(self._seen)
        except ServingError as error:
            self._complain(str(error))
        else:
            self._complain("" if self._seen.fault is None else str(self._seen.fault))

    async def keep_fresh(self, every_s: float) -> None:
        """Look now and then every ``every_s``, off the event loop, until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(every_s)

    async def _look(self) -> None:
        """Look once, on a thread that the end of the process need not wait for.

        A file that is on a dead mount is never read to its end, and pool threads are joined.
        """
        loop = asyncio.get_running_loop()
        is_over = asyncio.Event()

        def look() -> None:
            self._try_refresh()
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                loop.call_soon_threadsafe(is_over.set)

        threading.Thread(target=look, name="salver-config-file", daemon=True).start()
        await is_over.wait()

    def _content(self, text: bytes) -> _Content:
        try:
            message = parse_file(self._path, text, config_pb2.ModelServerConfig()).message
            return _Content(text, model_configs(message, self._core.platforms()))
        except ServingError as error:
            return _Content(text, fault=error)  # need not be read again to say so

    def _apply(self, content: _Content) -> None:
        change = self._core.configure(content.configs)
        self._applied = content
        if change.new:
            logger.info("%s brought %d new models", self._path, len(change.new))
            self._core.look_soon(_nobody_waits)

    def _try_refresh(self) -> None:
        try:
            self.refresh()
        except Exception:
            logger.exception("Looking at %s failed; the next look follows", self._path)

    def _complain(self, complaint: str) -> None:
        if complaint and complaint != self._complaint:
            logger.error(
                "%s cannot be applied, the configuration stays as it is: %s", self._path, complaint
            )
        self._complaint = complaint


def _nobody_waits() -> None:
    """What a look calls that nobody waits for."""
