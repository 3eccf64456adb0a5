"""Classify and Regress requests over REST: features to examples."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.example import example_pb2

from salver.apis.json_reader import parse
from salver.apis.rest_codec import read_document, read_examples
from salver.apis.rest_document import Document
from salver.errors import InvalidArgument, ServingError


def documents(text: bytes) -> list[Document]:
    """The document as it is read, and as it is read when only the exact reader takes it."""
    return [read_document(text), Document(text, None, parse(text))]


def examples(text: str) -> list[example_pb2.Example]:
    quick, exact = (
        [example_pb2.Example.FromString(raw) for raw in read_examples(document, "classify")]
        for document in documents(text.encode())
    )
    assert quick == exact
    return quick


def built(**features: list) -> example_pb2.Example:
    example = example_pb2.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        if values:
            kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
            getattr(feature, kind).value.extend(values)
    return example


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"x": 1}]', [built(x=[1])]),
        ('[{"x": 1.0}]', [built(x=[1.0])]),
        ('[{"x": [1.5, 2e0]}]', [built(x=[1.5, 2.0])]),
        ('[{"x": [true, 5, false]}]', [built(x=[1, 5, 0])]),
        ('[{"x": -9223372036854775808}]', [built(x=[-(2**63)])]),
        ('[{"x": "a"}, {"y": ["b", "\\u00e9"]}]', [built(x=[b"a"]), built(y=[b"b", "é".encode()])]),
        ('[{"x": ["a", {"b64": "/w"}]}]', [built(x=[b"a", b"\xff"])]),
        ('[{"x": []}]', [built(x=[])]),
        ("[{}]", [built()]),
        ('[{"x": 1, "x": "last"}]', [built(x=[b"last"])]),
        ('[{"b64": "eA=="}]', [built(b64=[b"eA=="])]),
        ('[{"x\\u0000y": 1}]', [built(x=[1])]),
        ('[{"x": 18446744073709551616}]', [built(x=[2.0**64])]),
    ],
)
def test_features_are_typed_by_their_spelling(text, expected):
    """Literals decide the kind of a feature; a single value is a list of one."""
    assert examples(f'{{"examples": {text}}}') == expected


def test_context_is_shared_and_overridden():
    """Every example carries the context's features unless it says otherwise."""
    got = examples('{"context": {"a": 1, "b": 2.5}, "examples": [{"a": 7}, {"c": "x"}]}')

    assert got == [built(a=[7], b=[2.5]), built(a=[1], b=[2.5], c=[b"x"])]


def test_raw_bytes_are_kept():
    """A string that is no UTF-8 reaches the feature as it is."""
    (raw,) = read_examples(read_document(b'{"examples": [{"x": "\xff"}]}'), "regress")

    feature = example_pb2.Example.FromString(raw).features.feature["x"]
    assert list(feature.bytes_list.value) == [b"\xff"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{}",
            "JSON Value: {} When method is classify, key 'examples' is expected and was not found",
        ),
        (
            '{"examples": 1}',
            (
                'JSON Value: {\n    "examples": 1\n}'
                " Expecting 'examples' value to be an list/array"
            ),
        ),
        (
            '{"examples": []}',
            "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array",
        ),
        ('{"examples": [1]}', "Example must be JSON object but got JSON Number"),
        ('{"examples": [{}, null]}', "Example must be JSON object but got JSON Null"),
        ('{"context": true, "examples": 1}', "Example must be JSON object but got JSON True"),
        (
            '{"examples": [{"x": null}]}',
            "Feature: x has element with unexpected JSON type: Null",
        ),
        (
            '{"examples": [{"x": [1, [2]]}]}',
            "Feature: x has element with unexpected JSON type: Array",
        ),
        (
            '{"examples": [{"x": {"y": 1}}]}',
            "Feature: x has element with unexpected JSON type: Object",
        ),
        (
            '{"examples": [{"x": [1, 2.5]}]}',
            "Unexpected element type in feature: x expecting type: int64",
        ),
        (
            '{"examples": [{"x": [2.5, true]}]}',
            "Unexpected element type in feature: x expecting type: float",
        ),
        (
            '{"examples": [{"x": [{"b64": "YQ"}, 1]}]}',
            "Unexpected element type in feature: x expecting type: bytes",
        ),
        (
            '{"examples": [{"x": [1, 9223372036854775808]}]}',
            "Feature: x has uint64_t element. Only int64_t is supported.",
        ),
        ('{"examples": [{"x": {"b64": "!"}}]}', "Unable to base64 decode"),
        (
            '{"examples": [{"x": null, "x": 1}]}',
            "Feature: x has element with unexpected JSON type: Null",
        ),
    ],
)
@pytest.mark.parametrize("method", ["classify", "regress"])
def test_refuses(text, message, method):
    """Each mistake is answered with TensorFlow Serving's text, the same for both methods."""
    for document in documents(text.encode()):
        with pytest.raises(InvalidArgument) as caught:
            read_examples(document, method)

        assert caught.value.message == message


SCALARS = st.sampled_from([1, -1, 2**63, 2**64 - 1, 1.5, True, False, None, "a", {"b64": "YQ"}, {}])
FEATURES = st.dictionaries(st.sampled_from(["x", "y"]), SCALARS | st.lists(SCALARS, max_size=3))


def outcome(document: Document) -> list[bytes] | str:
    try:
        return read_examples(document, "classify")
    except ServingError as error:
        return str(error)


@settings(max_examples=200)
@given(
    st.fixed_dictionaries(
        {"examples": st.lists(FEATURES | SCALARS, max_size=3)}, optional={"context": FEATURES}
    )
)
def test_quick_and_exact_readings_agree(request_document):
    """Whatever the request, reading it quickly or exactly comes to the same."""
    quick, exact = documents(json.dumps(request_document).encode())

    assert outcome(quick) == outcome(exact)
