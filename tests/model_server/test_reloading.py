"""HandleReloadConfigRequest: what it accepts, what it waits for, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import cast

import pytest

from core_house import CoreHouse, model
from salver.apis.requests import ModelSpec
from salver.core.servable_state import ManagerState, ServableState
from salver.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unknown,
)
from salver.metrics import Metrics
from salver.model_server.model_config import ModelConfig, model_message
from salver.model_server.reloading import MAX_CALLS, MAX_LINES, Reloading, outcome
from salver.model_server.server_core import LabelRules, ModelProgress
from salver.protos import config_pb2

SOON_S = 0.05
PATIENCE_S = 60.0


def request(*models: ModelConfig, metrics: tuple[str, ...] = ()) -> bytes:
    message = config_pb2.ReloadConfigRequest(metric_names=metrics)
    message.config.model_config_list.SetInParent()
    message.config.model_config_list.config.extend(model_message(m) for m in models)
    return message.SerializeToString()


def reload(
    house: CoreHouse,
    data: bytes,
    *,
    timeout_s: float | None = PATIENCE_S,
    wait_s: float = PATIENCE_S,
    metrics: Metrics | None = None,
) -> config_pb2.ReloadConfigResponse:
    reloading = Reloading(house.core, metrics or Metrics(), wait_s=wait_s)

    async def call() -> bytes:
        return await cast("Awaitable[bytes]", reloading.reload(data, timeout_s))

    return config_pb2.ReloadConfigResponse.FromString(asyncio.run(call()))


@pytest.fixture
def house() -> CoreHouse:
    made = CoreHouse()
    made.add("m", 1, 2)
    made.add("n", 1)
    return made


@pytest.mark.parametrize("choice", ["nothing", "custom"])
def test_only_a_list_of_models_is_accepted(house: CoreHouse, choice: str):
    """Also where nothing is configured yet."""
    message = config_pb2.ReloadConfigRequest()
    if choice == "custom":
        message.config.custom_model_config.SetInParent()

    with pytest.raises(InvalidArgument) as raised:
        reload(house, message.SerializeToString())
    assert raised.value.message == (
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList "
        "is currently supported"
    )


def test_what_is_no_request_is_refused(house: CoreHouse):
    """With what the bytes should have been."""
    with pytest.raises(Internal, match=r"3 bytes received are no tensorflow\.serving\.Reload"):
        reload(house, b"\xff\xff\xff")


def test_the_call_returns_when_every_new_model_is_there(house: CoreHouse):
    """Its status is OK, and the models answer."""
    with house.running():
        response = reload(house, request(model("m"), model("n")))

        for name in ("m", "n"):
            house.core.handle(ModelSpec(name)).release()
    assert response.HasField("status")
    assert (response.status.error_code, response.status.error_message) == (0, "")


def test_what_was_served_before_is_replaced_and_not_waited_for(house: CoreHouse):
    """A known model with another policy takes effect with a look; one left out is unloaded."""
    with house.running():
        reload(house, request(model("m")))
        house.shelf.versions.pop("/models/m")
        reload(house, request(model("m"), model("n")))

        assert house.core.names() == ["m", "n"]


def test_a_new_model_is_there_when_its_highest_version_is(house: CoreHouse):
    """Other versions may still be loading."""
    gate = house.gates["/models/m/1"] = threading.Event()
    with house.running():
        reload(house, request(model("m")))

        assert not gate.is_set()


def test_a_new_model_that_fails_is_told_in_tensorflow_servings_words(house: CoreHouse):
    """The others of the same call are served all the same."""
    house.load_errors["/models/n/1"] = InvalidArgument("broken")
    with house.running():
        with pytest.raises(Unknown) as raised:
            reload(house, request(model("m"), model("n")))

        house.core.handle(ModelSpec("m")).release()
    assert raised.value.message == (
        "1 model(s) did not become available: "
        "{{name: n version: 1} due to error: INVALID_ARGUMENT: broken}, }"
    )


def test_a_base_path_that_is_not_there_ends_the_call_in_time(house: CoreHouse):
    """With a line for each new model, those that are amiss first; the configuration holds."""
    with house.running(), pytest.raises(DeadlineExceeded) as raised:
        reload(house, request(model("m"), model("missing")), timeout_s=1.0)

    assert raised.value.message.splitlines() == [
        "Configuration test-1 holds; 1 of 2 new models are available.",
        "missing: base path /models/missing is not there",
        "m: version 2 is available",
    ]


def test_a_load_that_takes_too_long_ends_the_call_in_time(house: CoreHouse):
    """And says what it is about."""
    house.gates["/models/n/1"] = threading.Event()
    with house.running(), pytest.raises(DeadlineExceeded, match="n: version 1 is LOADING"):
        reload(house, request(model("n")), timeout_s=SOON_S)


def test_a_call_without_a_deadline_waits_as_long_as_the_option_says(house: CoreHouse):
    """It never waits for ever."""
    with pytest.raises(DeadlineExceeded, match=r"nothing found yet|is not there"):
        reload(house, request(model("missing")), timeout_s=None, wait_s=SOON_S)


def test_independent_models_are_not_waited_for_where_there_is_nothing():
    """A look that found nothing ends the wait: the model comes when its path does."""
    house = CoreHouse(independent=True)
    house.add("m", 1)
    with house.running():
        with pytest.raises(NotFound, match="missing: base path /models/missing is not there"):
            reload(house, request(model("m"), model("missing")))

        house.core.handle(ModelSpec("m")).release()


def test_a_name_of_before_whose_path_is_not_there_ends_the_call_after_one_look():
    """That it was served once, and ended, says nothing about now."""
    house = CoreHouse(independent=True)
    house.add("m", 1)
    gone = ModelConfig("m", "/models/gone")
    with house.running():
        reload(house, request(model("m")))
        reload(house, request())
        with pytest.raises(NotFound, match="m: base path /models/gone is not there"):
            reload(house, request(gone))


def test_a_load_that_is_not_wished_for_any_more_is_no_failure(house: CoreHouse):
    """Another configuration came in between."""
    house.load_errors["/models/n/1"] = Cancelled("Loading of servable cancelled")
    with house.running(), pytest.raises(Aborted, match="n: version 1 is not wished for any more"):
        reload(house, request(model("m"), model("n")))


def test_an_answer_about_very_many_models_has_an_end():
    """What is amiss comes first; the rest is a number."""
    waiting = [ModelProgress(f"m{number}", "nothing found yet") for number in range(5000)]

    error = outcome([ModelProgress("fine", "there", is_ready=True), *waiting], "r-1", True)

    assert isinstance(error, DeadlineExceeded)
    lines = error.message.splitlines()
    assert lines[:2] == [
        "Configuration r-1 holds; 1 of 5001 new models are available.",
        "m0: nothing found yet",
    ]
    assert (len(lines), lines[-1]) == (MAX_LINES + 2, f"and {5001 - MAX_LINES} more")


def test_a_call_that_is_gone_waits_for_no_look():
    """Looks at a dead mount end nowhere, and calls come again and again."""
    house = CoreHouse()
    looking, never = threading.Event(), threading.Event()

    def look() -> None:
        looking.set()
        never.wait(60)

    house.shelf.is_polled = look
    looked = []
    house.core.configure([])
    house.core.look_soon(lambda: looked.append("first"))
    looking.wait(60)
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            reload(house, request(model("missing")), timeout_s=SOON_S)
        reload(house, request())
    done = threading.Event()
    house.shelf.is_polled = lambda: None
    house.core.look_soon(done.set)
    never.set()

    assert done.wait(60)
    assert house.shelf.polls == 2


def test_a_call_that_hangs_holds_up_no_other(house: CoreHouse):
    """TensorFlow Serving's holds a lock for as long as it hangs."""
    reloading = Reloading(house.core, Metrics(), wait_s=PATIENCE_S)

    async def both() -> tuple[object, bytes]:
        hanging = asyncio.ensure_future(
            cast("Awaitable[bytes]", reloading.reload(request(model("missing")), None))
        )
        polled = asyncio.Event()
        loop = asyncio.get_running_loop()
        house.shelf.is_polled = lambda: loop.call_soon_threadsafe(polled.set)
        await polled.wait()
        answer = await cast("Awaitable[bytes]", reloading.reload(request(model("m")), None))
        return (await asyncio.gather(hanging, return_exceptions=True))[0], answer

    with house.running():
        error, answer = asyncio.run(both())

    assert config_pb2.ReloadConfigResponse.FromString(answer).status.error_code == 0
    assert isinstance(error, Aborted)
    assert "missing: is no longer configured: test-2 leaves it out" in error.message


def test_so_many_calls_may_wait_and_no_more(house: CoreHouse):
    """What a client can pile up has an end."""
    reloading = Reloading(house.core, Metrics(), wait_s=PATIENCE_S)
    data = request(model("missing"))

    async def crowd() -> None:
        calls = [
            asyncio.ensure_future(cast("Awaitable[bytes]", reloading.reload(data, None)))
            for _ in range(MAX_CALLS)
        ]  # none of which has begun
        try:
            with pytest.raises(ResourceExhausted):
                reloading.reload(data, None)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        again = cast("asyncio.Future[bytes]", reloading.reload(data, None))
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)

    asyncio.run(crowd())


def test_labels_that_cannot_be_given_change_nothing(house: CoreHouse):
    """Neither labels nor models."""
    with house.running():
        reload(house, request(model("m")))
        reload(house, request(model("m", stable=1)))
        with pytest.raises(FailedPrecondition, match="version 7 of model m"):
            reload(house, request(model("m", stable=7), model("n")))

        assert house.core.names() == ["m"]
        with house.core.handle(ModelSpec("m", version_label="stable")) as handle:
            assert handle.id.version == 1


def test_a_label_means_the_new_version_when_the_call_returns():
    """Not a moment later."""
    house = CoreHouse(rules=LabelRules(follow_loads=True))
    house.add("m", 1)
    with house.running():
        reload(house, request(model("m", stable=1)))

        with house.core.handle(ModelSpec("m", version_label="stable")) as handle:
            assert handle.id.version == 1


def test_a_model_that_was_taken_out_and_comes_back_is_waited_for(house: CoreHouse):
    """That it ended before does not count."""
    with house.running():
        reload(house, request(model("m")))
        reload(house, request())
        reload(house, request(model("m")))

        house.core.handle(ModelSpec("m")).release()


def test_the_answer_tells_how_metrics_grew(house: CoreHouse):
    """By TensorFlow Serving's names; one that is not there, or is no number, has not grown."""
    metrics = Metrics()
    counted = "/tensorflow/serving/request_count"

    def count(state: ServableState) -> None:
        if state.manager_state is not ManagerState.AVAILABLE:  # the answer waits for no more
            metrics.request_count.increment("m", "OK")

    house.bus.subscribe(count)
    names = (counted, "/no/such/metric", "/tensorflow/serving/request_latency", counted)
    house.add("m", 1)
    with house.running():
        response = reload(house, request(model("m"), metrics=names), metrics=metrics)

    assert [(m.name, m.int64_value_increase) for m in response.metric] == [
        (counted, 2),
        ("/no/such/metric", 0),
        ("/tensorflow/serving/request_latency", 0),
    ]


def test_the_same_configuration_may_be_sent_again(house: CoreHouse):
    """It brings nothing new, so the call returns at once."""
    with house.running():
        for _ in range(2):
            response = reload(house, request(model("m")))

    assert response.status.error_code == 0
