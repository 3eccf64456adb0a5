"""Configuration files: protobuf messages in text format.

TensorFlow Serving's readers accept no unknown field and no empty file, and neither do we: a
misspelt name must not pass for a default.  The status of a bad file is TensorFlow Serving's and
says no more than its path; the log, and ``salver check``, say where and what.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import Final, TypeVar

from google.protobuf.message import Message

from salver.errors import InvalidArgument, NotFound, PermissionDenied, ServingError, Unknown
from salver.model_server.text_parser import (
    NO_ANY_TYPES,
    AnyTypes,
    Parsed,
    TextError,
    parse,
    public_name,
)

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

MAX_FILE_BYTES: Final = 64 << 20
"""A hundred thousand models take a fifth of it; what is larger is no configuration."""


def read_text_proto(path: str, message: M, *, any_types: AnyTypes = NO_ANY_TYPES) -> M:
    """Fill ``message`` from the file at ``path`` and return it.

    Raises:
        InvalidArgument: the file is empty or is no such message in text format; the log says where.
        NotFound: there is no such file.
        ServingError: it cannot be read.
    """
    return parse_file(path, read_file(path), message, any_types=any_types).message


def parse_file(
    path: str, text: bytes, message: M, *, any_types: AnyTypes = NO_ANY_TYPES
) -> Parsed[M]:
    """Fill ``message`` from ``text``, which was read from ``path``.

    Raises:
        InvalidArgument: it is no such message in text format; the log says where.
    """
    try:
        return parse(text, message, any_types=any_types)
    except TextError as error:
        name = public_name(type(message).DESCRIPTOR)
        logger.error("Error parsing text-format %s: %s:%s", name, path, error)  # noqa: TRY400
        raise InvalidArgument(f"Invalid protobuf file: '{path}'") from error


def read_file(path: str) -> bytes:
    """What the file at ``path`` holds.

    Raises:
        InvalidArgument: nothing, or too much; or it is a pipe or a device, which need not end.
        NotFound: there is no such file.
        ServingError: it cannot be read.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidArgument(f"{path} is no regular file; pipes and devices need not end")
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _status(error, path) from error
    if not text:
        raise InvalidArgument(f"{path}; {os.strerror(errno.EINVAL)}")
    if len(text) > MAX_FILE_BYTES:
        raise InvalidArgument(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB")
    return text


def _open_at_once(path: str, flags: int) -> int:
    """Open what otherwise would wait: a pipe that nobody writes to."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _status(error: OSError, path: str) -> ServingError:
    message = f"{path}; {error.strerror}"
    if isinstance(error, FileNotFoundError):
        return NotFound(message)
    if isinstance(error, PermissionError):
        return PermissionDenied(message)
    return Unknown(message)
