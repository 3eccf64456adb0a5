"""The TensorFlow Lite example, from end to end."""

from __future__ import annotations

import pytest

from example_run import cells, run_example

pytest.importorskip("tensorflow_serving", reason="the example's client uses its stubs")
pytest.importorskip("sklearn", reason="the example trains on its digits where MNIST cannot be had")


def test_a_model_is_converted_in_three_ways_and_served():
    """With 32 bits, with 8, and with the signature where TensorFlow Serving looks for it."""
    lines = run_example("litert")

    assert [cells(line)[:4] for line in lines[-3:]] == [
        [f"TensorFlow Lite, {kind}", exported, command, "tf.lite.Interpreter"]
        for kind, exported, command in (
            ("float", "tf.lite.TFLiteConverter", "salver serve"),
            ("quantized", "TFLiteConverter, 8-bit weights", "salver serve"),
            ("metadata", "TFLiteConverter, signature in metadata", "tensorflow_model_server"),
        )
    ]
