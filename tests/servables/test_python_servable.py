"""A class in Python as a servable: declared, checked, asked in turn, and let go of."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver.apis.requests import InferenceTask, ModelSpec, PredictRequest
from salver.core.servable_id import ServableId
from salver.dtypes import DType
from salver.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
)
from salver.inference import classify, multi_inference, predict, regress
from salver.servables.platform import PlatformContext
from salver.servables.python import Call, PythonPlatform, PythonServable, Tensor
from salver.signature import CLASSIFY_METHOD, PREDICT_METHOD, REGRESS_METHOD, read_signature
from saved_models import tensorflow

PATIENCE_S = 30.0


class Given:
    """A model whose signatures and answers are given."""

    def __init__(self, answer: Callable[..., object] | object = None, **signatures: Call) -> None:
        self.signatures = signatures
        self.asked: list[Mapping[str, np.ndarray]] = []
        self._answer = answer

    def predict(self, inputs):
        self.asked.append(inputs)
        return self._answer(inputs) if callable(self._answer) else self._answer


def xy(x: Tensor | None = None, y: Tensor | None = None) -> Call:
    anything = Tensor("float32")
    return Call({"x": x or anything}, {"y": y or anything})


def ask(servable: PythonServable, signature: str = "serving_default", **inputs: np.ndarray):
    return predict(servable, PredictRequest(inputs, signature))


# What it says of itself.


def test_signatures_are_what_the_class_declares():
    """With the types and shapes that clients are told."""
    model = Given(
        serving_default=Call(
            {"a": Tensor("float32", [None, 3]), "b": Tensor(np.int64, [])},
            {"s": Tensor("string", (None,)), "any": Tensor("bool")},
        )
    )

    signature = PythonServable(model, "m/1").signatures["serving_default"]

    assert signature.method_name == PREDICT_METHOD
    assert {alias: (i.dtype, i.shape) for alias, i in signature.inputs.items()} == {
        "a": (DType.FLOAT, (-1, 3)),
        "b": (DType.INT64, ()),
    }
    assert {alias: (i.dtype, i.shape) for alias, i in signature.outputs.items()} == {
        "any": (DType.BOOL, None),
        "s": (DType.STRING, (-1,)),
    }


def test_definitions_are_what_tensorflow_reads():
    """``tensorflow.SignatureDef``, byte for byte as its own messages would have it."""
    tensorflow()
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

    model = Given(serving_default=xy(Tensor("string", [None, 2]), Tensor("bfloat16")))

    message = SignatureDef.FromString(
        PythonServable(model, "m/1").signature_defs["serving_default"]
    )

    assert message.method_name == PREDICT_METHOD
    assert message.inputs["x"].dtype == DType.STRING
    assert [dim.size for dim in message.inputs["x"].tensor_shape.dim] == [-1, 2]
    assert message.outputs["y"].dtype == DType.BFLOAT16
    assert message.outputs["y"].tensor_shape.unknown_rank


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ("float32", DType.FLOAT),
        ("double", DType.DOUBLE),
        ("half", DType.HALF),
        (np.uint8, DType.UINT8),
        (np.dtype("int16"), DType.INT16),
        (bool, DType.BOOL),
        (bytes, DType.STRING),
        (str, DType.STRING),
        (object, DType.STRING),
        ("string", DType.STRING),
        ("bfloat16", DType.BFLOAT16),
        (DType.INT4, DType.INT4),
    ],
)
def test_a_type_may_be_said_in_many_ways(given: Any, dtype: DType):
    """NumPy's types, their names, and TensorFlow's."""
    servable = PythonServable(Given(serving_default=xy(Tensor(given))), "m/1")

    assert servable.signatures["serving_default"].inputs["x"].dtype is dtype


@pytest.mark.parametrize(
    ("signatures", "complaint"),
    [
        (None, "signatures must be a mapping of names to Calls"),
        ({}, "with at least one in it"),
        ({"a": "b"}, "signatures must map names to Calls, not 'a' to str"),
        ({"a": Call({}, {})}, "signature a has no outputs"),
        ({"a": xy(Tensor("float"))}, "input x of signature a: say which float, as in float32"),
        ({"a": xy(Tensor("wood"))}, "input x of signature a: there is no type 'wood'"),
        ({"a": xy(Tensor("datetime64[s]"))}, "there is no type 'datetime64[s]'"),
        ({"a": xy(y=Tensor("int8", [-1]))}, "output y of signature a: a shape has sizes, or None"),
        ({"a": Call({"x": 3}, {})}, "input x of signature a must be a Tensor, not int"),
        (
            {"a": Call({}, {"y": Tensor("int8")}, answered_by="nobody")},
            "answered by Given.nobody, which is no method",
        ),
        (
            {"a": Call({}, {"y": Tensor("int8")}, api="guess")},
            "is for 'guess'; it can be for predict, classify, regress",
        ),
        ({"a": Call({"x": Tensor("string")}, {"scores": Tensor("float32")}, api="classify")}, "so"),
        ({"a": Call({"inputs": Tensor("string")}, {"y": Tensor("float32")}, api="regress")}, "so"),
    ],
)
def test_a_declaration_that_cannot_be_served_fails_the_load(signatures: Any, complaint: str):
    """One line says what to change."""
    model = Given()
    model.signatures = signatures

    with pytest.raises(FailedPrecondition) as raised:
        PythonServable(model, "m/1")

    assert complaint in raised.value.message


def test_a_quick_model_must_be_thread_safe():
    """On the event loop nobody may wait for a turn."""
    model = Given(serving_default=xy())
    model.predictable = True

    with pytest.raises(FailedPrecondition, match="predictable and not thread_safe"):
        PythonServable(model, "m/1")


@pytest.mark.parametrize("claims", [False, True])
def test_only_what_says_so_is_predictable(claims: bool):
    """By default no call is made on the event loop."""
    model = Given(serving_default=xy())
    if claims:
        model.thread_safe = model.predictable = True

    assert PythonServable(model, "m/1").predictable is claims


# Questions and answers.


def test_the_method_is_asked_with_arrays_by_name():
    """And answers with arrays by name."""
    model = Given(lambda inputs: {"y": 2 * inputs["x"]}, serving_default=xy())

    answer = ask(PythonServable(model, "m/1"), x=np.float32([1, 2]))

    assert answer["y"].tolist() == [2, 4]


@pytest.mark.parametrize(
    "array", [np.float64([[1, 2]]), np.float32([1, 2]), np.float32([[1, 2, 3]]), np.float32(1)]
)
def test_an_input_of_another_type_or_shape_is_refused(array: np.ndarray):
    """Before the class sees it."""
    model = Given(serving_default=xy(Tensor("float32", [None, 2])))
    servable = PythonServable(model, "m/1")

    with pytest.raises(
        InvalidArgument, match=r"input x .* is declared as float \[\?, 2\]; it came"
    ):
        ask(servable, x=array)

    assert model.asked == []


@pytest.mark.parametrize(
    ("declared", "returned", "expected"),
    [
        (Tensor("float32", [2]), [1, 2.5], np.float32([1, 2.5])),
        (Tensor("float32", []), np.float64(0.1), np.float32(0.1)),
        (Tensor("int32", [None]), [1, 2], np.int32([1, 2])),
        (Tensor("int64"), np.int8([[7]]), np.int64([[7]])),
        (Tensor("bool", [None]), [True], np.array([True])),
        (Tensor("string", [None]), ["é", b"\xff"], np.array(["é".encode(), b"\xff"], object)),
        (Tensor("string", [None]), np.array(["a", "bc"]), np.array([b"a", b"bc"], object)),
        (Tensor("string", []), "one", np.array(b"one", object)),
        (Tensor("string", [None]), [b"a\0", "b\0"], np.array([b"a\0", b"b\0"], object)),
        (Tensor("string", [None, 2]), [["a", "b"]], np.array([[b"a", b"b"]], object)),
        (Tensor("bfloat16", [1]), np.float32([0.5]), np.array([0.5], DType.BFLOAT16.numpy)),
        (Tensor("complex64", []), 1.0, np.complex64(1)),
    ],
)
def test_an_answer_is_converted_where_nothing_is_lost(declared, returned, expected):
    """Lists and wider floats will do."""
    model = Given({"y": returned}, serving_default=xy(y=declared))

    found = ask(PythonServable(model, "m/1"), x=np.float32(0))["y"]

    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("declared", "returned", "complaint"),
    [
        (
            Tensor("float32", [2]),
            [1.0],
            r"declared as float \[2\]; the model returned float64 \[1\]",
        ),
        (
            Tensor("int32"),
            [0.5],
            r"declared as int32 of any shape; the model returned float64 \[1\]",
        ),
        (Tensor("int8"), [1000], "the model returned int64"),
        (Tensor("uint8"), [-1], "the model returned int64"),
        (Tensor("float32"), ["1"], "the model returned <U1"),
        (Tensor("float32"), [[1], [1, 2]], "output y of signature serving_default is no array"),
        (Tensor("string"), [1], "the model returned object"),
        (Tensor("string"), np.array([1], object), "the model returned object"),
    ],
)
def test_an_answer_that_is_not_as_declared_is_the_models_fault(declared, returned, complaint):
    """The client is told what came instead."""
    model = Given({"y": returned}, serving_default=xy(y=declared))

    with pytest.raises(Internal, match=complaint):
        ask(PythonServable(model, "m/1"), x=np.float32(0))


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [({}, "did not return output y"), ([1], "returned a list for"), (None, "returned a NoneType")],
)
def test_an_answer_has_the_outputs_by_name(returned: object, complaint: str):
    """Anything else says what it was."""
    model = Given(returned, serving_default=xy())

    with pytest.raises(Internal, match=complaint):
        ask(PythonServable(model, "m/1"), x=np.float32(0))


def test_names_that_are_not_there_are_said():
    """Whoever goes past the signature hears of it."""
    servable = PythonServable(Given({"y": 1}, serving_default=xy()), "m/1")

    with pytest.raises(NotFound, match="model m/1 has no output z:0"):
        servable.run({"x:0": np.float32(0)}, ["z:0"])
    with pytest.raises(InvalidArgument, match="needs the input x"):
        servable.run({}, ["serving_default/y:0"])


def test_an_output_filter_leaves_the_others_out():
    """The method is asked once for all of them."""
    two = Call({"x": Tensor("float32")}, {"y": Tensor("float32"), "z": Tensor("float32")})
    model = Given({"y": 1.0, "z": 2.0}, serving_default=two)
    request = PredictRequest({"x": np.float32(0)}, output_filter=["z"])

    assert predict(PythonServable(model, "m/1"), request) == {"z": 2}
    assert len(model.asked) == 1


class Digits:
    """A model with all three kinds of signatures over the same Examples."""

    def __init__(self) -> None:
        examples = {"inputs": Tensor("string", [None])}
        self.signatures = {
            "serving_default": Call(
                examples,
                {"classes": Tensor("string", [None, 2]), "scores": Tensor("float32", [None, 2])},
                answered_by="classified",
                api="classify",
            ),
            "regress": Call(
                examples, {"outputs": Tensor("float32", [None])}, answered_by="sized", api="regress"
            ),
        }

    def classified(self, inputs):
        count = len(inputs["inputs"])
        return {"classes": [["a", "b"]] * count, "scores": [[0.25, 0.75]] * count}

    def sized(self, inputs):
        return {"outputs": [len(one) for one in inputs["inputs"]]}


def test_a_class_classifies_and_regresses():
    """Serialized Examples go in; what comes out is what the APIs want."""
    servable = PythonServable(Digits(), "m/1")

    (classified,) = classify(servable, "", [b"12"], check_method_name=True)
    regressed = regress(servable, "regress", [b"12", b"3"], check_method_name=True)

    assert (classified.labels, classified.scores) == ([b"a", b"b"], [0.25, 0.75])
    assert regressed == [2, 1]


def test_one_multi_inference_asks_several_signatures():
    """They share their input by its name."""
    servable = PythonServable(Digits(), "m/1")
    tasks = [
        InferenceTask(ModelSpec("m", signature_name="regress"), REGRESS_METHOD),
        InferenceTask(ModelSpec("m"), CLASSIFY_METHOD),
    ]

    regressed, classified = multi_inference(servable, tasks, [b"12"])

    assert regressed == [2]
    assert len(classified) == 1


# Turns.


def test_unless_it_is_thread_safe_a_model_is_asked_by_one_at_a_time():
    """Who comes while another is answered waits, for as long as there is time."""
    entered, leave = threading.Event(), threading.Event()

    def wait(_inputs):
        entered.set()
        assert leave.wait(PATIENCE_S)
        return {"y": 1.0}

    servable = PythonServable(Given(wait, serving_default=xy()), "m/1")
    run = servable.prepare(["x:0"], ["serving_default/y:0"])
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, [np.float32(0)], None)
        assert entered.wait(PATIENCE_S)
        with pytest.raises(DeadlineExceeded, match="one call at a time, and was busy"):
            run([np.float32(0)], 0.001)
        leave.set()
        second = pool.submit(run, [np.float32(0)], PATIENCE_S)

        assert [first.result(PATIENCE_S), second.result(PATIENCE_S)] == [[1], [1]]


def test_a_thread_safe_model_is_asked_by_many_at_a_time():
    """Both calls are in it at once."""
    both = threading.Barrier(2, timeout=PATIENCE_S)
    model = Given(lambda _inputs: {"y": both.wait()}, serving_default=xy(y=Tensor("int64")))
    model.thread_safe = True
    servable = PythonServable(model, "m/1")
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, servable, x=np.float32(0)) for _ in range(2)]

        assert {int(answer.result(PATIENCE_S)["y"]) for answer in answers} == {0, 1}


def test_a_call_that_fails_gives_its_turn_back():
    """The next one is answered."""
    answers = iter([ValueError("no"), {"y": 1.0}])

    def answer(_inputs):
        following = next(answers)
        if isinstance(following, ValueError):
            raise following
        return following

    servable = PythonServable(Given(answer, serving_default=xy()), "m/1")
    with pytest.raises(ValueError, match="no"):
        ask(servable, x=np.float32(0))

    assert ask(servable, x=np.float32(0)) == {"y": 1}


# Its life.


class Versioned(Given):
    """A model that writes down where it was made and that it was closed."""

    made: list[Versioned] = []  # noqa: RUF012 - emptied by each test

    def __init__(self, path: Path) -> None:
        super().__init__({"y": float(path.name)}, serving_default=xy())
        self.path = path
        self.is_closed = False
        self.made.append(self)

    def close(self) -> None:
        self.is_closed = True


def loader_of(make: Callable[[Path], Any], path: str = "/m/7"):
    return PythonPlatform(make)(PlatformContext("p"))(ServableId("m", 7), path)


def test_each_version_is_an_object_of_its_own():
    """Made with the path when it loads, closed when it is unloaded."""
    Versioned.made.clear()
    loader = loader_of(Versioned)
    made_before = list(Versioned.made)

    loader.load()
    answer = ask(loader.servable(), x=np.float32(0))
    loader.unload()

    (model,) = Versioned.made
    assert made_before == []
    assert model.path == Path("/m/7")
    assert answer == {"y": 7}
    assert model.is_closed


def test_an_object_that_cannot_be_served_is_closed():
    """A load that fails leaves nothing behind."""
    Versioned.made.clear()

    def make(path: Path) -> Versioned:
        model = Versioned(path)
        model.signatures = {}
        return model

    with pytest.raises(FailedPrecondition):
        loader_of(make).load()

    assert [model.is_closed for model in Versioned.made] == [True]


def test_what_is_unloaded_is_let_go_of():
    """Even where somebody still holds a run that was prepared."""
    made: list[weakref.ref[Given]] = []

    def make(_path: Path) -> Given:
        model = Given({"y": 1.0}, serving_default=xy())
        made.append(weakref.ref(model))
        return model

    loader = loader_of(make)
    loader.load()
    prepared = loader.servable().prepare(["x:0"], ["serving_default/y:0"])
    answered = prepared([np.float32(0)], None)

    loader.unload()
    gc.collect()

    assert answered == [1]
    assert [model() for model in made] == [None]


def test_a_loader_without_a_load_has_no_servable():
    """And unloading it does nothing."""
    loader = loader_of(Versioned)
    loader.unload()

    with pytest.raises(NotFound, match="is not loaded"):
        loader.servable()


def test_memory_is_estimated_by_the_class_or_by_the_files(tmp_path: Path):
    """Whoever knows better says so."""
    (tmp_path / "weights").write_bytes(bytes(100))

    class Known(Versioned):
        @staticmethod
        def estimate_memory(path: Path) -> int:
            return 3 * (path / "weights").stat().st_size

    assert loader_of(Versioned, str(tmp_path)).estimate_resources() == 100
    assert loader_of(Known, str(tmp_path)).estimate_resources() == 300


def test_definitions_read_back_as_the_signatures():
    """What a process of a model's own tells its server is the same."""
    servable = PythonServable(Digits(), "m/1")

    read = {name: read_signature(text) for name, text in servable.signature_defs.items()}

    assert read == servable.signatures
