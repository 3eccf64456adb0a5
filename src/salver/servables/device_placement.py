"""On which device each operation of a SavedModel runs: told by TensorFlow, which has to run it.

What ``log_device_placement`` writes while a model is loaded stops at calls of functions, and in a
model of TensorFlow 2 everything is in one.  So each signature is run once, with zeros, and
TensorFlow is asked for the graphs that it cut the run into, one for each device.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_char, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from salver.dtypes import DType
from salver.errors import DataLoss, InvalidArgument, ServingError
from salver.protos.saved_model_file_pb2 import GraphDef
from salver.saved_model_files import nested
from salver.servables.devices import device_name
from salver.servables.libtensorflow import LibTensorFlow, Output
from salver.servables.meta_graph import signature_defs
from salver.servables.placed_session import load_session_on
from salver.servables.tensorflow_graph import Graph, devices_of
from salver.servables.tensorflow_session import Session, load_session
from salver.servables.twin_variables import fill_from_twins
from salver.signature import Signature, TensorInfo, read_signature

MAX_ZEROS_BYTES: Final = 64 << 20
"""Of an input that is made up."""

_OF_THE_LOADER: Final = frozenset({"__saved_model_init_op", "__saved_model_train_op"})

_WITH_GRAPHS: Final = b"\x28\x01"
"""tensorflow.RunOptions { output_partition_graphs: true }."""

_PARTITION_GRAPHS: Final = 3
"""The number of RunMetadata's field."""

_PLUMBING: Final = frozenset({"_Arg", "_Retval", "_Send", "_Recv", "_HostSend", "_HostRecv"})
"""Ops that TensorFlow adds to carry tensors in, out and between devices."""


class _Buffer(ctypes.Structure):
    """struct TF_Buffer: bytes that TensorFlow wrote."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("data_deallocator", c_void_p))


@dataclass(frozen=True, slots=True)
class PlacedOp:
    """One operation and where it ran, ``/device:CPU:0``; after TensorFlow's rewriting."""

    name: str
    op: str
    device: str


@dataclass(frozen=True, slots=True)
class Placement:
    """The operations of one signature; none, and why, where it could not be run."""

    signature: str
    ops: tuple[PlacedOp, ...] = ()
    error: ServingError | None = None


def placements(
    library: LibTensorFlow,
    folder: Path,
    tags: Sequence[str],
    config: bytes = b"",
    device: str = "",
) -> Iterator[Placement]:
    """Load the SavedModel in ``folder`` and run its signatures, one after the other.

    ``config`` is a serialized ``tensorflow.ConfigProto``; ``device`` is the model's own, if any.

    Raises:
        ServingError: it cannot be loaded.
    """
    if device:
        session = load_session_on(device, library, folder, tags, config)
    else:
        session = load_session(library, folder, tags, config)
    try:
        with session.meta_graph_def() as meta_graph:
            definitions = signature_defs(meta_graph)
            fill_from_twins(session, meta_graph)
        for name in sorted(definitions.keys() - _OF_THE_LOADER):
            yield _placement(session, name, read_signature(definitions[name]))
    finally:
        session.close()


def available_devices(library: LibTensorFlow, config: bytes = b"") -> list[str]:
    """The short names of the devices that a session with ``config`` has.

    Raises:
        ServingError: what TensorFlow says of ``config``.
    """
    graph = Graph(library)
    try:
        session = Session(library, graph.new_session(config), graph.address, 0)
    except BaseException:
        graph.close()
        raise
    try:
        return [device_name(name) for name in devices_of(library, session.address)]
    finally:
        session.close()


def _placement(session: Session, name: str, signature: Signature) -> Placement:
    try:
        return Placement(name, tuple(_run(session, signature)))
    except ServingError as error:
        return Placement(name, error=error)


def _run(session: Session, signature: Signature) -> list[PlacedOp]:
    if not signature.inputs:
        raise InvalidArgument("it has no inputs, and a run of it might do anything")
    feeds = _zeros(signature)
    plan = session.plan(list(feeds), [info.name for info in signature.outputs.values()])
    try:
        return _read(_run_metadata(session, plan.inputs, list(feeds.values()), plan.outputs))
    finally:
        plan.close()


def _run_metadata(
    session: Session,
    inputs: ctypes.Array[Output],
    arrays: Sequence[np.ndarray],
    outputs: ctypes.Array[Output],
) -> bytes:
    """Run once and drop the results; the serialized RunMetadata."""
    library = session.library
    options = library["TF_NewBufferFromString"](_WITH_GRAPHS, len(_WITH_GRAPHS))
    metadata = library["TF_NewBuffer"]()
    results = (c_void_p * len(outputs))()
    tensors: list[int] = []
    status = library.take_status()
    try:
        tensors += [library.new_tensor(array) for array in arrays]
        library.session_run(
            c_void_p(session.address),
            c_void_p(options),
            inputs,
            (c_void_p * len(tensors))(*tensors),
            len(tensors),
            outputs,
            results,
            len(outputs),
            None,
            0,
            c_void_p(metadata),
            c_void_p(status),
        )
        library.check(status)
        buffer = _Buffer.from_address(metadata)
        return bytes((c_char * buffer.length).from_address(buffer.data)) if buffer.length else b""
    finally:
        for tensor in (*tensors, *filter(None, results)):
            library.delete_tensor(tensor)
        library["TF_DeleteBuffer"](metadata)
        library["TF_DeleteBuffer"](options)


def _read(metadata: bytes) -> list[PlacedOp]:
    """The operations in a RunMetadata, by device and name."""
    try:
        with memoryview(metadata) as view:
            graphs = [
                GraphDef.FromString(bytes(view[start:end]))
                for start, end in nested(view, 0, len(view), (_PARTITION_GRAPHS,))
            ]
    except ValueError as error:
        raise DataLoss(f"TensorFlow's account of the run cannot be read: {error}") from error
    placed = [
        PlacedOp(node.name, node.op, node.device.rpartition("/task:0")[2])
        for graph in graphs
        for node in graph.node
        if node.op not in _PLUMBING
    ]
    return sorted(placed, key=lambda op: (op.device, op.name))


def _zeros(signature: Signature) -> Mapping[str, np.ndarray]:
    return {
        info.name: signature.defaults.get(alias, _zero(alias, info))
        for alias, info in signature.inputs.items()
    }


def _zero(alias: str, info: TensorInfo) -> np.ndarray:
    dtype = info.dtype.numpy
    shape = [1 if size < 0 else size for size in (info.shape or ())]
    if math.prod(shape) * dtype.itemsize > MAX_ZEROS_BYTES:
        raise InvalidArgument(f"input {alias!r}, of shape {shape}, is more than is made up")
    if info.dtype is DType.STRING:
        return np.full(shape, b"", object)
    return np.zeros(shape, dtype)
