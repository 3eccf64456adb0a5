"""TensorFlow Lite models served through LiteRT, beside TensorFlow's own interpreter's answers."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver.core.servable_id import ServableId
from salver.dtypes import DType
from salver.errors import (
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ServingError,
)
from salver.protos.session_config_pb2 import ConfigProto
from salver.servables.litert import LiteRt, TfLiteModel, preferring_tflite
from salver.servables.platform import PlatformContext
from salver.servables.tflite_file import TfLiteFile
from saved_models import Shelf
from tflite_models import CLASSIFY, DTYPES, PREDICT, LiteShelf

SEVERAL = ("sums", "text", "add", "half", "answer")

Load = Callable[..., TfLiteModel]


@pytest.fixture
def load(lite_shelf: LiteShelf) -> Iterator[Load]:
    """Load a model of the shelf; it is closed after the test."""
    loaded: list[TfLiteModel] = []

    def load_one(name: str, **settings: Any) -> TfLiteModel:
        loaded.append(LiteRt(**settings).load(lite_shelf.version(name)))
        return loaded[-1]

    yield load_one
    for servable in loaded:
        servable.close()


def ask(
    servable: TfLiteModel, inputs: Mapping[str, np.ndarray], signature: str = "serving_default"
) -> dict[str, np.ndarray]:
    """All outputs of a signature by their aliases."""
    known = servable.signatures[signature]
    feeds = {known.inputs[alias].name: value for alias, value in inputs.items()}
    values = servable.run(feeds, [info.name for info in known.outputs.values()])
    return dict(zip(known.outputs, values, strict=True))


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Whether they have the same tensors, to the last bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tolist() == other[name].tolist()
        for name in one
    )


# --- Answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "signature"),
    [
        *((name, "serving_default") for name in ("keras_softmax", "keras_cnn", "quantized_cnn")),
        *(("several_signatures", name) for name in SEVERAL),
        *(("all_dtypes", name) for name in DTYPES),
        ("fixed_batch", "double"),
        ("loop", "count"),
        ("filled", "fill"),
    ],
)
def test_answers_are_those_of_tensorflows_interpreter(
    load: Load, lite_shelf: LiteShelf, model: str, signature: str
):
    """For every signature of a list, every type and several batch sizes, to the last bit."""
    servable = load(model)
    answers = lite_shelf.answers(model, signature)

    assert answers
    for answer in answers + answers[::-1]:
        assert same(ask(servable, answer.inputs, signature), answer.outputs)


@pytest.mark.parametrize("model", ["keras_softmax", "keras_cnn", "quantized_cnn"])
def test_answers_are_the_same_by_tensorflow_servings_names(
    load: Load, lite_shelf: LiteShelf, model: str
):
    """The signature that is made of the tensors' names asks for the same tensors."""
    servable = load(model, reads_signatures=False)

    for answer in lite_shelf.answers(model, "serving_default"):
        [value] = ask(servable, {"serving_default_pixels": answer.inputs["pixels"]}).values()
        assert value.tolist() == answer.outputs["output_0"].tolist()


def test_many_threads_get_their_own_answers(load: Load, lite_shelf: LiteShelf):
    """Eight at a time share two interpreters and different batch sizes."""
    servable = load("keras_cnn", interpreters=2)
    answers = lite_shelf.answers("keras_cnn", "serving_default") * 20

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda answer: ask(servable, answer.inputs), answers))

    assert all(same(one, answer.outputs) for one, answer in zip(found, answers, strict=True))


@pytest.mark.parametrize("string", [b"", b"\x00", b"a\x00\x00", b"\xff" * 300])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (1, 0, 3)])
def test_strings_have_any_shape_and_any_bytes(load: Load, shape: tuple[int, ...], string: bytes):
    """Not only vectors, which is all that TensorFlow Serving makes of them."""
    servable = load("several_signatures")
    strings = np.empty(shape, object)
    strings.fill(string)

    answer = ask(servable, {"s": strings}, "text")["column"]

    assert answer.tolist() == [[string]] * strings.size


@pytest.mark.parametrize("shape", [(), (1,)])
def test_what_is_no_string_is_refused(load: Load, shape: tuple[int, ...]):
    """Nothing of this process's memory gets into an answer instead."""
    servable = load("several_signatures")

    with pytest.raises(InvalidArgument):
        ask(servable, {"s": np.full(shape, None, object)}, "text")


def test_a_lone_number_is_an_array_too(load: Load):
    """As every runtime's answers are."""
    servable = load("several_signatures")

    answer = ask(servable, {"x": np.array(3, np.float32)}, "half")["y"]

    assert isinstance(answer, np.ndarray)
    assert (answer.shape, answer.item()) == ((), 1.5)


# --- Signatures -----------------------------------------------------------------------------------


def test_signatures_are_those_of_the_list(load: Load):
    """With types, and with -1 where the model leaves a dimension open."""
    signature = load("several_signatures").signatures["sums"]

    assert signature.method_name == PREDICT
    assert signature.inputs["x"].dtype is DType.FLOAT
    assert signature.inputs["x"].shape == (-1, 2)
    assert {name: info.shape for name, info in signature.outputs.items()} == {
        "sum": (-1,),
        "twice": (-1, 2),
    }


def test_tensorflow_serving_makes_one_signature_of_the_first_graph(load: Load):
    """Aliases end at the colon, shapes are what the file has."""
    signatures = load("keras_softmax", reads_signatures=False).signatures

    [(name, signature)] = signatures.items()
    assert name == "serving_default"
    assert signature.method_name == PREDICT
    assert list(signature.inputs) == ["serving_default_pixels"]
    assert signature.inputs["serving_default_pixels"].name == "serving_default_pixels:0"
    assert signature.inputs["serving_default_pixels"].shape == (1, 784)
    assert list(signature.outputs) == ["StatefulPartitionedCall_1"]


@pytest.mark.parametrize("reads_signatures", [False, True])
@pytest.mark.parametrize("model", ["with_metadata", "early"])
def test_signatures_of_the_metadata_go_before_all_others(
    load: Load, lite_shelf: LiteShelf, model: str, reads_signatures: bool
):
    """With their methods, and also where the tensors' names have lost what follows the colon."""
    servable = load(model, reads_signatures=reads_signatures)
    answer = lite_shelf.answers("keras_softmax", "serving_default")[1]

    assert {name: found.method_name for name, found in servable.signatures.items()} == {
        "serving_default": PREDICT,
        "classify": CLASSIFY,
    }
    for signature, alias in (("serving_default", "images"), ("classify", "inputs")):
        found = ask(servable, {alias: answer.inputs["pixels"]}, signature)
        assert found["scores"].tolist() == answer.outputs["output_0"].tolist()


def test_what_a_signature_does_not_feed_is_zero(load: Load):
    """And not what the request before has left there."""
    servable = load("half_fed")
    one = np.array([1], np.float32)
    assert ask(servable, {"x": one, "y": np.array([40], np.float32)}, "both")["sum"] == [41]

    assert ask(servable, {"x": one}, "one")["sum"] == [1]


def test_tensors_of_two_signatures_are_not_asked_for_at_once(load: Load):
    """Each may have a graph of its own."""
    servable = load("several_signatures")
    sums, half = (servable.signatures[name] for name in ("sums", "half"))

    with pytest.raises(InvalidArgument, match="one signature, not of half, sums"):
        servable.run({sums.inputs["x"].name: np.ones((1, 2), np.float32)}, [half.outputs["y"].name])


def test_a_signature_needs_all_of_its_inputs(load: Load):
    """The error names those that are missing."""
    servable = load("several_signatures")
    add = servable.signatures["add"]

    with pytest.raises(InvalidArgument, match="signature add lacks its inputs y"):
        servable.run({add.inputs["x"].name: np.ones(1, np.float32)}, [add.outputs["sum"].name])


@pytest.mark.parametrize("reads_signatures", [False, True])
def test_tensors_that_are_not_there_are_named(load: Load, reads_signatures: bool):
    """Inputs and outputs."""
    servable = load("keras_softmax", reads_signatures=reads_signatures)
    pixels = np.ones((1, 784), np.float32)

    with pytest.raises(Internal, match="Missing input TFLite tensor: nobody:0"):
        servable.run({"nobody:0": pixels}, ["StatefulPartitionedCall_1:0"])
    with pytest.raises(Internal, match="Missing output TFLite tensor: nobody:0"):
        servable.run({"serving_default_pixels:0": pixels}, ["nobody:0"])


@pytest.mark.parametrize(
    ("model", "expected"), [("keras_cnn", True), ("loop", False), ("filled", False)]
)
def test_loops_and_sizes_by_value_are_not_predictable(load: Load, model: str, expected: bool):
    """They may take any time, whatever the sizes of their inputs."""
    assert load(model).predictable is expected


# --- Requests that are wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("reads_signatures", [False, True])
@pytest.mark.parametrize("model", ["keras_softmax", "keras_cnn"])
def test_a_wrong_request_spoils_no_other(
    load: Load, lite_shelf: LiteShelf, model: str, reads_signatures: bool
):
    """A wrong type, and shapes that cannot be, twice each; the next one is answered right."""
    servable = load(model, reads_signatures=reads_signatures)
    answer = lite_shelf.answers(model, "serving_default")[0]
    signature = servable.signatures["serving_default"]
    [alias], [output] = signature.inputs, signature.outputs
    right = answer.inputs["pixels"]
    wrong: list[tuple[np.ndarray, type[ServingError], str]] = [
        (right.astype(np.float64), InvalidArgument, "Cannot set tensor"),
        (right[:, :5], Internal, "Failed to"),
        (np.full((1,), b"x", object), ServingError, "Failed to|Cannot set tensor"),
    ]

    for value, kind, text in wrong:
        for _ in range(2):
            with pytest.raises(kind, match=text):
                ask(servable, {alias: value})
        assert ask(servable, {alias: right})[output].tolist() == answer.outputs["output_0"].tolist()


# --- Models that are wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "no TensorFlow Lite model"),
        (b"junk, and not a little of it", "no TensorFlow Lite model"),
        (b"\x08\x00\x00\x00TFL3" + b"\xff" * 32, "Cannot build FlatBufferModel from buffer"),
    ],
)
def test_what_is_no_model_is_told_so(tmp_path: Path, content: bytes, text: str):
    """In one line."""
    (tmp_path / "model.tflite").write_bytes(content)

    with pytest.raises(InvalidArgument, match=text) as caught:
        LiteRt().load(tmp_path)
    assert "\n" not in caught.value.message


def test_half_a_model_is_told_so(lite_shelf: LiteShelf, tmp_path: Path):
    """It may still be being copied."""
    whole = (lite_shelf.version("keras_softmax") / "model.tflite").read_bytes()
    (tmp_path / "model.tflite").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(InvalidArgument, match="still being copied"):
        LiteRt().load(tmp_path)


@pytest.mark.parametrize(
    ("model", "kind", "text"),
    [
        ("broken_metadata", InvalidArgument, "Invalid SignatureDefs found in TfLite model: .*map"),
        ("unknown_tensor", Internal, "Signature input x is an unknown TFLite tensor: nobody:0"),
        ("custom_op", Internal, "StringToHashBucketFast.* operators of TensorFlow Lite alone"),
    ],
)
def test_models_that_cannot_be_served_say_why(
    load: Load, model: str, kind: type[ServingError], text: str
):
    """In one line that says what to do."""
    with pytest.raises(kind, match=text):
        load(model)


def test_a_model_that_is_gone_or_cannot_be_read_says_so(tmp_path: Path):
    """It was there when the folder was looked into."""
    with pytest.raises(NotFound, match=r"model\.tflite is gone"):
        LiteRt().load(tmp_path)
    (tmp_path / "model.tflite").mkdir()
    with pytest.raises(DataLoss, match=r"model\.tflite cannot be read: Is a directory"):
        LiteRt().load(tmp_path)


def test_without_litert_one_line_says_what_to_install(
    lite_shelf: LiteShelf, monkeypatch: pytest.MonkeyPatch
):
    """The extra, by its name."""
    version = lite_shelf.version("keras_softmax")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)

    with pytest.raises(FailedPrecondition, match=r'LiteRT.*pip install "salver\[litert\]"'):
        LiteRt().load(version)


# --- Interpreters ---------------------------------------------------------------------------------


class FakeInterpreter:
    """Doubles its input; runs with more than one row wait at a gate."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._value = np.zeros((1,), np.float32)

    def get_signature_list(self) -> dict[str, object]:
        return {}

    def get_input_details(self) -> list[dict[str, object]]:
        return [{"name": "x", "index": 0, "shape": (1,), "dtype": np.float32}]

    def get_output_details(self) -> list[dict[str, object]]:
        return [{"name": "y", "index": 1, "shape": (1,), "dtype": np.float32}]

    def allocate_tensors(self) -> None:
        self._house.prepared += 1

    def resize_tensor_input(self, index: int, shape: tuple[int, ...]) -> None:
        assert index == 0
        assert len(shape) == 1

    def set_tensor(self, _: int, value: np.ndarray) -> None:
        self._value = value

    def invoke(self) -> None:
        self._house.rows.append(len(self._value))
        if len(self._value) > 1:
            self._house.entered.release()
            assert self._house.gate.wait(30)

    def get_tensor(self, _: int) -> np.ndarray:
        return 2 * self._value


class House:
    """A model of fake interpreters on a clock that runs with the rows."""

    def __init__(self, **settings: Any) -> None:
        self.made = 0
        self.prepared = 0
        self.rows: list[int] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.model = TfLiteModel(
            self._make,
            TfLiteFile(frozenset(), {}),
            clock=lambda: float(sum(rows for rows in self.rows if rows > 1)),
            **settings,
        )

    def _make(self) -> FakeInterpreter:
        self.made += 1
        return FakeInterpreter(self)

    def ask(self, rows: int, timeout_s: float | None = None) -> list[float]:
        [answer] = self.model.run({"x": np.ones(rows, np.float32)}, ["y"], timeout_s=timeout_s)
        return answer.tolist()


def test_a_version_has_as_many_interpreters_as_asked_for():
    """They are made and prepared while it loads."""
    house = House(interpreters=3)

    assert (house.made, house.prepared) == (3, 3)


def test_a_run_waits_for_an_interpreter_as_long_as_its_caller_does():
    """Two are at work, the third run comes to its deadline, and after them it is answered."""
    house = House(interpreters=2)
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(house.ask, 2) for _ in range(2)]
        for _ in slow:
            assert house.entered.acquire(timeout=30)

        with pytest.raises(DeadlineExceeded, match="all 2 interpreters of the model were busy"):
            house.ask(3, timeout_s=0.0)
        house.gate.set()

        assert [run.result() for run in slow] == [[2, 2], [2, 2]]
    assert house.ask(3, timeout_s=0.0) == [2, 2, 2]
    assert house.made == 2


def test_a_quick_run_never_waits_for_a_slow_one():
    """It may be on the event loop: one more interpreter is made for runs known to be quick."""
    house = House(interpreters=1)
    assert house.ask(1) == [2]  # from now on it is known to be quick
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(house.ask, 2)
        assert house.entered.acquire(timeout=30)

        assert [house.ask(1, timeout_s=0.0) for _ in range(3)] == [[2]] * 3
        with pytest.raises(DeadlineExceeded):
            house.ask(3, timeout_s=0.0)

        house.gate.set()
        slow.result()
    assert house.made == 2


def test_an_interpreter_is_prepared_once_for_a_shape():
    """And where two shapes take turns, each finds the one that is prepared for it."""
    house = House(interpreters=2)
    house.gate.set()
    for rows in (3, 4):
        house.ask(rows)
    prepared = house.prepared

    for _ in range(4):
        house.ask(3)
        house.ask(4)

    assert house.prepared == prepared


def test_large_batches_are_split_with_more_than_one_interpreter_per_pool():
    """Into pieces of 500 rows divided by them; small ones are not."""
    house = House(interpreters=2, interpreters_per_pool=4)
    house.gate.set()

    assert house.ask(300) == [2] * 300
    assert sorted(house.rows) == [50, 125, 125]
    assert house.ask(125) == [2] * 125
    assert house.rows[3:] == [125]


def test_pieces_have_the_rows_a_model_was_made_for(load: Load, lite_shelf: LiteShelf):
    """Four here; and the answer is that of the whole."""
    servable = load("fixed_batch", interpreters=2, interpreters_per_pool=2)

    for answer in lite_shelf.answers("fixed_batch", "double"):
        assert same(ask(servable, answer.inputs, "double"), answer.outputs)


# --- Loading --------------------------------------------------------------------------------------


def test_a_loader_loads_and_unloads(lite_shelf: LiteShelf):
    """And says what is loaded, and about how much memory it takes."""
    version = lite_shelf.version("keras_softmax")
    loader = LiteRt().loader(str(version))
    size = (version / "model.tflite").stat().st_size

    assert loader.estimate_resources() == int(1.2 * size)
    loader.load()
    assert list(loader.servable().signatures) == ["serving_default"]
    loader.unload()
    with pytest.raises(NotFound, match="is not loaded"):
        loader.servable()


def test_a_tflite_model_goes_before_others_where_there_is_one(
    lite_shelf: LiteShelf, tmp_path: Path
):
    """Every other version goes on to the loaders that were there."""
    asked: list[str] = []

    def other(_: ServableId, path: str) -> Any:
        asked.append(path)

    make_loader = preferring_tflite(PlatformContext("tensorflow"), other)
    lite = make_loader(ServableId("m", 1), str(lite_shelf.version("keras_softmax")))
    make_loader(ServableId("m", 2), str(tmp_path))

    lite.load()
    assert lite.servable().signatures
    assert asked == [str(tmp_path)]


def test_the_context_says_how_models_are_run(lite_shelf: LiteShelf):
    """Which signatures count, and threads, of which a session config has the number."""
    config = ConfigProto(intra_op_parallelism_threads=2).SerializeToString()
    context = PlatformContext("tensorflow", session_config=config, read_tflite_signatures=True)

    servable = LiteRt.of(context).load(lite_shelf.version("keras_cnn"))

    [answer, _] = lite_shelf.answers("keras_cnn", "serving_default")
    assert np.allclose(ask(servable, answer.inputs)["output_0"], answer.outputs["output_0"])


def test_litert_and_tensorflow_share_a_process(shelf: Shelf, lite_shelf: LiteShelf):
    """Each loads and answers before and after the other does."""
    program = """
import sys
from pathlib import Path
import numpy as np
from salver.servables.litert import LiteRt
from salver.servables.tensorflow import TensorFlowRuntime

saved, lite = map(Path, sys.argv[1:])
for make in (LiteRt, TensorFlowRuntime, LiteRt, TensorFlowRuntime):
    model = make().load(lite if make is LiteRt else saved)
    signature = model.signatures["serving_default"]
    [given], [wanted] = signature.inputs.values(), signature.outputs.values()
    size = [1 if dim < 0 else dim for dim in given.shape]
    [answer] = model.run({given.name: np.ones(size, np.float32)}, [wanted.name])
    print(type(model).__name__, answer.shape, "tensorflow" in sys.modules)
"""
    paths = [shelf.version("half_plus_two"), lite_shelf.version("keras_softmax")]

    done = subprocess.run(
        [sys.executable, "-c", program, *paths],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.stdout.splitlines() == [
        "TfLiteModel (1, 10) False",
        "SavedModel (1,) False",
        "TfLiteModel (1, 10) False",
        "SavedModel (1,) False",
    ]
