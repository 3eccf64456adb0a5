"""The JSON of ``GET …/metadata``: a model spec and the signatures, as protobuf prints them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from google.protobuf.json_format import MessageToDict

from salver.protos import saved_model_pb2


def write_metadata(name: str, version: int, signature_defs: Mapping[str, bytes]) -> bytes:
    """The body TensorFlow Serving puts together by hand around two protobuf JSON texts."""
    spec = {"name": name, "signature_name": "", "version": str(version)}
    signatures = saved_model_pb2.SignatureDefMap()
    for key, definition in signature_defs.items():
        signatures.signature_def[key].ParseFromString(definition)
    metadata = MessageToDict(
        signatures,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
    text = (
        f'{{\n"model_spec":{_pretty(spec)},\n"metadata": {{"signature_def": '
        f"{_pretty(metadata)}}}\n}}\n"
    )
    return text.encode()


def _pretty(value: object) -> str:
    """One space of indent and a line feed at the end, as protobuf's JSON printer has it."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
