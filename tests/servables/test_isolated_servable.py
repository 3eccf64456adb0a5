"""A version in a process of its own: its runs, its crashes, its restarts and its end.

The processes are real, what runs in them is not: see ``isolated_worker_fake``.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver.core.retries import Backoff
from salver.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from salver.servables.isolated import (
    TRANSITIONS,
    IsolatedLoader,
    IsolatedServable,
    Phase,
)
from salver.servables.isolated_messages import Recipe
from salver.servables.isolated_process import Limits, WorkerProcess
from salver.servables.platform import PlatformContext

CONTEXT = PlatformContext("tensorflow")
WORKER = (sys.executable, str(Path(__file__).with_name("isolated_worker_fake.py")))
PATIENCE_S = 60.0
SOON = Backoff(first_s=0.001, longest_s=0.01)
NEVER = Backoff(first_s=10_000, longest_s=10_000)


class Notes:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def started(self, took_s: float) -> None:
        self.events.append("started")

    def start_failed(self) -> None:
        self.events.append("start failed")

    def died(self, how: str) -> None:
        self.events.append(how)


Start = Callable[..., IsolatedServable]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def start(make: Start) -> Start:
    """Start a servable of the fake worker; it is closed after the test."""

    def start_one(does: str = "good", **how: Any) -> IsolatedServable:
        servable = make(does, **how)
        servable.start()
        return servable

    return start_one


@pytest.fixture
def make(notes: Notes) -> Iterator[Start]:
    """Make a servable of the fake worker; if it is started, it is closed after the test."""
    started: list[IsolatedServable] = []

    def make_one(
        does: str = "good", *, backoff: Backoff = SOON, memory: int = 0, **limits: float
    ) -> IsolatedServable:
        recipe = Recipe(does, str(Path.cwd()), CONTEXT, memory_limit_bytes=memory)
        bounds = Limits(**{"load_timeout_s": PATIENCE_S, **limits})  # type: ignore[arg-type]
        servable = IsolatedServable(
            "m/1",
            lambda: WorkerProcess("m/1", recipe, limits=bounds, command=WORKER),
            notes,
            backoff=backoff,
        )
        started.append(servable)
        return servable

    yield make_one
    for servable in started:
        if servable.signatures and servable.phase is not Phase.CLOSED:
            servable.close()


def run(servable: IsolatedServable, *fetches: str, timeout_s: float | None = None):
    return servable.run({"x": np.ones(3, np.float32)}, fetches, timeout_s=timeout_s)


def pid_of(servable: IsolatedServable) -> int:
    return int(run(servable, "pid")[0])


def reaches(servable: IsolatedServable, phase: Phase) -> bool:
    return servable.wait_until(lambda: servable.phase is phase, PATIENCE_S)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


# --- runs -----------------------------------------------------------------------------------------


def test_it_runs_in_another_process(start: Start):
    """Signatures come over once; tensors go there and back with every run."""
    servable = start()

    echoed = servable.run({"x": np.arange(3), "y": np.ones((300, 300))}, ["echo"])

    assert list(servable.signatures) == ["serving_default"]
    assert servable.signatures["serving_default"].inputs["x"].name == "x:0"
    assert [each.tolist() for each in echoed] == [[0, 1, 2], np.ones((300, 300)).tolist()]
    assert pid_of(servable) == servable.pid != os.getpid()
    assert not servable.predictable


def test_names_are_prepared_once(start: Start):
    """What ``prepare`` gives is called with tensors alone."""
    prepared = start().prepare(["a", "b"], ["echo"])

    first, second = prepared([np.array(1), np.array(2)], None)

    assert (int(first), int(second)) == (1, 2)


def test_more_sets_of_names_than_are_kept_are_still_run(start: Start):
    """The worker's memory of names has a bound; runs have none."""
    servable = start()

    answers = [run(servable, *["pid"] * count) for count in range(1, 300)]

    assert [len(answer) for answer in answers] == list(range(1, 300))


def test_what_a_run_raises_comes_over(start: Start):
    """A serving error with code and text, anything else as INTERNAL; the process lives on."""
    servable = start()

    with pytest.raises(NotFound, match=r"^NOT_FOUND: no such tensor$"):
        run(servable, "error:no such tensor")
    with pytest.raises(Internal, match="RuntimeError: something else"):
        run(servable, "raise")
    assert servable.phase is Phase.SERVING


def test_a_timeout_goes_along(start: Start):
    """The runtime keeps time as well; without a bound it is told that there is none."""
    servable = start()

    (bounded,) = run(servable, "timeout", timeout_s=7.0)
    (unbounded,) = run(servable, "timeout")

    assert 0 < bounded <= 7.0
    assert unbounded == -1.0


def test_many_threads_run_at_once(start: Start):
    """Each run gets its own answer, more of them than there are channels included."""
    servable = start(channels=4)

    def echo(number: int) -> bool:
        tensor = np.full(20_000, number, np.float32)
        (echoed,) = servable.run({"x": tensor}, ["echo"])
        return bool((echoed == tensor).all())

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(echo, range(200)))


def test_a_run_that_finds_no_channel_ends_at_its_deadline(start: Start, pipe: Path):
    """Hanging runs fill their own channels, and the next says why it could not start."""
    servable = start(channels=1)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(run, servable, f"turnstile:{pipe}")
        pipe.read_text()

        with pytest.raises(DeadlineExceeded, match="under way all the time"):
            run(servable, "echo", timeout_s=0.01)
        servable.close()
        assert isinstance(hanging.exception(PATIENCE_S), Unavailable)


# --- crashes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_fails_the_runs_in_flight_and_nothing_else(
    start: Start, pipe: Path, notes: Notes, number: signal.Signals
):
    """Each is told which model, which signal; then another process serves."""
    servable, other = start(), start()
    with ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(run, servable, f"turnstile:{pipe}")
        pipe.read_text()
        shot = pid_of(servable)
        os.kill(shot, number)
        error = in_flight.exception(PATIENCE_S)

    assert isinstance(error, Unavailable)
    assert f"model m/1 was killed by signal {int(number)} ({number.name})" in error.message
    assert run(other, "echo")[0].tolist() == [1, 1, 1]
    assert _serves_anew(servable, {shot})
    assert run(servable, "echo")[0].tolist() == [1, 1, 1]
    assert notes.events[:2] == ["started", "started"]
    assert number.name in notes.events[2]


def test_a_run_that_ends_the_process_is_told_the_exit_code(start: Start):
    """An exit is as much a death as a signal is."""
    with pytest.raises(Unavailable, match="ended with exit code 7"):
        run(start(), "exit:7")


def test_last_words_are_logged(start: Start, caplog: pytest.LogCaptureFixture):
    """What the process wrote before it died is in the log, with the reason."""
    servable = start(backoff=NEVER)

    with pytest.raises(Unavailable):
        run(servable, f"die:{int(signal.SIGSEGV)}")
    reaches(servable, Phase.WAITING)
    servable.close()

    (record,) = [each for each in caplog.records if "SIGSEGV" in each.getMessage()]
    assert "model m/1 was killed by signal 11" in record.getMessage()
    assert "these are my last words" in record.getMessage()


def test_while_it_is_down_calls_are_refused_at_once(start: Start):
    """With the reason and the time to try again."""
    servable = start(backoff=NEVER)
    os.kill(servable.pid, signal.SIGKILL)
    assert reaches(servable, Phase.WAITING)

    with pytest.raises(Unavailable) as caught:
        run(servable, "echo")

    assert "m/1 is down: its process was killed by signal 9 (SIGKILL)" in caught.value.message
    assert "try again then" in caught.value.message
    assert isinstance(servable.trouble, Unavailable)


def test_one_that_is_killed_again_and_again_comes_back_each_time(start: Start, notes: Notes):
    """As often as it has to."""
    servable = start()
    pids = {servable.pid}
    for _ in range(4):
        os.kill(servable.pid, signal.SIGKILL)
        assert _serves_anew(servable, pids)
        pids.add(servable.pid)

    assert len(pids) == 5
    assert servable.trouble is None


def _serves_anew(servable: IsolatedServable, known: set[int]) -> bool:
    """Whether, in time, a process that is not ``known`` serves."""
    return servable.wait_until(
        lambda: servable.phase is Phase.SERVING and servable.pid not in known, PATIENCE_S
    )


def test_one_that_cannot_load_any_more_is_tried_until_it_can(
    start: Start, tmp_path: Path, notes: Notes
):
    """Its files vanish while it is down, and come back: so does the model."""
    files = tmp_path / "model"
    files.touch()
    servable = start(f"while:{files}")
    files.unlink()
    os.kill(servable.pid, signal.SIGKILL)
    assert servable.wait_until(lambda: "could not load it" in str(servable.trouble), PATIENCE_S)

    files.touch()

    assert reaches(servable, Phase.SERVING)
    assert "start failed" in notes.events
    assert notes.events[-1] == "started"


def test_one_whose_files_are_another_models_by_now_stays_down(start: Start, tmp_path: Path):
    """Who was told its signatures must not be answered by other ones."""
    files = tmp_path / "model"
    files.write_text("x:0", encoding="ascii")
    servable = start(f"named:{files}")
    files.write_text("y:0", encoding="ascii")
    assert servable.pid is not None
    os.kill(servable.pid, signal.SIGKILL)

    assert servable.wait_until(lambda: "other signatures" in str(servable.trouble), PATIENCE_S)
    files.write_text("x:0", encoding="ascii")
    assert reaches(servable, Phase.SERVING)


def test_waits_grow_and_are_spread():
    """Twice as long after each death, up to a bound, and never all at the same time."""
    backoff = Backoff(first_s=0.1, longest_s=30)

    waits = [backoff.wait_s(deaths, 1.0) for deaths in (1, 2, 3, 10, 10_000)]

    assert waits == pytest.approx([0.1, 0.2, 0.4, 30, 30])
    assert backoff.wait_s(1, 0.0) == pytest.approx(0.05)


def test_every_phase_but_the_last_can_be_closed():
    """And from the last one nothing leads on."""
    closable = {phase for phase, moves in TRANSITIONS.items() if Phase.CLOSED in moves.values()}

    assert closable == set(Phase) - {Phase.CLOSED}
    assert TRANSITIONS[Phase.CLOSED] == {}


# --- hangs ----------------------------------------------------------------------------------------


def test_a_run_that_hangs_fails_at_its_deadline_and_the_process_is_replaced(
    start: Start, notes: Notes
):
    """Its caller is free at the deadline; a while later the process is killed."""
    servable = start(hang_grace_s=0.01)
    hung = servable.pid

    with pytest.raises(DeadlineExceeded, match=r"model m/1 did not answer within 0\.01 s"):
        run(servable, "hang", timeout_s=0.01)

    assert _serves_anew(servable, {hung})
    assert is_gone(hung)
    assert "a run did not end 0.01 s after its deadline" in notes.events[1]


def test_a_load_that_hangs_is_killed(start: Start, notes: Notes):
    """The bound of a load ends it, and its process with it."""
    before = open_files()

    with pytest.raises(DeadlineExceeded, match=r"took longer than 0\.5 s; the process was killed"):
        start("hang", load_timeout_s=0.5)

    assert notes.events == ["start failed"]
    assert open_files() == before


# --- loads ----------------------------------------------------------------------------------------


def test_a_load_that_fails_says_what_the_runtime_said(start: Start):
    """Code and text are the runtime's own; no process and no descriptor is left."""
    before = open_files()

    with pytest.raises(NotFound, match=r"^NOT_FOUND: nothing there$"):
        start("error:nothing there")

    assert open_files() == before
    assert children() == []


@pytest.mark.parametrize(
    ("does", "how"),
    [
        ("exit:3", "ended with exit code 3 while it loaded"),
        (
            f"die:{int(signal.SIGSEGV)}",
            "was killed by signal 11 .SIGSEGV. while it loaded; its last words: these are my last",
        ),
    ],
)
def test_a_process_that_dies_in_its_load_is_an_error_of_the_load(start: Start, does: str, how: str):
    """The manager tries again as it does with every failed load."""
    with pytest.raises(Unavailable, match=how):
        start(does)


def test_a_worker_that_cannot_even_start_is_an_error_of_the_load(notes: Notes):
    """Its last words are in the text, for they tell why."""
    command = (sys.executable, "-c", "raise SystemExit('no such module')")

    with pytest.raises(Unavailable, match=r"exit code 1 .*no such module"):
        IsolatedServable(
            "m/1",
            lambda: WorkerProcess(
                "m/1", Recipe("", "/", CONTEXT), limits=Limits(), command=command
            ),
            notes,
        ).start()


def test_without_descriptors_a_load_says_so_and_can_be_repeated(start: Start):
    """Descriptors used up cost this load, and nothing stays behind."""
    before = open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 2, hard))
    try:
        with pytest.raises(ResourceExhausted, match="no process could be started for model m/1"):
            start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert open_files() == before
    assert run(start(), "echo")[0].tolist() == [1, 1, 1]


def test_without_descriptors_runs_go_on(start: Start):
    """A channel that is there needs no more, even for a large tensor."""
    servable = start()
    run(servable, "echo")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        (small,) = run(servable, "echo")
        with pytest.raises(ResourceExhausted, match="file descriptors"):
            servable.run({"x": np.ones(1 << 20)}, ["echo"])  # its answer's memory finds no place
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    (large,) = servable.run({"x": np.ones(1 << 20)}, ["echo"])
    assert small.tolist() == [1, 1, 1]
    assert large.sum() == 1 << 20


def test_memory_has_a_bound_where_one_is_set(start: Start):
    """Too much is refused in the process of the model, and nobody else's memory is touched."""
    servable = start(memory=512 << 20)

    with pytest.raises(ResourceExhausted, match="no memory left"):
        run(servable, "take:600")
    assert int(run(servable, "take:10")[0]) == 10 << 20


# --- the end --------------------------------------------------------------------------------------


def test_an_unload_ends_the_process_and_gives_everything_back(make: Start):
    """No process, no zombie, no descriptor and no thread is left, whatever was run."""
    threads, files = threading.active_count(), open_files()
    loader = IsolatedLoader("m/1", lambda: 42, make)
    loader.load()
    servable = loader.servable()
    servable.run({"x": np.ones(1 << 20)}, ["echo"])

    loader.unload()

    assert is_gone(servable.pid)
    assert children() == []
    assert open_files() == files
    assert threading.active_count() == threads
    assert loader.estimate_resources() == 42
    with pytest.raises(NotFound):
        loader.servable()
    with pytest.raises(Unavailable, match="unloaded"):
        run(servable, "echo")


def test_a_load_that_nobody_wishes_for_any_more_ends_early(make: Start, pipe: Path):
    """Its process is killed in the middle; the next load counts."""
    doings = iter([f"turnstile:{pipe}", "good"])
    loader = IsolatedLoader("m/1", lambda: 42, lambda: make(next(doings)))
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(loader.load)
        pipe.read_text()

        loader.cancel()
        error = load.exception(PATIENCE_S)

    assert isinstance(error, Cancelled)
    assert children() == []
    loader.load()
    assert run(loader.servable(), "echo")[0].tolist() == [1, 1, 1]
    loader.cancel()
    assert run(loader.servable(), "echo")[0].tolist() == [1, 1, 1]
    assert loader.servable().trouble is None


def test_one_that_is_cancelled_before_its_start_starts_nothing(make: Start):
    """A wish that came back too early costs no process."""
    servable = make()
    servable.cancel()

    with pytest.raises(Cancelled):
        servable.start()

    assert servable.pid is None


def test_one_that_is_down_can_be_unloaded(start: Start):
    """Nobody waits for a restart that is not wished for any more."""
    servable = start(backoff=NEVER)
    os.kill(servable.pid, signal.SIGKILL)
    assert reaches(servable, Phase.WAITING)

    servable.close()

    assert servable.phase is Phase.CLOSED
    assert children() == []


def test_one_that_is_being_restarted_can_be_unloaded(start: Start, pipe: Path, tmp_path: Path):
    """A process in the middle of its load is killed."""
    marker = tmp_path / "first"
    marker.touch()
    servable = start(f"first:{marker}:{pipe}")
    marker.unlink()
    os.kill(servable.pid, signal.SIGKILL)
    pipe.read_text()
    assert servable.phase is Phase.STARTING

    servable.close()

    assert children() == []


def test_one_that_does_not_end_when_asked_is_killed(start: Start):
    """A stopped process hears nothing; the unload has a bound all the same."""
    servable = start(end_grace_s=0.01)
    os.kill(servable.pid, signal.SIGSTOP)

    servable.close()

    assert is_gone(servable.pid)


def test_what_the_process_started_ends_with_it(start: Start, pipe: Path):
    """Its whole group is killed, so that nothing of a model outlives it."""
    servable = start()
    with ThreadPoolExecutor(1) as pool:
        until_all_writers_are_gone = pool.submit(pipe.read_text)
        run(servable, f"orphan:{pipe}")

        servable.close()

        assert until_all_writers_are_gone.result(PATIENCE_S) == ""


def test_the_process_ends_when_its_server_is_killed(pipe: Path):
    """Even in the middle of a run, and although nobody could ask it to."""
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from test_isolated_servable import *
servable = IsolatedServable(
    "m/1",
    lambda: WorkerProcess("m/1", Recipe("good", "/", CONTEXT), limits=Limits(), command=WORKER),
    Notes(),
)
servable.start()
run(servable, "hold:{pipe}")
"""
    with subprocess.Popen([sys.executable, "-c", code]) as server, pipe.open() as held_by_worker:
        pid = int(held_by_worker.readline())
        server.kill()

        assert held_by_worker.read() == ""
        assert pid != server.pid


def children() -> list[str]:
    """The processes this one started that are not reaped."""
    found: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            found += (task / "children").read_text().split()
    return found
