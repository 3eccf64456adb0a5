"""TensorFlow Serving's ``BatchingParameters``: read, checked, with its defaults.

What is left out has TensorFlow Serving's default, and what it refuses is refused in its words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from salver.errors import InvalidArgument, ServingError
from salver.protos import config_pb2

MAX_BATCH_SIZE: Final = 1000
MAX_ENQUEUED_BATCHES: Final = 10
THREAD_POOL_NAME: Final = "batch_threads"
"""The defaults of TensorFlow Serving; that of ``num_batch_threads`` is the number of CPUs."""

THREADS_FIELD: Final = "num_batch_threads"


@dataclass(frozen=True, slots=True)
class BatchingParameters:
    """How calls of one model are batched, by the names of the message."""

    max_batch_size: int = MAX_BATCH_SIZE
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = MAX_ENQUEUED_BATCHES
    num_batch_threads: int | None = None  # one for each CPU
    thread_pool_name: str = THREAD_POOL_NAME
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = MAX_BATCH_SIZE


def parameters_of(message: config_pb2.BatchingParameters) -> BatchingParameters:
    """The parameters of a message, whose ``faults`` are the caller's to look at."""
    max_batch_size = _max_batch_size(message)
    return BatchingParameters(
        max_batch_size=max_batch_size,
        batch_timeout_micros=message.batch_timeout_micros.value,
        max_enqueued_batches=message.max_enqueued_batches.value
        if message.HasField("max_enqueued_batches")
        else MAX_ENQUEUED_BATCHES,
        num_batch_threads=message.num_batch_threads.value
        if message.HasField("num_batch_threads")
        else None,
        thread_pool_name=message.thread_pool_name.value
        if message.HasField("thread_pool_name")
        else THREAD_POOL_NAME,
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
        enable_large_batch_splitting=message.enable_large_batch_splitting.value,
        max_execution_batch_size=_max_execution_batch_size(message, max_batch_size),
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """What TensorFlow Serving refuses in a message, and the field that it is about."""

    field: str
    error: ServingError


def faults(message: config_pb2.BatchingParameters) -> Iterator[Fault]:
    """Everything TensorFlow Serving refuses; the first comes first there as well.

    A number of threads that makes no sense ends its start, and anything else fails the load of
    every model that it is for.
    """
    for name in (THREADS_FIELD, "max_enqueued_batches"):
        if message.HasField(name) and (number := getattr(message, name).value) <= 0:
            yield _fault(name, f"{name} must be positive; was {number}")
    limit = _max_batch_size(message)
    if limit <= 0:
        yield _fault("max_batch_size", f"input_batch_size_limit must be positive; was {limit}")
    if (timeout := message.batch_timeout_micros.value) < 0:
        text = f"batch_timeout_micros must be non-negative; was {timeout}"
        yield _fault("batch_timeout_micros", text)
    yield from _size_faults(message, limit)


def _size_faults(message: config_pb2.BatchingParameters, limit: int) -> Iterator[Fault]:
    sizes = list(message.allowed_batch_sizes)
    if sizes != sorted({size for size in sizes if size > 0}):
        text = "allowed_batch_sizes entries must be in increasing order"
        yield _fault("allowed_batch_sizes", text)
    largest = _max_execution_batch_size(message, limit)
    if largest > limit:
        text = (
            "When enable_large_batch_splitting is true, input_batch_size_limit must be "
            f"greater than or equal to max_execution_batch_size.<{limit}, {largest}>"
        )
        yield _fault("max_execution_batch_size", text)
    elif largest <= 0 < limit:
        text = f"max_execution_batch_size must be positive; was {largest}"
        yield _fault("max_execution_batch_size", text)
    if sizes and sizes[-1] != limit:
        text = (
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
            f"{sizes[-1]}; expected {limit}"
        )
        yield _fault("allowed_batch_sizes", text)


def _fault(field: str, text: str) -> Fault:
    return Fault(field, InvalidArgument(text))


def _max_batch_size(message: config_pb2.BatchingParameters) -> int:
    return message.max_batch_size.value if message.HasField("max_batch_size") else MAX_BATCH_SIZE


def _max_execution_batch_size(message: config_pb2.BatchingParameters, limit: int) -> int:
    """The largest batch that runs: smaller than the largest request only where those are split."""
    splits = message.enable_large_batch_splitting.value
    if splits and message.HasField("max_execution_batch_size"):
        return message.max_execution_batch_size.value
    return limit
