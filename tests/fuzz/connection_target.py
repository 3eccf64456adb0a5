"""Whole connections without a socket: the first bytes, then HTTP/1.1 or HTTP/2, and the answers.

    make fuzz ARGS="--target connection"

An input is all that a client sends, and its end.  Afterwards nothing of it may be left: no
connection, no request at work, no byte held, no error that nobody caught.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from fakes import FakeTransport, SteppedLoop
from fuzz import http1_target, http2_target
from fuzz.engine import Target, cuts_of, pieces_of, with_words
from salver.wire.calls import Unary
from salver.wire.http1_messages import HttpRequest, HttpResponse
from salver.wire.http2_frames import PREFACE
from salver.wire.listener import Listener

FILES = ("salver/wire/",)
NOW = re.compile(rb"Date: [^\r]*\r\n|HTTP/1.1 100 Continue\r\n\r\n")
"""What an answer holds of the hour, and of how soon a body came."""

MAX_ROUNDS = 100
TLS_HELLO = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"

WORDS = (*http1_target.WORDS, PREFACE, PREFACE[:9], TLS_HELLO, b"/wait", b"/fail")


def run(data: bytes) -> None:
    """Talk in one piece and in several; HTTP/1.1's answers do not depend on it."""
    try:
        compare(data)
    except BaseException:
        House.open.cache_clear()
        raise


def compare(data: bytes) -> None:
    """The answers to an input, however it is cut."""
    whole = talk(data, [])
    for seed in (1, 2):
        parts = talk(data, cuts_of(len(data), seed, 6 * seed))
        if parts != whole and not data.startswith(PREFACE):
            raise AssertionError(f"cut into pieces it is answered {parts!r}, not {whole!r}")


@dataclass
class House:
    """A listener for all connections of this process, until one of them fails."""

    loop: SteppedLoop
    listener: Listener
    errors: list[dict[str, Any]]

    @staticmethod
    @cache
    def open() -> House:
        """Make it once: it reads a table that takes its time."""
        loop = SteppedLoop()
        errors: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: errors.append(context))
        methods = {"/s/now": Unary(echo_now), "/s/later": Unary(echo_later)}
        limits = http2_target.LIMITS
        return House(loop, Listener(methods, answer, loop=loop, http2_limits=limits), errors)

    def check_nothing_is_left(self) -> None:
        """The client has gone, and so has all that was its."""
        now = self.listener.statistics()
        if (now.open_connections, now.in_flight, now.held_bytes) != (0, 0, 0):
            raise AssertionError(f"something is left: {now}")
        if self.errors:
            raise AssertionError(f"an error that nobody caught: {self.errors}")


def talk(data: bytes, cuts: list[int]) -> bytes:
    """What a listener answers, whenever it does."""
    house = House.open()
    newcomer = house.listener.newcomer()
    transport = FakeTransport(newcomer)
    newcomer.connection_made(transport)
    for piece in pieces_of(data, cuts):
        if not piece or transport.is_closed:
            continue
        if transport.is_reading_paused:
            raise AssertionError("all is answered, and the connection is not read on")
        transport.protocol.data_received(piece)
        settle(house.loop, transport)
    house.loop.step(3)
    transport.protocol.connection_lost(None)
    house.loop.step(3)
    house.check_nothing_is_left()
    return NOW.sub(b"", bytes(transport.sent))


def settle(loop: SteppedLoop, transport: FakeTransport) -> None:
    """Let what has been asked be answered: a few rounds, or as many as the connection takes."""
    loop.step(3)
    for _ in range(MAX_ROUNDS):
        if not transport.is_reading_paused:
            return
        loop.step(1)


async def answer(request: HttpRequest) -> HttpResponse:
    """At once, later or never, as the path says."""
    if "wait" in request.target:
        await asyncio.sleep(0)
    if "fail" in request.target:
        raise LookupError(request.target)
    return HttpResponse(200, request.body, "text/plain", closes="bye" in request.target)


def echo_now(message: bytes, _timeout_s: float | None) -> bytes:
    """A call's answer is its request."""
    return message


async def echo_later(message: bytes, _timeout_s: float | None) -> bytes:
    """The same after a while."""
    await asyncio.sleep(0)
    return message


def mutate(data: bytes, rng: Any) -> bytes:
    """In the way of the protocol that it begins with."""
    if data.startswith(PREFACE):
        return PREFACE + http2_target.mutate(data[len(PREFACE) :], rng)
    return with_words(WORDS)(data, rng)


TARGET = Target(run, mutate, FILES)
