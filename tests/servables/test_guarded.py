"""Platforms that others wrote: whatever they raise or return is heard of in one line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from installed_platforms import install
from salver.core.servable_id import ServableId
from salver.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    ServingError,
)
from salver.servables.guarded import MAX_WORDS, GuardedPlatform, load_version
from salver.servables.platform import PlatformContext
from salver.servables.python import Call, PythonServable, Tensor

ID = ServableId("m", 1)


class Loads:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def loaded(self, path: str, took_s: float) -> None:
        self.told.append(f"loaded {path}")

    def load_failed(self, path: str) -> None:
        self.told.append(f"failed {path}")


class Wild:
    """A servable that does as it is told; it is well-behaved until then."""

    def __init__(self) -> None:
        model = PythonServable(Echo(), "m")
        self.signatures = model.signatures
        self.signature_defs: Mapping[str, bytes] = model.signature_defs
        self.predictable = True
        self.does: Callable[[], object] = lambda: [np.zeros(1)]

    def run(self, feeds, fetches, *, timeout_s=None):
        return self.does()

    def prepare(self, feeds, fetches):
        return lambda *_tensors_and_timeout: self.does()


class Echo:
    signatures: ClassVar = {
        "serving_default": Call({"x": Tensor("float32")}, {"y": Tensor("float32")}),
    }

    def predict(self, inputs):
        return {"y": inputs["x"]}


class WildLoader:
    """A loader whose every method does as it is told."""

    def __init__(self, servable: Wild, /, **does: Callable[[], object]) -> None:
        self._servable = servable
        self._does = does
        self.calls: list[str] = []

    def estimate_resources(self) -> int:
        return self._do("estimate", 7)

    def load(self) -> None:
        self._do("load", None)

    def unload(self) -> None:
        self._do("unload", None)

    def cancel(self) -> None:
        self._do("cancel", None)

    def servable(self) -> Wild:
        return self._do("servable", self._servable)

    def _do(self, what: str, usual):
        self.calls.append(what)
        return self._does[what]() if what in self._does else usual


def live_through(loader) -> None:
    loader.estimate_resources()
    loader.load()
    loader.servable()
    loader.unload()


def raising(error: BaseException) -> Callable[[], object]:
    def do() -> object:
        raise error

    return do


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Make a guarded loader, from a platform that is installed, around one of ours."""
    site = install(
        tmp_path / "site",
        "wild",
        {"wild": "wild_platform:platform"},
        wild_platform="made = None\ndef platform(context): return lambda _id, path: made(path)",
    )
    monkeypatch.syspath_prepend(str(site))

    def make(loader: WildLoader, observer: Loads | None = None):
        import wild_platform

        wild_platform.made = lambda _path: loader
        return GuardedPlatform(PlatformContext("wild"), observer).make_loader(ID, "/m/1")

    return make


def test_a_version_lives_through_its_guard(guarded):
    """Estimated, loaded, asked, cancelled and unloaded, each once; and counted."""
    inner, loads = WildLoader(Wild()), Loads()
    loader = guarded(inner, loads)

    estimate = loader.estimate_resources()
    loader.load()
    answer = loader.servable().run({}, ["y:0"])
    loader.cancel()
    loader.unload()

    assert (estimate, answer) == (7, [np.zeros(1)])
    assert inner.calls == ["estimate", "load", "servable", "cancel", "unload"]
    assert loads.told == ["loaded /m/1"]


def test_nothing_is_imported_before_a_loader_has_work(tmp_path, monkeypatch):
    """Making a loader is free, whatever the platform's import does; and it is tried anew."""
    code = (
        "import pathlib\nif not pathlib.Path(__file__).with_name('ok').exists(): raise OSError(5)"
    )
    site = install(tmp_path / "site", "slow", {"slow": "slow_platform:p"}, slow_platform=code)
    monkeypatch.syspath_prepend(str(site))
    loads = Loads()
    loader = GuardedPlatform(PlatformContext("slow"), loads).make_loader(ID, "/m/1")

    with pytest.raises(FailedPrecondition, match=r"slow_platform:p\) cannot be imported: OSError"):
        loader.load()
    (site / "ok").touch()
    with pytest.raises(FailedPrecondition, match="has no attribute 'p'"):
        loader.load()

    assert loads.told == ["failed /m/1", "failed /m/1"]


@pytest.mark.parametrize("what", ["estimate", "load", "servable", "unload"])
@pytest.mark.parametrize("error", [ValueError("so\n and so"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_a_loader_raises_is_an_error_of_its_version(guarded, what, error):
    """One line: what was to be done, what was raised, and where."""
    loader = guarded(WildLoader(Wild(), **{what: raising(error)}))

    with pytest.raises(Internal) as raised:
        live_through(loader)

    verb = "load" if what == "servable" else what
    line = raised.value.message
    assert line.startswith(f"platform wild could not {verb} {ID}: {type(error).__name__}")
    assert " ".join(str(error).split()) in line
    assert "(test_guarded.py:" in line
    assert "\n" not in line


def test_a_serving_error_passes_as_it_is(guarded):
    """Who raises one has chosen its code and text."""
    loader = guarded(WildLoader(Wild(), load=raising(InvalidArgument("no such version"))))

    with pytest.raises(InvalidArgument, match=r"INVALID_ARGUMENT: no such version$"):
        loader.load()


def test_a_load_that_failed_begins_with_a_loader_of_its_own(guarded):
    """What the first left half done is not gone on with."""
    made = []

    def make(path):
        made.append(path)
        return WildLoader(Wild(), load=raising(OSError("busy")))

    loader = guarded(WildLoader(Wild()))
    import wild_platform

    wild_platform.made = make
    for _ in range(2):
        with pytest.raises(Internal, match="OSError: busy"):
            loader.load()

    assert made == ["/m/1", "/m/1"]


@pytest.mark.parametrize("estimate", [-1, "many", None, 1.5])
def test_an_estimate_is_a_number_of_bytes(guarded, estimate):
    """A budget cannot do with anything else."""
    loader = guarded(WildLoader(Wild(), estimate=lambda: estimate))

    with pytest.raises(FailedPrecondition, match="an estimate is a number of bytes"):
        loader.estimate_resources()


def other_names(servable: Wild) -> None:
    servable.signature_defs = {"other": b""}


def no_definition(servable: Wild) -> None:
    servable.signature_defs = {"serving_default": b"\xff"}


def other_inputs(servable: Wild) -> None:
    servable.signature_defs = {"serving_default": b""}


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (other_names, r"signatures for \['serving_default'\] and signature_defs for \['other'\]"),
        (no_definition, "is no serialized tensorflow.SignatureDef"),
        (other_inputs, "has other inputs than its signature_def"),
    ],
)
def test_what_a_version_says_of_itself_is_checked_at_its_load(guarded, spoil, complaint):
    """Clients would be told nonsense."""
    servable = Wild()
    spoil(servable)
    loader = guarded(WildLoader(servable))
    loader.load()

    with pytest.raises(FailedPrecondition, match=complaint):
        loader.servable()


@pytest.fixture
def wild(guarded):
    """A servable and the guard around it."""
    servable = Wild()
    loader = guarded(WildLoader(servable))
    loader.load()
    return servable, loader.servable()


def test_a_guarded_servable_says_of_itself_what_the_other_says(wild):
    """Signatures, definitions, and whether its time can be told."""
    servable, guarded_one = wild

    assert guarded_one.signatures == servable.signatures
    assert guarded_one.signature_defs == servable.signature_defs
    assert guarded_one.predictable


@pytest.mark.parametrize("way", ["run", "prepare"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyError("x"), Internal),
        (StopIteration(), Internal),
        (SystemExit(0), Internal),
        (MemoryError(), ResourceExhausted),
        (InvalidArgument("mine"), InvalidArgument),
    ],
)
def test_whatever_a_run_raises_is_an_answer(wild, way, error, kind):
    """Neither a thread nor the event loop ends with it."""
    servable, guarded_one = wild
    servable.does = raising(error)

    with pytest.raises(kind) as raised:
        ask(guarded_one, way)

    if not isinstance(error, ServingError):
        assert raised.value.message.startswith(f"model {ID} failed: {type(error).__name__}")


def ask(servable, way: str):
    if way == "run":
        return servable.run({}, ["y:0"])
    return servable.prepare([], ["y:0"])([], None)


@pytest.mark.parametrize("way", ["run", "prepare"])
@pytest.mark.parametrize("answer", [None, [], [1], (np.zeros(1),), [np.zeros(1)] * 2])
def test_a_run_returns_as_many_arrays_as_were_fetched(wild, way, answer):
    """Anything else would come to grief where nobody expects it."""
    servable, guarded_one = wild
    servable.does = lambda: answer

    with pytest.raises(Internal, match="did not return a list of 1 arrays"):
        ask(guarded_one, way)


def test_a_preparation_that_fails_is_an_answer_too(wild):
    """Also before anything ran."""
    servable, guarded_one = wild
    servable.prepare = lambda *_names: raising(KeyError("y"))()

    with pytest.raises(Internal, match="KeyError"):
        guarded_one.prepare([], ["y:0"])


def test_each_place_has_its_traceback_in_the_log_once(wild, caplog):
    """A model that fails at every request does not fill the disk."""
    servable, guarded_one = wild
    servable.does = raising(ValueError("again"))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(Internal):
                ask(guarded_one, "run")

    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_a_long_text_is_cut(wild):
    """An exception may quote its whole input."""
    servable, guarded_one = wild
    servable.does = raising(ValueError("x" * 10_000))

    with pytest.raises(Internal) as raised:
        ask(guarded_one, "run")

    assert len(raised.value.message) < MAX_WORDS + 200


def test_a_platform_must_make_something_to_call(tmp_path, monkeypatch):
    """A function that forgets to return is told so."""
    code = "def platform(context): pass"
    site = install(
        tmp_path / "site", "mute", {"mute": "mute_platform:platform"}, mute_platform=code
    )
    monkeypatch.syspath_prepend(str(site))

    with pytest.raises(FailedPrecondition, match="platform mute made a NoneType"):
        load_version(PlatformContext("mute"), ID, "/m/1")


def test_a_version_can_be_loaded_for_good(tmp_path, monkeypatch):
    """As the process of an isolated model does."""
    code = """
    from salver.servables.python import Call, PythonPlatform, Tensor

    class Echo:
        signatures = {"serving_default": Call({"x": Tensor("int64")}, {"y": Tensor("int64")})}
        def __init__(self, path): self.path = path
        def predict(self, inputs): return {"y": inputs["x"]}

    platform = PythonPlatform(Echo)
    """
    site = install(
        tmp_path / "site", "echo", {"echo": "echo_platform:platform"}, echo_platform=code
    )
    monkeypatch.syspath_prepend(str(site))

    servable = load_version(PlatformContext("echo"), ID, "/m/1")

    answer = servable.run({"x:0": np.array([3])}, ["serving_default/y:0"])
    assert [array.tolist() for array in answer] == [[3]]
