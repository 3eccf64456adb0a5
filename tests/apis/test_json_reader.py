"""The exact JSON reader: what it accepts, what it keeps apart, and where it complains."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from salver.apis.json_reader import JsonObject, Value, parse
from salver.errors import InvalidArgument


def plain(value: Value) -> object:
    """The value with objects as dicts and strings as str, to compare with other parsers."""
    if isinstance(value, JsonObject):
        return {key.decode(): plain(member) for key, member in value.members}
    if isinstance(value, list):
        return [plain(element) for element in value]
    return value.decode() if isinstance(value, bytes) else value


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.sampled_from([None, 1]), st.booleans())
def test_reads_what_json_writes(value, indent, ascii_only):
    """Any document that the standard library writes is read back to the same value and types."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )

    assert repr(plain_or_bytes(parse(text))) == repr(plain_or_bytes(json.loads(text)))


def plain_or_bytes(value: object) -> object:
    """Strings as bytes on both sides: a lone surrogate has no str of its own."""
    if isinstance(value, JsonObject):
        return {key: plain_or_bytes(member) for key, member in value.members}
    if isinstance(value, dict):
        return {plain_or_bytes(key): plain_or_bytes(member) for key, member in value.items()}
    if isinstance(value, list):
        return [plain_or_bytes(element) for element in value]
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": [1, 2.5, -3e2]} trailing', {"a": [1, 2.5, -300.0]}),
        (b"\xef\xbb\xbf{}", {}),
        (b"\xbb{}", {}),
        (b" \t\r\n[1]\0[", [1]),
        (b"[Inf, -Inf, Infinity, -Infinity]", [math.inf, -math.inf, math.inf, -math.inf]),
        (b"[18446744073709551615, -9223372036854775808]", [2**64 - 1, -(2**63)]),
        (b"[18446744073709551616, -9223372036854775809]", [2.0**64, -(2.0**63)]),
        (b"[10e308, -1.5e309]", [math.inf, -math.inf]),
        (b"[0e400, 1e-400, 1e-99999999999]", [0.0, 0.0, 0.0]),
        (b'"\\u0041\\n\\/\\ud83d\\ude00"', "A\n/\U0001f600"),
        (b"7", 7),
        (b"null", None),
    ],
)
def test_tolerates(text, value):
    """Marks, trailing data, infinities and numbers beyond 64 bits are accepted."""
    assert plain(parse(text)) == value


def test_integers_stay_integers():
    """The kind of a number is the kind of its literal."""
    assert [type(number) for number in parse(b"[1, 1.0, 1e0, -0, true]")] == [
        int,
        float,
        float,
        int,
        bool,
    ]


def test_nan_takes_a_minus():
    """NaN is a number, with or without a sign."""
    assert all(math.isnan(number) for number in parse(b"[NaN, -NaN]"))


def test_strings_are_kept_byte_for_byte():
    """A string that is no UTF-8 comes through as its bytes, a lone low surrogate as three."""
    assert parse(b'["\xff\xfe", "\\udc00", "\x7f"]') == [b"\xff\xfe", b"\xed\xb0\x80", b"\x7f"]


def test_twin_keys_are_kept_and_the_first_is_found():
    """An object holds every member in order; a look-up answers with the first."""
    value = parse(b'{"a": 1, "b": 2, "a": 3}')

    assert isinstance(value, JsonObject)
    assert value.members == [(b"a", 1), (b"b", 2), (b"a", 3)]
    assert (value[b"a"], len(value), b"c" in value) == (1, 3, False)


def test_missing_key_is_a_key_error():
    """A look-up of an absent key fails as in a dict."""
    value = parse(b"{}")

    with pytest.raises(KeyError):
        value[b"a"]


def test_depth_is_not_limited():
    """Half a million nested arrays are read without recursion."""
    depth = 500_000
    value = parse(b"[" * depth + b"]" * depth)

    for _ in range(depth - 1):
        (value,) = value
    assert value == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b" ", "The document is empty. at offset: 1"),
        (b"\xef\xbb\xbf", "The document is empty. at offset: 3"),
        (b"}", "The document is empty. at offset: 0"),
        (b"\0{}", "The document is empty. at offset: 0"),
        (b"hello", "Invalid value. at offset: 0"),
        (b'{"a":', "Invalid value. at offset: 5"),
        (b'{"a":}', "Invalid value. at offset: 5"),
        (b"{", "Missing a name for object member. at offset: 1"),
        (b"{a:1}", "Missing a name for object member. at offset: 1"),
        (b'{"a":1,}', "Missing a name for object member. at offset: 7"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a":1', "Missing a comma or } after an object member. at offset: 6"),
        (b'{"a":1 "b":2}', "Missing a comma or } after an object member. at offset: 7"),
        (b'{"a":[1,2}', "Missing a comma or ] after an array element. at offset: 9"),
        (b"[1 2]", "Missing a comma or ] after an array element. at offset: 3"),
        (b"[01]", "Missing a comma or ] after an array element. at offset: 2"),
        (b"[1.5.5]", "Missing a comma or ] after an array element. at offset: 4"),
        (b"[1,]", "Invalid value. at offset: 3"),
        (b"[,1]", "Invalid value. at offset: 1"),
        (b"[1,2", "Missing a comma or ] after an array element. at offset: 4"),
        (b"[1,", "Invalid value. at offset: 3"),
        (b"[-]", "Invalid value. at offset: 2"),
        (b"[+1]", "Invalid value. at offset: 1"),
        (b"[.5]", "Invalid value. at offset: 1"),
        (b"[tru]", "Invalid value. at offset: 4"),
        (b"[nul", "Invalid value. at offset: 4"),
        (b"[Nan]", "Invalid value. at offset: 3"),
        (b"[Infinite]", "Invalid value. at offset: 8"),
        (b"[1.]", "Miss fraction part in number. at offset: 3"),
        (b"[1.e5]", "Miss fraction part in number. at offset: 3"),
        (b"[1e]", "Miss exponent in number. at offset: 3"),
        (b"[1.5e+]", "Miss exponent in number. at offset: 6"),
        (b"[2, 1e400]", "Number too big to be stored in double. at offset: 4"),
        (b"[1e309]", "Number too big to be stored in double. at offset: 1"),
        (b"[" + b"9" * 400 + b"]", "Number too big to be stored in double. at offset: 1"),
        (b"[-1e99999999999999999999]", "Number too big to be stored in double. at offset: 1"),
        (b'["abc', "Missing a closing quotation mark in string. at offset: 5"),
        (b'["a\0b"]', "Missing a closing quotation mark in string. at offset: 3"),
        (b'["a\nb"]', "Invalid escape character in string. at offset: 3"),
        (b'["a\\xb"]', "Invalid escape character in string. at offset: 3"),
        (b'["a\\', "Invalid escape character in string. at offset: 3"),
        (b'["\\u12g4"]', "Incorrect hex digit after \\u escape in string. at offset: 2"),
        (b'["\\ud800"]', "The surrogate pair in string is invalid. at offset: 2"),
        (b'["\\ud800\\u0041"]', "The surrogate pair in string is invalid. at offset: 2"),
        (b'["\\ud800\\uzzzz"]', "Incorrect hex digit after \\u escape in string. at offset: 2"),
    ],
)
def test_complains_where_the_trouble_is_noticed(text, complaint):
    """A syntax error names its reason and the byte where the parser noticed it."""
    with pytest.raises(InvalidArgument) as caught:
        parse(text)

    assert caught.value.message == f"JSON Parse error: {complaint}"


def test_empty_text_has_a_text_of_its_own():
    """Nothing at all is reported without an offset."""
    with pytest.raises(InvalidArgument) as caught:
        parse(b"")

    assert caught.value.message == "JSON Parse error: The document is empty"


@given(st.binary(max_size=40) | st.text('[]{},:"\\ \n0123456789.eE+-truefalsnNIiy', max_size=40))
@example(b"[1e5, NaN")
def test_any_bytes_are_read_or_refused(text):
    """Whatever the bytes, the reader answers with a value or with InvalidArgument."""
    raw = text if isinstance(text, bytes) else text.encode()
    try:
        parse(raw)
    except InvalidArgument as error:
        refused = error.message
    else:
        refused = "JSON Parse error"

    assert refused.startswith("JSON Parse error")


@pytest.mark.parametrize("separator", [b",", b" , ", b",\n"])
def test_a_long_list_of_numbers_is_read_whole(separator: bytes):
    """Read in pieces, it is the same list."""
    numbers = [i * 0.5 for i in range(400_000)]

    document = parse(b"[[" + separator.join(b"%r" % n for n in numbers) + b"]]")

    assert document == [numbers]


@pytest.mark.parametrize("end", [b",]", b", ]", b",,1]", b",1 2]"])
def test_a_long_list_that_ends_badly_is_refused(end: bytes):
    """A piece without a number is no piece of a list."""
    with pytest.raises(InvalidArgument, match="JSON Parse error"):
        parse(b"[[" + b",".join([b"123456"] * 300_000) + end)
