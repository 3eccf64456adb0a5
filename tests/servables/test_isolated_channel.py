"""The channel between a server and a worker, both ends in one process."""

from __future__ import annotations

import mmap
import os
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import DataLoss, ResourceExhausted
from salver.servables.isolated_channel import MAX_KEPT, SHARED_FROM, Channel, Kind


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = (Channel(end) for end in socket.socketpair())
    one.set_timeout(30)
    other.set_timeout(30)
    yield one, other
    one.close()
    other.close()


def floats(nbytes: int, value: float = 1.0) -> np.ndarray:
    return np.full(nbytes // 4, value, np.float32)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@contextmanager
def no_files_left() -> Iterator[None]:
    """Let this process open nothing more in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("nbytes", [0, 12, SHARED_FROM, 600_000, MAX_KEPT, MAX_KEPT + 4])
def test_tensors_of_every_size_arrive(ends, nbytes: int):
    """In the message, in memory that is kept, or in memory made for one message."""
    one, other = ends
    for value in (1.0, 2.0, 3.0):
        one.send(Kind.RUN, b"text", [floats(nbytes, value), floats(8)])

        message = other.receive()

        assert (message.kind, message.text) == (Kind.RUN, b"text")
        assert [each.nbytes for each in message.tensors] == [nbytes, 8]
        assert all((message.tensors[0] == value).tolist())
        other.send(Kind.RESULT, b"")
        one.receive()


def test_memory_is_kept_between_messages_and_given_back_at_the_end():
    """One region in use costs each end one descriptor; after the close none is left."""
    before = open_files()
    one, other = (Channel(end) for end in socket.socketpair())
    counts = []
    for _ in range(4):
        one.send(Kind.RUN, b"", [floats(600_000)])
        other.receive()
        counts.append(open_files())

    one.close()
    other.close()

    assert counts == [before + 4] * 4
    assert open_files() == before


def test_very_large_memory_lives_as_long_as_its_tensor(ends):
    """It is not copied once more, and not kept."""
    one, other = ends
    before = open_files()
    one.send(Kind.RESULT, b"", [floats(MAX_KEPT + 4)])
    message = other.receive()
    held = open_files()

    del message

    assert held == before + 1
    assert open_files() == before


def test_a_borrower_sees_the_memory_itself():
    """It is done with a message when it answers, so it is spared the copy."""
    one, other = socket.socketpair()
    server, worker = Channel(one), Channel(other, borrows=True)
    server.send(Kind.RUN, b"", [floats(SHARED_FROM, 1.0)])
    (first,) = worker.receive().tensors

    server.send(Kind.RUN, b"", [floats(SHARED_FROM, 2.0)])

    assert first[0] == 2.0
    server.close()
    worker.close()


@pytest.mark.parametrize("nbytes", [600_000, 20_000_000])
def test_without_descriptors_tensors_go_through_the_socket(ends, nbytes: int):
    """A sender that can make no shared memory sends the bytes themselves."""
    one, other = ends
    received: list[np.ndarray] = []
    reader = threading.Thread(target=lambda: received.extend(other.receive().tensors))
    reader.start()

    with no_files_left():
        one.send(Kind.RUN, b"", [floats(nbytes, 5.0)])
        reader.join()

    assert received[0].nbytes == nbytes
    assert received[0][-1] == 5.0


def test_a_receiver_without_descriptors_says_so(ends):
    """The memory that came along cannot be taken, and the text says why and what helps."""
    one, other = ends
    one.send(Kind.RUN, b"", [floats(600_000)])

    with no_files_left(), pytest.raises(ResourceExhausted, match="file descriptors"):
        other.receive()


def test_a_descriptor_goes_along(ends):
    """A socket for another channel is handed over, even behind a message that waits."""
    one, other = ends
    ours, theirs = socket.socketpair()
    one.send(Kind.CONNECT, b"", file=theirs.fileno())
    one.send(Kind.CONNECT, b"", file=theirs.fileno())
    theirs.close()
    files = [other.receive().file, other.receive().file]

    with ours, socket.socket(fileno=files[0]) as handed_over:
        handed_over.sendall(b"x")

        assert ours.recv(1) == b"x"
    os.close(files[1])


def test_the_end_of_the_other_side_is_an_end(ends):
    """A close in the middle of nothing, and in the middle of a message."""
    one, other = ends
    one.finish()

    with pytest.raises(EOFError):
        other.receive()


def test_a_slow_other_side_is_a_timeout(ends):
    """Nothing waits beyond its bound."""
    one, _other = ends
    one.set_timeout(0.01)

    with pytest.raises(TimeoutError):
        one.receive()


def test_memory_that_could_be_taken_away_is_refused():
    """A file that its sender may shorten would end its reader, so it is not read."""
    one, other = socket.socketpair()
    file = os.memfd_create("test")
    os.ftruncate(file, 4096)
    head = struct.pack("<BBxxIIIQ", Kind.RUN, 2, 0, 0, 0, 4096)
    socket.send_fds(one, [head], [file])
    channel = Channel(other)

    with one, pytest.raises(DataLoss, match="taken away"):
        channel.receive()
    channel.close()
    os.close(file)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_message_or_an_error(data: bytes):
    """Whatever the other process writes, this one reads it, refuses it or sees the end."""
    one, other = socket.socketpair()
    channel = Channel(other)
    one.sendall(data)
    one.close()

    try:
        while True:
            channel.receive()
    except (DataLoss, EOFError, ResourceExhausted):
        pass
    finally:
        channel.close()


def test_page_size_is_no_concern(ends):
    """A tensor that ends with a page, and one a byte longer, are both whole."""
    one, other = ends
    for extra in (0, 1):
        tensor = np.arange(SHARED_FROM // mmap.PAGESIZE * mmap.PAGESIZE + extra, dtype=np.uint8)
        one.send(Kind.RUN, b"", [tensor])

        (arrived,) = other.receive().tensors

        assert arrived.tolist() == tensor.tolist()
