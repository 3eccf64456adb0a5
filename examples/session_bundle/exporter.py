"""A graph of TensorFlow 1 as a SessionBundle, the format before SavedModels, on today's TensorFlow.

TensorFlow's own exporter left with ``tensorflow.contrib``; this one writes what it wrote:

    EXPORT_DIR/00000001/
        export.meta                  the graph, and in its collections what a server needs to know
        export-?????-of-?????        the variables, in the first format of checkpoints
        checkpoint                   the name of the checkpoint, which a server does not read
        assets/                      files that the graph reads

New models are better off as SavedModels.
This is for those who have to write, or to test, what an old pipeline writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tensorflow.compat.v1 as tf
from google.protobuf.any_pb2 import Any as AnyMessage

from salver.protos.session_bundle_pb2 import AssetFile, Signature, Signatures

NAME: Final = "export"
TYPES: Final = "type.googleapis.com/tensorflow"


def classification_signature(examples: Any, classes: Any, scores: Any) -> Signature:
    """Examples to classes and their scores."""
    signature = Signature()
    signature.classification_signature.input.tensor_name = examples.name
    signature.classification_signature.classes.tensor_name = classes.name
    signature.classification_signature.scores.tensor_name = scores.name
    return signature


def regression_signature(examples: Any, values: Any) -> Signature:
    """Examples to a number each."""
    signature = Signature()
    signature.regression_signature.input.tensor_name = examples.name
    signature.regression_signature.output.tensor_name = values.name
    return signature


def generic_signature(**tensors: Any) -> Signature:
    """Tensors by the names that clients use: all that go in, or all that come out."""
    signature = Signature()
    for name, tensor in tensors.items():
        signature.generic_signature.map[name].tensor_name = tensor.name
    return signature


def version_folder(export_dir: Path, version: int) -> Path:
    """Where a version is exported to: eight digits, as they always were."""
    return export_dir / f"{version:08}"


def export(
    session: Any,
    folder: Path,
    *,
    default_signature: Signature | None = None,
    named_signatures: Mapping[str, Signature] | None = None,
    init_op: Any = None,
    assets: Mapping[Path, Any] | None = None,
) -> None:
    """Write the session's graph and variables beside ``folder``, then make that the folder.

    ``init_op`` is run by whoever loads it, once the variables are there.  Each of ``assets`` is
    copied; the constant tensor that names it is fed its new place.
    """
    unfinished = folder.with_name(f"{folder.name}-tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    saver = tf.train.Saver(sharded=True, write_version=tf.train.SaverDef.V1)
    collect("serving_graph", packed("GraphDef", session.graph.as_graph_def()))
    signatures = Signatures(
        default_signature=default_signature, named_signatures=named_signatures or {}
    )
    collect("serving_signatures", packed("serving.Signatures", signatures))
    if init_op is not None:
        collect("serving_init_op", init_op)
    for file, tensor in (assets or {}).items():
        asset = AssetFile(filename=file.name)
        asset.tensor_binding.tensor_name = tensor.name
        collect("serving_assets", packed("serving.AssetFile", asset))
        (unfinished / "assets").mkdir(exist_ok=True)
        shutil.copyfile(file, unfinished / "assets" / file.name)
    saver.save(session, str(unfinished / NAME), meta_graph_suffix="meta")
    unfinished.rename(folder)


def collect(collection: str, value: Any) -> None:
    """Make ``value`` the next in a collection of the graph, which is saved with it."""
    tf.add_to_collection(collection, value)


def packed(kind: str, message: Any) -> AnyMessage:
    """A message with the name of its kind."""
    return AnyMessage(type_url=f"{TYPES}.{kind}", value=message.SerializeToString())
