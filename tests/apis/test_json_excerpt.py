"""How values are quoted in errors."""

import pytest

from salver.apis.json_excerpt import excerpt, kind_of
from salver.apis.json_reader import parse


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (b"null", "null"),
        (b"true", "true"),
        (b"false", "false"),
        (b"12", "12"),
        (b"18446744073709551615", "18446744073709551615"),
        (b"1.0", "1.0"),
        (b"0.1", "0.1"),
        (b"1e6", "1e+06"),
        (b"0.333333333333", "0.333333343"),
        (b"1e300", "1e+300"),
        (b"1.23456789e300", f"{1.23456789e300:.17g}"),
        (b"1e39", "1e+39"),
        (b"NaN", "NaN"),
        (b"-Infinity", "-Infinity"),
        (b'"a\\"\\u0001\\u001f\\n/"', '"a\\"\\u0001\\u001F\\n/"'),
        (b"[]", "[]"),
        (b"{}", "{}"),
        (b"[1, [2, 3]]", "[1, [2, 3]]"),
        (b'{"a":1,"b":[1]}', '{\n    "a": 1,\n    "b": [1]\n}'),
        (b'{"a":{"b":{}}}', '{\n    "a": {\n        "b": {}\n    }\n}'),
        (b'[{"a":1},2]', '[{\n        "a": 1\n    }, 2]'),
        (b"[0.1, -0.0, 0.0, 1e20, 1e21]", "[0.1, -0.0, 0.0, 100000000000000000000.0, 1e21]"),
        (b"[1.25e22, 1.5e-7, 0.000001]", "[1.25e22, 1.5e-7, 0.000001]"),
        (b"[NaN, Inf, -Inf]", "[NaN, Infinity, -Infinity]"),
    ],
)
def test_prints_pretty(text, printed):
    """Arrays stand on one line, members on lines of their own."""
    assert excerpt(parse(text)) == printed


def test_is_cut_behind_the_token_that_is_too_much():
    """After 256 bytes the rest is left out, brackets and all."""
    printed = excerpt([12345] * 1000)

    assert printed.startswith("[12345, 12345")
    assert not printed.endswith("]")
    assert 256 <= len(printed) < 270


def test_depth_costs_nothing():
    """Only as much of a value is visited as is printed."""
    deep = parse(b"[" * 300_000 + b"]" * 300_000)

    assert excerpt(deep) == "[" * 256


def test_bytes_that_are_no_utf8_survive():
    """A string's raw bytes come as surrogate escapes, ready to leave as they were."""
    assert excerpt([b"\xff"]).encode("utf-8", "surrogateescape") == b'["\xff"]'


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"null", "Null"),
        (b"true", "True"),
        (b"false", "False"),
        (b"1", "Number"),
        (b"1.5", "Number"),
        (b'""', "String"),
        (b"[]", "Array"),
        (b"{}", "Object"),
    ],
)
def test_kinds_have_names(text, kind):
    """Each JSON type is named as in error texts."""
    assert kind_of(parse(text)) == kind


def test_endless_string_is_cut():
    """A string or name of the client's is quoted up to a bound, not as a whole."""
    endless = b"a" * 1_000_000

    assert len(excerpt(endless)) < 10_000
    assert len(excerpt(parse(b'{"' + endless + b'": 1}'))) < 10_000
