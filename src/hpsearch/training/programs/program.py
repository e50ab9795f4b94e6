"""Train a model with a compiled program: many training steps in one call.

`keras.Model.fit` still trains the model, with its callbacks. Only the function that `fit` calls
for each element of its data set is another one. An element is not a batch but the order of the
next `steps_per_call` batches. The function trains on these batches in a compiled loop, and the
images stay on the device.

One program trains all models that have one fingerprint, batch size and averaging. A search whose
layers vary needs several programs. A program reads learning rate, momentum and dropout
rates from variables at each call, so they are not compiled in. The next trial
loads its weights and numbers and starts without compiling. The model of a program is
built and compiled by the user's own code, as the model of each trial is. It is not a copy made
from a config.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module

import keras
import numpy as np
from keras import ops

from hpsearch.models.dropout_masks import Tensor
from hpsearch.models.loss_and_optimizer import numbers_of
from hpsearch.training.programs.averages import average_weights, averages_of
from hpsearch.training.programs.inputs import (
    ProgramInput,
    dropouts,
    innermost,
    momentum_input,
    rates_of,
    take_rate_from_outside,
)
from hpsearch.training.programs.order import Element


class Program:
    """A model that trains in compiled calls, for one trial after another.

    Args:
        name: The fingerprint of the models that it trains.
        model: One of them, fresh from its HyperModel's `build`. The program changes it and keeps
            it.
        images: The train images on the device, (n, H, W, C).
        labels: Their labels on the device, in the form that the loss takes.
        averaging: The share that the averaged weights keep in each step in the long run, in
            [0, 1). 0 leaves the optimizer as it was compiled.
        jit: Whether XLA compiles the program.
    """

    def __init__(
        self,
        name: str,
        model: keras.Model,
        images: Tensor,
        labels: Tensor,
        *,
        averaging: float,
        jit: bool,
    ) -> None:
        self.name = name
        self.model = model
        self.averaging = averaging
        self.dropouts = dropouts(model)
        self._plain = plain_variables(model)
        for layer in self.dropouts:
            take_rate_from_outside(layer)
        self.momentum = momentum_input(model.optimizer)
        if averaging:
            average_weights(model.optimizer, averaging)
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        model.jit_compile = jit
        model.steps_per_execution = 1
        build_metrics(model, images[:2], labels[:2])
        self._initial = values_of(model.optimizer.variables)
        backend = keras.backend.backend()
        if backend not in ("tensorflow", "jax"):
            raise ValueError(f"Expected KERAS_BACKEND=tensorflow or jax. Received: {backend}")
        steps = import_module(f"hpsearch.training.programs.on_{backend}")
        model.train_function = steps.compiled_steps(model, images, labels, jit)

    def load(self, source: keras.Model, seed_of_layer: Callable[[int], int]) -> None:
        """Take over the state of a freshly built model, and start dropout from new seeds.

        Args:
            source: A model with the fingerprint of the program. Its weights, dropout rates and
                optimizer numbers are copied.
            seed_of_layer: Returns the seed of a dropout layer, given its place in `dropouts`.
        """
        copy_values(plain_variables(source), self._plain)
        pairs = zip(self.dropouts, dropouts(source), strict=True)
        for position, (mine, other) in enumerate(pairs):
            mine.rate.assign(other.rate)
            state = np.array([seed_of_layer(position), 0], np.uint32)
            mine.seed_generator.state.assign(state)
        self._load_optimizer(source.optimizer)

    def _load_optimizer(self, source: keras.Optimizer) -> None:
        mine = self.model.optimizer
        copy_values(self._initial, mine.variables)
        if source.built:
            copy_values(source.variables, self._slots())
        # Keras may compute `iterations` from another number, so the variable itself is copied.
        copy_values([source._iterations], [mine._iterations])
        copy_values([innermost(source)._iterations], [innermost(mine)._iterations])
        self.drawn = rates_of(source)
        learning_rate, momentum = self.drawn
        if learning_rate is not None:  # a Keras schedule is part of the program
            innermost(mine).learning_rate = learning_rate
        if self.momentum is not None:
            self.momentum.assign(momentum)

    def _slots(self) -> list[keras.Variable]:
        slots, _ = self.slots_and_added(self.model.optimizer, self.averaging)
        return slots

    @staticmethod
    def slots_and_added(
        optimizer: keras.Optimizer,
        averaging: float,
    ) -> tuple[list[keras.Variable], list[keras.Variable]]:
        """Return the variables that an optimizer always has, and its inputs and averages."""
        added = [v for v in optimizer.variables if isinstance(v, ProgramInput)]
        if averaging:
            added += averages_of(optimizer)
        return _without(optimizer.variables, added), added

    def state(self) -> list[np.ndarray]:
        """Return the values of the variables of all layers but dropout.

        Where the program averages weights, the averages stand in their places.
        """
        return kept_values(self.model, self._plain, self.averaging)

    def unload(self, target: keras.Model, state: list[np.ndarray]) -> None:
        """Give a model of the same architecture the variables in `state`."""
        copy_values(state, plain_variables(target))

    def snapshot(self) -> list[np.ndarray]:
        """Return all that training changes.

        These are the weights and their averages, the optimizer's state and the seeds of dropout.
        """
        return values_of(self._variables)

    def restore(self, snapshot: list[np.ndarray]) -> None:
        """Go back to the state of a `snapshot`, which another process may have taken."""
        copy_values(snapshot, self._variables)

    def run(self, element: Element) -> dict[str, float]:
        """Train the steps of an element of an `Order` in one compiled call; return the metrics."""
        function = self.model.train_function
        if keras.backend.backend() != "jax":
            tensors = tuple(map(ops.convert_to_tensor, element))
            return numbers_of(function(iter([tensors])))
        # The call gives its arguments away, so it gets copies.
        state = tuple([ops.copy(v.value) for v in part] for part in jax_variables(self.model))
        logs, state = function(state, iter([element]))
        self.set_jax_state(state)
        return numbers_of(logs)

    def set_jax_state(self, state: Sequence[list[Tensor]]) -> None:
        """Assign values to the variables of the model, both as `jax_variables` orders them."""
        for variables, values in zip(jax_variables(self.model), state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    @property
    def _variables(self) -> list[keras.Variable]:
        return [*self.model.variables, *self.model.optimizer.variables]


def kept_values(
    model: keras.Model,
    variables: list[keras.Variable],
    averaging: float,
) -> list[np.ndarray]:
    """Return the values of variables of a model.

    Where `averaging` is not 0, the averages stand in the places of the trainable variables.
    """
    averaged = {}
    if averaging:
        ids = map(id, model.trainable_variables)
        averaged = dict(zip(ids, averages_of(model.optimizer), strict=True))
    return values_of([averaged.get(id(v), v) for v in variables])


def jax_variables(model: keras.Model) -> tuple[list[keras.Variable], ...]:
    """Return the variables of a model in the four groups of JAX's train step."""
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )


def plain_variables(model: keras.Model) -> list[keras.Variable]:
    """Return the variables of a built model without those of its layers in `dropouts`."""
    return _without(model.variables, [v for layer in dropouts(model) for v in layer.variables])


def _without(
    variables: list[keras.Variable],
    excluded: list[keras.Variable],
) -> list[keras.Variable]:
    ids = set(map(id, excluded))
    return [v for v in variables if id(v) not in ids]


def values_of(variables: list[keras.Variable]) -> list[np.ndarray]:
    """Return copies of the values of variables."""
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


class Averaging(keras.callbacks.Callback):  # type: ignore[misc]
    """Validates the averaged weights, and puts the trained weights back afterwards.

    Keras's SwapEMAWeights does the same, but it takes a quarter of a second an epoch for 20
    layers.
    """

    def on_test_begin(self, logs: object = None) -> None:
        """Put the averaged weights into the model."""
        self._raw = values_of(self.model.trainable_variables)
        copy_values(averages_of(self.model.optimizer), self.model.trainable_variables)

    def on_test_end(self, logs: object = None) -> None:
        """Put the trained weights back."""
        copy_values(self._raw, self.model.trainable_variables)


def copy_values(sources: Sequence[Tensor], targets: list[keras.Variable]) -> None:
    """Assign arrays, or the values of variables, to variables.

    Args:
        sources: Arrays, tensors or variables.
        targets: As many variables, of the same shapes.
    """
    for source, target in zip(sources, targets, strict=True):
        # Without a copy two variables would share one buffer on JAX, and a compiled call gives
        # its buffers away.
        target.assign(ops.copy(source))


def build_metrics(
    model: keras.Model,
    images: Tensor,
    labels: Tensor,
) -> None:
    """Build the metrics and the loss that `compile` was given, from shapes alone.

    The step of a program has no batch from which `fit` could build them. In `fit` itself,
    TensorFlow would trace the step twice for them.

    Args:
        model: A model that trains in Keras's own steps.
        images: A few of the images that it trains on, (n, H, W, C).
        labels: Their labels.
    """
    with suppress(Exception):  # training raises the same error, if there is one
        model._symbolic_build(data_batch=(images, labels))


def has_gpu() -> bool:
    """Return whether the backend computes on a GPU.

    All devices are listed, because JAX raises an error where it is asked for GPUs and has none.
    """
    devices = keras.distribution.list_devices()
    return any(device.startswith("gpu") for device in devices)
