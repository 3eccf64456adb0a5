"""What the gRPC door remembers of calls keeps no version in memory that has ended."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fakes import FakeModel, half_plus
from salver.apis.requests import ModelSpec
from salver.core.servable_id import ServableId
from salver.core.serving_map import ServableHandle, ServingMap
from salver.metrics import Metrics
from salver.model_server.grpc_services import GrpcServices
from salver.model_server.placement import Placement
from salver.protos.serving_pb2 import PredictRequest
from salver.servables.servable import Servable
from salver.tensors import encode_tensor

MODEL = "half_plus_two"


class MapCore:
    """As much of a core as Predict needs, over a real serving map."""

    def __init__(self) -> None:
        self.map: ServingMap[Servable] = ServingMap()

    def handle(self, spec: ModelSpec) -> ServableHandle[Servable]:
        if spec.version is None:
            return self.map.latest(spec.name)
        return self.map.specific(spec.name, spec.version)

    def is_predictable(self, _spec: ModelSpec) -> bool:
        return True


class Door:
    """The gRPC methods on models that come and go."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.core = MapCore()
        self.services = GrpcServices(self.core, Metrics(), Placement(pool))

    def load(self, version: int, offset: float) -> FakeModel:
        model = half_plus(offset)
        self.core.map.insert(ServableId(MODEL, version), model)
        return model

    def unload(self, version: int) -> None:
        self.core.map.remove(ServableId(MODEL, version), lambda: None)

    def ask(self, version: int | None = None) -> bytes:
        message = PredictRequest()
        message.model_spec.name = MODEL
        if version is not None:
            message.model_spec.version.value = version
        encode_tensor(message.inputs["x"], np.float32([1, 2]))
        data = message.SerializeToString()
        return asyncio.run(self._answered(data))

    async def _answered(self, data: bytes) -> bytes:
        answer = self.services.predict(data, None)
        return answer if isinstance(answer, bytes) else await answer


@pytest.fixture
def door() -> Iterator[Door]:
    with ThreadPoolExecutor(1) as pool:
        yield Door(pool)


def test_nothing_holds_on_to_a_version_that_has_ended(door: Door):
    """Whoever does not ask again keeps no version in memory; who does is answered as before."""
    gone = weakref.ref(door.load(1, 2.0))
    for _ in range(3):
        door.ask(1)
    door.load(2, 3.0)
    before = [door.ask() for _ in range(3)]
    door.unload(1)

    door.services.forget(ServableId(MODEL, 1))
    gc.collect()

    assert gone() is None
    assert door.ask() == before[-1]
