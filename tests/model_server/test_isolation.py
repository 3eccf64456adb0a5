"""Which models are isolated, and what a status says of one that is being restarted."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from fakes import FakeLoader
from salver.core.event_bus import EventBus
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState
from salver.errors import InvalidArgument, ServingError, Unavailable
from salver.metrics import Metrics
from salver.model_server.isolation import EVERY_MODEL, IsolatedStateMonitor, Isolation
from salver.model_server.options import Options, check_what_to_serve
from salver.servables.isolated import IsolatedLoader
from salver.servables.isolated_process import WorkerProcess
from salver.servables.platform import PlatformContext

CONTEXT = PlatformContext("tensorflow")
WORKER = Path(__file__).parents[1] / "servables" / "isolated_worker_fake.py"


@pytest.mark.parametrize(
    ("names", "isolated"),
    [([], set()), (["a"], {"a"}), (["a", "b"], {"a", "b"}), ([EVERY_MODEL], {"a", "b", "c"})],
)
def test_the_models_that_are_named_are_isolated(names: list[str], isolated: set[str]):
    """And the others are loaded as ever."""
    make_loader = Isolation(names, metrics=Metrics()).around(
        lambda _id, path: FakeLoader(path), CONTEXT
    )

    loaders = {name: make_loader(ServableId(name, 1), "/m/1") for name in ("a", "b", "c")}

    found = {name for name, loader in loaders.items() if isinstance(loader, IsolatedLoader)}
    assert found == isolated


def test_memory_is_estimated_as_ever():
    """A version needs what it needs, in whichever process."""
    make_loader = Isolation([EVERY_MODEL], metrics=Metrics()).around(
        lambda _id, path: FakeLoader(path, needed_bytes=42), CONTEXT
    )

    assert make_loader(ServableId("m", 1), "/m/1").estimate_resources() == 42


def test_a_load_that_fails_is_counted(tmp_path: Path):
    """Under TensorFlow's name for it, with the path."""
    metrics = Metrics()
    isolation = Isolation([EVERY_MODEL], metrics=metrics, load_timeout_s=60)
    make_loader = isolation.around(lambda _id, path: FakeLoader(path), CONTEXT)
    loader = make_loader(ServableId("m", 1), str(tmp_path))

    with pytest.raises(ServingError, match="does not appear to contain a SavedModel"):
        loader.load()

    assert metrics.load_attempt_count.values() == {(str(tmp_path), "fail"): 1}
    assert isolation.trouble(ServableId("m", 1)) is None


def test_trouble_is_known_whatever_loaders_are_made_later(tmp_path: Path):
    """Each wish makes a loader for every version; the one that loaded counts."""
    here = tmp_path / "here"
    here.touch()
    command = (sys.executable, str(WORKER))
    isolation = Isolation(
        [EVERY_MODEL],
        metrics=Metrics(),
        load_timeout_s=60,
        make_process=partial(WorkerProcess, command=command),
    )
    make_loader = isolation.around(lambda _id, path: FakeLoader(path), CONTEXT)
    servable_id, path = ServableId("m", 1), f"while:{here}"
    loader = make_loader(servable_id, path)
    loader.load()
    servable = loader.servable()
    make_loader(servable_id, path)
    assert isolation.trouble(servable_id) is None

    here.unlink()
    os.kill(servable.pid, signal.SIGKILL)

    servable.wait_until(lambda: servable.trouble is not None, 60)
    trouble = isolation.trouble(servable_id)
    loader.unload()
    assert isinstance(trouble, Unavailable)
    assert "m/1 is down" in trouble.message


def test_a_version_in_trouble_is_shown_as_loading():
    """With the reason; all others, and it before and after, are shown as they are."""
    bus: EventBus[ServableState] = EventBus()
    troubles: dict[ServableId, ServingError] = {}
    monitor = IsolatedStateMonitor(bus, troubles.get)
    fine, ill = ServableId("m", 1), ServableId("m", 2)
    for servable_id in (fine, ill):
        bus.publish(ServableState(servable_id, ManagerState.AVAILABLE, None, 0.0))
    before = monitor.versions("m")

    troubles[ill] = Unavailable("it crashed")

    versions = monitor.versions("m")
    assert before[2].manager_state is ManagerState.AVAILABLE
    assert versions[1] == before[1]
    assert versions[2].manager_state is ManagerState.LOADING
    assert str(versions[2].error) == "UNAVAILABLE: it crashed"


def test_a_version_that_is_gone_has_no_trouble():
    """What the manager says of its end stands."""
    bus: EventBus[ServableState] = EventBus()
    monitor = IsolatedStateMonitor(bus, lambda _id: Unavailable("it crashed"))
    bus.publish(ServableState(ServableId("m", 1), ManagerState.END, None, 0.0))

    assert monitor.versions("m")[1].manager_state is ManagerState.END


@pytest.mark.parametrize(
    "wrong",
    [{"isolated_load_timeout_seconds": -1.0}, {"isolated_model_memory_bytes": -1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_numbers_that_make_no_sense_are_refused(wrong: dict):
    """At the start, with the name of the option."""
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        check_what_to_serve(Options(model_base_path="/m", **wrong))
