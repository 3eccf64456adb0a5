"""A signature in the metadata of a TensorFlow Lite model: the kind that TensorFlow Serving reads.

TensorFlow had a tool for it, ``tensorflow.lite.tools.signature``, which its package has lost.
The metadata is a FlexBuffer: a map from signatures' names to serialized SignatureDefs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers
from tensorflow.core.framework.types_pb2 import DT_FLOAT
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

METADATA: Final = "signature_defs_metadata"
IDENTIFIER: Final = b"TFL3"
PREDICT: Final = "tensorflow/serving/predict"


def with_signature(
    model: bytes, name: str, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> bytes:
    """The model with a signature of floats more: aliases to the names of tensors."""
    definition = SignatureDef(method_name=PREDICT)
    for tensors, given in ((definition.inputs, inputs), (definition.outputs, outputs)):
        for alias, tensor in given.items():
            tensors[alias].name = tensor
            tensors[alias].dtype = DT_FLOAT
            tensors[alias].tensor_shape.unknown_rank = True
    # The builder takes text only; without sizes of dimensions and long names, it is text.
    signatures = flexbuffers.Dumps({name: definition.SerializeToString().decode("ascii")})
    return with_entry(model, METADATA, bytes(signatures))


def with_entry(model: bytes, name: str, content: bytes) -> bytes:
    """The model with an entry of metadata more."""
    opened = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(content)
    entry.name, entry.buffer = name, len(opened.buffers)
    opened.buffers.append(buffer)
    opened.metadata = [*(opened.metadata or []), entry]
    builder = flatbuffers.Builder()
    builder.Finish(opened.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())
