"""Several calls' tensors as one batch, and one batch's results as several calls' own.

Rows are joined and taken apart along dimension 0.  The rules and the texts are TensorFlow
Serving's.  Arrays go in and arrays come out; nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from salver.dtypes import DType
from salver.errors import FailedPrecondition, InvalidArgument

MAX_PADDED_RANK: Final = 6

_PADDABLE: Final = frozenset(
    {
        DType.FLOAT,
        DType.DOUBLE,
        DType.INT32,
        DType.UINT8,
        DType.INT16,
        DType.INT8,
        DType.STRING,
        DType.COMPLEX64,
        DType.INT64,
        DType.BOOL,
        DType.BFLOAT16,
        DType.UINT16,
        DType.COMPLEX128,
        DType.HALF,
        DType.UINT32,
        DType.UINT64,
    }
)


def rows_of(tensors: Iterable[np.ndarray]) -> int:
    """The rows of a call: dimension 0 of each of its tensors.

    Raises:
        InvalidArgument: there are no tensors, or one has no dimension, or they do not agree.
    """
    rows = None
    for tensor in tensors:
        if tensor.ndim == 0:
            raise InvalidArgument("Batching Run() input tensors must have at least one dimension")
        if rows is None:
            rows = len(tensor)
        elif len(tensor) != rows:
            raise InvalidArgument("Batching Run() input tensors must have equal 0th-dimension size")
    if rows is None:
        raise InvalidArgument("Batching Run() must have at least one input tensor")
    return rows


def padding_rows(rows: int, allowed_batch_sizes: Sequence[int]) -> int:
    """How many rows are added to get to the next size that is allowed; none beyond the last.

    Nor to a batch without rows: there is none that could be repeated.
    """
    if rows == 0:
        return 0
    return next((size - rows for size in allowed_batch_sizes if size >= rows), 0)


def merge(
    names: Sequence[str],
    calls: Sequence[Sequence[np.ndarray]],
    *,
    padding: int = 0,
    pads_variable_lengths: bool = False,
) -> list[np.ndarray]:
    """Tensors of all calls, which are in the order of ``names``, row after row.

    The last ``padding`` rows repeat the first one of the last call that has any.

    Raises:
        FailedPrecondition: shapes differ beyond dimension 0, and are not to be padded.
        InvalidArgument: they cannot be padded.
    """
    merged = []
    for position, name in enumerate(names):
        tensors = [call[position] for call in calls]
        if pads_variable_lengths:
            tensors = _with_equal_lengths(name, tensors)
        elif any(tensor.shape[1:] != tensors[0].shape[1:] for tensor in tensors):
            raise FailedPrecondition(
                f"Tensors with name '{name}' from different tasks have different shapes and "
                "padding is turned off. Set pad_variable_length_inputs to true, or ensure that "
                "all tensors with the same name have equal dimensions starting with the first dim."
            )
        merged.append(_joined(tensors, padding))
    return merged


def split(
    outputs: Sequence[np.ndarray], rows: Sequence[int], *, padding: int = 0
) -> list[list[np.ndarray]]:
    """The results of each call, which brought so many rows; those of padding are nobody's.

    Raises:
        FailedPrecondition: an output has not one row for each that went in.
    """
    expected = sum(rows) + padding
    for output in outputs:
        if output.ndim == 0:
            raise FailedPrecondition("Batched output tensor has 0 dimensions")
        if len(output) != expected:
            raise FailedPrecondition(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                "dimension sizes of the input tensors"
            )
    results = []
    end = 0
    for count in rows:
        start, end = end, end + count
        results.append([output[start:end] for output in outputs])
    return results


def join(pieces: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The results of a call that was split, from those of its pieces, in order.

    Raises:
        FailedPrecondition: the pieces do not fit together.
    """
    if len(pieces) == 1:
        return list(pieces[0])
    joined = []
    for parts in zip(*pieces, strict=True):
        if any(part.shape[1:] != parts[0].shape[1:] for part in parts):
            raise FailedPrecondition(
                "a call was split, and an output of its parts has shapes that differ beyond the "
                "0th dimension; max_execution_batch_size decides what is split"
            )
        joined.append(np.concatenate(parts))
    return joined


def _joined(tensors: Sequence[np.ndarray], padding: int) -> np.ndarray:
    if padding:
        last = next(tensor for tensor in reversed(tensors) if len(tensor))
        tensors = [*tensors, np.repeat(last[:1], padding, axis=0)]
    return tensors[0] if len(tensors) == 1 else np.concatenate(tensors)


def _with_equal_lengths(name: str, tensors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Tensors padded at the end of every dimension but the first."""
    if len({tensor.ndim for tensor in tensors}) > 1:
        raise InvalidArgument(
            f"Tensors with name '{name}' from different tasks have different ranks: "
            f"{sorted({tensor.ndim for tensor in tensors})}; none of them can be padded"
        )
    lengths = tuple(max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True))
    return [_padded(tensor, lengths) for tensor in tensors]


def _padded(tensor: np.ndarray, lengths: tuple[int, ...]) -> np.ndarray:
    """A tensor with its own first element in every place that is added."""
    if tensor.shape[1:] == lengths:
        return tensor
    if DType.of(tensor.dtype) not in _PADDABLE:
        raise InvalidArgument("Unsupported type")
    if tensor.ndim > MAX_PADDED_RANK:
        raise InvalidArgument(f"Only tensors with rank from 1 to {MAX_PADDED_RANK} can be padded.")
    if tensor.size == 0:
        raise InvalidArgument("Got empty tensor in batch of non-empty tensors.")
    padded = np.empty((len(tensor), *lengths), tensor.dtype)
    padded[...] = tensor.flat[0]
    padded[tuple(slice(size) for size in tensor.shape)] = tensor
    return padded
