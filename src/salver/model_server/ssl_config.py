"""The TLS that ``ssl_config_file`` asks for, and the renewal of its certificate.

The file is looked at now and then, off the event loop.  A changed file holds for new connections
at once, without a restart; a changed file that cannot be used is logged and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

from salver.errors import InvalidArgument, ServingError
from salver.model_server.text_proto import read_text_proto
from salver.protos import config_pb2
from salver.wire.tls import server_context

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0

Fingerprint = tuple[int, int, int, int]


def read_ssl_config(path: str) -> ssl.SSLContext:
    """The TLS described by the file at ``path``.

    Raises:
        InvalidArgument: it holds no SSLConfig, or one that cannot be used.
        ServingError: it cannot be read.
    """
    config = read_text_proto(path, config_pb2.SSLConfig())
    try:
        return ssl_context(config)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error.message}") from error


def ssl_context(config: config_pb2.SSLConfig) -> ssl.SSLContext:
    """The TLS that ``config`` describes.

    Raises:
        InvalidArgument: it cannot be used.
    """
    if config.client_verify and not config.custom_ca:
        raise InvalidArgument(
            "client_verify is set and custom_ca is not; "
            "it has to name, in PEM, whose client certificates are accepted"
        )
    client_ca = config.custom_ca if config.client_verify else None
    return server_context(
        certificate=config.server_cert, key=config.server_key, client_ca=client_ca
    )


class TlsFile:
    """The TLS of an SSLConfig file, read again when the file changes.

    ``context`` may be called from any thread and never reads; ``refresh`` reads, from one thread
    at a time.
    """

    def __init__(self, path: str) -> None:
        """Read the file for the first time.

        Raises:
            ServingError: as ``read_ssl_config``.
        """
        self._path = path
        self._seen = _fingerprint(path)  # before it is read: a change in between is seen later
        self._context = read_ssl_config(path)

    def context(self) -> ssl.SSLContext:
        """The TLS for a connection that begins now."""
        return self._context

    def refresh(self) -> None:
        """Read the file again if it has changed; keep what there is if it cannot be used."""
        seen = _fingerprint(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._context = read_ssl_config(self._path)
        except ServingError as error:
            logger.error(  # noqa: TRY400 - the cause is in the text
                "The changed TLS configuration cannot be used, the last one stays: %s",
                error.message,
            )
        else:
            logger.info("The changed TLS configuration of %s holds from now on", self._path)

    async def keep_fresh(self) -> None:
        """Look for a change again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await loop.run_in_executor(None, self.refresh)


def _fingerprint(path: str) -> Fingerprint | None:
    """What changes when a file is rewritten or replaced; None if there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
