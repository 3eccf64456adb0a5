"""The server's start and its end, in order; everything it is made of is made here.

Made once and passed down: metrics, manager, monitor, core, doors.  What opens closes in reverse.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from salver.core.event_bus import EventBus
from salver.core.loader import Loader
from salver.core.manager import AspiredVersionsManager
from salver.core.resources import ResourceTracker
from salver.core.retries import Backoff, LoadRetries
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState
from salver.core.source import Target
from salver.errors import ServingError
from salver.metrics import Metrics
from salver.model_server.askable import Askable
from salver.model_server.batch_check import BatchCheck
from salver.model_server.batch_queues import BatchQueues
from salver.model_server.batching import BatchingLoaders
from salver.model_server.changes import Changes, check_changes
from salver.model_server.doors import Doors, open_doors
from salver.model_server.golden import GoldenRequests
from salver.model_server.grpc_services import GrpcServices
from salver.model_server.health import Health
from salver.model_server.isolation import IsolatedStateMonitor, Isolation
from salver.model_server.measuring import RuntimeMetrics, measure_lag
from salver.model_server.model_config import (
    TENSORFLOW_PLATFORM,
    ModelConfig,
    read_model_configs,
)
from salver.model_server.monitoring import DEFAULT_PATH, page, page_path
from salver.model_server.on_demand import OnDemand
from salver.model_server.options import (
    Face,
    Options,
    check_how_to_run,
    check_what_to_serve,
    split_list,
    usable_cpus,
)
from salver.model_server.placement import Placement
from salver.model_server.platform_config import Platform, platform_of_flags, read_platforms
from salver.model_server.platforms import PlatformNames, Platforms
from salver.model_server.readiness import Readiness
from salver.model_server.reflection import Reflection
from salver.model_server.rehearsal import Rehearsal, RehearsingLoader
from salver.model_server.reloading import Reloading
from salver.model_server.replay import Replayer
from salver.model_server.rest_api import RestApi
from salver.model_server.rest_health import HealthEndpoints
from salver.model_server.rest_models import ModelList, no_verdicts
from salver.model_server.server_core import LabelRules, ServerCore, Watching
from salver.model_server.traffic_sample import TrafficSample
from salver.model_server.warmup import StoredWarmup, ZerosWarmup
from salver.servables.guarded import GuardedPlatform
from salver.servables.memory import keep_freed_memory
from salver.servables.platform import BUILT_IN, MakeLoader, PlatformContext, version_bytes
from salver.servables.servable import Servable
from salver.sources.combined import CombinedSource
from salver.sources.file_system import FileSystemSource, MonitoredServable
from salver.sources.model_cache import ModelCache, default_folder
from salver.sources.remote import RemoteSource
from salver.wire.calls import Methods
from salver.wire.http1_messages import HttpHandler

logger = logging.getLogger(__name__)

INITIAL_LOAD_THREADS_PER_CPU: Final = 4

SWITCH_INTERVAL_S: Final = 1e-3
"""How long a busy worker thread may keep the event loop waiting for the interpreter.

Python's own five milliseconds are felt in every request beside one large JSON body.
"""

UNLOAD_GRACE_S: Final = 5.0
"""How long the models may take to unload at the end; the process's end frees them anyway."""


def serve(options: Options, *, face: Face) -> int:
    """Serve until a signal says stop; the exit code.

    Raises:
        ServingError: the start failed, and nothing is left running.
    """
    check_what_to_serve(options)
    platforms = read_platforms(options)
    configs = read_model_configs(options, PlatformNames(platforms))
    check_how_to_run(options)
    check_changes(options)
    if not options.model_config_file:
        logger.info(
            "Building single TensorFlow model file config:  model_name: %s model_base_path: %s",
            options.model_name,
            options.model_base_path,
        )
    logger.debug("Starting as %s", face.value)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed_memory()
    _take_all_file_descriptors()
    metrics = Metrics()
    isolation = _isolation(options, metrics)
    check = BatchCheck() if options.batch_without_waiting else None
    places = _places(options, platforms.values())
    batched = BatchingLoaders(metrics)
    with (
        _threads(places.threads, "salver-worker") as workers,
        _running_core(options, metrics, isolation, platforms, check, batched) as (core, bus),
        batched,
    ):
        uvloop.run(_serve(options, core, bus, configs, metrics, workers, isolation, check, places))
    return 0


class _Places(NamedTuple):
    """How many calls may be on worker threads, and how many of one model."""

    threads: int
    threads_per_lane: int


def _places(options: Options, platforms: Iterable[Platform]) -> _Places:
    """A call that waits for its batch holds a thread, and there have to be as many as may wait.

    Threads are started when they are needed; those for other calls come on top.
    """
    threads = max(options.rest_api_num_threads, 1)
    waiting = [each.batching.waiting_calls for each in platforms if each.batching is not None]
    lane = max([threads // 2, 1, *waiting])
    return _Places(threads + max(waiting, default=0), lane)


def _take_all_file_descriptors() -> None:
    """Raise the soft limit to the hard one: the soft one is low for the sake of old programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        logger.debug("The limit of file descriptors stays at %d: %s", soft, error)
    else:
        logger.debug("The limit of file descriptors was %d and is %d", soft, hard)


async def _serve(
    options: Options,
    core: ServerCore,
    bus: EventBus[ServableState],
    configs: Sequence[ModelConfig] | None,
    metrics: Metrics,
    workers: Executor,
    isolation: Isolation,
    check: BatchCheck | None,
    places: _Places,
) -> None:
    """The life of a server: doors and models in the order of its face; a wait; the drain."""
    stop = _stop_on_signal(options.drain_grace_seconds)
    lag = asyncio.ensure_future(measure_lag(metrics))
    readiness = Readiness(core, asyncio.get_running_loop())
    bus.subscribe(lambda _state: readiness.models_changed())
    isolation.when_changed(readiness.models_changed)
    placement = Placement(workers, threads_per_lane=places.threads_per_lane)
    endings: EventBus[ServableId] = EventBus()
    bus.subscribe(partial(_tell_of_end, asyncio.get_running_loop(), endings))
    queues = None
    if check is not None:
        queues = BatchQueues(check, placement, asyncio.get_running_loop(), metrics)
        endings.subscribe(queues.forget)
    methods = _methods(options, core, metrics, placement, readiness, queues, endings)
    rest = _rest_handler(options, core, metrics, placement, readiness, queues, check, endings)
    changes = Changes(options, core)
    doors: Doors | None = None
    try:
        if options.open_ports_before_load:
            doors = await open_doors(options, methods, rest)
            changes.start()
        await _load(options, core, configs, stop)
        readiness.started()
        if doors is None and not stop.is_set():
            doors = await open_doors(options, methods, rest)
            changes.start()
        logger.info("NET_LOG: Entering the event loop ...")
        await stop.wait()
    finally:
        lag.cancel()
        readiness.drain()
        await changes.stop()
        if doors is not None:
            logger.info("Draining: finishing what is in flight")
            await doors.drain(options.drain_grace_seconds)


async def _load(
    options: Options,
    core: ServerCore,
    configs: Sequence[ModelConfig] | None,
    stop: asyncio.Event,
) -> None:
    """Load every model, many at a time, and wait until each is ready or has failed.

    Raises:
        ServingError: a configuration cannot be applied; or a model failed, and the face gives up.
    """
    threads = INITIAL_LOAD_THREADS_PER_CPU * usable_cpus()
    with _initial_pool(threads) as pool, core.loading_with(pool):
        core.configure(configs)
        await _first(stop.wait(), _loaded(core))
    logger.info("Finished adding/updating models")
    try:
        core.check_loaded()
    except ServingError as error:
        if not options.start_despite_failed_models:
            raise
        logger.error("Serving what could be loaded: %s", error)  # noqa: TRY400 - no trace needed


async def _loaded(core: ServerCore) -> None:
    loop = asyncio.get_running_loop()
    loaded = asyncio.Event()
    core.when_loaded(lambda: _call_soon(loop, loaded.set))
    await loaded.wait()


def _tell_of_end(
    loop: asyncio.AbstractEventLoop, endings: EventBus[ServableId], state: ServableState
) -> None:
    """Have those on the loop who hold on to a version hear that it has ended."""
    if state.manager_state is ManagerState.END:
        _call_soon(loop, partial(endings.publish, state.id))


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Call back on the loop, unless it has ended: then nobody waits any more."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


async def _first(*waits: Awaitable[object]) -> None:
    """Wait until one of ``waits`` is over and drop the others; an error is the caller's."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()


def _stop_on_signal(drain_grace_s: float) -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process at once.

    Without a grace period the first one does, as TensorFlow Serving's would.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def first_signal() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in signals:
        if drain_grace_s > 0:
            loop.add_signal_handler(number, first_signal)
        else:
            signal.signal(number, signal.SIG_DFL)
    return stop


def _methods(
    options: Options,
    core: ServerCore,
    metrics: Metrics,
    placement: Placement,
    readiness: Readiness,
    queues: BatchQueues | None,
    endings: EventBus[ServableId],
) -> Methods:
    """Every gRPC method that is offered."""
    services = GrpcServices(
        core,
        metrics,
        placement,
        as_content=options.enable_serialization_as_tensor_content,
        check_method_name=options.enable_signature_method_name_check,
        reload=Reloading(core, metrics, wait_s=options.reload_wait_seconds).reload,
        queues=queues,
    )
    endings.subscribe(services.forget)
    methods = dict(services.methods())
    if options.evict_models:
        methods = dict(OnDemand(core.demand).methods(methods))
    if options.enable_grpc_healthcheck_service:
        methods |= Health(readiness).methods()
    return methods | dict(Reflection(methods).methods())


def _rest_handler(
    options: Options,
    core: ServerCore,
    metrics: Metrics,
    placement: Placement,
    readiness: Readiness,
    queues: BatchQueues | None,
    check: BatchCheck | None,
    endings: EventBus[ServableId],
) -> HttpHandler | None:
    if not options.rest_api_port:
        return None
    path = page_path(options.monitoring_config_file)
    timeout_ms = options.rest_api_timeout_in_ms
    rest = RestApi(
        core,
        metrics,
        placement,
        timeout_s=timeout_ms / 1000 if timeout_ms > 0 else None,
        allows_cors=options.rest_api_enable_cors_support,
        check_method_name=options.enable_signature_method_name_check,
        monitoring=None if path is None else partial(page, metrics),
        monitoring_path=path or DEFAULT_PATH,
        on_demand=OnDemand(core.demand) if options.evict_models else None,
        queues=queues,
    )
    endings.subscribe(rest.forget)
    handler: HttpHandler = rest.answer
    if options.list_models:
        handler = ModelList(core, handler, no_verdicts if check is None else check.of).answer
    if options.health_endpoints:
        handler = HealthEndpoints(readiness, handler).answer
    return handler


@contextmanager
def _running_core(
    options: Options,
    metrics: Metrics,
    isolation: Isolation,
    platforms: Mapping[str, Platform],
    check: BatchCheck | None,
    batched: BatchingLoaders,
) -> Iterator[tuple[ServerCore, EventBus[ServableState]]]:
    """The models' side of the server, running; at the end everything is unloaded."""
    bus: EventBus[ServableState] = EventBus()
    monitor = IsolatedStateMonitor(bus, isolation.trouble)
    with ExitStack() as stack:
        load_pool = stack.enter_context(_pool(options.num_load_threads, "salver-load"))
        unload_pool = stack.enter_context(_pool(options.num_unload_threads, "salver-unload"))
        manager: AspiredVersionsManager[Servable] = AspiredVersionsManager(
            bus,
            resources=ResourceTracker(options.memory_budget_bytes or None),
            retries=LoadRetries(
                max_retries=options.max_num_load_retries,
                interval_s=max(options.load_retry_interval_micros, 0) / 1e6,
                after_end=Backoff() if options.retry_failed_loads else None,
            ),
            evicts=options.evict_models,
            load_pool=load_pool,
            unload_pool=unload_pool,
        )
        bus.subscribe(_freeze_when_ready)
        if check is not None:
            bus.subscribe(check.forget)
        bus.subscribe(partial(_count_ready, metrics, manager))
        core = ServerCore(
            manager,
            monitor,
            Platforms(
                {
                    name: _loaders(
                        TENSORFLOW_PLATFORM, options, metrics, isolation, platform, check, batched
                    )
                    for name, platform in platforms.items()
                },
                lambda name: _loaders(
                    name, options, metrics, isolation, platform_of_flags(options), check, batched
                ),
            ),
            watching=Watching(
                poll_wait_s=options.file_system_poll_wait_seconds,
                independent=options.independent_models,
            ),
            make_source=partial(_source, options),
            label_rules=LabelRules(
                allow_new_for_unavailable=options.allow_version_labels_for_unavailable_models,
                follow_loads=options.labels_follow_loads,
            ),
        )
        manager.start()
        try:
            yield core, bus
        finally:
            core.stop_sources()
            if not manager.stop(UNLOAD_GRACE_S):
                logger.warning("Some models were still in use after %g s", UNLOAD_GRACE_S)


def _source(
    options: Options, servables: Sequence[MonitoredServable], target: Target[str]
) -> CombinedSource:
    """What finds the versions of the models, on this machine and in remote stores."""
    poll_wait_s = options.file_system_poll_wait_seconds
    folder = options.model_cache_dir
    cache = ModelCache(
        Path(folder) if folder else default_folder() / "models",
        max_bytes=options.model_cache_max_bytes,
    )
    source = CombinedSource(
        target,
        make_local=lambda target: FileSystemSource(
            [], target, poll_wait_s=poll_wait_s, independent=options.independent_models
        ),
        make_remote=lambda target: RemoteSource(
            target,
            cache=cache,
            poll_wait_s=max(poll_wait_s, options.remote_poll_wait_seconds)
            if poll_wait_s > 0
            else poll_wait_s,
        ),
    )
    source.update_config(servables)
    return source


def _loaders(
    name: str,
    options: Options,
    metrics: Metrics,
    isolation: Isolation,
    platform: Platform,
    check: BatchCheck | None,
    batched: BatchingLoaders,
) -> MakeLoader:
    """What makes the loader of a version: the platform's, inside of one that rehearses it.

    A rehearsal waits for nobody, so batching goes around it; what is sampled are single calls.
    """
    if platform.refusal is not None:
        return partial(_refuse, platform.refusal)
    options = platform.options(options)
    sample = (
        TrafficSample(options.warmup_from_traffic, metrics) if options.warmup_from_traffic else None
    )
    batching = platform.batching
    rehearsals = _rehearsals(options, metrics, sample, check if batching is None else None)
    context = PlatformContext(
        name,
        tags=platform.tags,
        session_config=platform.session_config,
        custom_op_libraries=tuple(split_list(options.custom_op_library)),
        model_devices=tuple(split_list(options.model_devices)),
        explains=options.explain_load_errors,
        session_bundles=options.load_session_bundles,
        prefer_tflite_model=options.prefer_tflite_model,
        read_tflite_signatures=options.read_tflite_signatures,
        num_tflite_pools=options.num_tflite_pools,
        num_tflite_interpreters_per_pool=options.num_tflite_interpreters_per_pool,
        observer=RuntimeMetrics(metrics),
    )
    load = isolation.around(
        GuardedPlatform(context, RuntimeMetrics(metrics)).make_loader,
        context,
        None if name in BUILT_IN else version_bytes,
    )

    def loader(servable_id: ServableId, path: str) -> Loader[Servable]:
        rehearsing = RehearsingLoader(
            load(servable_id, path),
            servable_id,
            Path(path),
            rehearsals,
            timeout_s=options.warmup_timeout_seconds,
        )
        outer = batched.around(rehearsing, Path(path), batching)
        return outer if sample is None else sample.loader(servable_id.name, outer)

    return loader


def _rehearsals(
    options: Options, metrics: Metrics, sample: TrafficSample | None, check: BatchCheck | None
) -> list[Rehearsal]:
    """What a version goes through before it serves, in order."""
    replayer = Replayer(metrics, check_method_name=options.enable_signature_method_name_check)
    rehearsals: list[Rehearsal] = [Askable(required=options.require_signatures)]
    if options.check_golden_requests:
        rehearsals.append(GoldenRequests(replayer, metrics))
    if options.enable_model_warmup:
        iterations = options.num_request_iterations_for_warmup
        rehearsals.append(StoredWarmup(replayer, metrics, iterations=iterations))
    if check is not None:
        rehearsals.append(check)
    if sample is not None:
        rehearsals.append(sample)
    if options.warmup_with_zeros:
        rehearsals.append(ZerosWarmup(metrics))
    return rehearsals


def _refuse(error: ServingError, _id: ServableId, _path: str) -> Loader[Servable]:
    """Stands for the loader of a platform that asks for what is not there."""
    raise error


def _isolation(options: Options, metrics: Metrics) -> Isolation:
    return Isolation(
        split_list(options.isolated_models),
        metrics=metrics,
        memory_limit_bytes=options.isolated_model_memory_bytes,
        load_timeout_s=options.isolated_load_timeout_seconds,
    )


def _freeze_when_ready(state: ServableState) -> None:
    """Take what a load left behind out of the garbage collector's sight: it stays anyway.

    A full collection would walk it, and every request would wait.
    """
    if state.manager_state is ManagerState.AVAILABLE:
        gc.collect()
        gc.freeze()


def _count_ready(
    metrics: Metrics, manager: AspiredVersionsManager[Servable], state: ServableState
) -> None:
    metrics.models_ready.set(manager.serving_map.count_names())
    if state.manager_state is ManagerState.END and state.error is not None:
        metrics.load_failures.increment(state.id.name)


@contextmanager
def _threads(count: int, name: str) -> Iterator[Executor]:
    """A pool whose end waits for nobody: a load that hangs must not hang the process."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _initial_pool(count: int) -> Iterator[Executor]:
    """The pool of the first loads.  Those that wait in it at the end of the block go on there:

    the start is over when each model has a version, and others may still be to come.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix="salver-initial-load")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False)


def _pool(count: int, name: str) -> AbstractContextManager[Executor | None]:
    return _threads(count, name) if count > 0 else nullcontext(None)
