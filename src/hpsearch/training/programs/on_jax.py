"""The compiled loop over training steps, on JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import keras

from hpsearch.training.programs.inputs import rate_variables


def step_of(model: keras.Model, images: Any, labels: Any) -> Callable[..., Any]:
    """Return the function from (state, rows, rates) to the state after one step."""
    ids = [id(v) for v in model.optimizer.variables]
    places = [None if v is None else ids.index(id(v)) for v in rate_variables(model.optimizer)]

    def step(state: Any, rows: Any, rates: Any) -> Any:
        optimizer = list(state[2])
        for column, place in enumerate(places):
            if place is not None:
                new = rates[column].astype(optimizer[place].dtype)
                optimizer[place] = jnp.where(jnp.isnan(new), optimizer[place], new)
        state = (*state[:2], optimizer, state[3])
        return model.train_step(state, (images[rows], labels[rows]))[1]

    return step


def steps_of(model: keras.Model, images: Any, labels: Any) -> Callable[..., Any]:
    """Return the function from (state, order, n_steps, table) to (metrics, state) that
    `compiled_steps` compiles.
    """
    step = step_of(model, images, labels)

    def steps(state: Any, order: Any, n_steps: Any, table: Any) -> Any:
        state = jax.lax.fori_loop(
            0, n_steps, lambda i, state: step(state, order[i], table[i]), state
        )
        return metrics_of(model, state[3]), state

    return steps


def last_step_of(model: keras.Model, images: Any, labels: Any) -> Callable[..., Any]:
    """Return the function from (state, rows, rates (1, 2)) to (metrics, state): the smaller batch
    of an epoch.
    """
    step = step_of(model, images, labels)

    def last_step(state: Any, rows: Any, rates: Any) -> Any:
        state = step(state, rows, rates[0])
        return metrics_of(model, state[3]), state

    return last_step


def metrics_of(model: keras.Model, values: Any) -> Any:
    """Return the metrics that a model reports when its metrics' variables have `values`."""
    with keras.StatelessScope(
        state_mapping=list(zip(model.metrics_variables, values, strict=True))
    ):
        return model.get_metrics_result()


def compiled_steps(model: keras.Model, images: Any, labels: Any, jit: bool) -> Callable[..., Any]:
    """Return the function that `fit` calls with its state and an iterator over the elements of an
    `Order`.

    `jit` is TensorFlow's choice alone: JAX has no other way to compile.
    """
    steps = jax.jit(steps_of(model, images, labels), donate_argnums=0)
    last_step = jax.jit(last_step_of(model, images, labels), donate_argnums=0)

    def train(state: Any, iterator: Iterator[Any]) -> Any:
        order, n_steps, table, last, comes, last_rates = keras.tree.flatten(next(iterator))
        logs, state = steps(state, order, n_steps[0], table)
        return last_step(state, last, last_rates) if int(comes[0]) else (logs, state)

    return train
