"""Words of a command line → options, by TensorFlow Serving's rules.

``--name=value`` is the only way to give a value; a boolean alone means true; the last one wins;
``--`` ends the flags; what is not a known flag is handed back, not refused.
Pure: no output, no environment, no exit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from salver.model_server.options import ROW_BY_NAME, ROWS, Face, Kind, Options, Row, Value


@dataclass(frozen=True, slots=True)
class Rejected:
    """A value that is none of its option's type."""

    row: Row
    text: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a command line said."""

    options: Options
    given: tuple[str, ...]  # names, in the order they first came
    leftovers: tuple[str, ...]
    rejected: tuple[Rejected, ...]

    @property
    def failed(self) -> bool:
        """Whether TensorFlow Serving would print its usage and leave."""
        return bool(self.rejected) or self.leftovers[:1] == ("--help",)

    @property
    def without_effect(self) -> list[str]:
        """The given options whose part of the server is not built yet."""
        return [name for name in self.given if ROW_BY_NAME[name].later]


def parse(words: Sequence[str], face: Face) -> Parsed:
    """Read ``words`` (without the program's name) over the defaults of ``face``."""
    values: dict[str, Value] = {}
    leftovers: list[str] = []
    rejected: list[Rejected] = []
    for position, word in enumerate(words):
        if word == "--":
            leftovers.extend(words[position:])
            break
        row, text = _split(word)
        if row is None:
            leftovers.append(word)
            continue
        value = _READERS[row.kind](text)
        if value is None:
            rejected.append(Rejected(row, text))
        else:
            values[row.name] = value
    return Parsed(Options.for_face(face, values), tuple(values), tuple(leftovers), tuple(rejected))


def usage(program: str) -> str:
    """The text TensorFlow Serving prints for ``--help``, line by line in its layout."""
    return f"usage: {program}\nFlags:\n" + "".join(map(_usage_line, ROWS))


def written(value: Value) -> str:
    """A value the way a flag takes it: ``true``, ``8500``, ``/models/mnist``."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _split(word: str) -> tuple[Row | None, str]:
    """The row a word is about and the text of its value; no row if it is no known flag."""
    name, equals, text = word[2:].partition("=")
    row = ROW_BY_NAME.get(name) if word.startswith("--") else None
    if row is None or equals:
        return row, text
    return (row, "true") if row.kind is Kind.BOOL else (None, "")


def _usage_line(row: Row) -> str:
    default = row.default_here(Face.TENSORFLOW_MODEL_SERVER)
    if row.kind is Kind.STRING:
        default = f'"{default}"'
    elif row.kind is Kind.FLOAT:
        default = f"{default:f}"
    flag = f"--{row.name}={written(default)}"
    return f"\t{flag:<33}\t{row.kind.value}\t{row.sentence}\n"


_INTEGER: Final = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*([0-9]{1,19})[ \t\n\v\f\r]*")
_FLOAT: Final = re.compile(
    r"[ \t\n\v\f\r]*([+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan))"
    r"[ \t\n\v\f\r]*",
    re.IGNORECASE,
)


def _read_bool(text: str) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get(text.lower())


def _read_int32(text: str) -> int | None:
    return _read_integer(text, bits=32)


def _read_int64(text: str) -> int | None:
    return _read_integer(text, bits=64)


def _read_integer(text: str, *, bits: int) -> int | None:
    match = _INTEGER.fullmatch(text)
    if match is None:
        return None
    value = int(match[1] + match[2])
    return value if -(1 << bits - 1) <= value < 1 << bits - 1 else None


def _read_float(text: str) -> float | None:
    match = _FLOAT.fullmatch(text)
    return float(match[1]) if match else None


def _read_string(text: str) -> str:
    return text


_READERS: Final[Mapping[Kind, Callable[[str], Value | None]]] = MappingProxyType(
    {
        Kind.INT32: _read_int32,
        Kind.INT64: _read_int64,
        Kind.BOOL: _read_bool,
        Kind.STRING: _read_string,
        Kind.FLOAT: _read_float,
    }
)
