"""Sockets that are listened on: what is bound, what an error costs, what is left behind."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import SteppedLoop
from salver.wire.accepting import ACCEPTS_PER_TURN, RETRY_S, Acceptor, bind_tcp, bind_unix


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    yield loop
    loop.close()


class Guests:
    """Keeps the connections an acceptor hands over."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def __call__(self, accepted: socket.socket) -> None:
        self.sockets.append(accepted)

    def leave(self) -> None:
        for each in self.sockets:
            each.close()


@pytest.fixture
def guests() -> Iterator[Guests]:
    guests = Guests()
    yield guests
    guests.leave()


class Ailing(socket.socket):
    """A listening socket whose next accepts fail as the test says."""

    def ail(self, *codes: int) -> None:
        self.codes = list(codes)
        self.accepts = 0

    def accept(self):
        self.accepts += 1
        if self.codes:
            code = self.codes.pop(0)
            raise OSError(code, errno.errorcode[code])
        return super().accept()


def ailing(*codes: int) -> Ailing:
    listening = Ailing()
    listening.bind(("127.0.0.1", 0))
    listening.ail(*codes)
    return listening


def test_accepted_connection_is_handed_over_ready_for_a_loop(loop: SteppedLoop, guests: Guests):
    """Whoever connects is handed over at once, as a socket that does not block."""
    listening = bind_tcp(0, "127.0.0.1")
    acceptor = Acceptor(listening, guests, loop=loop)

    with socket.create_connection(listening.getsockname()):
        loop.step()
        acceptor.close()

    assert [each.getblocking() for each in guests.sockets] == [False]


def test_many_arrivals_leave_the_loop_its_turns(loop: SteppedLoop, guests: Guests):
    """A crowd is let in in portions, between which others are served."""
    listening = bind_tcp(0, "127.0.0.1")
    acceptor = Acceptor(listening, guests, loop=loop)
    crowd = [socket.create_connection(listening.getsockname()) for _ in range(ACCEPTS_PER_TURN + 1)]

    loop.step(rounds=1)
    at_first = len(guests.sockets)
    loop.step()
    acceptor.close()
    for each in crowd:
        each.close()

    assert at_first == ACCEPTS_PER_TURN
    assert len(guests.sockets) == ACCEPTS_PER_TURN + 1


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EPERM])
def test_accept_that_fails_is_tried_again_after_a_moment(
    loop: SteppedLoop, guests: Guests, caplog: pytest.LogCaptureFixture, code: int
):
    """An address never falls deaf, and it does not try in a busy loop either."""
    listening = ailing(code)
    acceptor = Acceptor(listening, guests, loop=loop)

    with socket.create_connection(listening.getsockname()):
        loop.step()
        while_paused = (listening.accepts, len(guests.sockets))
        loop.advance(RETRY_S)
        acceptor.close()

    assert while_paused == (1, 0)
    assert len(guests.sockets) == 1
    assert caplog.messages == [f"Cannot accept connections: {errno.errorcode[code]}; trying again"]


def test_log_is_not_filled_while_accepting_fails(
    loop: SteppedLoop, guests: Guests, caplog: pytest.LogCaptureFixture
):
    """A want of descriptors may last: one line says so, and a later one how often."""
    listening = ailing(*[errno.EMFILE] * 10)
    acceptor = Acceptor(listening, guests, loop=loop)

    with socket.create_connection(listening.getsockname()):
        loop.step()
        for _ in range(10):
            loop.advance(RETRY_S)
        acceptor.close()

    assert len(guests.sockets) == 1
    assert caplog.messages == ["Cannot accept connections: EMFILE; trying again"]


def test_client_that_left_the_queue_is_no_error(
    loop: SteppedLoop, guests: Guests, caplog: pytest.LogCaptureFixture
):
    """A connection reset before it was accepted costs nothing and nobody a wait."""
    listening = ailing(errno.ECONNABORTED)
    acceptor = Acceptor(listening, guests, loop=loop)

    with (
        caplog.at_level(logging.DEBUG, "salver"),
        socket.create_connection(listening.getsockname()),
    ):
        loop.step()
        acceptor.close()

    assert len(guests.sockets) == 1
    assert caplog.messages == []


def test_closing_during_a_pause_ends_it(loop: SteppedLoop, guests: Guests):
    """A closed address is not opened again when its pause would end."""
    listening = ailing(errno.EMFILE)
    acceptor = Acceptor(listening, guests, loop=loop)
    with socket.create_connection(listening.getsockname()):
        loop.step()

        acceptor.close()
        acceptor.close()
        loop.advance(RETRY_S)

    assert listening.fileno() == -1
    assert guests.sockets == []


def test_unix_socket_leaves_no_path_behind(loop: SteppedLoop, guests: Guests, tmp_path: Path):
    """The path goes with the socket that made it."""
    path = tmp_path / "grpc.sock"
    acceptor = Acceptor(bind_unix(str(path)), guests, loop=loop)
    was_there = path.is_socket()

    acceptor.close()

    assert was_there
    assert not path.exists()


def test_unix_path_of_a_successor_stays(loop: SteppedLoop, guests: Guests, tmp_path: Path):
    """A process that leaves does not take the path of the one that has replaced it."""
    path = tmp_path / "grpc.sock"
    old = Acceptor(bind_unix(str(path)), guests, loop=loop)
    new = Acceptor(bind_unix(str(path)), guests, loop=loop)

    old.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        loop.step()
    new.close()

    assert len(guests.sockets) == 1


def test_unix_socket_does_not_replace_a_file(tmp_path: Path):
    """What is no socket is not ours to remove."""
    path = tmp_path / "file"
    path.write_text("precious")

    with pytest.raises(OSError, match="in use"):
        bind_unix(str(path))

    assert path.read_text() == "precious"


def test_port_that_is_taken_is_an_error():
    """A taken port is not silently served on IPv4 alone."""
    with bind_tcp(0) as taken, pytest.raises(OSError, match="in use"):
        bind_tcp(taken.getsockname()[1])


def test_port_can_be_shared_by_those_who_say_so():
    """With ``reuse_port`` on both sides a port is bound twice."""
    with bind_tcp(0, reuse_port=True) as first:
        port = first.getsockname()[1]
        with bind_tcp(port, reuse_port=True) as second:
            bound = second.getsockname()[1]

    assert bound == port
