"""REST requests to tensors and examples: the quick reading and the exact one say the same.

    make fuzz ARGS="--target rest_predict"

An input is the body of a request, read for several signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from fuzz.engine import Target, with_words
from fuzz.json_target import WORDS as JSON_WORDS
from salver.apis.json_reader import parse
from salver.apis.rest_codec import write_error
from salver.apis.rest_document import Document, read_document, signature_name
from salver.apis.rest_examples import read_examples
from salver.apis.rest_predict import read_predict
from salver.dtypes import DType
from salver.errors import ServingError
from salver.signature import Signature, TensorInfo

FILES = ("salver/apis/rest_", "apis/examples.py", "apis/json_excerpt.py")

KINDS: tuple[Mapping[str, DType], ...] = (
    {"x": DType.FLOAT},
    {"x": DType.INT64},
    {"x": DType.STRING},
    {"x": DType.BOOL},
    {"x": DType.UINT8},
    {"a": DType.FLOAT, "b": DType.STRING},
    {"a": DType.INT32, "b": DType.DOUBLE, "c": DType.UINT64},
)
SIGNATURES = tuple(
    Signature({name: TensorInfo(f"{name}:0", dtype) for name, dtype in kinds.items()}, {})
    for kinds in KINDS
)

MANY = b"[" + b",".join(b"%d.5" % number for number in range(300)) + b"]"
WORDS = (
    *JSON_WORDS,
    *(b'{"instances":', b'"instances":', b'{"inputs":', b'"inputs":', b'"x":', b'"b":', b'"c":'),
    *(
        b'"signature_name":"s",',
        b'"signature_name":1,',
        b'{"b64":"YWI="}',
        b'{"b64":"YQ"}',
        b'"b64"',
    ),
    *(
        b'{"b64":"!"}',
        b'{"x":1}',
        b'{"a":1,"b":"t"}',
        b'{"a":1,"b":2,"c":3}',
        b'"ab"',
        b"[[1,2],[3,4]]",
    ),
    *(b'{"examples":[{"f":1}]}', b'"examples":', b'"context":{"g":1.5},', b'{"f":["a","b"]}'),
    *(
        b'{"f":[true,1]}',
        b"300",
        b"-1",
        b"2147483648",
        b"1.0",
        MANY,
        b"[" + MANY + b"," + MANY + b"]",
    ),
)


def run(data: bytes) -> None:
    """Read an input for everything that it may be."""
    try:
        tree = parse(data)
    except ServingError:
        tree = None
    outcome_of(lambda: signature_name(read_document(data)))
    for signature in SIGNATURES:
        compare(data, tree, partial(tensors_of, signature))
    compare(data, tree, lambda document: read_examples(document, "classify"))


def compare(data: bytes, tree: Any, read: Callable[[Document], object]) -> None:
    """Both readings have one outcome, value or error."""
    quick = outcome_of(lambda: read(read_document(data)))
    if tree is None or type(tree).__name__ != "JsonObject":
        if not isinstance(quick, str):
            raise AssertionError(f"{quick} is read of what is no JSON object")
        return
    exact = outcome_of(lambda: read(Document(data, None, tree)))
    if quick != exact:
        raise AssertionError(f"the quick reading says {quick}, the exact one {exact}")


def outcome_of(read: Callable[[], object]) -> object:
    """What comes of it; of an error its words, which have to make a body."""
    try:
        return read()
    except ServingError as error:
        write_error(error.message)
        return f"{error.code.name}: {error.message}"


def tensors_of(signature: Signature, document: Document) -> object:
    """The tensors as something that is equal to its equals."""
    body = read_predict(document, signature)
    tensors = {name: comparable(tensor) for name, tensor in body.inputs.items()}
    return body.row_format, tensors


def comparable(array: np.ndarray) -> object:
    """An array's kind, shape and values."""
    values = list(array.flat) if array.dtype == object else array.tobytes()
    return array.dtype, array.shape, values


TARGET = Target(run, with_words(WORDS), FILES)
