"""Legacy SessionBundles behind real sockets, by both commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from saved_models import serialized_example, tensorflow
from server_process import PATIENCE_S, ServerProcess, config_file
from session_bundles import BundleShelf, X

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")
tensorflow()

from tensorflow_serving.apis import (  # noqa: E402 - protobuf after TensorFlow, as users do
    classification_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

REFUSED = "Session Bundle is deprecated and removed."
ISOLATED = "isolated"
EXPORTER = Path(__file__).parents[1] / "examples" / "session_bundle" / "mnist_export.py"
HALVES = [2.5, 3.0, 4.5]


@pytest.fixture(scope="module")
def server(
    bundle_shelf: BundleShelf, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Three bundles behind one ``salver serve``, one of them in a process of its own."""
    config = config_file(
        tmp_path_factory.mktemp("config"),
        half_plus_two=bundle_shelf("half_plus_two"),
        classifier=bundle_shelf("classifier"),
        **{ISOLATED: bundle_shelf("shards")},
    )
    flags = (f"--model_config_file={config}", f"--isolated_models={ISOLATED}")
    with ServerProcess(*flags, command=("salver", "serve")) as running:
        running.wait_until_started()
        running.wait_for("Finished adding/updating models")
        yield running


@pytest.fixture(scope="module")
def stub(server: ServerProcess) -> Iterator[Any]:
    """TensorFlow Serving's own client."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def ask(server: ServerProcess, path: str, body: object = None) -> tuple[int, Any]:
    """One request over REST: status, and JSON."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url(path), content)  # noqa: S310 - http on loopback
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def fill(request: Any, model: str) -> Any:
    """A request with the three examples, for the newest version."""
    request.model_spec.name = model
    for x in X:
        request.input.example_list.examples.add().ParseFromString(serialized_example(x=[x]))
    return request


def test_predict_over_rest_in_rows_and_columns(server: ServerProcess):
    """Types and shapes are known, though the bundle told none."""
    path, name = "/v1/models/half_plus_two:predict", {"signature_name": "predict"}
    rows = ask(server, path, {**name, "instances": [[x] for x in X]})
    columns = ask(server, path, {**name, "inputs": {"x": [[x] for x in X]}})

    assert rows == (200, {"predictions": [[y] for y in HALVES]})
    assert columns == (200, {"outputs": [[y] for y in HALVES]})


def test_regress_and_classify_over_rest(server: ServerProcess):
    """The default signatures, which name no signature to be asked."""
    examples = {"examples": [{"x": x} for x in X]}

    assert ask(server, "/v1/models/half_plus_two:regress", examples) == (200, {"results": HALVES})
    status, answer = ask(server, "/v1/models/classifier:classify", examples)
    assert (status, answer["results"][2]) == (
        200,
        [["left", 5.0], ["right", 0.0], ["neither", -5.0]],
    )


def test_regress_and_classify_over_grpc(stub: Any, bundle_shelf: BundleShelf):
    """By TensorFlow Serving's own stubs, to the last bit."""
    regression = stub.Regress(fill(regression_pb2.RegressionRequest(), "half_plus_two"))
    request = fill(classification_pb2.ClassificationRequest(), "classifier")
    classified = stub.Classify(request, timeout=PATIENCE_S)
    scores = [[c.score for c in one.classes] for one in classified.result.classifications]

    assert [one.value for one in regression.result.regressions] == HALVES
    assert scores == bundle_shelf.answers("classifier")["TopKV2:0"]
    assert regression.model_spec.version.value == 123


def test_predict_over_grpc_from_a_process_of_its_own(stub: Any):
    """The isolated model's process is told that bundles are loaded here."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = ISOLATED
    column = np.array(X, np.float32).reshape(-1, 1)
    request.inputs["x"].CopyFrom(tensorflow().make_tensor_proto(column))
    answer = stub.Predict(request, timeout=PATIENCE_S)

    assert list(answer.outputs["y"].float_val) == HALVES


def test_metadata_shows_what_the_signatures_became(server: ServerProcess):
    """With the types and shapes of the graph."""
    _, answer = ask(server, "/v1/models/half_plus_two/metadata")
    signatures = answer["metadata"]["signature_def"]["signature_def"]

    assert signatures.keys() == {"serving_default", "predict", "again"}
    assert signatures["serving_default"]["method_name"] == "tensorflow/serving/regress"
    assert signatures["predict"]["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}],
            "unknown_rank": False,
        },
        "name": "x:0",
    }


def test_a_bad_version_leaves_the_good_one_serving(bundle_shelf: BundleShelf, tmp_path: Path):
    """The status of a version without one of its shards says which, and what to do."""
    base, bad = tmp_path / "shards", tmp_path / "124"
    shutil.copytree(bundle_shelf("shards"), base)
    shutil.copytree(bundle_shelf.version("shards"), bad)
    (bad / "export-00001-of-00002").unlink()
    flags = (f"--model_base_path={base}", "--model_name=shards")
    with ServerProcess(*flags, command=("salver", "serve")) as server:
        server.wait_until_started()
        server.wait_for("Finished adding/updating models")
        bad.rename(base / "124")
        server.wait_for("it lacks export-00001-of-00002")
        predicted = ask(server, "/v1/models/shards:predict", {"instances": [[1.0]]})
        _, status = ask(server, "/v1/models/shards/versions/124")

    assert predicted == (200, {"predictions": [[2.5]]})
    (version,) = status["model_version_status"]
    assert version["status"] == {
        "error_code": "NOT_FOUND",
        "error_message": f"{base}/124 is a SessionBundle; it lacks export-00001-of-00002; if it is "
        "still being copied it will be tried again, otherwise copy it anew",
    }


def test_the_example_writes_what_is_served(tmp_path: Path):
    """The exporter prints what TensorFlow Serving's did, and the server answers as its model."""
    command = [
        sys.executable,
        EXPORTER,
        "--training_iteration=20",
        f"--answers={tmp_path}/answers.npz",
        f"{tmp_path}/mnist",
    ]
    offline = {**os.environ, "https_proxy": "http://127.0.0.1:9"}  # the digits here will do
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=offline)
    flags = (f"--model_base_path={tmp_path}/mnist", "--model_name=mnist")
    with ServerProcess(*flags, command=("salver", "serve")) as server:
        server.wait_until_started()
        with np.load(tmp_path / "answers.npz") as answers:
            body = {"signature_name": "predict", "instances": answers["images"][:5].tolist()}
            expected = answers["scores"][:5]
        _, predicted = ask(server, "/v1/models/mnist:predict", body)
        example = {"x": body["instances"][0]}
        _, classified = ask(server, "/v1/models/mnist:classify", {"examples": [example]})

    lines = printed.stdout.splitlines()
    assert [lines[0], *lines[-3:]] == [
        "Training model...",
        "Done training!",
        f"Exporting trained model to {tmp_path}/mnist/00000001",
        "Done exporting!",
    ]
    np.testing.assert_allclose(predicted["predictions"], expected, rtol=1e-4, atol=1e-6)
    label, score = classified["results"][0][0]
    assert (label, np.float32(score)) == (
        str(expected[0].argmax()),
        pytest.approx(expected[0].max(), rel=1e-4),
    )


def test_tensorflow_model_server_refuses_one(bundle_shelf: BundleShelf):
    """Code and words are TensorFlow Serving's."""
    flags = (f"--model_base_path={bundle_shelf('shards')}", "--max_num_load_retries=0")
    with ServerProcess(*flags, "--model_name=m") as server:
        server.wait_for(f"UNIMPLEMENTED: {REFUSED}")
        assert server.wait() == 255


def test_tensorflow_model_server_loads_one_when_told_to(bundle_shelf: BundleShelf):
    """The option is the only difference."""
    flags = (f"--model_base_path={bundle_shelf('shards')}", "--load_session_bundles")
    with ServerProcess(*flags, "--model_name=m") as server:
        server.wait_until_started()
        answer = ask(server, "/v1/models/m:predict", {"instances": [[1.0]]})

    assert answer == (200, {"predictions": [[2.5]]})
