"""The compiled loop over training steps, on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from hpsearch.programs.inputs import rate_variables


def compiled_steps(model: keras.Model, images: Any, labels: Any, jit: bool) -> Callable[..., Any]:
    """Return the function that `fit` calls with an iterator over the elements of an `Order`."""

    rates = rate_variables(model.optimizer)

    @tf.function(jit_compile=jit, autograph=False)  # type: ignore[untyped-decorator]
    def steps(order: Any, n_steps: Any, table: Any) -> Any:
        def step(i: Any) -> Any:
            for column, variable in enumerate(rates):
                if variable is not None:
                    new = table[i, column]
                    variable.assign(tf.where(tf.math.is_nan(new), variable.value, new))
            model.train_step((tf.gather(images, order[i]), tf.gather(labels, order[i])))
            return i + 1

        tf.while_loop(lambda i: i < n_steps, step, [tf.constant(0)], parallel_iterations=1)
        return model.get_metrics_result()

    def train(iterator: Iterator[Any]) -> Any:
        order, n_steps, table = next(iterator)
        return steps(tf.cast(order, tf.int32), tf.cast(n_steps[0], tf.int32), table)

    return train
