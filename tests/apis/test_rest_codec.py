"""The REST codec: documents and signatures in, answers and errors out."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.apis import get_model_status_pb2

from salver.apis.requests import ClassifiedExample, VersionStatus
from salver.apis.rest_codec import (
    read_document,
    read_predict,
    signature_for_predict,
    signature_name,
    write_classify,
    write_error,
    write_predict,
    write_regress,
    write_status,
)
from salver.dtypes import DType
from salver.errors import Code, InvalidArgument, ServingError
from salver.signature import Signature, TensorInfo

SIGNATURE = Signature({"x": TensorInfo("x:0", DType.FLOAT)}, {"y": TensorInfo("y:0", DType.FLOAT)})


def message_of(call, *arguments) -> str:
    with pytest.raises(InvalidArgument) as caught:
        call(*arguments)
    return caught.value.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b" ", "JSON Parse error: The document is empty. at offset: 1"),
        (b"[1, 2]", "JSON Value: [1, 2] Is not object"),
        (b'"text"', 'JSON Value: "text" Is not object'),
        (b"1.5", "JSON Value: 1.5 Is not object"),
        (b"NaN", "JSON Value: NaN Is not object"),
        (
            b'{"instances": [1, 2',
            "JSON Parse error: Missing a comma or ] after an array element. at offset: 19",
        ),
        (
            b'{"instances": [1e400]}',
            "JSON Parse error: Number too big to be stored in double. at offset: 15",
        ),
    ],
)
def test_documents_must_be_json_objects(body, message):
    """What is no JSON object is refused with TensorFlow Serving's text."""
    assert message_of(read_document, body) == message


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"{}", ""),
        (b"{} tail", ""),
        (b'{"signature_name": "s"}', "s"),
        (b'{"signature_name": "s"} tail', "s"),
        (b'{"signature_name": "first", "signature_name": 2}', "first"),
        (b'{"signature_name": "\\u00e9"}', "é"),
        (b'{"signature_name": "\xff"}', "\udcff"),
        (b'\xef\xbb\xbf{"signature_name": "s"}', "s"),
    ],
)
def test_signature_name_is_optional(body, name):
    """The name is the first member of that name, or empty."""
    assert signature_name(read_document(body)) == name


@pytest.mark.parametrize("tail", [b"", b" tail"])
def test_signature_name_is_a_string(tail):
    """A name of another kind is refused, quoting the document."""
    document = read_document(b'{"signature_name": 5}' + tail)

    assert message_of(signature_name, document) == (
        'JSON Value: {\n    "signature_name": 5\n} not formatted correctly.'
        " 'signature_name' key must be a string value."
    )


def test_signature_is_found_by_name_or_default():
    """An empty name means the default signature."""
    signatures = {"serving_default": SIGNATURE, "other": Signature(SIGNATURE.inputs, {})}

    assert signature_for_predict(signatures, "") is SIGNATURE
    assert signature_for_predict(signatures, "other") is signatures["other"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no", 'Serving signature name: "no" not found in signature def'),
        ("empty", "Failed to get input map for signature: empty"),
        ("", "Failed to get input map for signature: DEFAULT"),
    ],
)
def test_signature_must_exist_and_take_inputs(name, message):
    """REST has texts of its own for both."""
    empty = Signature({}, {})

    assert message_of(signature_for_predict, {"serving_default": empty, "empty": empty}, name) == (
        message
    )


def test_missing_default_signature_is_named():
    """Without a default signature the error says what was looked for."""
    assert message_of(signature_for_predict, {}, "") == (
        'Serving signature name: "serving_default" not found in signature def'
    )


def test_one_output_makes_rows_of_values():
    """A single output is written without its name, in TensorFlow Serving's layout."""
    body = write_predict({"y": np.float32([2.5, 3.0, 4.5])}, row_format=True)

    assert body == b'{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'


def test_several_outputs_make_rows_of_objects():
    """Each row is an object of one value per output, in TensorFlow Serving's layout."""
    outputs = {
        "a%": np.int64([1, 2]),
        "b": np.float32([[0.5, np.nan], [1, -np.inf]]),
        "raw_bytes": np.array([b"\xff", b""], object),
    }
    body = write_predict(outputs, row_format=True)

    assert body.startswith(b'{\n    "predictions": [\n        {\n            "a%": 1,\n')
    assert repr(json.loads(body)["predictions"]) == repr(
        [
            {"a%": 1, "b": [0.5, np.nan.__float__()], "raw_bytes": {"b64": "/w=="}},
            {"a%": 2, "b": [1.0, float("-inf")], "raw_bytes": {"b64": ""}},
        ]
    )


@pytest.mark.parametrize("names", [["y"], ["y", "z"]])
def test_no_rows_make_an_empty_list(names):
    """A batch of nothing is answered with no predictions."""
    outputs = {name: np.zeros((0, 3), np.float32) for name in names}

    assert json.loads(write_predict(outputs, row_format=True)) == {"predictions": []}


def test_columns_are_bare_or_named():
    """One output is written as it is, several by name; any rank will do."""
    one = write_predict({"y": np.float32(2.5)}, row_format=False)
    two = write_predict({"y": np.int32([[1], [2]]), "z": np.array(b'"', object)}, row_format=False)

    assert json.loads(one) == {"outputs": 2.5}
    assert json.loads(two) == {"outputs": {"y": [[1], [2]], "z": '"'}}


def test_strings_leave_as_they_are():
    """Strings are not checked for UTF-8, and bytes by name become base64 objects."""
    raw = np.array([b"a\xff"], object)

    assert b'["a\xff"' in write_predict({"y": raw}, row_format=True)
    assert json.loads(write_predict({"y_bytes": raw}, row_format=False)) == {
        "outputs": [{"b64": "Yf8="}]
    }


def test_only_strings_become_base64():
    """The suffix says nothing about numbers."""
    body = write_predict({"n_bytes": np.int32([7])}, row_format=True)

    assert json.loads(body) == {"predictions": [7]}


@pytest.mark.parametrize(
    ("outputs", "row_format", "message"),
    [
        ({}, True, "Cannot convert empty tensor map to JSON"),
        ({"y": np.float32(1)}, True, "Tensor name: y has no shape information "),
        (
            {"y": np.zeros(2), "z": np.zeros(3)},
            True,
            "Tensor name: z has inconsistent batch size: 3 expecting: 2",
        ),
        (
            {"y": np.zeros(2, np.float16)},
            True,
            "Failed to write JSON value for tensor type: half",
        ),
        (
            {"y": np.zeros(2, np.complex128)},
            False,
            "Failed to write JSON value for tensor type: complex128",
        ),
    ],
)
def test_outputs_that_cannot_be_written_are_refused(outputs, row_format, message):
    """Rows need a batch, and JSON lacks some types."""
    assert message_of(write_predict, outputs, row_format) == message


def test_classifications_are_lists_of_label_and_score():
    """Scores keep float precision; labels are copied byte for byte."""
    one = write_classify([ClassifiedExample([b""], [3.0])])
    two = write_classify(
        [
            ClassifiedExample([b"a", b'"'], [float(np.float32(0.1)), float("nan")]),
            ClassifiedExample([], []),
        ]
    )

    assert one == b'{\n    "results": [[["", 3.0]]\n    ]\n}'
    assert repr(json.loads(two)) == repr({"results": [[["a", 0.1], ['"', float("nan")]], []]})


def test_regressions_are_a_list():
    """One value per example, in TensorFlow Serving's layout."""
    assert write_regress([3.0, float("inf")]) == b'{\n    "results": [3.0, Infinity]\n}'
    assert write_regress(np.float32([0.1])) == b'{\n    "results": [0.1]\n}'


def test_results_of_nothing_are_refused():
    """Neither answer exists without an example."""
    assert message_of(write_classify, []) == ("Cannot convert empty ClassificationResults to JSON")
    assert message_of(write_regress, []) == "Cannot convert empty RegressionResults to JSON"


def test_status_is_laid_out_as_protobuf_does():
    """One space per level, defaults printed, a newline at the end."""
    body = write_status([VersionStatus(123, "AVAILABLE")])

    assert body == (
        b'{\n "model_version_status": [\n  {\n   "version": "123",\n   "state": "AVAILABLE",\n'
        b'   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )


STATES = st.sampled_from(["START", "LOADING", "AVAILABLE", "UNLOADING", "END"])
STATUSES = st.lists(
    st.builds(
        VersionStatus, st.integers(0, 2**63 - 1), STATES, st.sampled_from(list(Code)), st.text()
    )
)


@given(STATUSES)
def test_protobuf_reads_the_status_back(statuses):
    """The body is the JSON form of a GetModelStatusResponse."""
    parsed = json_format.Parse(
        write_status(statuses), get_model_status_pb2.GetModelStatusResponse()
    )

    assert [
        VersionStatus(
            item.version,
            get_model_status_pb2.ModelVersionStatus.State.Name(item.state),
            Code(item.status.error_code),
            item.status.error_message,
        )
        for item in parsed.model_version_status
    ] == statuses


def test_status_escapes_markup_and_controls():
    """Protobuf's printer escapes what HTML or a terminal might act on."""
    body = write_status([VersionStatus(1, "END", Code.INTERNAL, "<a>\x7f\u2028\x1f/\udcff")])

    assert b'"\\u003ca\\u003e\\u007f\\u2028\\u001f/?"' in body


def test_errors_are_objects_with_one_member():
    """The message is escaped no more than JSON asks for; raw bytes leave as they came."""
    assert write_error('a "b"\n\x01\x1f/é\udcff') == (
        b'{\n    "error": "a \\"b\\"\\n\\u0001\\u001F/\xc3\xa9\xff"\n}'
    )


def test_a_parse_error_makes_a_readable_body():
    """From a broken request to the body of its answer."""
    try:
        read_document(b'{"instances": }')
    except ServingError as error:
        body = write_error(error.message)

    assert json.loads(body) == {"error": "JSON Parse error: Invalid value. at offset: 14"}


def test_documents_on_several_threads_do_not_meet():
    """Each document has a parser of its own."""
    bodies = [json.dumps({"instances": [[n] * 50] * 50}).encode() for n in range(32)]

    def total(body: bytes) -> float:
        return float(read_predict(read_document(body), SIGNATURE).inputs["x"].sum())

    with ThreadPoolExecutor(4) as threads:
        totals = list(threads.map(total, bodies))

    assert totals == [n * 2500.0 for n in range(32)]


def test_endless_error_message_is_cut():
    """A message that quotes megabytes of the request is not sent back whole."""
    body = write_error("x" * 1_000_000)

    assert len(body) < 100_000
    assert body.endswith(b'...TRUNCATED"\n}')
