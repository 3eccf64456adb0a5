"""TensorFlow's C API as Python: sessions over SavedModels, and nothing of TensorFlow's own Python.

The ``tensorflow`` wheel carries ``libtensorflow_cc``, which exports the stable C API that the Go,
Java and Rust bindings use.  Opened with ctypes it starts in a fraction of the time that importing
the package takes, and a load never holds the interpreter.

Calls that return at once keep the interpreter lock (PyDLL): releasing it would cost more than they
do.  Loading, running and closing release it (CDLL).  Every object here may be used from any thread;
a session must not be closed while a run is under way, which its owner sees to.
"""

from __future__ import annotations

import ctypes
import importlib.util
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_ssize_t, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np

from salver.dtypes import DType, numpy_dtypes
from salver.errors import FailedPrecondition, InvalidArgument, error_for


class Output(ctypes.Structure):
    """struct TF_Output: one output of one operation."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


_TSTRING_BYTES: Final = 24
_SMALL: Final = struct.Struct("B23s")
_SMALL_CAPACITY: Final = 22
"""struct TF_TString holds up to this many bytes in place, its first byte being length * 4."""

COPY_BELOW: Final = 16 << 10
"""An output smaller than this is copied; a larger one is lent from TensorFlow's own memory."""

MOST_KEPT_BYTES: Final = 64 << 20
"""Of input tensors that are kept to be filled again, in all sessions together."""

# The C API's functions: name, result, arguments. TF_SessionRun and the like wait, so they are
# looked up in the library that releases the interpreter lock.
_QUICK: Final[dict[str, tuple[Any, ...]]] = {
    "TF_Version": (c_char_p,),
    "TF_NewStatus": (c_void_p,),
    "TF_DeleteStatus": (None, c_void_p),
    "TF_GetCode": (c_int, c_void_p),
    "TF_Message": (c_void_p, c_void_p),
    "TF_NewBuffer": (c_void_p,),
    "TF_NewBufferFromString": (c_void_p, c_char_p, c_size_t),
    "TF_DeleteBuffer": (None, c_void_p),
    "TF_NewSessionOptions": (c_void_p,),
    "TF_SetConfig": (None, c_void_p, c_char_p, c_size_t, c_void_p),
    "TF_DeleteSessionOptions": (None, c_void_p),
    "TF_NewGraph": (c_void_p,),
    "TF_NewImportGraphDefOptions": (c_void_p,),
    "TF_DeleteImportGraphDefOptions": (None, c_void_p),
    "TF_ImportGraphDefOptionsSetDefaultDevice": (None, c_void_p, c_char_p),
    "TF_NewOperation": (c_void_p, c_void_p, c_char_p, c_char_p),
    "TF_AddInput": (None, c_void_p, Output),
    "TF_AddControlInput": (None, c_void_p, c_void_p),
    "TF_FinishOperation": (c_void_p, c_void_p, c_void_p),
    "TF_GraphOperationByName": (c_void_p, c_void_p, c_char_p),
    "TF_OperationName": (c_char_p, c_void_p),
    "TF_OperationNumInputs": (c_int, c_void_p),
    "TF_OperationInput": (Output, Output),  # TF_Input is made like TF_Output
    "TF_OperationNumOutputs": (c_int, c_void_p),
    "TF_OperationOutputType": (c_int, Output),
    "TF_GraphGetTensorNumDims": (c_int, c_void_p, Output, c_void_p),
    "TF_GraphGetTensorShape": (None, c_void_p, Output, c_void_p, c_int, c_void_p),
    "TF_SessionListDevices": (c_void_p, c_void_p, c_void_p),
    "TF_DeviceListCount": (c_int, c_void_p),
    "TF_DeviceListName": (c_char_p, c_void_p, c_int, c_void_p),
    "TF_DeleteDeviceList": (None, c_void_p),
    "TF_AllocateTensor": (c_void_p, c_int, c_void_p, c_int, c_size_t),
    "TF_NewTensor": (
        c_void_p,
        c_int,
        c_void_p,
        c_int,
        c_void_p,
        c_size_t,
        c_void_p,
        c_void_p,
    ),
    "TF_DeleteTensor": (None, c_void_p),
    "TF_TensorMaybeMove": (c_void_p, c_void_p),
    "TF_TensorType": (c_int, c_void_p),
    "TF_NumDims": (c_int, c_void_p),
    "TF_Dim": (c_int64, c_void_p, c_int),
    "TF_TensorByteSize": (c_size_t, c_void_p),
    "TF_TensorData": (c_void_p, c_void_p),
    "TF_StringInit": (None, c_void_p),
    "TF_StringCopy": (None, c_void_p, c_char_p, c_size_t),
    "TF_StringGetDataPointer": (c_void_p, c_void_p),
    "TF_StringGetSize": (c_size_t, c_void_p),
    "TF_StringDealloc": (None, c_void_p),
}
_WAITING: Final[dict[str, tuple[Any, ...]]] = {
    "TF_LoadLibrary": (c_void_p, c_char_p, c_void_p),
    "TF_GraphImportGraphDef": (None, c_void_p, c_void_p, c_void_p, c_void_p),
    "TF_NewSession": (c_void_p, c_void_p, c_void_p, c_void_p),
    "TF_LoadSessionFromSavedModel": (c_void_p, *(c_void_p,) * 4, c_int, *(c_void_p,) * 3),
    "TF_CloseSession": (None, c_void_p, c_void_p),
    "TF_DeleteSession": (None, c_void_p, c_void_p),
    "TF_DeleteGraph": (None, c_void_p),
}

NUMPY_DTYPES: Final = numpy_dtypes()
_NUMBERS: Final = {dtype: number for number, dtype in NUMPY_DTYPES.items()}
_STRING: Final = int(DType.STRING)

_Deallocator: Final = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_void_p)


class LibTensorFlow:
    """The loaded library.  Make one per process and pass it on.

    Raises:
        FailedPrecondition: no TensorFlow is installed, or its library cannot be opened.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or _tensorflow_folder()
        suffix = "2.dylib" if sys.platform == "darwin" else "so.2"
        try:
            # Not RTLD_GLOBAL: TensorFlow exports a whole BoringSSL, and Python's own ssl or
            # hashlib, imported later, would bind to it and crash.  Custom op libraries name what
            # they link to and find it all the same.
            ctypes.CDLL(str(folder / f"libtensorflow_framework.{suffix}"))
            path = str(folder / f"libtensorflow_cc.{suffix}")
            waiting = ctypes.CDLL(path)
            quick = ctypes.PyDLL(path)
        except OSError as error:
            raise FailedPrecondition(
                f"TensorFlow's C library cannot be opened in {folder}: {error}. "
                "Reinstalling helps: pip install --force-reinstall tensorflow"
            ) from error
        self.folder = folder
        self._call: dict[str, Callable[..., Any]] = {
            **{name: _function(quick, name, types) for name, types in _QUICK.items()},
            **{name: _function(waiting, name, types) for name, types in _WAITING.items()},
        }
        # The functions of every run, bound once: a dictionary look-up each would show.
        self._get_code = self._call["TF_GetCode"]
        self._allocate_tensor = self._call["TF_AllocateTensor"]
        self._tensor_data = self._call["TF_TensorData"]
        self._tensor_type = self._call["TF_TensorType"]
        self._tensor_byte_size = self._call["TF_TensorByteSize"]
        self._num_dims = self._call["TF_NumDims"]
        self._dim = self._call["TF_Dim"]
        self.delete_tensor = self._call["TF_DeleteTensor"]
        self.session_run = waiting["TF_SessionRun"]
        """Takes ctypes objects, None and small numbers as they are: checking them would show."""
        self.session_run.restype = None
        self.bytes_at = ctypes.pythonapi["PyBytes_FromStringAndSize"]
        """A copy of memory, by address and size."""
        self.bytes_at.restype, self.bytes_at.argtypes = ctypes.py_object, (c_void_p, c_ssize_t)
        self._dims = lru_cache(maxsize=1024)(_dims)
        self._statuses: deque[int] = deque()
        self._strings_in_use: dict[int, tuple[Any, Sequence[int]]] = {}
        self._kept_lock = threading.Lock()
        self._kept_bytes = 0
        self._free_strings = _Deallocator(self._on_strings_unused)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """A function of the C API, typed."""
        return self._call[name]

    @property
    def version(self) -> str:
        """TensorFlow's version: ``2.21.0``."""
        version: bytes = self._call["TF_Version"]()
        return version.decode()

    def take_status(self) -> int:
        """A TF_Status to hand to a call; give it back with ``check``."""
        try:
            return self._statuses.pop()
        except IndexError:
            status: int = self._call["TF_NewStatus"]()
            return status

    def check(self, status: int) -> None:
        """Give a status back.

        Raises:
            ServingError: the call it was handed to failed; code and text are TensorFlow's.
        """
        code = self._get_code(status)
        if code == 0:
            self._statuses.append(status)
            return
        try:
            self.raise_for(status)
        finally:
            self._call["TF_DeleteStatus"](status)

    def raise_for(self, status: int | c_void_p) -> NoReturn:
        """Raise what a status says; the code and the text are TensorFlow's."""
        message = ctypes.string_at(self._call["TF_Message"](status))
        raise error_for(self._get_code(status), message.decode("utf-8", "surrogateescape"))

    def may_keep(self, size: int) -> bool:
        """Whether a tensor of so many bytes may be kept; if so, they are counted."""
        with self._kept_lock:
            if self._kept_bytes + size > MOST_KEPT_BYTES:
                return False
            self._kept_bytes += size
            return True

    def keep_less(self, size: int) -> None:
        """Count a kept tensor out."""
        with self._kept_lock:
            self._kept_bytes -= size

    def load_op_library(self, path: Path) -> None:
        """Register the custom ops and kernels of a shared library, for good.

        Raises:
            ServingError: TensorFlow cannot open it; the text is the dynamic linker's.
        """
        status = self.take_status()
        self._call["TF_LoadLibrary"](bytes(path), status)
        self.check(status)

    def new_tensor(self, array: np.ndarray) -> int:
        """A TF_Tensor holding a copy of ``array``; give it back with ``TF_DeleteTensor``.

        Raises:
            InvalidArgument: TensorFlow has no such element type, or an item is not ``bytes``.
        """
        number = _NUMBERS.get(array.dtype) or int(DType.of(array.dtype))
        if number == _STRING:
            return self._new_string_tensor(array)
        size = array.nbytes
        tensor: int = self._allocate_tensor(number, self._dims(array.shape), array.ndim, size)
        if size:
            target = self._tensor_data(tensor)
            if size < COPY_BELOW:
                ctypes.memmove(target, array.tobytes(), size)
            else:
                contiguous = np.ascontiguousarray(array)
                ctypes.memmove(target, contiguous.ctypes.data, size)
        return tensor

    def _new_string_tensor(self, array: np.ndarray) -> int:
        strings = _encoded(array)
        if all(len(item) <= _SMALL_CAPACITY for item in strings):
            return self._new_small_string_tensor(strings, array.shape)
        block = ctypes.create_string_buffer(max(len(strings), 1) * _TSTRING_BYTES)
        address = ctypes.addressof(block)
        elements = range(address, address + len(strings) * _TSTRING_BYTES, _TSTRING_BYTES)
        init, copy = self._call["TF_StringInit"], self._call["TF_StringCopy"]
        for element, item in zip(elements, strings, strict=True):
            init(element)
            copy(element, item, len(item))
        # The graph may keep the tensor longer than the run (a variable, an output that is the
        # input), so the strings are freed when TensorFlow drops its last reference.
        self._strings_in_use[address] = (block, elements)
        tensor: int = self._call["TF_NewTensor"](
            _STRING,
            self._dims(array.shape),
            array.ndim,
            address,
            len(strings) * _TSTRING_BYTES,
            self._free_strings,
            None,
        )
        return tensor

    def _new_small_string_tensor(self, strings: Sequence[bytes], shape: tuple[int, ...]) -> int:
        """Strings that fit in place own no memory, so nothing has to be freed but the block."""
        packed = b"".join([_SMALL.pack(len(item) << 2, item) for item in strings])
        tensor: int = self._allocate_tensor(_STRING, self._dims(shape), len(shape), len(packed))
        if packed:
            ctypes.memmove(self._tensor_data(tensor), packed, len(packed))
        return tensor

    def _on_strings_unused(self, address: int, _length: int, _arg: int) -> None:
        _block, elements = self._strings_in_use.pop(address)
        dealloc = self._call["TF_StringDealloc"]
        for element in elements:
            dealloc(element)

    def take_array(self, tensor: int) -> np.ndarray:
        """The values of a TF_Tensor, which this call takes over."""
        rank = self._num_dims(tensor)
        shape: tuple[int, ...]
        if rank == 1:
            shape = (self._dim(tensor, 0),)
        else:
            shape = tuple([self._dim(tensor, i) for i in range(rank)])
        number = self._tensor_type(tensor)
        dtype = NUMPY_DTYPES.get(number)
        if dtype is None:
            self.delete_tensor(tensor)
            raise InvalidArgument(f"an output of type {number} cannot be sent")
        if number == _STRING:
            return self._take_strings(tensor, shape)
        size = self._tensor_byte_size(tensor)
        if size < COPY_BELOW:
            values: np.ndarray = np.ndarray(
                shape, dtype, ctypes.string_at(self._tensor_data(tensor), size)
            )
            self.delete_tensor(tensor)
            return values
        lent = np.asarray(_LentTensor(self, tensor, size))
        return lent.view(dtype).reshape(shape)

    def _take_strings(self, tensor: int, shape: tuple[int, ...]) -> np.ndarray:
        get_size, get_data = self._call["TF_StringGetSize"], self._call["TF_StringGetDataPointer"]
        array = np.empty(shape, object)
        flat = array.reshape(-1)
        address = self._tensor_data(tensor)
        block = ctypes.string_at(address, array.size * _TSTRING_BYTES) if array.size else b""
        for i in range(array.size):
            start = i * _TSTRING_BYTES
            if block[start] & 3 == 0:
                flat[i] = block[start + 1 : start + 1 + (block[start] >> 2)]
                continue
            element = address + start
            flat[i] = ctypes.string_at(get_data(element), get_size(element))
        self.delete_tensor(tensor)
        return array


class _LentTensor:
    """Keeps a TF_Tensor for as long as an array looks into it (NumPy's array interface)."""

    __slots__ = ("__array_interface__", "_library", "_tensor")

    def __init__(self, library: LibTensorFlow, tensor: int, size: int) -> None:
        self._library = library
        self._tensor = tensor
        self.__array_interface__ = {
            "data": (library["TF_TensorData"](tensor), True),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self) -> None:
        self._library.delete_tensor(self._tensor)


def _tensorflow_folder() -> Path:
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise FailedPrecondition(
            "this model needs TensorFlow, which is not installed; "
            'pip install "salver[tensorflow]" or "salver[tensorflow-cpu]" adds it'
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _function(library: ctypes.CDLL, name: str, types: tuple[Any, ...]) -> Callable[..., Any]:
    function = library[name]  # a new object at each look-up, so the two libraries share no types
    function.restype, *arguments = types
    function.argtypes = arguments
    return function


def _dims(shape: tuple[int, ...]) -> Any:  # a ctypes array of int64
    return (c_int64 * len(shape))(*shape)


def _encoded(array: np.ndarray) -> list[bytes]:
    strings: list[bytes] = array.reshape(-1).tolist()
    if all(type(item) is bytes for item in strings):
        return strings
    return [_encoded_item(item) for item in strings]


def _encoded_item(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    raise InvalidArgument(f"a string tensor holds bytes or str, not {type(item).__name__}")
