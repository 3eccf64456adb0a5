"""Small bodies in one go: certain where it answers, and silent where it is not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from salver.apis.rest_codec import read_document, read_predict, signature_name
from salver.apis.rest_predict import PredictBody
from salver.apis.rest_small import MAX_BYTES, SmallReader, read_small, small_signature_name
from salver.dtypes import DType
from salver.signature import Signature, TensorInfo


def signature_of(**dtypes: DType) -> Signature:
    inputs = {name: TensorInfo(f"{name}:0", dtype) for name, dtype in dtypes.items()}
    return Signature(inputs, {"y": TensorInfo("y:0", DType.FLOAT)})


SIGNATURES = {
    "float": signature_of(x=DType.FLOAT),
    "double": signature_of(x=DType.DOUBLE),
    "int64": signature_of(x=DType.INT64),
    "uint64": signature_of(x=DType.UINT64),
    "uint8": signature_of(x=DType.UINT8),
    "bool": signature_of(x=DType.BOOL),
    "string": signature_of(x=DType.STRING),
    "half": signature_of(x=DType.HALF),
    "two": signature_of(a=DType.FLOAT, x=DType.STRING),
    "two numbers": signature_of(a=DType.INT32, x=DType.FLOAT),
    "b64": signature_of(b64=DType.STRING),
    "b64 and x": signature_of(b64=DType.FLOAT, x=DType.FLOAT),
}


def read(text: bytes, signature: Signature) -> PredictBody | None:
    """The short reading as the long one would give it."""
    members = read_small(text)
    if members is None or small_signature_name(members) is None:
        return None
    found = SmallReader(signature).read(text, members)
    if found is None:
        return None
    tensors, row_format = found
    return PredictBody(dict(zip(signature.inputs, tensors, strict=True)), row_format)


def assert_same(found: PredictBody, expected: PredictBody) -> None:
    assert found.row_format == expected.row_format
    assert found.inputs.keys() == expected.inputs.keys()
    for name, tensor in expected.inputs.items():
        assert found.inputs[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found.inputs[name], tensor, strict=True)


# Text, not values: what matters is spelled in more ways than a serializer knows.
NUMBERS = st.one_of(
    st.integers(-300, 300).map(str),
    st.integers(-(2**65), 2**65).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["-0", "-0.0", "1E5", "1e400", "-1e400", "10e308", "1e39", "1e-400", "01"]),
    st.sampled_from(["NaN", "Infinity", "-Inf", "9007199254740993", "18446744073709551616"]),
)
TEXTS = st.one_of(
    st.sampled_from(['"a"', '"b64"', '"YQ=="', '"YQ"', '"a\\"b"', '"\\u0041"', '"\\u0000"', '"é"']),
    st.sampled_from(['"\\ud800"', '"[1,2]"', '"instances"', '"x"', '""', '"\xff"']),
)
SCALARS = st.one_of(NUMBERS, NUMBERS, TEXTS, st.sampled_from(["true", "false", "null"]))
KEYS = st.sampled_from(
    ['"x"', '"a"', '"b64"', '"b"', '"x\\u0000"', '"\\u0078"', '"instances"', '"\\"x"']
)


def lists(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(values, max_size=4).map(lambda found: "[" + ",".join(found) + "]")


def objects(keys: st.SearchStrategy[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.tuples(keys, values).map(" : ".join)
    return st.lists(members, max_size=3).map(lambda found: "{" + ", ".join(found) + "}")


VALUES = st.recursive(SCALARS, lambda inner: lists(inner) | objects(KEYS, inner), max_leaves=8)
B64 = TEXTS.map(lambda text: f'{{"b64":{text}}}')
ROWS = lists(objects(KEYS, SCALARS | lists(NUMBERS) | B64))
TWO = st.tuples(NUMBERS, NUMBERS | TEXTS | B64, st.sampled_from([(0, 1), (1, 0)])).map(
    lambda row: "{" + ",".join((f'"a":{row[0]}', f'"x" :{row[1]}')[at] for at in row[2]) + "}"
)
TENSORS = st.one_of(
    lists(NUMBERS), lists(lists(NUMBERS)), lists(B64 | TEXTS), ROWS, lists(TWO), TWO, VALUES
)
MEMBERS = st.one_of(
    TENSORS.map('"instances":{}'.format),
    TENSORS.map('"inputs": {}'.format),
    objects(KEYS, TENSORS).map('"inputs":{}'.format),
    TENSORS.map('"\\u0069nstances":{}'.format),
    st.sampled_from(['"signature_name":"serving_default"', '"signature_name" : ""']),
    st.sampled_from(['"signature_name":1', '"signature_name":[]', '"signature_nam\\u0065":"b"']),
    st.tuples(KEYS, VALUES).map(":".join),
)
BODIES = st.tuples(
    st.sampled_from(["", "", "", "", " ", "\n", "\xef\xbb\xbf"]),
    (MEMBERS.map(lambda only: [only]) | st.lists(MEMBERS, max_size=3)).map(
        lambda found: "{" + ",".join(found) + "}"
    ),
    st.sampled_from(["", "", "", "", "", " \n", "x", "\0", "{}", "}"]),
).map(lambda parts: "".join(parts).encode("latin-1"))


@pytest.mark.parametrize("signature", SIGNATURES.values(), ids=SIGNATURES)
@given(text=BODIES)
@example(text=b'{"instances":[1],"instances":[2]}')
@example(text=b'{"instances":[{"x":1,"x":2}]}')
@example(text=b'{"instances":[{"b64":"YQ==","b64":"Yg=="}]}')
@example(text=b'{"instances":[{"b64":"YQ=="}]}')
@example(text=b'{"inputs":{"b64":"YQ=="}}')
@example(text=b'{"inputs":{"b64":{"b64":"YQ=="}}}')
@example(text=b'{"instances":[{"x":{"b64":"YQ=="},"a":1}]}')
@example(text=b'{"signature_name":"a","signature_name":"b","inputs":1}')
@example(text=b'{"instances":[]}')
@example(text=b'{"instances":[[]]}')
@example(text=b'{"inputs":[]}')
def test_short_reading_is_the_long_one(signature: Signature, text: bytes):
    """Whatever the body, what is read in one go is what is read with care."""
    found = read(text, signature)
    if found is None:
        return

    document = read_document(text)
    assert small_signature_name(read_small(text)) == signature_name(document)
    assert_same(found, read_predict(document, signature))


PLAIN: Mapping[str, list[bytes]] = {
    "float": [
        b'{"instances":[1.0,2.0,5.0]}',
        b'{"instances": [1, 2.5, 1e300]}',
        b'{"signature_name": "s", "instances": [[1.0, 2.0], [5, 6]]}',
        b'{"instances":[{"x": [1.0]}, {"x": [2.0]}], "signature_name": "s"}',
        b'{"inputs":[1.0,2.0,5.0]}',
        b'{"inputs":{"x":[[1.0],[2.0]]}}',
        b' {"inputs": 4.5}\n',
    ],
    "int64": [b'{"instances":[1,-9223372036854775808]}'],
    "bool": [b'{"instances":[true,false]}'],
    "string": [
        b'{"instances":["a","\xc3\xa9","\\n"]}',
        b'{"instances":[{"b64":"YQ=="},"a"]}',
        b'{"inputs":{"x":{"b64":"YQ"}}}',
    ],
    "two": [
        b'{"instances":[{"x":"t","a":1.0},{"a":2,"x":{"b64":"YQ=="}}]}',
        b'{"inputs":{"x":["t"],"a":[1.0]}}',
    ],
}


@pytest.mark.parametrize(
    ("signature", "text"),
    [(SIGNATURES[name], text) for name, texts in PLAIN.items() for text in texts],
)
def test_what_clients_send_is_read_in_one_go(signature: Signature, text: bytes):
    """The usual spellings of the usual values need no second look."""
    found = read(text, signature)

    assert found is not None
    assert_same(found, read_predict(read_document(text), signature))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[1.0]",
        b'{"instances":[1.0]} and more',
        b'{"instances":[NaN]}',
        b'{"instances":[1.0],"instances":[2.0]}',
        b'{"instances":[{"x":1.0,"x":2.0}]}',
        b'{"instances":[1.0],"inputs":[1.0]}',
        b'{"instances":[1.0],"other":1}',
        b'{"instances":[true]}',
        b'{"instances":[]}',
        b'{"instances":[[1.0],[1.0,2.0]]}',
        b'{"instances":[{"y":1.0}]}',
        b'{"signature_name":1,"instances":[1.0]}',
        b'{"instances":[' + b"1," * MAX_BYTES + b"1]}",
    ],
)
def test_what_is_not_plain_is_left_to_the_long_way(text: bytes):
    """Oddities and errors have their reader; here there is no answer at all."""
    assert read(text, SIGNATURES["float"]) is None
