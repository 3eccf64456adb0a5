"""What a configuration file says, checked without starting anything.

The rules are the server's own; added are the places (line and column), what has no effect, and what
the disk looks like right now.  A finding is an error if a server would refuse the file, or could
never serve what it lists.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from google.protobuf.message import Message

from salver.batching.parameters import faults as batching_faults
from salver.errors import ServingError
from salver.model_server.model_config import (
    TENSORFLOW_PLATFORM,
    ModelConfig,
    faults,
    model_config,
)
from salver.model_server.monitoring import page_path_of
from salver.model_server.platform_config import ANY_TYPES, platform
from salver.model_server.platforms import PlatformNames
from salver.model_server.ssl_config import ssl_context
from salver.model_server.text_parser import Parsed, Places, Position, TextError, parse
from salver.protos import config_pb2, session_config_pb2
from salver.sources.file_system import MonitoredServable, complaints_about, folder_of
from salver.sources.stores import is_remote
from salver.sources.version_policy import (
    All,
    Specific,
    VersionPolicy,
    choose,
    version_children,
)

BEGINNING: Final = Position(1, 1)
END: Final = Position(sys.maxsize, 1)

MAX_LISTED: Final = 10
"""Versions that are named one by one."""


class Level(Enum):
    """How bad a finding is; the value is what a person reads."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something somebody should know, and where it stands."""

    position: Position
    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in a file: what it is, what it brings about, and what is amiss."""

    message: str
    honoured: Sequence[str] = ()
    findings: Sequence[Finding] = field(default_factory=tuple)

    @property
    def is_good(self) -> bool:
        """Whether a server would take the file."""
        return all(finding.level is not Level.ERROR for finding in self.findings)


@dataclass(frozen=True, slots=True)
class _Notes:
    """Lines and findings, while they are gathered."""

    honoured: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def error(self, position: Position, text: str) -> None:
        self.findings.append(Finding(position, Level.ERROR, text))

    def warning(self, position: Position, text: str) -> None:
        self.findings.append(Finding(position, Level.WARNING, text))


class Kind(Enum):
    """The files there are; the value is what a person types."""

    MODEL = "model"
    PLATFORM = "platform"
    BATCHING = "batching"
    MONITORING = "monitoring"
    SSL = "ssl"
    SESSION = "session"


def check(
    text: bytes,
    kind: Kind | None = None,
    *,
    list_children: Callable[[str], Iterable[str]] = os.listdir,
) -> Report:
    """Check a file; without a ``kind`` it is the one that the text reads as."""
    if kind is None:
        kind = kind_of(text)
    message_type = _MESSAGES[kind]
    name = message_type.DESCRIPTOR.name
    try:
        parsed: Parsed[Message] = parse(text, message_type(), any_types=ANY_TYPES)
    except TextError as error:
        return Report(name, (), [Finding(error.position, Level.ERROR, error.text)])
    notes = _Notes()
    if kind is Kind.MODEL:
        _check_models(parsed, notes, list_children)
    else:
        _CHECKS[kind](parsed, notes)
    return Report(name, notes.honoured, sorted(notes.findings, key=lambda found: found.position))


def kind_of(text: bytes) -> Kind:
    """The kind that a text reads as, or comes closest to."""
    reached = {kind: _reached(text, message_type()) for kind, message_type in _MESSAGES.items()}
    return max(reached, key=lambda kind: reached[kind])  # of equals, the first


def _reached(text: bytes, message: Message) -> Position:
    """How far a text can be read as ``message``; one that names no field says nothing."""
    try:
        places = parse(text, message, any_types=ANY_TYPES).places
    except TextError as error:
        return error.position
    return END if places else BEGINNING


# Models.


def _check_models(
    parsed: Parsed[Message], notes: _Notes, list_children: Callable[[str], Iterable[str]]
) -> None:
    message, places = parsed.message, parsed.places
    assert isinstance(message, config_pb2.ModelServerConfig)  # noqa: S101 - says the kind
    choice = message.WhichOneof("config")
    if choice == "custom_model_config":
        where = places.of("custom_model_config")
        notes.error(where, "ModelServer does not yet support custom model config.")
        return
    if choice is None:
        notes.warning(BEGINNING, "it says nothing about models; as the first file it serves none")
        return
    listed = message.model_config_list.config
    wrong = set()
    for fault in faults(listed, PlatformNames({TENSORFLOW_PLATFORM})):
        if fault.field_name == "model_platform" and "unsupported platform" in str(fault.error):
            notes.warning(
                _place(places, fault.index, fault.field_name), _needs_platform(fault.error)
            )
            continue
        wrong.add(fault.index)
        notes.error(_place(places, fault.index, fault.field_name), fault.error.message)
    for index, model in enumerate(listed):
        if index not in wrong:
            _check_model(model_config(model), index, places, notes, list_children)


def _needs_platform(error: ServingError) -> str:
    return f"{error.message}, and whatever platform_config_file lists"


def _place(places: Places, index: int, *path: str | int) -> Position:
    return places.of("model_config_list", "config", index, *path)


def _check_model(
    config: ModelConfig,
    index: int,
    places: Places,
    notes: _Notes,
    list_children: Callable[[str], Iterable[str]],
) -> None:
    if not config.name:
        notes.warning(_place(places, index), "a model without a name cannot be asked for")
    line = f"{config.name}: {policy_in_words(config.policy)} in {config.base_path}"
    if config.platform != TENSORFLOW_PLATFORM:
        line = f"{line}, by platform {config.platform}"
    if is_remote(config.base_path):
        notes.honoured.append(f"{line}; a remote store, not looked at")
        return
    where = _place(places, index, "base_path")
    try:
        found = version_children(list_children(folder_of(config.base_path)))
    except (OSError, ValueError) as error:
        notes.honoured.append(f"{line}; nothing to load")
        reason = error.strerror if isinstance(error, OSError) else str(error)
        notes.error(where, f"base path {config.base_path} cannot be read: {reason}")
        return
    chosen = choose(found, config.policy)
    versions = sorted({child.version for child in chosen}, reverse=True)
    there = sorted({child.version for child in found}, reverse=True)
    notes.honoured.append(f"{line}; loads {_numbers(versions)} of {_numbers(there)}")
    servable = MonitoredServable(config.name, config.base_path, config.policy)
    for complaint in complaints_about(servable, found, chosen):
        (notes.warning if versions else notes.error)(where, complaint)
    _check_labels(config, index, versions, places, notes)


def _check_labels(
    config: ModelConfig, index: int, versions: Sequence[int], places: Places, notes: _Notes
) -> None:
    for label, version in config.version_labels.items():
        where = _place(places, index, "version_labels", label)
        if version not in versions:
            notes.warning(where, f"label {label} is for version {version}, which is not loaded")
        else:
            notes.warning(
                where,
                f"label {label}: tensorflow_model_server refuses labels of versions that are still "
                "to be loaded, unless --allow_version_labels_for_unavailable_models is set",
            )


def policy_in_words(policy: VersionPolicy) -> str:
    """A version policy, for a person."""
    if isinstance(policy, All):
        return "all versions"
    if isinstance(policy, Specific):
        return f"versions {_numbers(sorted(policy.versions, reverse=True))}"
    return "the latest version" if policy.count <= 1 else f"the latest {policy.count} versions"


def _numbers(versions: Sequence[int]) -> str:
    shown = ", ".join(map(str, versions[:MAX_LISTED]))
    more = len(versions) - MAX_LISTED
    return (f"{shown} and {more} more" if more > 0 else shown) or "none"


# The other files.


def _check_platforms(parsed: Parsed[Message], notes: _Notes) -> None:
    message, places = parsed.message, parsed.places
    assert isinstance(message, config_pb2.PlatformConfigMap)  # noqa: S101 - says the kind
    if not message.platform_configs:
        notes.error(BEGINNING, "it has no platform, so no model could be served")
    for name, config in sorted(message.platform_configs.items()):
        adapter = ("platform_configs", name, "value", "source_adapter_config")
        try:
            found = platform(name, config)
        except ServingError as error:
            notes.error(places.of(*adapter), error.message)
            continue
        warmup = f"warm-up {'on' if found.warms_up else 'off'}"
        session = session_config_pb2.ConfigProto.FromString(found.session_config)
        fields = ", ".join(descriptor.name for descriptor, _ in session.ListFields())
        notes.honoured.append(
            f"{name}: tags {', '.join(found.tags)}; {warmup}; session config: {fields or 'none'}"
            + ("" if found.batching is None else "; batched")
        )
        for remark in found.remarks:
            where = places.of(*adapter, "legacy_config", *remark.path)
            note = notes.warning if remark.refusal is None else notes.error
            note(where, remark.text)


def _check_batching(parsed: Parsed[Message], notes: _Notes) -> None:
    message, places = parsed.message, parsed.places
    assert isinstance(message, config_pb2.BatchingParameters)  # noqa: S101 - says the kind
    for fault in batching_faults(message):
        notes.error(places.of(fault.field), fault.error.message)
    fields = ", ".join(descriptor.name for descriptor, _ in message.ListFields())
    notes.honoured.append(f"with --enable_batching: {fields or 'the defaults'}")


def _check_monitoring(parsed: Parsed[Message], notes: _Notes) -> None:
    message = parsed.message
    assert isinstance(message, config_pb2.MonitoringConfig)  # noqa: S101 - says the kind
    path = page_path_of(message)
    if path is None:
        notes.warning(BEGINNING, "prometheus_config.enable is not set: there is no page")
    else:
        notes.honoured.append(f"the Prometheus page is at {path} on the REST port")


def _check_ssl(parsed: Parsed[Message], notes: _Notes) -> None:
    message, places = parsed.message, parsed.places
    assert isinstance(message, config_pb2.SSLConfig)  # noqa: S101 - says the kind
    try:
        ssl_context(message)
    except ServingError as error:
        notes.error(places.of(), error.message)
        return
    clients = "asked for certificates" if message.client_verify else "not asked for certificates"
    notes.honoured.append(f"TLS for gRPC; clients are {clients}")


def _check_session(parsed: Parsed[Message], notes: _Notes) -> None:
    fields = ", ".join(descriptor.name for descriptor, _ in parsed.message.ListFields())
    notes.honoured.append(f"handed to TensorFlow: {fields or 'nothing'}")


_MESSAGES: Final[dict[Kind, type[Message]]] = {
    Kind.MODEL: config_pb2.ModelServerConfig,
    Kind.PLATFORM: config_pb2.PlatformConfigMap,
    Kind.BATCHING: config_pb2.BatchingParameters,
    Kind.MONITORING: config_pb2.MonitoringConfig,
    Kind.SSL: config_pb2.SSLConfig,
    Kind.SESSION: session_config_pb2.ConfigProto,
}

_CHECKS: Final[dict[Kind, Callable[[Parsed[Message], _Notes], None]]] = {
    Kind.PLATFORM: _check_platforms,
    Kind.BATCHING: _check_batching,
    Kind.MONITORING: _check_monitoring,
    Kind.SSL: _check_ssl,
    Kind.SESSION: _check_session,
}
