"""Compile the loop over training steps for Keras on JAX.

The functions here are pure. They take the state of a model and return its state after the steps.
The state holds the values of the variables that `program.jax_variables` lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import keras
from jax import Array

from hpsearch.training.programs.inputs import rate_variables

_State = tuple[list[Array], ...]
_Metrics = dict[str, Array]
_Steps = Callable[..., tuple[_Metrics, _State]]


def _step_of(
    model: keras.Model, images: Array, labels: Array
) -> Callable[[_State, Array, Array], _State]:
    """Return the function from (state, rows, rates) to the state after one step."""
    ids = [id(v) for v in model.optimizer.variables]
    places = {}
    for column, variable in enumerate(rate_variables(model.optimizer)):
        if variable is not None:
            places[column] = ids.index(id(variable))

    def step(state: _State, rows: Array, rates: Array) -> _State:
        trainable, non_trainable, optimizer, metrics = state
        optimizer = list(optimizer)
        for column, place in places.items():
            old = optimizer[place]
            new = rates[column].astype(old.dtype)
            optimizer[place] = jnp.where(jnp.isnan(new), old, new)
        state = (trainable, non_trainable, optimizer, metrics)
        batch = (images[rows], labels[rows])
        _, state = model.train_step(state, batch)
        return state

    return step


def steps_of(model: keras.Model, images: Array, labels: Array) -> _Steps:
    """Return the function that trains the whole batches of an element of an `Order`.

    The function takes (state, order, n_steps, table) and returns (metrics, state). It is not
    compiled yet.
    """
    step = _step_of(model, images, labels)

    def steps(state: _State, order: Array, n_steps: Array, table: Array) -> tuple[_Metrics, _State]:
        def one(i: Array, state: _State) -> _State:
            return step(state, order[i], table[i])

        state = jax.lax.fori_loop(0, n_steps, one, state)
        return metrics_of(model, state[3]), state

    return steps


def last_step_of(model: keras.Model, images: Array, labels: Array) -> _Steps:
    """Return the function that trains the smaller batch at the end of an epoch.

    The function takes (state, rows, rates (1, 2)) and returns (metrics, state). It is not compiled
    yet.
    """
    step = _step_of(model, images, labels)

    def last_step(state: _State, rows: Array, rates: Array) -> tuple[_Metrics, _State]:
        state = step(state, rows, rates[0])
        return metrics_of(model, state[3]), state

    return last_step


def metrics_of(model: keras.Model, values: list[Array]) -> _Metrics:
    """Return the metrics that a model reports when its metrics' variables have `values`."""
    mapping = list(zip(model.metrics_variables, values, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        metrics: _Metrics = model.get_metrics_result()
    return metrics


def compiled_steps(model: keras.Model, images: Array, labels: Array, jit: bool) -> _Steps:
    """Return the function that `fit` calls with its state and an iterator over an `Order`.

    Args:
        model: The model to train, built and compiled.
        images: The train images, (n, H, W, C).
        labels: Their labels, in the form that the loss takes.
        jit: Ignored, because JAX always compiles with XLA. TensorFlow has the choice.
    """
    steps = jax.jit(steps_of(model, images, labels), donate_argnums=0)
    last_step = jax.jit(last_step_of(model, images, labels), donate_argnums=0)

    def train(state: _State, iterator: Iterator[object]) -> tuple[_Metrics, _State]:
        element = next(iterator)
        order, n_steps, table, last, comes, last_rates = keras.tree.flatten(element)
        logs, state = steps(state, order, n_steps[0], table)
        if int(comes[0]):
            logs, state = last_step(state, last, last_rates)
        return logs, state

    return train
