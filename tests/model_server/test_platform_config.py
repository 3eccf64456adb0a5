"""Platform and session files: what they bring about, and what in them does not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from salver.errors import Code, InvalidArgument, NotFound
from salver.model_server.options import Options
from salver.model_server.platform_config import (
    ADAPTER,
    Platform,
    platform,
    read_platforms,
    session_config,
)
from salver.protos import config_pb2, session_config_pb2


def read(folder: Path, bundle: str, **options: object) -> Platform:
    path = folder / "platform.config"
    path.write_text(
        'platform_configs { key: "tensorflow" value { source_adapter_config {\n'
        f"[type.googleapis.com/{ADAPTER}] {{ legacy_config {{ {bundle} }} }} }} }} }}"
    )
    options = {"platform_config_file": str(path), **options}
    (found,) = read_platforms(Options(**options)).values()  # type: ignore[arg-type] # by name
    return found


def config_of(found: bytes) -> session_config_pb2.ConfigProto:
    return session_config_pb2.ConfigProto.FromString(found)


def test_without_a_file_the_flags_describe_the_one_platform():
    """It is called tensorflow."""
    options = Options(
        saved_model_tags="serve, tpu",
        num_request_iterations_for_warmup=3,
        tensorflow_session_parallelism=2,
    )

    platforms = read_platforms(options)

    assert list(platforms) == ["tensorflow"]
    assert platforms["tensorflow"].tags == ("serve", "tpu")
    assert platforms["tensorflow"].options(options) == Options(
        saved_model_tags="serve,tpu",
        num_request_iterations_for_warmup=3,
        tensorflow_session_parallelism=2,
    )
    config = config_of(platforms["tensorflow"].session_config)
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (2, 2)


def test_a_platform_file_says_all_and_flags_say_nothing(tmp_path: Path):
    """What it leaves out has the default of its message: warm-up is off."""
    found = read(tmp_path, "", saved_model_tags="tpu", tensorflow_session_parallelism=2)

    assert (found.tags, found.warms_up, found.session_config) == (("serve",), False, b"")
    assert not found.options(Options()).enable_model_warmup


def test_tags_warmup_and_session_config_are_taken_from_the_file(tmp_path: Path):
    """The session config is TensorFlow's, whatever is in it."""
    found = read(
        tmp_path,
        'saved_model_tags: ["serve", "gpu"] enable_model_warmup: true '
        "model_warmup_options { num_request_iterations { value: 4 } } "
        "session_config { intra_op_parallelism_threads: 3 gpu_options { allow_growth: true } }",
    )

    assert (found.tags, found.warms_up, found.warmup_iterations) == (("serve", "gpu"), True, 4)
    assert config_of(found.session_config).gpu_options.allow_growth
    assert found.remarks == ()
    assert found.options(Options()).num_request_iterations_for_warmup == 4


@pytest.mark.parametrize(
    ("text", "interpreters"),
    [
        ("", 0),
        ("num_tflite_interpreters: 3", 3),
        ("num_tflite_interpreters: 3 num_tflite_pools: 2", 2),
    ],
)
def test_tensorflow_lite_is_preferred_as_the_file_says(
    tmp_path: Path, text: str, interpreters: int
):
    """And not as the flags say; the older field holds where the newer one is not set."""
    text += " prefer_tflite_model: true num_tflite_interpreters_per_pool: 4"

    found = read(tmp_path, text).options(Options(num_tflite_pools=9))

    assert found.prefer_tflite_model
    assert found.num_tflite_pools == interpreters
    assert found.num_tflite_interpreters_per_pool == 4


def test_what_has_no_effect_is_said_once_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """By field and with the reason."""
    with caplog.at_level(logging.WARNING):
        found = read(
            tmp_path,
            'session_target: "grpc://x" mixed_precision: "bfloat16" '
            'experimental_fixed_input_tensors { name: "x" tensor { dtype: DT_FLOAT '
            "tensor_shape { dim { size: 2 } } float_val: [1, 2] } } "
            "model_warmup_options { num_model_warmup_threads { value: 2 } }",
        )

    texts = [record.getMessage() for record in caplog.records]
    assert [remark.path for remark in found.remarks] == [
        ("session_target",),
        ("experimental_fixed_input_tensors",),
        ("mixed_precision",),
        ("model_warmup_options", "num_model_warmup_threads"),
    ]
    assert "session_target has no effect: sessions run in this process" in texts[0]
    assert "experimental_fixed_input_tensors has no effect" in texts[1]
    assert len(texts) == 4
    assert found.refusal is None


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (
            "resource_estimation_uses_validation_result",
            "Reading validation results is not supported",
        ),
        ("enable_saved_model_config", "Saved model config functionality is not implemented."),
    ],
)
def test_what_tensorflow_serving_cannot_do_fails_every_load(tmp_path: Path, field: str, text: str):
    """In its words."""
    refusal = read(tmp_path, f"{field}: true").refusal

    assert refusal is not None
    assert (refusal.code, refusal.message) == (Code.UNIMPLEMENTED, text)


def test_an_adapter_that_is_not_there_is_refused():
    """There is the one for SavedModels only, as in TensorFlow Serving's binary."""
    config = config_pb2.PlatformConfig()
    with pytest.raises(InvalidArgument, match="platform x names no adapter"):
        platform("x", config)

    config.source_adapter_config.type_url = "type.googleapis.com/tensorflow.serving.Hashmap"
    with pytest.raises(InvalidArgument, match=r"is for tensorflow\.serving\.Hashmap"):
        platform("x", config)

    config.source_adapter_config.type_url = f"type.googleapis.com/{ADAPTER}"
    config.source_adapter_config.value = b"\xff"
    with pytest.raises(InvalidArgument, match="the value is no tensorflow"):
        platform("x", config)


def test_a_file_that_is_not_there_ends_the_start(tmp_path: Path):
    """With its path."""
    with pytest.raises(NotFound, match=r"no\.config"):
        read_platforms(Options(platform_config_file=str(tmp_path / "no.config")))


def test_flags_that_are_set_hold_over_the_session_file(tmp_path: Path):
    """And what they leave alone stays as the file has it."""
    path = tmp_path / "session.config"
    path.write_text(
        "intra_op_parallelism_threads: 5 inter_op_parallelism_threads: 6 "
        "gpu_options { per_process_gpu_memory_fraction: 0.5 allow_growth: true } "
        "graph_options { rewrite_options { custom_optimizers { "
        'name: "o" parameter_map { key: "k" value { s: "v" } } } } } '
        "device_count { key: 'CPU' value: 1 }"
    )
    plain = Options(tensorflow_session_config_file=str(path))
    flagged = Options(
        tensorflow_session_config_file=str(path),
        tensorflow_inter_op_parallelism=2,
        per_process_gpu_memory_fraction=0.25,
    )

    from_file, with_flags = config_of(session_config(plain)), config_of(session_config(flagged))

    assert (from_file.intra_op_parallelism_threads, from_file.inter_op_parallelism_threads) == (
        5,
        6,
    )
    assert (with_flags.intra_op_parallelism_threads, with_flags.inter_op_parallelism_threads) == (
        5,
        2,
    )
    assert from_file.gpu_options.per_process_gpu_memory_fraction == 0.5
    assert with_flags.gpu_options.per_process_gpu_memory_fraction == 0.25
    assert with_flags.gpu_options.allow_growth


def test_our_session_config_has_tensorflows_fields():
    """Each name has TensorFlow's number, down to the last nested message."""
    tensorflow = pytest.importorskip("tensorflow.core.protobuf.config_pb2")

    assert fields(session_config_pb2.ConfigProto.DESCRIPTOR) == {
        name: number
        for name, number in fields(tensorflow.ConfigProto.DESCRIPTOR).items()
        if ".parameter_map.value." not in name
    } | {
        name: number
        for name, number in fields(session_config_pb2.ConfigProto.DESCRIPTOR).items()
        if ".parameter_map.value." in name
    }


def fields(descriptor: object, prefix: str = "", depth: int = 0) -> dict[str, int]:
    found: dict[str, int] = {}
    for field in descriptor.fields:  # type: ignore[attr-defined] # a descriptor of any runtime
        name = f"{prefix}.{field.name}"
        found[name] = field.number
        if field.message_type is not None and depth < 8:
            found |= fields(field.message_type, name, depth + 1)
    return found


def test_batching_is_taken_from_the_file_and_not_from_the_flags(tmp_path: Path):
    """Its parameters turn it on; that each version has its own needs them, too."""
    batched = read(
        tmp_path,
        "batching_parameters { num_batch_threads { value: 3 } } "
        "enable_per_model_batching_params: true",
    )
    plain = read(tmp_path, "enable_per_model_batching_params: true")

    assert batched.batching is not None
    assert batched.batching.num_threads == 3
    assert batched.batching.by_version
    assert batched.remarks == ()
    assert plain.batching is None
    assert [remark.text for remark in plain.remarks] == [
        "enable_per_model_batching_params has no effect: batching_parameters are not set"
    ]


def test_batching_parameters_that_are_wrong_fail_every_load(tmp_path: Path):
    """In TensorFlow Serving's words; without a thread nothing starts."""
    refusal = read(tmp_path, "batching_parameters { allowed_batch_sizes: 3 }").refusal

    assert refusal is not None
    assert refusal.message.endswith("last entry was 3; expected 1000")
    with pytest.raises(InvalidArgument, match="num_batch_threads must be positive; was 0"):
        read(tmp_path, "batching_parameters { num_batch_threads { } }")
