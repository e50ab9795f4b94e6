"""Compiled programs: many training steps in one call, and one program for all trials of an
architecture.

What trains is still `keras.Model.fit`, callbacks and all; what changes is the function that `fit`
calls for each element of its data set. An element is not a batch but the order of the next
`steps_per_call` batches, and the function runs them in a compiled loop over images that stay on the
device.

A program outlives its trial. Learning rate, momentum and dropout rates are read from variables at
each call, not compiled in, so the next trial of the same architecture loads its weights and numbers
and starts at once. The model that it trains is built and compiled by the person's own code, like
each trial's, and is not a copy made from a config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

import keras
import numpy as np

from hpsearch.training.programs.averages import average_weights, averages_of
from hpsearch.training.programs.inputs import (
    ProgramInput,
    dropouts,
    innermost,
    learning_rate_of,
    momentum_input,
    momentum_of,
    take_rate_from_outside,
)

BACKENDS = {"tensorflow": "on_tensorflow", "jax": "on_jax"}


class Program:
    """A model that trains in compiled calls, for one trial after another.

    Args:
        name: The fingerprint of the models that it trains.
        model: One of them, fresh from its HyperModel's `build`; it belongs to the program from now
            on.
        images: Of the train part, on the device.
        labels: In the form that the loss takes.
        averaging: What the averaged weights keep of themselves in a step in the long run, in [0,
            1); 0 leaves the optimizer as it was compiled.
        jit: Whether XLA compiles it.
    """

    def __init__(
        self,
        name: str,
        model: keras.Model,
        images: Any,
        labels: Any,
        *,
        averaging: float,
        jit: bool,
    ) -> None:
        self.name, self.model, self.averaging = name, model, averaging
        self.dropouts = dropouts(model)
        self._plain = plain_variables(model, self.dropouts)
        for layer in self.dropouts:
            take_rate_from_outside(layer)
        self.momentum = momentum_input(model.optimizer)
        if averaging:
            average_weights(model.optimizer, averaging)
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        model.jit_compile, model.steps_per_execution = jit, 1
        build_metrics(model, images[:2], labels[:2])
        self.initial = values_of(model.optimizer.variables)
        model.train_function = _compiled_steps(model, images, labels, jit)

    def load(self, source: keras.Model, seed_of_layer: Callable[[int], int]) -> None:
        """Take over the weights, rates and optimizer numbers of a freshly built model; start its
        dropout anew.
        """
        theirs = dropouts(source)
        copy_values(plain_variables(source, theirs), self._plain)
        for position, (mine, other) in enumerate(zip(self.dropouts, theirs, strict=True)):
            mine.rate.assign(other.rate)
            mine.seed_generator.state.assign(np.array([seed_of_layer(position), 0], np.uint32))
        self._load_optimizer(source.optimizer)

    def _load_optimizer(self, source: keras.Optimizer) -> None:
        mine = self.model.optimizer
        copy_values(self.initial, mine.variables)
        if source.built:
            averages = {id(v) for v in self._averages}
            slots = [
                v
                for v in mine.variables
                if not isinstance(v, ProgramInput) and id(v) not in averages
            ]
            copy_values(source.variables, slots)
        for one, other in ((mine, source), (innermost(mine), innermost(source))):
            copy_values(
                [other._iterations], [one._iterations]
            )  # `iterations` may be computed from it
        self.drawn = (learning_rate_of(source), momentum_of(source))
        if self.drawn[0] is not None:  # a Keras schedule is part of the program
            innermost(mine).learning_rate = self.drawn[0]
        if self.momentum is not None:
            self.momentum.assign(self.drawn[1])

    @property
    def _averages(self) -> list[Any]:
        return averages_of(self.model.optimizer) if self.averaging else []

    def state(self) -> list[np.ndarray]:
        """Return the variables of all layers, dropout aside, averaged where the program averages
        them.
        """
        return values_of(
            averaged_variables(self.model, self._plain) if self.averaging else self._plain
        )

    def unload(self, target: keras.Model, state: list[np.ndarray]) -> None:
        """Give a model of the same architecture the variables in `state`."""
        copy_values(state, plain_variables(target, dropouts(target)))

    def snapshot(self) -> list[np.ndarray]:
        """Return all that training changes: weights and their averages, the optimizer's state,
        seeds of dropout.
        """
        return values_of(self._variables)

    def restore(self, snapshot: list[np.ndarray]) -> None:
        """Go on where `snapshot` was taken, in this process or another."""
        copy_values(snapshot, self._variables)

    def run(self, element: tuple[np.ndarray, ...]) -> dict[str, float]:
        """Train the steps of one element of an `Order` by the compiled function; return the
        metrics.
        """
        logs = run_function(self.model, self.model.train_function, element)
        return numbers_of(logs)

    @property
    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]


def numbers_of(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return each number of Keras's logs; a metric of several, such as one a class, gives NAME/0,
    NAME/1 and so on.
    """
    found: dict[str, float] = {}
    for name, value in logs.items():
        numbers = np.asarray(value, np.float64)
        names = (
            [name] if numbers.ndim == 0 else [f"{name}/{place}" for place in range(numbers.size)]
        )
        found |= zip(names, map(float, numbers.ravel()), strict=True)
    return found


def run_function(
    model: keras.Model, function: Callable[..., Any], element: tuple[np.ndarray, ...]
) -> dict[str, Any]:
    """Call a train function as `fit` calls it, and return its logs."""
    if keras.backend.backend() != "jax":
        logs: dict[str, Any] = function(iter([tuple(map(on_device, element))]))
        return logs
    parts = jax_variables(model)
    state = tuple(
        [keras.ops.copy(v.value) for v in part] for part in parts
    )  # the call gives its arguments away
    logs, state = function(state, iter([element]))
    for variables, values in zip(parts, state, strict=True):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    return logs


def averaged_variables(model: keras.Model, variables: list[Any]) -> list[Any]:
    """Return variables of a model, with the averages in the place of those that are averaged."""
    averages = averages_of(model.optimizer)
    averaged = {
        id(v): average for v, average in zip(model.trainable_variables, averages, strict=True)
    }
    return [averaged.get(id(v), v) for v in variables]


def jax_variables(model: keras.Model) -> tuple[list[Any], ...]:
    """Return the variables of a model as JAX's train step takes their values."""
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )


def plain_variables(model: keras.Model, inputs: list[Any]) -> list[Any]:
    """Return the variables of a model but for those of the layers whose rates are inputs."""
    excluded = {id(v) for layer in inputs for v in layer.variables}
    return [v for v in model.variables if id(v) not in excluded]


def values_of(variables: list[Any]) -> list[np.ndarray]:
    """Return the values of variables."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


class Averaging(keras.callbacks.Callback):  # type: ignore[misc]
    """Validates the averaged weights, and puts those that training goes on with back.

    Keras's SwapEMAWeights does the same, at the price of a quarter of a second an epoch for 20
    layers.
    """

    def on_test_begin(self, logs: Any = None) -> None:
        """Put the averaged weights in."""
        self._raw = values_of(self.model.trainable_variables)
        copy_values(averages_of(self.model.optimizer), self.model.trainable_variables)

    def on_test_end(self, logs: Any = None) -> None:
        """Put the others back."""
        copy_values(self._raw, self.model.trainable_variables)


def copy_values(sources: list[Any], targets: list[Any]) -> None:
    """Assign values, or those of variables, to variables."""
    for source, target in zip(sources, targets, strict=True):
        target.assign(
            keras.ops.copy(source)
        )  # on JAX two variables would share what a compiled call gives away


def build_metrics(model: keras.Model, images: Any, labels: Any) -> None:
    """Build what `compile` was given, by shapes alone.

    A program's step has no batch that `fit` could build them from, and in `fit` itself TensorFlow
    would trace the step twice for it.

    Args:
        model: One with Keras's own steps.
        images: A few of those that it trains on, (n, H, W, C).
        labels: Theirs.
    """
    with suppress(Exception):  # whatever is wrong with them, training says so
        model._symbolic_build(data_batch=(images, labels))


def _compiled_steps(model: keras.Model, images: Any, labels: Any, jit: bool) -> Callable[..., Any]:
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ValueError(f"Expected KERAS_BACKEND=tensorflow or jax. Received: {backend}")
    room: Any = import_module(f"hpsearch.training.programs.{BACKENDS[backend]}")
    made: Callable[..., Any] = room.compiled_steps(model, images, labels, jit)
    return made


def compiled_quickly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of JAX arrays that is called once, compiled with few optimizations where a
    CPU runs it.

    Op by op, JAX would compile each of them for each shape, which takes longer.
    """
    options = None if has_gpu() else {"xla_backend_optimization_level": 0}
    jitted: Callable[..., Any] = import_module("jax").jit(function, compiler_options=options)
    return jitted


def has_gpu() -> bool:
    """Return whether the backend computes on a GPU; asked for its GPUs, JAX raises an error where
    there are none.
    """
    return any(device.startswith("gpu") for device in keras.distribution.list_devices())


def on_device(array: np.ndarray) -> Any:
    """Return `array` as a tensor of the backend, where its type stays what it is."""
    return keras.ops.convert_to_tensor(array)
