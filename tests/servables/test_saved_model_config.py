"""``assets.extra/saved_model_config.pb``: what a model says about its own session."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from salver.protos import config_pb2, session_config_pb2
from salver.servables.saved_model_config import FILE, session_overrides
from salver.servables.tensorflow import TensorFlowRuntime
from saved_models import half_plus_two


def put(version: Path, content: bytes) -> None:
    path = version / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def overriding(**overrides: object) -> bytes:
    config = config_pb2.SavedModelConfig()
    for name, value in overrides.items():
        setattr(config.session_overrides, name, value)
    return config.SerializeToString()


def test_a_model_without_the_file_overrides_nothing(tmp_path: Path):
    """As most are."""
    assert session_overrides(tmp_path) == b""


def test_the_meta_optimizer_can_be_turned_off(tmp_path: Path):
    """The session's config says so to TensorFlow."""
    put(tmp_path, overriding(disable_meta_optimizer=True))

    config = session_config_pb2.ConfigProto.FromString(session_overrides(tmp_path))

    assert config.graph_options.rewrite_options.disable_meta_optimizer


@pytest.mark.parametrize("content", [b"\xff", b"\0" * ((1 << 20) + 1)], ids=["none", "too large"])
def test_a_file_that_cannot_be_read_costs_a_warning(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
):
    """The model was exported to be served."""
    put(tmp_path, content)

    with caplog.at_level(logging.WARNING):
        overrides = session_overrides(tmp_path)

    assert overrides == b""
    assert "is passed over" in caplog.text


def test_rewriters_that_are_not_there_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Once a load."""
    put(tmp_path, overriding(batch_op_rewriter_config=b"x", remote_op_remap_config=b"y"))

    with caplog.at_level(logging.WARNING):
        session_overrides(tmp_path)

    assert caplog.text.count("has no effect") == 2


def test_a_model_with_overrides_loads_and_answers(tmp_path: Path):
    """TensorFlow takes what is written."""
    half_plus_two(tmp_path / "1")
    put(tmp_path / "1", overriding(disable_meta_optimizer=True))
    servable = TensorFlowRuntime().load(tmp_path / "1")
    signature = servable.signatures["serving_default"]
    (feed,), (fetch,) = signature.inputs.values(), signature.outputs.values()

    (answer,) = servable.run({feed.name: np.array([2.0], np.float32)}, [fetch.name])

    servable.close()
    assert answer.tolist() == [3.0]
