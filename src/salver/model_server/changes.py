"""The ways to change the configuration of a running server: its file, and the admin API.

(The third way, HandleReloadConfigRequest, comes in at the gRPC door.)
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from salver.model_server.admin_door import open_admin_door, read_address
from salver.model_server.config_poll import ModelConfigFile
from salver.model_server.options import Options
from salver.model_server.server_core import ServerCore
from salver.wire.listener import Listener


def check_changes(options: Options) -> None:
    """Check, before anything is loaded, what ``start`` will need.

    Raises:
        InvalidArgument, PermissionDenied: the admin API's address is none, or not to be opened.
    """
    if options.admin_address:
        read_address(options.admin_address, allow_remote=options.admin_allow_remote)


class Changes:
    """Both ways, from ``start`` to ``stop``; used on the event loop."""

    def __init__(self, options: Options, core: ServerCore) -> None:
        self._options = options
        self._core = core
        self._admin: Listener | None = None
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Open the admin API and follow the file, each if it was asked for.

        Raises:
            ServingError: the admin API's address cannot be used.
        """
        options = self._options
        if options.admin_address:
            self._admin = open_admin_door(
                options.admin_address, self._core, allow_remote=options.admin_allow_remote
            )
        every_s = options.model_config_file_poll_wait_seconds
        if options.model_config_file and every_s > 0:
            file = ModelConfigFile(
                options.model_config_file,
                self._core,
                prevails=options.model_config_file_prevails,
            )
            self._following = asyncio.ensure_future(file.keep_fresh(every_s))

    async def stop(self) -> None:
        """Take no further changes."""
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following
        if self._admin is not None:
            await self._admin.close()
