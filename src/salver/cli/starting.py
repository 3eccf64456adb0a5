"""The seam between the commands and the server: options in, exit code out.

The server is imported when it is started, so that ``--help`` and ``version`` stay instant.
"""

from __future__ import annotations

import logging
from typing import Protocol

from salver.cli.flags import Parsed
from salver.model_server.options import Face, Options

logger = logging.getLogger(__name__)


class Serve(Protocol):
    """Runs a server to its end."""

    def __call__(self, options: Options, *, face: Face) -> int:
        """Serve until shut down and return the exit code.

        Raises:
            ServingError: the start failed before anything was served.
        """


def start_server(options: Options, *, face: Face) -> int:
    """The ``Serve`` of the installed commands."""
    from salver.model_server.server import serve  # as late as this: it brings everything along

    return serve(options, face=face)


def warn_of_options_without_effect(parsed: Parsed) -> None:
    """Name, in one line, the options given for parts that are not built yet."""
    if names := parsed.without_effect:
        flags = ", ".join(f"--{name}" for name in names)
        logger.warning("Options accepted that have no effect yet: %s", flags)
