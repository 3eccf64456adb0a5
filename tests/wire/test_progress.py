"""Progress: who is worth waiting for."""

from __future__ import annotations

from salver.wire.progress import LEAST_BYTES_PER_S, Progress

WINDOW_S = 60.0
ENOUGH = int(WINDOW_S * LEAST_BYTES_PER_S)


def test_nothing_is_too_slow_before_the_window_ends():
    """A client may think first and send later."""
    assert not Progress(0.0, 0).is_too_slow(WINDOW_S - 1, 0, WINDOW_S)


def test_little_in_a_window_is_too_slow():
    """One octet less than it takes is too little."""
    assert Progress(0.0, 0).is_too_slow(WINDOW_S, ENOUGH - 1, WINDOW_S)


def test_every_window_is_judged_by_itself():
    """Much in the first window does not make up for nothing in the second."""
    progress = Progress(0.0, 0)

    first = progress.is_too_slow(WINDOW_S, 10 * ENOUGH, WINDOW_S)
    second = progress.is_too_slow(2 * WINDOW_S, 10 * ENOUGH, WINDOW_S)

    assert (first, second) == (False, True)


def test_window_that_was_looked_at_late_asks_for_more():
    """The average counts, over as long as it took."""
    assert Progress(0.0, 0).is_too_slow(2 * WINDOW_S, ENOUGH, WINDOW_S)
