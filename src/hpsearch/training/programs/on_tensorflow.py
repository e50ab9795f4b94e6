"""Compile the loop over training steps for Keras on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from hpsearch.training.programs.inputs import rate_variables


def _step_of(
    model: keras.Model,
    images: tf.Tensor,
    labels: tf.Tensor,
) -> Callable[[tf.Tensor, tf.Tensor], None]:
    """Return the function that makes one step, given its rows and rates (2,)."""
    variables = rate_variables(model.optimizer)
    # The signature lets TensorFlow trace the step once for batches of any size.
    signature = [tf.TensorSpec([None], tf.int32), tf.TensorSpec([2], tf.float32)]

    @tf.function(autograph=False, input_signature=signature)  # type: ignore[untyped-decorator]
    def step(rows: tf.Tensor, new_rates: tf.Tensor) -> None:
        for column, variable in enumerate(variables):
            if variable is not None:
                new = tf.cast(new_rates[column], variable.dtype)
                variable.assign(tf.where(tf.math.is_nan(new), variable.value, new))
        model.train_step((tf.gather(images, rows), tf.gather(labels, rows)))

    made: Callable[[tf.Tensor, tf.Tensor], None] = step
    return made


def compiled_steps(
    model: keras.Model,
    images: tf.Tensor,
    labels: tf.Tensor,
    jit: bool,
) -> Callable[[Iterator[object]], object]:
    """Return the function that `fit` calls with an iterator over the elements of an `Order`.

    The function returns the metrics after the steps of an element.

    Args:
        model: The model to train, built and compiled.
        images: The train images, (n, H, W, C).
        labels: Their labels, in the form that the loss takes.
        jit: Whether XLA compiles the loop.
    """
    step = _step_of(model, images, labels)

    @tf.function(jit_compile=jit, autograph=False)  # type: ignore[untyped-decorator]
    def steps(order: tf.Tensor, n_steps: tf.Tensor, table: tf.Tensor) -> object:
        def goes_on(i: tf.Tensor) -> tf.Tensor:
            return i < n_steps

        def one(i: tf.Tensor) -> tf.Tensor:
            step(order[i], table[i])
            return i + 1

        tf.while_loop(goes_on, one, [tf.constant(0)], parallel_iterations=1)
        return model.get_metrics_result()

    # It runs once an epoch, so compiling it with XLA would take longer than it saves.
    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def last_step(rows: tf.Tensor, new_rates: tf.Tensor) -> object:
        step(rows, new_rates[0])
        return model.get_metrics_result()

    def train(iterator: Iterator[object]) -> object:
        element = next(iterator)
        order, n_steps, table, last, comes, last_rates = keras.tree.flatten(element)
        order = tf.cast(order, tf.int32)
        n_steps = tf.cast(n_steps[0], tf.int32)
        logs = steps(order, n_steps, table)
        if int(comes[0]):
            last = tf.cast(last, tf.int32)
            logs = last_step(last, last_rates)
        return logs

    return train
