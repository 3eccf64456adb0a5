"""Real SavedModels for the tests, each written by TensorFlow itself, and TensorFlow's own answers.

Every function of ``MODELS`` writes one version directory, small and the same each time.
``tensorflow_answer`` runs a model in TensorFlow's own session, without the checks and casts that
its Python layers add: what it returns, or raises, is what a server must say too.

TensorFlow is imported where it is used: a test that needs no model does not pay for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import ml_dtypes
import numpy as np

ESTIMATORS: Final = Path(__file__).parent / "models" / "estimator"
"""What TensorFlow 2.15, the last with Estimators, exported; see ``make_estimator.py`` beside it."""

PREDICT: Final = "tensorflow/serving/predict"
CLASSIFY: Final = "tensorflow/serving/classify"
REGRESS: Final = "tensorflow/serving/regress"

DTYPES: Final[Mapping[str, np.ndarray]] = {
    "float": np.array([1.5, -2.25, np.inf], np.float32),
    "double": np.array([1.5, -2.25, 1e300], np.float64),
    "half": np.array([1.5, -2.25, 6.1e-5], np.float16),
    "bfloat16": np.array([1.5, -2.25, 3e38], ml_dtypes.bfloat16),
    "float8_e5m2": np.array([1.5, -2, 0], ml_dtypes.float8_e5m2),
    "float8_e4m3fn": np.array([1.5, -2, 0], ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": np.array([1.5, -2, 0], ml_dtypes.float8_e4m3fnuz),
    "float8_e4m3b11fnuz": np.array([1.5, -2, 0], ml_dtypes.float8_e4m3b11fnuz),
    "float8_e5m2fnuz": np.array([1.5, -2, 0], ml_dtypes.float8_e5m2fnuz),
    "int8": np.array([1, -128, 127], np.int8),
    "int16": np.array([1, -32768, 32767], np.int16),
    "int32": np.array([1, -(2**31), 2**31 - 1], np.int32),
    "int64": np.array([1, -(2**63), 2**63 - 1], np.int64),
    "uint8": np.array([0, 1, 255], np.uint8),
    "uint16": np.array([0, 1, 65535], np.uint16),
    "uint32": np.array([0, 1, 2**32 - 1], np.uint32),
    "uint64": np.array([0, 1, 2**64 - 1], np.uint64),
    "int4": np.array([1, -8, 7], ml_dtypes.int4),
    "uint4": np.array([0, 1, 15], ml_dtypes.uint4),
    "bool": np.array([True, False, True], np.bool_),
    "complex64": np.array([1 + 2j, -1j, 0], np.complex64),
    "complex128": np.array([1 + 2j, -1j, 0], np.complex128),
    "string": np.array([b"", b"plain", b"\x00\xff not UTF-8"], object),
    "qint8": np.array([(1,), (-128,), (127,)], [("qint8", "i1")]),
    "quint8": np.array([(0,), (1,), (255,)], [("quint8", "u1")]),
    "qint16": np.array([(1,), (-32768,), (32767,)], [("qint16", "<i2")]),
    "quint16": np.array([(0,), (1,), (65535,)], [("quint16", "<u2")]),
    "qint32": np.array([(1,), (-(2**31),), (2**31 - 1,)], [("qint32", "<i4")]),
}
"""A signature of ``all_dtypes`` and three values of its type, edges among them."""


class Shelf:
    """Base paths of models by name; each is written when it is first asked for, then kept.

    ``shelf("half_plus_two")`` is a folder that holds the version ``1``.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, name: str) -> Path:
        base = self._root / name
        if not base.exists():
            _write(base / "1", MODELS[name])
        return base

    def version(self, name: str) -> Path:
        """The version directory itself: ``<base path>/1``."""
        return self(name) / "1"


def _write(version: Path, write: Callable[[Path], None]) -> None:
    unfinished = version.parent.with_suffix(".unfinished")
    write(unfinished / version.name)
    unfinished.rename(version.parent)


@cache
def tensorflow() -> ModuleType:
    """TensorFlow's Python package, made quiet and kept off any accelerator."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    return tf


# --- TensorFlow's own answers ---------------------------------------------------------------------


def tensorflow_answer(
    version: Path,
    feeds: Mapping[str, np.ndarray],
    fetches: Sequence[str],
    *,
    tags: Sequence[str] = ("serve",),
) -> list[np.ndarray]:
    """Feed and fetch tensors by their names in the graph, as TensorFlow's ``Session::Run`` does.

    Raises:
        tensorflow.errors.OpError: what TensorFlow says to it, unadorned.
    """
    tf = tensorflow()
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.compat.v1.saved_model.load(session, list(tags), str(version))
        return _run(session, feeds, fetches)


def signature_answer(
    version: Path,
    inputs: Mapping[str, np.ndarray],
    signature_name: str = "serving_default",
) -> dict[str, np.ndarray]:
    """All outputs of a signature by their aliases, with ``inputs`` given by theirs."""
    signature = signature_def(version, signature_name)
    feeds = {signature.inputs[alias].name: value for alias, value in inputs.items()}
    fetches = {alias: info.name for alias, info in signature.outputs.items()}
    values = tensorflow_answer(version, feeds, list(fetches.values()))
    return dict(zip(fetches, values, strict=True))


def signature_def(version: Path, signature_name: str = "serving_default") -> Any:  # a protobuf
    """The SignatureDef message as it stands in the file."""
    return read_saved_model(version).meta_graphs[0].signature_def[signature_name]


def read_saved_model(version: Path) -> Any:  # a protobuf
    """The SavedModel message of a version directory."""
    tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    return SavedModel.FromString((version / "saved_model.pb").read_bytes())


def serialized_example(**features: Sequence[float]) -> bytes:
    """A ``tf.Example`` of float features, as bytes."""
    train = tensorflow().train
    return train.Example(
        features=train.Features(
            feature={
                name: train.Feature(float_list=train.FloatList(value=values))
                for name, values in features.items()
            }
        )
    ).SerializeToString()


def _run(session: Any, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
    # Session.run() would cast the feeds and check their shapes first; here the graph has its say.
    def tensor(name: str) -> Any:
        return session.graph.get_tensor_by_name(name)._as_tf_output()  # noqa: SLF001

    return session._call_tf_sessionrun(  # noqa: SLF001
        None,
        {tensor(name): value for name, value in feeds.items()},
        [tensor(name) for name in fetches],
        [],
        None,
    )


# --- Written as TensorFlow 2 writes them ----------------------------------------------------------


def half_plus_two(version: Path) -> None:
    """x/2 + 2 for a vector x."""
    _save_affine(version, 0.5, 2.0, [None])


def half_plus_three(version: Path) -> None:
    """x/2 + 3: what a second version answers where the first is ``half_plus_two``."""
    _save_affine(version, 0.5, 3.0, [None])


def matrix_half_plus_two(version: Path) -> None:
    """x/2 + 2 for a batch of 2 by 2 matrices."""
    _save_affine(version, 0.5, 2.0, [None, 2, 2])


def centred(version: Path) -> None:
    """x - mean(x) over the batch: what a row gets depends on its neighbours."""
    tf = tensorflow()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def centre(x: Any) -> dict[str, Any]:  # a tf.Tensor
        return {"y": x - tf.reduce_mean(x)}

    tf.saved_model.save(tf.Module(), str(version), signatures=centre)


def _save_affine(version: Path, factor: float, offset: float, shape: list[int | None]) -> None:
    tf = tensorflow()
    module = tf.Module()
    module.factor, module.offset = tf.Variable(factor), tf.Variable(offset)

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="x")])
    def affine(x):
        return {"y": module.factor * x + module.offset}

    module.affine = affine
    tf.saved_model.save(module, str(version), signatures=affine)


def keras_softmax(version: Path) -> None:
    """784 numbers to 10 probabilities: the least a classifier can be."""
    _export_keras(
        version, lambda layers: [layers.Input((784,)), layers.Dense(10, activation="softmax")]
    )


def keras_cnn(version: Path) -> None:
    """A small convolutional network for images of 28 by 28."""
    _export_keras(
        version,
        lambda layers: [
            layers.Input((28, 28, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ],
    )


def mobilenet_v2(version: Path) -> None:
    """MobileNetV2 with random weights: real sizes, real time to load (slow to write, too)."""
    tensorflow()
    import keras

    keras.utils.set_random_seed(1)
    keras.applications.MobileNetV2(weights=None).export(str(version), verbose=False)


def _export_keras(version: Path, layers_of: Callable[[ModuleType], list[Any]]) -> None:
    tensorflow()
    import keras

    keras.utils.clear_session()  # inputs are numbered through all models of a process
    keras.utils.set_random_seed(1)
    keras.Sequential(layers_of(keras.layers)).export(str(version), verbose=False)


def several_signatures(version: Path) -> None:
    """Signatures of every form: see the keys of ``signatures`` below."""
    tf = tensorflow()
    module = tf.Module()
    module.count = tf.Variable(0.0)
    vector, two = tf.TensorSpec([None], tf.float32), tf.constant(2.0)

    @tf.function(input_signature=[vector, vector])
    def sum_and_difference(a, b):
        return {"sum": a + b, "difference": a - b}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def upper(text):
        return {"text": tf.strings.upper(text)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def encode(text):
        return {"base64_bytes": text, "length": tf.strings.length(text)}

    @tf.function(input_signature=[])
    def increment():
        return {"count": module.count.assign_add(1.0)}

    @tf.function(input_signature=[])
    def read():
        return {"count": module.count.read_value()}

    @tf.function(input_signature=[vector, tf.TensorSpec([], tf.float32)])
    def scale(x, factor=two):  # this is how a default is exported
        return {"y": x * factor}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32)])
    def matmul(x):
        return {"y": tf.matmul(x, [[1.0, 2.0], [3.0, 4.0]])}

    signatures = {
        "serving_default": sum_and_difference,
        "upper": upper,  # string to string
        "encode": encode,  # an alias that ends in _bytes, with a string behind it
        "increment": increment,  # no inputs at all, and a state that changes
        "read": read,
        "scale": scale,  # an input with a default
        "matmul": matmul,  # minds the shape it is given
    }
    module.functions = list(signatures.values())
    tf.saved_model.save(module, str(version), signatures=signatures)


def turnstile(version: Path) -> None:
    """A run that goes on when its caller lets it: writes to one named pipe, then to another.

    A write to a pipe waits for its reader.  Whoever has read ``arrived`` knows that the run has
    begun, and it does not end before ``leave`` is read.
    """
    tf = tensorflow()
    module = tf.Module()
    name = tf.TensorSpec([], tf.string)

    @tf.function(input_signature=[name, name])
    def pass_through(arrived, leave):
        tf.io.write_file(arrived, "here")
        tf.io.write_file(leave, "gone")
        return {"way": tf.stack([arrived, leave])}

    module.pass_through = pass_through
    tf.saved_model.save(module, str(version), signatures=pass_through)


def memory(version: Path) -> None:
    """Gives back what it was given last, which it keeps as it came, and what it is given now.

    ``squares`` says less of its shape than a size in bytes tells.
    """
    tf = tensorflow()
    module = tf.Module()
    module.last = tf.Variable(np.zeros(2, np.float32))
    given = tf.TensorSpec([2], tf.float32, name="x")

    @tf.function(input_signature=[given])
    def swap(x):
        last = module.last.read_value()
        with tf.control_dependencies([last]):
            module.last.assign(x)
        return {"last": last, "now": tf.identity(x)}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
    def squares(x):
        return {"y": x * x}

    module.swap, module.squares = swap, squares
    signatures = {"serving_default": swap, "squares": squares}
    tf.saved_model.save(module, str(version), signatures=signatures)


# --- Written as TensorFlow 1 writes them ----------------------------------------------------------


def v1_half_plus_two(version: Path) -> None:
    """x/2 + 2 by all three methods, under the names of TensorFlow Serving's own test model.

    ``x`` is the feature of serialized ``tf.Example`` messages; ``serving_default`` feeds the tensor
    it is parsed into, in the middle of the graph.
    """
    tf = tensorflow()
    with V1Export(version) as export:
        factor, two, three = (
            tf.compat.v1.Variable(value, use_resource=False, name=name)
            for name, value in (("a", 0.5), ("b", 2.0), ("c", 3.0))
        )
        examples = tf.compat.v1.placeholder(tf.string, [None], name="tf_example")
        features = tf.io.parse_example(
            examples,
            {
                "x": tf.io.FixedLenFeature([1], tf.float32),
                "x2": tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
            },
        )
        x = tf.identity(features["x"], name="x")
        x2 = tf.identity(features["x2"], name="x2")
        y = tf.add(tf.multiply(factor, x), two, name="y")
        y2 = tf.add(tf.multiply(factor, x), three, name="y2")
        y3 = tf.add(tf.multiply(factor, x2), three, name="y3")
        export.signature("serving_default", PREDICT, {"x": x}, {"y": y})
        export.signature("regress_x_to_y", REGRESS, {"inputs": examples}, {"outputs": y})
        export.signature("regress_x_to_y2", REGRESS, {"inputs": examples}, {"outputs": y2})
        export.signature("regress_x2_to_y3", REGRESS, {"inputs": x2}, {"outputs": y3})
        export.signature("classify_x_to_y", CLASSIFY, {"inputs": examples}, {"scores": y})
        export.signature("classify_x2_to_y3", CLASSIFY, {"inputs": x2}, {"scores": y3})


def v1_classifier(version: Path) -> None:
    """A linear classifier over examples that gives class names and scores."""
    tf = tensorflow()
    with V1Export(version) as export:
        weights = tf.compat.v1.Variable(
            np.array([[1, 0, -1], [0, 2, 1]], np.float32), use_resource=False
        )
        examples = tf.compat.v1.placeholder(tf.string, [None], name="tf_example")
        feature = {"x": tf.io.FixedLenFeature([2], tf.float32)}
        x = tf.identity(tf.io.parse_example(examples, feature)["x"], name="x")
        scores, indices = tf.math.top_k(tf.nn.softmax(tf.matmul(x, weights)), 3)
        classes = tf.gather(tf.constant(["left", "right", "neither"]), indices)
        outputs = {"classes": classes, "scores": scores}
        export.signature("serving_default", CLASSIFY, {"inputs": examples}, outputs)
        only_classes, only_scores = {"classes": classes}, {"scores": scores}
        export.signature("classes_only", CLASSIFY, {"inputs": examples}, only_classes)
        export.signature("scores_only", CLASSIFY, {"inputs": examples}, only_scores)
        export.signature("predict", PREDICT, {"x": x}, outputs)


def awkward_signatures(version: Path) -> None:
    """Classify and regress signatures, each wrong in one way; ``good_*`` are right."""
    tf = tensorflow()
    with V1Export(version) as export:
        examples = tf.compat.v1.placeholder(tf.string, [None], name="examples")
        other = tf.compat.v1.placeholder(tf.string, [None], name="other")
        lengths = tf.cast(tf.strings.length(examples), tf.float32)  # shape [n]
        pair = tf.stack([lengths, -lengths], axis=1)  # shape [n, 2]
        words = tf.stack([examples, examples], axis=1)
        inputs = {"inputs": examples}

        def classify(name: str, outputs: Any, inputs: Any = inputs) -> None:
            export.signature(name, CLASSIFY, inputs, outputs)

        def regress(name: str, outputs: Any, inputs: Any = inputs) -> None:
            export.signature(name, REGRESS, inputs, outputs)

        classify("serving_default", {"classes": words, "scores": pair})
        classify("good_classify", {"classes": words, "scores": pair})
        classify("two_inputs", {"scores": pair}, {"inputs": examples, "more": other})
        classify("three_outputs", {"scores": pair, "classes": words, "more": pair})
        classify("no_inputs_alias", {"scores": pair}, {"x": examples})
        classify("no_outputs_alias", {"y": pair})
        classify("scores_of_rank_1", {"scores": lengths})
        classify("classes_of_rank_1", {"classes": tf.identity(examples)})
        classify("classes_are_floats", {"classes": pair})
        classify("classes_of_another_batch", {"classes": tf.constant([[b"a"]])})
        classify("scores_are_doubles", {"scores": tf.cast(pair, tf.float64)})
        classify("scores_of_another_batch", {"scores": tf.constant([[1.0]])})
        classify("widths_differ", {"classes": words, "scores": tf.expand_dims(lengths, 1)})
        regress("good_regress", {"outputs": lengths})
        regress("good_regress_column", {"outputs": tf.expand_dims(lengths, 1)})
        regress("regress_two_inputs", {"outputs": lengths}, {"inputs": examples, "more": other})
        regress("regress_two_outputs", {"outputs": lengths, "more": lengths})
        regress("regress_no_inputs_alias", {"outputs": lengths}, {"x": examples})
        regress("regress_no_outputs_alias", {"y": lengths})
        regress("values_of_rank_2", {"outputs": pair})
        regress("values_of_another_batch", {"outputs": tf.constant([1.0])})
        regress("values_are_ints", {"outputs": tf.strings.length(examples)})
        export.signature("a_predict", PREDICT, {"examples": examples}, {"lengths": lengths})
        export.signature("of_no_method", "some/other/method", {"x": examples}, {"y": lengths})


def v1_main_op(version: Path) -> None:
    """Names looked up in a table that is filled from an asset file by the ``main_op``."""
    _save_lookup(version, lambda init: {"main_op": init})


def v1_legacy_init_op(version: Path) -> None:
    """The same, filled by the ``legacy_init_op`` of TensorFlow 1.0's exporters."""
    _save_lookup(version, lambda init: {"legacy_init_op": init})


def _save_lookup(version: Path, init_op: Callable[[Any], Mapping[str, Any]]) -> None:
    tf = tensorflow()
    vocabulary = version.parent / "vocabulary.txt"
    version.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.write_text("zero\none\ntwo\n")
    with V1Export(version) as export:
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(  # this notes the file as an asset
                str(vocabulary),
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
            ),
            "unknown",
        )
        number = tf.compat.v1.placeholder(tf.int64, [None], name="number")
        name = tf.identity(table.lookup(number), name="name")
        export.signature("serving_default", PREDICT, {"number": number}, {"name": name})
        export.options.update(init_op(tf.compat.v1.tables_initializer()))
    vocabulary.unlink()


def all_dtypes(version: Path) -> None:
    """An identity for each type of ``DTYPES``, under that type's name."""
    tf = tensorflow()
    with V1Export(version) as export:
        for label in DTYPES:
            dtype = tf.as_dtype({"float": "float32", "double": "float64"}.get(label, label))
            x = tf.compat.v1.placeholder(dtype, None, "x_" + label)
            y = tf.identity(x, name="y_" + label)
            export.signature(label, PREDICT, {"x": x}, {"y": y})


def gpu_only(version: Path) -> None:
    """x/2 + 2 pinned to a GPU: a host without one cannot place it."""
    tf = tensorflow()
    with V1Export(version) as export, tf.device("/device:GPU:0"):
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        y = tf.add(x * 0.5, 2.0, name="y")
        export.signature("serving_default", PREDICT, {"x": x}, {"y": y})


def v1_on_cpu_1(version: Path) -> None:
    """x/2 + 2, of which ``half`` and its variable are pinned to the second of several CPUs."""
    tf = tensorflow()
    with V1Export(version) as export:
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        with tf.device("/device:CPU:1"):
            factor = tf.compat.v1.Variable(0.5, use_resource=False, name="factor")
            half = tf.multiply(x, factor, name="half")
        y = tf.add(half, 2.0, name="y")
        export.signature("serving_default", PREDICT, {"x": x}, {"y": y})


def on_cpu_2(version: Path) -> None:
    """The same as TensorFlow 2 writes it: the product, in a function, is pinned to the third."""
    tf = tensorflow()
    module = tf.Module()
    module.factor, module.offset = tf.Variable(0.5), tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def affine(x):
        with tf.device("/device:CPU:2"):
            half = x * module.factor
        return {"y": half + module.offset}

    module.affine = affine
    tf.saved_model.save(module, str(version), signatures=affine)


class V1Export:
    """A graph under construction, written out when its block ends."""

    def __init__(self, version: Path) -> None:
        self.options: dict[str, Any] = {}
        self._signatures: dict[str, Any] = {}
        self._version = version
        self._graph = tensorflow().Graph()
        self._entered: Any = None

    def signature(
        self, name: str, method: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> None:
        v1 = tensorflow().compat.v1.saved_model
        self._signatures[name] = v1.build_signature_def(
            *({k: v1.build_tensor_info(v) for k, v in side.items()} for side in (inputs, outputs)),
            method,
        )

    def __enter__(self) -> V1Export:
        self._entered = self._graph.as_default()
        self._entered.__enter__()
        return self

    def __exit__(self, failure: type[BaseException] | None, *rest: object) -> None:
        try:
            if failure is None:
                self._save()
        finally:
            self._entered.__exit__(failure, *rest)

    def _save(self) -> None:
        v1 = tensorflow().compat.v1
        soft = v1.ConfigProto(allow_soft_placement=True)  # variables of a pinned graph start here
        with v1.Session(graph=self._graph, config=soft) as session:
            session.run(v1.global_variables_initializer())
            builder = v1.saved_model.Builder(str(self._version))
            builder.add_meta_graph_and_variables(
                session,
                ["serve"],
                signature_def_map=self._signatures,
                assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS) or None,
                **self.options,
            )
            builder.save()


# --- Broken on purpose ----------------------------------------------------------------------------


def unknown_op(version: Path) -> None:
    """A graph that needs an operation nobody has."""
    half_plus_two(version)
    saved_model = read_saved_model(version)
    graph = saved_model.meta_graphs[0].graph_def
    for node in (*graph.node, *(n for f in graph.library.function for n in f.node_def)):
        if node.op == "AddV2":
            node.op = "NobodyHasThisOp"
    (version / "saved_model.pb").write_bytes(saved_model.SerializeToString())


def other_tag(version: Path) -> None:
    """A graph that is tagged for training, where ``serve`` is looked for."""
    half_plus_two(version)
    saved_model = read_saved_model(version)
    saved_model.meta_graphs[0].meta_info_def.tags[:] = ["train"]
    (version / "saved_model.pb").write_bytes(saved_model.SerializeToString())


def corrupt_graph(version: Path) -> None:
    """A ``saved_model.pb`` that is no protobuf."""
    half_plus_two(version)
    (version / "saved_model.pb").write_bytes(b"\xff not a protobuf")


def truncated_variables(version: Path) -> None:
    """Weights of which the last bytes were never copied."""
    half_plus_two(version)
    data = next((version / "variables").glob("variables.data-*"))
    data.write_bytes(data.read_bytes()[:-6])


MODELS: Final[Mapping[str, Callable[[Path], None]]] = {
    write.__name__: write
    for write in (
        half_plus_two,
        half_plus_three,
        centred,
        matrix_half_plus_two,
        keras_softmax,
        keras_cnn,
        mobilenet_v2,
        several_signatures,
        turnstile,
        memory,
        v1_half_plus_two,
        v1_classifier,
        awkward_signatures,
        v1_main_op,
        v1_legacy_init_op,
        all_dtypes,
        gpu_only,
        v1_on_cpu_1,
        on_cpu_2,
        unknown_op,
        other_tag,
        corrupt_graph,
        truncated_variables,
    )
}
