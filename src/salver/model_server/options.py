"""Every option of the server: one row each, and no second list anywhere.

A row gives the name, the type, the default, one sentence and where it belongs.
The command line, its usage and help texts, ``docs/options.md`` and the server read these rows.
The first rows are TensorFlow Serving's flags in its order; Salver's own follow.

An option may have two defaults: ``tensorflow_model_server`` keeps TensorFlow Serving's, and
``salver serve`` takes the kinder one.
Options are made once, at start-up, and do not change; whoever needs one is handed its value.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from salver.errors import InvalidArgument, Unimplemented
from salver.servables.devices import model_devices

Value: TypeAlias = bool | int | float | str

MAX_PORT: Final = (1 << 16) - 1

MAX_SAMPLE: Final = 1000
"""Requests of a kind that may be kept; more would make a load long and a version no warmer."""


class Face(Enum):
    """Which of the two commands speaks; the value is what a person types."""

    TENSORFLOW_MODEL_SERVER = "tensorflow_model_server"
    SALVER = "salver serve"


class Kind(Enum):
    """The type of an option, in TensorFlow Serving's words."""

    INT32 = "int32"
    INT64 = "int64"
    BOOL = "bool"
    STRING = "string"
    FLOAT = "float"


class Group(Enum):
    """What an option is about; the value is the heading it stands under."""

    PORTS = "Ports and clients"
    MODELS = "Models"
    LOADING = "Loading"
    TENSORFLOW = "TensorFlow"
    BATCHING = "Batching"
    SECURITY = "Security"
    WATCHING = "Watching"
    HARDWARE = "Other runtimes and hardware"


@dataclass(frozen=True, slots=True)
class PerCpu:
    """A default that grows with the machine."""

    times: int

    def __str__(self) -> str:
        return f"{self.times} per CPU"

    def here(self) -> int:
        """The number on this machine, counting the CPUs this process may use."""
        return self.times * usable_cpus()


Default: TypeAlias = Value | PerCpu


@dataclass(frozen=True, slots=True)
class Row:
    """One option, as the table has it."""

    name: str
    kind: Kind
    default: Default
    salver_default: Default
    sentence: str
    group: Group
    later: bool  # accepted, and without effect until its part is built
    own: bool  # Salver's, unknown to TensorFlow Serving

    def default_of(self, face: Face) -> Default:
        """The default as the table writes it."""
        return self.salver_default if face is Face.SALVER else self.default

    def default_here(self, face: Face) -> Value:
        """The default on this machine."""
        default = self.default_of(face)
        return default.here() if isinstance(default, PerCpu) else default


def usable_cpus() -> int:
    """The CPUs this process may run on, which a container may have narrowed."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def option(
    default: Default,
    sentence: str,
    *,
    group: Group,
    kind: Kind | None = None,
    salver: Default | None = None,
    later: bool = False,
    own: bool = False,
) -> Any:  # what dataclasses.field returns: it stands where the field's value will
    """A row of the table, to be written as the default of a field of ``Options``."""
    row = Row(
        name="",  # the field's, filled in when the table is read
        kind=kind or _kind_of(default),
        default=default,
        salver_default=default if salver is None else salver,
        sentence=sentence,
        group=group,
        later=later,
        own=own,
    )
    if isinstance(default, PerCpu):
        return field(default_factory=default.here, metadata={"row": row})
    return field(default=default, metadata={"row": row})


def _kind_of(default: Default) -> Kind:
    if isinstance(default, bool):  # before int, which a bool is as well
        return Kind.BOOL
    if isinstance(default, (int, PerCpu)):
        return Kind.INT32
    return Kind.STRING if isinstance(default, str) else Kind.FLOAT


@dataclass(frozen=True, slots=True)
class Options:
    """How one server is to run. ``Options()`` is what ``tensorflow_model_server`` starts with."""

    port: int = option(
        8500,
        "TCP port for gRPC; 0 opens none, and then grpc_socket_path has to be set.",
        group=Group.PORTS,
    )
    grpc_socket_path: str = option(
        "",
        "Path of a UNIX socket that takes gRPC calls too.",
        group=Group.PORTS,
    )
    rest_api_port: int = option(
        0,
        "TCP port for the REST API; 0 opens none.",
        group=Group.PORTS,
        salver=8501,
    )
    rest_api_num_threads: int = option(
        PerCpu(4),
        "Worker threads for the calls that are too slow for the event loop.",
        group=Group.PORTS,
    )
    rest_api_timeout_in_ms: int = option(
        30000,
        "Time in milliseconds a REST request may spend in the model; 0 or less sets no limit.",
        group=Group.PORTS,
    )
    rest_api_enable_cors_support: bool = option(
        False,
        "Add CORS headers to REST answers, so that web pages of other origins may call.",
        group=Group.PORTS,
    )
    enable_batching: bool = option(
        False,
        "Run requests to a model as one batch, as batching_parameters_file says; requests wait for "
        "each other if it says so, and batch_without_waiting has no effect then.",
        group=Group.BATCHING,
    )
    batching_parameters_file: str = option(
        "",
        "File with a BatchingParameters message in protobuf text format, for enable_batching.",
        group=Group.BATCHING,
    )
    enable_per_model_batching_parameters: bool = option(
        False,
        "With enable_batching, take the parameters of a version from batching_params.pbtxt in its "
        "folder, and do not batch a version without that file.",
        group=Group.BATCHING,
    )
    allow_version_labels_for_unavailable_models: bool = option(
        False,
        "Accept a new label for a version that is not loaded yet.",
        group=Group.MODELS,
    )
    model_config_file: str = option(
        "",
        "File with a ModelServerConfig message in protobuf text format; it names all models and "
        "overrides model_name and model_base_path.",
        group=Group.MODELS,
    )
    model_config_file_poll_wait_seconds: int = option(
        0,
        "Seconds between two readings of model_config_file; 0 reads it once.",
        group=Group.MODELS,
        salver=1,
    )
    model_name: str = option(
        "default",
        "Name of the one model, when there is no model_config_file.",
        group=Group.MODELS,
    )
    model_base_path: str = option(
        "",
        "Folder whose numbered folders are the versions of the one model; required when there is "
        "no model_config_file.",
        group=Group.MODELS,
    )
    num_load_threads: int = option(
        0,
        "Threads that load versions; 0 loads one at a time on the manager's own thread.",
        group=Group.LOADING,
        salver=PerCpu(1),
    )
    num_unload_threads: int = option(
        0,
        "Threads that unload versions; 0 unloads one at a time on the manager's own thread.",
        group=Group.LOADING,
        salver=PerCpu(1),
    )
    max_num_load_retries: int = option(
        5,
        "Further attempts after a load failed.",
        group=Group.LOADING,
        salver=0,
    )
    load_retry_interval_micros: int = option(
        60_000_000,
        "Microseconds between two attempts to load; a negative value does not wait.",
        group=Group.LOADING,
        kind=Kind.INT64,
    )
    file_system_poll_wait_seconds: int = option(
        1,
        "Seconds between two looks for new versions; 0 looks once, a negative value never.",
        group=Group.LOADING,
    )
    flush_filesystem_caches: bool = option(
        True,
        "Empty file system caches after a load; local file systems have none to empty.",
        group=Group.LOADING,
    )
    tensorflow_session_parallelism: int = option(
        0,
        "Threads for both kinds of TensorFlow parallelism; 0 lets TensorFlow choose.",
        group=Group.TENSORFLOW,
        kind=Kind.INT64,
    )
    tensorflow_intra_op_parallelism: int = option(
        0,
        "Threads that one TensorFlow operation may use; 0 lets TensorFlow choose.",
        group=Group.TENSORFLOW,
        kind=Kind.INT64,
    )
    tensorflow_inter_op_parallelism: int = option(
        0,
        "TensorFlow operations that may run side by side; 0 lets TensorFlow choose.",
        group=Group.TENSORFLOW,
        kind=Kind.INT64,
    )
    tensorflow_session_config_file: str = option(
        "",
        "File with a tensorflow.ConfigProto message in protobuf text format.",
        group=Group.TENSORFLOW,
    )
    use_alts_credentials: bool = option(
        False,
        "Protect gRPC with Google's ALTS.",
        group=Group.SECURITY,
        later=True,
    )
    ssl_config_file: str = option(
        "",
        "File with an SSLConfig message in protobuf text format; it turns on TLS for gRPC, and is "
        "read again when it changes.",
        group=Group.SECURITY,
    )
    platform_config_file: str = option(
        "",
        "File with a PlatformConfigMap message in protobuf text format.",
        group=Group.TENSORFLOW,
    )
    per_process_gpu_memory_fraction: float = option(
        0.0,
        "Share of the GPU memory this process may take; 0 leaves it to TensorFlow.",
        group=Group.HARDWARE,
    )
    saved_model_tags: str = option(
        "serve",
        "Tags, separated by commas, of the graph to take out of a SavedModel.",
        group=Group.TENSORFLOW,
    )
    grpc_channel_arguments: str = option(
        "",
        "Settings for the gRPC server as key=value, separated by commas, by gRPC's names.",
        group=Group.PORTS,
    )
    grpc_max_threads: int = option(
        PerCpu(4),
        "Upper bound of gRPC threads; Salver's gRPC runs on its event loop and needs none.",
        group=Group.PORTS,
    )
    enable_model_warmup: bool = option(
        True,
        "Replay the requests stored with a version before it serves.",
        group=Group.LOADING,
    )
    num_request_iterations_for_warmup: int = option(
        0,
        "How often each stored request is replayed; 0 means once.",
        group=Group.LOADING,
    )
    version: bool = option(
        False,
        "Print the versions and leave.",
        group=Group.WATCHING,
    )
    monitoring_config_file: str = option(
        "",
        "File with a MonitoringConfig message in protobuf text format; it turns on the "
        "Prometheus page of the REST port.",
        group=Group.WATCHING,
    )
    remove_unused_fields_from_bundle_metagraph: bool = option(
        True,
        "Keep no more of a loaded graph than its signatures; Salver always does.",
        group=Group.TENSORFLOW,
    )
    prefer_tflite_model: bool = option(
        False,
        "Serve model.tflite where a version has one, through LiteRT (the extra litert).",
        group=Group.TENSORFLOW,
    )
    num_tflite_pools: int = option(
        PerCpu(1),
        "Interpreters of each TensorFlow Lite model: runs that go on side by side.",
        group=Group.TENSORFLOW,
    )
    num_tflite_interpreters_per_pool: int = option(
        1,
        "With more than one, batches larger than 500 divided by it are split and run side by side "
        "on a TensorFlow Lite model's interpreters.",
        group=Group.TENSORFLOW,
    )
    enable_signature_method_name_check: bool = option(
        False,
        "Refuse a request whose verb is not the method its signature was exported for.",
        group=Group.MODELS,
    )
    xla_cpu_compilation_enabled: bool = option(
        False,
        "Let XLA compile graphs for the CPU.",
        group=Group.HARDWARE,
        later=True,
    )
    xla_gpu_compilation_enabled: bool = option(
        False,
        "Let XLA compile graphs for the GPU.",
        group=Group.HARDWARE,
        later=True,
    )
    enable_profiler: bool = option(
        True,
        "Offer the profiler service on the gRPC port.",
        group=Group.WATCHING,
        later=True,
    )
    thread_pool_factory_config_file: str = option(
        "",
        "File with a ThreadPoolFactoryConfig message in protobuf text format.",
        group=Group.HARDWARE,
        later=True,
    )
    mixed_precision: str = option(
        "",
        "bfloat16 lets TensorFlow compute with that type where it is quicker.",
        group=Group.HARDWARE,
        later=True,
    )
    skip_initialize_tpu: bool = option(
        False,
        "Leave the TPU as it is at start-up.",
        group=Group.HARDWARE,
        later=True,
    )
    enable_grpc_healthcheck_service: bool = option(
        False,
        "Offer the standard gRPC health service.",
        group=Group.WATCHING,
        salver=True,
    )
    enable_serialization_as_tensor_content: bool = option(
        False,
        "Send the tensors of a gRPC Predict answer as tensor_content.",
        group=Group.PORTS,
    )

    grpc_host: str = option(
        "0.0.0.0",  # noqa: S104 - where TensorFlow Serving listens
        "Address the gRPC port listens on.",
        group=Group.PORTS,
        own=True,
    )
    rest_api_host: str = option(
        "::",
        "Address the REST port listens on; :: takes IPv6 and IPv4.",
        group=Group.PORTS,
        own=True,
    )
    rest_api_tls: bool = option(
        False,
        "Use the TLS of ssl_config_file on the REST port too.",
        group=Group.SECURITY,
        salver=True,
        own=True,
    )
    require_rest_api: bool = option(
        False,
        "Give up when the REST port cannot be opened, instead of serving gRPC alone.",
        group=Group.PORTS,
        salver=True,
        own=True,
    )
    open_ports_before_load: bool = option(
        False,
        "Open the ports at once and let readiness tell when the models are in, instead of opening "
        "them after the first load.",
        group=Group.LOADING,
        salver=True,
        own=True,
    )
    start_despite_failed_models: bool = option(
        False,
        "Serve the models that loaded when another one failed at start-up, instead of giving up.",
        group=Group.LOADING,
        salver=True,
        own=True,
    )
    independent_models: bool = option(
        False,
        "Let a base path that cannot be read hold up its own model only, instead of all of them.",
        group=Group.LOADING,
        salver=True,
        own=True,
    )
    model_config_file_prevails: bool = option(
        True,
        "Apply model_config_file at every reading, over what came in other ways since, and not "
        "only when it has changed.",
        group=Group.MODELS,
        salver=False,
        own=True,
    )
    labels_follow_loads: bool = option(
        False,
        "Accept a label for a version that is not loaded; it keeps its meaning until that version "
        "is available.",
        group=Group.MODELS,
        salver=True,
        own=True,
    )
    reload_wait_seconds: float = option(
        360.0,
        "Seconds that HandleReloadConfigRequest waits for new models when its caller sets no "
        "deadline.",
        group=Group.MODELS,
        salver=60.0,
        own=True,
    )
    list_models: bool = option(
        False,
        "Answer GET /v1/models with every model, its versions and its labels.",
        group=Group.WATCHING,
        salver=True,
        own=True,
    )
    admin_address: str = option(
        "",
        "Address of the admin API, HOST:PORT or unix:PATH; empty offers none.",
        group=Group.MODELS,
        own=True,
    )
    admin_allow_remote: bool = option(
        False,
        "Let admin_address be one that other machines can reach.",
        group=Group.MODELS,
        own=True,
    )
    drain_grace_seconds: float = option(
        0.0,
        "Seconds that requests in flight may take to finish after SIGTERM; 0 ends the process "
        "at once.",
        group=Group.PORTS,
        salver=30.0,
        own=True,
    )
    check_golden_requests: bool = option(
        False,
        "Refuse to serve a version that answers the golden requests shipped with it in another way "
        "than they say.",
        group=Group.LOADING,
        salver=True,
        own=True,
    )
    warmup_from_traffic: int = option(
        0,
        "Recent requests of each kind that are kept in memory and asked of a new version before "
        "it serves; 0 keeps none.",
        group=Group.LOADING,
        own=True,
    )
    batch_without_waiting: bool = option(
        False,
        "Run requests that arrive at the same time as one, where a signature answers a row the "
        "same in a batch and alone; nobody waits for anybody.",
        salver=True,
        group=Group.BATCHING,
        own=True,
    )
    warmup_with_zeros: bool = option(
        False,
        "Run each signature of a new version once with zeros and empty strings before it serves.",
        group=Group.LOADING,
        own=True,
    )
    warmup_timeout_seconds: float = option(
        0.0,
        "Seconds that golden requests and warmup may take together, after which warmup is cut "
        "short and golden requests that are left fail the load; 0 sets no limit.",
        group=Group.LOADING,
        own=True,
    )
    memory_budget_bytes: int = option(
        0,
        "Memory all loaded versions may take together; a load beyond it is refused, and 0 sets "
        "no limit.",
        group=Group.LOADING,
        kind=Kind.INT64,
        own=True,
    )
    evict_models: bool = option(
        False,
        "Where the memory budget is not enough for all models, put those used least recently to "
        "sleep, and load them again when they are asked for.",
        group=Group.LOADING,
        own=True,
    )
    read_tflite_signatures: bool = option(
        False,
        "Serve the signatures that TensorFlow Lite lists for a model.tflite; without, as in "
        "TensorFlow Serving, only those in its metadata count, or else one is made of its tensors.",
        group=Group.TENSORFLOW,
        salver=True,
        own=True,
    )
    retry_failed_loads: bool = option(
        False,
        "Begin anew with a version that failed to load, after waits that double from a second to "
        "five minutes, as long as it is wished for.",
        group=Group.LOADING,
        salver=True,
        own=True,
    )
    load_session_bundles: bool = option(
        False,
        "Load versions that are legacy SessionBundles (export.meta), instead of refusing them; a "
        "SavedModel in the same folder comes first.",
        group=Group.LOADING,
        salver=True,
        own=True,
    )
    remote_poll_wait_seconds: float = option(
        10.0,
        "Least seconds between two looks for new versions in a remote store, which charges for "
        "each; file_system_poll_wait_seconds of 0 or less holds here too.",
        group=Group.LOADING,
        own=True,
    )
    model_cache_dir: str = option(
        "",
        "Folder for the copies of versions in remote stores; empty means salver/models among the "
        "user's caches.",
        group=Group.LOADING,
        own=True,
    )
    model_cache_max_bytes: int = option(
        0,
        "Size of model_cache_dir beyond which copies that are not in use make room; 0 sets no "
        "limit, and a copy goes when nobody wants it.",
        group=Group.LOADING,
        kind=Kind.INT64,
        own=True,
    )
    isolated_models: str = option(
        "",
        "Models, separated by commas, each version of which is served from a process of its own; "
        "* means all.",
        group=Group.LOADING,
        own=True,
    )
    isolated_model_memory_bytes: int = option(
        0,
        "Memory the process of an isolated version may allocate, TensorFlow's own included; 0 sets "
        "no limit.",
        group=Group.LOADING,
        kind=Kind.INT64,
        own=True,
    )
    isolated_load_timeout_seconds: float = option(
        1800.0,
        "Seconds an isolated version may take to load before its process is killed; 0 sets no "
        "limit.",
        group=Group.LOADING,
        own=True,
    )
    health_endpoints: bool = option(
        False,
        "Answer /healthz and /readyz on the REST port.",
        group=Group.WATCHING,
        salver=True,
        own=True,
    )
    visible_device_list: str = option(
        "",
        "GPUs that may be used, by number, in the order in which TensorFlow is to count them, as "
        "in 2,0; empty means all.",
        group=Group.HARDWARE,
        own=True,
    )
    gpu_allow_growth: bool = option(
        False,
        "Take GPU memory as it is needed, instead of nearly all of it with the first model.",
        group=Group.HARDWARE,
        own=True,
    )
    allow_soft_placement: bool = option(
        False,
        "Run on the CPU what a model has pinned to a device that is not there or cannot run it, "
        "instead of refusing to load the model.",
        group=Group.HARDWARE,
        own=True,
    )
    log_device_placement: bool = option(
        False,
        "Let TensorFlow log the device of each operation when a model is loaded.",
        group=Group.HARDWARE,
        own=True,
    )
    model_devices: str = option(
        "",
        "Devices of models, separated by commas, as in ranker=/device:GPU:1; * stands for all "
        "other models, and what a model has pinned itself stays where it is.",
        group=Group.HARDWARE,
        own=True,
    )
    explain_load_errors: bool = option(
        False,
        "Say of a SavedModel that cannot be loaded, in one line, what is wrong with its files and "
        "what would help, instead of what TensorFlow says.",
        group=Group.LOADING,
        salver=True,
        own=True,
    )
    require_signatures: bool = option(
        False,
        "Refuse a version without a signature, which nobody could ask anything, instead of serving "
        "it.",
        group=Group.LOADING,
        salver=True,
        own=True,
    )
    custom_op_library: str = option(
        "",
        "Libraries of custom TensorFlow operations, separated by commas; each a path or the name "
        "of an installed package such as tensorflow_text.",
        group=Group.TENSORFLOW,
        own=True,
    )

    @classmethod
    def for_face(cls, face: Face, given: Mapping[str, Value] = MappingProxyType({})) -> Options:
        """The defaults of ``face``, with what was ``given`` by name in their place."""
        values: dict[str, Any] = {row.name: row.default_here(face) for row in ROWS}  # by kind
        return cls(**{**values, **given})


ROWS: Final[tuple[Row, ...]] = tuple(
    replace(field_.metadata["row"], name=field_.name) for field_ in fields(Options)
)

ROW_BY_NAME: Final[Mapping[str, Row]] = MappingProxyType({row.name: row for row in ROWS})


def split_list(text: str) -> list[str]:
    """The entries of a list option such as ``saved_model_tags``, without blanks around them."""
    return [entry for entry in (part.strip() for part in text.split(",")) if entry]


def check_what_to_serve(options: Options) -> None:
    """Check, in TensorFlow Serving's order, what has to hold before model_config_file is read.

    Raises:
        InvalidArgument: there is no gRPC port, two kinds of credentials, or no model; or a number
            or a device makes no sense.
        Unimplemented: the options ask for protection that would be missing.
    """
    if options.port == 0 and not options.grpc_socket_path:
        raise InvalidArgument(
            "At least one of server_options.grpc_port or "
            "server_options.grpc_socket_path must be set."
        )
    if options.use_alts_credentials and options.ssl_config_file:
        raise InvalidArgument(
            "Either use_alts_credentials must be false or ssl_config_file must be empty."
        )
    if not options.model_base_path and not options.model_config_file:
        raise InvalidArgument(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    _check_protection(options)
    _check_ports(options)
    _check_own_numbers(options)
    model_devices(split_list(options.model_devices))


def check_how_to_run(options: Options) -> None:
    """Check, in TensorFlow Serving's order, what it looks at once model_config_file is read.

    Raises:
        InvalidArgument: two options contradict each other.
    """
    if options.batching_parameters_file and not options.enable_batching:
        raise InvalidArgument(
            "server_options.batching_parameters_file is set without setting "
            "server_options.enable_batching to true."
        )
    if (
        options.tensorflow_session_parallelism > 0
        and options.tensorflow_intra_op_parallelism > 0
        and options.tensorflow_inter_op_parallelism > 0
    ):
        raise InvalidArgument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. "
            "You cannot configure all."
        )


def _check_protection(options: Options) -> None:
    """Other options may wait for their part; without this one, secrets travel in the clear."""
    if options.use_alts_credentials:
        raise Unimplemented(
            "--use_alts_credentials asks for ALTS, which Salver does not speak. "
            "--ssl_config_file protects the port with TLS; client_verify in that file asks "
            "clients for certificates too."
        )


def _check_ports(options: Options) -> None:
    """A number that is no port would open another one, or fail after the models are loaded."""
    for name, port in (("port", options.port), ("rest_api_port", options.rest_api_port)):
        if not 0 <= port <= MAX_PORT:
            raise InvalidArgument(
                f"{name} is {port}; a TCP port is a number from 1 to {MAX_PORT}, and 0 opens none."
            )


def _check_own_numbers(options: Options) -> None:
    reload_s = options.reload_wait_seconds
    if not (math.isfinite(reload_s) and reload_s > 0):
        raise InvalidArgument(
            f"reload_wait_seconds is {reload_s:g}; it has to be a number of seconds above 0."
        )
    grace_s = options.drain_grace_seconds
    if not (math.isfinite(grace_s) and grace_s >= 0):
        raise InvalidArgument(
            f"drain_grace_seconds is {grace_s:g}; it has to be a number of seconds, 0 or more."
        )
    if options.evict_models and not options.memory_budget_bytes:
        raise InvalidArgument(
            "evict_models needs a memory_budget_bytes: without one no model is ever in the way"
        )
    warmup_s = options.warmup_timeout_seconds
    if not (math.isfinite(warmup_s) and warmup_s >= 0):
        raise InvalidArgument(
            f"warmup_timeout_seconds is {warmup_s:g}; it has to be a number of seconds, 0 or more."
        )
    if not 0 <= options.warmup_from_traffic <= MAX_SAMPLE:
        raise InvalidArgument(
            f"warmup_from_traffic is {options.warmup_from_traffic}; it has to be a number of "
            f"requests from 0 (none) to {MAX_SAMPLE}."
        )
    remote_s = options.remote_poll_wait_seconds
    if not (math.isfinite(remote_s) and remote_s > 0):
        raise InvalidArgument(
            f"remote_poll_wait_seconds is {remote_s:g}; it has to be a number of seconds above 0."
        )
    load_s = options.isolated_load_timeout_seconds
    if not (math.isfinite(load_s) and load_s >= 0):
        raise InvalidArgument(
            f"isolated_load_timeout_seconds is {load_s:g}; it has to be a number of seconds, 0 (no "
            "limit) or more."
        )
    if options.isolated_model_memory_bytes < 0:
        raise InvalidArgument(
            f"isolated_model_memory_bytes is {options.isolated_model_memory_bytes}; it has to be 0 "
            "(no limit) or more."
        )
    if options.model_cache_max_bytes < 0:
        raise InvalidArgument(
            f"model_cache_max_bytes is {options.model_cache_max_bytes}; it has to be 0 (no limit) "
            "or more."
        )
    if options.memory_budget_bytes < 0:
        raise InvalidArgument(
            f"memory_budget_bytes is {options.memory_budget_bytes}; it has to be 0 (no limit) "
            "or more."
        )
