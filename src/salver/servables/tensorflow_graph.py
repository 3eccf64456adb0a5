"""A graph that is imported here, where TensorFlow's own loader offers no say in how.

The order is: ``add`` what was read, open a session over it, run what fills the session.  Nothing is
copied that TensorFlow can read where it lies.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_char, c_size_t, c_void_p

import numpy as np

from salver.errors import NotFound
from salver.servables.libtensorflow import LibTensorFlow, Output
from salver.servables.tensorflow_session import Session


class _Buffer(ctypes.Structure):
    """struct TF_Buffer over bytes that stay ours."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("data_deallocator", c_void_p))


class Graph:
    """A TF_Graph; the session that is made of it takes it over."""

    def __init__(self, library: LibTensorFlow) -> None:
        self._library = library
        self.address: int = library["TF_NewGraph"]()

    def close(self) -> None:
        """Free a graph that no session has taken over."""
        self._library["TF_DeleteGraph"](self.address)

    def add(self, content: bytearray, start: int, end: int, *, default_device: str = "") -> None:
        """Import the GraphDef that lies in ``content``; ops without a device get the default one.

        Raises:
            ServingError: what TensorFlow says of it.
        """
        library = self._library
        memory = (c_char * len(content)).from_buffer(content)  # content cannot move meanwhile
        buffer = _Buffer(ctypes.addressof(memory) + start, end - start, None)
        options = library["TF_NewImportGraphDefOptions"]()
        status = library.take_status()
        try:
            if default_device:
                library["TF_ImportGraphDefOptionsSetDefaultDevice"](
                    options, default_device.encode()
                )
            library["TF_GraphImportGraphDef"](
                self.address, ctypes.addressof(buffer), options, status
            )
        finally:
            library["TF_DeleteImportGraphDefOptions"](options)
        library.check(status)

    def new_session(self, config: bytes) -> int:
        """A TF_Session over the graph.  ``config`` is a serialized ``tensorflow.ConfigProto``.

        Raises:
            ServingError: what TensorFlow says of ``config``.
        """
        library = self._library
        options = library["TF_NewSessionOptions"]()
        try:
            status = library.take_status()
            library["TF_SetConfig"](options, config, len(config), status)
            library.check(status)
            status = library.take_status()
            session: int = library["TF_NewSession"](self.address, options, status)
            library.check(status)
        finally:
            library["TF_DeleteSessionOptions"](options)
        return session

    def operation(self, name: str) -> int:
        """The operation ``name``, or the one that makes the tensor ``name``.

        Raises:
            NotFound: there is none.
        """
        found: int | None = self._library["TF_GraphOperationByName"](
            self.address, name.partition(":")[0].encode()
        )
        if not found:
            raise NotFound(f"the graph has no {name!r}, which it needs to load; export it again")
        return found

    def output(self, name: str) -> Output:
        """The tensor ``name``: ``op:index``, or ``op`` for its first.

        Raises:
            NotFound: there is none.
        """
        index = name.partition(":")[2] or "0"
        found = self.operation(name)
        count = self._library["TF_OperationNumOutputs"](found)
        if not index.isdecimal() or int(index) >= count:
            raise NotFound(f"the graph has no {name!r}, which it needs to load; export it again")
        return Output(found, int(index))

    def add_no_op(self, name: str) -> int:
        """A new operation that does nothing; running it has TensorFlow place the whole graph.

        Raises:
            ServingError: the name is taken.
        """
        description = self._library["TF_NewOperation"](self.address, b"NoOp", name.encode())
        status = self._library.take_status()
        operation: int = self._library["TF_FinishOperation"](description, status)
        self._library.check(status)
        return operation


class GraphSession(Session):
    """A session whose MetaGraphDef was read from a file, and not by TensorFlow."""

    def __init__(
        self, library: LibTensorFlow, session: int, graph: int, meta_graph: memoryview
    ) -> None:
        super().__init__(library, session, graph, 0)
        self._content = meta_graph

    @contextmanager
    def meta_graph_def(self) -> Iterator[memoryview]:
        """The serialized MetaGraphDef; freed at the end, so once only."""
        content, self._content = self._content, memoryview(b"")
        with content:
            yield content


def run_op(session: Session, target: int, feeds: Sequence[tuple[Output, bytes]]) -> None:
    """Run one op, with strings fed, in this thread: a disk that hangs holds nobody else's.

    Raises:
        ServingError: what TensorFlow says.
    """
    library = session.library
    count = len(feeds)
    tensors = [library.new_tensor(np.array(text, object)) for _, text in feeds]
    status = library.take_status()
    try:
        library.session_run(
            c_void_p(session.address),
            c_void_p(session.run_here),
            (Output * count)(*(output for output, _ in feeds)),
            (c_void_p * count)(*tensors),
            count,
            None,
            None,
            0,
            (c_void_p * 1)(target),
            1,
            None,
            c_void_p(status),
        )
    finally:
        for tensor in tensors:
            library.delete_tensor(tensor)
    library.check(status)


def devices_of(library: LibTensorFlow, session: int) -> list[str]:
    """The full names of the devices that a TF_Session can use.

    Raises:
        ServingError: what TensorFlow says.
    """
    status = library.take_status()
    listed = library["TF_SessionListDevices"](session, status)
    library.check(status)
    try:
        return [
            _device_name(library, listed, index)
            for index in range(library["TF_DeviceListCount"](listed))
        ]
    finally:
        library["TF_DeleteDeviceList"](listed)


def _device_name(library: LibTensorFlow, listed: int, index: int) -> str:
    status = library.take_status()
    name: bytes = library["TF_DeviceListName"](listed, index, status)
    library.check(status)
    return name.decode()
