"""The REST door's codec: request bodies to values, answers and errors to bytes.

Reading a request starts with ``read_document``; the signature is resolved before any tensor is
looked at, as clients expect of the errors, so the steps are separate. Every function is pure
and may run on any thread.

Layouts follow TensorFlow Serving's where that is free; the values always do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from salver.apis.json_writer import (
    quote,
    quote_base64,
    write_array,
    write_floats,
    write_rows,
)
from salver.apis.requests import ClassifiedExample, VersionStatus
from salver.apis.rest_document import (
    Document,
    read_document,
    signature_for_predict,
    signature_name,
)
from salver.apis.rest_examples import read_examples
from salver.apis.rest_predict import PredictBody, read_predict
from salver.errors import InvalidArgument

__all__ = [
    "Document",
    "PredictBody",
    "read_document",
    "read_examples",
    "read_predict",
    "signature_for_predict",
    "signature_name",
    "write_classify",
    "write_error",
    "write_predict",
    "write_regress",
    "write_status",
]

MAX_ERROR_LENGTH: Final = 1 << 16
"""Characters of an error message that are sent."""

_BYTES_SUFFIX: Final = "_bytes"


def write_predict(outputs: Mapping[str, np.ndarray], row_format: bool) -> bytes:
    """The outputs of a Predict, in the format of its request.

    Raises:
        InvalidArgument: a type JSON cannot carry, or outputs that do not make rows.
    """
    if not outputs:
        raise InvalidArgument("Cannot convert empty tensor map to JSON")
    return _write_rows(outputs) if row_format else _write_columns(outputs)


def write_classify(results: Sequence[ClassifiedExample]) -> bytes:
    """The classes of each example, as lists of label and score.

    Raises:
        InvalidArgument: there is no result.
    """
    if not results:
        raise InvalidArgument("Cannot convert empty ClassificationResults to JSON")
    examples = [
        b", ".join(
            b"[" + quote(label) + b", " + score + b"]"
            for label, score in zip(result.labels, write_floats(result.scores), strict=True)
        )
        for result in results
    ]
    rows = b", ".join(b"[" + classes + b"]" for classes in examples)
    return b'{\n    "results": [' + rows + b"\n    ]\n}"


def write_regress(values: Sequence[float]) -> bytes:
    """The value of each example.

    Raises:
        InvalidArgument: there is no value.
    """
    if not len(values):
        raise InvalidArgument("Cannot convert empty RegressionResults to JSON")
    return b'{\n    "results": [' + b", ".join(write_floats(values)) + b"]\n}"


def write_status(statuses: Sequence[VersionStatus]) -> bytes:
    """The states of a model's versions, as protobuf prints a GetModelStatusResponse."""
    versions = b",\n".join(map(_version_status, statuses))
    listed = b"[\n" + versions + b"\n ]" if versions else b"[]"
    return b'{\n "model_version_status": ' + listed + b"\n}\n"


def write_error(message: str) -> bytes:
    """An error's body; surrogate escapes in the message leave as the bytes they stand for.

    A message may quote a name that the client sent; one without an end is cut.
    """
    text = _bytes_of(message[:MAX_ERROR_LENGTH])
    if len(message) > MAX_ERROR_LENGTH:
        text += b"...TRUNCATED"
    return b'{\n    "error": ' + quote(text) + b"\n}"


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _string_writer(name: str) -> Callable[[bytes], bytes]:
    return quote_base64 if name.endswith(_BYTES_SUFFIX) else quote


def _write_columns(outputs: Mapping[str, np.ndarray]) -> bytes:
    columns = {name: write_array(array, _string_writer(name)) for name, array in outputs.items()}
    if len(columns) == 1:
        (text,) = columns.values()
    else:
        members = (quote(_bytes_of(name)) + b": " + text for name, text in columns.items())
        text = b"{\n        " + b",\n        ".join(members) + b"\n    }"
    return b'{\n    "outputs": ' + text + b"\n}"


def _write_rows(outputs: Mapping[str, np.ndarray]) -> bytes:
    if not _batch_size(outputs):
        return b'{\n    "predictions": []\n}'
    if len(outputs) > 1:
        return b'{\n    "predictions": [' + _row_objects(outputs) + b"\n    ]\n}"
    ((name, array),) = outputs.items()
    return b'{\n    "predictions": ' + write_array(array, _string_writer(name))[:-1] + b"\n    ]\n}"


def _batch_size(outputs: Mapping[str, np.ndarray]) -> int:
    size = -1
    for name, array in outputs.items():
        if not array.ndim:
            raise InvalidArgument(f"Tensor name: {name} has no shape information ")
        rows = len(array)
        if size not in (-1, rows):
            raise InvalidArgument(
                f"Tensor name: {name} has inconsistent batch size: {rows} expecting: {size}"
            )
        size = rows
    return size


def _row_objects(outputs: Mapping[str, np.ndarray]) -> bytes:
    columns = [write_rows(array, _string_writer(name)) for name, array in outputs.items()]
    members = (b"            " + quote(_bytes_of(name)) + b": " for name in outputs)
    slots = b",\n".join(member.replace(b"%", b"%%") + b"%b" for member in members)
    row = b"\n        {\n" + slots + b"\n        }"
    return b",".join(row % values for values in zip(*columns, strict=True))


def _version_status(status: VersionStatus) -> bytes:
    return (
        b'  {\n   "version": "%d",\n   "state": %b,\n'
        b'   "status": {\n    "error_code": %b,\n    "error_message": %b\n   }\n  }'
    ) % (
        status.version,
        _protobuf_string(status.state),
        _protobuf_string(status.error_code.name),
        _protobuf_string(status.error_message),
    )


# What protobuf's JSON printer escapes: control characters of both kinds, quotation mark,
# backslash, what HTML would read as a tag, and what a terminal would not show.
_PROTOBUF_ESCAPED: Final = re.compile(
    '[\x00-\x1f"\\\\<>\x7f-\x9f\xad\u0600-\u0603\u06dd\u070f\u17b4\u17b5\u200b-\u200f'
    "\u2028-\u202e\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb]"
)
_PROTOBUF_ESCAPES: Final[Mapping[str, str]] = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


def _protobuf_string(text: str) -> bytes:
    escaped = _PROTOBUF_ESCAPED.sub(_escape_as_protobuf, text)
    return b'"' + escaped.encode("utf-8", "replace") + b'"'


def _escape_as_protobuf(match: re.Match[str]) -> str:
    character = match[0]
    return _PROTOBUF_ESCAPES.get(character) or f"\\u{ord(character):04x}"
