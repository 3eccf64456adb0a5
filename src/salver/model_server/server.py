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
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from typing import Final

import uvloop

from salver.core.event_bus import EventBus
from salver.core.manager import AspiredVersionsManager
from salver.core.resources import ResourceTracker
from salver.core.retries import Backoff, LoadRetries
from salver.core.servable_state import ManagerState, ServableState
from salver.core.state_monitor import ServableStateMonitor
from salver.errors import ServingError
from salver.metrics import Metrics
from salver.model_server.doors import Doors, open_doors
from salver.model_server.grpc_services import GrpcServices
from salver.model_server.health import Health
from salver.model_server.measuring import RuntimeMetrics, measure_lag
from salver.model_server.model_config import ModelConfig, read_model_configs
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
from salver.model_server.readiness import Readiness
from salver.model_server.reflection import Reflection
from salver.model_server.rest_api import RestApi
from salver.model_server.rest_health import HealthEndpoints
from salver.model_server.server_core import LabelRules, ServerCore, Watching
from salver.servables.servable import Servable
from salver.servables.tensorflow import SessionConfig, TensorFlowRuntime
from salver.wire.calls import Methods
from salver.wire.exchanges import HttpHandler

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
    configs = read_model_configs(options)
    check_how_to_run(options)
    if not options.model_config_file:
        logger.info(
            "Building single TensorFlow model file config:  model_name: %s model_base_path: %s",
            options.model_name,
            options.model_base_path,
        )
    logger.debug("Starting as %s", face.value)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _take_all_file_descriptors()
    metrics = Metrics()
    with (
        _threads(max(options.rest_api_num_threads, 1), "salver-worker") as workers,
        _running_core(options, metrics) as (core, bus),
    ):
        uvloop.run(_serve(options, core, bus, configs, metrics, workers))
    return 0


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
    configs: Sequence[ModelConfig],
    metrics: Metrics,
    workers: Executor,
) -> None:
    """The life of a server: doors and models in the order of its face; a wait; the drain."""
    stop = _stop_on_signal(options.drain_grace_seconds)
    lag = asyncio.ensure_future(measure_lag(metrics))
    readiness = Readiness(core, asyncio.get_running_loop())
    bus.subscribe(lambda _state: readiness.models_changed())
    threads = max(options.rest_api_num_threads, 1)
    placement = Placement(workers, threads_per_lane=max(threads // 2, 1))
    methods = _methods(options, core, metrics, placement, readiness)
    rest = _rest_handler(options, core, metrics, placement, readiness)
    doors: Doors | None = None
    try:
        if options.open_ports_before_load:
            doors = await open_doors(options, methods, rest)
        await _load(options, core, configs, stop)
        readiness.started()
        if doors is None and not stop.is_set():
            doors = await open_doors(options, methods, rest)
        logger.info("NET_LOG: Entering the event loop ...")
        await stop.wait()
    finally:
        lag.cancel()
        readiness.drain()
        if doors is not None:
            logger.info("Draining: finishing what is in flight")
            await doors.drain(options.drain_grace_seconds)


async def _load(
    options: Options, core: ServerCore, configs: Sequence[ModelConfig], stop: asyncio.Event
) -> None:
    """Load every model, many at a time, and wait until each is ready or has failed.

    Raises:
        ServingError: a configuration cannot be applied; or a model failed, and the face gives up.
    """
    threads = INITIAL_LOAD_THREADS_PER_CPU * usable_cpus()
    with _threads(threads, "salver-initial-load") as pool, core.loading_with(pool):
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
) -> Methods:
    """Every gRPC method that is offered."""
    services = GrpcServices(
        core,
        metrics,
        placement,
        as_content=options.enable_serialization_as_tensor_content,
        check_method_name=options.enable_signature_method_name_check,
    )
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
    )
    if options.health_endpoints:
        return HealthEndpoints(readiness, rest.handle).handle
    return rest.handle


@contextmanager
def _running_core(
    options: Options, metrics: Metrics
) -> Iterator[tuple[ServerCore, EventBus[ServableState]]]:
    """The models' side of the server, running; at the end everything is unloaded."""
    bus: EventBus[ServableState] = EventBus()
    monitor = ServableStateMonitor(bus)
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
        bus.subscribe(partial(_count_ready, metrics, manager))
        core = ServerCore(
            manager,
            monitor,
            _tensorflow(options, metrics).loader,
            watching=Watching(
                poll_wait_s=options.file_system_poll_wait_seconds,
                independent=options.independent_models,
            ),
            label_rules=LabelRules(options.allow_version_labels_for_unavailable_models),
        )
        manager.start()
        try:
            yield core, bus
        finally:
            core.stop_sources()
            if not manager.stop(UNLOAD_GRACE_S):
                logger.warning("Some models were still in use after %g s", UNLOAD_GRACE_S)


def _tensorflow(options: Options, metrics: Metrics) -> TensorFlowRuntime:
    intra = options.tensorflow_intra_op_parallelism
    inter = options.tensorflow_inter_op_parallelism
    if intra <= 0 and inter <= 0:
        intra = inter = options.tensorflow_session_parallelism
    return TensorFlowRuntime(
        tags=split_list(options.saved_model_tags) or ["serve"],
        config=SessionConfig(intra, inter),
        custom_op_libraries=split_list(options.custom_op_library),
        observer=RuntimeMetrics(metrics),
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
    metrics.models_ready.set(len({ready.name for ready in manager.available()}))
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


def _pool(count: int, name: str) -> AbstractContextManager[Executor | None]:
    return _threads(count, name) if count > 0 else nullcontext(None)
