"""The health service and the readiness behind it, driven without sockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from fakes import FakeModels
from salver.errors import Internal, NotFound, ResourceExhausted, Unavailable
from salver.model_server.health import MAX_LISTED, SERVER_NAMES, Health
from salver.model_server.readiness import Readiness
from salver.protos.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListResponse
from salver.wire.calls import Streaming, Unary

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN

NOT_A_MESSAGE = b"\xff"


class House:
    """A health service, its readiness and its models; inside of ``with_house``."""

    def __init__(self, *names: str) -> None:
        self.models = FakeModels(*names)
        self.readiness = Readiness(self.models, asyncio.get_running_loop())
        self.health = Health(self.readiness)

    def check(self, name: str) -> int:
        return status(self.health.check(asking(name), None))

    def watch(self, name: str) -> AsyncIterator[bytes]:
        return self.health.watch(stream(asking(name)))


def asking(name: str) -> bytes:
    return HealthCheckRequest(service=name).SerializeToString()


def status(answer: bytes) -> int:
    return HealthCheckResponse.FromString(answer).status


async def stream(*requests: bytes) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


def with_house(scenario: Callable[[House], Awaitable[None]], *names: str) -> None:
    """Run a scenario on a loop of its own."""

    async def run() -> None:
        await scenario(House(*names))

    asyncio.run(run())


async def next_status(watch: AsyncIterator[bytes]) -> int:
    return status(await anext(watch))


async def next_after(watch: AsyncIterator[bytes], change: Callable[[], object]) -> int:
    """The next status of a watch that waits already when the change comes."""
    waiting = asyncio.ensure_future(next_status(watch))
    asyncio.get_running_loop().call_soon(change)
    return await waiting


# --- Check and List -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVER_NAMES)
def test_the_server_serves_from_the_end_of_its_start_to_its_drain(name: str):
    """Under the empty name, TensorFlow Serving's two names, and their full forms."""

    async def scenario(house: House) -> None:
        before = house.check(name)
        house.readiness.started()
        between = house.check(name)
        house.readiness.drain()
        after = house.check(name)

        assert [before, between, after] == [NOT_SERVING, SERVING, NOT_SERVING]

    with_house(scenario, "m")


def test_a_start_that_ends_during_the_drain_changes_nothing():
    """A server told to stop while it loads never says that it serves."""

    async def scenario(house: House) -> None:
        house.readiness.drain()
        house.readiness.started()

        assert house.check("") == NOT_SERVING

    with_house(scenario)


def test_a_model_serves_as_soon_as_a_version_of_it_is_ready():
    """Even while another still loads and the server as a whole is not ready."""

    async def scenario(house: House) -> None:
        before = house.check("quick")
        house.models.available.add("quick")

        assert before == NOT_SERVING
        assert house.check("quick") == SERVING
        assert house.check("slow") == NOT_SERVING
        assert house.check("") == NOT_SERVING

    with_house(scenario, "quick", "slow")


def test_a_model_serves_no_more_when_its_last_version_is_gone_or_the_server_drains():
    """Each by itself is enough."""

    async def scenario(house: House) -> None:
        house.readiness.started()
        gone = house.check("m")
        house.models.available.add("m")
        back = house.check("m")
        house.readiness.drain()

        assert [gone, back, house.check("m")] == [NOT_SERVING, SERVING, NOT_SERVING]

    with_house(scenario, "m")


def test_a_failed_model_leaves_the_server_serving():
    """The whole server is ready without it; its own name tells."""

    async def scenario(house: House) -> None:
        house.models.failed.add("bad")
        house.readiness.started()

        assert house.check("") == SERVING
        assert house.check("bad") == NOT_SERVING

    with_house(scenario, "bad")


def test_an_unknown_name_is_not_found():
    """Check says so by its status, with as much of the name as is good for a log."""

    async def scenario(house: House) -> None:
        with pytest.raises(NotFound) as raised:
            house.check("x" * 100_000)

        assert len(raised.value.message) < 400

    with_house(scenario, "m")


def test_list_has_the_servers_names_and_every_model():
    """Each with the status that Check gives."""

    async def scenario(house: House) -> None:
        house.models.available.add("m")
        answer = HealthListResponse.FromString(house.health.list_all(b"", None))

        listed = {name: one.status for name, one in answer.statuses.items()}
        expected = dict.fromkeys(SERVER_NAMES, NOT_SERVING) | {"m": SERVING, "n": NOT_SERVING}
        assert listed == expected

    with_house(scenario, "m", "n")


def test_more_names_than_the_protocol_lists_are_refused():
    """A list that is cut would look whole."""

    async def scenario(house: House) -> None:
        with pytest.raises(ResourceExhausted, match="too many to list"):
            house.health.list_all(b"", None)

    with_house(scenario, *(f"m{number}" for number in range(MAX_LISTED)))


def test_what_is_no_message_is_refused_by_every_method():
    """As internal, which is what gRPC's own servers say."""

    async def scenario(house: House) -> None:
        with pytest.raises(Internal, match="HealthCheckRequest"):
            house.health.check(NOT_A_MESSAGE, None)
        with pytest.raises(Internal, match="HealthListRequest"):
            house.health.list_all(NOT_A_MESSAGE, None)
        with pytest.raises(Internal, match="HealthCheckRequest"):
            await anext(house.health.watch(stream(NOT_A_MESSAGE)))
        with pytest.raises(Internal, match="one request"):
            await anext(house.health.watch(stream()))

    with_house(scenario)


def test_the_methods_stand_under_their_paths():
    """Check and List have one answer, Watch has many."""

    async def scenario(house: House) -> None:
        methods = house.health.methods()

        kinds = {path: type(method) for path, method in methods.items()}
        assert kinds == {
            "/grpc.health.v1.Health/Check": Unary,
            "/grpc.health.v1.Health/List": Unary,
            "/grpc.health.v1.Health/Watch": Streaming,
        }

    with_house(scenario)


# --- Watch ----------------------------------------------------------------------------------------


def test_a_watch_tells_the_status_at_once_and_then_every_change():
    """From loading over serving to the drain."""

    async def scenario(house: House) -> None:
        watch = house.watch("")

        assert await next_status(watch) == NOT_SERVING
        assert await next_after(watch, house.readiness.started) == SERVING
        assert await next_after(watch, house.readiness.drain) == NOT_SERVING

    with_house(scenario)


def test_a_watch_of_an_unknown_model_goes_on_until_somebody_configures_it():
    """It says that the name is unknown, and later what became of the model."""

    async def scenario(house: House) -> None:
        def configure() -> None:
            house.models.configured.append("m")
            house.readiness.models_changed()

        def load() -> None:
            house.models.available.add("m")
            house.readiness.models_changed()

        watch = house.watch("m")

        assert await next_status(watch) == SERVICE_UNKNOWN
        assert await next_after(watch, configure) == NOT_SERVING
        assert await next_after(watch, load) == SERVING

    with_house(scenario)


def test_a_watch_says_nothing_where_nothing_changed_for_it():
    """News of another model wakes it, and it goes back to waiting."""

    async def scenario(house: House) -> None:
        watch = house.watch("m")
        first = await next_status(watch)
        waiting = asyncio.ensure_future(next_status(watch))
        for name in ("other", "m"):
            await asyncio.wait([waiting], timeout=0)
            house.models.available.add(name)
            house.readiness.models_changed()

        assert [first, await waiting] == [NOT_SERVING, SERVING]

    with_house(scenario, "m", "other")


def test_a_change_while_the_client_is_slow_is_not_lost():
    """What comes between two looks is seen at the second, and only the newest of it."""

    async def scenario(house: House) -> None:
        watch = house.watch("m")
        first = await next_status(watch)
        house.models.available.add("m")
        house.readiness.models_changed()
        house.models.available.clear()
        house.readiness.models_changed()
        house.models.available.add("m")

        assert [first, await next_status(watch)] == [NOT_SERVING, SERVING]

    with_house(scenario, "m")


def test_another_thread_may_bring_the_news():
    """The manager's thread says so, and the loop hears it."""

    async def scenario(house: House) -> None:
        watch = house.watch("m")
        first = await next_status(watch)
        waiting = asyncio.ensure_future(next_status(watch))
        await asyncio.wait([waiting], timeout=0)
        house.models.available.add("m")
        thread = threading.Thread(target=house.readiness.models_changed)
        thread.start()

        assert [first, await waiting] == [NOT_SERVING, SERVING]
        thread.join()

    with_house(scenario, "m")


def test_news_after_the_end_of_the_loop_reaches_nobody():
    """Models unload after the loop is gone, and that is no error."""
    kept: list[Readiness] = []

    async def scenario(house: House) -> None:
        kept.append(house.readiness)

    with_house(scenario)

    kept[0].models_changed()


def test_a_watch_ends_with_the_drain():
    """A server that waits for what is in flight would wait for a watch for ever."""

    async def scenario(house: House) -> None:
        house.readiness.started()
        watch = house.watch("")
        first = await next_status(watch)
        last = await next_after(watch, house.readiness.drain)

        assert [first, last] == [SERVING, NOT_SERVING]
        with pytest.raises(Unavailable, match="shutting down"):
            await anext(watch)

    with_house(scenario)


def test_a_watch_that_waits_for_nothing_new_ends_with_the_drain_too():
    """Its model was not serving before either."""

    async def scenario(house: House) -> None:
        watch = house.watch("nobody")
        first = await next_status(watch)
        house.readiness.drain()

        assert first == SERVICE_UNKNOWN
        with pytest.raises(Unavailable):
            await anext(watch)

    with_house(scenario)
