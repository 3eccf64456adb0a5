"""Which names are versions, and which versions are wanted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.sources.version_policy import (
    All,
    Latest,
    Specific,
    VersionChild,
    choose,
    duplicates,
    parse_version,
    version_children,
)


@pytest.mark.parametrize(
    ("child", "version"),
    [
        ("1", 1),
        ("0", 0),
        ("00000123", 123),
        (" 7\t", 7),
        ("\v\f\r\n8", 8),
        ("+5", 5),
        ("-1", -1),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("0" * 5000 + "4", 4),
    ],
)
def test_whole_numbers_are_versions(child: str, version: int):
    """Zeros, a sign and white space around a number do not matter."""
    assert parse_version(child) == version


@pytest.mark.parametrize(
    "child",
    [
        "",
        " ",
        "+",
        "1.0",
        "0x10",
        "1_000",
        "tmp",
        "123_bak",
        "- 1",
        "--1",
        "1 2",
        "٣",  # a digit, but not an ASCII one
        "\u00a01",  # a space, but not an ASCII one
        "9223372036854775808",
        "-9223372036854775809",
        "9" * 5000,
    ],
)
def test_everything_else_is_not(child: str):
    """A name that is not wholly an int64 is no version."""
    assert parse_version(child) is None


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_int64_is_read_back(version: int):
    """Any 64-bit number, written plainly, is that version."""
    assert parse_version(str(version)) == version


@given(st.text(max_size=30))
def test_any_name_is_a_version_or_none(child: str):
    """No name makes the parser raise, and what it takes is within range."""
    version = parse_version(child)

    assert version is None or -(2**63) <= version < 2**63


def test_children_come_in_the_order_of_their_names():
    """Names are sorted as text and read as numbers; the rest is dropped."""
    assert version_children(["2", "tmp", "10", "1"]) == [
        VersionChild(1, "1"),
        VersionChild(10, "10"),
        VersionChild(2, "2"),
    ]


def test_listed_descendants_count_as_their_first_part():
    """A listing of whole paths gives each version once."""
    listing = ["1/saved_model.pb", "1/variables/variables.index", "2/saved_model.pb"]

    assert version_children(listing) == [VersionChild(1, "1"), VersionChild(2, "2")]


def test_latest_takes_the_highest_numbers():
    """Numbers count, not text."""
    found = version_children(["1", "9", "10", "2"])

    assert {c.version for c in choose(found, Latest())} == {10}
    assert {c.version for c in choose(found, Latest(3))} == {10, 9, 2}
    assert {c.version for c in choose(found, Latest(99))} == {10, 9, 2, 1}


def test_latest_zero_means_one():
    """An unset count is one version."""
    assert choose(version_children(["1", "2"]), Latest(0)) == [VersionChild(2, "2")]


def test_all_takes_everything():
    """Every version is wanted, both names of a duplicate included."""
    found = version_children(["1", "001", "2"])

    assert choose(found, All()) == [
        VersionChild(1, "001"),
        VersionChild(1, "1"),
        VersionChild(2, "2"),
    ]


def test_specific_takes_what_is_there():
    """Of the versions named, those found; a number may be written any way."""
    found = version_children(["003", "4", "5"])

    assert choose(found, Specific((3, 4, 9))) == [VersionChild(3, "003"), VersionChild(4, "4")]
    assert choose(found, Specific(())) == []


def test_last_name_of_a_duplicate_counts():
    """Of two names for one number the later in text order is taken, and the number is reported."""
    found = version_children(["1", "001", "2"])

    assert choose(found, Latest(2)) == [VersionChild(1, "1"), VersionChild(2, "2")]
    assert duplicates(found) == [1]


def test_nothing_found_is_nothing_chosen():
    """An empty directory has no latest version."""
    assert choose([], Latest()) == []
    assert duplicates([]) == []
