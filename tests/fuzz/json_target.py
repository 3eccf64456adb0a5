"""JSON text to values: what Python's reader takes is taken alike, the rest as RapidJSON takes it.

    make fuzz ARGS="--target json"

Ours stops behind the first value and keeps twins and odd octets, so it is compared with a reader
that was made to do the same: octets as Latin-1, members as pairs.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from fuzz.engine import Target, with_words
from salver.apis.json_excerpt import excerpt, kind_of
from salver.apis.json_reader import JsonObject, Value, parse
from salver.errors import InvalidArgument

FILES = ("apis/json_reader.py", "apis/json_excerpt.py")
SPACE = " \n\r\t"
MARK = b"\xef\xbb\xbf"
DEEPEST = 300
LONGEST_EXCERPT = 5000
"""Characters: what is quoted ends with the token that crosses its limit, and a token has one."""

WORDS = (
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b'""', b"[]", b"{}", b'"a":', b'{"a":1}', b" "),
    *(b"true", b"false", b"null", b"NaN", b"Inf", b"-Infinity", b"Infinity", b"\xef\xbb\xbf"),
    *(b"0", b"-0", b"-1", b"1.5", b"1e5", b"1E-5", b"1e309", b"-1e400", b"0.1e-400", b"01", b"1."),
    *(b".5", b"+1", b"9223372036854775808", b"18446744073709551616", b"-9223372036854775809"),
    *(b"1" * 320, b"\\n", b"\\u0041", b"\\ud83d\\ude00", b"\\ud83d", b"\\udc00", b"\\u00", b"\\x"),
    *(b"\\", b"\0", b"\x1f", b"\x7f", b"\xc3\xa4", b"\xff", b"[[[[[[[[", b"]]]]]]]]", b"\n", b"\t"),
    *(
        b"[1,2,3]",
        b"[1.5,2e3,-4]",
        b"[1,,2]",
        b"[1 2]",
        b"/*x*/",
        b"//x\n",
        b"'a'",
        b"tru",
        b"1" * 25,
    ),
)


def run(data: bytes) -> None:
    """Read an input and compare."""
    try:
        value = parse(data)
    except InvalidArgument as error:
        check_refusal(data, error)
        return
    check_excerpt(value)
    try:
        theirs, end = read_as_python(data)
    except (ValueError, RecursionError):
        if not is_only_ours(data):
            raise AssertionError(f"{value!r} is read of what is no JSON") from None
        return
    if not is_same(value, theirs):
        raise AssertionError(f"{value!r} is not {theirs!r}")
    if not is_same(parse(data[: end + marked(data)]), theirs):
        raise AssertionError("what stands behind the value matters")


def read_as_python(data: bytes) -> tuple[Any, int]:
    """The first value of a text, as Python's reader takes it, and where it ends."""
    text = data[marked(data) :].partition(b"\0")[0].decode("latin-1")
    start = len(text) - len(text.lstrip(SPACE))
    decoder = json.JSONDecoder(object_pairs_hook=Pairs)
    result: tuple[Any, int] = decoder.raw_decode(text, start)
    return result


def marked(data: bytes) -> int:
    """Octets of a byte order mark."""
    return len(MARK) if data.startswith(MARK) else 0


class Pairs(list[tuple[str, Any]]):
    """The members of an object."""


def is_only_ours(data: bytes) -> bool:
    """Whether a text holds what RapidJSON has and Python's reader lacks, or the other way round."""
    odd = (b"Inf", b"-NaN", b"\xef", b"\xbb", b"\xbf")
    return any(word in data for word in odd) or data.count(b"[") + data.count(b"{") > DEEPEST


def check_refusal(data: bytes, error: InvalidArgument) -> None:
    """What is refused is refused for a reason, which stands in the text."""
    offset = re.search(r"at offset: (\d+)$", error.message)
    if offset is not None and int(offset[1]) > len(data) + 1:
        raise AssertionError(f"{error.message}, in a text of {len(data)} bytes")
    try:
        theirs, end = read_as_python(data)
    except (ValueError, RecursionError):
        return
    if data[end + marked(data) :][:1] in (b".", b"e", b"E"):
        return  # Python's reader stops in front of half a number
    if "surrogate" not in error.message and "Number too big" not in error.message:
        raise AssertionError(f"{error.message}, of {theirs!r}")


def check_excerpt(value: Value) -> None:
    """Every value can be quoted, and shortly."""
    kind_of(value)
    if len(excerpt(value)) > LONGEST_EXCERPT:
        raise AssertionError("an excerpt is too long")


def is_same(ours: Any, theirs: Any) -> bool:
    """Whether two values are one, without recursion."""
    pairs = [(ours, theirs)]
    while pairs:
        mine, other = pairs.pop()
        if isinstance(other, Pairs):
            if not isinstance(mine, JsonObject) or len(mine) != len(other):
                return False
            for (my_key, my_member), (key, member) in zip(mine.members, other, strict=True):
                pairs += [(my_key, key), (my_member, member)]
        elif isinstance(other, list):
            if type(mine) is not list or len(mine) != len(other):
                return False
            pairs += zip(mine, other, strict=True)
        elif not is_same_scalar(mine, other):
            return False
    return True


def is_same_scalar(ours: Any, theirs: Any) -> bool:
    """Text is compared as octets: those that came as they are, and those that were escaped."""
    if isinstance(theirs, str):
        return isinstance(ours, bytes) and text_matches(ours, theirs)
    if isinstance(theirs, int) and not isinstance(theirs, bool):
        if -(2**63) <= theirs < 2**64 and type(ours) is int:
            return ours == theirs
        return type(ours) is float and (math.isinf(ours) or ours == float(theirs))
    if isinstance(theirs, float):
        return type(ours) is float and (ours == theirs or (math.isnan(ours) and math.isnan(theirs)))
    return ours is theirs


def text_matches(ours: bytes, theirs: str) -> bool:
    """A character below 256 may be an octet of the text or an escape."""
    if ours == theirs.encode("utf-8", "surrogatepass"):
        return True
    pattern = b"".join(
        re.escape(each.encode("utf-8", "surrogatepass"))
        if ord(each) > 0xFF or ord(each) < 0x80
        else b"(?:" + re.escape(each.encode("latin-1")) + b"|" + re.escape(each.encode()) + b")"
        for each in theirs
    )
    return re.fullmatch(pattern, ours, re.DOTALL) is not None


TARGET = Target(run, with_words(WORDS), FILES)
