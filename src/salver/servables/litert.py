"""TensorFlow Lite models as servables: ``model.tflite``, run by LiteRT's interpreters.

An interpreter runs one request at a time, so a version has several of them, and a run borrows one.
LiteRT lets other threads go on while it runs a model; while it prepares one, for the first time or
for inputs of other shapes, it does not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np

from salver.core.loader import Loader
from salver.core.servable_id import ServableId
from salver.dtypes import DType
from salver.errors import (
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from salver.protos.session_config_pb2 import ConfigProto
from salver.servables.litert_graph import Call, Desk, Interpreter, Shapes, read_graph, reason
from salver.servables.memory import return_memory
from salver.servables.platform import MakeLoader, PlatformContext, version_bytes
from salver.servables.servable import PreparedRun, Servable
from salver.servables.tflite_file import TfLiteFile, read_tflite_file
from salver.signature import Signature, read_signature

MODEL_FILE: Final = "model.tflite"

QUICK_BELOW_S: Final = 300e-6
"""Runs that took less may be on the event loop, which must not wait for an interpreter."""

_MAX_PLANS: Final = 256
"""Sets of feeds and fetches that are kept resolved; a client chooses them."""

_MAX_SHAPES: Final = 256
"""Shapes of inputs, per set of feeds and fetches, that are remembered to be quick."""

_ROWS_PER_POOL: Final = 500
"""TensorFlow Serving's: what the interpreters of a pool take together."""

_RAM_PER_FILE_BYTE: Final = 1.2
"""TensorFlow Serving's estimate, the same as for a SavedModel."""

_UNBOUNDED_OPS: Final = frozenset({31, 32, 119, 173, 200})
"""CALL, CUSTOM, WHILE and StableHLO's two: they take as long as the data says."""

_VALUE_SIZED_OPS: Final = frozenset({23, 34, 60, 68, 69, 85, 94, 96, 97, 100, 130, 146, 148, 149})
"""Ops that make tensors as large as a value says: resize, pad, tile, fill, range, random, …"""

_CANNOT_BE_A_SIZE: Final = frozenset({DType.FLOAT, DType.DOUBLE, DType.HALF, DType.BOOL})


class LiteRt:
    """Makes loaders for the versions that have a ``model.tflite``."""

    def __init__(
        self,
        *,
        interpreters: int = 1,
        interpreters_per_pool: int = 1,
        threads: int = 1,
        reads_signatures: bool = True,
    ) -> None:
        """``interpreters`` is how many a version has, ``threads`` how many each of them may use.

        With more than one per pool, large batches are split and run side by side.
        ``reads_signatures`` is whether the signatures that TensorFlow Lite itself lists count.
        """
        self._interpreters = max(interpreters, 1)
        self._interpreters_per_pool = interpreters_per_pool
        self._threads = max(threads, 1)
        self._reads_signatures = reads_signatures

    @classmethod
    def of(cls, context: PlatformContext) -> LiteRt:
        """As the server's options say."""
        config = ConfigProto.FromString(context.session_config)
        return cls(
            interpreters=context.num_tflite_pools,
            interpreters_per_pool=context.num_tflite_interpreters_per_pool,
            threads=config.intra_op_parallelism_threads,
            reads_signatures=context.read_tflite_signatures,
        )

    def loader(self, path: str) -> TfLiteLoader:
        """A loader for the version in the folder ``path``."""
        return TfLiteLoader(self, Path(path))

    def load(self, path: Path) -> TfLiteModel:
        """Load the model in the folder ``path`` now.

        Raises:
            ServingError: LiteRT is not installed, or the model cannot be read or prepared.
        """
        make_interpreter = _interpreter_class()
        content = _read(path / MODEL_FILE)
        file = read_tflite_file(content)

        def make() -> Interpreter:
            try:
                return make_interpreter(model_content=content, num_threads=self._threads)
            except (RuntimeError, ValueError) as error:
                raise InvalidArgument(
                    f"Cannot build Interpreter from buffer: {reason(error)}; "
                    "if it is still being copied, it will be tried again"
                ) from error

        return TfLiteModel(
            make,
            file,
            interpreters=self._interpreters,
            interpreters_per_pool=self._interpreters_per_pool,
            reads_signatures=self._reads_signatures,
        )


def preferring_tflite(context: PlatformContext, others: MakeLoader) -> MakeLoader:
    """What makes the loader of a version: LiteRT's where it has a ``model.tflite``, or another."""
    litert = LiteRt.of(context)

    def loader(servable_id: ServableId, path: str) -> Loader[Servable]:
        if (Path(path) / MODEL_FILE).exists():
            return litert.loader(path)
        return others(servable_id, path)

    return loader


class TfLiteLoader:
    """Loads and unloads one version.  The manager calls it, one call at a time."""

    def __init__(self, litert: LiteRt, path: Path) -> None:
        self._litert = litert
        self._path = path
        self._servable: TfLiteModel | None = None

    def estimate_resources(self) -> int:
        """The bytes of memory the version will need, by the size of its files."""
        return int(version_bytes(str(self._path)) * _RAM_PER_FILE_BYTE)

    def load(self) -> None:
        """Read the file and prepare its interpreters."""
        self._servable = self._litert.load(self._path)

    def unload(self) -> None:
        """Let go of the interpreters, which frees them."""
        servable, self._servable = self._servable, None
        if servable is not None:
            servable.close()
            return_memory()

    def servable(self) -> TfLiteModel:
        """What ``load`` loaded.

        Raises:
            NotFound: nothing is loaded.
        """
        if self._servable is None:
            raise NotFound(f"{self._path} is not loaded")
        return self._servable


class TfLiteModel:
    """One loaded model (the contract is ``salver.servables.servable.Servable``)."""

    def __init__(
        self,
        make: Callable[[], Interpreter],
        file: TfLiteFile,
        *,
        interpreters: int = 1,
        interpreters_per_pool: int = 1,
        reads_signatures: bool = True,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._clock = clock
        first = make()
        self._graph = read_graph(first, file.signature_defs, reads_signatures=reads_signatures)
        self._signature_defs = self._graph.signature_defs
        self._signatures = {
            name: read_signature(definition) for name, definition in self._signature_defs.items()
        }
        self.predictable = _is_predictable(file.operators, self._signatures.values())
        self._plans: dict[tuple[tuple[str, ...], tuple[str, ...]], Plan] = {}
        self._splitter: Splitter | None = None
        if interpreters_per_pool > 1:
            rows = _batch_size(first)
            if rows <= 1:
                rows = -(-_ROWS_PER_POOL // interpreters_per_pool)
            self._splitter = Splitter(rows, interpreters)
        self._pool = Pool(lambda: Desk(make()), interpreters, Desk(first))

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Every signature, by name."""
        return self._signatures

    @property
    def signature_defs(self) -> Mapping[str, bytes]:
        """Every signature as TensorFlow Serving would show it."""
        return self._signature_defs

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        """Feed and fetch tensors by their names, once.

        Raises:
            ServingError: what LiteRT says.
            DeadlineExceeded: no interpreter was free within ``timeout_s``.
        """
        return self._run(self._plan(tuple(feeds), tuple(fetches)), tuple(feeds.values()), timeout_s)

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        """What ``run`` does for these names, to be called again and again with other tensors."""
        return partial(self._run, self._plan(tuple(feeds), tuple(fetches)))

    def close(self) -> None:
        """Let go of everything.  The manager calls it when the last handle has been returned."""
        self._plans.clear()
        self._pool.close()
        if self._splitter is not None:
            self._splitter.close()

    def _plan(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Plan:
        plan = self._plans.get((feeds, fetches))
        if plan is None:
            plan = Plan(self._graph.resolve(feeds, fetches))
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[feeds, fetches] = plan
        return plan

    def _run(
        self, plan: Plan, tensors: Sequence[np.ndarray], timeout_s: float | None
    ) -> list[np.ndarray]:
        if self._splitter is not None and self._splitter.splits(tensors):
            return self._splitter.run(partial(self._run_once, plan, timeout_s=timeout_s), tensors)
        return self._run_once(plan, tensors, timeout_s)

    def _run_once(
        self, plan: Plan, tensors: Sequence[np.ndarray], timeout_s: float | None
    ) -> list[np.ndarray]:
        shapes = tuple([tensor.shape for tensor in tensors])
        is_quick = shapes in plan.quick
        desk = self._pool.take((plan.call, shapes), is_quick=is_quick, timeout_s=timeout_s)
        try:
            started = self._clock()
            results = plan.call.run(desk, tensors, shapes)
            plan.learn(shapes, self._clock() - started)
        finally:
            self._pool.give(desk, is_quick=is_quick)
        return results


class Plan:
    """A call, and the shapes with which it is quick."""

    __slots__ = ("call", "quick")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.quick: set[Shapes] = set()

    def learn(self, shapes: Shapes, took_s: float) -> None:
        """Take one run into account."""
        if took_s >= QUICK_BELOW_S:
            self.quick.discard(shapes)
        elif shapes not in self.quick:
            if len(self.quick) >= _MAX_SHAPES:
                self.quick.clear()
            self.quick.add(shapes)


class Pool:
    """The interpreters of a version: ``size`` of them, and one more for quick runs if need be.

    A quick run may be on the event loop.  It never waits for a slow one: those hold ``size``
    interpreters at most, and one more is made when a quick run would have to wait for them.
    """

    def __init__(self, make: Callable[[], Desk], size: int, first: Desk) -> None:
        self._make = make
        self._size = size
        self._idle = [first, *(make() for _ in range(size - 1))]
        self._count = size
        self._slow = 0
        self._changed = threading.Condition()

    def take(self, wanted: tuple[Call, Shapes], *, is_quick: bool, timeout_s: float | None) -> Desk:
        """A desk of one's own, prepared for ``wanted`` if such a one is idle.

        Raises:
            DeadlineExceeded: none was free in time.
            ServingError: one was to be made and could not be.
        """
        with self._changed:
            is_free = partial(self._is_free, is_quick=is_quick)
            if not is_free() and not self._changed.wait_for(is_free, timeout_s):
                raise DeadlineExceeded(
                    f"all {self._size} interpreters of the model were busy for {timeout_s:g} s; "
                    "--num_tflite_pools gives it more"
                )
            self._slow += not is_quick
            if self._idle:
                return self._choose(wanted)
            self._count += 1
        try:
            return self._make()
        except BaseException:
            self._give_up(is_quick=is_quick)
            raise

    def give(self, desk: Desk, *, is_quick: bool) -> None:
        """Return a desk."""
        with self._changed:
            self._slow -= not is_quick
            self._idle.append(desk)
            self._changed.notify_all()

    def close(self) -> None:
        """Let go of all; none may be taken."""
        with self._changed:
            self._idle.clear()

    def _give_up(self, *, is_quick: bool) -> None:
        with self._changed:
            self._slow -= not is_quick
            self._count -= 1
            self._changed.notify_all()

    def _is_free(self, *, is_quick: bool) -> bool:
        if not is_quick and self._slow >= self._size:
            return False
        return bool(self._idle) or self._count <= self._size

    def _choose(self, wanted: tuple[Call, Shapes]) -> Desk:
        """The idle desk that needs no preparation, or the one that was used least recently."""
        for i in range(len(self._idle) - 1, -1, -1):
            if self._idle[i].prepared == wanted:
                return self._idle.pop(i)
        return self._idle.pop(0)


class Splitter:
    """Runs batches of many rows in pieces, side by side, each with an interpreter of its own."""

    def __init__(self, rows: int, threads: int) -> None:
        self._rows = rows
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="salver-tflite")

    def splits(self, tensors: Sequence[np.ndarray]) -> bool:
        """Whether they are a batch of more rows than an interpreter is to take."""
        if not tensors or not all(tensor.ndim for tensor in tensors):
            return False
        rows = len(tensors[0])
        return rows > self._rows and all(len(tensor) == rows for tensor in tensors)

    def run(
        self, run: Callable[[Sequence[np.ndarray]], list[np.ndarray]], tensors: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Run the pieces and join what they give.

        Raises:
            Internal: an output is no batch.
        """
        starts = range(0, len(tensors[0]), self._rows)
        pieces = [[tensor[at : at + self._rows] for tensor in tensors] for at in starts]
        results = list(self._threads.map(run, pieces))
        try:
            return [np.concatenate(parts) for parts in zip(*results, strict=True)]
        except ValueError as error:
            raise Internal(f"Tensor concat operation failed: {error}") from error

    def close(self) -> None:
        """End the threads, which are idle."""
        self._threads.shutdown(wait=False)


def _is_predictable(operators: frozenset[int], signatures: Iterable[Signature]) -> bool:
    """Whether the sizes of the inputs decide how long a run takes; in doubt they do not."""
    inputs = [info for signature in signatures for info in signature.inputs.values()]
    if all(info.dtype in _CANNOT_BE_A_SIZE for info in inputs):
        return not operators & _UNBOUNDED_OPS
    return not operators & (_UNBOUNDED_OPS | _VALUE_SIZED_OPS)


def _batch_size(interpreter: Interpreter) -> int:
    """The rows that the model was made for, as far as its one input tells; 0 if it does not."""
    inputs = interpreter.get_input_details()
    shape: Sequence[int] = inputs[0]["shape"] if len(inputs) == 1 else ()
    return int(shape[0]) if len(shape) else 0


def _interpreter_class() -> Interpreter:
    """LiteRT's interpreter.

    Raises:
        FailedPrecondition: it is not installed, or cannot be imported.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"{MODEL_FILE} needs LiteRT, which is not installed; "
            'pip install "salver[litert]" adds it'
        ) from error
    except (ImportError, OSError) as error:
        raise FailedPrecondition(
            f"LiteRT cannot be imported: {reason(error)}. "
            "Reinstalling helps: pip install --force-reinstall ai-edge-litert"
        ) from error
    return Interpreter


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{file} is gone") from error
    except PermissionError as error:
        raise PermissionDenied(f"{file} cannot be read by user {os.geteuid()}") from error
    except OSError as error:
        raise DataLoss(f"{file} cannot be read: {error.strerror}") from error
