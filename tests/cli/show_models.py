"""SavedModels whose functions take all that functions can take; see ``saved_models``."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

from saved_models import tensorflow

Pair = namedtuple("Pair", "left right")  # as exporters have them, without types


def odd_functions(version: Path) -> None:
    """Every kind of argument and structure, and more traces than a hundred numbers name."""
    tf = tensorflow()
    module = _module(tf)
    for number in range(12):
        spec = tf.TensorSpec([None, 2])
        module.traced.get_concrete_function(spec, training=number % 2 == 0, name=f"s{number}")
        module.looping.get_concrete_function(spec, times=number)
    by_name = {name: tf.TensorSpec([2]) for name in ("b", "a", "zeta", "c")}
    module.variadic.get_concrete_function(tf.TensorSpec([2]), tf.TensorSpec([]), **by_name)
    vector = tf.TensorSpec([2])
    module.structured.get_concrete_function(Pair(vector, vector), [vector, 3, "q", [], {"k": (1,)}])
    for dtype in (tf.bfloat16, tf.half, tf.qint8, tf.float64, tf.uint64):
        module.anything.get_concrete_function(tf.TensorSpec([2], dtype), float("nan"))
    module.anything.get_concrete_function(tf.TensorSpec([2]), [])
    module.anything.get_concrete_function(tf.TensorSpec([2]), {})
    module.anything.get_concrete_function(tf.TensorSpec([2]), tf.string)
    module.anything.get_concrete_function(module.offset, 1 << 40)
    module.anything.get_concrete_function(_extension(tf), -1)
    module.bare = module.__call__.get_concrete_function(tf.TensorSpec([5, 2], name="inputs"))
    default = module.__call__.get_concrete_function(tf.TensorSpec([None, 2], name="inputs"))
    two = module.summed.get_concrete_function(
        tf.TensorSpec([None, 1], tf.int64, name="a"), tf.TensorSpec([3, 1], tf.int64, name="b")
    )
    tf.saved_model.save(module, str(version), signatures={"serving_default": default, "two": two})


def _extension(tf: Any) -> Any:
    """A value of a class that whoever looks at the model does not have."""
    fields = {"values": tf.Tensor, "scale": int}  # TensorFlow wants the types, not their names
    body = {"__annotations__": fields, "__name__": "tests.Scaled"}
    base = tf.experimental.ExtensionType
    return type(base)("Scaled", (base,), body)(tf.constant([1.0]), 3)


def _module(tf: Any) -> Any:
    class Odd(tf.Module):  # type: ignore[misc] # its base is not known
        def __init__(self) -> None:
            super().__init__()
            self.offset = tf.Variable([1.0, 2.0], name="offset")
            self.inner = {"a": tf.Variable(1.0), "b": [tf.Variable(2.0)]}
            words = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2])
            self.table = tf.lookup.StaticHashTable(words, -1)

        @tf.function
        def __call__(self, x):
            return {"y": x + self.offset}

        @tf.function
        def traced(self, x, training=False, name="n", scale=1.5, nothing=None):
            return x * self.offset if training else x

        @tf.function
        def looping(self, x, times=3):
            for _ in tf.range(times):
                x = x + self.offset if tf.reduce_sum(x) > 1.0 else x - self.offset
            return tf.unstack(x, axis=-1)

        @tf.function
        def variadic(self, *args, **kwargs):
            return sum(args) + sum(kwargs.values())

        @tf.function
        def structured(self, pair, several, t=(1, "a", None), d={"k": 1, "b": "x"}):  # noqa: B006
            return pair.left + pair.right + several[0]

        @tf.function
        def anything(self, x, other):
            return 1

        @tf.function
        def summed(self, a, b):
            return {"sum": a + b}

        @tf.function(input_signature=[])
        def nothing(self):
            return self.offset

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 2], name="x"),
                {
                    "q": tf.TensorSpec([], tf.int64),
                    "p": (tf.TensorSpec(None, tf.string), tf.TensorSpec([3], name="deep")),
                },
            ]
        )
        def nested(self, x, options):
            return x

        @tf.function(
            input_signature=[
                tf.RaggedTensorSpec([None, None], tf.float32),
                tf.SparseTensorSpec([None, 3], tf.int32),
                tf.IndexedSlicesSpec([None, 2]),
                tf.data.DatasetSpec(tf.TensorSpec([3])),
                tf.OptionalSpec(tf.TensorSpec([2])),
            ]
        )
        def composite(self, ragged, sparse, slices, dataset, optional):
            return ragged.to_tensor()

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="odd-name/x")])
        def looked_up(self, x):
            return self.table.lookup(x)

        @tf.function(input_signature=[tf.TensorSpec([2])])
        def bent(self, x):
            @tf.custom_gradient
            def double(x):
                return x * 2.0, lambda upstream: upstream * 2.0

            return double(x)

    return Odd()
