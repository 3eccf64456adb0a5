"""Salver's commands as processes: what they print, serve over a real socket, survive and leave."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from salver.servables.platform import installed_platforms
from saved_models import (
    MODELS,
    Shelf,
    read_saved_model,
    serialized_example,
    signature_answer,
    tensorflow,
)
from server_process import PATIENCE_S, ServerProcess, config_file, program

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")
tensorflow()

from google.protobuf import json_format  # noqa: E402 - protobuf after TensorFlow, as users do
from tensorflow_serving.apis import (  # noqa: E402
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

SALVER = ("salver", "serve")
TFS = ("tensorflow_model_server",)
FAILED = 255


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    server: ServerProcess,
    path: str,
    body: bytes | str | dict[str, Any] | None = None,
    *,
    method: str = "",
    **headers: str,
) -> Answer:
    """One request on a connection of its own; a POST if there is a body."""
    content = json.dumps(body) if isinstance(body, dict) else body
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=PATIENCE_S)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, content, named)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def predict(server: ServerProcess, model: str, *instances: float) -> list[float]:
    """The predictions for ``instances``; ``model`` may go on with a version or a label."""
    answer = ask(server, f"/v1/models/{model}:predict", {"instances": instances})
    assert answer.status == 200, answer
    return answer.json["predictions"]


def statuses(server: ServerProcess, model: str) -> dict[int, tuple[str, str, str]]:
    """State, code and message of every version of a model."""
    answer = ask(server, f"/v1/models/{model}")
    assert answer.status == 200, answer
    return {
        int(one["version"]): (
            one["state"],
            one["status"]["error_code"],
            one["status"]["error_message"],
        )
        for one in answer.json["model_version_status"]
    }


def wait_until(server: ServerProcess, model: str, version: int, state: str) -> tuple[str, str, str]:
    """Ask until a version is in ``state``; its status."""
    give_up = time.monotonic() + PATIENCE_S
    while (status := statuses(server, model).get(version, ("unknown",)))[0] != state:
        assert time.monotonic() < give_up, f"version {version} of {model} is {status}, not {state}"
    return status


def put(version: Path, base_path: Path) -> None:
    """Copy a version into a base path under its own name, all at once."""
    unfinished = base_path.with_name(base_path.name + ".unfinished")
    shutil.copytree(version, unfinished)
    base_path.mkdir(exist_ok=True)
    unfinished.rename(base_path / version.name)


def error_body(text: str) -> bytes:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{{\n    "error": "{quoted}"\n}}'.encode()


# --- REST over a socket ---------------------------------------------------------------------------

CONFIG = """
model_config_list {{
  config {{
    name: "half_plus_two" base_path: "{half_plus_two}" model_platform: "tensorflow"
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "gone" value: 9 }}
  }}
  config {{ name: "counted" base_path: "{half_plus_two}" model_platform: "tensorflow" }}
  config {{ name: "several" base_path: "{several_signatures}" model_platform: "tensorflow" }}
  config {{ name: "examples" base_path: "{v1_half_plus_two}" model_platform: "tensorflow" }}
  config {{ name: "classifier" base_path: "{v1_classifier}" model_platform: "tensorflow" }}
}}
"""


@pytest.fixture(scope="module")
def server(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The models of CONFIG behind one ``tensorflow_model_server``."""
    folder = tmp_path_factory.mktemp("config")
    names = ("half_plus_two", "several_signatures", "v1_half_plus_two", "v1_classifier")
    (folder / "models.config").write_text(CONFIG.format(**{name: shelf(name) for name in names}))
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    flags = (
        f"--model_config_file={folder}/models.config",
        f"--monitoring_config_file={folder}/monitoring.config",
        "--allow_version_labels_for_unavailable_models",
        "--rest_api_enable_cors_support",
    )
    with ServerProcess(*flags) as running:
        yield running.wait_until_started()


HALVES = {"instances": [1.0, 2.0, 5.0]}
PREDICTIONS = b'{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'

ANSWERS = {
    "rows": ("half_plus_two:predict", HALVES, {"predictions": [2.5, 3.0, 4.5]}),
    "version": ("half_plus_two/versions/1:predict", HALVES, {"predictions": [2.5, 3.0, 4.5]}),
    "label": ("half_plus_two/labels/stable:predict", HALVES, {"predictions": [2.5, 3.0, 4.5]}),
    "rows by name": (
        "several:predict",
        {"instances": [{"a": 3, "b": 1}, {"a": 0, "b": 2}]},
        {"predictions": [{"sum": 4.0, "difference": 2.0}, {"sum": 2.0, "difference": -2.0}]},
    ),
    "columns": ("half_plus_two:predict", {"inputs": [1, 2, 5]}, {"outputs": [2.5, 3.0, 4.5]}),
    "columns by name": (
        "several:predict",
        {"inputs": {"a": [3, 0], "b": [1, 2]}},
        {"outputs": {"sum": [4.0, 2.0], "difference": [2.0, -2.0]}},
    ),
    "scalar in a column": (
        "several:predict",
        {"signature_name": "scale", "inputs": {"x": [1, 2], "factor": 3}},
        {"outputs": [3.0, 6.0]},
    ),
    "b64 both ways": (
        "several:predict",
        {"signature_name": "encode", "instances": ["ab", {"b64": "/9j/"}]},
        {
            "predictions": [
                {"base64_bytes": {"b64": "YWI="}, "length": 2},
                {"base64_bytes": {"b64": "/9j/"}, "length": 3},
            ]
        },
    ),
    "text": (
        "several:predict",
        {"signature_name": "upper", "inputs": ["salver", 'a "quote"\n']},
        {"outputs": ["SALVER", 'A "QUOTE"\n']},
    ),
    "classify": (
        "examples:classify",
        {"signature_name": "classify_x_to_y", "examples": [{"x": 1.0}, {"x": [5.0]}]},
        {"results": [[["", 2.5]], [["", 4.5]]]},
    ),
    "regress": (
        "examples:regress",
        {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}, {"x": 5.0}]},
        {"results": [2.5, 4.5]},
    ),
    "regress with a context": (
        "examples:regress",
        {
            "signature_name": "regress_x_to_y2",
            "context": {"x": 1.0},
            "examples": [{}, {"x": 5.0}],
        },
        {"results": [3.5, 5.5]},
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_inference_over_rest(server: ServerProcess, case: str):
    """Every form of request is answered in its own form, as JSON."""
    path, body, expected = ANSWERS[case]
    answer = ask(server, f"/v1/models/{path}", body)

    assert (answer.status, answer.json) == (200, expected)
    assert answer.headers["Content-Type"] == "application/json"


def test_predictions_are_laid_out_as_tensorflow_serving_does(server: ServerProcess):
    """One flat output comes byte for byte as old clients and tests expect it."""
    assert ask(server, "/v1/models/half_plus_two:predict", HALVES).body == PREDICTIONS


def test_classes_come_with_their_labels(server: ServerProcess, shelf: Shelf):
    """A classifier's labels and scores are those of TensorFlow's own run."""
    answer = ask(server, "/v1/models/classifier:classify", {"examples": [{"x": [1.0, 0.5]}]})
    example = np.array([serialized_example(x=[1.0, 0.5])], object)
    expected = signature_answer(shelf.version("v1_classifier"), {"inputs": example})

    ((*got,),) = answer.json["results"]
    assert [(label.encode(), np.float32(score)) for label, score in got] == [
        *zip(expected["classes"][0], expected["scores"][0], strict=True)
    ]


@pytest.mark.parametrize("path", ["", "/versions/1", "/labels/stable", "/labels/gone"])
def test_status_over_rest(server: ServerProcess, path: str):
    """A version's state, byte for byte; a label selects nothing."""
    answer = ask(server, f"/v1/models/half_plus_two{path}")

    assert answer.status == 200
    assert answer.body == (
        b'{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "AVAILABLE",\n'
        b'   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )


def test_metadata_over_rest(server: ServerProcess, shelf: Shelf):
    """The signatures as JSON read back to the very messages that were exported."""
    answer = ask(server, "/v1/models/several/metadata")
    served = json_format.ParseDict(
        answer.json["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap()
    )
    (meta_graph,) = read_saved_model(shelf.version("several_signatures")).meta_graphs

    assert answer.json["model_spec"] == {"name": "several", "signature_name": "", "version": "1"}
    assert dict(served.signature_def) == dict(meta_graph.signature_def)


CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/models/half_plus_two:predict", HALVES, 200),
        ("/v1/models/half_plus_two:predict", {}, 400),
        ("/v1/models/half_plus_two", None, 200),
        ("/v1/models/nope", None, 404),
    ],
)
def test_answers_may_be_read_by_web_pages(server: ServerProcess, path, body, status):
    """With CORS support every answer carries the headers, errors included."""
    answer = ask(server, path, body, Origin="https://example.org")

    assert answer.status == status
    assert CORS.items() <= answer.headers.items()


def test_a_browsers_preflight_is_answered(server: ServerProcess):
    """OPTIONS from a web page is allowed, with nothing in the body."""
    path = "/v1/models/half_plus_two:predict"
    answer = ask(server, path, method="OPTIONS", Origin="https://example.org")

    assert (answer.status, answer.body) == (200, b"")
    assert CORS.items() <= answer.headers.items()


def test_a_gzip_body_is_unpacked(server: ServerProcess):
    """A request may be compressed."""
    body = gzip.compress(json.dumps(HALVES).encode())
    answer = ask(server, "/v1/models/half_plus_two:predict", body, Content_Encoding="gzip")

    assert (answer.status, answer.body) == (200, PREDICTIONS)


def test_the_prometheus_page_counts_what_was_asked(server: ServerProcess):
    """Requests by model and status, latencies by API and entry point, runs of the model."""
    predict(server, "counted", 1)
    predict(server, "counted", 2)
    ask(server, "/v1/models/counted:predict", {"instances": ["a"]})
    ask(server, "/v1/models/counted")
    ask_over_grpc(server, "counted", 1)
    page = ask(server, "/monitoring/prometheus/metrics")

    assert page.headers["Content-Type"] == "text/plain"
    serving = ":tensorflow:serving:"
    lines = set(page.body.decode().splitlines())
    assert lines >= {
        f"# TYPE {serving}request_count counter",
        f'{serving}request_count{{model_name="counted",status="OK"}} 4',
        f'{serving}request_count{{model_name="counted",status="INVALID_ARGUMENT"}} 1',
        f"# TYPE {serving}request_latency histogram",
        f"{serving}request_latency_count{{{labels('predict', 'REST')}}} 2",
        f"{serving}request_latency_count{{{labels('', 'REST')}}} 1",
        f"{serving}request_latency_count{{{labels('Predict', 'GRPC')}}} 1",
        f'{serving}request_latency_bucket{{{labels("predict", "REST")},le="+Inf"}} 2',
        f'{serving}runtime_latency_count{{model_name="counted",API="Predict",runtime="TF1"}} 3',
        "# TYPE :tensorflow:core:graph_runs counter",
    }


def labels(api: str, entrypoint: str) -> str:
    return f'model_name="counted",API="{api}",entrypoint="{entrypoint}"'


def test_the_prometheus_page_takes_no_query(server: ServerProcess):
    """As in TensorFlow Serving, anything behind the path is refused in plain text."""
    answer = ask(server, "/monitoring/prometheus/metrics?a=b")

    page = "/monitoring/prometheus/metrics"
    assert (answer.status, answer.body) == (
        400,
        f"Unexpected path: {page}?a=b. Should be {page}".encode(),
    )


def first(text: str) -> str:
    return f"Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: {text}"


NOT_FOUND = "Servable not found for request: "
DEEP = 100_000

BAD_REQUESTS = {
    "empty": ("half_plus_two:predict", b"", 400, "JSON Parse error: The document is empty"),
    "truncated": (
        "half_plus_two:predict",
        b'{"instances": [1.0',
        400,
        "JSON Parse error: Missing a comma or ] after an array element. at offset: 18",
    ),
    "truncated in a string": (
        "half_plus_two:predict",
        b'{"instances": ["a',
        400,
        "JSON Parse error: Missing a closing quotation mark in string. at offset: 17",
    ),
    "no JSON": (
        "half_plus_two:predict",
        b"x=1",
        400,
        "JSON Parse error: Invalid value. at offset: 0",
    ),
    "no object": ("half_plus_two:predict", b"[1, 2]", 400, "JSON Value: [1, 2] Is not object"),
    "neither form": ("half_plus_two:predict", b"{}", 400, "Missing 'inputs' or 'instances' key"),
    "wrong type": (
        "half_plus_two:predict",
        b'{"instances": ["one"]}',
        400,
        first('JSON Value: "one" Type: String is not of expected type: float'),
    ),
    "ragged": (
        "several:predict",
        b'{"signature_name": "matmul", "instances": [[1, 2], [3]]}',
        400,
        (
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting tensor size: 2 but got: 1"
        ),
    ),
    "unknown model": ("nope:predict", b'{"instances": [1]}', 404, NOT_FOUND + "Latest(nope)"),
    "unknown version": (
        "half_plus_two/versions/7:predict",
        b'{"instances": [1]}',
        404,
        NOT_FOUND + "Specific(half_plus_two, 7)",
    ),
    "label of a version that is not loaded": (
        "half_plus_two/labels/gone:predict",
        b'{"instances": [1]}',
        404,
        NOT_FOUND + "Specific(half_plus_two, 9)",
    ),
    "unknown label": (
        "half_plus_two/labels/nope:predict",
        b'{"instances": [1]}',
        400,
        "Unrecognized servable version label: nope",
    ),
    "unknown signature": (
        "half_plus_two:predict",
        b'{"signature_name": "nope", "instances": [1]}',
        400,
        'Serving signature name: "nope" not found in signature def',
    ),
    "bad base64": (
        "several:predict",
        b'{"signature_name": "upper", "instances": [{"b64": "*"}]}',
        400,
        first("Unable to base64 decode"),
    ),
    "missing input": (
        "several:predict",
        b'{"inputs": {"a": [1]}}',
        400,
        "Missing named input: b in 'inputs' object.",
    ),
    "no examples": (
        "examples:classify",
        b'{"instances": [1]}',
        400,
        (
            'JSON Value: {\n    "instances": [1]\n} When method is classify, '
            "key 'examples' is expected and was not found"
        ),
    ),
    "an empty list of examples": (
        "examples:regress",
        b'{"examples": []}',
        400,
        "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array",
    ),
    "unknown signature for examples": (
        "examples:regress",
        b'{"signature_name": "nope", "examples": [{}]}',
        400,
        "No signature was found with the name: nope",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_gets_its_text_and_harms_nobody(server: ServerProcess, case: str):
    """The error is TensorFlow Serving's to the byte, and the next request is answered."""
    path, body, status, text = BAD_REQUESTS[case]
    answer = ask(server, f"/v1/models/{path}", body)

    assert (answer.status, answer.body) == (status, error_body(text))
    assert answer.headers["Content-Type"] == "application/json"
    assert predict(server, "half_plus_two", 1, 2, 5) == [2.5, 3.0, 4.5]


ODD_REQUESTS = {
    "NaN": (
        b'{"instances": [NaN, Infinity, -Infinity]}',
        b'{\n    "predictions": [NaN, Infinity, -Infinity\n    ]\n}',
    ),
    "what follows the document": (b'{"instances": [1.0, 2.0, 5.0]} {"instances', PREDICTIONS),
    "a byte order mark": (b'\xef\xbb\xbf{"instances": [1.0, 2.0, 5.0]}', PREDICTIONS),
    "an unknown key of great depth": (
        b'{"x": ' + b"[" * DEEP + b"]" * DEEP + b', "instances": [1.0, 2.0, 5.0]}',
        PREDICTIONS,
    ),
    "bytes that are no UTF-8": (
        b'{"signature_name": "serving_default", "\xff": "\xfe", "instances": [1.0, 2.0, 5.0]}',
        PREDICTIONS,
    ),
}


@pytest.mark.parametrize("case", ODD_REQUESTS)
def test_an_odd_request_is_answered(server: ServerProcess, case: str):
    """What TensorFlow Serving's parser lets pass is let pass."""
    body, expected = ODD_REQUESTS[case]
    answer = ask(server, "/v1/models/half_plus_two:predict", body)

    assert (answer.status, answer.body) == (200, expected)


def test_text_that_is_no_utf_8_passes_through(server: ServerProcess):
    """The bytes of a string reach the model and come back, whatever they are."""
    body = b'{"signature_name": "upper", "instances": ["a\xff"]}'
    answer = ask(server, "/v1/models/several:predict", body)

    assert (answer.status, answer.body) == (200, b'{\n    "predictions": ["A\xff"\n    ]\n}')


def test_great_depth_is_refused_not_followed(server: ServerProcess):
    """A value nested a hundred thousand times is an error of its own request."""
    body = b'{"instances": ' + b"[" * DEEP + b"1" + b"]" * DEEP + b"}"
    answer = ask(server, "/v1/models/half_plus_two:predict", body)

    assert answer.status == 400
    assert predict(server, "half_plus_two", 1) == [2.5]


# --- Versions that come and go --------------------------------------------------------------------


@contextmanager
def prediction_stub(server: ServerProcess) -> Iterator[Any]:
    """PredictionService over a channel of its own."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request_for(model: str, *values: float, label: str = "") -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    if label:
        request.model_spec.version_label = label
    request.inputs["x"].CopyFrom(tensorflow().make_tensor_proto(np.array(values, np.float32)))
    return request


def ask_over_grpc(
    server: ServerProcess, model: str, *values: float, label: str = ""
) -> list[float]:
    with prediction_stub(server) as stub:
        answer = stub.Predict(request_for(model, *values, label=label), PATIENCE_S)
    return list(answer.outputs["y"].float_val)


VERSION_OF_ANSWER = {2.5: 1, 3.5: 2}
ANSWERS_BEFORE = 20
ANSWERS_AFTER = 20


def versions_over_grpc(server: ServerProcess, model: str) -> Iterator[int]:
    """The version that gave each answer, for ever."""
    request = request_for(model, 1)
    with prediction_stub(server) as stub:
        while True:
            answer = stub.Predict(request, PATIENCE_S)
            version = VERSION_OF_ANSWER[answer.outputs["y"].float_val[0]]
            assert answer.model_spec.version.value == version
            yield version


def versions_over_rest(server: ServerProcess, model: str) -> Iterator[int]:
    """The same over REST, on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=PATIENCE_S)
    try:
        while True:
            connection.request("POST", f"/v1/models/{model}:predict", '{"instances": [1.0]}')
            yield VERSION_OF_ANSWER[json.load(connection.getresponse())["predictions"][0]]
    finally:
        connection.close()


def ask_through_a_swap(versions: Iterator[int], under_load: threading.Barrier) -> list[int]:
    """Answers until the second version has given some; the load begins with the first few."""
    given = [next(versions) for _ in range(ANSWERS_BEFORE)]
    under_load.wait(PATIENCE_S)
    give_up = time.monotonic() + PATIENCE_S
    while given.count(2) < ANSWERS_AFTER and time.monotonic() < give_up:
        given.append(next(versions))
    versions.close()  # type: ignore[attr-defined] # a generator
    return given


@pytest.mark.parametrize("command", [TFS, SALVER], ids=lambda command: command[0])
def test_a_new_version_takes_over_under_load_and_no_request_fails(
    shelf: Shelf, tmp_path: Path, command: tuple[str, ...]
):
    """Every answer is whole and right, the second version's follow the first's, none is lost."""
    base_path = tmp_path / "half_plus"
    put(shelf.version("half_plus_two"), base_path)
    second = tmp_path / "2"
    shutil.copytree(shelf.version("half_plus_three"), second)
    flags = ("--model_name=half_plus", f"--model_base_path={base_path}")
    asking = [versions_over_grpc, versions_over_rest] * 2
    under_load = threading.Barrier(len(asking) + 1)
    with ServerProcess(*flags, command=command) as server, ThreadPoolExecutor() as clients:
        server.wait_until_started()
        given = [
            clients.submit(ask_through_a_swap, ask_on(server, "half_plus"), under_load)
            for ask_on in asking
        ]
        under_load.wait(PATIENCE_S)
        second.rename(base_path / "2")
        answers = [one.result() for one in given]
        wait_until(server, "half_plus", 1, "END")

        assert statuses(server, "half_plus") == {2: ("AVAILABLE", "OK", ""), 1: ("END", "OK", "")}
    assert all(set(versions) == {1, 2} for versions in answers)
    assert all(versions == sorted(versions) for versions in answers)


def test_the_log_tells_of_start_and_swap_in_tensorflow_servings_words(shelf: Shelf, tmp_path: Path):
    """The lines that scripts wait for come in the order that they know."""
    base_path = tmp_path / "half_plus"
    put(shelf.version("half_plus_two"), base_path)
    flags = ("--model_name=half_plus", f"--model_base_path={base_path}")
    with ServerProcess(*flags) as server:
        server.wait_until_started()
        shutil.copytree(shelf.version("half_plus_three"), tmp_path / "2")
        (tmp_path / "2").rename(base_path / "2")
        server.wait_for("Done unloading servable version")

    one, two = (f"{{name: half_plus version: {version}}}" for version in (1, 2))
    expected = [
        (
            "Building single TensorFlow model file config:  "
            f"model_name: half_plus model_base_path: {base_path}"
        ),
        "Adding/updating models.",
        " (Re-)adding model: half_plus",
        f"Successfully reserved resources to load servable {one}",
        f"Approving load for servable version {one}",
        f"Loading servable version {one}",
        f"Successfully loaded servable version {one}",
        "Finished adding/updating models",
        "Using InsecureServerCredentials",
        f"Running gRPC ModelServer at 0.0.0.0:{server.grpc_port} ...",
        f"Exporting HTTP/REST API at:localhost:{server.rest_port} ...",
        "NET_LOG: Entering the event loop ...",
        f"Successfully reserved resources to load servable {two}",
        f"Approving load for servable version {two}",
        f"Loading servable version {two}",
        f"Successfully loaded servable version {two}",
        f"Quiescing servable version {one}",
        f"Done quiescing servable version {one}",
        f"Unloading servable version {one}",
        f"Done unloading servable version {one}",
    ]
    said = [line.partition("] ")[2].rstrip("\n") for line in server.log]
    assert [line for line in said if line in expected] == expected


def test_a_folder_that_disappears_and_comes_back(shelf: Shelf, tmp_path: Path):
    """Without its base path a model stays; without its version folder it goes, until it returns."""
    base_path = tmp_path / "half_plus"
    put(shelf.version("half_plus_two"), base_path)
    flags = ("--model_name=half_plus", f"--model_base_path={base_path}")
    with ServerProcess(*flags, command=SALVER) as server:
        server.wait_until_started()
        base_path.rename(tmp_path / "away")
        server.wait_for(f"Could not find base path {base_path} for servable half_plus")
        without_base_path = predict(server, "half_plus", 1)

        (tmp_path / "away").rename(base_path)
        (base_path / "1").rename(tmp_path / "1")
        server.wait_for("Done unloading servable version {name: half_plus version: 1}")
        ended = wait_until(server, "half_plus", 1, "END")
        without_version = ask(server, "/v1/models/half_plus:predict", {"instances": [1]})

        (tmp_path / "1").rename(base_path / "1")
        server.wait_for("Successfully loaded servable version", times=2)
        wait_until(server, "half_plus", 1, "AVAILABLE")
        back = predict(server, "half_plus", 1)

    assert without_base_path == back == [2.5]
    assert ended == ("END", "OK", "")
    assert (without_version.status, without_version.body) == (
        404,
        error_body(NOT_FOUND + "Latest(half_plus)"),
    )


def test_a_version_that_fails_leaves_the_old_one_serving(shelf: Shelf, tmp_path: Path):
    """The old one answers while the new one is tried; taking the new one away ends the tries."""
    base_path = tmp_path / "half_plus"
    put(shelf.version("half_plus_two"), base_path)
    flags = ("--model_name=half_plus", f"--model_base_path={base_path}")
    with ServerProcess(*flags, command=SALVER) as server:
        server.wait_until_started()
        (base_path / "2").mkdir()
        server.wait_for("Loading servable: {name: half_plus version: 2} failed: NOT_FOUND: ")
        while_failing = predict(server, "half_plus", 1)
        tried = wait_until(server, "half_plus", 2, "END")
        (base_path / "2").rmdir()
        server.wait_for("Retrying of Loading servable: {name: half_plus version: 2} was cancelled.")
        ended = wait_until(server, "half_plus", 2, "END")
        afterwards = predict(server, "half_plus", 1)

    assert while_failing == afterwards == [2.5]
    assert tried == ended
    assert tried[:2] == ("END", "NOT_FOUND")
    assert tried[2].startswith(f"{base_path / '2'} holds no files; ")


def test_every_version_of_the_first_configuration_is_loaded(shelf: Shelf, tmp_path: Path):
    """The start waits for one of each model; the others are not forgotten."""
    base_path = tmp_path / "many"
    for version in range(1, 41):
        shutil.copytree(shelf.version("half_plus_two"), base_path / str(version))
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "many" base_path: "{base_path}" '
        'model_platform: "tensorflow" model_version_policy { all {} } } }'
    )
    with ServerProcess(f"--model_config_file={config}", command=SALVER) as server:
        server.wait_for("Successfully loaded servable version", times=40)
        found = statuses(server, "many")

    assert {state for state, _, _ in found.values()} == {"AVAILABLE"}
    assert len(found) == 40


def test_a_label_may_wait_for_its_version(shelf: Shelf, tmp_path: Path):
    """A label allowed for a version that is not there leads to it as soon as it is."""
    base_path = tmp_path / "half_plus"
    put(shelf.version("half_plus_two"), base_path)
    (tmp_path / "models.config").write_text(
        f'model_config_list {{ config {{ name: "half_plus" base_path: "{base_path}"'
        '  model_platform: "tensorflow" model_version_policy { all {} }'
        '  version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 } } }'
    )
    flags = (
        f"--model_config_file={tmp_path}/models.config",
        "--allow_version_labels_for_unavailable_models",
    )
    with ServerProcess(*flags, command=SALVER) as server:
        server.wait_until_started()
        too_early = ask(server, "/v1/models/half_plus/labels/canary:predict", {"instances": [1]})
        shutil.copytree(shelf.version("half_plus_three"), tmp_path / "2")
        (tmp_path / "2").rename(base_path / "2")
        server.wait_for("Successfully loaded servable version {name: half_plus version: 2}")
        wait_until(server, "half_plus", 2, "AVAILABLE")

        assert predict(server, "half_plus/labels/canary", 1) == [3.5]
        assert predict(server, "half_plus/labels/stable", 1) == [2.5]
        assert ask_over_grpc(server, "half_plus", 1, label="canary") == [3.5]
        assert ask_over_grpc(server, "half_plus", 1, label="stable") == [2.5]
    assert (too_early.status, too_early.body) == (
        404,
        error_body(NOT_FOUND + "Specific(half_plus, 2)"),
    )


# --- Models that cannot be served -----------------------------------------------------------------

SAVED_MODEL_IS_MISSING = (
    "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
    "`saved_model.pb`)\nSpecified file path: {path}"
)
BAD_MODELS = {
    "half_copied": ("NOT_FOUND", SAVED_MODEL_IS_MISSING),
    "file": ("NOT_FOUND", SAVED_MODEL_IS_MISSING),
    "other_tag": (
        "NOT_FOUND",
        (
            "Could not find meta graph def matching supplied tags: { serve }. To inspect available "
            "tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
        ),
    ),
    "corrupt_graph": ("OUT_OF_RANGE", "Read less bytes than requested"),
    "unknown_op": ("NOT_FOUND", "Op type not registered 'NobodyHasThisOp' in binary running on"),
    "truncated_variables": ("OUT_OF_RANGE", "Read less bytes than requested"),
}
"""The code and the beginning of the text that each is to end with."""


def bad_models(shelf: Shelf, folder: Path) -> dict[str, Path]:
    """Base paths with one version each, of which none can be loaded."""
    half_copied = folder / "half_copied" / "1"
    shutil.copytree(shelf.version("half_plus_two") / "variables", half_copied / "variables")
    (folder / "file").mkdir()
    (folder / "file" / "1").write_text("not a folder")
    own = {name: folder / name for name in ("half_copied", "file")}
    return own | {name: shelf(name) for name in BAD_MODELS if name in MODELS}


def test_bad_models_do_not_keep_a_good_one_from_its_work(shelf: Shelf, tmp_path: Path):
    """The good one serves, each bad one ends with its cause, and a missing one is waited for."""
    bad = bad_models(shelf, tmp_path)
    models = {**bad, "missing": tmp_path / "missing", "good": shelf("half_plus_two")}
    flags = (
        f"--model_config_file={config_file(tmp_path, **models)}",
        "--max_num_load_retries=0",
        "--explain_load_errors=false",
    )
    with ServerProcess(*flags, command=SALVER) as server:
        server.wait_for("Successfully loaded servable version {name: good version: 1}")
        wait_until(server, "good", 1, "AVAILABLE")
        answer = predict(server, "good", 1, 2, 5)
        server.wait_for("exhausted max_num_retries", times=len(bad))
        ended = {name: wait_until(server, name, 1, "END") for name in bad}
        missing = ask(server, "/v1/models/missing")
        put(shelf.version("half_plus_three"), tmp_path / "missing")
        server.wait_for("Successfully loaded servable version {name: missing version: 1}")
        wait_until(server, "missing", 1, "AVAILABLE")
        came_late = predict(server, "missing", 1, 2, 5)
        server.send(signal.SIGTERM)
        code = server.wait()

    assert answer == [2.5, 3.0, 4.5]
    assert {name: code for name, (_, code, _) in ended.items()} == {
        name: code for name, (code, _) in BAD_MODELS.items()
    }
    for name, (_, _, text) in ended.items():
        assert text.startswith(BAD_MODELS[name][1].replace("{path}", str(bad[name] / "1"))), name
    assert (missing.status, missing.body) == (
        404,
        error_body("Could not find any versions of model missing"),
    )
    assert came_late == [3.5, 4.0, 5.5]
    assert code == 0


def test_a_model_beyond_the_memory_budget_is_refused(shelf: Shelf, tmp_path: Path):
    """Of two models that fit one at a time, one serves and the other says why it does not."""
    version = shelf.version("half_plus_two")
    size = sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
    config = config_file(tmp_path, one=shelf("half_plus_two"), other=shelf("half_plus_two"))
    flags = (f"--model_config_file={config}", f"--memory_budget_bytes={size * 2}")
    with ServerProcess(*flags, command=SALVER) as server:
        server.wait_until_started()
        found = {name: statuses(server, name)[1] for name in ("one", "other")}
        (serving,) = (name for name, (state, _, _) in found.items() if state == "AVAILABLE")
        (refused,) = found.keys() - {serving}
        answer = predict(server, serving, 1)

    assert answer == [2.5]
    assert found[refused] == (
        "END",
        "RESOURCE_EXHAUSTED",
        f"Insufficient resources to load servable {{name: {refused} version: 1}}",
    )


# --- A start that fails ---------------------------------------------------------------------------


def failed_start(*flags: str) -> tuple[int, str, str]:
    """Exit code, standard output and log of a ``tensorflow_model_server`` that gives up."""
    with ServerProcess(*flags) as server:
        code = server.wait()
    return code, "".join(server.output), "".join(server.log)


def failure(status: str) -> str:
    return f"Failed to start server. Error: {status}\n"


FILES = {
    "bad.config": "this is no protobuf",
    "relative.config": (
        'model_config_list { config { name: "m" base_path: "m" model_platform: "tensorflow" } }'
    ),
    "twice.config": (
        'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" }'
        '  config { name: "m" base_path: "/n" model_platform: "tensorflow" } }'
    ),
    "platform.config": (
        'model_config_list { config { name: "m" base_path: "/m" model_platform: "onnx" } }'
    ),
    "no_platform.config": 'model_config_list { config { name: "m" base_path: "/m" } }',
    "labels.config": (
        'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow"'
        '  version_labels { key: "stable" value: 1 } } }'
    ),
}

NO_START = {
    "no port": (
        ("--port=0", "--model_base_path=/m"),
        (
            "INVALID_ARGUMENT: At least one of server_options.grpc_port or "
            "server_options.grpc_socket_path must be set."
        ),
    ),
    "two protections": (
        ("--use_alts_credentials", "--ssl_config_file=/ssl.config", "--model_base_path=/m"),
        (
            "INVALID_ARGUMENT: Either use_alts_credentials must be false or ssl_config_file must "
            "be empty."
        ),
    ),
    "no model": (
        (),
        (
            "INVALID_ARGUMENT: Both server_options.model_base_path and "
            "server_options.model_config_file are empty!"
        ),
    ),
    "no protobuf": (
        ("--model_config_file={folder}/bad.config",),
        "INVALID_ARGUMENT: Invalid protobuf file: '{folder}/bad.config'",
    ),
    "batching parameters without batching": (
        ("--model_base_path=/m", "--batching_parameters_file=/batching.config"),
        (
            "INVALID_ARGUMENT: server_options.batching_parameters_file is set without setting "
            "server_options.enable_batching to true."
        ),
    ),
    "three parallelisms": (
        (
            "--model_base_path=/m",
            "--tensorflow_session_parallelism=1",
            "--tensorflow_intra_op_parallelism=1",
            "--tensorflow_inter_op_parallelism=1",
        ),
        (
            "INVALID_ARGUMENT: Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all."
        ),
    ),
    "a relative path": (
        ("--model_name=m", "--model_base_path=models/m"),
        (
            "INVALID_ARGUMENT: Expected model m to have an absolute path or URI; "
            "got base_path()=models/m"
        ),
    ),
    "a relative path in a file": (
        ("--model_config_file={folder}/relative.config",),
        "INVALID_ARGUMENT: Expected model m to have an absolute path or URI; got base_path()=m",
    ),
    "a model listed twice": (
        ("--model_config_file={folder}/twice.config",),
        "INVALID_ARGUMENT: Illegal to list model m multiple times in config list",
    ),
    "an unknown platform": (
        ("--model_config_file={folder}/platform.config",),
        (
            "INVALID_ARGUMENT: Model m requests unsupported platform onnx; there are: "
            f"{', '.join(installed_platforms())}"
        ),
    ),
    "no platform": (
        ("--model_config_file={folder}/no_platform.config",),
        (
            "INVALID_ARGUMENT: Illegal setting neither ModelServerConfig::model_type (deprecated) "
            "nor ModelServerConfig::model_platform, model name is m"
        ),
    ),
    "a label at the start": (
        ("--model_config_file={folder}/labels.config",),
        (
            "FAILED_PRECONDITION: Request to assign label to version 1 of model m, which is not "
            "currently available for inference"
        ),
    ),
}


@pytest.mark.parametrize("case", NO_START)
def test_a_start_that_fails_says_why_as_tensorflow_serving_does(tmp_path: Path, case: str):
    """One line on standard output with the exact status, and exit code 255."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    flags, status = NO_START[case]

    code, output, log = failed_start(*(flag.format(folder=tmp_path) for flag in flags))

    assert (code, output) == (FAILED, failure(status.replace("{folder}", str(tmp_path))))
    if case == "no protobuf":
        assert "Error parsing text-format tensorflow.serving.ModelServerConfig: " in log


def test_models_that_fail_end_the_start(shelf: Shelf, tmp_path: Path):
    """Each that did not become available is named with its cause, after the last retry."""
    models = {"half_copied": tmp_path / "half_copied", "good": shelf("half_plus_two")}
    models["other_tag"] = shelf("other_tag")
    (tmp_path / "half_copied" / "3").mkdir(parents=True)
    config = config_file(tmp_path, **models)

    code, output, log = failed_start(
        f"--model_config_file={config}",
        "--max_num_load_retries=1",
        "--load_retry_interval_micros=1",
    )

    no_file = SAVED_MODEL_IS_MISSING.format(path=tmp_path / "half_copied" / "3")
    no_tag = BAD_MODELS["other_tag"][1]
    causes = (
        f"{{name: half_copied version: 3}} due to error: NOT_FOUND: {no_file}}}, "
        f"{{name: other_tag version: 1}} due to error: NOT_FOUND: {no_tag}}}, "
    )
    assert (code, output) == (
        FAILED,
        failure(f"UNKNOWN: 2 servable(s) did not become available: {{{causes}}}"),
    )
    assert log.count("retry: 1\n") == log.count("exhausted max_num_retries: 1\n") == 2


@contextmanager
def taken_port() -> Iterator[int]:
    """A port that somebody else listens on, at every address."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
        yield taken.getsockname()[1]


def test_a_taken_grpc_port_ends_the_start(shelf: Shelf):
    """The text is TensorFlow Serving's; the port is in the log."""
    with taken_port() as port:
        code, output, log = failed_start(
            f"--port={port}", f"--model_base_path={shelf('half_plus_two')}"
        )

    assert (code, output) == (
        FAILED,
        failure("INVALID_ARGUMENT: Failed to BuildAndStart gRPC server"),
    )
    assert f"0.0.0.0:{port}" in log


def test_a_taken_rest_port_leaves_grpc_to_tensorflow_model_server(shelf: Shelf):
    """The log says what is missing, and the rest is served."""
    flags = ("--model_name=half_plus_two", f"--model_base_path={shelf('half_plus_two')}")
    with taken_port() as port, ServerProcess(*flags, f"--rest_api_port={port}") as server:
        server.wait_for(f"Failed to start HTTP Server at localhost:{port}")
        server.wait_until_started()

        assert ask_over_grpc(server, "half_plus_two", 1) == [2.5]


def test_a_taken_rest_port_ends_the_start_of_salver(shelf: Shelf):
    """Half a server is worse than none: the reason is on standard error, and the code is 1."""
    flags = (f"--model_base_path={shelf('half_plus_two')}",)
    with (
        taken_port() as port,
        ServerProcess(*flags, f"--rest_api_port={port}", command=SALVER) as server,
    ):
        code = server.wait()

    said = "".join(server.log)
    assert (code, server.output) == (1, [])
    assert "salver serve: the server did not start.\nINVALID_ARGUMENT: cannot listen" in said
    assert f"port {port}" in said


# --- The end --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turnstile:
    """The two pipes that a run of the model ``turnstile`` passes, one after the other."""

    arrived: Path
    leave: Path

    def wait_until_inside(self) -> None:
        """Wait until the run has begun."""
        read_pipe(self.arrived)

    def let_out(self) -> None:
        """Let the run end."""
        read_pipe(self.leave)


def read_pipe(pipe: Path) -> None:
    """Read a named pipe to its end; a writer that never comes fails the test, not its patience."""
    read: Future[bytes] = Future()
    threading.Thread(target=lambda: read.set_result(pipe.read_bytes()), daemon=True).start()
    read.result(PATIENCE_S)


def turnstile(folder: Path, name: str) -> Turnstile:
    pipes = Turnstile(folder / f"{name}.arrived", folder / f"{name}.leave")
    os.mkfifo(pipes.arrived)
    os.mkfifo(pipes.leave)
    return pipes


def pass_over_rest(server: ServerProcess, pipes: Turnstile) -> list[str]:
    inputs = {"arrived": str(pipes.arrived), "leave": str(pipes.leave)}
    return ask(server, "/v1/models/turnstile:predict", {"inputs": inputs}).json["outputs"]


def pass_over_grpc(server: ServerProcess, pipes: Turnstile) -> list[str]:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "turnstile"
    for alias, path in (("arrived", pipes.arrived), ("leave", pipes.leave)):
        request.inputs[alias].CopyFrom(tensorflow().make_tensor_proto(str(path)))
    with prediction_stub(server) as stub:
        answer = stub.Predict(request, PATIENCE_S)
    return [value.decode() for value in answer.outputs["way"].string_val]


@contextmanager
def held_requests(
    shelf: Shelf, folder: Path, *flags: str, command: tuple[str, ...]
) -> Iterator[tuple[ServerProcess, dict[Turnstile, Future[list[str]]]]]:
    """A server with one request of each protocol inside its model."""
    base_path = shelf("turnstile")
    flags = ("--model_name=turnstile", f"--model_base_path={base_path}", *flags)
    with (
        ThreadPoolExecutor() as clients,  # ends last: the server's end ends what it waits for
        ServerProcess(*flags, command=command) as server,
    ):
        server.wait_until_started()
        held = {}
        ways: list[Callable[[ServerProcess, Turnstile], list[str]]]
        ways = [pass_over_rest, pass_over_grpc]
        for number, way in enumerate(ways):
            pipes = turnstile(folder, str(number))
            held[pipes] = clients.submit(way, server, pipes)
            pipes.wait_until_inside()
        yield server, held


def test_sigterm_lets_requests_in_flight_finish(shelf: Shelf, tmp_path: Path):
    """``salver serve`` answers what a model is at work on, then ends with 0."""
    with held_requests(shelf, tmp_path, command=SALVER) as (server, held):
        server.send(signal.SIGTERM)
        server.wait_for("Draining")
        for pipes in held:
            pipes.let_out()
        code = server.wait()

        for pipes, answer in held.items():
            assert answer.result(PATIENCE_S) == [str(pipes.arrived), str(pipes.leave)]
    assert code == 0


def test_a_second_signal_does_not_wait(shelf: Shelf, tmp_path: Path):
    """Whoever insists is obeyed: the process dies of the signal, whatever is in flight."""
    with held_requests(shelf, tmp_path, command=SALVER) as (server, held):
        server.send(signal.SIGTERM)
        server.wait_for("Draining")
        server.send(signal.SIGTERM)
        code = server.wait()

        assert all(answer.exception(PATIENCE_S) for answer in held.values())
    assert code == -signal.SIGTERM


def test_a_request_beyond_the_grace_is_cut(shelf: Shelf, tmp_path: Path):
    """A model that never ends does not keep the server from ending."""
    flags = ("--drain_grace_seconds=0.1",)
    with held_requests(shelf, tmp_path, *flags, command=SALVER) as (server, held):
        server.send(signal.SIGTERM)
        code = server.wait()

        assert all(answer.exception(PATIENCE_S) for answer in held.values())
    assert code == 0


def test_sigterm_kills_tensorflow_model_server(shelf: Shelf, tmp_path: Path):
    """As TensorFlow Serving does, it finishes nothing."""
    with held_requests(shelf, tmp_path, command=TFS) as (server, held):
        server.send(signal.SIGTERM)
        code = server.wait()

        assert all(answer.exception(PATIENCE_S) for answer in held.values())
    assert code == -signal.SIGTERM


# --- The commands ---------------------------------------------------------------------------------


def printed(*words: str) -> tuple[int, str]:
    """Exit code and standard output of a command that ends by itself."""
    command = [str(program(words[0])), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return done.returncode, done.stdout


def test_tensorflow_model_server_prints_its_version():
    """Two lines, as TensorFlow Serving prints them, and exit code 0."""
    code, output = printed("tensorflow_model_server", "--version")

    server, library = output.splitlines()
    assert code == 0
    assert server.startswith("TensorFlow ModelServer: 2.21.0+")
    assert library == f"TensorFlow Library: {tensorflow().__version__}"


@pytest.mark.parametrize("flag", ["--help", "--port=many"])
def test_tensorflow_model_server_prints_its_usage(flag: str):
    """Asked for or not understood: the same text on standard output, and exit code 255."""
    code, output = printed("tensorflow_model_server", flag)

    assert code == FAILED
    assert output.startswith(f"usage: {program('tensorflow_model_server')}\nFlags:\n")
    assert "\t" + '--model_name="default"'.ljust(33) + "\tstring\t" in output


@pytest.mark.parametrize(
    "command", [("tf_serving_entrypoint",), SALVER], ids=lambda command: command[0]
)
def test_the_environment_may_name_the_model(shelf: Shelf, command: tuple[str, ...]):
    """MODEL_NAME below MODEL_BASE_PATH is served, as by TensorFlow Serving's images."""
    base_path = shelf("half_plus_two")
    environment = {"MODEL_NAME": base_path.name, "MODEL_BASE_PATH": str(base_path.parent)}
    with ServerProcess(command=command, environment=environment) as server:
        server.wait_until_started()

        assert predict(server, "half_plus_two", 1, 2, 5) == [2.5, 3.0, 4.5]
