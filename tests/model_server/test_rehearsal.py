"""A loader around a loader: what a rehearsal can do to a load, and what it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes import FakeClock, FakeModelLoader, half_plus
from salver.core.loader import Cancellable
from salver.core.servable_id import ServableId
from salver.errors import Cancelled, DeadlineExceeded, InvalidArgument
from salver.model_server.rehearsal import Candidate, Pace, RehearsingLoader

ID = ServableId("m", 3)


def rehearsing(loader: FakeModelLoader, *rehearsals, **arguments) -> RehearsingLoader:
    return RehearsingLoader(loader, ID, Path("/models/m/3"), rehearsals, **arguments)


def test_rehearsals_are_asked_in_order_of_what_was_loaded():
    """Each is told which version it has before it."""
    model = half_plus(2)
    seen = []
    loader = rehearsing(
        FakeModelLoader(model),
        lambda candidate, _pace: seen.append(("one", candidate)),
        lambda candidate, _pace: seen.append(("two", candidate)),
    )

    loader.load()

    candidate = Candidate(ID, Path("/models/m/3"), model)
    assert seen == [("one", candidate), ("two", candidate)]
    assert loader.servable() is model
    assert loader.estimate_resources() == 7


def test_a_rehearsal_that_fails_leaves_nothing_behind():
    """The load fails with its error, what was loaded is unloaded, and another load may succeed."""
    inner = FakeModelLoader(half_plus(2))
    errors = [InvalidArgument("not so")]

    def rehearse(_candidate: Candidate, _pace: Pace) -> None:
        if errors:
            raise errors.pop()

    loader = rehearsing(inner, rehearse)

    with pytest.raises(InvalidArgument, match="not so"):
        loader.load()
    assert inner.calls == ["load", "unload"]
    loader.load()
    assert inner.calls == ["load", "unload", "load"]


def test_a_cancelled_load_stops_before_its_next_request():
    """What was loaded is unloaded."""
    inner = FakeModelLoader(half_plus(2))
    asked = []

    def rehearse(_candidate: Candidate, pace: Pace) -> None:
        for request in range(3):
            pace.left_s()
            asked.append(request)
            loader.cancel()

    loader = rehearsing(inner, rehearse)

    with pytest.raises(Cancelled, match="Loading of servable cancelled"):
        loader.load()
    assert asked == [0]
    assert inner.calls == ["load", "unload"]


def test_a_load_after_a_cancelled_one_counts():
    """A version that is wished for again is not cancelled any more."""
    loader = rehearsing(FakeModelLoader(half_plus(2)), lambda _candidate, pace: pace.left_s())
    loader.cancel()

    loader.load()

    assert isinstance(loader, Cancellable)
    assert not isinstance(FakeModelLoader(), Cancellable)


def test_a_pace_without_a_limit_never_ends():
    """No limit is no number of seconds."""
    clock = FakeClock()
    pace = Pace(clock=clock)
    clock.advance(1e9)

    assert pace.left_s() is None
    assert not pace.cut_short(DeadlineExceeded("the model's own"))


def test_a_pace_ends_when_its_time_is_up():
    """The seconds left grow fewer; when there are none, a request that runs is cut short."""
    clock = FakeClock()
    pace = Pace(timeout_s=10, clock=clock)
    clock.advance(4)

    assert pace.left_s() == 6
    assert not pace.cut_short(DeadlineExceeded("the model's own"))
    clock.advance(6)
    with pytest.raises(DeadlineExceeded, match="10 s of warmup_timeout_seconds") as raised:
        pace.left_s()
    assert pace.cut_short(raised.value)
    assert not pace.cut_short(InvalidArgument("not for want of time"))


def test_an_extra_asset_is_there_or_not(tmp_path: Path):
    """A file in ``assets.extra`` is found; one that is not, or has a file for a folder, is None."""
    candidate = Candidate(ID, tmp_path, half_plus(2))
    assert candidate.extra_asset("a") is None
    (tmp_path / "assets.extra").write_bytes(b"")
    assert candidate.extra_asset("a") is None
    (tmp_path / "assets.extra").unlink()
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "a").write_bytes(b"")

    assert candidate.extra_asset("a") == tmp_path / "assets.extra" / "a"
