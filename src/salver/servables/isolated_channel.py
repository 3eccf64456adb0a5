"""One call at a time between a server and the process of an isolated model, and its answer.

A message is a short head, a body, and, when tensors are large, memory that both processes map.
Its sender keeps that memory for the next message; the receiver has copied what it needs by then,
since it answers before it is sent another.  Very large memory is made for one message and goes
with it.  It is sealed against shrinking, so that no peer can take it away under a reader.

A channel belongs to one thread at a time.  What cannot be read ends it: after a DataLoss or an
OSError nothing more is to be sent over it, only ``close`` is left.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from salver.errors import DataLoss, ResourceExhausted
from salver.servables.isolated_tensors import Memory, Packed, pack, unpack

SHARED_FROM: Final = 32 << 10
"""Bytes of a tensor from which copying it through a socket costs more than mapping memory did."""

MAX_KEPT: Final = 32 << 20
"""Shared memory that a channel keeps, in each direction."""

MAX_BODY: Final = (1 << 32) - 1

_LEAST_SHARED: Final = 256 << 10
_READ_BYTES: Final = 64 << 10
_MAX_FILES: Final = 4
"""More than ever travel at once: one for each message, and one message at a time."""

_MAP: Final = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
"""All pages at once, which takes less than one fault for each."""

_CLOSE_ON_EXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

_HEAD: Final = struct.Struct("<BBxxIIIQ")
"""Kind, region, tensors, bytes of the text, bytes of the body with it, bytes of the region."""


class Kind(IntEnum):
    """What a message is about."""

    RECIPE = 1
    """To the worker: what to load."""
    LOADED = 2
    """From the worker: the signatures."""
    CONNECT = 3
    """To the worker: a socket for another channel."""
    RUN = 4
    RESULT = 5
    ERROR = 6
    LAST_ERROR = 7
    """An error, after which the worker closes the channel."""


class _Region(IntEnum):
    NONE = 0
    KEPT = 1
    """What came with an earlier message."""
    NEW = 2
    """Comes with this message, to be kept."""
    ONCE = 3
    """Comes with this message, for this message."""


@dataclass(frozen=True, slots=True)
class Message:
    """What was received; the tensors may look into the message and are read-only in parts."""

    kind: Kind
    text: bytes
    tensors: list[np.ndarray]
    file: int | None = None
    """A descriptor that came along, now the receiver's."""


class Channel:
    """One end of a connected socket, and the shared memory of both directions.

    Who ``borrows`` is done with the tensors of a message when it sends the next one, and is spared
    a copy of the large ones.
    """

    def __init__(self, connected: socket.socket, *, borrows: bool = False) -> None:
        self._socket = connected
        self._borrows = borrows
        self._ahead = b""
        self._files: deque[int] = deque()
        self._outgoing: mmap.mmap | None = None
        self._incoming: mmap.mmap | None = None

    def set_timeout(self, timeout_s: float | None) -> None:
        """How long a message may take to be sent, and to come: beyond it, a TimeoutError."""
        self._socket.settimeout(timeout_s)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def finish(self) -> None:
        """Tell the other end that nothing more will come."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Give everything back."""
        self._socket.close()
        while self._files:
            os.close(self._files.popleft())
        self._outgoing = self._incoming = None  # unmapped when no tensor looks into them

    def send(
        self,
        kind: Kind,
        text: bytes,
        tensors: Sequence[np.ndarray] = (),
        *,
        file: int | None = None,
    ) -> None:
        """Send a message; ``file`` is a descriptor to go along, if no tensor is large.

        Raises:
            InvalidArgument: TensorFlow has no such tensor; nothing was sent.
            ResourceExhausted: the message is too large; nothing was sent.
            OSError: the other end is gone, or too slow.
        """
        packed = pack(tensors, shared_from=SHARED_FROM)
        region = _Region.NONE
        made: int | None = None
        if packed.shared_bytes:
            try:
                region, made, memory = self._place_for(packed.shared_bytes)
            except OSError:  # no descriptors or no memory left, or a system without memfd
                packed = pack(tensors)
            else:
                packed.write_shared(memory)
        try:
            self._send(kind, region, text, len(tensors), packed, file if made is None else made)
        finally:
            if made is not None:
                os.close(made)

    def receive(self) -> Message:
        """Wait for the next message.

        Raises:
            DataLoss: what came is no message.
            ResourceExhausted: this process has no descriptor left for the memory that came.
            EOFError: the other end is gone.
            OSError: so it is, or it is too slow.
        """
        head = self._read(_HEAD.size)
        number, region, count, text_bytes, body_bytes, shared_bytes = _HEAD.unpack(head)
        if number not in Kind._value2member_map_ or text_bytes > body_bytes:
            raise DataLoss(f"no message has kind {number} and {text_bytes} of {body_bytes} bytes")
        kind = Kind(number)
        body = memoryview(self._read(body_bytes)) if body_bytes else memoryview(b"")
        shared = self._region(region, shared_bytes)
        text = bytes(body[:text_bytes])
        start = text_bytes + -text_bytes % 8
        may_look_in = self._borrows or region == _Region.ONCE
        tensors = unpack(body[start:], count, shared, copy=not may_look_in)
        file = self._files.popleft() if kind is Kind.CONNECT and self._files else None
        return Message(kind, text, tensors, file)

    def _send(
        self,
        kind: Kind,
        region: _Region,
        text: bytes,
        count: int,
        packed: Packed,
        file: int | None,
    ) -> None:
        padding = bytes(-len(text) % 8)
        size = len(text) + len(padding) + len(packed.body)
        if size > MAX_BODY:
            raise ResourceExhausted(f"{size} bytes are more than fit in one message: {MAX_BODY}")
        head = _HEAD.pack(kind, region, count, len(text), size, packed.shared_bytes)
        data = b"".join((head, text, padding, packed.body))
        if file is not None:
            sent = socket.send_fds(self._socket, [data], [file])
            if sent == len(data):
                return
            data = data[sent:]
        self._socket.sendall(data)

    def _place_for(self, size: int) -> tuple[_Region, int | None, Memory]:
        """Shared memory to write to, and the file to send along if the other end lacks it."""
        kept = self._outgoing
        if kept is not None and len(kept) >= size:
            return _Region.KEPT, None, memoryview(kept)
        is_kept = size <= MAX_KEPT
        if is_kept:
            size = max(1 << (size - 1).bit_length(), _LEAST_SHARED)
        file = _new_memory(size)
        try:
            mapped = mmap.mmap(file, size, flags=_MAP)
        except BaseException:
            os.close(file)
            raise
        if not is_kept:
            return _Region.ONCE, file, memoryview(mapped)
        self._outgoing = mapped
        return _Region.NEW, file, memoryview(mapped)

    def _region(self, region: int, size: int) -> Memory:
        """The shared memory that a message speaks of."""
        if region == _Region.NONE:
            return b""
        mapped = self._incoming if region == _Region.KEPT else self._map_next_file()
        if mapped is None or len(mapped) < size:
            raise DataLoss(f"a message speaks of {size} bytes of shared memory that never came")
        if region == _Region.NEW:
            self._incoming = mapped
        return memoryview(mapped)

    def _map_next_file(self) -> mmap.mmap:
        if not self._files:
            raise ResourceExhausted(
                "the shared memory of a tensor could not be taken: this process has used up its "
                "file descriptors; a higher limit (ulimit -n) helps"
            )
        file = self._files.popleft()
        try:
            if not fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise DataLoss("shared memory came that may be taken away again")
            return mmap.mmap(file, 0, flags=_MAP, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise ResourceExhausted(f"shared memory cannot be mapped: {error}") from error
        finally:
            os.close(file)

    def _read(self, size: int) -> bytes:
        """Exactly so many bytes, of which some may have come before."""
        data = self._ahead
        if len(data) < size:
            data = self._fill(data, size)
        self._ahead = data[size:]
        return data[:size] if self._ahead else data

    def _fill(self, data: bytes, size: int) -> bytes:
        data += self._receive_some()
        if len(data) >= size:
            return data
        gathered = bytearray(data)  # grows with what comes, not with what was announced
        while len(gathered) < size:
            gathered += self._receive_some()
        return bytes(gathered)

    def _receive_some(self) -> bytes:
        files = array.array("i")
        data, ancillary, _flags, _address = self._socket.recvmsg(
            _READ_BYTES, socket.CMSG_SPACE(_MAX_FILES * files.itemsize), _CLOSE_ON_EXEC
        )
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                files.frombytes(content[: len(content) - len(content) % files.itemsize])
        self._files.extend(files)
        if not data:
            raise EOFError("the other end of the channel is closed")
        return data


def _new_memory(size: int) -> int:
    """Memory as a file without a name, which can be mapped and handed over.

    Raises:
        OSError: there is none to be had.
    """
    if not hasattr(os, "memfd_create"):
        raise OSError("this system has no memory without a name")
    file = os.memfd_create("salver", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, size)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(file)
        raise
    return file
