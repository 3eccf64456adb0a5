"""What a server and a worker tell each other, apart from tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.servable_id import ServableId
from salver.errors import Code, DataLoss, NotFound, ServingError
from salver.servables.isolated_messages import (
    MAX_ERROR_BYTES,
    Recipe,
    read_error,
    read_names,
    read_run,
    read_signature_defs,
    write_error,
    write_names,
    write_run,
    write_signature_defs,
)
from salver.servables.platform import PlatformContext

names = st.lists(st.text(max_size=20), max_size=5)


@given(names, names)
def test_names_arrive_as_they_left(feeds: list[str], fetches: list[str]):
    """Whatever a graph calls its tensors."""
    assert read_names(write_names(feeds, fetches)) == (feeds, fetches)


@pytest.mark.parametrize("timeout_s", [None, 0.0, 1.5, 1e9])
def test_a_timeout_goes_along_with_the_names(timeout_s: float | None):
    """None, which is no bound, included."""
    assert read_run(write_run(timeout_s, b"names")) == (timeout_s, b"names")


def test_an_error_keeps_its_code_and_its_bytes():
    """A text that is no UTF-8 comes back as the runtime gave it."""
    error = read_error(write_error(NotFound("no \udcff here")))

    assert (error.code, error.message) == (Code.NOT_FOUND, "no \udcff here")


def test_a_long_error_is_cut():
    """A text has a bound."""
    error = read_error(write_error(ServingError("x" * 1_000_000)))

    assert len(error.message) == MAX_ERROR_BYTES


def test_a_recipe_and_signatures_arrive_as_they_left():
    """Tags as text, definitions as the bytes they are."""
    context = PlatformContext("tensorflow", tags=("a", "b"), session_config=b"\x10\x02")
    recipe = Recipe("/m/1", "/", context, servable_id=ServableId("m", 1))
    signatures = {"serving_default": b"\x00\xff", "": b""}

    assert Recipe.read(recipe.serialized()) == recipe
    assert read_signature_defs(write_signature_defs(signatures)) == signatures


@pytest.mark.parametrize("read", [read_names, read_run, read_signature_defs, read_error])
@given(text=st.binary(max_size=60))
def test_any_bytes_are_read_or_lost_data(read: Callable[[bytes], object], text: bytes):
    """What cannot be read is a DataLoss and nothing else."""
    with suppress(DataLoss):
        read(text)
