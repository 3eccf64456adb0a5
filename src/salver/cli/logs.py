"""The log lines of the process, in TensorFlow's layout.

``2026-01-31 12:00:00.123456: I salver/core/manager.py:123] the message``

Scripts that watch a TensorFlow Serving process look for its lines on stderr; ours go there too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Final, TextIO

import salver

_PACKAGES_FOLDER: Final = PurePath(salver.__file__).parent.parent

_LEVELS: Final = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


class TensorFlowLayout(logging.Formatter):
    """One line per event: local time to the microsecond, level letter, file and line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without a traceback, which ``format`` appends."""
        time = datetime.fromtimestamp(record.created)  # local, as TensorFlow's
        return (
            f"{time:%Y-%m-%d %H:%M:%S.%f}: {_letter(record.levelno)} "
            f"{_short_path(record.pathname)}:{record.lineno}] {record.message}"
        )


def set_up_logging(stream: TextIO, environ: Mapping[str, str]) -> None:
    """Send every logger's lines to ``stream``.

    ``TF_CPP_MIN_LOG_LEVEL`` quiets this process as it quiets TensorFlow: 0 shows everything,
    1 hides information, 2 warnings, 3 errors as well.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TensorFlowLayout())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(_threshold(environ.get("TF_CPP_MIN_LOG_LEVEL", "")))


def _threshold(text: str) -> int:
    steps = int(text) if text.isdecimal() and text.isascii() and len(text) < 3 else 0
    return _LEVELS[min(steps, len(_LEVELS) - 1)]


def _letter(level: int) -> str:
    if level >= logging.CRITICAL:
        return "F"
    if level >= logging.ERROR:
        return "E"
    return "W" if level >= logging.WARNING else "I"


def _short_path(pathname: str) -> str:
    path = PurePath(pathname)
    if path.is_relative_to(_PACKAGES_FOLDER):
        return path.relative_to(_PACKAGES_FOLDER).as_posix()
    return PurePath(*path.parts[-2:]).as_posix()
