"""The tensors of a REST Predict request.

``instances`` is the row format: a list with one element per row of the batch, each a value (one
input) or an object of values (any number of inputs). ``inputs`` is the columnar format: whole
tensors, one as it is or several by name.

Each format is read twice if need be. The quick reading takes requests that are plainly right,
large arrays without an object per number, and answers None to anything else. The exact reading
walks the tree as TensorFlow Serving does, so that the first thing wrong is the error reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simdjson

from salver.apis.json_excerpt import excerpt
from salver.apis.json_reader import JsonObject, Value
from salver.apis.rest_arrays import ROW_WORTHWHILE, Arrays, Path, find_arrays
from salver.apis.rest_document import ABSENT, Document, name_of
from salver.apis.rest_tensors import first_error, flatten, is_base64, shape_of, to_array
from salver.dtypes import DType
from salver.errors import InvalidArgument, ServingError
from salver.signature import Signature, TensorInfo


@dataclass(frozen=True, slots=True)
class PredictBody:
    """The inputs of a request by alias, and the format to answer in."""

    inputs: dict[str, np.ndarray]
    row_format: bool


def read_predict(document: Document, signature: Signature) -> PredictBody:
    """The tensors of a request, typed by the signature's inputs.

    Shapes are not compared with the signature: the graph decides.

    Raises:
        InvalidArgument: with TensorFlow Serving's text for the first thing wrong.
        Unimplemented: JSON cannot carry an input's type.
    """
    if document.quick is not None:
        body = _QuickReading(document).predict(signature)
        if body is not None:
            return body
    return _read_exactly(document, signature)


class _QuickReading:
    """One attempt on one document through simdjson. Every method may answer None: not certain."""

    __slots__ = ("_arrays", "_base64_seen", "_document", "_searched")

    def __init__(self, document: Document) -> None:
        self._document = document
        self._arrays: Arrays | None = None
        self._searched = False
        self._base64_seen = 0

    def predict(self, signature: Signature) -> PredictBody | None:
        instances = self._document.find("instances")
        columns = self._document.find("inputs")
        row_format = instances is not ABSENT
        if row_format == (columns is not ABSENT):
            return None
        inputs = (
            self._rows(instances, signature.inputs)
            if row_format
            else self._columns(columns, signature.inputs)
        )
        if inputs is None or self._hides_twin_base64_keys():
            return None
        return PredictBody(inputs, row_format)

    def _rows(
        self, instances: Any, wanted: Mapping[str, TensorInfo]
    ) -> dict[str, np.ndarray] | None:
        if not isinstance(instances, simdjson.Array) or not len(instances):
            return None
        first = instances[0]
        if isinstance(first, simdjson.Object) and not _is_quick_base64(first):
            return self._rows_of_objects(instances, wanted)
        return self._only(instances, ("instances",), wanted)

    def _rows_of_objects(
        self, instances: Any, wanted: Mapping[str, TensorInfo]
    ) -> dict[str, np.ndarray] | None:
        names = wanted.keys()
        rows = list(instances)
        for row in rows:
            if not isinstance(row, simdjson.Object) or len(row) != len(names):
                return None
        if len(rows) * ROW_WORTHWHILE <= len(self._document.text):
            stacked = self._stacked_rows(rows, wanted)
            if stacked is not None:
                return stacked
        members = instances.as_list()
        if any(row.keys() != names for row in members):
            return None
        return _all_found(
            {
                name: self._values([row[name] for row in members], info.dtype)
                for name, info in wanted.items()
            }
        )

    def _stacked_rows(
        self, rows: Sequence[Any], wanted: Mapping[str, TensorInfo]
    ) -> dict[str, np.ndarray] | None:
        """Rows with large arrays: each array by itself, then one above the other."""
        return _all_found(
            {name: self._stacked(rows, name, info.dtype) for name, info in wanted.items()}
        )

    def _stacked(self, rows: Sequence[Any], name: str, dtype: DType) -> np.ndarray | None:
        values = [row.get(name, ABSENT) for row in rows]
        if ABSENT in values:
            return None
        if dtype is DType.STRING or not isinstance(values[0], simdjson.Array):
            return self._values([_plain(value) for value in values], dtype)
        pieces = [self._large(("instances", row, name), dtype) for row in range(len(rows))]
        found = [piece for piece in pieces if piece is not None]
        if len(found) != len(rows) or any(piece.shape != found[0].shape for piece in found):
            return None
        return np.stack(found)

    def _columns(
        self, columns: Any, wanted: Mapping[str, TensorInfo]
    ) -> dict[str, np.ndarray] | None:
        if not isinstance(columns, simdjson.Object) or _is_quick_base64(columns):
            return self._only(columns, ("inputs",), wanted)
        return _all_found(
            {
                name: self._tensor(columns.get(name, ABSENT), ("inputs", name), info.dtype)
                for name, info in wanted.items()
            }
        )

    def _only(
        self, value: Any, path: Path, wanted: Mapping[str, TensorInfo]
    ) -> dict[str, np.ndarray] | None:
        """The one tensor of a request that names none."""
        if len(wanted) != 1:
            return None
        ((name, info),) = wanted.items()
        return _all_found({name: self._tensor(value, path, info.dtype)})

    def _tensor(self, value: Any, path: Path, dtype: DType) -> np.ndarray | None:
        if isinstance(value, simdjson.Array) and dtype is not DType.STRING:
            array = self._large(path, dtype)
            if array is not None:
                return array
        return self._values(_plain(value), dtype)

    def _large(self, path: Path, dtype: DType) -> np.ndarray | None:
        if not self._searched:
            self._searched = True
            self._arrays = find_arrays(self._document.text, self._document.quick)
        return None if self._arrays is None else self._arrays.read(path, dtype)

    def _values(self, value: object, dtype: DType) -> np.ndarray | None:
        leaves = flatten(value)
        if leaves is None:
            return None
        if dict in leaves.kinds:
            self._base64_seen += sum(type(leaf) is dict for leaf in leaves.values)
        return to_array(leaves, dtype)

    def _hides_twin_base64_keys(self) -> bool:
        """A dict keeps one of two equal keys, and TensorFlow Serving refuses such an object."""
        seen = self._base64_seen
        return seen > 0 and self._document.text.count(b'"b64"') != seen


def _plain(value: Any) -> Any:
    """A simdjson value as lists, dicts and scalars."""
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _is_quick_base64(value: Any) -> bool:
    return list(value.keys()) == ["b64"] and isinstance(value["b64"], str)


def _all_found(tensors: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray] | None:
    found = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return found if len(found) == len(tensors) else None


def _read_exactly(document: Document, signature: Signature) -> PredictBody:
    tree = document.tree
    if b"instances" in tree:
        if b"inputs" in tree:
            raise document.complaint(
                "Not formatted correctly expecting only one of 'inputs' or 'instances'"
                " keys to exist "
            )
        return PredictBody(_exact_rows(document, signature.inputs), row_format=True)
    if b"inputs" in tree:
        columns = _exact_columns(tree[b"inputs"], signature.inputs)
        return PredictBody(columns, row_format=False)
    raise InvalidArgument("Missing 'inputs' or 'instances' key")


def _exact_rows(document: Document, wanted: Mapping[str, TensorInfo]) -> dict[str, np.ndarray]:
    instances = document.tree[b"instances"]
    if not isinstance(instances, list):
        raise document.complaint("Expecting 'instances' to be an list/array")
    if not instances:
        raise document.complaint("No values in 'instances' array")
    if not isinstance(instances[0], JsonObject) and len(wanted) > 1:
        raise InvalidArgument(
            "instances is a plain list, but expecting list of objects as multiple input tensors"
            " required as per tensorinfo_map"
        )
    if _is_row_object(instances[0]):
        return _exact_rows_of_objects(instances, wanted)
    return _exact_rows_of_values(instances, wanted)


def _is_row_object(value: Value) -> bool:
    return isinstance(value, JsonObject) and not is_base64(value)


def _exact_rows_of_values(
    instances: list[Value], wanted: Mapping[str, TensorInfo]
) -> dict[str, np.ndarray]:
    # Rows that are base64 objects reach here with several inputs too: they feed the first.
    name, info = next(iter(wanted.items()))
    tensor = _tensor(instances, info.dtype)
    if tensor is not None:
        return {name: tensor}
    shapes = _RowShapes()
    for index, row in enumerate(instances):
        if _is_row_object(row):
            raise InvalidArgument(
                f"Expecting value/list but got object at item {index} of input list"
            )
        error = first_error(row, info.dtype) or shapes.difference(name, shape_of(row))
        if error is not None:
            raise InvalidArgument(
                f"Failed to process element: {index} of 'instances' list. Error: {error}"
            )
    raise _unrepresentable(name)


def _exact_rows_of_objects(
    instances: list[Value], wanted: Mapping[str, TensorInfo]
) -> dict[str, np.ndarray]:
    rows = [
        _members_of(row) for row in instances if isinstance(row, JsonObject) and not is_base64(row)
    ]
    if len(rows) == len(instances) and all(row.keys() == wanted.keys() for row in rows):
        tensors = _all_found(
            {
                name: _tensor([row[name] for row in rows], info.dtype)
                for name, info in wanted.items()
            }
        )
        if tensors is not None:
            return tensors
    shapes = _RowShapes()
    for index, row in enumerate(instances):
        _check_row_object(index, row, wanted, shapes)
    raise _unrepresentable(",".join(sorted(wanted)))


def _members_of(row: JsonObject) -> dict[str, Value]:
    """The members by name. A name ends at a NUL; of two equal ones the first counts."""
    return {_member_name(key): value for key, value in reversed(row.members)}


def _member_name(key: bytes) -> str:
    return name_of(key.partition(b"\0")[0])


def _check_row_object(
    index: int, row: Value, wanted: Mapping[str, TensorInfo], shapes: _RowShapes
) -> None:
    if not isinstance(row, JsonObject) or is_base64(row):
        raise InvalidArgument(f"Expecting object but got list at item {index} of input list")
    for key, value in row.members:
        name = _member_name(key)
        error = _member_error(name, value, wanted, shapes)
        if error is not None:
            raise InvalidArgument(
                f"Failed to process element: {index} key: {name} of 'instances' list."
                f" Error: {error}"
            )
    if _members_of(row).keys() != wanted.keys():
        raise InvalidArgument(
            f"Failed to process element: {index} of 'instances' list."
            f" JSON object: {excerpt(row)} keys must be equal to: {','.join(sorted(wanted))}"
        )


def _member_error(
    name: str, value: Value, wanted: Mapping[str, TensorInfo], shapes: _RowShapes
) -> ServingError | None:
    if name not in wanted:
        return InvalidArgument(f"JSON object: does not have named input: {name}")
    error = first_error(value, wanted[name].dtype)
    return error or shapes.difference(name, shape_of(value))


class _RowShapes:
    """The shape each input had in its first row, which all rows must share."""

    __slots__ = ("_first",)

    def __init__(self) -> None:
        self._first: dict[str, tuple[int, ...]] = {}

    def difference(self, name: str, shape: tuple[int, ...]) -> InvalidArgument | None:
        first = self._first.setdefault(name, shape)
        size, first_size = math.prod(shape), math.prod(first)
        if size != first_size:
            return InvalidArgument(f"Expecting tensor size: {first_size} but got: {size}")
        if shape != first:
            return InvalidArgument(f"Expecting shape {_printed(first)} but got: {_printed(shape)}")
        return None


def _printed(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _exact_columns(columns: Value, wanted: Mapping[str, TensorInfo]) -> dict[str, np.ndarray]:
    if not isinstance(columns, JsonObject) or is_base64(columns):
        if len(wanted) > 1:
            raise InvalidArgument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors"
                " required as per tensorinfo_map"
            )
        name, info = next(iter(wanted.items()))
        return {name: _exact_tensor(columns, name, info.dtype)}
    return {name: _exact_column(columns, name, info.dtype) for name, info in wanted.items()}


def _exact_column(columns: JsonObject, name: str, dtype: DType) -> np.ndarray:
    key = name.encode("utf-8", "surrogateescape")
    if key not in columns:
        raise InvalidArgument(f"Missing named input: {name} in 'inputs' object.")
    return _exact_tensor(columns[key], name, dtype)


def _exact_tensor(value: Value, name: str, dtype: DType) -> np.ndarray:
    tensor = _tensor(value, dtype)
    if tensor is None:
        raise first_error(value, dtype) or _unrepresentable(name)
    return tensor


def _tensor(value: Value, dtype: DType) -> np.ndarray | None:
    leaves = flatten(value)
    return None if leaves is None else to_array(leaves, dtype)


def _unrepresentable(name: str) -> InvalidArgument:
    return InvalidArgument(f"The value of input {name} has more dimensions than a tensor can have")
