"""``model_config_file``, read again and again while the server runs.

Whatever becomes of the file meanwhile (empty, cut off, gone, a folder, rewritten at this moment)
costs a line in the log, once, and changes nothing: the next look may find it mended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from salver.errors import ServingError
from salver.model_server.model_config import ModelConfig, model_configs
from salver.model_server.server_core import ServerCore
from salver.model_server.text_proto import parse_file, read_file
from salver.protos import config_pb2

logger = logging.getLogger(__name__)

NEVER_READ: Final = b""


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
        self._text = NEVER_READ
        self._configs: Sequence[ModelConfig] | None = None
        self._fault: ServingError | None = None
        self._is_applied = False
        self._complaint = ""

    def refresh(self) -> None:
        """Look at the file, and apply it if there is something to apply."""
        try:
            text = self._read(self._path)
            if text != self._text:
                self._take(text)
            if self._fault is None and (self._prevails or not self._is_applied):
                self._apply()
        except ServingError as error:
            self._complain(str(error))
        else:
            self._complain("" if self._fault is None else str(self._fault))

    async def keep_fresh(self, every_s: float) -> None:
        """Look now and then every ``every_s``, off the event loop, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await loop.run_in_executor(None, self._try_refresh)
            await asyncio.sleep(every_s)

    def _take(self, text: bytes) -> None:
        self._text = text
        self._is_applied = False
        self._fault = None
        try:
            message = parse_file(self._path, text, config_pb2.ModelServerConfig()).message
            self._configs = model_configs(message, self._core.platforms())
        except ServingError as error:
            self._fault = error  # of this text, which need not be read again to say so

    def _apply(self) -> None:
        change = self._core.configure(self._configs)
        self._is_applied = True
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
