"""Protobuf's text format, read as C++ reads it, with a place for every complaint.

Python's own reader is stricter in some places (``- 1``, strings joined across comments), looser in
others, and knows types only by the names they are registered under.  TensorFlow Serving's files
were written against the C++ reader, so its grammar is the one kept here: what it takes is taken,
what it refuses is refused, and a refusal says where, and what was perhaps meant.

Nothing here touches a file, and nothing is recursive beyond ``MAX_DEPTH``.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, TypeVar

from google.protobuf import message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

MAX_DEPTH: Final = 64

Path = tuple[str | int, ...]
"""Field names, and numbers or keys of what is repeated: ``("config", 3, "name")``."""

AnyTypes = Mapping[str, type[Message]]
"""Which message an ``Any`` may hold, by the full name a file gives it."""

NO_ANY_TYPES: Final[AnyTypes] = MappingProxyType({})

_PUBLIC_PACKAGES: Final[Mapping[str, str]] = {
    "salver.config.": "tensorflow.serving.",
    "salver.session_config.": "tensorflow.",
    "salver.tensor_plain.": "tensorflow.",
}

# The alternatives in the order of how often they occur.
_TOKEN: Final = re.compile(
    r"""
      (?P<blank>(?:[ \t\r\v\f\n]+|\#[^\n]*)+)
    | (?P<identifier>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<symbol>[{}:<>\[\],;\-])
    | (?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
    | (?P<integer>0[xX][0-9a-fA-F]+|[0-9]+)(?![.eEfF0-9A-Za-z_])
    | (?P<float>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)(?![.0-9A-Za-z_])
    """,
    re.VERBOSE | re.ASCII,
)
_TYPE_URL: Final = re.compile(r"\s*([^\s\[\]]+)\s*\]", re.ASCII)
_ESCAPE: Final = re.compile(
    rb"\\(?:([abfnrtv?\\'\"])|([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})"
    rb"|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))",
    re.DOTALL,
)
_PLAIN_ESCAPES: Final = dict(
    zip(b"abfnrtv?\\'\"", (b"%c" % c for c in b"\a\b\f\n\r\t\v?\\'\""), strict=True)
)
_CLOSING: Final[Mapping[str, str]] = {"{": "}", "<": ">"}
_TRUE: Final = frozenset({"true", "True", "t"})
_FALSE: Final = frozenset({"false", "False", "f"})
_SHOWN_CHARACTERS: Final = 40

_INTEGERS: Final[Mapping[int, tuple[int, int]]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS: Final = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})


class Position(NamedTuple):
    """Where in a text, both counted from 1; a column is a character."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


class TextError(ValueError):
    """A text is no such message: where, what is wrong, and what would help."""

    def __init__(self, position: Position, message: str, hint: str = "") -> None:
        self.position = position
        self.text = f"{message} {hint}" if hint else message
        super().__init__(f"{position}: {self.text}")


@dataclass(frozen=True, slots=True)
class Places:
    """Where each field of a message stands in its text."""

    _lines: _Lines
    _offsets: Mapping[Path, int]
    _entries: Mapping[Path, Path]

    def __len__(self) -> int:
        return len(self._offsets)

    def of(self, *path: str | int) -> Position:
        """Where ``path`` begins; if the text does not have it, where what should hold it does."""
        known: Path = ()
        for part in path:
            step = (*known, part)
            step = self._entries.get(step, step)
            if step not in self._offsets:
                break
            known = step
        return self._lines.position(self._offsets.get(known, 0))


@dataclass(frozen=True, slots=True)
class Parsed(Generic[M]):
    """A message, and where its parts stand."""

    message: M
    places: Places


def parse(text: bytes, message: M, *, any_types: AnyTypes = NO_ANY_TYPES) -> Parsed[M]:
    """Fill ``message`` from ``text``.

    Raises:
        TextError: it is no such message.
    """
    parser = _Parser(text.decode("utf-8", "surrogateescape"), any_types)
    parser.read_whole(message)
    return Parsed(message, Places(parser.lines, parser.offsets, parser.entries))


def public_name(descriptor: Any) -> str:  # Any: protobuf's runtimes have a type each
    """The name that TensorFlow Serving has for a message of ours, by its descriptor."""
    name: str = descriptor.full_name
    for ours, theirs in _PUBLIC_PACKAGES.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


class _Lines:
    """Offsets to positions."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def position(self, offset: int) -> Position:
        line = bisect_right(self._starts, offset)
        return Position(line, offset - self._starts[line - 1] + 1)


class _Token(NamedTuple):
    kind: str
    text: str
    offset: int


@dataclass(slots=True)
class _Parser:
    """One pass over one text; ``token`` is what comes next."""

    text: str
    any_types: AnyTypes
    lines: _Lines = field(init=False)
    offsets: dict[Path, int] = field(default_factory=dict)
    entries: dict[Path, Path] = field(default_factory=dict)
    token: _Token = field(init=False)
    end: int = 0
    depth: int = 0

    def __post_init__(self) -> None:
        self.lines = _Lines(self.text)
        self.end = 1 if self.text.startswith("\ufeff") else 0
        self.advance()

    # Tokens.

    def advance(self) -> None:
        """Take the token; the next one is the token then."""
        start, kind = self.end, "blank"
        while kind == "blank" and self.end < len(self.text):
            match = _TOKEN.match(self.text, self.end)
            if match is None or match.lastgroup is None:
                raise self._unreadable(self.end)
            start, self.end, kind = self.end, match.end(), match.lastgroup
        if kind == "blank":
            self.token = _Token("end", "", len(self.text))
        else:
            self.token = _Token(kind, self.text[start : self.end], start)

    def take(self, symbol: str) -> bool:
        """Whether the token was ``symbol``, which is then taken."""
        if self.token.text != symbol or self.token.kind != "symbol":
            return False
        self.advance()
        return True

    def expect(self, symbol: str, hint: str = "") -> None:
        if not self.take(symbol):
            raise self.error(f'Expected "{symbol}", found {self.shown()}.', hint)

    def shown(self) -> str:
        """The token, for a complaint."""
        if self.token.kind == "end":
            return "the end of the file"
        text = self.token.text
        return f'"{text}"' if len(text) <= _SHOWN_CHARACTERS else f'"{text[:_SHOWN_CHARACTERS]}…"'

    def error(self, message: str, hint: str = "", *, offset: int | None = None) -> TextError:
        where = self.token.offset if offset is None else offset
        return TextError(self.lines.position(where), message, hint)

    def _unreadable(self, offset: int) -> TextError:
        character = self.text[offset]
        if character in "\"'":
            return self.error(
                "A string has no end on its line.",
                r"Write \n for a line break; quoted pieces that follow each other are joined.",
                offset=offset,
            )
        if character.isdigit() or character == ".":
            text = re.match(r"[\w.+-]+", self.text[offset:], re.ASCII)
            return self.error(f'"{text[0] if text else character}" is no number.', offset=offset)
        if character == "/":
            return self.error('"/" begins nothing here.', "A comment begins with #.", offset=offset)
        return self.error(f"{character!a} cannot stand here.", offset=offset)

    # Messages.

    def read_whole(self, message: Message) -> None:
        while self.token.kind != "end":
            self.read_field(message, ())

    def read_block(self, message: Message, path: Path) -> None:
        """``{ … }`` or ``< … >``."""
        opened = self.token
        closing = _CLOSING.get(opened.text)
        if closing is None or opened.kind != "symbol":
            raise self.error(f'Expected "{{", found {self.shown()}.')
        if self.depth >= MAX_DEPTH:
            raise self.error(f"Messages are nested more than {MAX_DEPTH} deep.")
        began = self.lines.position(opened.offset)
        hint = f'It closes the "{opened.text}" of {began}.'
        self.depth += 1
        self.advance()
        while self.token.text not in ("}", ">") or self.token.kind != "symbol":
            if self.token.kind == "end":
                self.expect(closing, hint)
            self.read_field(message, path)
        self.expect(closing, hint)
        self.depth -= 1

    def read_field(self, message: Message, path: Path) -> None:
        begin = self.token
        if isinstance(message, AnyMessage) and begin.text == "[":
            self.read_any(message, path)
        else:
            descriptor = self.named_field(message)
            self.check_unset(message, descriptor, begin)
            self.read_value(message, descriptor, (*path, descriptor.name), begin)
        if not self.take(";"):
            self.take(",")

    def named_field(self, message: Message) -> FieldDescriptor:
        """The field whose name comes next, which is taken."""
        name = self.token
        if name.kind != "identifier":
            raise self.error(f"Expected the name of a field, found {self.shown()}.")
        kind: Any = message.DESCRIPTOR  # Any: protobuf's runtimes have a type each
        descriptor: FieldDescriptor | None = kind.fields_by_name.get(name.text)
        if descriptor is None:
            raise self.error(
                f'Message type "{public_name(kind)}" has no field named "{name.text}".',
                _field_hint(kind, name.text),
            )
        self.advance()
        return descriptor

    def check_unset(self, message: Message, descriptor: FieldDescriptor, name: _Token) -> None:
        """A field may come once.

        As in C++, one without presence may come again as long as it holds its default.
        """
        if descriptor.is_repeated:
            return
        if _is_set(message, descriptor):
            raise self.error(
                f'Non-repeated field "{name.text}" is specified multiple times.',
                offset=name.offset,
            )
        oneof = descriptor.containing_oneof
        other = message.WhichOneof(oneof.name) if oneof is not None else None
        if oneof is not None and other is not None:
            raise self.error(
                f'Field "{name.text}" is specified along with field "{other}", another member of '
                f'oneof "{oneof.name}".',
                "Only one of them can hold.",
                offset=name.offset,
            )

    def read_value(
        self, message: Message, descriptor: FieldDescriptor, path: Path, name: _Token
    ) -> None:
        is_message = descriptor.message_type is not None
        if not self.take(":") and not is_message:
            raise self.error(
                f'Expected ":", found {self.shown()}.', f'It stands after "{name.text}".'
            )
        if not descriptor.is_repeated:
            self.offsets[path] = name.offset
            self.read_one(message, descriptor, path)
        elif self.take("["):
            self.read_list(message, descriptor, path)
        else:
            self.read_item(message, descriptor, path, name.offset)

    def read_list(self, message: Message, descriptor: FieldDescriptor, path: Path) -> None:
        """What stands between brackets; the opening one is taken."""
        if self.take("]"):
            return
        while True:
            self.read_item(message, descriptor, path, self.token.offset)
            if self.take("]"):
                return
            self.expect(",", "A list goes on with a comma or ends with a bracket.")

    def read_item(
        self, message: Message, descriptor: FieldDescriptor, path: Path, offset: int
    ) -> None:
        """One more of a repeated field."""
        self.offsets.setdefault(path, offset)
        items = getattr(message, descriptor.name)
        if _is_map(descriptor):
            self.read_entry(items, descriptor, path, offset)
        elif descriptor.message_type is not None:
            here = (*path, len(items))
            self.offsets[here] = offset
            self.read_block(items.add(), here)
        else:
            here = (*path, len(items))
            self.offsets[here] = offset
            items.append(self.scalar(descriptor))

    def read_entry(
        self, items: Any, descriptor: FieldDescriptor, path: Path, offset: int
    ) -> None:  # Any: a map of protobuf, whatever its types
        """One entry of a map; of two with one key the later holds."""
        here = (*path, -offset - 1)  # a number no list has, until the key is known
        self.offsets[here] = offset
        kind: Any = descriptor.message_type
        entry: Any = message_factory.GetMessageClass(kind)()
        self.read_block(entry, here)
        keyed: Path = (*path, entry.key)
        self.entries[keyed] = here
        if kind.fields_by_name["value"].message_type is None:
            items[entry.key] = entry.value
        else:
            items[entry.key].CopyFrom(entry.value)

    def read_one(self, message: Message, descriptor: FieldDescriptor, path: Path) -> None:
        if descriptor.message_type is None:
            setattr(message, descriptor.name, self.scalar(descriptor))
            return
        nested = getattr(message, descriptor.name)
        nested.SetInParent()
        self.read_block(nested, path)

    def read_any(self, message: AnyMessage, path: Path) -> None:
        """``[type.googleapis.com/package.Type] { … }`` in place of the fields of an Any."""
        bracket = self.token
        match = _TYPE_URL.match(self.text, self.end)
        if match is None:
            raise self.error("Expected a type URL in brackets.", "As in [type.googleapis.com/T].")
        prefix, slash, name = match[1].rpartition("/")
        if not slash or not prefix:
            raise self.error("Type URL prefix is missing", "As in [type.googleapis.com/T].")
        if message.type_url or message.value:
            raise self.error("Non-repeated Any specified multiple times.")
        kind = self.any_types.get(name)
        if kind is None:
            known = get_close_matches(name, self.any_types, n=1)
            hint = f'Did you mean "{known[0]}"?' if known else ""
            raise self.error(
                f'Could not find type "{match[1]}" stored in google.protobuf.Any.',
                hint,
                offset=bracket.offset,
            )
        self.end = match.end()
        self.advance()
        self.take(":")
        held = kind()
        self.read_block(held, path)
        message.type_url = match[1]
        message.value = held.SerializeToString()

    # Scalars.

    def scalar(self, descriptor: FieldDescriptor) -> bool | int | float | str | bytes:
        kind = descriptor.cpp_type
        if kind in _INTEGERS:
            return self.read_integer(*_INTEGERS[kind])
        if kind in _FLOATS:
            return self.read_float()
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self.read_bool(descriptor)
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return self.read_enum(descriptor)
        return self.read_string(is_text=descriptor.type == FieldDescriptor.TYPE_STRING)

    def read_integer(self, lowest: int, highest: int) -> int:
        begin = self.token
        is_negative = lowest < 0 and self.take("-")
        if self.token.kind != "integer":
            raise self.error(f"Expected integer, got: {self.shown()}")
        number = -self.number() if is_negative else self.number()
        if not lowest <= number <= highest:
            raise self.error(
                f"Integer out of range ({number})",
                f"It has to be from {lowest} to {highest}.",
                offset=begin.offset,
            )
        self.advance()
        return number

    def number(self) -> int:
        """What the integer that comes next says; 0x is hexadecimal and 0 octal."""
        text = self.token.text
        if text[:2] in ("0x", "0X"):
            return int(text, 16)
        if text[0] != "0" or text.strip("0") == "":
            return int(text[:_SHOWN_CHARACTERS])
        if text.strip("01234567"):
            raise self.error("Numbers starting with leading zero must be in octal.")
        return int(text, 8)

    def read_float(self) -> float:
        is_negative = self.take("-")
        token = self.token
        text = token.text.lower()
        if token.kind == "integer" and (text[0] != "0" or text == "0"):
            number = float(text)
        elif token.kind == "float":
            number = float(text.rstrip("f"))
        elif token.kind == "identifier" and text in ("inf", "infinity", "nan"):
            number = float(text)
        else:
            raise self.error(f"Expected a decimal number, got: {self.shown()}")
        self.advance()
        return -number if is_negative else number

    def read_bool(self, descriptor: FieldDescriptor) -> bool:
        if self.token.kind == "integer":
            return bool(self.read_integer(0, 1))
        token = self.token
        if token.kind == "identifier" and token.text in _TRUE | _FALSE:
            self.advance()
            return token.text in _TRUE
        raise self.error(
            f'Invalid value for boolean field "{descriptor.name}". Value: {self.shown()}.',
            "It is true or false.",
        )

    def read_enum(self, descriptor: FieldDescriptor) -> int:
        token = self.token
        kind: Any = descriptor.enum_type
        if token.kind != "identifier":
            return self.read_integer(*_INTEGERS[FieldDescriptor.CPPTYPE_INT32])
        value = kind.values_by_name.get(token.text)
        if value is None:
            raise self.error(
                f'Unknown enumeration value of "{token.text}" for field "{descriptor.name}".',
                f"It is one of {', '.join(kind.values_by_name)}.",
            )
        self.advance()
        number: int = value.number
        return number

    def read_string(self, *, is_text: bool) -> str | bytes:
        if self.token.kind != "string":
            raise self.error(f"Expected string, got: {self.shown()}", "A string stands in quotes.")
        begin = self.token
        content = b"".join(self.pieces())
        if not is_text:
            return content
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise self.error("The string is not UTF-8.", offset=begin.offset) from None

    def pieces(self) -> Iterator[bytes]:
        """The strings that follow each other."""
        while self.token.kind == "string":
            yield self.unescaped()
            self.advance()

    def unescaped(self) -> bytes:
        quoted = self.token.text[1:-1].encode("utf-8", "surrogateescape")
        return _ESCAPE.sub(self._character, quoted) if b"\\" in quoted else quoted

    def _character(self, escape: re.Match[bytes]) -> bytes:
        plain, octal, hexadecimal, short, long, _ = escape.groups()
        if plain is not None:
            return _PLAIN_ESCAPES[plain[0]]
        if octal is not None:
            return bytes([int(octal, 8) & 0xFF])
        if hexadecimal is not None:
            return bytes([int(hexadecimal, 16)])
        point = int(short or long or b"110000", 16)
        if point > 0x10FFFF:
            shown = ascii(escape[0].decode("utf-8", "replace"))[1:-1]
            raise self.error(f"Invalid escape sequence in string literal: {shown}")
        return chr(point).encode("utf-8", "surrogatepass")


def _is_map(descriptor: FieldDescriptor) -> bool:
    kind = descriptor.message_type
    return kind is not None and kind.GetOptions().map_entry


def _is_set(message: Message, descriptor: FieldDescriptor) -> bool:
    if descriptor.has_presence:
        return message.HasField(descriptor.name)
    return bool(getattr(message, descriptor.name))


def _field_hint(descriptor: Descriptor, name: str) -> str:
    """What was perhaps meant by a name that is no field."""
    names = list(descriptor.fields_by_name)
    close = get_close_matches(name, names, n=1)
    if close:
        return f'Did you mean "{close[0]}"?'
    for inner in descriptor.fields:
        if inner.message_type is not None and name in inner.message_type.fields_by_name:
            return f'It is a field of "{inner.name}": {inner.name} {{ {name} … }}.'
    return f"Its fields are {', '.join(names)}." if names else "It has no fields."
