"""Sources, adapters and the manager, wired; and the way from a model spec to a handle.

``handle`` and ``version_statuses`` are called by every request, from any thread, and wait for
nothing.  A configuration is applied by ``configure`` or ``edit``, from any thread, one at a time;
both return when it holds, and wait for no load and no disk.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Protocol

from salver.apis.requests import ModelSpec, VersionStatus
from salver.core.manager import AspiredVersionsManager
from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState
from salver.core.serving_map import ServableHandle
from salver.core.source import ErrorInjectingAdapter, SourceAdapter, SourceRouter, Target
from salver.core.state_monitor import ServableStateMonitor, Wait
from salver.errors import (
    Aborted,
    Code,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
    Unknown,
)
from salver.model_server.model_config import (
    TENSORFLOW_PLATFORM,
    ModelConfig,
    check_platforms_stay,
    no_transition,
)
from salver.servables.platform import MakeLoader
from salver.servables.servable import Servable
from salver.sources.file_system import FileSystemSource, MonitoredServable, SourceStatistics
from salver.sources.stores import is_remote

logger = logging.getLogger(__name__)

Labels = Mapping[str, Mapping[str, int]]

NO_LABELS: Final[Mapping[str, int]] = MappingProxyType({})

MAX_LOGGED: Final = 20
"""Models of one configuration that have a line of the log for themselves."""

_COMING: Final = frozenset({ManagerState.START, ManagerState.LOADING})


class ModelSource(Protocol):
    """Who finds the versions of the models. The methods may be called from any thread."""

    def start(self) -> None:
        """Begin to look."""

    def stop(self) -> None:
        """Fall silent."""

    def update_config(self, servables: Sequence[MonitoredServable]) -> None:
        """Watch these in place of those before; without a look, and soon."""

    def poll(self) -> None:
        """Look at everything once, however long it takes."""

    def statistics(self) -> SourceStatistics:
        """What the looks came to."""


MakeSource = Callable[[Sequence[MonitoredServable], Target[str]], ModelSource]


@dataclass(frozen=True, slots=True)
class LabelRules:
    """When a label may name a version that is not loaded.

    With ``follow_loads`` always: it keeps its meaning until the version is available, and a label
    that had none means the version at once.
    """

    allow_new_for_unavailable: bool = False
    follow_loads: bool = False


@dataclass(frozen=True, slots=True)
class Watching:
    """How the folders of the models are watched."""

    poll_wait_s: float = 1.0
    independent: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A configuration that was applied: how it is called, and which models it brought."""

    revision: str
    new: tuple[str, ...] = ()
    since: int = 0
    """The moment before it, as the state monitor counts."""


@dataclass(frozen=True, slots=True)
class ModelProgress:
    """How far a model has come that a change brought: one line for whoever waits."""

    name: str
    text: str
    is_ready: bool = False
    is_superseded: bool = False
    failed: ServableState | None = None


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model as somebody who looks in sees it; ``config`` is None once it is to go."""

    name: str
    config: ModelConfig | None
    versions: Sequence[VersionStatus]
    labels: Mapping[str, int]
    awaited_labels: Mapping[str, int]


class RevisionMismatch(Aborted):
    """Somebody else changed the configuration in the meantime."""


@dataclass(frozen=True, slots=True)
class _State:
    """What changes with a configuration, replaced and never edited."""

    count: int = 0
    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    names: Sequence[str] = ()
    servables: Mapping[str, MonitoredServable] = field(default_factory=dict)
    source: ModelSource | None = None


@dataclass(frozen=True, slots=True)
class _Labels:
    """What labels mean, and what they will mean once a version is there."""

    now: Labels
    awaited: Labels


class ServerCore:
    """The models of one server."""

    def __init__(
        self,
        manager: AspiredVersionsManager[Servable],
        monitor: ServableStateMonitor,
        make_loader: MakeLoader | Mapping[str, MakeLoader],
        *,
        watching: Watching | None = None,
        make_source: MakeSource | None = None,
        label_rules: LabelRules | None = None,
        epoch: str | None = None,
    ) -> None:
        """``make_loader`` is for TensorFlow's models, or there is one for each platform.

        ``epoch`` tells the revisions of this server's life from those of another.
        """
        self._manager = manager
        self._monitor = monitor
        self._makers = {TENSORFLOW_PLATFORM: make_loader} if callable(make_loader) else make_loader
        self._adapters: dict[str, Target[str]] = {}
        unrouted = NotFound("the model has just left the configuration")
        self._router: SourceRouter[str] = SourceRouter(ErrorInjectingAdapter(unrouted, manager))
        self._watching = watching or Watching()
        self._make_source = make_source or self._file_system_source
        self._label_rules = label_rules or LabelRules()
        self._epoch = secrets.token_hex(4) if epoch is None else epoch
        self._change_lock = threading.Lock()
        self._asked_platforms: dict[str, str] | None = None
        self._labels_lock = threading.Lock()
        self._labels: _Labels | None = None
        self._state = _State()
        self._looks = Looks(self.look_for_versions)
        monitor.listen(self._follow_load)

    # What requests ask for.

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

    def _labelled(self, name: str, label: str) -> int:
        labels = self._labels
        if labels is None:
            raise Unavailable(f"Model labels does not init yet.{label}")
        version = labels.now.get(name, NO_LABELS).get(label)
        if version is None:
            raise InvalidArgument(f"Unrecognized servable version label: {label}")
        return version

    # The configuration.

    def revision(self) -> str:
        """What the configuration that holds is called; each one has a name of its own."""
        return self._revision(self._state)

    def models(self) -> Mapping[str, ModelConfig]:
        """The configuration that holds, by name and in its order; empty before the first."""
        return self._state.models

    def platforms(self) -> Collection[str]:
        """The platforms a model may ask for; to list them may take a look at what is installed."""
        return self._makers

    def configure(self, configs: Sequence[ModelConfig] | None) -> Change:
        """Serve exactly these models from now on; loads begin, and are not waited for.

        None is a configuration that says nothing: it changes nothing, and may only be the first.

        Raises:
            FailedPrecondition: a label is for a version that is not loaded, and the models stay as
                they are; or None came after a list.
            InvalidArgument: a model would change its platform.
        """
        with self._change_lock:
            return self._configure(configs)

    def edit(self, name: str, config: ModelConfig | None, *, if_revision: str) -> Change:
        """Put one model into the configuration that is called ``if_revision``, or take it out.

        Raises:
            RevisionMismatch: another configuration holds by now.
            NotFound: the model to take out is not there.
            FailedPrecondition, InvalidArgument: as ``configure``.
        """
        with self._change_lock:
            if self.revision() != if_revision:
                raise RevisionMismatch(
                    f"the configuration is {self.revision()} by now, not {if_revision}; "
                    "read it again before changing it"
                )
            models = dict(self._state.models)
            if config is not None:
                models[name] = config
            elif models.pop(name, None) is None:
                raise NotFound(f"no model {name} is configured")
            return self._configure(list(models.values()))

    def _configure(self, configs: Sequence[ModelConfig] | None) -> Change:
        if configs is None:
            if self._asked_platforms is not None:
                raise no_transition()
            logger.info("Taking no action for empty config.")
            return Change(self.revision())
        check_platforms_stay(self._asked_platforms or {}, configs)
        # As in TensorFlow Serving, from here on it is what the next one is compared to.
        self._asked_platforms = {config.name: config.platform for config in configs}
        models = {config.name: config for config in configs}
        is_news = self._state.source is None or models != self._state.models
        if is_news:
            _log_models(configs)
        self._apply_labels(configs)
        if not is_news:
            return Change(self.revision())
        return self._apply_models(models)

    def _adapter(self, platform: str) -> Target[str]:
        """What makes loaders of the paths of a platform's models; made once."""
        adapter = self._adapters.get(platform)
        if adapter is None:
            adapter = SourceAdapter(self._makers[platform], self._manager)
            self._adapters[platform] = adapter
        return adapter

    def _apply_models(self, models: Mapping[str, ModelConfig]) -> Change:
        before = self._state
        since = self._monitor.mark()
        servables = {name: self._servable(before, config) for name, config in models.items()}
        self._router.update_routes(
            {name: self._adapter(config.platform) for name, config in models.items()}
        )
        source = before.source
        if source is None:
            source = self._make_source(list(servables.values()), OnlyChanges(self._router))
            source.start()
        else:
            source.update_config(list(servables.values()))
        self._state = _State(before.count + 1, models, list(models), servables, source)
        removed = [name for name in before.models if name not in models]
        self._monitor.give_up(removed)
        new = tuple(name for name in models if name not in before.models)
        return Change(self.revision(), new, since)

    def _servable(self, before: _State, config: ModelConfig) -> MonitoredServable:
        """What is to be watched; the very object of before where nothing about it changed."""
        servable = MonitoredServable(config.name, config.base_path, config.policy)
        known = before.servables.get(config.name)
        return known if known == servable else servable

    def _file_system_source(
        self, servables: Sequence[MonitoredServable], target: Target[str]
    ) -> ModelSource:
        return FileSystemSource(
            servables,
            target,
            poll_wait_s=self._watching.poll_wait_s,
            independent=self._watching.independent,
        )

    def _revision(self, state: _State) -> str:
        return f"{self._epoch}-{state.count}"

    # Labels.

    def _apply_labels(self, configs: Sequence[ModelConfig]) -> None:
        """Replace all labels; they hold before any model of the same configuration comes or goes.

        Raises:
            FailedPrecondition: one is for a version that is not loaded; nothing has changed.
        """
        with self._labels_lock:
            known = self._labels.now if self._labels is not None else {}
            now: dict[str, Mapping[str, int]] = {}
            awaited: dict[str, Mapping[str, int]] = {}
            for config in configs:
                if config.version_labels:
                    held = self._held_back(config, known.get(config.name, NO_LABELS))
                    now[config.name] = {**config.version_labels, **held}
                    if held:
                        awaited[config.name] = {
                            label: config.version_labels[label] for label in held
                        }
            self._labels = _Labels(now, awaited)

    def _held_back(self, config: ModelConfig, known: Mapping[str, int]) -> dict[str, int]:
        """The labels that keep their meaning for now, with it.

        The rule is for the states of now: loads that the same configuration starts are late.  So
        with TensorFlow Serving's rules, labels in a start-up configuration need
        ``allow_version_labels_for_unavailable_models``.
        """
        rules = self._label_rules
        held: dict[str, int] = {}
        for label, version in config.version_labels.items():
            if self._can_be_had(config.name, version):
                continue
            old = known.get(label)
            if rules.follow_loads:
                if old is not None and self._can_be_had(config.name, old):
                    held[label] = old
            elif not (rules.allow_new_for_unavailable and old in (None, version)):
                raise FailedPrecondition(
                    f"Request to assign label to version {version} of model {config.name}, "
                    "which is not currently available for inference"
                )
        return held

    def _follow_load(self, state: ServableState) -> None:
        """Give the labels that waited for a version to it: before it can push the old one out."""
        can_be_had = state.manager_state is ManagerState.AVAILABLE or (
            state.manager_state is ManagerState.END and self._manager.is_asleep(state.id)
        )
        if not can_be_had:
            return
        with self._labels_lock:  # whoever sets labels holds it while looking at the states
            labels = self._labels
            if labels is not None and state.id.name in labels.awaited:
                self._labels = _moved(labels, state.id)

    def _can_be_had(self, name: str, version: int) -> bool:
        servable_id = ServableId(name, version)
        state = self._monitor.state(servable_id)
        if state is not None and state.manager_state is ManagerState.AVAILABLE:
            return True
        return self._manager.is_asleep(servable_id)

    # Looking, loading and waiting.

    def look_for_versions(self) -> None:
        """Look into the folders of all models now, on top of the polls."""
        source = self._state.source
        if source is not None:
            source.poll()

    def look_soon(self, then: Callable[[], None]) -> None:
        """Look on another thread, and call back from there when that is done.

        Where nothing is ever looked for, that is at once.
        """
        if self._watching.poll_wait_s < 0:
            then()
        else:
            self._looks.soon(then)

    def forget_look(self, then: Callable[[], None]) -> None:
        """Do not call ``then`` any more, should a look asked for with it still be to come."""
        self._looks.forget(then)

    def loading_with(self, pool: Executor) -> AbstractContextManager[None]:
        """Start loads in ``pool`` for the time of the block: the parallel first load."""
        return self._manager.loading_with(pool)

    def when_loaded(self, callback: Callable[[], None]) -> None:
        """Call back, from any thread, when each model has a version that is ready or has ended.

        A model that leaves the configuration is waited for no longer.
        """
        self._monitor.when_available_or_ended(self._state.names, lambda _: callback())

    def when_there(self, change: Change, callback: Callable[[], None]) -> Wait:
        """Call back, from any thread, when each new model of a change has come to something."""
        return self._monitor.when_available_or_ended(
            change.new, lambda _: callback(), since=change.since
        )

    def progress(self, change: Change) -> list[ModelProgress]:
        """How far each new model of a change has come."""
        reached = self._monitor.reached(change.new, since=change.since)
        state = self._state
        complaints = state.source.statistics().complaints if state.source is not None else {}
        return [
            self._progress(name, reached.get(name), complaints.get(name, ())) for name in change.new
        ]

    def not_to_be_found(self, change: Change) -> list[str]:
        """The new models of a change of which a look found nothing to load, and said why.

        Only a server whose models are independent gives up on them: TensorFlow Serving waits.  What
        is remote takes its time.
        """
        state = self._state
        if state.source is None or not self._watching.independent:
            return []
        complaints = state.source.statistics().complaints
        reached = self._monitor.reached(change.new, since=change.since)
        return [
            name
            for name in change.new
            if name in complaints
            and name in state.models
            and not is_remote(state.models[name].base_path)
            and name not in reached
            and not self._is_coming(name)
        ]

    def _is_coming(self, name: str) -> bool:
        """Whether a version is on its way; what is left of a life before is not."""
        states = self._monitor.versions(name).values()
        return any(state.manager_state in _COMING for state in states)

    def _progress(
        self, name: str, reached: ServableState | None, complaints: Sequence[str]
    ) -> ModelProgress:
        config = self._state.models.get(name)
        if config is None:
            text = f"is no longer configured: {self.revision()} leaves it out"
            return ModelProgress(name, text, is_superseded=True)
        if reached is not None and not self._has_failed(reached):
            return ModelProgress(name, f"version {reached.id.version} is available", is_ready=True)
        if reached is not None and _was_cancelled(reached):
            text = f"version {reached.id.version} is not wished for any more: {_cause(reached)}"
            return ModelProgress(name, text, is_superseded=True)
        if reached is not None:
            text = f"version {reached.id.version} failed: {_cause(reached)}"
            return ModelProgress(name, text, failed=reached)
        under_way = [
            f"version {version} is {state.manager_state.name}"
            for version, state in self._monitor.versions(name).items()
            if state.manager_state is not ManagerState.END
        ]
        if under_way or complaints:
            return ModelProgress(name, "; ".join((*under_way, *complaints)))
        return ModelProgress(name, f"nothing found yet in {config.base_path}")

    def check_loaded(self) -> None:
        """Say which models have no version that is ready.

        Raises:
            Unknown: at least one ended with an error; the text lists every one.
        """
        reached = self._monitor.reached(self._state.names).values()
        failed = [state for state in reached if self._has_failed(state)]
        if failed:
            raise did_not_load(failed, "servable")

    def _has_failed(self, state: ServableState) -> bool:
        if state.manager_state is not ManagerState.END:
            return False
        return state.error is not None or not self._manager.is_asleep(state.id)

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

    def views(self) -> list[ModelView]:
        """Every model that is configured, in that order, and those that are still to go."""
        models = self._state.models
        views = [self._view(name, config) for name, config in models.items()]
        others = [self._view(name, None) for name in self._monitor.names() if name not in models]
        gone = ManagerState.END.name
        return views + [view for view in others if any(v.state != gone for v in view.versions)]

    def _view(self, name: str, config: ModelConfig | None) -> ModelView:
        labels = self._labels or _Labels({}, {})
        return ModelView(
            name,
            config,
            [_version_status(state) for state in self._monitor.versions(name).values()],
            labels.now.get(name, NO_LABELS),
            labels.awaited.get(name, NO_LABELS),
        )

    def stop_sources(self) -> None:
        """Look for no further versions."""
        source = self._state.source
        if source is not None:
            source.stop()


class OnlyChanges:
    """A target that hands on a wish only if it is another than the last one for its name.

    Saying the same again means nothing, and costs something where there are thousands of models.
    A source calls it, one wish at a time.
    """

    def __init__(self, target: Target[str]) -> None:
        self._target = target
        self._told: dict[str, Sequence[ServableData[str]]] = {}

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[str]]) -> None:
        """Take the whole list of versions wished for of ``name``."""
        wish = list(versions)
        if self._told.get(name) == wish:
            return
        self._target.set_aspired_versions(name, wish)
        if wish:
            self._told[name] = wish
        else:
            self._told.pop(name, None)


class Looks:
    """Looks on a thread of its own, made when there is something to do; one at a time.

    However often it is asked during a look, one more look answers all, and calls each ``then``
    once.  So what waits is as many as they are.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._waiting: dict[Callable[[], None], None] = {}
        self._is_running = False

    def soon(self, then: Callable[[], None]) -> None:
        """Look once more, beginning from now, and call ``then`` after it."""
        with self._lock:
            self._waiting[then] = None
            if self._is_running:
                return
            self._is_running = True
        threading.Thread(target=self._run, name="salver-look", daemon=True).start()

    def forget(self, then: Callable[[], None]) -> None:
        """Call ``then`` no more; a look may last for as long as a mount is dead."""
        with self._lock:
            self._waiting.pop(then, None)

    def _run(self) -> None:
        while self._has_more():
            waiting = self._taken()
            for step in (self._look, *waiting):
                _try_step(step)

    def _has_more(self) -> bool:
        with self._lock:
            self._is_running = bool(self._waiting)
            return self._is_running

    def _taken(self) -> list[Callable[[], None]]:
        with self._lock:
            waiting, self._waiting = list(self._waiting), {}
            return waiting


def _try_step(step: Callable[[], None]) -> None:
    try:
        step()
    except Exception:
        logger.exception("A look for versions failed; the next one follows")


def _log_models(configs: Sequence[ModelConfig]) -> None:
    logger.info("Adding/updating models.")
    for config in configs[:MAX_LOGGED]:
        logger.info(" (Re-)adding model: %s", config.name)
    if len(configs) > MAX_LOGGED:
        logger.info(" and %d more models", len(configs) - MAX_LOGGED)


def did_not_load(failed: Sequence[ServableState], noun: str) -> Unknown:
    """The error for ``failed``, in TensorFlow Serving's words."""
    # The braces do not match; scripts know the text as it is.
    causes = "".join(f"{state.id} due to error: {_cause(state)}}}, " for state in failed)
    return Unknown(f"{len(failed)} {noun}(s) did not become available: {{{causes}}}")


def _moved(labels: _Labels, servable_id: ServableId) -> _Labels:
    """The labels with those that wait for a version given to it."""
    name, version = servable_id.name, servable_id.version
    waiting = labels.awaited.get(name, NO_LABELS)
    due = {label: wanted for label, wanted in waiting.items() if wanted == version}
    left = {label: wanted for label, wanted in waiting.items() if wanted != version}
    awaited = {other: wanted for other, wanted in labels.awaited.items() if other != name}
    if left:
        awaited[name] = left
    now = {**labels.now, name: {**labels.now.get(name, NO_LABELS), **due}}
    return replace(labels, now=now, awaited=awaited)


def _version_status(state: ServableState) -> VersionStatus:
    error = state.error
    return VersionStatus(
        version=state.id.version,
        state=state.manager_state.name,
        error_code=Code.OK if error is None else error.code,
        error_message="" if error is None else error.message,
    )


def _was_cancelled(state: ServableState) -> bool:
    return state.error is not None and state.error.code is Code.CANCELLED


def _cause(state: ServableState) -> str:
    return "OK" if state.error is None else str(state.error)
