"""``platform_config_file`` and ``tensorflow_session_config_file``: how TensorFlow is to be used.

With a platform file, the flags about sessions, tags and warm-up count for nothing: the file says
all, and what it leaves out has the default of its message, not that of the flag.  So warm-up is
off unless the file turns it on, as in TensorFlow Serving.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from google.protobuf.message import DecodeError

from salver.batching.parameters import faults
from salver.errors import InvalidArgument, ServingError, Unimplemented
from salver.model_server.batching import Batching, batching_of, batching_of_flags
from salver.model_server.model_config import TENSORFLOW_PLATFORM
from salver.model_server.options import Options, split_list
from salver.model_server.text_parser import AnyTypes, Path
from salver.model_server.text_proto import read_text_proto
from salver.protos import config_pb2, session_config_pb2

logger = logging.getLogger(__name__)

ADAPTER: Final = "tensorflow.serving.SavedModelBundleSourceAdapterConfig"

ANY_TYPES: Final[AnyTypes] = MappingProxyType(
    {ADAPTER: config_pb2.SavedModelBundleSourceAdapterConfig}
)

_WITHOUT_EFFECT: Final[Mapping[str, str]] = {
    "session_target": "sessions run in this process",
    "session_run_load_threadpool_index": "a session has one pool for both",
    "experimental_transient_ram_bytes_during_load": "the estimate of memory does not include it",
    "in_graph_batching_parameters": "batching happens around graphs, not in them",
    "experimental_fixed_input_tensors": "requests bring all of their tensors",
    "enable_session_metadata": "there are no metrics by session",
    "wrap_session_with_no_threading_params": "each run chooses its threads itself",
    "mixed_precision": "it is not there yet",
}
PER_MODEL_BATCHING: Final = "enable_per_model_batching_params"

_WITHOUT_EFFECT_IN_WARMUP: Final[Mapping[str, str]] = {
    "num_model_warmup_threads": "stored requests are replayed one after the other",
    "enable_all_batch_sizes_warmup": "stored requests are replayed as they are",
}
_UNIMPLEMENTED: Final[Mapping[str, str]] = {
    "resource_estimation_uses_validation_result": "Reading validation results is not supported",
    "enable_saved_model_config": "Saved model config functionality is not implemented.",
}


@dataclass(frozen=True, slots=True)
class Remark:
    """Something in a file that has no effect, or keeps every model from loading."""

    path: Path
    text: str
    refusal: ServingError | None = None


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform of the file: what its sessions and loads are like."""

    session_config: bytes
    tags: tuple[str, ...]
    warms_up: bool
    warmup_iterations: int
    prefer_tflite_model: bool = False
    num_tflite_pools: int = 0
    num_tflite_interpreters_per_pool: int = 0
    batching: Batching | None = None
    remarks: tuple[Remark, ...] = ()

    @property
    def refusal(self) -> ServingError | None:
        """Why no model of the platform can be loaded, if so."""
        return next((r.refusal for r in self.remarks if r.refusal is not None), None)

    def options(self, options: Options) -> Options:
        """``options`` with what the platform says in the place of the flags."""
        return replace(
            options,
            saved_model_tags=",".join(self.tags),
            enable_model_warmup=self.warms_up,
            num_request_iterations_for_warmup=self.warmup_iterations,
            prefer_tflite_model=self.prefer_tflite_model,
            num_tflite_pools=self.num_tflite_pools,
            num_tflite_interpreters_per_pool=self.num_tflite_interpreters_per_pool,
        )


def read_platforms(options: Options) -> dict[str, Platform]:
    """The platforms of ``platform_config_file``, or the one that the flags describe, by name.

    What has no effect in the file is said in the log.

    Raises:
        InvalidArgument: the file is no PlatformConfigMap, or a platform is for another adapter.
        ServingError: it cannot be read.
    """
    path = options.platform_config_file
    if not path:
        return {TENSORFLOW_PLATFORM: platform_of_flags(options)}
    message = read_text_proto(path, config_pb2.PlatformConfigMap(), any_types=ANY_TYPES)
    platforms = {
        name: platform(name, config) for name, config in sorted(message.platform_configs.items())
    }
    for name, found in platforms.items():
        for remark in found.remarks:
            logger.warning("%s: platform %s: %s", path, name, remark.text)
    return platforms


def platform_of_flags(options: Options) -> Platform:
    """What the flags say, which holds for every platform that no file is about."""
    return Platform(
        session_config=session_config(options),
        tags=tuple(split_list(options.saved_model_tags)) or ("serve",),
        warms_up=options.enable_model_warmup,
        warmup_iterations=options.num_request_iterations_for_warmup,
        prefer_tflite_model=options.prefer_tflite_model,
        num_tflite_pools=options.num_tflite_pools,
        num_tflite_interpreters_per_pool=options.num_tflite_interpreters_per_pool,
        batching=batching_of_flags(options),
    )


def platform(name: str, config: config_pb2.PlatformConfig) -> Platform:
    """One platform.

    Raises:
        InvalidArgument: it is not for SavedModels, or has no thread for batches.
    """
    bundle = _bundle(name, config)
    warmup = bundle.model_warmup_options
    return Platform(
        session_config=bundle.session_config.SerializeToString(),
        tags=tuple(bundle.saved_model_tags) or ("serve",),
        warms_up=bundle.enable_model_warmup,
        warmup_iterations=max(warmup.num_request_iterations.value, 0),
        prefer_tflite_model=bundle.prefer_tflite_model,
        num_tflite_pools=bundle.num_tflite_pools or bundle.num_tflite_interpreters,
        num_tflite_interpreters_per_pool=bundle.num_tflite_interpreters_per_pool,
        batching=_batching(bundle),
        remarks=tuple(_remarks(bundle)),
    )


def session_config(options: Options) -> bytes:
    """The ``tensorflow.ConfigProto`` of the session's file, with the flags that are set over it.

    TensorFlow Serving puts its flags over the file even where they are not set, so that thread
    counts in the file never hold.  Here they do.

    Raises:
        ServingError: the file cannot be read, or is no ConfigProto.
    """
    config = session_config_pb2.ConfigProto()
    if options.tensorflow_session_config_file:
        read_text_proto(options.tensorflow_session_config_file, config)
    intra = options.tensorflow_intra_op_parallelism
    inter = options.tensorflow_inter_op_parallelism
    if intra <= 0 and inter <= 0:
        intra = inter = options.tensorflow_session_parallelism
    if intra > 0:
        config.intra_op_parallelism_threads = intra
    if inter > 0:
        config.inter_op_parallelism_threads = inter
    if options.per_process_gpu_memory_fraction > 0:
        fraction = options.per_process_gpu_memory_fraction
        config.gpu_options.per_process_gpu_memory_fraction = fraction
    if options.visible_device_list:
        config.gpu_options.visible_device_list = options.visible_device_list
    if options.gpu_allow_growth:
        config.gpu_options.allow_growth = True
    if options.allow_soft_placement:
        config.allow_soft_placement = True
    if options.log_device_placement:
        config.log_device_placement = True
    return config.SerializeToString()


def _bundle(name: str, config: config_pb2.PlatformConfig) -> config_pb2.SessionBundleConfig:
    held = config.source_adapter_config
    kind = held.type_url.rpartition("/")[2]
    if kind != ADAPTER:
        found = f"is for {kind}" if kind else "names no adapter"
        raise InvalidArgument(f"platform {name} {found}; there is only {ADAPTER}")
    try:
        adapter = config_pb2.SavedModelBundleSourceAdapterConfig.FromString(held.value)
    except DecodeError as error:
        raise InvalidArgument(f"platform {name}: the value is no {ADAPTER}: {error}") from error
    return adapter.legacy_config


def _batching(bundle: config_pb2.SessionBundleConfig) -> Batching | None:
    if not bundle.HasField("batching_parameters"):
        return None
    return batching_of(
        bundle.batching_parameters, by_version=bundle.enable_per_model_batching_params
    )


def _remarks(bundle: config_pb2.SessionBundleConfig) -> Iterator[Remark]:
    for descriptor, _ in bundle.ListFields():
        name = descriptor.name
        if name in _UNIMPLEMENTED:
            error = Unimplemented(_UNIMPLEMENTED[name])
            yield Remark((name,), f"{name} keeps every model from loading: {error.message}", error)
        elif name in _WITHOUT_EFFECT:
            yield Remark((name,), f"{name} has no effect: {_WITHOUT_EFFECT[name]}")
        elif name == PER_MODEL_BATCHING and not bundle.HasField("batching_parameters"):
            yield Remark((name,), f"{name} has no effect: batching_parameters are not set")
    if not bundle.enable_per_model_batching_params:
        for fault in faults(bundle.batching_parameters):
            name = f"batching_parameters.{fault.field}"
            text = f"{name} keeps every model from loading: {fault.error.message}"
            yield Remark(("batching_parameters", fault.field), text, fault.error)
    for descriptor, _ in bundle.model_warmup_options.ListFields():
        name = descriptor.name
        if name in _WITHOUT_EFFECT_IN_WARMUP:
            text = f"{name} has no effect: {_WITHOUT_EFFECT_IN_WARMUP[name]}"
            yield Remark(("model_warmup_options", name), text)
