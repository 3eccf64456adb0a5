"""Real TensorFlow Lite models for the tests, and what TensorFlow's own interpreter answers.

Both are written by one process that has TensorFlow, this file as a program: no test has TensorFlow
and LiteRT in one interpreter, unless it wants to.  Every function of ``MODELS`` writes one model,
the same each time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

METADATA: Final = "signature_defs_metadata"
PREDICT: Final = "tensorflow/serving/predict"
CLASSIFY: Final = "tensorflow/serving/classify"

DTYPES: Final[Mapping[str, np.ndarray]] = {
    "float32": np.array([1.5, -2.25, np.inf], np.float32),
    "int32": np.array([1, -(2**31), 2**31 - 1], np.int32),
    "uint8": np.array([0, 1, 255], np.uint8),
    "int64": np.array([1, -(2**63), 2**63 - 1], np.int64),
    "string": np.array([b"", b"plain", b"\x00\xff not UTF-8"], object),
    "bool": np.array([True, False, True], np.bool_),
    "int16": np.array([1, -32768, 32767], np.int16),
    "complex64": np.array([1 + 2j, -1j, 0], np.complex64),
    "int8": np.array([1, -128, 127], np.int8),
    "float64": np.array([1.5, -2.25, 1e300], np.float64),
    "uint32": np.array([0, 1, 2**32 - 1], np.uint32),
}
"""A signature of ``all_dtypes`` and three values: TensorFlow Serving's nine types, and two."""


@dataclass(frozen=True)
class Answer:
    """What TensorFlow's interpreter answers to some inputs of a signature."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


class LiteShelf:
    """Base paths of TensorFlow Lite models by name, all written at once when one is asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._is_written = False

    def __call__(self, name: str) -> Path:
        """A folder that holds the version ``1``."""
        if not self._is_written:
            _write_elsewhere(self._root)
            self._is_written = True
        return self._root / name

    def version(self, name: str) -> Path:
        """The version directory itself."""
        return self(name) / "1"

    def answers(self, name: str, signature: str) -> list[Answer]:
        """What was asked of a signature, and what it answered."""
        with np.load(self(name) / "answers.npz") as stored:
            values = {key: _with_strings(stored[key]) for key in stored.files}
        numbers = {key.split("|")[1] for key in values if key.split("|")[0] == signature}
        return [
            Answer(*(_part(values, f"{signature}|{number}|{side}|") for side in ("in", "out")))
            for number in sorted(numbers)
        ]


def _part(values: Mapping[str, np.ndarray], start: str) -> dict[str, np.ndarray]:
    return {key[len(start) :]: value for key, value in values.items() if key.startswith(start)}


def _with_strings(array: np.ndarray) -> np.ndarray:
    return array.astype(object) if array.dtype.kind == "S" else array


def _write_elsewhere(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, root],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert done.returncode == 0, done.stderr


# --- The program ----------------------------------------------------------------------------------


def main(root: Path) -> None:
    """Write every model, and what it answers."""
    for name, make in MODELS.items():
        made = make()
        version = root / name / "1"
        version.mkdir(parents=True)
        (version / "model.tflite").write_bytes(made.content)
        answers: dict[str, np.ndarray] = {}
        for signature, questions in made.questions.items():
            for number, inputs in enumerate(questions):
                outputs = _ask(made.content, signature, inputs)
                for side, tensors in (("in", inputs), ("out", outputs)):
                    for alias, value in tensors.items():
                        stored = value.astype("S") if value.dtype == object else value
                        answers[f"{signature}|{number}|{side}|{alias}"] = stored
        np.savez(root / name / "answers.npz", **answers)


@dataclass(frozen=True)
class Made:
    """A model, and what it is to be asked: inputs by signature, those of the list of the model."""

    content: bytes
    questions: Mapping[str, Sequence[Mapping[str, np.ndarray]]]


def _ask(
    content: bytes, signature: str, inputs: Mapping[str, np.ndarray]
) -> Mapping[str, np.ndarray]:
    interpreter = tensorflow().lite.Interpreter(model_content=content)
    answer: Mapping[str, np.ndarray] = interpreter.get_signature_runner(signature)(**inputs)
    return answer


def tensorflow() -> ModuleType:
    """TensorFlow's Python package, with Keras made the same each time."""
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    return tf


def keras_softmax() -> Made:
    """784 numbers to 10 probabilities."""
    content = _convert_keras(
        lambda layers: [
            layers.Input((784,), name=_KERAS_INPUT),
            layers.Dense(10, activation="softmax"),
        ]
    )
    return Made(content, {"serving_default": [{_KERAS_INPUT: _some(n, 784)} for n in (1, 5, 2)]})


def keras_cnn() -> Made:
    """A small convolutional network for images of 28 by 28."""
    content = _convert_keras(_cnn)
    return Made(content, {"serving_default": [{_KERAS_INPUT: _some(n, 28, 28, 1)} for n in (1, 3)]})


def quantized_cnn() -> Made:
    """The same with weights of eight bits."""
    tf = tensorflow()
    content = _convert_keras(_cnn, optimizations=[tf.lite.Optimize.DEFAULT])
    return Made(content, {"serving_default": [{_KERAS_INPUT: _some(n, 28, 28, 1)} for n in (1, 3)]})


def several_signatures() -> Made:
    """Signatures with graphs of their own: two outputs, strings, two inputs, a scalar, no input."""
    tf = tensorflow()
    vector, matrix = tf.TensorSpec([None], tf.float32), tf.TensorSpec([None, 2], tf.float32)

    class Several(tf.Module):
        @tf.function(input_signature=[matrix])
        def sums(self, x):
            return {"sum": tf.reduce_sum(x, 1), "twice": 2 * x}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def text(self, s):
            return {"column": tf.reshape(s, [-1, 1])}

        @tf.function(input_signature=[vector, vector])
        def add(self, x, y):
            return {"sum": x + y}

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
        def half(self, x):
            return {"y": x / 2}

        @tf.function(input_signature=[])
        def answer(self):
            return {"y": tf.constant([42])}

    vectors = np.float32([1, 2, 3]), np.float32([10, 20, 30])
    questions = {
        "sums": [{"x": _some(3, 2)}, {"x": _some(1, 2)}, {"x": np.zeros((0, 2), np.float32)}],
        "text": [{"s": np.array([b"a", b"\x00\xff", b""], object)}],
        "add": [{"x": vectors[0], "y": vectors[1]}, {"x": vectors[0][:1], "y": vectors[1][:1]}],
        "half": [{"x": np.float32(3)[...]}],
        "answer": [{}],
    }
    return Made(_convert_module(Several(), list(questions)), questions)


def all_dtypes() -> Made:
    """A signature for each type, which makes a column of a vector."""
    tf = tensorflow()
    module = tf.Module()
    for name in DTYPES:
        spec = tf.TensorSpec([None], tf.as_dtype(name), name="x")
        column = tf.function(lambda x: {"y": tf.reshape(x, [-1, 1])}, input_signature=[spec])
        setattr(module, name, column)
    questions = {name: [{"x": values}, {"x": values[:2]}] for name, values in DTYPES.items()}
    return Made(_convert_module(module, list(DTYPES)), questions)


def fixed_batch() -> Made:
    """A vector of four, doubled: a batch size that the model was made for."""
    tf = tensorflow()
    module = tf.Module()
    spec = tf.TensorSpec([4, 2], tf.float32, name="x")
    module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=[spec])
    content = _convert_module(module, ["double"])
    return Made(content, {"double": [{"x": _some(4, 2)}, {"x": _some(10, 2)}]})


def loop() -> Made:
    """Adds one as often as it is told."""
    tf = tensorflow()
    module = tf.Module()

    def count(n):
        return {"y": tf.while_loop(lambda i: i < n[0], lambda i: (i + 1,), (tf.constant(0),))[0]}

    module.count = tf.function(count, input_signature=[tf.TensorSpec([1], tf.int32, name="n")])
    content = _convert_module(module, ["count"])
    return Made(content, {"count": [{"n": np.array([7], np.int32)}]})


def filled() -> Made:
    """As many zeros as it is told."""
    tf = tensorflow()
    module = tf.Module()
    spec = tf.TensorSpec([1], tf.int32, name="n")
    module.fill = tf.function(lambda n: {"y": tf.fill(n, 0.0)}, input_signature=[spec])
    return Made(_convert_module(module, ["fill"]), {"fill": [{"n": np.array([3], np.int32)}]})


def custom_op() -> Made:
    """A model that needs TensorFlow's own op, which no interpreter of TensorFlow Lite has."""
    tf = tensorflow()
    module = tf.Module()
    spec = tf.TensorSpec([None], tf.string, name="s")
    hashed = tf.function(
        lambda s: {"y": tf.strings.to_hash_bucket_fast(s, 10)}, input_signature=[spec]
    )
    module.hash = hashed
    return Made(_convert_module(module, ["hash"], allow_custom_ops=True), {})


def with_metadata() -> Made:
    """``keras_softmax`` with two signatures in the metadata, as exporters wrote them once."""
    return _with_metadata(keras_softmax(), lambda name: name)


def early() -> Made:
    """The same from a converter that left out what follows the colon of a tensor's name."""
    return _with_metadata(keras_softmax(), lambda name: name.partition(":")[0])


def half_fed() -> Made:
    """``x + y`` with signatures in the metadata that feed both of them, or one."""
    tf = tensorflow()
    module = tf.Module()
    specs = [tf.TensorSpec([1], tf.float32, name=name) for name in ("x", "y")]
    module.add = tf.function(lambda x, y: {"sum": x + y}, input_signature=specs)
    content = _convert_module(module, ["add"])
    definitions = {
        "both": _definition({"x": "add_x:0", "y": "add_y:0"}, {"sum": "PartitionedCall:0"}),
        "one": _definition({"x": "add_x:0"}, {"sum": "PartitionedCall:0"}),
    }
    return Made(add_metadata(content, METADATA, flexbuffer_map(definitions)), {})


def unknown_tensor() -> Made:
    """A signature in the metadata of a tensor that is not there."""
    definitions = {"serving_default": _definition({"x": "nobody:0"}, {})}
    content = add_metadata(keras_softmax().content, METADATA, flexbuffer_map(definitions))
    return Made(content, {})


def broken_metadata() -> Made:
    """Metadata that is no FlexBuffer."""
    return Made(add_metadata(keras_softmax().content, METADATA, b"\x01\x02\x03"), {})


_KERAS_INPUT: Final = "pixels"


def _with_metadata(made: Made, rename: Callable[[str], str]) -> Made:
    inputs, outputs = (
        {"images": "serving_default_pixels:0"},
        {"scores": "StatefulPartitionedCall_1:0"},
    )
    definitions = {
        "serving_default": _definition(inputs, outputs),
        "classify": _definition({"inputs": inputs["images"]}, outputs, CLASSIFY),
    }
    content = add_metadata(made.content, METADATA, flexbuffer_map(definitions), rename)
    return Made(content, made.questions)


def _definition(
    inputs: Mapping[str, str], outputs: Mapping[str, str], method_name: str = PREDICT
) -> bytes:
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

    message = SignatureDef(method_name=method_name)
    for aliases, names in ((message.inputs, inputs), (message.outputs, outputs)):
        for alias, name in names.items():
            aliases[alias].name = name
            aliases[alias].dtype = 1
            aliases[alias].tensor_shape.dim.add().size = -1
    return message.SerializeToString()


def add_metadata(
    content: bytes, name: str, data: bytes, rename: Callable[[str], str] = str
) -> bytes:
    """The model with an entry of metadata more, and its tensors renamed."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.name = rename(tensor.name.decode())
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer, buffer.data = name, len(model.buffers), list(data)
    model.metadata = [*(model.metadata or []), entry]
    model.buffers.append(buffer)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Octets(str):
    """Bytes where the FlexBuffer builder wants text: it can write no others."""

    __slots__ = ("octets",)
    octets: bytes

    def encode(self, *_: object) -> bytes:
        """The bytes."""
        return self.octets


def flexbuffer_map(entries: Mapping[str, bytes]) -> bytes:
    """A FlexBuffer that maps strings to strings of any bytes."""
    from flatbuffers import flexbuffers

    builder = flexbuffers.Builder()
    with builder.Map():
        for key, value in entries.items():
            text = _Octets()
            text.octets = value
            builder.String(key, text)
    return bytes(builder.Finish())


def _cnn(layers: Any) -> list[Any]:
    return [
        layers.Input((28, 28, 1), name=_KERAS_INPUT),
        layers.Conv2D(8, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    ]


def _convert_keras(layers_of: Callable[[Any], list[Any]], **settings: Any) -> bytes:
    tf = tensorflow()
    tf.keras.utils.set_random_seed(1)
    layers = layers_of(tf.keras.layers)
    model = tf.keras.Sequential(layers)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in settings.items():
        setattr(converter, name, value)
    content: bytes = converter.convert()
    return content


def _convert_module(module: Any, signatures: Sequence[str], **settings: Any) -> bytes:
    tf = tensorflow()
    functions = {name: getattr(module, name).get_concrete_function() for name in signatures}
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, list(signatures))
        for name, value in settings.items():
            setattr(converter, name, value)
        content: bytes = converter.convert()
    return content


def _some(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape, np.float32)


MODELS: Final[Mapping[str, Callable[[], Made]]] = {
    make.__name__: make
    for make in (
        keras_softmax,
        keras_cnn,
        quantized_cnn,
        several_signatures,
        all_dtypes,
        fixed_batch,
        loop,
        filled,
        custom_op,
        with_metadata,
        early,
        half_fed,
        unknown_tensor,
        broken_metadata,
    )
}
"""What every test may ask for by name."""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
