"""How many rows run at once: learned, never a constant."""

from __future__ import annotations

from salver.batching.sizes import (
    CLOSE_LOOKS,
    FORGETS_AFTER,
    HERE_BELOW_S,
    MAX_ROWS,
    SLOW_ABOVE_S,
    SLOW_LOOKS,
    TRIES,
    BatchSizes,
)

QUICK_S, SLOW_S = HERE_BELOW_S / 4, SLOW_ABOVE_S * 2


def climb(sizes: BatchSizes, *row_s: float) -> None:
    """Batches of 1, 2, 4 … rows, each row of which took so long, as often as counts."""
    for power, each_s in enumerate(row_s):
        rows = 1 << power
        for _ in range(TRIES):
            sizes.took_there(rows, rows * each_s, rows * each_s)


def test_nothing_runs_on_the_loop_before_it_was_measured():
    """The first batch may be anything."""
    assert BatchSizes().here_rows == 0


def test_a_batch_that_was_quick_on_a_thread_fits_the_loop():
    """What it cost counts there, not what it took: a thread waits for the interpreter."""
    sizes = BatchSizes()
    sizes.took_there(8, took_s=SLOW_S, cost_s=QUICK_S)

    assert sizes.here_rows == 8


def test_a_batch_that_cost_much_on_a_thread_does_not_fit_the_loop():
    """It would keep everybody waiting."""
    sizes = BatchSizes()
    sizes.took_there(8, took_s=SLOW_S, cost_s=SLOW_S)

    assert sizes.here_rows == 0


def test_quick_batches_on_the_loop_may_grow():
    """A crowd that doubles need not go to a thread first."""
    sizes = BatchSizes()
    sizes.took_here(8, QUICK_S)

    assert sizes.here_rows == 16


def test_what_fits_the_loop_has_an_end():
    """However quick the rows are."""
    sizes = BatchSizes()
    sizes.took_here(MAX_ROWS, QUICK_S)

    assert sizes.here_rows == MAX_ROWS


def test_a_batch_that_took_long_is_a_reason_to_look_closely():
    """The machine may have done something else meanwhile: nothing is lost yet."""
    sizes = BatchSizes()
    sizes.took_here(8, QUICK_S)
    sizes.took_here(16, SLOW_S)

    assert (sizes.here_rows, sizes.close_looks_left) == (16, CLOSE_LOOKS)


def test_close_looks_come_to_an_end():
    """They cost a little themselves."""
    sizes = BatchSizes()
    sizes.took_here(8, SLOW_S)
    for _ in range(CLOSE_LOOKS):
        sizes.cost_here(8, QUICK_S)

    assert sizes.close_looks_left == 0


def test_batches_that_cost_much_make_room_for_half_of_them():
    """Twice is no accident."""
    sizes = BatchSizes()
    sizes.took_here(16, QUICK_S)
    sizes.took_here(16, SLOW_S)
    for _ in range(SLOW_LOOKS):
        sizes.cost_here(16, SLOW_S)

    assert (sizes.here_rows, sizes.close_looks_left) == (8, 0)


def test_a_row_that_costs_much_leaves_the_loop():
    """Half of one row is none."""
    sizes = BatchSizes()
    sizes.took_here(1, QUICK_S)
    sizes.took_here(1, SLOW_S)
    for _ in range(SLOW_LOOKS):
        sizes.cost_here(1, SLOW_S)

    assert sizes.here_rows == 0


def test_sizes_are_climbed_for_as_long_as_a_row_gets_cheaper():
    """Each that paid lets the next be tried."""
    sizes = BatchSizes()
    climb(sizes, 4.0, 2.0, 1.0)

    assert sizes.there_rows() == 15


def test_a_size_that_does_not_pay_is_not_taken():
    """A model whose rows cost the same in a batch would only make the first of them wait."""
    sizes = BatchSizes()
    climb(sizes, 4.0, 2.0, 1.9)

    assert sizes.there_rows() == 3


def test_one_size_that_is_not_known_yet_is_tried():
    """Nothing can be said of what was never run."""
    sizes = BatchSizes()
    climb(sizes, 1.0)

    assert sizes.there_rows() == 3


def test_sizes_begin_with_the_smallest_that_was_asked():
    """Clients may send three rows at a time and never one."""
    sizes = BatchSizes()
    sizes.took_there(3, 1.0, 1.0)

    assert sizes.there_rows() == 7


def test_a_size_that_did_not_pay_is_tried_again_in_time():
    """It may have been the machine's fault."""
    sizes = BatchSizes()
    climb(sizes, 1.0, 1.0)
    for _ in range(FORGETS_AFTER - 2 * TRIES):
        sizes.took_there(1, 1.0, 1.0)

    assert sizes.there_rows() == 3


def test_one_interrupted_try_decides_nothing():
    """A size is judged by two at least."""
    sizes = BatchSizes()
    climb(sizes, 1.0)
    sizes.took_there(2, 1000.0, 1000.0)

    assert sizes.there_rows() == 3


def test_a_batch_has_an_end():
    """Even where each size pays."""
    sizes = BatchSizes()
    climb(sizes, *(0.5**power for power in range(MAX_ROWS.bit_length())))

    assert sizes.there_rows() == MAX_ROWS


def test_a_batch_without_rows_is_no_fault():
    """Somebody may ask for nothing."""
    sizes = BatchSizes()
    sizes.took_there(0, QUICK_S, QUICK_S)

    assert sizes.here_rows == 1
