"""From a model spec to a handle, and the rules of version labels; no thread, no model."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fakes import FakeLoader
from salver.apis.requests import ModelSpec
from salver.core.event_bus import EventBus
from salver.core.manager import AspiredVersionsManager
from salver.core.retries import LoadRetries
from salver.core.servable_id import ServableId
from salver.core.state_monitor import ServableStateMonitor
from salver.errors import (
    Code,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unknown,
)
from salver.model_server.model_config import ModelConfig
from salver.model_server.server_core import LabelRules, Looks, ServerCore, Watching
from salver.sources.version_policy import All


def test_looks_go_on_whatever_is_called_after_them():
    """One that breaks ends neither the thread nor the others; the same one is called once."""
    calls: list[str] = []
    at_work, go, done = threading.Event(), threading.Event(), threading.Event()

    def look() -> None:
        calls.append("look")
        at_work.set()
        go.wait(60)

    def broken() -> None:
        calls.append("broken")
        raise RuntimeError("a bug")

    looks = Looks(look)
    looks.soon(broken)
    at_work.wait(60)
    for _ in range(1000):
        looks.soon(broken)
    looks.soon(done.set)
    go.set()

    assert done.wait(60)
    assert calls == ["look", "broken", "look", "broken"]


class Core(ServerCore):
    """A server core over folders of a test, driven by hand."""

    def __init__(self, root: Path, *, allow_new: bool = False, failing: str = "") -> None:
        bus = EventBus()
        self.root = root
        self.manager = AspiredVersionsManager(bus, retries=LoadRetries(max_retries=0))
        super().__init__(
            self.manager,
            ServableStateMonitor(bus),
            self._loader,
            watching=Watching(poll_wait_s=-1),  # the test polls
            label_rules=LabelRules(allow_new_for_unavailable=allow_new),
        )
        self._failing = failing

    def _loader(self, _id: ServableId, path: str) -> FakeLoader:
        fails = bool(self._failing) and self._failing in path
        errors = [ResourceExhausted("no room")] * 100 if fails else []
        return FakeLoader(path, load_errors=errors)

    def add(self, name: str, *versions: int) -> None:
        for version in versions:
            (self.root / name / str(version)).mkdir(parents=True)

    def serve(self, name: str, **labels: int) -> None:
        config = ModelConfig(name, str(self.root / name), All(), version_labels=labels)
        self.configure([config])
        self.settle()

    def settle(self) -> None:
        self.look_for_versions()
        while self.manager.step():
            pass


@pytest.fixture
def core(tmp_path: Path) -> Core:
    made = Core(tmp_path)
    made.add("m", 1, 2)
    return made


def test_no_version_means_the_highest_loaded(core: Core):
    """The latest is what a spec without a version means."""
    core.serve("m")

    with core.handle(ModelSpec("m")) as handle:
        assert handle.id.version == 2


def test_a_version_means_itself(core: Core):
    """Any loaded version can be asked for."""
    core.serve("m")

    with core.handle(ModelSpec("m", version=1)) as handle:
        assert handle.id.version == 1


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        (ModelSpec(""), InvalidArgument, "ModelSpec has no name specified."),
        (ModelSpec("x"), NotFound, "Servable not found for request: Latest(x)"),
        (ModelSpec("m", 3), NotFound, "Servable not found for request: Specific(m, 3)"),
        (
            ModelSpec("m", version_label="x"),
            InvalidArgument,
            "Unrecognized servable version label: x",
        ),
    ],
)
def test_a_spec_that_means_nothing_is_refused(core: Core, spec, error, text):
    """Each with TensorFlow Serving's code and text."""
    core.serve("m")

    with pytest.raises(error) as raised:
        core.handle(spec)
    assert raised.value.message == text


def test_labels_asked_for_before_any_configuration_are_unavailable(core: Core):
    """They may come yet."""
    with pytest.raises(Unavailable, match=r"Model labels does not init yet\.stable"):
        core.handle(ModelSpec("m", version_label="stable"))


def test_a_label_is_a_version(core: Core):
    """Given to a loaded version, it can be asked for."""
    core.serve("m")
    core.serve("m", stable=1)

    with core.handle(ModelSpec("m", version_label="stable")) as handle:
        assert handle.id.version == 1


def test_several_labels_may_share_a_version_and_are_replaced_whole(core: Core):
    """A label left out of the next configuration is gone at once."""
    core.serve("m")
    core.serve("m", stable=1, canary=1)
    core.serve("m", canary=2)

    with core.handle(ModelSpec("m", version_label="canary")) as handle:
        assert handle.id.version == 2
    with pytest.raises(InvalidArgument):
        core.handle(ModelSpec("m", version_label="stable"))


def test_a_label_for_a_version_that_is_not_loaded_is_refused_and_the_old_ones_stay(core: Core):
    """So labels of the first configuration are always refused."""
    core.serve("m")
    core.serve("m", stable=1)

    with pytest.raises(FailedPrecondition) as raised:
        core.serve("m", stable=7)
    assert raised.value.message == (
        "Request to assign label to version 7 of model m, "
        "which is not currently available for inference"
    )
    with core.handle(ModelSpec("m", version_label="stable")) as handle:
        assert handle.id.version == 1


def test_with_the_flag_a_new_label_may_be_early(tmp_path: Path):
    """``allow_version_labels_for_unavailable_models`` accepts it; it means NOT_FOUND until then."""
    core = Core(tmp_path, allow_new=True)
    core.add("m", 1)
    core.serve("m", stable=1, next=2)

    with core.handle(ModelSpec("m", version_label="stable")) as handle:
        assert handle.id.version == 1
    with pytest.raises(NotFound, match=r"Specific\(m, 2\)"):
        core.handle(ModelSpec("m", version_label="next"))


def test_with_the_flag_a_known_label_may_stay_but_not_move_to_a_missing_version(tmp_path: Path):
    """Moving traffic to nothing is never meant."""
    core = Core(tmp_path, allow_new=True)
    core.add("m", 1)
    core.serve("m", next=2)
    core.serve("m", next=2)

    with pytest.raises(FailedPrecondition, match="version 3 of model m"):
        core.serve("m", next=3)


def test_statuses_list_every_version_highest_first(core: Core):
    """Loaded ones are AVAILABLE, with OK."""
    core.serve("m")

    statuses = [(s.version, s.state, s.error_code) for s in core.version_statuses("m", None)]
    assert statuses == [(2, "AVAILABLE", Code.OK), (1, "AVAILABLE", Code.OK)]


def test_a_failed_version_ends_with_its_cause_beside_the_good_one(tmp_path: Path):
    """And the server may go on or give up: the text says which failed and why."""
    core = Core(tmp_path, failing="/bad/")
    core.add("good", 1)
    core.add("bad", 4)
    core.configure(
        [ModelConfig("good", str(tmp_path / "good")), ModelConfig("bad", str(tmp_path / "bad"))]
    )
    core.settle()

    (status,) = core.version_statuses("bad", 4)
    with core.handle(ModelSpec("good")) as handle:
        assert handle.id.version == 1
    assert (status.state, status.error_code) == ("END", Code.RESOURCE_EXHAUSTED)
    assert status.error_message == "no room"
    with pytest.raises(Unknown) as raised:
        core.check_loaded()
    assert raised.value.message == (
        "1 servable(s) did not become available: "
        "{{name: bad version: 4} due to error: RESOURCE_EXHAUSTED: no room}, }"
    )


def test_statuses_of_the_unknown_are_not_found(core: Core):
    """A model, or a version of one, that nobody ever heard of."""
    core.serve("m")

    with pytest.raises(NotFound, match="Could not find any versions of model x"):
        core.version_statuses("x", None)
    with pytest.raises(NotFound, match="Could not find version 9 of model m"):
        core.version_statuses("m", 9)


def test_a_spec_that_means_nothing_is_predictable(core: Core):
    """It fails at once, so it needs no thread."""
    assert core.is_predictable(ModelSpec("nope"))


def test_the_core_tells_what_it_waits_for(core: Core):
    """Its models by name, ready or not; a model without any version keeps a start waiting."""
    (core.root / "empty").mkdir()
    before = (list(core.names()), core.waiting_for())
    core.configure(
        [ModelConfig(name, str(core.root / name), All()) for name in ("m", "empty")],
    )
    loading = (list(core.names()), core.waiting_for(), core.is_available("m"))
    core.settle()

    assert before == ([], [])
    assert loading == (["m", "empty"], ["m", "empty"], False)
    assert core.waiting_for() == ["empty"]
    assert core.is_available("m")
    assert not core.is_available("empty")


def test_a_model_that_failed_is_neither_available_nor_waited_for(tmp_path: Path):
    """Nothing more is to come of it."""
    core = Core(tmp_path, failing="m")
    core.add("m", 1)
    core.serve("m")

    assert core.waiting_for() == []
    assert not core.is_available("m")
