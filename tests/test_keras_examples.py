"""The Keras examples, from end to end."""

from __future__ import annotations

import pytest

from example_run import cells, run_example

pytest.importorskip("tensorflow_serving", reason="the examples' clients use its stubs")
pytest.importorskip("sklearn", reason="the examples train on its digits where MNIST cannot be had")


def test_a_keras_sequential_in_both_ways():
    """``model.export`` and ``tf.saved_model.save`` are both served as MLP."""
    lines = run_example("keras_mlp")

    assert [cells(line)[:4] for line in lines[-2:]] == [
        ["Keras Sequential", saver, "salver serve", "model.predict"]
        for saver in ("model.export", "tf.saved_model.save")
    ]
    assert len([line for line in lines if line.startswith("$ salver serve --model_name=MLP")]) == 2


def test_a_keras_model_of_ones_own():
    """Its ``call`` is asked by that name, over REST and over gRPC."""
    lines = run_example("keras_custom")

    assert "100 answers over REST, and the same over gRPC" in lines
    assert cells(lines[-1])[:4] == [
        "custom keras.Model",
        'tf.saved_model.save, signatures={"call": model.call}',
        "salver serve",
        "model.call",
    ]
