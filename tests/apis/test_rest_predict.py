"""Predict requests over REST: what becomes of the tensors, and every way they can be wrong."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from salver.apis.json_reader import parse
from salver.apis.rest_codec import read_document, read_predict
from salver.apis.rest_document import Document
from salver.dtypes import DType
from salver.errors import Code, ServingError
from salver.signature import Signature, TensorInfo

FLOAT, INT32, STRING = DType.FLOAT, DType.INT32, DType.STRING


def signature(**inputs: DType) -> Signature:
    return Signature({name: TensorInfo(f"{name}:0", dtype) for name, dtype in inputs.items()}, {})


def outcome(text: bytes, wanted: Signature, *, exactly: bool = False):
    """What a request comes to, as something that compares: tensors, or code and message."""
    try:
        document = Document(text, None, parse(text)) if exactly else read_document(text)
        body = read_predict(document, wanted)
    except ServingError as error:
        return error.code, error.message
    return body.row_format, {
        name: (array.dtype, array.shape, array.tolist()) for name, array in body.inputs.items()
    }


ACCEPTED = [
    ('{"instances": [1, 2, 5]}', {"x": FLOAT}, {"x": np.float32([1, 2, 5])}),
    ('{"instances": [1, 2.5, 3e1]}', {"x": FLOAT}, {"x": np.float32([1, 2.5, 30])}),
    ('{"instances": [[1, 2], [3, 4]]}', {"x": INT32}, {"x": np.int32([[1, 2], [3, 4]])}),
    ('{"instances": [[[1]], [[2]]]}', {"x": DType.DOUBLE}, {"x": np.float64([[[1]], [[2]]])}),
    ('{"instances": [[], []]}', {"x": FLOAT}, {"x": np.zeros((2, 0), np.float32)}),
    ('{"instances": [1e39, -1e39, 1e-60]}', {"x": FLOAT}, {"x": np.float32([np.inf, -np.inf, 0])}),
    (
        '{"instances": [NaN, Inf, -Infinity]}',
        {"x": FLOAT},
        {"x": np.float32([np.nan, np.inf, -np.inf])},
    ),
    ('{"instances": [18446744073709551616]}', {"x": DType.DOUBLE}, {"x": np.float64([2.0**64])}),
    ('{"instances": [300, -1]}', {"x": DType.UINT8}, {"x": np.uint8([44, 255])}),
    ('{"instances": [200, -200]}', {"x": DType.INT8}, {"x": np.int8([-56, 56])}),
    ('{"instances": [40000]}', {"x": DType.INT16}, {"x": np.int16([-25536])}),
    (
        '{"instances": [9007199254740993, -0]}',
        {"x": DType.INT64},
        {"x": np.int64([9007199254740993, 0])},
    ),
    ('{"instances": [4294967295]}', {"x": DType.UINT32}, {"x": np.uint32([2**32 - 1])}),
    ('{"instances": [18446744073709551615]}', {"x": DType.UINT64}, {"x": np.uint64([2**64 - 1])}),
    ('{"instances": [true, false]}', {"x": DType.BOOL}, {"x": np.bool_([True, False])}),
    (
        '{"instances": ["a", "\\u00e9", ""]}',
        {"x": STRING},
        {"x": np.array([b"a", b"\xc3\xa9", b""], object)},
    ),
    (
        '{"instances": [["a\\u0000"], ["b"]]}',
        {"x": STRING},
        {"x": np.array([[b"a\0"], [b"b"]], object)},
    ),
    (
        '{"instances": [{"b64": "YWI="}, "c"]}',
        {"x": STRING},
        {"x": np.array([b"ab", b"c"], object)},
    ),
    (
        '{"instances": [["c", {"b64": "YWI"}]]}',
        {"x": STRING},
        {"x": np.array([[b"c", b"ab"]], object)},
    ),
    ('{"instances": [{"x": 1}, {"x": 2}]}', {"x": FLOAT}, {"x": np.float32([1, 2])}),
    ('{"instances": [{"x": {"b64": "YQ=="}}]}', {"x": STRING}, {"x": np.array([b"a"], object)}),
    (
        '{"instances": [{"a": 1, "b": ["x", "y"]}, {"b": ["z", "w"], "a": 2}]}',
        {"a": INT32, "b": STRING},
        {"a": np.int32([1, 2]), "b": np.array([[b"x", b"y"], [b"z", b"w"]], object)},
    ),
    (
        '{"instances": [{"a": 1, "a": 2, "b": 3}]}',
        {"a": INT32, "b": INT32},
        {"a": np.int32([1]), "b": np.int32([3])},
    ),
    ('{"instances": [{"a\\u0000z": 1}]}', {"a": INT32}, {"a": np.int32([1])}),
    ('{"instances": [1], "instances": [2, 3]}', {"x": FLOAT}, {"x": np.float32([1])}),
    (
        '{"instances": [1], "other": [[[]], {"inputs": 1}], "id": null} tail',
        {"x": FLOAT},
        {"x": np.float32([1])},
    ),
    ('{"inputs": 5}', {"x": FLOAT}, {"x": np.float32(5)}),
    ('{"inputs": "text"}', {"x": STRING}, {"x": np.array(b"text", object)}),
    ('{"inputs": true}', {"x": DType.BOOL}, {"x": np.bool_(True)}),
    ('{"inputs": {"b64": "YQ"}}', {"x": STRING}, {"x": np.array(b"a", object)}),
    ('{"inputs": [1, 2]}', {"x": INT32}, {"x": np.int32([1, 2])}),
    ('{"inputs": []}', {"x": INT32}, {"x": np.zeros(0, np.int32)}),
    ('{"inputs": {"x": [[1]]}}', {"x": INT32}, {"x": np.int32([[1]])}),
    ('{"inputs": {"x": 1, "extra": {"b64": "YQ=="}}}', {"x": INT32}, {"x": np.int32(1)}),
    (
        '{"inputs": {"a": [1, 2], "b": {"b64": "/w=="}, "a": 7}}',
        {"a": INT32, "b": STRING},
        {"a": np.int32([1, 2]), "b": np.array(b"\xff", object)},
    ),
    ('{"inputs": {"b64": 5}}', {"b64": FLOAT}, {"b64": np.float32(5)}),
    (
        '{"instances": [{"b64": "YQ=="}]}',
        {"x": STRING, "y": STRING},
        {"x": np.array([b"a"], object)},
    ),
]

EXACT_ERRORS = [
    ("{}", {"x": FLOAT}, "Missing 'inputs' or 'instances' key"),
    (
        '{"instances": [1], "inputs": 2}',
        {"x": FLOAT},
        (
            'JSON Value: {\n    "instances": [1],\n    "inputs": 2\n}'
            " Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        ),
    ),
    (
        '{"instances": 1}',
        {"x": FLOAT},
        "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array",
    ),
    (
        '{"instances": []}',
        {"x": FLOAT},
        "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array",
    ),
    (
        '{"instances": [1]}',
        {"x": FLOAT, "y": FLOAT},
        (
            "instances is a plain list, but expecting list of objects as multiple input tensors"
            " required as per tensorinfo_map"
        ),
    ),
    (
        '{"inputs": [1]}',
        {"x": FLOAT, "y": FLOAT},
        (
            "inputs is a plain value/list, but expecting an object as multiple input tensors"
            " required as per tensorinfo_map"
        ),
    ),
    (
        '{"inputs": {"x": 1}}',
        {"x": FLOAT, "y": FLOAT},
        "Missing named input: y in 'inputs' object.",
    ),
    (
        '{"inputs": 1.5}',
        {"x": INT32},
        "JSON Value: 1.5 Type: Number is not of expected type: int32",
    ),
    (
        '{"inputs": 1.0}',
        {"x": INT32},
        "JSON Value: 1.0 Type: Number is not of expected type: int32",
    ),
    (
        '{"inputs": 2147483648}',
        {"x": DType.UINT8},
        "JSON Value: 2147483648 Type: Number is not of expected type: uint8",
    ),
    (
        '{"inputs": -1}',
        {"x": DType.UINT32},
        "JSON Value: -1 Type: Number is not of expected type: uint32",
    ),
    (
        '{"inputs": -1}',
        {"x": DType.UINT64},
        "JSON Value: -1 Type: Number is not of expected type: uint64",
    ),
    (
        '{"inputs": 9223372036854775808}',
        {"x": DType.INT64},
        "JSON Value: 9223372036854775808 Type: Number is not of expected type: int64",
    ),
    (
        '{"inputs": null}',
        {"x": FLOAT},
        "JSON Value: null Type: Null is not of expected type: float",
    ),
    (
        '{"inputs": true}',
        {"x": FLOAT},
        "JSON Value: true Type: True is not of expected type: float",
    ),
    (
        '{"inputs": false}',
        {"x": INT32},
        "JSON Value: false Type: False is not of expected type: int32",
    ),
    (
        '{"inputs": "1"}',
        {"x": FLOAT},
        'JSON Value: "1" Type: String is not of expected type: float',
    ),
    (
        '{"inputs": 1}',
        {"x": DType.BOOL},
        "JSON Value: 1 Type: Number is not of expected type: bool",
    ),
    ('{"inputs": 1}', {"x": STRING}, "JSON Value: 1 Type: Number is not of expected type: string"),
    (
        '{"inputs": {"b64": "YQ=="}}',
        {"x": DType.DOUBLE},
        'JSON Value: {\n    "b64": "YQ=="\n} Type: Object is not of expected type: double',
    ),
    (
        '{"inputs": {"x": {"b64": 1}}}',
        {"x": STRING},
        'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data',
    ),
    (
        '{"inputs": {"x": {"b64": "YQ==", "b64": "YQ=="}}}',
        {"x": STRING},
        (
            'JSON Value: {\n    "b64": "YQ==",\n    "b64": "YQ=="\n}'
            " not formatted correctly for base64 data"
        ),
    ),
    ('{"inputs": {"x": [{"b64": "!"}]}}', {"x": STRING}, "Unable to base64 decode"),
    (
        '{"inputs": [[1, 2], [3]]}',
        {"x": FLOAT},
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    (
        '{"inputs": [1, [2]]}',
        {"x": FLOAT},
        "Encountered list at unexpected level: 1 expected < 1",
    ),
    (
        '{"inputs": [[1], 2]}',
        {"x": FLOAT},
        "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
    ),
    (
        '{"inputs": [[[1]], [2, "a"]]}',
        {"x": FLOAT},
        "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
    ),
    (
        '{"instances": [1, "a"]}',
        {"x": FLOAT},
        (
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT:"
            ' JSON Value: "a" Type: String is not of expected type: float'
        ),
    ),
    (
        '{"instances": [[1, 2], [1, 2, 3]]}',
        {"x": FLOAT},
        (
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT:"
            " Expecting tensor size: 2 but got: 3"
        ),
    ),
    (
        '{"instances": [[1, 2], [[1], [2]]]}',
        {"x": FLOAT},
        (
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT:"
            " Expecting shape [2] but got: [2,1]"
        ),
    ),
    (
        '{"instances": [1, {"x": 2}]}',
        {"x": FLOAT},
        "Expecting value/list but got object at item 1 of input list",
    ),
    (
        '{"instances": [{"x": 1}, 2]}',
        {"x": FLOAT},
        "Expecting object but got list at item 1 of input list",
    ),
    (
        '{"instances": [{"x": 1}, {"b64": "YQ=="}]}',
        {"x": FLOAT},
        "Expecting object but got list at item 1 of input list",
    ),
    (
        '{"instances": [{"x": 1}]}',
        {"x": FLOAT, "a": FLOAT},
        (
            "Failed to process element: 0 of 'instances' list. JSON object:"
            ' {\n    "x": 1\n} keys must be equal to: a,x'
        ),
    ),
    (
        '{"instances": [{}]}',
        {"x": FLOAT},
        (
            "Failed to process element: 0 of 'instances' list."
            " JSON object: {} keys must be equal to: x"
        ),
    ),
    (
        '{"instances": [{"x": 1, "z": 2}]}',
        {"x": FLOAT},
        (
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT:"
            " JSON object: does not have named input: z"
        ),
    ),
    (
        '{"instances": [{"x": 1}, {"x": null}]}',
        {"x": FLOAT},
        (
            "Failed to process element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT:"
            " JSON Value: null Type: Null is not of expected type: float"
        ),
    ),
    (
        '{"instances": [{"x": [1]}, {"x": 1}]}',
        {"x": FLOAT},
        (
            "Failed to process element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT:"
            " Expecting shape [1] but got: []"
        ),
    ),
    (
        '{"instances": [1]}',
        {"x": DType.HALF},
        (
            "Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED:"
            " Conversion of JSON Value: 1 to type: half"
        ),
    ),
]


def padded(text: str) -> str:
    """The same request behind an ignored member, long enough for the reader of large arrays."""
    return text.replace("{", '{"padding": "' + "p" * 3000 + '", ', 1)


@pytest.mark.parametrize(("text", "inputs", "tensors"), ACCEPTED)
@pytest.mark.parametrize("exactly", [False, True])
@pytest.mark.parametrize("dress", [str, padded])
def test_accepts(text, inputs, tensors, exactly, dress):
    """Each way of writing tensors arrives as the tensors meant, quickly or exactly read."""
    row_format = "instances" in text.partition(":")[0]
    got = outcome(dress(text).encode(), signature(**inputs), exactly=exactly)

    expected = {name: (array.dtype, array.shape, array.tolist()) for name, array in tensors.items()}
    assert repr(got) == repr((row_format, expected))


@pytest.mark.parametrize(("text", "inputs", "message"), EXACT_ERRORS)
@pytest.mark.parametrize("exactly", [False, True])
def test_refuses(text, inputs, message, exactly):
    """Each mistake is answered with TensorFlow Serving's text for it."""
    got = outcome(text.encode(), signature(**inputs), exactly=exactly)

    assert got == (Code.INVALID_ARGUMENT, message)


def test_types_that_json_cannot_carry_are_unimplemented():
    """In the columnar format the refusal keeps its own code."""
    got = outcome(b'{"inputs": [1]}', signature(x=DType.BFLOAT16))

    assert got == (Code.UNIMPLEMENTED, "Conversion of JSON Value: 1 to type: bfloat16")


def test_too_many_dimensions_are_refused():
    """Nesting beyond what an array can have is an invalid argument, however deep."""
    deep = b'{"inputs": ' + b"[" * 100_000 + b"1" + b"]" * 100_000 + b"}"
    code, message = outcome(deep, signature(x=FLOAT))

    assert code == Code.INVALID_ARGUMENT
    assert message == "The value of input x has more dimensions than a tensor can have"


def test_raw_bytes_in_strings_reach_the_tensor():
    """A string that is no UTF-8 is passed on as it is."""
    got = outcome(b'{"instances": ["\xff\xfe"]}', signature(x=STRING))

    assert got[1]["x"][2] == [b"\xff\xfe"]


@pytest.mark.parametrize(
    ("encoded", "data"),
    [
        ("", b""),
        ("YWJj", b"abc"),
        ("YWI=", b"ab"),
        ("YWI", b"ab"),
        ("YWI.", b"ab"),
        ("YQ==", b"a"),
        ("YQ", b"a"),
        ("YQ..", b"a"),
        ("Y W\\nJ j", b"abc"),
        ("YQ= =", b"a"),
        ("+/+/", b"\xfb\xff\xbf"),
        ("Y", None),
        ("A===", None),
        ("YQ=", None),
        ("YWJj=", None),
        ("YWJj====", None),
        ("YQ==YQ==", None),
        ("Y=Q=", None),
        ("-_-_", None),
        ("YW!j", None),
        ("YWJjYW!j", None),
        ("\\u00e9\\u00e9", None),
    ],
)
@pytest.mark.parametrize("exactly", [False, True])
def test_base64_is_read_leniently(encoded, data, exactly):
    """Padding may be missing or dots, white space does not count, all else is an error."""
    text = f'{{"inputs": {{"b64": "{encoded}"}}}}'.encode()
    got = outcome(text, signature(x=STRING), exactly=exactly)

    if data is None:
        assert got == (Code.INVALID_ARGUMENT, "Unable to base64 decode")
    else:
        assert got[1]["x"][2] == data


NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)


@given(
    nps.arrays(object, nps.array_shapes(max_dims=3, max_side=5), elements=NUMBERS),
    st.sampled_from([DType.FLOAT, DType.DOUBLE]),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
)
def test_regular_numbers_are_what_json_and_numpy_make_of_them(array, dtype, indent, large):
    """However it is spaced, a regular array of numbers is read as json.loads and NumPy read it."""
    text = json.dumps({"instances": array.tolist()}, indent=indent)
    text = padded(text) if large else text
    body = read_predict(read_document(text.encode()), signature(x=dtype))

    with np.errstate(over="ignore"):
        expected = np.array(array.tolist(), np.float64).astype(dtype.numpy)
    np.testing.assert_array_equal(body.inputs["x"], expected)
    assert body.inputs["x"].dtype == dtype.numpy


LEAVES = st.sampled_from(
    [
        0,
        1,
        -1,
        300,
        2**31,
        2**63,
        2**64 - 1,
        1.0,
        2.5,
        1e39,
        True,
        False,
        None,
        "a",
        "é",
        "][",
        {"b64": "YQ=="},
        {"b64": "!"},
        {"b64": 1},
        {},
        {"x": 1},
    ]
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
ROWS = st.dictionaries(st.sampled_from(["x", "y", "z", "b64"]), VALUES, max_size=3)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "instances": st.lists(VALUES | ROWS, max_size=3) | VALUES,
        "inputs": VALUES | ROWS,
        "signature_name": st.just("serving_default"),
        "other": VALUES,
    },
)
DTYPES = st.sampled_from(
    [
        DType.FLOAT,
        DType.DOUBLE,
        INT32,
        DType.UINT8,
        DType.INT64,
        DType.UINT32,
        DType.UINT64,
        DType.BOOL,
        STRING,
        DType.HALF,
    ]
)
SIGNATURES = st.dictionaries(st.sampled_from(["x", "y"]), DTYPES, min_size=1)


@settings(max_examples=400)
@given(DOCUMENTS, SIGNATURES, st.booleans(), st.sampled_from([None, 1]))
def test_quick_and_exact_readings_agree(document, inputs, large, indent):
    """Whatever the request, reading it quickly or exactly comes to the same."""
    text = json.dumps(document, indent=indent)
    text = padded(text) if large and document else text
    wanted = signature(**inputs)

    assert repr(outcome(text.encode(), wanted)) == repr(
        outcome(text.encode(), wanted, exactly=True)
    )


@given(st.lists(VALUES, min_size=1, max_size=4), DTYPES, st.randoms())
def test_broken_requests_only_raise_serving_errors(values, dtype, dice):
    """A request with bytes changed, lost or doubled is read or refused, never worse."""
    text = bytearray(json.dumps({"instances": values, "inputs_": 1}).encode())
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(text))
        change = dice.randrange(3)
        text[at : at + (change > 0)] = b"" if change == 2 else bytes((dice.randrange(256),))
    try:
        read_predict(read_document(bytes(text)), signature(x=dtype))
    except ServingError as error:
        code = error.code
    else:
        code = Code.OK

    assert code in (Code.OK, Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED)


def test_arrays_beyond_24_bits_of_elements_are_read_whole():
    """More elements than simdjson counts are read another way, not into foreign memory."""
    count = 2**24 + 5
    text = b'{"instances": [' + b"1," * (count - 1) + b"0]}"
    rows = read_predict(read_document(text), signature(x=DType.UINT8)).inputs["x"]

    assert (rows.shape, int(rows.sum())) == ((count,), count - 1)


def test_rows_with_large_arrays_are_stacked():
    """Rows that are objects around large arrays are read array by array, to the same tensors."""
    images = np.arange(3 * 20 * 30, dtype=np.float32).reshape(3, 20, 30)
    rows = [{"image": image.tolist(), "key": f"k{i}"} for i, image in enumerate(images)]
    text = json.dumps({"instances": rows}).encode()
    body = read_predict(read_document(text), signature(image=FLOAT, key=STRING))

    np.testing.assert_array_equal(body.inputs["image"], images)
    assert body.inputs["key"].tolist() == [b"k0", b"k1", b"k2"]


@pytest.mark.parametrize("last", [[[1.0] * 29] * 20, "text", None])
def test_rows_with_unequal_arrays_are_refused(last):
    """One row of another shape or kind is found among large ones."""
    rows = [{"x": [[1.0] * 30] * 20}, {"x": last}]
    text = json.dumps({"instances": rows}).encode()

    code, message = outcome(text, signature(x=FLOAT))

    assert code == Code.INVALID_ARGUMENT
    assert message.startswith("Failed to process element: 1 key: x of 'instances' list.")
