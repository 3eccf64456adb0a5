"""BatchingParameters as TensorFlow Serving reads them: defaults, limits and words."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from salver.batching.parameters import BatchingParameters, faults, parameters_of
from salver.errors import InvalidArgument
from salver.protos import config_pb2


def message(text: str) -> config_pb2.BatchingParameters:
    return text_format.Parse(text, config_pb2.BatchingParameters())


def test_empty_message_has_tensorflow_servings_defaults():
    """A thousand rows, no wait, ten batches, a thread for each CPU."""
    assert parameters_of(message("")) == BatchingParameters(
        max_batch_size=1000,
        batch_timeout_micros=0,
        max_enqueued_batches=10,
        num_batch_threads=None,
        thread_pool_name="batch_threads",
        allowed_batch_sizes=(),
        pad_variable_length_inputs=False,
        enable_large_batch_splitting=False,
        max_execution_batch_size=1000,
    )


def test_every_field_is_taken():
    """Each has an effect, so each has to arrive."""
    text = """
        max_batch_size { value: 64 } batch_timeout_micros { value: 5 }
        max_enqueued_batches { value: 3 } num_batch_threads { value: 2 }
        thread_pool_name { value: "pool" } allowed_batch_sizes: [8, 64]
        pad_variable_length_inputs: true enable_large_batch_splitting { value: true }
        max_execution_batch_size { value: 16 }
    """

    assert parameters_of(message(text)) == BatchingParameters(
        64, 5, 3, 2, "pool", (8, 64), True, True, 16
    )


def test_largest_execution_counts_only_with_splitting():
    """Without it a batch is as large as a request may be."""
    found = parameters_of(
        message("max_batch_size { value: 8 } max_execution_batch_size { value: 2 }")
    )

    assert found.max_execution_batch_size == 8


SPLITS = "enable_large_batch_splitting { value: true } "


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        (
            "num_batch_threads { value: 0 }",
            "num_batch_threads",
            "num_batch_threads must be positive; was 0",
        ),
        (
            "max_enqueued_batches { value: 0 }",
            "max_enqueued_batches",
            "max_enqueued_batches must be positive; was 0",
        ),
        (
            "max_batch_size { value: -3 }",
            "max_batch_size",
            "input_batch_size_limit must be positive; was -3",
        ),
        (
            "batch_timeout_micros { value: -1 }",
            "batch_timeout_micros",
            "batch_timeout_micros must be non-negative; was -1",
        ),
        (
            SPLITS + "max_batch_size { value: 4 } max_execution_batch_size { value: 8 }",
            "max_execution_batch_size",
            (
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater "
                "than or equal to max_execution_batch_size.<4, 8>"
            ),
        ),
        (
            SPLITS + "max_execution_batch_size { value: 0 }",
            "max_execution_batch_size",
            "max_execution_batch_size must be positive; was 0",
        ),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: [2, 4]",
            "allowed_batch_sizes",
            (
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
                "expected 8"
            ),
        ),
        (
            SPLITS + "max_execution_batch_size { value: 8 } allowed_batch_sizes: 8",
            "allowed_batch_sizes",
            (
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; "
                "expected 1000"
            ),
        ),
        (
            "allowed_batch_sizes: [4, 2, 1000]",
            "allowed_batch_sizes",
            "allowed_batch_sizes entries must be in increasing order",
        ),
    ],
)
def test_what_tensorflow_serving_refuses_is_refused_in_its_words(text: str, field: str, words: str):
    """With the field that it is about."""
    (fault,) = faults(message(text))

    assert fault.field == field
    assert isinstance(fault.error, InvalidArgument)
    assert fault.error.message == words
