"""Which models a server is to serve: from two flags, or from a ModelServerConfig.

Reading and checking only; nothing here touches a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from salver.errors import InvalidArgument, Unimplemented
from salver.model_server.options import Options
from salver.model_server.text_proto import read_text_proto
from salver.protos import config_pb2
from salver.sources.version_policy import All, Latest, Specific, VersionPolicy

TENSORFLOW_PLATFORM: Final = "tensorflow"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model: where its versions lie, which are wanted, and the names clients give them."""

    name: str
    base_path: str
    policy: VersionPolicy = field(default_factory=Latest)
    version_labels: Mapping[str, int] = field(default_factory=dict)


def read_model_configs(options: Options) -> list[ModelConfig]:
    """The models of ``model_config_file``, or the one of ``model_name`` and ``model_base_path``.

    Raises:
        InvalidArgument: the file, or a model in it, is wrong; the texts are TensorFlow Serving's.
        NotFound: there is no such file.
        Unimplemented: it asks for a custom configuration.
    """
    if options.model_config_file:
        message = read_text_proto(options.model_config_file, config_pb2.ModelServerConfig())
    else:
        message = config_pb2.ModelServerConfig()
        message.model_config_list.config.add(
            name=options.model_name,
            base_path=options.model_base_path,
            model_platform=TENSORFLOW_PLATFORM,
        )
    return model_configs(message)


def model_configs(message: config_pb2.ModelServerConfig) -> list[ModelConfig]:
    """The models of a ModelServerConfig, checked.

    Raises:
        InvalidArgument: a model is listed twice, lacks a path or a platform, or has one we lack.
        Unimplemented: it asks for a custom configuration.
    """
    if message.WhichOneof("config") == "custom_model_config":
        raise Unimplemented("ModelServer does not yet support custom model config.")
    configs: dict[str, ModelConfig] = {}
    for model in message.model_config_list.config:
        if model.name in configs:
            raise InvalidArgument(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        _check_path(model)
        _check_platform(model)
        if model.HasField("logging_config"):
            raise InvalidArgument("No request-logger-creator provided.")
        configs[model.name] = ModelConfig(
            name=model.name,
            base_path=model.base_path,
            policy=_policy(model.model_version_policy),
            version_labels=dict(model.version_labels),
        )
    return list(configs.values())


def _check_path(model: config_pb2.ModelConfig) -> None:
    if not PurePosixPath(model.base_path).is_absolute() and "://" not in model.base_path:
        raise InvalidArgument(
            f"Expected model {model.name} to have an absolute path or URI; "
            f"got base_path()={model.base_path}"
        )


def _check_platform(model: config_pb2.ModelConfig) -> None:
    if model.model_type and model.model_platform:
        raise InvalidArgument(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if not model.model_type and not model.model_platform:
        raise InvalidArgument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if model.model_type not in (config_pb2.MODEL_TYPE_UNSPECIFIED, config_pb2.TENSORFLOW):
        raise InvalidArgument(
            f"ModelServerConfig::model_type choice {model.model_type} not supported."
        )
    platform = model.model_platform or TENSORFLOW_PLATFORM
    if platform != TENSORFLOW_PLATFORM:
        raise InvalidArgument(f"Model {model.name} requests unsupported platform {platform}")


def _policy(message: config_pb2.ServableVersionPolicy) -> VersionPolicy:
    choice = message.WhichOneof("policy_choice")
    if choice == "all":
        return All()
    if choice == "specific":
        return Specific(tuple(message.specific.versions))
    return Latest(max(message.latest.num_versions, 1))
