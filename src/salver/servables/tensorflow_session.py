"""A loaded SavedModel as TensorFlow's C API has it: a session, and quick runs over it.

What a run needs besides the numbers is the same each time, so it is made once and kept: the
resolved names, the arrays of pointers, the arguments of the call, and the input tensors, which
TensorFlow lets us fill again when nothing in the graph has held on to them.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_char, c_char_p, c_int64, c_size_t, c_void_p
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from salver.errors import NotFound, ServingError
from salver.servables.libtensorflow import COPY_BELOW, NUMPY_DTYPES, LibTensorFlow, Output
from salver.varints import encode_varint

SHAPES_REMEMBERED: Final = 64
"""Of one output, by its size in bytes."""

_RUN_IN_CALLER_THREAD: Final = b"\x18" + b"\xff" * 9 + b"\x01"
"""tensorflow.RunOptions { inter_op_thread_pool: -1 }."""


class _Buffer(ctypes.Structure):
    """struct TF_Buffer: bytes that TensorFlow wrote."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("data_deallocator", c_void_p))


class _KnownOutput:
    """What the graph says of an output, so that a tensor's size in bytes tells its shape.

    That holds for numbers with at most one dimension open.
    """

    __slots__ = ("_after", "_before", "_row_bytes", "_shapes", "dtype")

    def __init__(self, dtype: np.dtype[Any], dims: Sequence[int]) -> None:
        self.dtype = dtype
        open_at = dims.index(-1) if -1 in dims else len(dims)
        self._before, self._after = tuple(dims[:open_at]), tuple(dims[open_at + 1 :])
        self._row_bytes = dtype.itemsize * prod(self._before) * prod(self._after)
        self._shapes: dict[int, tuple[int, ...]] = {}
        if open_at == len(dims):
            self._shapes[self._row_bytes] = self._before
            self._row_bytes = 0

    def shape(self, size: int) -> tuple[int, ...] | None:
        """The shape of a tensor of so many bytes; None if the graph did not tell the truth."""
        shape = self._shapes.get(size)
        if shape is not None:
            return shape
        if not self._row_bytes or size % self._row_bytes:
            return None
        if len(self._shapes) >= SHAPES_REMEMBERED:
            self._shapes.clear()
        shape = self._shapes[size] = (*self._before, size // self._row_bytes, *self._after)
        return shape


class _KeptInput:
    """An input tensor that is filled anew for each run."""

    __slots__ = ("_large", "_small", "dtype", "shape", "tensor")

    def __init__(self, library: LibTensorFlow, tensor: int, array: np.ndarray) -> None:
        self.tensor = c_void_p(tensor)
        self.shape = array.shape
        self.dtype = array.dtype
        memory = (c_char * array.nbytes).from_address(library["TF_TensorData"](tensor))
        self._small: memoryview | None = None
        self._large: np.ndarray = np.ndarray(array.shape, array.dtype, memoryview(memory))
        if array.nbytes < COPY_BELOW:
            self._small = memoryview(memory).cast("B")

    @property
    def nbytes(self) -> int:
        """The size of the tensor."""
        return self._large.nbytes

    def fill(self, array: np.ndarray) -> None:
        """Copy the values of an array of the same type and shape into the tensor."""
        if self._small is not None:
            self._small[:] = array.tobytes()  # quicker, for as little as this
        else:
            self._large[...] = array


class Plan:
    """One set of feeds and fetches of a session, resolved once and run many times."""

    def __init__(
        self,
        inputs: Sequence[Output],
        outputs: Sequence[Output],
        known_outputs: Sequence[_KnownOutput | None],
    ) -> None:
        self.inputs = (Output * len(inputs))(*inputs)
        self.outputs = (Output * len(outputs))(*outputs)
        self.known_outputs = list(known_outputs)
        self.desks: deque[_Desk] = deque()

    def close(self) -> None:
        """Free what is kept for further runs; there must be none under way."""
        while self.desks:
            self.desks.pop().close()


class _Desk:
    """What one run at a time reads and writes; kept for the next run."""

    __slots__ = ("_library", "_passing", "arguments", "first_output", "inputs", "kept", "outputs")

    def __init__(self, session: Session, plan: Plan) -> None:
        library = self._library = session.library
        input_count, output_count = len(plan.inputs), len(plan.outputs)
        self.inputs: Any = (c_void_p * input_count)()  # Any: ctypes arrays of pointers
        self.outputs: Any = (c_void_p * output_count)()
        self.kept: list[_KeptInput | None] = [None] * input_count
        self._passing: list[int] = []
        # As TF_SessionRun takes them: objects that ctypes passes on without a look.
        self.arguments = (
            c_void_p(session.address),
            c_void_p(session.run_here),
            plan.inputs,
            self.inputs,
            input_count,
            plan.outputs,
            self.outputs,
            output_count,
            None,
            0,
            None,
            c_void_p(library["TF_NewStatus"]()),
        )
        # Reads the first output's address at each call it is handed to.
        self.first_output = c_void_p.from_buffer(self.outputs) if output_count else c_void_p()

    @property
    def status(self) -> c_void_p:
        """The status of the last run."""
        return self.arguments[-1]

    def lay(self, position: int, array: np.ndarray) -> None:
        """Make a new tensor of ``array`` for an input, kept for later runs if there is room."""
        self._drop(position)
        tensor = self._library.new_tensor(array)
        self.inputs[position] = tensor
        if array.nbytes and not array.dtype.hasobject and self._library.may_keep(array.nbytes):
            self.kept[position] = _KeptInput(self._library, tensor, array)
        else:
            self._passing.append(tensor)

    def clear(self) -> None:
        """Free the inputs that are not kept."""
        while self._passing:
            self._library.delete_tensor(self._passing.pop())

    def close(self) -> None:
        """Free everything."""
        self.clear()
        for position in range(len(self.kept)):
            self._drop(position)
        self._library["TF_DeleteStatus"](self.status)

    def _drop(self, position: int) -> None:
        kept, self.kept[position] = self.kept[position], None
        if kept is not None:
            self._library.delete_tensor(kept.tensor)
            self._library.keep_less(kept.nbytes)


class Session:
    """A loaded SavedModel: its graph, its variables, and runs over them."""

    def __init__(self, library: LibTensorFlow, session: int, graph: int, meta_graph: int) -> None:
        self.library = library
        self.address = session
        self._graph = graph
        self._meta_graph = meta_graph
        self.run_here: int = _options(library, _RUN_IN_CALLER_THREAD)
        # Looked up once: each is called for every run.
        self._session_run = library.session_run
        self._get_code = library["TF_GetCode"]
        self._may_be_filled = library["TF_TensorMaybeMove"]
        self._byte_size = library["TF_TensorByteSize"]
        self._data = library["TF_TensorData"]
        self._delete = library.delete_tensor
        self._bytes_at = library.bytes_at
        self._then: Callable[[], None] | None = None

    def on_close(self, then: Callable[[], None]) -> None:
        """Call ``then`` once the session is freed."""
        self._then = then

    @property
    def graph(self) -> int:
        """The TF_Graph, which is freed with the session."""
        return self._graph

    @contextmanager
    def meta_graph_def(self) -> Iterator[memoryview]:
        """The serialized MetaGraphDef, in TensorFlow's memory; freed at the end, so once only."""
        buffer = _Buffer.from_address(self._meta_graph)
        view = memoryview((c_char * buffer.length).from_address(buffer.data)).cast("B")
        try:
            yield view
        finally:
            view.release()
            self.library["TF_DeleteBuffer"](self._meta_graph)
            self._meta_graph = 0

    def plan(self, feeds: Sequence[str], fetches: Sequence[str]) -> Plan:
        """Resolve tensor names (``op:index``, or ``op`` for its first output).

        Raises:
            NotFound: the graph has no such tensor.
        """
        inputs = [self._tensor(name, "FeedInputs: unable to find feed output {}") for name in feeds]
        outputs = [self._tensor(name, "FetchOutputs node {}: not found") for name in fetches]
        return Plan(inputs, outputs, [self._known_output(output) for output in outputs])

    def run(
        self,
        plan: Plan,
        arrays: Sequence[np.ndarray],
        *,
        in_caller_thread: bool = False,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        """Run once: in the caller's thread, or in TensorFlow's pool, where ``timeout_s`` holds.

        Raises:
            ServingError: what TensorFlow says.
        """
        try:
            desk = plan.desks.pop()
        except IndexError:
            desk = _Desk(self, plan)
        try:
            for position, array in enumerate(arrays):
                kept = desk.kept[position]
                if (
                    kept is not None
                    and kept.shape == array.shape
                    and kept.dtype == array.dtype
                    and self._may_be_filled(kept.tensor)
                ):
                    kept.fill(array)
                else:
                    desk.lay(position, array)
            if in_caller_thread:
                self._session_run(*desk.arguments)
            else:
                self._run_in_pool(desk, timeout_s)
            if self._get_code(desk.arguments[-1]):
                self.library.raise_for(desk.status)
            return self._results(plan, desk)
        finally:
            desk.clear()
            plan.desks.append(desk)

    def _run_in_pool(self, desk: _Desk, timeout_s: float | None) -> None:
        options = None
        if timeout_s is not None:
            timeout_ms = min(max(int(timeout_s * 1000), 1), (1 << 31) - 1)
            options = c_void_p(_options(self.library, b"\x10" + encode_varint(timeout_ms)))
        session, _, *others = desk.arguments
        try:
            self._session_run(session, options, *others)
        finally:
            if options is not None:
                self.library["TF_DeleteBuffer"](options)

    def _results(self, plan: Plan, desk: _Desk) -> list[np.ndarray]:
        if len(plan.known_outputs) != 1:
            return self._take_all(desk.outputs, len(plan.known_outputs))
        known = plan.known_outputs[0]  # one output is by far the most frequent
        if known is None:
            return [self.library.take_array(desk.outputs[0])]
        tensor = desk.first_output
        size = self._byte_size(tensor)
        shape = known.shape(size) if size < COPY_BELOW else None
        if shape is None:
            return [self.library.take_array(desk.outputs[0])]
        values: np.ndarray = np.ndarray(
            shape, known.dtype, self._bytes_at(self._data(tensor), size)
        )
        self._delete(tensor)
        return [values]

    def _take_all(self, outputs: Any, count: int) -> list[np.ndarray]:  # a ctypes array
        taken: list[np.ndarray] = []
        position = 0
        try:
            while position < count:
                position += 1
                taken.append(self.library.take_array(outputs[position - 1]))
        except ServingError:
            for i in range(position, count):
                self.library.delete_tensor(outputs[i])
            raise
        return taken

    def close(self) -> None:
        """Free the session, its variables and its graph.  No run may be under way or follow."""
        library = self.library
        library["TF_DeleteBuffer"](self.run_here)
        for name in ("TF_CloseSession", "TF_DeleteSession"):
            status = library.take_status()
            library[name](self.address, status)
            library.check(status)
        library["TF_DeleteGraph"](self._graph)
        if self._meta_graph:
            library["TF_DeleteBuffer"](self._meta_graph)
        if self._then is not None:
            self._then()

    def _tensor(self, name: str, missing: str) -> Output:
        operation, _, index = name.rpartition(":")
        if not operation:
            operation, index = name, "0"
        found = self.library["TF_GraphOperationByName"](self._graph, operation.encode())
        if not found or not index.isdecimal():
            raise NotFound(missing.format(name))
        return Output(found, int(index))

    def _known_output(self, output: Output) -> _KnownOutput | None:
        """What the graph says of an output; None where that does not tell a tensor's shape."""
        dtype = NUMPY_DTYPES.get(self.library["TF_OperationOutputType"](output))
        if dtype is None or dtype.hasobject:
            return None
        status = self.library.take_status()
        rank = self.library["TF_GraphGetTensorNumDims"](self._graph, output, status)
        self.library.check(status)
        if rank < 0:
            return None
        dims = (c_int64 * rank)()
        status = self.library.take_status()
        self.library["TF_GraphGetTensorShape"](
            self._graph, output, ctypes.addressof(dims), rank, status
        )
        self.library.check(status)
        return _KnownOutput(dtype, tuple(dims)) if tuple(dims).count(-1) <= 1 else None


def load_session(
    library: LibTensorFlow, path: Path, tags: Sequence[str], config: bytes = b""
) -> Session:
    """Load the SavedModel in ``path``: restore its variables, run its init op.

    ``config`` is a serialized ``tensorflow.ConfigProto``.

    Raises:
        ServingError: what TensorFlow's loader says.
    """
    options = library["TF_NewSessionOptions"]()
    # In this thread: a disk that hangs would hold threads that TensorFlow shares among all models.
    run_options = _options(library, _RUN_IN_CALLER_THREAD)
    graph = library["TF_NewGraph"]()
    meta_graph = library["TF_NewBuffer"]()
    try:
        status = library.take_status()
        library["TF_SetConfig"](options, config, len(config), status)
        library.check(status)
        encoded = [tag.encode() for tag in tags]
        tag_array = (c_char_p * len(encoded))(*encoded)
        status = library.take_status()
        session = library["TF_LoadSessionFromSavedModel"](
            options,
            run_options,
            bytes(path),
            ctypes.cast(tag_array, c_void_p),
            len(encoded),
            graph,
            meta_graph,
            status,
        )
        library.check(status)
    except ServingError:
        library["TF_DeleteBuffer"](meta_graph)
        library["TF_DeleteGraph"](graph)
        raise
    finally:
        library["TF_DeleteBuffer"](run_options)
        library["TF_DeleteSessionOptions"](options)
    return Session(library, session, graph, meta_graph)


def _options(library: LibTensorFlow, serialized: bytes) -> int:
    """A TF_Buffer with a ``tensorflow.RunOptions``."""
    buffer: int = library["TF_NewBufferFromString"](serialized, len(serialized))
    return buffer
