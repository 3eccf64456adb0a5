"""Keras 3 models written by ``tf.saved_model.save``, whose variables a session finds empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from salver.servables.tensorflow import SavedModel, TensorFlowRuntime
from saved_models import signature_answer, tensorflow

ROWS = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="module")
def runtime() -> TensorFlowRuntime:
    """One runtime for the module: its library is opened once."""
    return TensorFlowRuntime()


@pytest.fixture
def load(runtime: TensorFlowRuntime, tmp_path: Path) -> Iterator[object]:
    """Load what was saved in ``tmp_path``; it is closed after the test."""
    loaded: list[SavedModel] = []

    def load_one() -> SavedModel:
        loaded.append(runtime.load(tmp_path))
        return loaded[-1]

    yield load_one
    for servable in loaded:
        servable.close()


def keras_model():
    """Two layers with a third number between them that the training does not touch."""
    tensorflow()
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential(
        [layers.Input((3,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(2)]
    )


def trained_keras_model():
    """The same with an optimizer, whose variables are saved too."""
    model = keras_model()
    model.compile("adam", "mse")
    model.fit(ROWS, np.ones((2, 2)), verbose=0)
    return model


def ask(servable: SavedModel, rows: np.ndarray) -> list[np.ndarray]:
    """All outputs of ``serving_default``, which has one input."""
    signature = servable.signatures["serving_default"]
    (feed,) = (info.name for info in signature.inputs.values())
    return servable.run({feed: rows}, [info.name for info in signature.outputs.values()])


@pytest.mark.parametrize("make", [keras_model, trained_keras_model])
def test_a_saved_keras_model_answers_as_it_did_in_python(load, tmp_path: Path, make):
    """What ``tf.saved_model.save`` wrote gives the numbers that the model itself gives."""
    model = make()
    expected = model(ROWS).numpy()
    tensorflow().saved_model.save(model, str(tmp_path))

    (answer,) = ask(load(), ROWS)

    np.testing.assert_allclose(answer, expected, rtol=1e-6)


def test_tensorflows_own_session_cannot_answer(tmp_path: Path):
    """A session as such finds the variables empty; when it does not, the filling can go."""
    tf = tensorflow()
    tf.saved_model.save(keras_model(), str(tmp_path))

    with pytest.raises(tf.errors.FailedPreconditionError, match="Could not find variable"):
        signature_answer(tmp_path, {"inputs": ROWS})


def test_a_module_around_a_keras_model_answers(load, tmp_path: Path):
    """A ``tf.Module`` that holds a Keras model may be exported by a function of its own."""
    tf = tensorflow()
    module = tf.Module()
    module.model = keras_model()
    module.serve = tf.function(
        lambda rows: {"doubled": 2 * module.model(rows)},
        input_signature=[tf.TensorSpec([None, 3], tf.float32)],
    )
    expected = module.serve(ROWS)["doubled"].numpy()
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)

    (answer,) = ask(load(), ROWS)

    np.testing.assert_allclose(answer, expected, rtol=1e-6)


def test_a_signature_around_a_keras_model_answers(load, tmp_path: Path):
    """A Keras model may be saved with a signature that turns its numbers into words."""
    tf = tensorflow()
    model = keras_model()
    words = tf.constant(["one", "other"])
    serve = tf.function(
        lambda rows: {"label": tf.gather(words, tf.argmax(model(rows), axis=-1))},
        input_signature=[tf.TensorSpec([None, 3], tf.float32)],
    )
    expected = serve(tf.constant(ROWS))["label"].numpy()
    tf.saved_model.save(model, str(tmp_path), signatures={"serving_default": serve})

    (answer,) = ask(load(), ROWS)

    assert answer.tolist() == expected.tolist()


def test_a_variable_that_began_as_a_copy_keeps_what_was_restored(load, tmp_path: Path):
    """Where the checkpoint has both, neither is overwritten with the other."""
    tf = tensorflow().compat.v1
    with tf.Graph().as_default(), tf.Session() as session:
        rows = tf.placeholder(tf.float32, [None])
        one = tf.Variable(1.0, use_resource=True, name="one")
        copy = tf.Variable(one, use_resource=True, name="copy")
        session.run(one.initializer)
        session.run(copy.initializer)
        session.run(one.assign(5.0))
        tf.saved_model.simple_save(
            session, str(tmp_path / "1"), {"rows": rows}, {"sum": rows + 10.0 * one + copy}
        )
    (tmp_path / "1" / "saved_model.pb").rename(tmp_path / "saved_model.pb")
    (tmp_path / "1" / "variables").rename(tmp_path / "variables")

    (answer,) = ask(load(), np.zeros(1, np.float32))

    assert answer.tolist() == [51.0]
