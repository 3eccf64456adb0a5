"""The options about devices, and what TensorFlow is told of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from salver.errors import InvalidArgument
from salver.model_server.options import Face, Options, check_what_to_serve
from salver.model_server.platform_config import read_platforms
from salver.protos.session_config_pb2 import ConfigProto


def told(**given: bool | float | str) -> ConfigProto:
    (platform,) = read_platforms(Options(**given)).values()
    return ConfigProto.FromString(platform.session_config)


def test_each_flag_is_a_field_of_the_session_config():
    """Visible GPUs, their memory, where to place what does not fit, and whether to say so."""
    config = told(
        visible_device_list="2,0",
        gpu_allow_growth=True,
        per_process_gpu_memory_fraction=0.25,
        allow_soft_placement=True,
        log_device_placement=True,
    )

    assert config == ConfigProto(
        gpu_options={
            "visible_device_list": "2,0",
            "allow_growth": True,
            "per_process_gpu_memory_fraction": 0.25,
        },
        allow_soft_placement=True,
        log_device_placement=True,
    )


@pytest.mark.parametrize("face", Face)
def test_without_flags_tensorflow_chooses(face: Face):
    """Neither command has an opinion of its own."""
    (platform,) = read_platforms(Options.for_face(face)).values()

    assert platform.session_config == b""


def test_the_file_holds_where_no_flag_is_set(tmp_path: Path):
    """And a flag holds over it."""
    file = tmp_path / "session.config"
    file.write_text(
        'device_count { key: "CPU" value: 4 } allow_soft_placement: true '
        'gpu_options { visible_device_list: "1" allow_growth: true }'
    )
    config = told(tensorflow_session_config_file=str(file), visible_device_list="0")

    assert dict(config.device_count) == {"CPU": 4}
    assert config.allow_soft_placement
    assert config.gpu_options.allow_growth
    assert config.gpu_options.visible_device_list == "0"


@pytest.mark.parametrize("text", ["ranker", "ranker=fast", "a=GPU:0,a=GPU:1"])
def test_devices_of_models_that_make_no_sense_end_the_start(text: str):
    """Before anything is loaded."""
    with pytest.raises(InvalidArgument, match="device"):
        check_what_to_serve(Options(model_base_path="/m", model_devices=text))
