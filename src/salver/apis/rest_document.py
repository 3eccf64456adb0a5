"""The JSON of one REST request, readable in two ways.

``quick`` is simdjson's view: nothing is built until somebody asks. It is None for a text that
simdjson declines and TensorFlow Serving may still take, so None means "not certain", never "no".
``tree`` is the exact reading: slower, made on first use, and the source of every error. Readers
try the first and fall back on the second; a document belongs to one request and one thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import simdjson

from salver.apis.json_excerpt import excerpt
from salver.apis.json_reader import JsonObject, parse
from salver.errors import InvalidArgument
from salver.signature import DEFAULT_SERVING_SIGNATURE, Signature

ABSENT: Final = object()
_HUGE_ARRAY: Final = 2**24


class Document:
    """One parsed request. Made by ``read_document``."""

    __slots__ = ("_quick_keys", "_tree", "quick", "text")

    def __init__(self, text: bytes, quick: Any | None, tree: JsonObject | None = None) -> None:
        self.text = text
        self.quick = quick  # a simdjson.Object: the library has no types
        self._quick_keys = frozenset(() if quick is None else quick.keys())
        self._tree = tree

    @property
    def tree(self) -> JsonObject:
        """The exact reading.

        Raises:
            InvalidArgument: the text is no JSON object.
        """
        if self._tree is None:
            self._tree = _parse_object(self.text)
        return self._tree

    def find(self, key: str) -> Any:
        """The quick view's first member of that name, or ABSENT."""
        # Asking simdjson for what is not there costs more than all the rest of a small request.
        return self.quick[key] if key in self._quick_keys else ABSENT  # type: ignore[index] # has keys

    def complaint(self, what: str) -> InvalidArgument:
        """An error about the document as a whole, which it quotes."""
        return InvalidArgument(f"JSON Value: {excerpt(self.tree)} {what}")


def read_document(body: bytes) -> Document:
    """Parse a request body; what follows the JSON object is ignored.

    Raises:
        InvalidArgument: the text is no JSON, or no object.
    """
    quick = None if _may_hold_huge_array(body) else _parse_quickly(body)
    return Document(body, quick, _parse_object(body) if quick is None else None)


def signature_name(document: Document) -> str:
    """The signature the client asks for; empty if it does not say.

    Raises:
        InvalidArgument: the name is not a string.
    """
    if document.quick is not None:
        name = document.find("signature_name")
        if name is ABSENT:
            return ""
        if isinstance(name, str):
            return name
    elif b"signature_name" not in document.tree:
        return ""
    exact = document.tree[b"signature_name"]
    if not isinstance(exact, bytes):
        raise document.complaint(
            "not formatted correctly. 'signature_name' key must be a string value."
        )
    return name_of(exact)


def signature_for_predict(signatures: Mapping[str, Signature], name: str) -> Signature:
    """The signature of that name, or the default one for an empty name.

    Raises:
        InvalidArgument: there is none, or it takes no inputs, which REST has no words for.
    """
    asked = name or DEFAULT_SERVING_SIGNATURE
    signature = signatures.get(asked)
    if signature is None:
        raise InvalidArgument(f'Serving signature name: "{asked}" not found in signature def')
    if not signature.inputs:
        raise InvalidArgument(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    return signature


def name_of(key: bytes) -> str:
    """A key as text; bytes that are no UTF-8 become surrogate escapes."""
    return key.decode("utf-8", "surrogateescape")


def _may_hold_huge_array(text: bytes) -> bool:
    """Whether an array may have more elements than simdjson can count.

    It stops at 24 bits, and its lists are made for that many and filled with all there are:
    memory would be overwritten. So many elements need as many commas.
    """
    return len(text) >= _HUGE_ARRAY and text.count(b",") >= _HUGE_ARRAY - 1


def _parse_quickly(text: bytes) -> Any | None:
    try:
        # A parser of its own for each document: they may be read on several threads at once.
        value = simdjson.Parser().parse(text)
    except (ValueError, RuntimeError, MemoryError):
        return None
    return value if isinstance(value, simdjson.Object) else None


def _parse_object(text: bytes) -> JsonObject:
    tree = parse(text)
    if not isinstance(tree, JsonObject):
        raise InvalidArgument(f"JSON Value: {excerpt(tree)} Is not object")
    return tree
