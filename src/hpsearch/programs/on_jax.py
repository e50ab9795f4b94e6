"""The compiled loop over training steps, on JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import keras

from hpsearch.programs.inputs import rate_variables


def steps_of(model: keras.Model, images: Any, labels: Any) -> Callable[..., Any]:
    """Return the function from (state, order, n_steps, table) to (metrics, state) that `compiled_steps` compiles."""
    ids = [id(v) for v in model.optimizer.variables]
    places = [None if v is None else ids.index(id(v)) for v in rate_variables(model.optimizer)]

    def steps(state: Any, order: Any, n_steps: Any, table: Any) -> Any:
        def step(i: Any, state: Any) -> Any:
            optimizer = list(state[2])
            for column, place in enumerate(places):
                if place is not None:
                    optimizer[place] = jnp.where(jnp.isnan(table[i, column]), optimizer[place], table[i, column])
            state = (*state[:2], optimizer, state[3])
            return model.train_step(state, (images[order[i]], labels[order[i]]))[1]

        state = jax.lax.fori_loop(0, n_steps, step, state)
        return metrics_of(model, state[3]), state

    return steps


def metrics_of(model: keras.Model, values: Any) -> Any:
    """Return the metrics that a model reports when its metrics' variables have `values`."""
    with keras.StatelessScope(state_mapping=list(zip(model.metrics_variables, values, strict=True))):
        return model.get_metrics_result()


def compiled_steps(model: keras.Model, images: Any, labels: Any, jit: bool) -> Callable[..., Any]:
    """Return the function that `fit` calls with its state and an iterator over the elements of an `Order`.

    `jit` is TensorFlow's choice alone: JAX has no other way to compile.
    """
    run = jax.jit(steps_of(model, images, labels), donate_argnums=0)

    def train(state: Any, iterator: Iterator[Any]) -> Any:
        order, n_steps, table = next(iterator)
        return run(state, order, n_steps[0], table)

    return train
