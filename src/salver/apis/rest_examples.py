"""The examples of a REST Classify or Regress request.

An example is an object of features, and a feature's kind comes from how its values are spelled:
``1`` is an int64, ``1.0`` a float, ``true`` the int64 1, a string or ``{"b64": …}`` bytes. All
values of a feature must be of one kind; a value by itself is a list of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import simdjson

from salver.apis.examples import (
    UNSET_FEATURE,
    encode_bytes_feature,
    encode_example,
    encode_float_feature,
    encode_int64_feature,
    with_context,
)
from salver.apis.json_excerpt import kind_of
from salver.apis.json_reader import JsonObject, Value
from salver.apis.rest_document import ABSENT, Document, name_of
from salver.apis.rest_tensors import INT64_RANGE, is_base64, text_of
from salver.errors import InvalidArgument

_TEXTS: Final = frozenset({str, bytes, dict, JsonObject})
_FEATURE_KINDS: Final[Mapping[str, str]] = {
    "True": "int64",
    "False": "int64",
    "String": "bytes",
    "Object": "bytes",
}


def read_examples(document: Document, method: str) -> list[bytes]:
    """Each example as a serialized ``tensorflow.Example``, the shared context in front.

    Two messages one behind the other are one message to a parser: what the example says
    overrides the context. ``method`` is ``classify`` or ``regress``; the texts of TensorFlow
    Serving say classify for both.

    Raises:
        InvalidArgument: with TensorFlow Serving's text for the first thing wrong.
    """
    del method
    examples = None if document.quick is None else _read_quickly(document)
    return _read_exactly(document) if examples is None else examples


def _read_quickly(document: Document) -> list[bytes] | None:
    if b'"b64"' in document.text:
        return None  # a dict would hide a second key of an object that may have only one
    examples = document.find("examples")
    if not isinstance(examples, simdjson.Array) or not len(examples):
        return None
    context = document.find("context")
    prefix = b"" if context is ABSENT else _quick_example(context)
    if prefix is None:
        return None
    encoded = [_quick_example(example) for example in examples]
    found = [example for example in encoded if example is not None]
    return with_context(prefix, found) if len(found) == len(encoded) else None


def _quick_example(example: Any) -> bytes | None:
    if not isinstance(example, simdjson.Object):
        return None
    members: dict[str, Any] = example.as_dict()
    if len(members) != len(example):
        return None  # twin keys
    features = {}
    for name, content in members.items():
        feature = None if "\0" in name else _feature(content)
        if feature is None:
            return None
        features[name.encode()] = feature
    return encode_example(features)


def _read_exactly(document: Document) -> list[bytes]:
    tree = document.tree
    context = _exact_example(tree[b"context"]) if b"context" in tree else b""
    if b"examples" not in tree:
        raise document.complaint(
            "When method is classify, key 'examples' is expected and was not found"
        )
    examples = tree[b"examples"]
    if not isinstance(examples, list):
        raise document.complaint("Expecting 'examples' value to be an list/array")
    if not examples:
        raise document.complaint("'examples' value is an empty array")
    return with_context(context, [_exact_example(example) for example in examples])


def _exact_example(example: Value) -> bytes:
    if not isinstance(example, JsonObject):
        raise InvalidArgument(f"Example must be JSON object but got JSON {kind_of(example)}")
    features = {}
    for key, content in example.members:
        name = key.partition(b"\0")[0]  # to TensorFlow Serving a name ends at a NUL
        feature = _feature(content)
        if feature is None:
            raise _first_error(name_of(name), content)
        features[name] = feature  # of two equal names the last counts
    return encode_example(features)


def _feature(content: object) -> bytes | None:
    """The encoded feature; None if its values are not of one kind that a feature can hold."""
    values: list[Any] = content if isinstance(content, list) else [content]
    kinds = set(map(type, values))
    if not kinds:
        return UNSET_FEATURE
    if kinds == {float}:
        return encode_float_feature(values)
    if kinds <= {int, bool}:
        low, high = INT64_RANGE
        return encode_int64_feature(values) if low <= min(values) <= max(values) <= high else None
    return _bytes_feature(values) if kinds <= _TEXTS else None


def _bytes_feature(values: Sequence[object]) -> bytes | None:
    texts = [text_of(value) for value in values]
    found = [text for text in texts if text is not None]
    return encode_bytes_feature(found) if len(found) == len(texts) else None


def _first_error(name: str, content: Value) -> InvalidArgument:
    values = content if isinstance(content, list) else [content]
    expected = _kind_of_feature(values[0])
    for value in values:
        error = _value_error(name, value, expected)
        if error is not None:
            return error
    return InvalidArgument(f"Feature: {name} has elements that no feature can hold")


def _value_error(name: str, value: Value, expected: str) -> InvalidArgument | None:
    if value is None or isinstance(value, list) or _is_other_object(value):
        return InvalidArgument(
            f"Feature: {name} has element with unexpected JSON type: {kind_of(value)}"
        )
    if _kind_of_feature(value) != expected:
        return InvalidArgument(
            f"Unexpected element type in feature: {name} expecting type: {expected}"
        )
    if type(value) is int and value > INT64_RANGE[1]:
        return InvalidArgument(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    if isinstance(value, JsonObject) and text_of(value) is None:
        return InvalidArgument("Unable to base64 decode")
    return None


def _is_other_object(value: Value) -> bool:
    return isinstance(value, JsonObject) and not is_base64(value)


def _kind_of_feature(value: Value) -> str:
    if type(value) is float:
        return "float"
    return _FEATURE_KINDS.get(kind_of(value), "int64")
