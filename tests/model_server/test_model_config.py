"""ModelServerConfigs, read and checked in TensorFlow Serving's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from salver.errors import Code, ServingError
from salver.model_server.model_config import ModelConfig, read_model_configs
from salver.model_server.options import Options
from salver.sources.version_policy import All, Latest, Specific

MODEL = 'name: "m" base_path: "/models/m"'
PLATFORM = 'model_platform: "tensorflow"'


def read(tmp_path: Path, text: str) -> list[ModelConfig]:
    path = tmp_path / "models.config"
    path.write_text(text)
    return read_model_configs(Options(model_config_file=str(path)))


def listed(*models: str) -> str:
    return "model_config_list { " + " ".join(f"config {{ {m} }}" for m in models) + " }"


def test_two_flags_make_one_model():
    """Without a file, the name and the path of the flags are the configuration."""
    options = Options(model_name="mnist", model_base_path="/models/mnist")

    assert read_model_configs(options) == [ModelConfig("mnist", "/models/mnist", Latest(1))]


def test_the_file_overrides_the_flags(tmp_path: Path):
    """With a file, the flags for one model count for nothing."""
    path = tmp_path / "models.config"
    path.write_text(listed(f"{MODEL} {PLATFORM}"))
    options = Options(model_config_file=str(path), model_base_path="relative")

    assert [config.name for config in read_model_configs(options)] == ["m"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", Latest(1)),
        ("model_version_policy { latest { } }", Latest(1)),
        ("model_version_policy { latest { num_versions: 3 } }", Latest(3)),
        ("model_version_policy { all { } }", All()),
        ("model_version_policy: { specific { versions: 2, versions: 4 } }", Specific((2, 4))),
    ],
)
def test_each_version_policy_is_read(tmp_path: Path, policy: str, expected: object):
    """No policy, or no number, means the latest one."""
    (config,) = read(tmp_path, listed(f"{MODEL} {PLATFORM} {policy}"))

    assert config.policy == expected


def test_labels_are_read(tmp_path: Path):
    """A map of text format is a dictionary."""
    labels = 'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'
    (config,) = read(tmp_path, listed(f"{MODEL} {PLATFORM} {labels}"))

    assert config.version_labels == {"stable": 1, "canary": 2}


@pytest.mark.parametrize(
    "model", [f"{MODEL} model_type: TENSORFLOW", f"{MODEL.replace('/models', 'gs://b')} {PLATFORM}"]
)
def test_the_old_type_and_uris_are_taken(tmp_path: Path, model: str):
    """``model_type`` still names the platform, and a URI stands for an absolute path."""
    assert len(read(tmp_path, listed(model))) == 1


@pytest.mark.parametrize("text", ["model_config_list { }", "# nothing\n"])
def test_a_configuration_without_models_is_one(tmp_path: Path, text: str):
    """A server may run with no models."""
    assert not read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (
            listed(f"{MODEL} {PLATFORM}", f"{MODEL} {PLATFORM}"),
            Code.INVALID_ARGUMENT,
            "Illegal to list model m multiple times in config list",
        ),
        (
            listed(f'name: "m" base_path: "models/m" {PLATFORM}'),
            Code.INVALID_ARGUMENT,
            "Expected model m to have an absolute path or URI; got base_path()=models/m",
        ),
        (
            listed(MODEL),
            Code.INVALID_ARGUMENT,
            (
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                "ModelServerConfig::model_platform, model name is m"
            ),
        ),
        (
            listed(f"{MODEL} {PLATFORM} model_type: TENSORFLOW"),
            Code.INVALID_ARGUMENT,
            (
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                "ModelServerConfig::model_platform, model name is m"
            ),
        ),
        (
            listed(f"{MODEL} model_type: OTHER"),
            Code.INVALID_ARGUMENT,
            "ModelServerConfig::model_type choice 2 not supported.",
        ),
        (
            listed(f'{MODEL} model_platform: "pytorch"'),
            Code.INVALID_ARGUMENT,
            "Model m requests unsupported platform pytorch; there are: tensorflow",
        ),
        (
            listed(f"{MODEL} {PLATFORM} logging_config {{ }}"),
            Code.INVALID_ARGUMENT,
            "No request-logger-creator provided.",
        ),
        (
            "custom_model_config { }",
            Code.UNIMPLEMENTED,
            "ModelServer does not yet support custom model config.",
        ),
        (
            "model_config_list { config { nmae: 'm' } }",
            Code.INVALID_ARGUMENT,
            "Invalid protobuf file: '{path}'",
        ),
    ],
)
def test_what_is_wrong_is_refused_in_tensorflow_servings_words(
    tmp_path: Path, text: str, code: Code, message: str
):
    """Row by row, to the last character."""
    with pytest.raises(ServingError) as raised:
        read(tmp_path, text)

    assert raised.value.code is code
    assert raised.value.message == message.replace("{path}", str(tmp_path / "models.config"))
