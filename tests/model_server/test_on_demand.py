"""Requests that wait for their model to wake."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import pytest

from salver.core.servable_id import ServableId
from salver.core.serving_map import Asleep
from salver.errors import DataLoss, DeadlineExceeded, NotFound, Unavailable
from salver.model_server.on_demand import TIMES_WOKEN, OnDemand
from salver.wire.calls import Answer, Unary

ID = ServableId("m", 1)


class Sleeper:
    """A model that is asleep until it is demanded, and a method that needs it."""

    def __init__(self, *, on_loop: bool = True, awake: bool = False) -> None:
        self.is_awake = awake
        self.demands: list[ServableId] = []
        self.coming: Future[None] = Future()
        self.falls_asleep_again = False
        self._on_loop = on_loop

    def demand(self, servable_id: ServableId) -> Future[None]:
        self.demands.append(servable_id)
        return self.coming

    def wake(self) -> None:
        self.is_awake = not self.falls_asleep_again
        self.coming.set_result(None)

    def answer(self, message: bytes, timeout_s: float | None) -> Answer:
        if self._on_loop:
            return self._run(message)
        return self._later(message)

    async def _later(self, message: bytes) -> bytes:
        return self._run(message)

    def _run(self, message: bytes) -> bytes:
        if not self.is_awake:
            raise Asleep("it sleeps", ID)
        return message.upper()


def call(sleeper: Sleeper, timeout_s: float | None = None, patience_s: float = 60.0) -> Answer:
    methods = OnDemand(sleeper.demand, patience_s=patience_s).methods({"/m": Unary(sleeper.answer)})
    method = methods["/m"]
    assert isinstance(method, Unary)
    return method.handler(b"hello", timeout_s)


def run(main: Callable[[], Awaitable[bytes]]) -> bytes:
    async def to_the_end() -> bytes:
        return await main()

    return asyncio.run(to_the_end())


async def waited_for(answer: Answer) -> bytes:
    assert not isinstance(answer, bytes)
    return await answer


def test_a_model_that_is_awake_answers_at_once():
    """On the loop, without anything to wait for."""
    assert call(Sleeper(awake=True)) == b"HELLO"


@pytest.mark.parametrize("on_loop", [True, False])
def test_a_request_for_a_sleeping_model_is_answered_when_it_is_awake(on_loop: bool):
    """Wherever it found the model asleep, and with one demand."""
    sleeper = Sleeper(on_loop=on_loop)

    async def main() -> bytes:
        asyncio.get_running_loop().call_soon(sleeper.wake)
        return await waited_for(call(sleeper))

    assert run(main) == b"HELLO"
    assert sleeper.demands == [ID]


def test_a_model_that_cannot_be_loaded_says_why():
    """The error is the load's."""
    sleeper = Sleeper()
    sleeper.coming.set_exception(DataLoss("a bad block"))

    with pytest.raises(DataLoss, match="a bad block"):
        run(lambda: waited_for(call(sleeper)))


@pytest.mark.parametrize("limits", [{"timeout_s": 0.0}, {"patience_s": 0.0}])
def test_patience_ends(limits: dict[str, float]):
    """By the deadline of the request, or by the server's own where it has none."""
    with pytest.raises(DeadlineExceeded, match="out of memory and could not be loaded in time"):
        run(lambda: waited_for(call(Sleeper(), **limits)))


def test_one_who_gives_up_leaves_the_load_to_the_others():
    """The future is shared: a request that is taken back does not cancel it."""
    sleeper = Sleeper()

    async def main() -> bytes:
        first = asyncio.ensure_future(waited_for(call(sleeper)))
        second = asyncio.ensure_future(waited_for(call(sleeper)))
        await asyncio.wait([first, second], timeout=0)
        first.cancel()
        await asyncio.wait([first])
        sleeper.wake()
        return await second

    assert run(main) == b"HELLO"


def test_a_model_put_to_sleep_again_and_again_is_unavailable():
    """Rather than a request that never ends."""
    sleeper = Sleeper()
    sleeper.falls_asleep_again = True
    sleeper.wake()

    with pytest.raises(Unavailable, match="memory budget is too small"):
        run(lambda: waited_for(call(sleeper)))
    assert sleeper.demands == [ID] * TIMES_WOKEN


def test_other_errors_are_the_methods_own():
    """A model that nobody knows is not woken."""
    sleeper = Sleeper()

    def unknown(message: bytes, timeout_s: float | None) -> Answer:
        raise NotFound("no such model")

    method = OnDemand(sleeper.demand).methods({"/m": Unary(unknown)})["/m"]
    assert isinstance(method, Unary)

    with pytest.raises(NotFound, match="no such model"):
        method.handler(b"", None)
    assert sleeper.demands == []
