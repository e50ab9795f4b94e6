"""The compiled loop over training steps, on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from hpsearch.training.programs.inputs import rate_variables


def compiled_steps(model: keras.Model, images: Any, labels: Any, jit: bool) -> Callable[..., Any]:
    """Return the function that `fit` calls with an iterator over the elements of an `Order`."""
    rates = rate_variables(model.optimizer)

    # Traced once, for batches of any size.
    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([2], tf.float32)],
    )  # type: ignore[untyped-decorator]
    def step(rows: Any, new_rates: Any) -> None:
        for column, variable in enumerate(rates):
            if variable is not None:
                new = tf.cast(new_rates[column], variable.dtype)
                variable.assign(tf.where(tf.math.is_nan(new), variable.value, new))
        model.train_step((tf.gather(images, rows), tf.gather(labels, rows)))

    @tf.function(jit_compile=jit, autograph=False)  # type: ignore[untyped-decorator]
    def steps(order: Any, n_steps: Any, table: Any) -> Any:
        def one(i: Any) -> Any:
            step(order[i], table[i])
            return i + 1

        tf.while_loop(lambda i: i < n_steps, one, [tf.constant(0)], parallel_iterations=1)
        return model.get_metrics_result()

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def last_step(
        rows: Any, new_rates: Any
    ) -> Any:  # once an epoch: to compile it by XLA would not pay back
        step(rows, new_rates[0])
        return model.get_metrics_result()

    def train(iterator: Iterator[Any]) -> Any:
        order, n_steps, table, last, comes, last_rates = keras.tree.flatten(next(iterator))
        logs = steps(tf.cast(order, tf.int32), tf.cast(n_steps[0], tf.int32), table)
        return last_step(tf.cast(last, tf.int32), last_rates) if int(comes[0]) else logs

    return train
