"""What probes read over HTTP."""

from __future__ import annotations

import asyncio
import json

import pytest

from fakes import FakeModels, answer_of
from salver.model_server.readiness import Readiness
from salver.model_server.rest_health import HealthEndpoints
from salver.wire.http1_messages import HttpRequest, HttpResponse, error_page


class House:
    """The endpoints around a handler that answers 404."""

    def __init__(self, *names: str) -> None:
        self.models = FakeModels(*names)
        self.loop = asyncio.new_event_loop()
        self.readiness = Readiness(self.models, self.loop)
        self._endpoints = HealthEndpoints(self.readiness, self._not_found)

    def get(self, target: str, method: str = "GET") -> HttpResponse:
        return self.loop.run_until_complete(
            answer_of(self._endpoints.answer(HttpRequest(method, target)))
        )

    async def _not_found(self, request: HttpRequest) -> HttpResponse:
        return error_page(404)


@pytest.fixture
def house():
    made = House("quick", "slow")
    yield made
    made.loop.close()


def test_a_process_is_alive_whatever_its_models_do(house: House):
    """While they load, while they serve, while it drains."""
    statuses = [house.get("/healthz").status]
    house.readiness.started()
    statuses.append(house.get("/healthz").status)
    house.readiness.drain()
    statuses.append(house.get("/healthz").status)

    assert statuses == [200, 200, 200]


def test_a_server_that_loads_names_what_it_waits_for(house: House):
    """503, and the models that are neither ready nor failed."""
    house.models.available.add("quick")

    answer = house.get("/readyz")

    assert answer.status == 503
    assert json.loads(answer.body) == {"state": "starting", "waiting_for": ["slow"]}


def test_a_server_that_has_started_is_ready(house: House):
    """200, and it waits for nothing, also when a model failed."""
    house.models.available.add("quick")
    house.models.failed.add("slow")
    house.readiness.started()

    answer = house.get("/readyz")

    assert answer.status == 200
    assert json.loads(answer.body) == {"state": "serving", "waiting_for": []}


def test_a_server_that_drains_is_not_ready(house: House):
    """So whoever balances load sends its requests elsewhere."""
    house.readiness.started()
    house.readiness.drain()

    answer = house.get("/readyz")

    assert answer.status == 503
    assert json.loads(answer.body) == {"state": "draining", "waiting_for": []}


def test_an_answer_is_not_to_be_kept(house: House):
    """It is true for a moment only."""
    assert ("Cache-Control", "no-store") in house.get("/readyz").headers


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("HEAD", "/healthz", 200),
        ("GET", "/healthz?verbose=1", 200),
        ("GET", "/readyz?", 503),
        ("POST", "/healthz", 404),
        ("GET", "/healthz/", 404),
        ("GET", "/v1/models/m", 404),
    ],
)
def test_only_a_look_at_the_two_paths_is_answered_here(house: House, method, target, status):
    """A query is ignored; everything else goes to the handler inside."""
    assert house.get(target, method).status == status
