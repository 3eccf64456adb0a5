"""``assets.extra/saved_model_config.pb``: how a SavedModel wants its own session to be.

It is always read where it is there, as in TensorFlow Serving.  A file that cannot be read costs a
warning and nothing else: the model was exported to be served, with or without it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from salver.protos import config_pb2, session_config_pb2

logger = logging.getLogger(__name__)

FILE: Final = Path("assets.extra", "saved_model_config.pb")

MAX_BYTES: Final = 1 << 20


def session_overrides(version: Path) -> bytes:
    """What the SavedModel in ``version`` overrides, as a part of a ``tensorflow.ConfigProto``."""
    overrides = _read(version / FILE).session_overrides
    for name in ("remote_op_remap_config", "batch_op_rewriter_config"):
        if getattr(overrides, name):
            logger.warning(
                "%s: session_overrides.%s has no effect: TensorFlow's package for Python does not "
                "have the graph rewriter that it configures",
                version / FILE,
                name,
            )
    config = session_config_pb2.ConfigProto()
    if overrides.disable_meta_optimizer:
        config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config.SerializeToString()


def _read(path: Path) -> config_pb2.SavedModelConfig:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return config_pb2.SavedModelConfig()
    except OSError as error:
        logger.warning("%s cannot be read and is passed over: %s", path, error.strerror)
        return config_pb2.SavedModelConfig()
    if len(content) > MAX_BYTES:
        logger.warning("%s has more than %d bytes and is passed over", path, MAX_BYTES)
        return config_pb2.SavedModelConfig()
    try:
        return config_pb2.SavedModelConfig.FromString(content)
    except DecodeError as error:
        logger.warning("%s is no SavedModelConfig and is passed over: %s", path, error)
        return config_pb2.SavedModelConfig()
