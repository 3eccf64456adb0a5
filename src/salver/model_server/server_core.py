"""Sources, adapters and the manager, wired; and the way from a model spec to a handle.

``handle`` and ``version_statuses`` are called by every request, from any thread, and wait for
nothing.  ``configure`` is called by whoever starts the server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType

from salver.apis.requests import ModelSpec, VersionStatus
from salver.core.loader import Loader
from salver.core.manager import AspiredVersionsManager
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState
from salver.core.serving_map import ServableHandle
from salver.core.source import SourceAdapter
from salver.core.state_monitor import ServableStateMonitor
from salver.errors import (
    Code,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
    Unknown,
)
from salver.model_server.model_config import ModelConfig
from salver.servables.servable import Servable
from salver.sources.file_system import FileSystemSource, MonitoredServable

logger = logging.getLogger(__name__)

Labels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class LabelRules:
    """When a label may name a version that is not loaded."""

    allow_new_for_unavailable: bool = False


@dataclass(frozen=True, slots=True)
class Watching:
    """How the folders of the models are watched."""

    poll_wait_s: float = 1.0
    independent: bool = False


@dataclass
class _State:
    """What changes with a configuration, replaced and never edited."""

    labels: Labels | None = None
    source: FileSystemSource | None = None
    names: Sequence[str] = field(default_factory=tuple)


class ServerCore:
    """The models of one server."""

    def __init__(
        self,
        manager: AspiredVersionsManager[Servable],
        monitor: ServableStateMonitor,
        make_loader: Callable[[str], Loader[Servable]],
        *,
        watching: Watching | None = None,
        label_rules: LabelRules | None = None,
    ) -> None:
        self._manager = manager
        self._monitor = monitor
        self._adapter: SourceAdapter[str, Loader[Servable]] = SourceAdapter(
            lambda _id, path: make_loader(path), manager
        )
        self._watching = watching or Watching()
        self._label_rules = label_rules or LabelRules()
        self._state = _State()

    def handle(self, spec: ModelSpec) -> ServableHandle[Servable]:
        """Hold the servable that ``spec`` means; return the handle soon.

        Raises:
            InvalidArgument: the spec has no name, or a label nobody gave.
            NotFound: no such version is loaded.
            Unavailable: a label was asked for before any configuration was applied.
        """
        if not spec.name:
            raise InvalidArgument("ModelSpec has no name specified.")
        if spec.version_label is None:
            return self._manager.handle(spec.name, spec.version)
        return self._manager.handle(spec.name, self._labelled(spec.name, spec.version_label))

    def demand(self, servable_id: ServableId) -> Future[None]:
        """Have a version that sleeps loaded; the future is shared and must not be cancelled."""
        return self._manager.demand(servable_id)

    def is_predictable(self, spec: ModelSpec) -> bool:
        """Whether a run's time follows from its input; a spec that means nothing fails at once."""
        try:
            with self.handle(spec) as handle:
                return handle.servable.predictable
        except ServingError:
            return True

    def version_statuses(self, name: str, version: int | None) -> list[VersionStatus]:
        """What became of every version ever heard of, or of one; highest version first.

        Raises:
            NotFound: nothing was ever heard of it.
        """
        states = self._monitor.versions(name)
        if version is not None:
            if version not in states:
                raise NotFound(f"Could not find version {version} of model {name}")
            states = {version: states[version]}
        if not states:
            raise NotFound(f"Could not find any versions of model {name}")
        return [_version_status(state) for state in states.values()]

    def configure(self, configs: Sequence[ModelConfig]) -> None:
        """Serve exactly these models from now on; loads begin, and are not waited for.

        Raises:
            FailedPrecondition: a label is for a version that is not loaded; nothing has changed.
        """
        logger.info("Adding/updating models.")
        for config in configs:
            logger.info(" (Re-)adding model: %s", config.name)
        labels = self._checked_labels(configs)
        servables = [
            MonitoredServable(config.name, config.base_path, config.policy) for config in configs
        ]
        source = self._state.source
        if source is None:
            source = FileSystemSource(
                servables,
                self._adapter,
                poll_wait_s=self._watching.poll_wait_s,
                independent=self._watching.independent,
            )
            source.start()
        else:
            source.update_config(servables)
        names = [config.name for config in configs]
        self._state = _State(labels=labels, source=source, names=names)

    def look_for_versions(self) -> None:
        """Look into the folders of all models now, on top of the polls."""
        if self._state.source is not None:
            self._state.source.poll()

    def loading_with(self, pool: Executor) -> AbstractContextManager[None]:
        """Start loads in ``pool`` for the time of the block: the parallel first load."""
        return self._manager.loading_with(pool)

    def when_loaded(self, callback: Callable[[], None]) -> None:
        """Call back, from any thread, when each model has a version that is ready or has ended."""
        self._monitor.when_available_or_ended(self._state.names, lambda _: callback())

    def names(self) -> Sequence[str]:
        """The models of the configuration that holds; none before the first."""
        return self._state.names

    def is_available(self, name: str) -> bool:
        """Whether a version of the model has been announced as ready."""
        states = self._monitor.versions(name).values()
        return any(state.manager_state is ManagerState.AVAILABLE for state in states)

    def waiting_for(self) -> list[str]:
        """The models that have no version that is ready or has ended."""
        names = self._state.names
        reached = self._monitor.reached(names)
        return [name for name in names if name not in reached]

    def check_loaded(self) -> None:
        """Say which models have no version that is ready.

        Raises:
            Unknown: at least one ended with an error; the text lists every one.
        """
        failed = [
            state
            for state in self._monitor.reached(self._state.names).values()
            if state.manager_state is ManagerState.END
            and (state.error is not None or not self._manager.is_asleep(state.id))
        ]
        if failed:
            # The braces do not match; scripts know the text as it is.
            causes = "".join(f"{state.id} due to error: {_cause(state)}}}, " for state in failed)
            raise Unknown(f"{len(failed)} servable(s) did not become available: {{{causes}}}")

    def stop_sources(self) -> None:
        """Look for no further versions."""
        if self._state.source is not None:
            self._state.source.stop()

    def _labelled(self, name: str, label: str) -> int:
        labels = self._state.labels
        if labels is None:
            raise Unavailable(f"Model labels does not init yet.{label}")
        version = labels.get(name, {}).get(label)
        if version is None:
            raise InvalidArgument(f"Unrecognized servable version label: {label}")
        return version

    def _checked_labels(self, configs: Sequence[ModelConfig]) -> Labels:
        labels: dict[str, Mapping[str, int]] = {}
        for config in configs:
            for label, version in config.version_labels.items():
                self._check_label(config.name, label, version)
            labels[config.name] = MappingProxyType(dict(config.version_labels))
        return MappingProxyType(labels)

    def _check_label(self, name: str, label: str, version: int) -> None:
        """The rule holds for the states of now: loads that the same configuration starts are late.

        So labels in a start-up configuration need ``allow_version_labels_for_unavailable_models``,
        as in TensorFlow Serving.
        """
        state = self._monitor.versions(name).get(version)
        if state is not None and state.manager_state is ManagerState.AVAILABLE:
            return
        known = (self._state.labels or {}).get(name, {}).get(label)
        if self._label_rules.allow_new_for_unavailable and known in (None, version):
            return
        raise FailedPrecondition(
            f"Request to assign label to version {version} of model {name}, "
            "which is not currently available for inference"
        )


def _version_status(state: ServableState) -> VersionStatus:
    error = state.error
    return VersionStatus(
        version=state.id.version,
        state=state.manager_state.name,
        error_code=Code.OK if error is None else error.code,
        error_message="" if error is None else error.message,
    )


def _cause(state: ServableState) -> str:
    return "OK" if state.error is None else str(state.error)
