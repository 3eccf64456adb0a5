"""SavedModels in processes of their own answer as they do in this one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from salver.errors import DeadlineExceeded, InvalidArgument, NotFound, ServingError, Unavailable
from salver.servables.isolated import IsolatedServable
from salver.servables.isolated_messages import Recipe
from salver.servables.isolated_process import Limits, WorkerProcess
from salver.servables.platform import PlatformContext
from salver.servables.tensorflow import SessionConfig, TensorFlowRuntime
from saved_models import DTYPES, Shelf, signature_answer

Load = Callable[[str], IsolatedServable]

TENSORFLOW = PlatformContext("tensorflow")


class Silent:
    """An observer that keeps what it is told to itself."""

    def started(self, took_s: float) -> None:
        pass

    def start_failed(self) -> None:
        pass

    def died(self, how: str) -> None:
        pass


@pytest.fixture(scope="module")
def load(shelf: Shelf) -> Iterator[Load]:
    """Load a model of the shelf, once for the module."""
    loaded: dict[str, IsolatedServable] = {}
    context = PlatformContext("tensorflow", session_config=SessionConfig(1, 1).serialized())

    def load_one(name: str) -> IsolatedServable:
        if name not in loaded:
            here = Recipe(str(shelf.version(name)), str(Path.cwd()), context)
            servable = IsolatedServable(
                name, lambda: WorkerProcess(name, here, limits=Limits()), Silent()
            )
            servable.start()
            loaded[name] = servable
        return loaded[name]

    yield load_one
    for servable in loaded.values():
        servable.close()


def ask(servable: IsolatedServable, signature_name: str, **inputs: np.ndarray):
    signature = servable.signatures[signature_name]
    feeds = {signature.inputs[alias].name: value for alias, value in inputs.items()}
    fetches = [info.name for info in signature.outputs.values()]
    return dict(zip(signature.outputs, servable.run(feeds, fetches), strict=True))


def test_it_answers_as_tensorflow_does(load: Load, shelf: Shelf):
    """The same values and the same signatures, byte for byte."""
    inputs = {"x": np.array([1, 2, 5], np.float32)}
    servable = load("half_plus_two")

    answer = ask(servable, "serving_default", **inputs)

    theirs = signature_answer(shelf.version("half_plus_two"), inputs)
    assert {alias: each.tolist() for alias, each in answer.items()} == {
        alias: each.tolist() for alias, each in theirs.items()
    }
    here = TensorFlowRuntime().load(shelf.version("half_plus_two"))
    assert servable.signature_defs == here.signature_defs
    here.close()


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_goes_there_and_back(load: Load, name: str):
    """Through the process, the graph and back, strings that are no text included."""
    (answer,) = ask(load("all_dtypes"), name, x=DTYPES[name]).values()

    assert answer.dtype == DTYPES[name].dtype
    assert answer.tolist() == DTYPES[name].tolist()


def test_errors_are_tensorflows_own(load: Load, shelf: Shelf):
    """Code and text are what the same run raises in this process."""
    servable = load("half_plus_two")
    here = TensorFlowRuntime().load(shelf.version("half_plus_two"))
    name = servable.signatures["serving_default"].inputs["x"].name
    fetch = servable.signatures["serving_default"].outputs["y"].name
    wrong = {name: np.array([b"text"], object)}

    with pytest.raises(InvalidArgument) as theirs:
        here.run(wrong, [fetch])
    with pytest.raises(InvalidArgument) as ours:
        servable.run(wrong, [fetch])
    with pytest.raises(NotFound, match="nowhere:0: not found"):
        servable.run({}, ["nowhere:0"])

    assert ours.value.message == theirs.value.message
    here.close()


def test_a_load_fails_in_tensorflows_words(shelf: Shelf):
    """What is wrong with a model is said as if it had been loaded here."""
    path = shelf.version("corrupt_graph")
    with pytest.raises(ServingError) as here:
        TensorFlowRuntime().load(path)

    with pytest.raises(ServingError) as there:
        IsolatedServable(
            "m/1",
            lambda: WorkerProcess("m/1", Recipe(str(path), "/", TENSORFLOW), limits=Limits()),
            Silent(),
        ).start()

    assert (there.value.code, there.value.message) == (here.value.code, here.value.message)


def test_a_crash_in_the_middle_of_a_run_is_told_to_its_caller(
    load: Load, shelf: Shelf, tmp_path: Path
):
    """The graph waits at a named pipe; its process is shot; the next one answers."""
    servable = load("turnstile")
    signature = servable.signatures["serving_default"]
    entry, leave = tmp_path / "entry", tmp_path / "leave"
    for pipe in (entry, leave):
        os.mkfifo(pipe)
    inputs = turnstile_inputs(signature.inputs, entry, leave)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(servable.run, inputs, [info.name for info in signature.outputs.values()])
        entry.read_bytes()
        shot = servable.pid
        assert shot is not None
        os.kill(shot, signal.SIGSEGV)
        error = run.exception(60)

    assert isinstance(error, Unavailable)
    assert "turnstile was killed by signal 11 (SIGSEGV)" in error.message
    assert servable.wait_until(lambda: servable.trouble is None and servable.pid != shot, 60)


def turnstile_inputs(inputs, entry: Path, leave: Path) -> dict[str, np.ndarray]:
    values = {"arrived": entry, "leave": leave}
    return {
        info.name: np.array(str(values[alias]).encode(), object) for alias, info in inputs.items()
    }


def test_a_run_may_not_outlast_its_deadline(load: Load, shelf: Shelf, tmp_path: Path):
    """A graph that waits for good costs its caller no more than the deadline."""
    servable = load("turnstile")
    signature = servable.signatures["serving_default"]
    for name in ("entry", "leave"):
        os.mkfifo(tmp_path / name)
    inputs = turnstile_inputs(signature.inputs, tmp_path / "entry", tmp_path / "leave")
    fetches = [info.name for info in signature.outputs.values()]

    with pytest.raises(DeadlineExceeded):
        servable.run(inputs, fetches, timeout_s=0.01)


def test_memory_has_a_bound_where_one_is_set(shelf: Shelf):
    """A model beyond it ends in an error or in the death of its process, never in another's."""
    path = str(shelf.version("half_plus_two"))
    recipe = Recipe(path, "/", TENSORFLOW, memory_limit_bytes=1 << 20)

    with pytest.raises(ServingError):
        IsolatedServable(
            "m/1", lambda: WorkerProcess("m/1", recipe, limits=Limits()), Silent()
        ).start()

    assert sys.exc_info() == (None, None, None)
