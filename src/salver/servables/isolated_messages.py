"""What a server and the process of an isolated model tell each other, apart from tensors.

Values here, bytes there, both ways.  What cannot be read is a DataLoss.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from salver.core.servable_id import ServableId
from salver.errors import Code, DataLoss, ServingError, error_for
from salver.servables.platform import PlatformContext

MAX_ERROR_BYTES: Final = 64 << 10
"""Of an error's text; TensorFlow's rarely have a thousand."""

_ERROR_HEAD: Final = struct.Struct("<I")
_TIMEOUT: Final = struct.Struct("<d")
_COUNTS: Final = struct.Struct("<II")
_LENGTH: Final = struct.Struct("<I")

_NO_TIMEOUT: Final = -1.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a worker has to know to load one version."""

    path: str
    working_folder: str
    """What relative paths are relative to."""
    context: PlatformContext
    """What the platform is told; its observer stays with the server."""
    memory_limit_bytes: int = 0
    """What the worker may allocate; 0 sets no limit."""
    servable_id: ServableId = ServableId("", 0)  # noqa: RUF009 - a frozen value

    def serialized(self) -> bytes:
        """The recipe as bytes."""
        context = replace(self.context, observer=None)
        return json.dumps(asdict(replace(self, context=context)), default=_hex).encode()

    @classmethod
    def read(cls, text: bytes) -> Recipe:
        """The recipe in what ``serialized`` gave."""
        values = json.loads(text)
        context = {name: _value(value) for name, value in values.pop("context").items()}
        servable_id = ServableId(**values.pop("servable_id"))
        return cls(**values, context=PlatformContext(**context), servable_id=servable_id)


def write_error(error: ServingError) -> bytes:
    """An error's code and text, the latter cut where it is too long."""
    text = error.message.encode("utf-8", "surrogateescape")
    return _ERROR_HEAD.pack(error.code) + text[:MAX_ERROR_BYTES]


def read_error(text: bytes) -> ServingError:
    """The error that ``write_error`` wrote."""
    if len(text) < _ERROR_HEAD.size:
        raise DataLoss("an error without a code came")
    (code,) = _ERROR_HEAD.unpack_from(text)
    words = text[_ERROR_HEAD.size :].decode("utf-8", "surrogateescape")
    return error_for(Code.UNKNOWN if code == Code.OK else code, words)


def write_names(feeds: Sequence[str], fetches: Sequence[str]) -> bytes:
    """The names of a run, which are the same from run to run and mostly read once."""
    encoded = [name.encode("utf-8", "surrogateescape") for name in (*feeds, *fetches)]
    parts = [_COUNTS.pack(len(feeds), len(fetches))]
    for name in encoded:
        parts += (_LENGTH.pack(len(name)), name)
    return b"".join(parts)


def read_names(text: bytes) -> tuple[list[str], list[str]]:
    """The feeds and fetches that ``write_names`` wrote."""
    feed_count, _ = _unpacked(_COUNTS, text, 0)
    names = [name.decode("utf-8", "surrogateescape") for name in _pieces(text, _COUNTS.size)]
    return names[:feed_count], names[feed_count:]


def write_run(timeout_s: float | None, names: bytes) -> bytes:
    """A run, apart from its tensors."""
    return _TIMEOUT.pack(_NO_TIMEOUT if timeout_s is None else max(timeout_s, 0.0)) + names


def read_run(text: bytes) -> tuple[float | None, bytes]:
    """How long a run may take, and its names as ``write_names`` wrote them."""
    (timeout_s,) = _unpacked(_TIMEOUT, text, 0)
    return (None if timeout_s == _NO_TIMEOUT else timeout_s), text[_TIMEOUT.size :]


def write_signature_defs(definitions: Mapping[str, bytes]) -> bytes:
    """Signatures by name."""
    parts: list[bytes] = []
    for name, definition in definitions.items():
        for piece in (name.encode("utf-8", "surrogateescape"), definition):
            parts += (_LENGTH.pack(len(piece)), piece)
    return b"".join(parts)


def read_signature_defs(text: bytes) -> dict[str, bytes]:
    """The signatures that ``write_signature_defs`` wrote."""
    pieces = _pieces(text, 0)
    if len(pieces) % 2:
        raise DataLoss("a signature without a definition came")
    names = [name.decode("utf-8", "surrogateescape") for name in pieces[::2]]
    return dict(zip(names, pieces[1::2], strict=True))


def _hex(value: bytes) -> dict[str, str]:
    """Bytes as JSON has them here."""
    return {"hex": value.hex()}


def _value(value: Any) -> Any:  # as JSON has no types
    """A field of a context, of which JSON keeps tuples as lists."""
    if isinstance(value, list):
        return tuple(value)
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


def _pieces(text: bytes, at: int) -> list[bytes]:
    """Everything after ``at``: lengths and as many bytes, in turns."""
    pieces = []
    while at < len(text):
        (length,) = _unpacked(_LENGTH, text, at)
        at += _LENGTH.size
        if at + length > len(text):
            raise DataLoss(f"a piece of {length} bytes does not end within {len(text)}")
        pieces.append(text[at : at + length])
        at += length
    return pieces


def _unpacked(form: struct.Struct, text: bytes, at: int) -> tuple[int, ...]:
    if at + form.size > len(text):
        raise DataLoss(f"{len(text)} bytes are cut off at byte {at}")
    return form.unpack_from(text, at)
