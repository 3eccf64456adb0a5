"""JSON text to values, exactly as TensorFlow Serving's parser reads it.

The quick readers of this package take what is plain; everything odd comes here: duplicate keys,
``NaN`` and ``Inf``, strings that are no UTF-8, text behind the document, half a million open
brackets, and every syntax error, which names the byte where the parser of TensorFlow Serving
(RapidJSON, iterative, stopping when done) notices it.

The vow: one pass, no recursion, time and memory linear in the text, and nothing raised but
InvalidArgument.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from enum import IntEnum, auto
from typing import Final, NoReturn, TypeAlias

import orjson

from salver.errors import InvalidArgument

Value: TypeAlias = "bool | int | float | bytes | list[Value] | JsonObject | None"


class JsonObject:
    """An object with its members in order, twins included; a look-up finds the first."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members: list[tuple[bytes, Value]] = []

    def __contains__(self, key: bytes) -> bool:
        return any(name == key for name, _ in self.members)

    def __getitem__(self, key: bytes) -> Value:
        for name, value in self.members:
            if name == key:
                return value
        raise KeyError(key)

    def __len__(self) -> int:
        return len(self.members)


def parse(text: bytes) -> Value:
    """The first JSON value of the text; whatever follows it is not looked at.

    Raises:
        InvalidArgument: the text is no JSON; the message holds the reason and the byte offset.
    """
    if not text:
        raise InvalidArgument("JSON Parse error: The document is empty")
    return _Parser(text).run()


class _State(IntEnum):
    """What was read last, and so what may come next."""

    START = auto()
    ARRAY_OPENED = auto()
    ELEMENT = auto()
    ELEMENT_COMMA = auto()
    OBJECT_OPENED = auto()
    KEY = auto()
    COLON = auto()
    MEMBER = auto()
    MEMBER_COMMA = auto()


class _Move(IntEnum):
    """What one token does."""

    OPEN_ARRAY = auto()
    OPEN_OBJECT = auto()
    CLOSE = auto()
    COMMA = auto()
    COLON = auto()
    KEY = auto()
    STRING = auto()
    WORD = auto()
    NUMBER = auto()
    WRONG = auto()


_END: Final = 0  # a NUL ends the text: the parser puts one behind it, and heeds one inside

# A byte that is not listed begins a number, as in RapidJSON: the number's own reader complains.
_VALUE: Final[Mapping[int, _Move]] = {
    ord("["): _Move.OPEN_ARRAY,
    ord("{"): _Move.OPEN_OBJECT,
    ord('"'): _Move.STRING,
    ord("t"): _Move.WORD,
    ord("f"): _Move.WORD,
    ord("n"): _Move.WORD,
    ord("]"): _Move.WRONG,
    ord("}"): _Move.WRONG,
    ord(","): _Move.WRONG,
    ord(":"): _Move.WRONG,
    _END: _Move.WRONG,
}

_MOVES: Final[Mapping[_State, tuple[Mapping[int, _Move], _Move]]] = {
    _State.START: (_VALUE, _Move.NUMBER),
    _State.ARRAY_OPENED: ({**_VALUE, ord("]"): _Move.CLOSE}, _Move.NUMBER),
    _State.ELEMENT: ({ord(","): _Move.COMMA, ord("]"): _Move.CLOSE}, _Move.WRONG),
    _State.ELEMENT_COMMA: (_VALUE, _Move.NUMBER),
    _State.OBJECT_OPENED: ({ord('"'): _Move.KEY, ord("}"): _Move.CLOSE}, _Move.WRONG),
    _State.KEY: ({ord(":"): _Move.COLON}, _Move.WRONG),
    _State.COLON: (_VALUE, _Move.NUMBER),
    _State.MEMBER: ({ord(","): _Move.COMMA, ord("}"): _Move.CLOSE}, _Move.WRONG),
    _State.MEMBER_COMMA: ({ord('"'): _Move.KEY}, _Move.WRONG),
}

_COMPLAINTS: Final[Mapping[_State, str]] = {
    _State.START: "The document is empty.",
    _State.ARRAY_OPENED: "Invalid value.",
    _State.ELEMENT: "Missing a comma or ] after an array element.",
    _State.ELEMENT_COMMA: "Invalid value.",
    _State.OBJECT_OPENED: "Missing a name for object member.",
    _State.KEY: "Missing a colon after a name of object member.",
    _State.COLON: "Invalid value.",
    _State.MEMBER: "Missing a comma or } after an object member.",
    _State.MEMBER_COMMA: "Missing a name for object member.",
}

_WORDS: Final[Mapping[int, tuple[bytes, bool | None]]] = {
    ord("t"): (b"true", True),
    ord("f"): (b"false", False),
    ord("n"): (b"null", None),
}

_ESCAPES: Final[Mapping[bytes, bytes]] = {
    b'"': b'"',
    b"\\": b"\\",
    b"/": b"/",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
}

_PIECE_BYTES: Final = 1 << 20
"""A list of numbers is read in pieces of this size."""

_SPACES: Final = frozenset(b" \n\r\t")
_SPACE: Final = re.compile(rb"[ \n\r\t]*")
_FLAT_NUMBERS: Final = re.compile(rb"[-+0-9.eE, \n\r\t]*")
_PLAIN_TEXT: Final = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX4: Final = re.compile(rb"[0-9A-Fa-f]{4}")
_DIGITS: Final = re.compile(rb"(-?)(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_LARGEST_EXPONENT: Final = 308
_LONGEST_INTEGER: Final = 20  # characters of 2**64 - 1, and of -(2**63)


class _Parser:
    """One run over one text. A value is put into its parent when it begins.

    The public methods are the moves of the table: each reads one token and sets the next state.
    """

    __slots__ = ("_here", "_key", "_parents", "_pos", "_root", "_state", "_text")

    def __init__(self, text: bytes) -> None:
        self._text = text + bytes((_END,))
        self._pos = _after_byte_order_mark(text)
        self._state = _State.START
        self._here: list[Value] | JsonObject | None = None
        self._parents: list[list[Value] | JsonObject | None] = []
        self._key = b""
        self._root: Value = None

    def run(self) -> Value:
        text = self._text
        while True:
            byte = text[self._pos]
            if byte in _SPACES:
                self._pos = _SPACE.match(text, self._pos).end()  # type: ignore[union-attr] # matches ""
                byte = text[self._pos]
            known, otherwise = _MOVES[self._state]
            _HANDLERS[known.get(byte, otherwise)](self)
            if self._here is None:
                return self._root

    def _place(self, value: Value) -> None:
        here = self._here
        if here is None:
            self._root = value
        elif type(here) is list:
            here.append(value)
            self._state = _State.ELEMENT
        else:
            here.members.append((self._key, value))  # type: ignore[union-attr] # no list: an object
            self._state = _State.MEMBER

    def _enter(self, child: list[Value] | JsonObject, state: _State) -> None:
        self._place(child)
        self._parents.append(self._here)
        self._here = child
        self._state = state
        self._pos += 1

    def open_array(self) -> None:
        end = _FLAT_NUMBERS.match(self._text, self._pos + 1).end()  # type: ignore[union-attr] # matches ""
        numbers = self._flat_numbers(end) if self._text[end] == ord("]") else None
        if numbers is None or self._here is None:
            self._enter([], _State.ARRAY_OPENED)
        else:
            self._place(numbers)
            self._pos = end + 1

    def _flat_numbers(self, end: int) -> list[Value] | None:
        """A list of plain numbers at once; None when one of them needs a closer look.

        In pieces, because a call into orjson lets no other thread run.  A piece that begins or
        ends in the middle of something is no JSON, so only a list of plain values passes.
        """
        numbers: list[Value] = []
        start = self._pos + 1
        while start <= end:
            cut = self._text.find(b",", start + _PIECE_BYTES, end)
            cut = end if cut < 0 else cut
            try:
                piece: list[Value] = orjson.loads(b"[%b]" % self._text[start:cut])
            except orjson.JSONDecodeError:
                return None
            if not piece:
                return numbers if start == self._pos + 1 and cut == end else None
            numbers += piece
            start = cut + 1
        return numbers

    def open_object(self) -> None:
        self._enter(JsonObject(), _State.OBJECT_OPENED)

    def close(self) -> None:
        self._here = self._parents.pop()
        self._state = _State.ELEMENT if type(self._here) is list else _State.MEMBER
        self._pos += 1

    def comma(self) -> None:
        after_element = self._state is _State.ELEMENT
        self._state = _State.ELEMENT_COMMA if after_element else _State.MEMBER_COMMA
        self._pos += 1

    def colon(self) -> None:
        self._state = _State.COLON
        self._pos += 1

    def read_key(self) -> None:
        self._key = self._string()
        self._state = _State.KEY

    def read_string(self) -> None:
        self._place(self._string())

    def read_word(self) -> None:
        word, value = _WORDS[self._text[self._pos]]
        self._take(word)
        self._place(value)

    def read_number(self) -> None:
        self._place(self._number())

    def wrong(self) -> NoReturn:
        raise _parse_error(_COMPLAINTS[self._state], self._pos)

    def _take(self, word: bytes) -> None:
        """Step over ``word``, or complain at the first byte that differs."""
        for expected in word:
            if self._text[self._pos] != expected:
                raise _parse_error("Invalid value.", self._pos)
            self._pos += 1

    def _number(self) -> int | float:
        start, text = self._pos, self._text
        match = _DIGITS.match(text, start)
        if match is None:
            return self._not_finite()
        self._pos = end = match.end()
        if match[4] is None:
            self._check_complete(text[end], has_fraction=match[3] is not None)
        return _number_of(match, start)

    def _check_complete(self, following: int, *, has_fraction: bool) -> None:
        """A dot or an exponent that the number's pattern left over lacks its digits."""
        if following == ord(".") and not has_fraction:
            raise _parse_error("Miss fraction part in number.", self._pos + 1)
        if following in b"eE":
            signed = self._text[self._pos + 1] in b"-+"
            raise _parse_error("Miss exponent in number.", self._pos + 1 + signed)

    def _not_finite(self) -> float:
        """NaN, Inf or Infinity behind an optional minus."""
        negative = self._text[self._pos] == ord("-")
        self._pos += negative
        if self._text[self._pos] == ord("N"):
            self._take(b"NaN")
            return math.nan
        self._take(b"Inf")
        if self._text[self._pos] == ord("i"):
            self._take(b"inity")
        return -math.inf if negative else math.inf

    def _string(self) -> bytes:
        text, pos = self._text, self._pos + 1
        chunks: list[bytes] = []
        while True:
            end = _PLAIN_TEXT.match(text, pos).end()  # type: ignore[union-attr] # matches ""
            chunks.append(text[pos:end])
            if text[end] != ord("\\"):
                break
            unescaped, pos = _unescape(text, end)
            chunks.append(unescaped)
        if text[end] == ord('"'):
            self._pos = end + 1
            return b"".join(chunks)
        if text[end] == _END:
            raise _parse_error("Missing a closing quotation mark in string.", end)
        raise _parse_error("Invalid escape character in string.", end)


_HANDLERS: Final[Mapping[_Move, Callable[[_Parser], None]]] = {
    _Move.OPEN_ARRAY: _Parser.open_array,
    _Move.OPEN_OBJECT: _Parser.open_object,
    _Move.CLOSE: _Parser.close,
    _Move.COMMA: _Parser.comma,
    _Move.COLON: _Parser.colon,
    _Move.KEY: _Parser.read_key,
    _Move.STRING: _Parser.read_string,
    _Move.WORD: _Parser.read_word,
    _Move.NUMBER: _Parser.read_number,
    _Move.WRONG: _Parser.wrong,
}


def _after_byte_order_mark(text: bytes) -> int:
    """Each byte of the mark is skipped where it stands, whether or not the others are there."""
    pos = 0
    for byte in b"\xef\xbb\xbf":
        pos += text[pos : pos + 1] == bytes((byte,))
    return pos


def _number_of(match: re.Match[bytes], start: int) -> int | float:
    """An int where TensorFlow Serving keeps an integer of 64 bits, a float otherwise."""
    is_integer = match[3] is None and match[4] is None
    if is_integer and len(match[0]) <= _LONGEST_INTEGER:
        integer = int(match[0])
        if -(2**63) <= integer < 2**64:
            return integer
    number = float(match[0])
    if math.isinf(number) and not _may_overflow(match):
        raise _parse_error("Number too big to be stored in double.", start)
    return number


def _may_overflow(match: re.Match[bytes]) -> bool:
    """RapidJSON refuses a number for its exponent alone, and lets 10e308 become infinity."""
    if match[4] is None or len(match[2]) > _LARGEST_EXPONENT:
        return False
    exponent = match[4].lstrip(b"eE+0")
    fraction_digits = min(len(match[3] or b".") - 1, 17)
    return len(exponent) <= 3 and int(exponent or b"0") <= _LARGEST_EXPONENT + fraction_digits


def _unescape(text: bytes, at: int) -> tuple[bytes, int]:
    """What the escape at ``at`` stands for, and where it ends."""
    letter = text[at + 1 : at + 2]
    if letter in _ESCAPES:
        return _ESCAPES[letter], at + 2
    if letter != b"u":
        raise _parse_error("Invalid escape character in string.", at)
    code, end = _code_unit(text, at + 2, at)
    if 0xD800 <= code <= 0xDBFF:
        if text[end : end + 2] != b"\\u":
            raise _parse_error("The surrogate pair in string is invalid.", at)
        low, end = _code_unit(text, end + 2, at)
        if not 0xDC00 <= low <= 0xDFFF:
            raise _parse_error("The surrogate pair in string is invalid.", at)
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
    return chr(code).encode("utf-8", "surrogatepass"), end


def _code_unit(text: bytes, at: int, escape_at: int) -> tuple[int, int]:
    match = _HEX4.match(text, at)
    if match is None:
        raise _parse_error("Incorrect hex digit after \\u escape in string.", escape_at)
    return int(match[0], 16), match.end()


def _parse_error(reason: str, offset: int) -> InvalidArgument:
    return InvalidArgument(f"JSON Parse error: {reason} at offset: {offset}")
