"""Compile the loop over training steps for Keras on JAX.

The functions here are pure. They take the state of a model and return its state after the steps.
The state holds the values of the variables that `program.jax_variables` lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import keras
from jax import Array

from hpsearch.training.programs.inputs import rate_variables

State = Sequence[list[Array]]  # the values of variables, as `program.jax_variables` orders them
_Trained = tuple[dict[str, Array], State]  # the metrics, and the state after the steps


def _step_of(
    model: keras.Model,
    images: Array,
    labels: Array,
) -> Callable[[State, Array, Array], State]:
    """Return the function from (state, rows, rates) to the state after one step."""
    ids = [id(v) for v in model.optimizer.variables]
    places = {}
    for column, variable in enumerate(rate_variables(model.optimizer)):
        if variable is not None:
            places[column] = ids.index(id(variable))

    def step(state: State, rows: Array, rates: Array) -> State:
        trainable, non_trainable, optimizer, metrics = state
        optimizer = list(optimizer)
        for column, place in places.items():
            old = optimizer[place]
            new = rates[column].astype(old.dtype)
            optimizer[place] = jnp.where(jnp.isnan(new), old, new)
        state = (trainable, non_trainable, optimizer, metrics)
        _, state = model.train_step(state, (images[rows], labels[rows]))
        return state

    return step


def steps_of(
    model: keras.Model,
    images: Array,
    labels: Array,
) -> tuple[Callable[..., _Trained], Callable[..., _Trained]]:
    """Return the two functions that train an element of an `Order`; they are not compiled yet.

    The first takes (state, order, n_steps, table) and trains the whole batches. The second takes
    (state, rows, rates (1, 2)) and trains the smaller batch at the end of an epoch.
    """
    step = _step_of(model, images, labels)

    def steps(
        state: State,
        order: Array,
        n_steps: Array,
        table: Array,
    ) -> _Trained:
        def one(i: Array, state: State) -> State:
            return step(state, order[i], table[i])

        state = jax.lax.fori_loop(0, n_steps, one, state)
        return metrics_of(model, state[3]), state

    def last_step(state: State, rows: Array, rates: Array) -> _Trained:
        state = step(state, rows, rates[0])
        return metrics_of(model, state[3]), state

    return steps, last_step


def metrics_of(model: keras.Model, values: list[Array]) -> dict[str, Array]:
    """Return the metrics that a model reports when its metrics' variables have `values`."""
    mapping = list(zip(model.metrics_variables, values, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        metrics: dict[str, Array] = model.get_metrics_result()
    return metrics


def compiled_steps(
    model: keras.Model,
    images: Array,
    labels: Array,
    jit: bool,
) -> Callable[[State, Iterator[object]], _Trained]:
    """Return the function that `fit` calls with its state and an iterator over an `Order`.

    Args:
        model: The model to train, built and compiled.
        images: The train images, (n, H, W, C).
        labels: Their labels, in the form that the loss takes.
        jit: Ignored, because JAX always compiles with XLA. TensorFlow has the choice.
    """
    steps, last_step = steps_of(model, images, labels)
    steps = jax.jit(steps, donate_argnums=0)
    last_step = jax.jit(last_step, donate_argnums=0)

    def train(state: State, iterator: Iterator[object]) -> _Trained:
        element = next(iterator)
        order, n_steps, table, last, comes, last_rates = keras.tree.flatten(element)
        logs, state = steps(state, order, n_steps[0], table)
        if int(comes[0]):
            logs, state = last_step(state, last, last_rates)
        return logs, state

    return train
