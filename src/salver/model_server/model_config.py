"""Which models a server is to serve: from two flags, or from a ModelServerConfig.

Reading and checking only; nothing here touches a model.
The rules and their order are TensorFlow Serving's, and so are the texts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from salver.errors import FailedPrecondition, InvalidArgument, ServingError, Unimplemented
from salver.model_server.options import Options
from salver.model_server.text_proto import read_text_proto
from salver.protos import config_pb2
from salver.sources.file_system import folder_of
from salver.sources.stores import check_place, is_remote
from salver.sources.version_policy import All, Latest, Specific, VersionPolicy

TENSORFLOW_PLATFORM: Final = "tensorflow"

TENSORFLOW_ONLY: Final = frozenset({TENSORFLOW_PLATFORM})


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model: where its versions lie, which are wanted, and the names clients give them."""

    name: str
    base_path: str
    policy: VersionPolicy = field(default_factory=Latest)
    version_labels: Mapping[str, int] = field(default_factory=dict)
    platform: str = TENSORFLOW_PLATFORM


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a configuration, and with which of its models and fields."""

    index: int
    field_name: str
    error: ServingError


def read_model_configs(
    options: Options, platforms: Collection[str] = TENSORFLOW_ONLY
) -> list[ModelConfig] | None:
    """The models of ``model_config_file``, or the one of ``model_name`` and ``model_base_path``.

    None where the file says nothing about models, not even that there are none.

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
    return model_configs(message, platforms)


def model_configs(
    message: config_pb2.ModelServerConfig, platforms: Collection[str] = TENSORFLOW_ONLY
) -> list[ModelConfig] | None:
    """The models of a ModelServerConfig, checked; None where it has no list of them.

    Raises:
        InvalidArgument: a model is listed twice, lacks a path or a platform, or has one we lack.
        Unimplemented: it asks for a custom configuration.
    """
    choice = message.WhichOneof("config")
    if choice == "custom_model_config":
        raise Unimplemented("ModelServer does not yet support custom model config.")
    if choice is None:
        return None
    models = message.model_config_list.config
    for fault in faults(models, platforms):
        raise fault.error
    return [model_config(model) for model in models]


def faults(
    models: Sequence[config_pb2.ModelConfig], platforms: Collection[str] = TENSORFLOW_ONLY
) -> Iterator[Fault]:
    """Everything that is wrong with a list of models, each rule over all models before the next."""
    seen: set[str] = set()
    for index, model in enumerate(models):
        if model.name in seen:
            text = f"Illegal to list model {model.name} multiple times in config list"
            yield Fault(index, "name", InvalidArgument(text))
        seen.add(model.name)
    for index, model in enumerate(models):
        if not is_absolute(model.base_path):
            text = (
                f"Expected model {model.name} to have an absolute path or URI; "
                f"got base_path()={model.base_path}"
            )
            yield Fault(index, "base_path", InvalidArgument(text))
        elif (error := _place_error(model.base_path)) is not None:
            yield Fault(index, "base_path", error)
    for index, model in enumerate(models):
        complaint = _platform_complaint(model, platforms)
        if complaint:
            yield Fault(index, "model_platform", InvalidArgument(complaint))
    for index, model in enumerate(models):
        if model.HasField("logging_config"):
            error = InvalidArgument("No request-logger-creator provided.")
            yield Fault(index, "logging_config", error)
    for index, model in enumerate(models):
        if any(unicodedata.category(char) == "Cc" for char in model.name):
            text = f"Model name {model.name!r} has control characters, which no request can name"
            yield Fault(index, "name", InvalidArgument(text))


def is_absolute(base_path: str) -> bool:
    """Whether a base path means the same wherever the server was started."""
    return PurePosixPath(base_path).is_absolute() or "://" in base_path


def _place_error(base_path: str) -> ServingError | None:
    """What is wrong with an absolute base path, without a look."""
    folder = folder_of(base_path)
    if folder != base_path and not folder.startswith("/"):
        host, _, path = folder.partition("/")
        return InvalidArgument(
            f"base path {base_path} is on a machine called {host}; "
            f"on this machine it would be file:///{path}"
        )
    try:
        if is_remote(base_path):
            check_place(base_path)
    except ServingError as error:
        return error
    return None


def _platform_complaint(model: config_pb2.ModelConfig, platforms: Collection[str]) -> str:
    if model.model_type and model.model_platform:
        return (
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if not model.model_type and not model.model_platform:
        return (
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if model.model_type not in (config_pb2.MODEL_TYPE_UNSPECIFIED, config_pb2.TENSORFLOW):
        return f"ModelServerConfig::model_type choice {model.model_type} not supported."
    platform = _platform(model)
    if platform not in platforms:
        return (
            f"Model {model.name} requests unsupported platform {platform}; "
            f"there are: {', '.join(sorted(platforms))}"
        )
    return ""


def check_platforms_stay(old: Mapping[str, str], new: Sequence[ModelConfig]) -> None:
    """A model keeps its platform as long as it is configured; ``old`` has those of before.

    Raises:
        InvalidArgument: one has another platform now.
    """
    for config in new:
        known = old.get(config.name, config.platform)
        if known != config.platform:
            raise InvalidArgument(
                f"Illegal to change a model's platform. For model {config.name} platform was "
                f"{known} and new platform requested is {config.platform}"
            )


def no_transition() -> ServingError:
    """What TensorFlow Serving says to a configuration of another kind than the one that holds."""
    return FailedPrecondition(
        "Cannot transition to requested config. It is only legal to transition from one "
        "ModelConfigList to another."
    )


def model_config(model: config_pb2.ModelConfig) -> ModelConfig:
    """One model of a list without faults."""
    return ModelConfig(
        name=model.name,
        base_path=model.base_path,
        policy=policy_of(model.model_version_policy),
        version_labels=dict(model.version_labels),
        platform=_platform(model),
    )


def model_message(config: ModelConfig) -> config_pb2.ModelConfig:
    """The same model as a message; what is a default is written out."""
    message = config_pb2.ModelConfig(
        name=config.name,
        base_path=config.base_path,
        model_platform=config.platform,
        version_labels=config.version_labels,
    )
    policy = message.model_version_policy
    if isinstance(config.policy, All):
        policy.all.SetInParent()
    elif isinstance(config.policy, Specific):
        policy.specific.SetInParent()
        policy.specific.versions.extend(config.policy.versions)
    else:
        policy.latest.num_versions = max(config.policy.count, 1)
    return message


def policy_of(message: config_pb2.ServableVersionPolicy) -> VersionPolicy:
    """The version policy a message asks for."""
    choice = message.WhichOneof("policy_choice")
    if choice == "all":
        return All()
    if choice == "specific":
        return Specific(tuple(message.specific.versions))
    return Latest(max(message.latest.num_versions, 1))


def _platform(model: config_pb2.ModelConfig) -> str:
    return model.model_platform or TENSORFLOW_PLATFORM
