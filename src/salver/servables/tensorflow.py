"""SavedModels as servables, and legacy SessionBundles: the adapter, the loader and the servable.

TensorFlow itself runs the graph, through its C API; checks and error texts are its own.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np

from salver.core.servable_id import ServableId
from salver.dtypes import DType
from salver.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServingError,
    Unimplemented,
)
from salver.saved_model_files import BUNDLE, GRAPH, INDEX, lies_outside, read_assets, read_needs
from salver.servables.devices import device_of, model_devices
from salver.servables.folder_names import FolderNames
from salver.servables.libtensorflow import LibTensorFlow
from salver.servables.litert import preferring_tflite
from salver.servables.memory import return_memory
from salver.servables.meta_graph import mentions, signature_defs
from salver.servables.placed_session import load_session_on
from salver.servables.platform import MakeLoader, Observer, PlatformContext, version_bytes
from salver.servables.saved_model_config import session_overrides
from salver.servables.servable import PreparedRun
from salver.servables.session_bundle import is_session_bundle, load_session_bundle
from salver.servables.tensorflow_session import Plan, Session, load_session
from salver.servables.twin_variables import fill_from_twins
from salver.signature import Signature, read_signature
from salver.varints import encode_varint

_CALLER_THREAD_BELOW_S: Final = 1e-3
"""Runs expected to be shorter stay in the caller's thread; TensorFlow's own pool costs a hop."""

LOADING_NICENESS: Final = 10
"""Of threads that load; the p99 of requests during swaps fell from 3x to 2x of calm by it."""

_MAX_PLANS: Final = 256
"""Sets of feeds and fetches that are resolved per version.

TensorFlow keeps an executor for each set for good, and an output filter lets a client choose the
set, so the number is bounded: past it a request is answered from a larger set.
"""

_UNBOUNDED_OPS: Final = (b"While", b"Enter", b"Dequeue", b"PyFunc", b"Iterator", b"Barrier")
"""Parts of the names of ops that may run or wait for as long as the data says."""

_VALUE_SIZED_OPS: Final = (
    b"Fill",
    b"Range",
    b"Tile",
    b"LinSpace",
    b"OneHot",
    b"BroadcastTo",
    b"Random",
    b"Repeat",
    b"SequenceMask",
)
"""Parts of the names of ops that make tensors as large as a value says, not a shape."""

_CANNOT_BE_A_SIZE: Final = frozenset(
    {DType.FLOAT, DType.DOUBLE, DType.HALF, DType.BFLOAT16, DType.BOOL}
)

_RAM_PER_FILE_BYTE: Final = 1.2
"""TensorFlow Serving's estimate of a SavedModel's memory: this times the size of its files."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How sessions use the machine; zero leaves a choice to TensorFlow.

    ``base`` is a ``tensorflow.ConfigProto`` to begin with; what else is set here comes after it and
    holds.
    """

    intra_op_parallelism_threads: int = 0
    inter_op_parallelism_threads: int = 0
    base: bytes = b""

    def serialized(self) -> bytes:
        """The same as a ``tensorflow.ConfigProto``."""
        intra = _varint_field(2, self.intra_op_parallelism_threads)
        return self.base + intra + _varint_field(5, self.inter_op_parallelism_threads)


def platform(context: PlatformContext) -> MakeLoader:
    """The platform ``tensorflow``: SavedModels, and TensorFlow Lite models where preferred."""
    runtime = TensorFlowRuntime(
        tags=context.tags,
        config=SessionConfig(base=context.session_config),
        custom_op_libraries=context.custom_op_libraries,
        session_bundles=context.session_bundles,
        explains=context.explains,
        observer=context.observer,
    )
    devices = model_devices(context.model_devices)

    def saved_models(servable_id: ServableId, path: str) -> SavedModelLoader:
        return runtime.loader(path, device_of(servable_id.name, devices))

    return preferring_tflite(context, saved_models) if context.prefer_tflite_model else saved_models


class TensorFlowRuntime:
    """Makes loaders for SavedModels; opens TensorFlow's library when the first one loads."""

    def __init__(
        self,
        *,
        tags: Sequence[str] = ("serve",),
        config: SessionConfig | None = None,
        custom_op_libraries: Sequence[str] = (),
        session_bundles: bool = False,
        explains: bool = False,
        observer: Observer | None = None,
        folder_names: FolderNames | None = None,
    ) -> None:
        """``session_bundles`` says whether legacy SessionBundles are loaded or refused.

        ``explains`` says whether the error of a load is TensorFlow's, or a line about the files.
        """
        self._tags = tuple(tags)
        self._config = config or SessionConfig()
        self._custom_op_libraries = tuple(custom_op_libraries)
        self._session_bundles = session_bundles
        self._explains = explains
        self._observer = observer
        self._folder_names = folder_names or FolderNames()
        self._opening = threading.Lock()
        self._library: LibTensorFlow | None = None
        self.has_loaded = False
        """Whether TensorFlow has made its thread pools, which it does for the first session."""

    def open(self) -> LibTensorFlow:
        """TensorFlow's library with the custom ops registered, opened at the first call.

        Raises:
            ServingError: TensorFlow or a custom op library cannot be opened.
        """
        with self._opening:
            if self._library is None:
                library = LibTensorFlow()
                for name in self._custom_op_libraries:
                    for path in op_library_paths(name):
                        library.load_op_library(path)
                self._library = library
            return self._library

    def loader(self, path: str, device: str = "") -> SavedModelLoader:
        """A loader for the version in the folder ``path``, which is to run on ``device``."""
        return SavedModelLoader(self, Path(path), device)

    def load(self, path: Path, device: str = "") -> SavedModel:
        """Load what the folder ``path`` holds now: a SavedModel, or a SessionBundle.

        Ops that it has not pinned itself run on ``device``; without one, TensorFlow chooses.

        Raises:
            ServingError: what is wrong with it, in TensorFlow Serving's words where it has some.
        """
        _check_folder(path)
        session = self._load_session(path, device)
        self.has_loaded = True
        return self._servable(session)

    def _load_session(self, path: Path, device: str) -> Session:
        config = self._config.serialized()
        if not self._session_bundles:
            _refuse_session_bundle(path)
        elif is_session_bundle(path):
            return load_session_bundle(self.open(), path, config, device)
        try:
            return self._load_saved_model(path, device, config)
        except ServingError as error:
            explained = self._explained(error, path)
            if explained is error:
                raise
            raise explained from error

    def _load_saved_model(self, path: Path, device: str, config: bytes) -> Session:
        _check_saved_model(path)
        config += session_overrides(path)
        if device:
            return load_session_on(device, self.open(), path, self._tags, config)
        name = self._folder_names.name(path)
        try:
            session = load_session(self.open(), name.told, self._tags, config)
        except ServingError as error:
            name.close()
            raise name.translated(error) from None
        session.on_close(name.close)  # not before: a graph may read its assets when it runs
        return session

    def _explained(self, error: ServingError, path: Path) -> ServingError:
        if not self._explains:
            return error
        from salver.servables.export_faults import Asked, explain, look_at  # 4 ms, for few servers

        version = "" if self._library is None else self._library.version
        return explain(error, look_at(path), Asked(self._tags, version))

    def _servable(self, session: Session) -> SavedModel:
        try:
            return SavedModel(session, self._observer)
        except BaseException:
            session.close()
            raise


class SavedModelLoader:
    """Loads and unloads one version.  The manager calls it, one call at a time."""

    def __init__(self, runtime: TensorFlowRuntime, path: Path, device: str = "") -> None:
        self._runtime = runtime
        self._path = path
        self._device = device
        self._servable: SavedModel | None = None

    def estimate_resources(self) -> int:
        """The bytes of memory the version will need, by the size of its files."""
        return int(version_bytes(str(self._path)) * _RAM_PER_FILE_BYTE)

    def load(self) -> None:
        """Restore the graph and its variables; takes as long as the disk needs."""
        if self._runtime.has_loaded:  # before, TensorFlow's own threads would inherit it
            give_way()
        self._servable = self._runtime.load(self._path, self._device)

    def unload(self) -> None:
        """Free the session and hand the memory back to the system."""
        servable, self._servable = self._servable, None
        if servable is not None:
            servable.close()
        return_memory()

    def servable(self) -> SavedModel:
        """What ``load`` loaded.

        Raises:
            NotFound: nothing is loaded.
        """
        if self._servable is None:
            raise NotFound(f"{self._path} is not loaded")
        return self._servable


class SavedModel:
    """One loaded SavedModel (the contract is ``salver.servables.servable.Servable``)."""

    def __init__(self, session: Session, observer: Observer | None = None) -> None:
        self._session = session
        self._observer = observer
        with session.meta_graph_def() as meta_graph:
            self._signature_defs = signature_defs(meta_graph)
            self._signatures = {
                name: read_signature(definition)
                for name, definition in self._signature_defs.items()
            }
            self.predictable = self._is_predictable(meta_graph)
            fill_from_twins(session, meta_graph)
        self._plans: dict[tuple[tuple[str, ...], tuple[str, ...]], _MeasuredPlan] = {}

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Every signature, by name."""
        return self._signatures

    @property
    def signature_defs(self) -> Mapping[str, bytes]:
        """Every signature as it was exported."""
        return self._signature_defs

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        """Feed and fetch tensors by graph name, once.

        Raises:
            ServingError: what TensorFlow says.
            DeadlineExceeded: the run took longer than ``timeout_s`` (checked for graphs that are
                known to be slow or not known yet).
        """
        plan = self._plan((tuple(feeds), tuple(fetches)))
        if plan is None:
            return self._run_larger(feeds, fetches, timeout_s)
        return self._run_plan(plan, tuple(feeds.values()), timeout_s)

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        """What ``run`` does for these names, to be called again and again with other tensors."""
        names = tuple(feeds)
        plan = self._plan((names, tuple(fetches)))
        if plan is not None:
            return partial(self._run_plan, plan)
        return lambda tensors, timeout_s: self._run_larger(
            dict(zip(names, tensors, strict=True)), fetches, timeout_s
        )

    def _run_plan(
        self, plan: _MeasuredPlan, tensors: Sequence[np.ndarray], timeout_s: float | None
    ) -> list[np.ndarray]:
        if not self.predictable or plan.expected_s >= _CALLER_THREAD_BELOW_S:
            return self._run_on_pool(plan, tensors, timeout_s)
        started = perf_counter()
        results = self._session.run(plan.plan, tensors, in_caller_thread=True)
        plan.learn(perf_counter() - started)
        return results

    def close(self) -> None:
        """Free everything.  The manager calls it when the last handle has been returned."""
        for plan in self._plans.values():
            plan.plan.close()
        self._plans.clear()
        self._session.close()

    def _is_predictable(self, graph: memoryview) -> bool:
        """Whether the sizes of the inputs decide how long a run takes; in doubt they do not."""
        inputs = [info for s in self._signatures.values() for info in s.inputs.values()]
        if all(info.dtype in _CANNOT_BE_A_SIZE for info in inputs):
            return not mentions(graph, _UNBOUNDED_OPS)
        return not mentions(graph, _UNBOUNDED_OPS + _VALUE_SIZED_OPS)

    def _run_on_pool(
        self, plan: _MeasuredPlan, arrays: Sequence[np.ndarray], timeout_s: float | None
    ) -> list[np.ndarray]:
        """Run in TensorFlow's inter-op pool, where branches run side by side and time is kept."""
        started = perf_counter()
        results = self._session.run(plan.plan, arrays, timeout_s=timeout_s)
        took_s = perf_counter() - started
        if plan.is_new and self._observer is not None:
            self._observer.graph_built(took_s)
        plan.learn(took_s)
        return results

    def _plan(self, key: tuple[tuple[str, ...], tuple[str, ...]]) -> _MeasuredPlan | None:
        """The plan for these names, None where there are too many already."""
        plan = self._plans.get(key)
        if plan is None and len(self._plans) < _MAX_PLANS:
            plan = self._plans[key] = _MeasuredPlan(self._session.plan(*key))
        return plan

    def _run_larger(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_s: float | None
    ) -> list[np.ndarray]:
        """Answer from a known set with the same feeds and at least the fetches asked for."""
        for known_feeds, known_fetches in tuple(self._plans):
            if known_feeds == tuple(feeds) and set(fetches) <= set(known_fetches):
                results = self.run(feeds, known_fetches, timeout_s=timeout_s)
                return [results[known_fetches.index(fetch)] for fetch in fetches]
        raise ResourceExhausted(
            f"this version was asked for {_MAX_PLANS} different sets of inputs and outputs; "
            "one more would need memory that is never given back. Ask for all outputs instead"
        )


class _MeasuredPlan:
    """A plan and the time its runs take: the estimate rises with the second slow run in a row.

    A single one is the machine's doing more often than the model's.  It falls slowly.
    """

    __slots__ = ("_last_s", "expected_s", "is_new", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.is_new = True
        self.expected_s = self._last_s = float("inf")

    def learn(self, took_s: float) -> None:
        """Take one run into the estimate.  The first builds an executor and says nothing."""
        if self.is_new:
            self.is_new = False
            return
        quicker_s = min(took_s, self._last_s)
        self._last_s = took_s
        if quicker_s >= self.expected_s or self.expected_s == float("inf"):
            self.expected_s = quicker_s
        else:
            self.expected_s += 0.1 * (quicker_s - self.expected_s)


def give_way() -> None:
    """Let the calling thread, if it is not the main one, run behind those that answer requests.

    Where threads have priorities of their own, that is on Linux.
    """
    if sys.platform != "linux" or threading.current_thread() is threading.main_thread():
        return
    thread = threading.get_native_id()
    if os.getpriority(os.PRIO_PROCESS, thread) < LOADING_NICENESS:
        os.setpriority(os.PRIO_PROCESS, thread, LOADING_NICENESS)


def op_library_paths(name: str) -> list[Path]:
    """The shared libraries that ``name`` means: a file, or all op libraries of a package.

    Raises:
        NotFound: there is no such file and no such package.
        InvalidArgument: the package has no op library.
    """
    path = Path(name)
    if path.suffix or os.sep in name:
        if not path.exists():
            raise NotFound(f"custom op library {name!r} does not exist")
        return [path.resolve()]
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise NotFound(
            f"custom op library {name!r} is neither a file nor an installed package; "
            "give the path of a .so file or the name under which its package is imported"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = [path for path in sorted(folder.rglob("*.so")) if _is_op_library(path)]
    if not found:
        raise InvalidArgument(f"package {name!r} in {folder} has no custom op library")
    return found


def _is_op_library(path: Path) -> bool:
    """Op libraries link to TensorFlow; so do Python extension modules, which are none."""
    content = path.read_bytes()
    return b"libtensorflow_framework" in content and b"PyInit_" not in content


def _check_folder(path: Path) -> None:
    """Say so where a folder cannot be read, which TensorFlow would take for an empty one."""
    try:
        os.scandir(path).close()
    except (NotADirectoryError, FileNotFoundError):
        pass  # a version may be a file, or gone: it has no SavedModel, as is said below
    except OSError as error:
        raise PermissionDenied(
            f"{path} cannot be read by user {os.geteuid()}: {error.strerror}"
        ) from error


def _refuse_session_bundle(path: Path) -> None:
    """Say what TensorFlow Serving says of one, whatever lies beside it."""
    if (path / BUNDLE).exists():
        raise Unimplemented("Session Bundle is deprecated and removed.")


def _check_saved_model(path: Path) -> None:
    """Say what TensorFlow Serving says before it asks TensorFlow to load."""
    if not any((path / f"saved_model.{suffix}").exists() for suffix in ("pb", "pbtxt")):
        raise NotFound(
            "Specified file path does not appear to contain a SavedModel bundle "
            f"(should have a file called `saved_model.pb`)\nSpecified file path: {path}"
        )
    _check_assets(path)
    _check_variables(path)


def _check_assets(path: Path) -> None:
    """Refuse a graph that reads files from elsewhere by the name of its own."""
    for name in sorted(read_assets(path / GRAPH)):
        if lies_outside(name):
            raise InvalidArgument(
                f"{path} names the asset {name!r}, which lies outside of its folder assets; export "
                "it again, with the bare names of its files"
            )


def _check_variables(path: Path) -> None:
    """Refuse a graph without its variables: TensorFlow loads it and then fails every request.

    What else may be missing it notices itself.
    """
    if not (path / INDEX).exists() and read_needs(path / GRAPH).variables:
        raise NotFound(
            f"{path} has a graph with variables and no {INDEX}; if it is still being copied, "
            "it will be tried again"
        )


def _varint_field(number: int, value: int) -> bytes:
    """One non-negative integer field of a protobuf message; nothing when zero."""
    if value <= 0:
        return b""
    return bytes([number << 3]) + encode_varint(value)
