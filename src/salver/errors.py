"""Everything that can go wrong with a request or a model, as one tree.

    ServingError
    ├── Cancelled            the caller, or a newer wish, took the work back
    ├── Unknown              an error from elsewhere that names no better code
    ├── InvalidArgument      the request is wrong whatever the state of the server
    ├── DeadlineExceeded     the time ran out before the answer was there
    ├── NotFound             no such model, version, label or file
    ├── AlreadyExists
    ├── PermissionDenied
    ├── ResourceExhausted    memory, a queue or a quota is full
    ├── FailedPrecondition   the request is right, the state of the server is not
    ├── Aborted
    ├── OutOfRange
    ├── Unimplemented        known, and not offered here
    ├── Internal             a broken invariant: ours or the model's
    ├── Unavailable          try again later
    ├── DataLoss             stored bytes that cannot be read any more
    └── Unauthenticated

The codes are the canonical ones that gRPC, Abseil and TensorFlow share.
This module does not know how a transport spells them: the doors do.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Code(IntEnum):
    """The canonical status codes (google.rpc.Code)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ServingError(Exception):
    """An error with a canonical code and a message meant for the caller.

    Raise a subclass; catch this.
    """

    code: ClassVar[Code] = Code.UNKNOWN

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        """The status as Abseil prints it: ``INVALID_ARGUMENT: the message``."""
        return f"{self.code.name}: {self.message}"


class Cancelled(ServingError):
    code = Code.CANCELLED


class Unknown(ServingError):
    code = Code.UNKNOWN


class InvalidArgument(ServingError):
    code = Code.INVALID_ARGUMENT


class DeadlineExceeded(ServingError):
    code = Code.DEADLINE_EXCEEDED


class NotFound(ServingError):
    code = Code.NOT_FOUND


class AlreadyExists(ServingError):
    code = Code.ALREADY_EXISTS


class PermissionDenied(ServingError):
    code = Code.PERMISSION_DENIED


class ResourceExhausted(ServingError):
    code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(ServingError):
    code = Code.FAILED_PRECONDITION


class Aborted(ServingError):
    code = Code.ABORTED


class OutOfRange(ServingError):
    code = Code.OUT_OF_RANGE


class Unimplemented(ServingError):
    code = Code.UNIMPLEMENTED


class Internal(ServingError):
    code = Code.INTERNAL


class Unavailable(ServingError):
    code = Code.UNAVAILABLE


class DataLoss(ServingError):
    code = Code.DATA_LOSS


class Unauthenticated(ServingError):
    code = Code.UNAUTHENTICATED


def error_for(code: int, message: str) -> ServingError:
    """The error of the tree that carries ``code``; an unlisted number becomes Unknown.

    Raises:
        ValueError: ``code`` is OK, which is no error.
    """
    if code == Code.OK:
        raise ValueError("OK is not an error")
    return _BY_CODE.get(code, Unknown)(message)


_BY_CODE: dict[int, type[ServingError]] = {
    int(cls.code): cls for cls in ServingError.__subclasses__()
}
