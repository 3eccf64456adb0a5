"""TensorFlow Lite models in a real server, beside SavedModels, over gRPC and REST."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from saved_models import Shelf, tensorflow
from server_process import PATIENCE_S, ServerProcess, config_file
from test_server_end_to_end import ask, predict, prediction_stub, wait_until
from tflite_models import LiteShelf

predict_pb2 = pytest.importorskip(
    "tensorflow_serving.apis.predict_pb2", reason="the messages are TensorFlow Serving's"
)

SALVER = ("salver", "serve")
TFS = ("tensorflow_model_server",)


@pytest.fixture(scope="module")
def server(
    shelf: Shelf, lite_shelf: LiteShelf, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """``lite``, ``strings`` and ``apart``, in a process of its own, are TensorFlow Lite models.

    ``saved`` is a SavedModel, and ``both`` has one of each in its folder.
    """
    folder = tmp_path_factory.mktemp("models")
    both = folder / "both"
    shutil.copytree(shelf("half_plus_two"), both)
    shutil.copy(lite_shelf.version("keras_softmax") / "model.tflite", both / "1")
    config = config_file(
        folder,
        lite=lite_shelf("keras_softmax"),
        strings=lite_shelf("several_signatures"),
        apart=lite_shelf("keras_softmax"),
        both=both,
        saved=shelf("half_plus_two"),
    )
    with ServerProcess(
        f"--model_config_file={config}",
        "--prefer_tflite_model",
        "--isolated_models=apart",
        command=SALVER,
    ) as running:
        yield running.wait_until_started()


def ask_over_grpc(
    server: ServerProcess, model: str, signature: str, **inputs: np.ndarray
) -> dict[str, np.ndarray]:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tensorflow().make_tensor_proto(value))
    with prediction_stub(server) as stub:
        outputs = stub.Predict(request, PATIENCE_S).outputs
    return {alias: tensorflow().make_ndarray(outputs[alias]) for alias in outputs}


@pytest.mark.parametrize("model", ["lite", "apart", "both"])
def test_answers_over_grpc_are_tensorflows(
    server: ServerProcess, lite_shelf: LiteShelf, model: str
):
    """To the last bit, for several batch sizes, whatever else the folder holds."""
    wait_until(server, model, 1, "AVAILABLE")

    for answer in lite_shelf.answers("keras_softmax", "serving_default"):
        found = ask_over_grpc(server, model, "", **answer.inputs)
        assert found["output_0"].tolist() == answer.outputs["output_0"].tolist()


def test_answers_over_rest_are_tensorflows(server: ServerProcess, lite_shelf: LiteShelf):
    """Row by row."""
    wait_until(server, "lite", 1, "AVAILABLE")

    for answer in lite_shelf.answers("keras_softmax", "serving_default"):
        instances: Any = answer.inputs["pixels"].tolist()
        body = {"instances": instances}
        found = ask(server, "/v1/models/lite:predict", body).json["predictions"]
        assert np.array_equal(np.array(found, np.float32), answer.outputs["output_0"])


def test_each_signature_is_asked_by_its_name(server: ServerProcess):
    """Strings, and two outputs."""
    wait_until(server, "strings", 1, "AVAILABLE")
    path = "/v1/models/strings:predict"

    text = {"signature_name": "text", "instances": ["a", {"b64": "Yg=="}]}
    assert ask(server, path, text).json == {"predictions": [["a"], ["b"]]}
    sums = {"signature_name": "sums", "inputs": {"x": [[1, 2], [3, 4]]}}
    assert ask(server, path, sums).json == {"outputs": {"sum": [3, 7], "twice": [[2, 4], [6, 8]]}}


def test_a_wrong_request_gets_one_line(server: ServerProcess):
    """And the model goes on answering."""
    wait_until(server, "lite", 1, "AVAILABLE")

    wrong = ask(server, "/v1/models/lite:predict", {"instances": [[1.0, 2.0]]})
    right = ask(server, "/v1/models/lite:predict", {"instances": [[0.0] * 784]})

    assert wrong.status == 500
    assert wrong.json["error"].startswith("Failed to invoke TfLite interpreter: ")
    assert "\n" not in wrong.json["error"]
    assert right.status == 200


def test_saved_models_are_served_beside_them(server: ServerProcess):
    """By TensorFlow, in the same process."""
    wait_until(server, "saved", 1, "AVAILABLE")

    assert predict(server, "saved", 1.0, 2.0, 5.0) == [2.5, 3.0, 4.5]


def test_metadata_shows_the_signatures(server: ServerProcess):
    """As those of any model."""
    wait_until(server, "lite", 1, "AVAILABLE")

    found = ask(server, "/v1/models/lite/metadata").json["metadata"]["signature_def"]

    pixels = found["signature_def"]["serving_default"]["inputs"]["pixels"]
    assert pixels["dtype"] == "DT_FLOAT"
    assert pixels["name"] == "serving_default_pixels:0"
    assert [dim["size"] for dim in pixels["tensor_shape"]["dim"]] == ["-1", "784"]


def test_the_other_command_asks_by_tensorflow_servings_names(lite_shelf: LiteShelf):
    """Its signature is made of the names of the tensors."""
    base_path = lite_shelf("keras_softmax")
    flags = (f"--model_base_path={base_path}", "--model_name=m", "--prefer_tflite_model=true")
    answer = lite_shelf.answers("keras_softmax", "serving_default")[0]
    with ServerProcess(*flags, command=TFS) as server:
        server.wait_until_started()

        found = ask_over_grpc(server, "m", "", serving_default_pixels=answer.inputs["pixels"])

        assert list(found) == ["StatefulPartitionedCall_1"]
        assert found["StatefulPartitionedCall_1"].tolist() == answer.outputs["output_0"].tolist()
        server.wait_for("No signature def found in TFLite model. Generating one.")


def test_without_the_flag_a_folder_with_only_a_tflite_model_has_no_model(lite_shelf: LiteShelf):
    """One line says what would help; the other command says what TensorFlow Serving says."""
    flags = (f"--model_base_path={lite_shelf('keras_softmax')}", "--model_name=m")
    with ServerProcess(*flags, command=SALVER) as server:
        server.wait_until_started()
        _, code, message = wait_until(server, "m", 1, "END")
    assert code == "NOT_FOUND"
    assert message.endswith("--prefer_tflite_model serves it")

    with ServerProcess(*flags, "--max_num_load_retries=0", command=TFS) as server:
        assert server.wait() != 0

    assert "does not appear to contain a SavedModel bundle" in "".join(server.output)
