"""Legacy SessionBundles for the tests, written by TensorFlow as its exporter of 2016 left them.

Every function of ``BUNDLES`` builds a graph and says what the exporter is told beside it.
TensorFlow's own answers are asked of the session that is exported, and kept beside the version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf.any_pb2 import Any as AnyMessage

from salver.protos.session_bundle_pb2 import AssetFile, Signature, Signatures
from saved_models import serialized_example, tensorflow

VERSION: Final = "00000123"
ANSWERS: Final = "answers.json"
X: Final = (1.0, 2.0, 5.0)
"""What the answers are to: the feature ``x``, or a column of that name."""


class BundleShelf:
    """Base paths of bundles by name; each is written when it is first asked for, then kept."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, name: str) -> Path:
        """The base path."""
        base = self._root / name
        if not base.exists():
            write(base, BUNDLES[name])
        return base

    def version(self, name: str) -> Path:
        """The version folder itself."""
        return self(name) / VERSION

    def answers(self, name: str) -> dict[str, Any]:
        """What TensorFlow answered before it wrote the bundle, by the names of tensors."""
        return json.loads((self(name) / ANSWERS).read_text())


@dataclass
class Export:
    """What the exporter is told beside the graph; ``feeds`` and ``fetches`` make the answers."""

    signatures: Signatures
    feeds: Mapping[Any, Any]
    fetches: Sequence[Any]
    init_op: Any = None
    assets: Mapping[str, Any] = field(default_factory=dict)  # file name to tensor
    checkpoint: str = "V1 shards"
    saver_def: Any = None
    producer: int = 0
    fill: Sequence[Any] = ()


def half_plus_two() -> Export:
    """As TensorFlow Serving's own: a default regression, inputs and outputs, an init op, assets."""
    tf = tensorflow().compat.v1
    a, b = variable(0.5, "a"), variable(2.0, "b")
    examples = tf.placeholder(tf.string, [None], name="tf_example")
    x = tf.identity(parsed(examples), name="x")
    y = tf.add(tf.multiply(a, x), b, name="y")
    greeting = tf.constant("/nowhere/hello.txt", name="filename")
    named = {"inputs": generic(x=x), "outputs": generic(y=y), "again": regression(examples, y)}
    return Export(
        Signatures(default_signature=regression(examples, y), named_signatures=named),
        {x: column()},
        [y],
        init_op=tf.group(tf.io.read_file(greeting), name="init"),
        assets={"hello.txt": greeting},
    )


def classifier() -> Export:
    """A default classification whose labels come from a table that an asset fills."""
    tf = tensorflow().compat.v1
    file = tf.constant("/nowhere/labels.txt", name="labels_file")
    lines, whole = tf.lookup.TextFileIndex.LINE_NUMBER, tf.lookup.TextFileIndex.WHOLE_LINE
    initializer = tf.lookup.TextFileInitializer(file, tf.int64, lines, tf.string, whole)
    table = tf.lookup.StaticHashTable(initializer, default_value="nothing")
    examples = tf.placeholder(tf.string, [None], name="tf_example")
    weights = variable([[1.0, 0.0, -1.0]], "weights")
    scores, indices = tf.nn.top_k(tf.matmul(parsed(examples), weights), 3)
    classes = tf.identity(table.lookup(tf.cast(indices, tf.int64)), name="classes")
    return Export(
        Signatures(default_signature=classification(examples, classes, scores)),
        {examples: [serialized_example(x=[x]) for x in X]},
        [scores],
        init_op=tf.group(tf.tables_initializer(), name="init_tables"),
        assets={"labels.txt": file},
    )


def shards() -> Export:
    """Two shards, written by two devices; no init op, and no default signature."""
    tf = tensorflow()
    with tf.device("/cpu:0"):
        a = variable(0.5, "a")
    with tf.device("/cpu:1"):
        b = variable(2.0, "b")
    return affine(a, b)


def second_format() -> Export:
    """The second format of checkpoints, and the kind of variables that came with it."""
    tf = tensorflow().compat.v1
    a, b = (tf.Variable(v, use_resource=True, name=n) for v, n in ((0.5, "a"), (2.0, "b")))
    export = affine(a, b)
    export.checkpoint = "V2 shards"
    return export


def single_file() -> Export:
    """All variables in one file of the first format, as a saver without shards writes them."""
    export = affine(variable(0.5, "a"), variable(2.0, "b"))
    export.checkpoint = "V1 file"
    return export


def old_ops() -> Export:
    """The ops of TensorFlow 0.x, in a graph stamped as its work."""
    tf = tensorflow()
    raw = tf.raw_ops
    a, b = (raw.Variable(shape=[], dtype=tf.float32, name=name) for name in "ab")
    filled = [raw.Assign(ref=a, value=0.5), raw.Assign(ref=b, value=2.0)]
    filename = tf.constant("model", name="save/Const")
    shard = raw.ShardedFilename(basename=filename, shard=0, num_shards=1)
    values = [tf.identity(a), tf.identity(b)]
    save = raw.SaveSlices(
        filename=shard, tensor_names=["a", "b"], shapes_and_slices=["", ""], data=values
    )
    with tf.control_dependencies([save]):
        pattern = raw.ShardedFilespec(basename=filename, num_shards=1)
        saved = tf.identity(pattern, name="save/control_dependency")
    restored = [
        raw.Assign(
            ref=ref,
            value=raw.RestoreSlice(
                file_pattern=filename, tensor_name=name, shape_and_slice="", dt=tf.float32
            ),
            validate_shape=False,
        )
        for ref, name in ((a, "a"), (b, "b"))
    ]
    restore = tf.group(restored, name="save/restore_all")
    export = affine(a, b)
    export.producer, export.fill = 10, filled
    export.saver_def = tf.compat.v1.train.SaverDef(
        filename_tensor_name=filename.name,
        save_tensor_name=saved.name,
        restore_op_name=restore.name,
        sharded=True,
        version=tf.compat.v1.train.SaverDef.V1,
    )
    return export


def affine(a: Any, b: Any) -> Export:
    """a x + b behind the generic signatures ``inputs`` and ``outputs``, without a default."""
    tf = tensorflow().compat.v1
    x = tf.placeholder(tf.float32, [None, 1], name="x")
    y = tf.add(tf.multiply(a, x), b, name="y")
    named = {"inputs": generic(x=x), "outputs": generic(y=y)}
    return Export(Signatures(named_signatures=named), {x: column()}, [y])


def variable(value: Any, name: str) -> Any:
    """A variable as all were when bundles were written."""
    return tensorflow().compat.v1.Variable(value, use_resource=False, name=name)


def parsed(examples: Any) -> Any:
    """The feature ``x`` of serialized examples."""
    tf = tensorflow()
    return tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]


def column() -> np.ndarray:
    """``X``, one row each."""
    return np.array(X, np.float32).reshape(-1, 1)


def regression(examples: Any, output: Any) -> Signature:
    """A regression signature."""
    signature = Signature()
    signature.regression_signature.input.tensor_name = examples.name
    signature.regression_signature.output.tensor_name = output.name
    return signature


def classification(examples: Any, classes: Any, scores: Any) -> Signature:
    """A classification signature."""
    signature = Signature()
    signature.classification_signature.input.tensor_name = examples.name
    signature.classification_signature.classes.tensor_name = classes.name
    signature.classification_signature.scores.tensor_name = scores.name
    return signature


def generic(**tensors: Any) -> Signature:
    """A generic signature."""
    signature = Signature()
    for name, tensor in tensors.items():
        signature.generic_signature.map[name].tensor_name = tensor.name
    return signature


BUNDLES: Final[Mapping[str, Callable[[], Export]]] = {
    make.__name__: make
    for make in (half_plus_two, classifier, shards, second_format, single_file, old_ops)
}


def write(base: Path, make: Callable[[], Export]) -> None:
    """One version as the exporter left it, and TensorFlow's answers beside it."""
    tf = tensorflow().compat.v1
    unfinished = base.with_suffix(".unfinished")
    version = unfinished / VERSION
    (version / "assets").mkdir(parents=True)
    config = tf.ConfigProto(device_count={"CPU": 2})
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        export = make()
        session.run([tf.global_variables_initializer(), *export.fill])
        feeds = dict(export.feeds)
        for name, tensor in export.assets.items():
            (version / "assets" / name).write_text("left\nright\nneither\n")
            feeds[tensor] = str(version / "assets" / name)
        if export.init_op is not None:
            session.run(export.init_op, feeds)
        values = session.run(list(export.fetches), feeds)
        answers = {t.name: v.tolist() for t, v in zip(export.fetches, values, strict=True)}
        (unfinished / ANSWERS).write_text(json.dumps(answers))
        saver = _saver(export)
        _collect(export, session.graph)
        saver.save(session, str(version / "export"), meta_graph_suffix="meta")
    with edited(version) as meta_graph:
        for node in meta_graph.graph_def.node:
            node.device = ""
        if export.producer:
            meta_graph.graph_def.versions.producer = export.producer
            del meta_graph.collection_def["serving_graph"]
    unfinished.rename(base)


@contextmanager
def edited(version: Path) -> Iterator[Any]:
    """The MetaGraphDef of a version, written back at the end."""
    path = version / "export.meta"
    meta_graph = tensorflow().compat.v1.MetaGraphDef.FromString(path.read_bytes())
    yield meta_graph
    path.write_bytes(meta_graph.SerializeToString())


def packed(kind: str, message: Any) -> AnyMessage:
    """A message as an Any, under the name that TensorFlow Serving gave its kind."""
    return AnyMessage(
        type_url=f"type.googleapis.com/{kind}", value=message.SerializeToString(deterministic=True)
    )


def _saver(export: Export) -> Any:
    train = tensorflow().compat.v1.train
    if export.saver_def is not None:
        return train.Saver([], saver_def=export.saver_def)
    version, _, form = export.checkpoint.partition(" ")
    return train.Saver(sharded=form == "shards", write_version=getattr(train.SaverDef, version))


def _collect(export: Export, graph: Any) -> None:
    """Leave in the graph's collections what the exporter left there."""
    definition = graph.as_graph_def()
    for node in definition.node:
        node.device = ""
    collect = tensorflow().compat.v1.add_to_collection
    collect("serving_graph", packed("tensorflow.GraphDef", definition))
    collect("serving_signatures", packed("tensorflow.serving.Signatures", export.signatures))
    if export.init_op is not None:
        collect("serving_init_op", export.init_op)
    for name, tensor in export.assets.items():
        asset = AssetFile(filename=name)
        asset.tensor_binding.tensor_name = tensor.name
        collect("serving_assets", packed("tensorflow.serving.AssetFile", asset))
