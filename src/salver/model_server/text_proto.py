"""Configuration files: protobuf messages in text format.

TensorFlow Serving's readers accept no unknown field and no empty file, and neither do we: a
misspelt name must not pass for a default.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from salver.errors import InvalidArgument, NotFound, PermissionDenied, ServingError, Unknown

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


def read_text_proto(path: str, message: M) -> M:
    """Fill ``message`` from the file at ``path`` and return it.

    Raises:
        InvalidArgument: the file is empty or is no such message in text format; the log says where.
        NotFound: there is no such file.
        ServingError: it cannot be read.
    """
    text = _read(path)
    if not text:
        raise InvalidArgument(f"{path}; {os.strerror(errno.EINVAL)}")
    try:
        text_format.Parse(text, message)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        # The log tells what is wrong; the status is TensorFlow Serving's and does not.
        name = message.DESCRIPTOR.name
        logger.error("Error parsing text-format tensorflow.serving.%s: %s", name, error)  # noqa: TRY400
        raise InvalidArgument(f"Invalid protobuf file: '{path}'") from error
    return message


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _status(error, path) from error


def _status(error: OSError, path: str) -> ServingError:
    message = f"{path}; {error.strerror}"
    if isinstance(error, FileNotFoundError):
        return NotFound(message)
    if isinstance(error, PermissionError):
        return PermissionDenied(message)
    return Unknown(message)
