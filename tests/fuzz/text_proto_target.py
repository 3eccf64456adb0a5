"""Configuration files in protobuf's text format: read, checked, and refused with a ServingError.

    make fuzz ARGS="--target text_proto"

An input is a file, read as each kind that there is.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import IO

from google.protobuf import text_format
from google.protobuf.message import Message

from fuzz.engine import Target, with_words
from salver.errors import ServingError
from salver.model_server.model_config import model_configs
from salver.model_server.platform_config import ANY_TYPES
from salver.model_server.text_proto import read_text_proto
from salver.protos import config_pb2, session_config_pb2

FILES = (
    "model_server/text_proto.py",
    "model_server/text_parser.py",
    "model_server/model_config.py",
)
KINDS: tuple[type[Message], ...] = (
    config_pb2.ModelServerConfig,
    config_pb2.MonitoringConfig,
    config_pb2.SSLConfig,
    config_pb2.BatchingParameters,
    config_pb2.PlatformConfigMap,
    session_config_pb2.ConfigProto,
)

WORDS = (
    *(b"model_config_list", b"config", b"{", b"}", b"<", b">", b"[", b"]", b":", b",", b";", b"\n"),
    *(b'name: "m"', b'base_path: "/m"', b'base_path: "m"', b'model_platform: "tensorflow"'),
    *(b"model_type: TENSORFLOW", b"model_type: 7", b"model_version_policy { all {} }"),
    *(b"model_version_policy { specific { versions: 1 versions: [2, 3] } }", b"versions: -1"),
    *(b"model_version_policy { latest { num_versions: 2 } }", b"num_versions: 4294967296"),
    *(b'version_labels { key: "a" value: 1 }', b"logging_config {}", b"custom_model_config {}"),
    *(b"prometheus_config { enable: true path: '/p' }", b"client_verify: true", b'server_key: "k"'),
    *(b"platform_configs { key: 'tensorflow' value { source_adapter_config {", b"legacy_config {"),
    *(b"[type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {",),
    *(b"max_batch_size { value: 8 }", b"allowed_batch_sizes: [2, 8]", b"gpu_options {", b"1.5f"),
    *(b"[type.googleapis.com/google.protobuf.Any] {}", b"# comment\n", b'"\\x41\\101\\u00e4\\n"'),
    *(
        b"'a' 'b'",
        b'"',
        b"\\",
        b"0x1F",
        b"017",
        b"1e5",
        b"-",
        b"inf",
        b"nan",
        b"true",
        b"\xff",
        b"\0",
    ),
    *(b"9223372036854775808", b"\xef\xbb\xbf", b"\xc3\xa4", b"unknown: 1", b"custom_content: ''"),
)


def run(data: bytes) -> None:
    """Read an input as each kind of file."""
    path = Path(scratch_file().name)
    path.write_bytes(data)
    for kind in KINDS:
        try:
            message = read_text_proto(str(path), kind(), any_types=ANY_TYPES)
            if isinstance(message, config_pb2.ModelServerConfig):
                model_configs(message)
        except ServingError:
            continue
        text = text_format.MessageToString(message)
        if text_format.Parse(text, kind()) != message and "nan" not in text:
            raise AssertionError(f"{text} is another message")


@cache
def scratch_file() -> IO[bytes]:
    """A file of this process, in memory where there is such a place."""
    memory = Path("/dev/shm")  # noqa: S108 -- the file has a name of its own
    return tempfile.NamedTemporaryFile(dir=memory if memory.is_dir() else None)


TARGET = Target(run, with_words(WORDS), FILES)
