"""How a JSON value is quoted in an error: pretty, and only its beginning.

Arrays stand on one line, members of objects on lines of their own, four spaces deep, as in
TensorFlow Serving's texts. The vow: the work is bounded by the excerpt, not by the value.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from salver.apis.json_reader import JsonObject, Value
from salver.apis.json_writer import quote

_ENOUGH: Final = 256  # bytes; the token that crosses this line is the last one
_LONGEST_TEXT: Final = 4096  # bytes of a string or name that are quoted
_INDENT: Final = b"    "
_LARGEST_FLOAT: Final = 3.4028234e38

_KINDS: Final[dict[type, str]] = {
    type(None): "Null",
    int: "Number",
    float: "Number",
    bytes: "String",
    list: "Array",
    JsonObject: "Object",
}


def kind_of(value: Value) -> str:
    """The value's JSON type as error texts name it."""
    if type(value) is bool:
        return "True" if value else "False"
    return _KINDS[type(value)]


def excerpt(value: Value) -> str:
    """The value's beginning; bytes that are no UTF-8 come as surrogate escapes."""
    if type(value) is float:
        return _scalar_decimal(value)
    text = bytearray()
    for token in _tokens(value):
        text += token
        if len(text) >= _ENOUGH:
            break
    return text.decode("utf-8", "surrogateescape")


def _tokens(root: Value) -> Iterator[bytes]:
    """The value as printed, piece by piece, without recursion: depth is the client's choice."""
    levels: list[Iterator[tuple[bytes, Value]]] = [iter(((b"", root),))]
    closings: list[bytes] = []
    while levels:
        for prefix, value in levels[-1]:
            if type(value) is list:
                yield prefix + b"["
                levels.append(_elements(value))
                closings.append(b"]")
                break
            if isinstance(value, JsonObject):
                yield prefix + b"{"
                closings.append(b"\n" + _INDENT * len(closings) + b"}" if len(value) else b"}")
                levels.append(_members(value, len(closings)))
                break
            yield prefix + _scalar(value)
        else:
            levels.pop()
            if closings:
                yield closings.pop()


def _elements(array: list[Value]) -> Iterator[tuple[bytes, Value]]:
    for index, element in enumerate(array):
        yield (b", " if index else b""), element


def _members(value: JsonObject, depth: int) -> Iterator[tuple[bytes, Value]]:
    for index, (key, member) in enumerate(value.members):
        comma = b",\n" if index else b"\n"
        yield comma + _INDENT * depth + quote(key[:_LONGEST_TEXT]) + b": ", member


def _scalar(value: Value) -> bytes:
    if value is None:
        return b"null"
    if type(value) is bool:
        return b"true" if value else b"false"
    if type(value) is bytes:
        return quote(value[:_LONGEST_TEXT])
    if type(value) is float:
        return _shortest_decimal(value).encode()
    return str(value).encode()


def _scalar_decimal(number: float) -> str:
    """A number that is the whole value: six digits if they say it all, in float if it fits."""
    if not math.isfinite(number):
        return _not_finite(number)
    if abs(number) <= _LARGEST_FLOAT:
        number = _as_float32(number)
        text = f"{number:g}"
        text = text if _as_float32(float(text)) == number else f"{number:.9g}"
    else:
        text = f"{number:g}"
        text = text if float(text) == number else f"{number:.17g}"
    return text if "." in text or "e" in text else text + ".0"


def _as_float32(number: float) -> float:
    try:
        (rounded,) = struct.unpack("<f", struct.pack("<f", number))
    except OverflowError:
        return math.copysign(math.inf, number)
    return float(rounded)


def _shortest_decimal(number: float) -> str:
    """A number inside a value: the fewest digits that read back, in RapidJSON's notation."""
    if not math.isfinite(number):
        return _not_finite(number)
    if number == 0:
        return "-0.0" if math.copysign(1, number) < 0 else "0.0"
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    minus, text, power = "-" * sign, "".join(map(str, digits)), int(exponent)
    point = len(text) + power
    if power >= 0 and point <= 21:
        return f"{minus}{text}{'0' * power}.0"
    if 0 < point <= 21:
        return f"{minus}{text[:point]}.{text[point:]}"
    if -6 < point <= 0:
        return f"{minus}0.{'0' * -point}{text}"
    fraction = f".{text[1:]}" if len(text) > 1 else ""
    return f"{minus}{text[0]}{fraction}e{point - 1}"


def _not_finite(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"
