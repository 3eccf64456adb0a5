"""TensorFlow Serving's own Python stubs against a real server: answers, codes and exact texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from saved_models import Shelf, read_saved_model, signature_answer, tensorflow
from server_process import ServerProcess, config_file

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")
tensorflow()

from google.protobuf import text_format  # noqa: E402 - protobuf after TensorFlow, as users do
from tensorflow.core.example import example_pb2  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

TIMEOUT_S = 30
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

MODELS = (
    "half_plus_two",
    "several_signatures",
    "v1_half_plus_two",
    "v1_classifier",
    "awkward_signatures",
    "all_dtypes",
)


class Stubs:
    """Both services of one server."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.max_receive_message_length", -1)]
        )
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)


@pytest.fixture(scope="module")
def server(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Every model of this file behind one ``tensorflow_model_server``."""
    folder = tmp_path_factory.mktemp("config")
    config = config_file(folder, **{name: shelf(name) for name in MODELS})
    flags = [f"--model_config_file={config}", f"--grpc_socket_path={folder}/socket"]
    with ServerProcess(*flags) as running:
        running.socket_path = f"{folder}/socket"
        yield running.wait_until_started()


@pytest.fixture(scope="module")
def stubs(server: ServerProcess) -> Iterator[Stubs]:
    """The stubs of ``server`` over TCP."""
    connected = Stubs(server.grpc_address)
    yield connected
    connected.channel.close()


def spec(name: str | None, signature_name: str = "", **choice: Any) -> model_pb2.ModelSpec | None:
    if name is None:
        return None
    message = model_pb2.ModelSpec(name=name, signature_name=signature_name)
    if "version" in choice:
        message.version.value = choice["version"]
    if "label" in choice:
        message.version_label = choice["label"]
    return message


def predict_request(model_spec, output_filter=(), **inputs) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(model_spec=model_spec, output_filter=output_filter)
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tensorflow().make_tensor_proto(value))
    return request


def example(**features: float) -> example_pb2.Example:
    message = example_pb2.Example()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        message.features.feature[name].float_list.value.extend(values)
    return message


def inputs_of(*examples: example_pb2.Example, context=None) -> input_pb2.Input:
    message = input_pb2.Input()
    if context is not None:
        message.example_list_with_context.context.CopyFrom(context)
        message.example_list_with_context.examples.extend(examples)
    else:
        message.example_list.examples.extend(examples)
    return message


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# --- Answers --------------------------------------------------------------------------------------


def test_predict_answers_in_typed_fields_with_the_spec_resolved(stubs: Stubs):
    """``float_val`` is filled; the spec names the version and the default signature."""
    answer = stubs.prediction.Predict(
        predict_request(spec("half_plus_two"), x=floats(1, 2, 5)), TIMEOUT_S
    )

    assert list(answer.outputs["y"].float_val) == [2.5, 3.0, 4.5]
    assert not answer.outputs["y"].tensor_content
    assert answer.model_spec == spec("half_plus_two", "serving_default", version=1)


def test_a_predict_asked_again_and_again_stays_right(stubs: Stubs):
    """Quick models come to the event loop and their messages are known by then; sizes mix."""
    wrong = []
    for i in range(200):
        sent = floats(*(i + n for n in range(1 + i % 3)))
        model_spec = spec("half_plus_two") if i % 2 else spec("half_plus_two", version=1)
        answer = stubs.prediction.Predict(predict_request(model_spec, x=sent), TIMEOUT_S)
        if list(answer.outputs["y"].float_val) != (sent / 2 + 2).tolist():
            wrong.append(i)

    assert wrong == []


def test_two_inputs_asked_again_and_again_stay_right(stubs: Stubs):
    """Neither tensor is ever taken for the other, and an error is told each time."""
    wrong = []
    for i in range(100):
        a, b = floats(i, i + 1), floats(10 * i, i)
        request = predict_request(spec("several_signatures"), a=a, b=b)
        outputs = stubs.prediction.Predict(request, TIMEOUT_S).outputs
        if list(outputs["difference"].float_val) != (a - b).tolist():
            wrong.append(i)
    bad = predict_request(spec("several_signatures"), a=floats(1, 2, 3), b=floats(1, 2))
    texts = set()
    for _ in range(5):
        with pytest.raises(grpc.RpcError) as raised:
            stubs.prediction.Predict(bad, TIMEOUT_S)
        texts.add((raised.value.code(), raised.value.details()[:20]))

    assert wrong == []
    assert texts == {(grpc.StatusCode.INVALID_ARGUMENT, "Incompatible shapes:")}


def test_predict_works_over_a_unix_socket(server: ServerProcess):
    """The socket of ``--grpc_socket_path`` speaks the same."""
    stubs = Stubs(f"unix:{server.socket_path}")
    answer = stubs.prediction.Predict(
        predict_request(spec("half_plus_two"), x=floats(2)), TIMEOUT_S
    )
    stubs.channel.close()

    assert list(answer.outputs["y"].float_val) == [3.0]


def test_predict_takes_a_version_and_never_echoes_a_label(stubs: Stubs):
    """The version asked for is the version named."""
    answer = stubs.prediction.Predict(
        predict_request(spec("half_plus_two", version=1), x=floats(2)), TIMEOUT_S
    )

    assert answer.model_spec.version.value == 1
    assert answer.model_spec.version_label == ""


def test_the_output_filter_selects(stubs: Stubs):
    """Only the outputs asked for come back."""
    request = predict_request(spec("several_signatures"), ["difference"], a=floats(3), b=floats(1))
    answer = stubs.prediction.Predict(request, TIMEOUT_S)

    assert {alias: list(t.float_val) for alias, t in answer.outputs.items()} == {
        "difference": [2.0]
    }


def test_a_default_fills_an_input_left_out(stubs: Stubs):
    """TensorFlow's exported defaults are honoured."""
    request = predict_request(spec("several_signatures", "scale"), x=floats(1, 2))

    assert list(stubs.prediction.Predict(request, TIMEOUT_S).outputs["y"].float_val) == [2.0, 4.0]


def test_a_signature_without_inputs_can_be_called(stubs: Stubs):
    """A counter counts."""
    request = predict_request(spec("several_signatures", "increment"))
    counts = [
        stubs.prediction.Predict(request, TIMEOUT_S).outputs["count"].float_val[0] for _ in range(2)
    ]

    assert counts[1] == counts[0] + 1


def test_every_type_travels_both_ways(stubs: Stubs):
    """What TensorFlow packs into ``tensor_content`` comes back in the typed field, the same."""
    samples = {
        "float": floats(1.5, -2),
        "double": np.array([[1e300]], np.float64),
        "int64": np.array([-(2**63), 5], np.int64),
        "uint8": np.array([0, 255], np.uint8),
        "string": np.array([b"", b"\xff" * 100], object),
        "bool": np.array([True, False]),
        "complex64": np.array([1 + 2j], np.complex64),
        "half": np.array([0.5], np.float16),
        "uint64": np.array([2**64 - 1], np.uint64),
    }
    answers = {
        label: stubs.prediction.Predict(
            predict_request(spec("all_dtypes", label), x=value), TIMEOUT_S
        ).outputs["y"]
        for label, value in samples.items()
    }

    assert all(not answer.tensor_content for answer in answers.values())
    for label, value in samples.items():
        assert tensorflow().make_ndarray(answers[label]).tolist() == value.tolist(), label


def test_classify_gives_labels_and_scores(stubs: Stubs, shelf: Shelf):
    """The same as TensorFlow's own run of the same examples."""
    examples = [example(x=[1.0, 0.0]), example(x=[0.0, 2.0])]
    request = classification_pb2.ClassificationRequest(
        model_spec=spec("v1_classifier"), input=inputs_of(*examples)
    )
    answer = stubs.prediction.Classify(request, TIMEOUT_S)
    serialized = np.array([e.SerializeToString() for e in examples], object)
    expected = signature_answer(shelf.version("v1_classifier"), {"inputs": serialized})

    got = [
        [(c.label.encode(), c.score) for c in row.classes] for row in answer.result.classifications
    ]
    assert got == [
        list(zip(labels, scores, strict=True))
        for labels, scores in zip(
            expected["classes"].tolist(), expected["scores"].tolist(), strict=True
        )
    ]
    assert answer.model_spec == spec("v1_classifier", "serving_default", version=1)


@pytest.mark.parametrize(
    ("signature", "has_labels", "has_scores"),
    [("classes_only", True, False), ("scores_only", False, True)],
)
def test_classify_fills_in_what_a_signature_lacks(stubs, signature, has_labels, has_scores):
    """Missing classes are empty labels, missing scores are zero."""
    request = classification_pb2.ClassificationRequest(
        model_spec=spec("v1_classifier", signature), input=inputs_of(example(x=[1.0, 0.0]))
    )
    (row,) = stubs.prediction.Classify(request, TIMEOUT_S).result.classifications

    assert all(bool(c.label) == has_labels for c in row.classes)
    assert all(bool(c.score) == has_scores for c in row.classes)


@pytest.mark.parametrize("signature", ["good_regress", "good_regress_column"])
def test_regress_gives_one_value_an_example(stubs: Stubs, signature: str):
    """Outputs of shape [n] and [n, 1] are both one value each."""
    examples = [example(x=1.0), example()]
    request = regression_pb2.RegressionRequest(
        model_spec=spec("awkward_signatures", signature), input=inputs_of(*examples)
    )
    answer = stubs.prediction.Regress(request, TIMEOUT_S)

    values = [regression.value for regression in answer.result.regressions]
    assert values == [float(len(e.SerializeToString())) for e in examples]


def test_a_context_supplies_what_an_example_leaves_out(stubs: Stubs):
    """An example's own feature wins over the context's."""
    request = regression_pb2.RegressionRequest(
        model_spec=spec("v1_half_plus_two", "regress_x_to_y"),
        input=inputs_of(example(), example(x=10.0), context=example(x=4.0)),
    )
    answer = stubs.prediction.Regress(request, TIMEOUT_S)

    assert [r.value for r in answer.result.regressions] == [4.0, 7.0]


def test_multi_inference_runs_several_signatures_over_the_same_examples(stubs: Stubs):
    """Each task has its result, with the spec that gave it."""
    request = inference_pb2.MultiInferenceRequest(
        tasks=[
            inference_pb2.InferenceTask(
                model_spec=spec("v1_half_plus_two", "regress_x_to_y"), method_name=REGRESS
            ),
            inference_pb2.InferenceTask(
                model_spec=spec("v1_half_plus_two", "classify_x_to_y"), method_name=CLASSIFY
            ),
        ],
        input=inputs_of(example(x=4.0), example(x=6.0)),
    )
    first, second = stubs.prediction.MultiInference(request, TIMEOUT_S).results

    assert [r.value for r in first.regression_result.regressions] == [4.0, 5.0]
    scores = [c.classes[0].score for c in second.classification_result.classifications]
    assert scores == [4.0, 5.0]
    assert first.model_spec == spec("v1_half_plus_two", "regress_x_to_y", version=1)


def test_metadata_is_the_exported_signatures(stubs: Stubs, shelf: Shelf):
    """Every SignatureDef, field by field, defaults and the init op's included."""
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=spec("several_signatures"), metadata_field=["signature_def"]
    )
    answer = stubs.prediction.GetModelMetadata(request, TIMEOUT_S)
    served = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(served)
    meta_graph = read_saved_model(shelf.version("several_signatures")).meta_graphs[0]

    assert dict(served.signature_def) == dict(meta_graph.signature_def)
    assert answer.model_spec == spec("several_signatures", version=1)


def test_status_says_available(stubs: Stubs):
    """A loaded version is AVAILABLE with OK."""
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec("half_plus_two"))
    (status,) = stubs.models.GetModelStatus(request, TIMEOUT_S).model_version_status

    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert (status.version, status.state, status.status.error_code) == (1, available, 0)


# --- Errors: the code and the exact text ----------------------------------------------------------


def _debug_string(shelf: Shelf, signature: str) -> str:
    meta_graph = read_saved_model(shelf.version("awkward_signatures")).meta_graphs[0]
    return text_format.MessageToString(meta_graph.signature_def[signature])


def malformed(**fields: Any) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(model_spec=spec("half_plus_two"))
    request.inputs["x"].dtype = fields.pop("dtype", 1)
    for size in fields.pop("shape", ()):
        request.inputs["x"].tensor_shape.dim.add().size = size
    request.inputs["x"].tensor_content = fields.pop("content", b"")
    return request


X = {"x": floats(1)}
NOT_FOUND = "Servable not found for request: "
PREDICT_ERRORS = [
    (lambda: predict_request(None, **X), "INVALID_ARGUMENT", "Missing ModelSpec"),
    (
        lambda: predict_request(spec(""), **X),
        "INVALID_ARGUMENT",
        "ModelSpec has no name specified.",
    ),
    (lambda: predict_request(spec("nope"), **X), "NOT_FOUND", NOT_FOUND + "Latest(nope)"),
    (
        lambda: predict_request(spec("half_plus_two", version=9), **X),
        "NOT_FOUND",
        NOT_FOUND + "Specific(half_plus_two, 9)",
    ),
    (
        lambda: predict_request(spec("half_plus_two", label="canary"), **X),
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: canary",
    ),
    (
        lambda: predict_request(spec("half_plus_two", "nope"), **X),
        "FAILED_PRECONDITION",
        'Serving signature key "nope" not found.',
    ),
    (
        lambda: predict_request(spec("several_signatures"), a=floats(1)),
        "INVALID_ARGUMENT",
        (
            "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. "
            "Missing but required: {b}."
        ),
    ),
    (
        lambda: predict_request(spec("half_plus_two"), x=floats(1), z=floats(1)),
        "INVALID_ARGUMENT",
        (
            "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. "
            "Missing but required: {}."
        ),
    ),
    (
        lambda: predict_request(spec("half_plus_two"), z=floats(1)),
        "INVALID_ARGUMENT",
        (
            "Signature input alias: x(feed name: serving_default_x:0) not found in request and no "
            "default value provided. Inputs expected to be in the request {x}, or default input "
            "alias set: "
        ),
    ),
    (
        lambda: predict_request(spec("several_signatures", "scale"), factor=np.float32(1)),
        "INVALID_ARGUMENT",
        (
            "Signature input alias: x(feed name: scale_x:0) not found in request and no "
            "default value provided. Inputs expected to be in the request {factor,x}, or default "
            "input alias set: factor"
        ),
    ),
    (
        lambda: predict_request(spec("several_signatures", "scale"), x=floats(1), z=floats(1)),
        "INVALID_ARGUMENT",
        "Inputs contains invalid name. Used request inputs: x, request input: x,z",
    ),
    (lambda: malformed(dtype=0), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (lambda: malformed(shape=[-1]), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (lambda: malformed(shape=[2], content=b"123"), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (lambda: malformed(shape=[2**40, 2**40]), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (lambda: malformed(shape=[2**50]), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (
        lambda: predict_request(spec("half_plus_two"), ["z"], **X),
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: z Outputs expected to be in the set {y}.",
    ),
    (
        lambda: predict_request(spec("half_plus_two"), ["y", "y"], **X),
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: y",
    ),
    (
        lambda: predict_request(spec("half_plus_two"), x=np.array([1.0])),
        "INVALID_ARGUMENT",
        "Expects arg[0] to be float but double is provided",
    ),
]


@pytest.mark.parametrize(
    ("make", "code", "text"), PREDICT_ERRORS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_predict_errors_have_tensorflow_servings_code_and_text(stubs: Stubs, make, code, text):
    """Row by row, to the last character; the server answers the next request all the same."""
    with pytest.raises(grpc.RpcError) as raised:
        stubs.prediction.Predict(make(), TIMEOUT_S)

    assert (raised.value.code().name, raised.value.details()) == (code, text)
    assert stubs.prediction.Predict(predict_request(spec("half_plus_two"), **X), TIMEOUT_S).outputs


def test_a_wrong_shape_is_the_graphs_to_refuse(stubs: Stubs):
    """The text is the op's own, with its node."""
    request = predict_request(spec("several_signatures", "matmul"), x=np.ones((1, 3), np.float32))
    with pytest.raises(grpc.RpcError) as raised:
        stubs.prediction.Predict(request, TIMEOUT_S)

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    text = raised.value.details()
    assert text.startswith("Matrix size-incompatible: In[0]: [1,3], In[1]: [2,2]\n\t [[{{node ")


TWO = (example(x=1.0), example(x=2.0))

CLASSIFY_ERRORS = [
    ("nope", "No signature was found with the name: nope"),
    ("two_inputs", "Expected one input Tensor."),
    ("three_outputs", "Expected one or two output Tensors, found 3"),
    ("no_inputs_alias", "No classification inputs found in SignatureDef: {debug}"),
    (
        "no_outputs_alias",
        (
            'Expected classification signature outputs to contain at least one of "classes" or '
            '"scores". Signature was: {debug}'
        ),
    ),
    ("scores_of_rank_1", "Expected Tensor shape: [batch_size num_classes] but got [2]"),
    ("classes_of_rank_1", "Expected Tensor shape: [batch_size num_classes] but got [2]"),
    ("classes_are_floats", "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
    ("classes_of_another_batch", "Expected classes output batch size of 2. Got: 1"),
    ("scores_are_doubles", "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
    ("scores_of_another_batch", "Expected scores output batch size of 2. Got: 1"),
    ("widths_differ", "Tensors class and score should match in dim_size(1). Got 2 vs. 1"),
]


@pytest.mark.parametrize(("signature", "text"), CLASSIFY_ERRORS)
def test_classify_errors_have_tensorflow_servings_text(stubs, shelf: Shelf, signature, text):
    """Every structural check and every check of the answer, all INVALID_ARGUMENT."""
    request = classification_pb2.ClassificationRequest(
        model_spec=spec("awkward_signatures", signature), input=inputs_of(*TWO)
    )
    with pytest.raises(grpc.RpcError) as raised:
        stubs.prediction.Classify(request, TIMEOUT_S)

    expected = text.replace("{debug}", _debug_string(shelf, signature) if "{debug}" in text else "")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == expected


REGRESS_ERRORS = [
    ("nope", "No signature was found with the name: nope"),
    ("regress_two_inputs", "Expected one input Tensor."),
    ("regress_two_outputs", "Expected one output Tensor."),
    ("regress_no_inputs_alias", "No regression inputs found in SignatureDef: {debug}"),
    ("regress_no_outputs_alias", "No regression outputs found in SignatureDef: {debug}"),
    (
        "values_of_rank_2",
        "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]",
    ),
    (
        "values_of_another_batch",
        "Input batch size did not match output batch size: 2 vs. 1",
    ),
    ("values_are_ints", "Expected output Tensor of DT_FLOAT.  Got: DT_INT32"),
]


@pytest.mark.parametrize(("signature", "text"), REGRESS_ERRORS)
def test_regress_errors_have_tensorflow_servings_text(stubs, shelf: Shelf, signature, text):
    """Every structural check and every check of the answer, all INVALID_ARGUMENT."""
    request = regression_pb2.RegressionRequest(
        model_spec=spec("awkward_signatures", signature), input=inputs_of(*TWO)
    )
    with pytest.raises(grpc.RpcError) as raised:
        stubs.prediction.Regress(request, TIMEOUT_S)

    expected = text.replace("{debug}", _debug_string(shelf, signature) if "{debug}" in text else "")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == expected


@pytest.mark.parametrize("verb", ["Classify", "Regress"])
@pytest.mark.parametrize("given", [input_pb2.Input(), inputs_of()])
def test_an_input_without_examples_is_refused(stubs: Stubs, verb: str, given):
    """No kind set, or a list of none."""
    make, good = {
        "Classify": (classification_pb2.ClassificationRequest, "good_classify"),
        "Regress": (regression_pb2.RegressionRequest, "good_regress"),
    }[verb]
    with pytest.raises(grpc.RpcError) as raised:
        getattr(stubs.prediction, verb)(
            make(model_spec=spec("awkward_signatures", good), input=given), TIMEOUT_S
        )

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "Input is empty."


@pytest.mark.parametrize("verb", ["Classify", "Regress"])
@pytest.mark.parametrize(
    ("model_spec", "code", "text"),
    [
        (None, "INVALID_ARGUMENT", "Missing ModelSpec"),
        (spec(""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (spec("nope"), "NOT_FOUND", NOT_FOUND + "Latest(nope)"),
    ],
)
def test_classify_and_regress_resolve_models_as_predict_does(
    stubs: Stubs, verb, model_spec, code, text
):
    """The same three errors come before anything is looked at."""
    make = {
        "Classify": classification_pb2.ClassificationRequest,
        "Regress": regression_pb2.RegressionRequest,
    }[verb]
    with pytest.raises(grpc.RpcError) as raised:
        getattr(stubs.prediction, verb)(make(model_spec=model_spec), TIMEOUT_S)

    assert (raised.value.code().name, raised.value.details()) == (code, text)


def task(name: str, signature: str, method: str = CLASSIFY) -> inference_pb2.InferenceTask:
    return inference_pb2.InferenceTask(model_spec=spec(name, signature), method_name=method)


AWKWARD = "awkward_signatures"
MULTI_ERRORS = [
    ([], "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    ([task("", "")], "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    (
        [task(AWKWARD, "good_classify"), task("", "good_classify")],
        "INVALID_ARGUMENT",
        "Found ModelSpec with an empty model name.",
    ),
    (
        [task(AWKWARD, "good_classify"), task("half_plus_two", "")],
        "INVALID_ARGUMENT",
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    ),
    (
        [task(AWKWARD, "good_classify"), task(AWKWARD, "good_classify")],
        "INVALID_ARGUMENT",
        "Duplicate evaluation of signature: good_classify",
    ),
    (
        [task(AWKWARD, "nope")],
        "INVALID_ARGUMENT",
        "Requested signature not found in model graph: nope",
    ),
    (
        [task(AWKWARD, "good_classify", "tensorflow/serving/predict")],
        "UNIMPLEMENTED",
        "Unsupported signature method_name: tensorflow/serving/predict",
    ),
    ([task(AWKWARD, "two_inputs")], "INVALID_ARGUMENT", "Expected one input Tensor."),
    (
        [task(AWKWARD, "values_are_ints", REGRESS)],
        "INVALID_ARGUMENT",
        "Expected output Tensor of DT_FLOAT.  Got: DT_INT32",
    ),
    ([task("nope", "")], "NOT_FOUND", NOT_FOUND + "Latest(nope)"),
]


@pytest.mark.parametrize(("tasks", "code", "text"), MULTI_ERRORS)
def test_multi_inference_errors_have_tensorflow_servings_code_and_text(stubs, tasks, code, text):
    """Row by row, to the last character."""
    request = inference_pb2.MultiInferenceRequest(tasks=tasks, input=inputs_of(*TWO))
    with pytest.raises(grpc.RpcError) as raised:
        stubs.prediction.MultiInference(request, TIMEOUT_S)

    assert (raised.value.code().name, raised.value.details()) == (code, text)


METADATA_ERRORS = [
    (None, ["signature_def"], "INVALID_ARGUMENT", "Missing ModelSpec"),
    (
        spec("nope"),
        [],
        "INVALID_ARGUMENT",
        "GetModelMetadataRequest must specify at least one metadata_field",
    ),
    (
        spec("nope"),
        ["signature_def", "other"],
        "INVALID_ARGUMENT",
        "Metadata field other is not supported",
    ),
    (spec(""), ["signature_def"], "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    (spec("nope"), ["signature_def"], "NOT_FOUND", NOT_FOUND + "Latest(nope)"),
    (
        spec("half_plus_two", version=3),
        ["signature_def"],
        "NOT_FOUND",
        NOT_FOUND + "Specific(half_plus_two, 3)",
    ),
]


@pytest.mark.parametrize(("model_spec", "fields", "code", "text"), METADATA_ERRORS)
def test_metadata_errors_have_tensorflow_servings_code_and_text(
    stubs, model_spec, fields, code, text
):
    """The fields are checked before the model is looked up."""
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=model_spec, metadata_field=fields
    )
    with pytest.raises(grpc.RpcError) as raised:
        stubs.prediction.GetModelMetadata(request, TIMEOUT_S)

    assert (raised.value.code().name, raised.value.details()) == (code, text)


STATUS_ERRORS = [
    (None, "INVALID_ARGUMENT", "Missing ModelSpec"),
    (spec("nope"), "NOT_FOUND", "Could not find any versions of model nope"),
    (spec(""), "NOT_FOUND", "Could not find any versions of model "),
    (
        spec("half_plus_two", version=7),
        "NOT_FOUND",
        "Could not find version 7 of model half_plus_two",
    ),
]


@pytest.mark.parametrize(("model_spec", "code", "text"), STATUS_ERRORS)
def test_status_errors_have_tensorflow_servings_code_and_text(stubs, model_spec, code, text):
    """Row by row, to the last character."""
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=model_spec)
    with pytest.raises(grpc.RpcError) as raised:
        stubs.models.GetModelStatus(request, TIMEOUT_S)

    assert (raised.value.code().name, raised.value.details()) == (code, text)


def test_a_label_selects_nothing_in_a_status(stubs: Stubs):
    """Any label gives the status of all versions."""
    request = get_model_status_pb2.GetModelStatusRequest(
        model_spec=spec("half_plus_two", label="nope")
    )

    assert len(stubs.models.GetModelStatus(request, TIMEOUT_S).model_version_status) == 1


def test_a_long_text_is_cut(stubs: Stubs):
    """Messages end after 1024 bytes, with a word that says so."""
    with pytest.raises(grpc.RpcError) as raised:
        stubs.prediction.Predict(predict_request(spec("n" * 2000), **X), TIMEOUT_S)

    text = NOT_FOUND + "Latest(" + "n" * 2000
    assert raised.value.details() == text[:1024] + "...TRUNCATED"


@pytest.mark.parametrize("octets", [b"\xff", b"\x0a\x05ab", b"\x0a\x03\x0a\x01\xff"])
def test_bytes_that_are_no_message_are_refused(stubs: Stubs, octets: bytes):
    """Garbage, a cut-off message and a name that is not UTF-8 harm their own call only."""
    call = stubs.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as raised:
        call(octets, TIMEOUT_S)

    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert "tensorflow.serving.PredictRequest" in raised.value.details()


def test_an_empty_message_misses_its_spec(stubs: Stubs):
    """No bytes are a message without fields."""
    call = stubs.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as raised:
        call(b"", TIMEOUT_S)

    assert raised.value.details() == "Missing ModelSpec"


def test_session_service_is_unimplemented(stubs: Stubs):
    """It has stubs, and no server behind them in TensorFlow Serving either."""
    call = stubs.channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")
    with pytest.raises(grpc.RpcError) as raised:
        call(b"", TIMEOUT_S)

    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_tensor_content_and_method_names_by_flag(shelf: Shelf, tmp_path: Path):
    """``--enable_serialization_as_tensor_content`` and ``--enable_signature_method_name_check``."""
    flags = [
        f"--model_config_file={config_file(tmp_path, **{AWKWARD: shelf(AWKWARD)})}",
        "--enable_serialization_as_tensor_content",
        "--enable_signature_method_name_check=true",
    ]
    with ServerProcess(*flags, rest=False) as server:
        stubs = Stubs(server.wait_until_started().grpc_address)
        text = np.array([b"four"], object)
        answer = stubs.prediction.Predict(
            predict_request(spec(AWKWARD, "a_predict"), examples=text), TIMEOUT_S
        )
        with pytest.raises(grpc.RpcError) as predict_error:
            stubs.prediction.Predict(
                predict_request(spec(AWKWARD, "of_no_method"), x=text), TIMEOUT_S
            )
        with pytest.raises(grpc.RpcError) as classify_error:
            stubs.prediction.Classify(
                classification_pb2.ClassificationRequest(
                    model_spec=spec(AWKWARD, "good_regress"), input=inputs_of(*TWO)
                ),
                TIMEOUT_S,
            )
        with pytest.raises(grpc.RpcError) as regress_error:
            stubs.prediction.Regress(
                regression_pb2.RegressionRequest(
                    model_spec=spec(AWKWARD, "good_classify"), input=inputs_of(*TWO)
                ),
                TIMEOUT_S,
            )
        stubs.channel.close()

    assert answer.outputs["lengths"].tensor_content == np.float32(4).tobytes()
    assert predict_error.value.code() is grpc.StatusCode.INTERNAL
    assert predict_error.value.details() == (
        "Expected prediction signature method_name to be one of {tensorflow/serving/predict, "
        "tensorflow/serving/classify, tensorflow/serving/regress}. Was: some/other/method"
    )
    assert classify_error.value.details() == (
        f"Expected classification signature method_name to be {CLASSIFY}. Was: {REGRESS}"
    )
    assert regress_error.value.details() == (
        f"Expected regression signature method_name to be {REGRESS}. Was: {CLASSIFY}"
    )
