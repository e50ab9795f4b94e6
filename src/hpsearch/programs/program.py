"""Compiled programs: many training steps in one call, and one program for all trials of an architecture.

What trains is still `keras.Model.fit`, callbacks and all; what changes is the function that `fit` calls for each
element of its data set. An element is not a batch but the order of the next `steps_per_call` batches, and the function
runs them in a compiled loop over images that stay on the device.

A program outlives its trial. Learning rate, momentum and dropout rates are read from variables at each call, not
compiled in, so the next trial of the same architecture loads its weights and numbers and starts at once.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import keras
import numpy as np

from hpsearch.architectures.compiling import MOMENTUMS
from hpsearch.programs.averages import grow_window
from hpsearch.programs.inputs import is_dropout, momentum_input, with_inputs

BACKENDS = {"tensorflow": "on_tensorflow", "jax": "on_jax"}


class Program:
    """A model that trains in compiled calls, for one trial after another.

    Args:
        name: The signature of the models that it trains.
        source: One of them.
        images: Of the train part, on the device.
        labels: In the form that the loss takes.
        averaging: What the averaged weights keep of themselves in a step in the long run, in [0, 1); 0 averages none.
        jit: Whether XLA compiles it.
    """

    def __init__(
        self, name: str, source: keras.Model, images: Any, labels: Any, *, averaging: float, jit: bool
    ) -> None:
        self.name = name
        self.model = keras.models.clone_model(source, clone_function=with_inputs)
        compiled = source.get_compile_config()
        if averaging:
            compiled["optimizer"]["config"].update(use_ema=True, ema_momentum=averaging)
        self.averaging = averaging
        settings = compiled["optimizer"]["config"]
        settings.update({key: 0.5 for key in MOMENTUMS if settings.get(key) == 0.0})  # at 0, SGD builds no velocities
        self.model.compile_from_config(compiled | {"jit_compile": jit})
        if averaging:
            grow_window(self.model.optimizer, averaging)
        self.model.optimizer.build(self.model.trainable_variables)
        _build_metrics(self.model, images[:2], labels[:2])
        self.momentum = momentum_input(self.model.optimizer)
        self.initial = _values(self.model.optimizer.variables)
        self.model.train_function = _compiled_steps(self.model, images, labels, jit)

    def load(self, source: keras.Model, seed_of_layer: Callable[[int], int]) -> None:
        """Take over the weights, rates and optimizer numbers of a freshly built model; start its dropout anew."""
        for position, (mine, theirs) in enumerate(zip(self.model.layers, source.layers, strict=True)):
            if is_dropout(theirs):
                mine.rate.assign(theirs.rate)
                mine.seed_generator.state.assign(np.array([seed_of_layer(position), 0], np.uint32))
            else:
                _copy(theirs.variables, mine.variables)
        for variable, value in zip(self.model.optimizer.variables, self.initial, strict=True):
            variable.assign(value)
        numbers = source.optimizer.get_config()
        learning_rate = numbers["learning_rate"]
        momentum = next((numbers[name] for name in MOMENTUMS if name in numbers), 0.0)
        self.drawn = (learning_rate if isinstance(learning_rate, float) else None, momentum)
        if isinstance(learning_rate, float):  # a Keras schedule is part of the program
            self.model.optimizer.learning_rate = learning_rate
        if self.momentum is not None:
            self.momentum.assign(momentum)

    def state(self) -> list[np.ndarray]:
        """Return the weights of all layers, dropout aside, averaged where the program averages them."""
        averages = self.model.optimizer._model_variables_moving_average if self.averaging else []
        averaged = {id(v): average for v, average in zip(self.model.trainable_variables, averages, strict=False)}
        of_layers = [v for layer in self.model.layers if not is_dropout(layer) for v in layer.variables]
        return _values([averaged.get(id(v), v) for v in of_layers])

    def unload(self, target: keras.Model, state: list[np.ndarray]) -> None:
        """Give a model of the same architecture the weights in `state`."""
        _copy(state, [v for layer in target.layers if not is_dropout(layer) for v in layer.variables])

    def snapshot(self) -> list[np.ndarray]:
        """Return all that training changes: weights and their averages, the optimizer's state, seeds of dropout."""
        return _values(self._variables)

    def restore(self, snapshot: list[np.ndarray]) -> None:
        """Go on where `snapshot` was taken, in this process or another."""
        _copy(snapshot, self._variables)

    @property
    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


class Averaging(keras.callbacks.Callback):  # type: ignore[misc]
    """Validates the averaged weights, and puts those that training goes on with back.

    Keras's SwapEMAWeights does the same, at the price of a quarter of a second an epoch for 20 layers.
    """

    def on_test_begin(self, logs: Any = None) -> None:
        """Put the averaged weights in."""
        self._raw = _values(self.model.trainable_variables)
        _copy(self.model.optimizer._model_variables_moving_average, self.model.trainable_variables)

    def on_test_end(self, logs: Any = None) -> None:
        """Put the others back."""
        _copy(self._raw, self.model.trainable_variables)


def _copy(sources: list[Any], targets: list[Any]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.assign(keras.ops.copy(source))  # on JAX two variables would share what a compiled call gives away


def _build_metrics(model: keras.Model, images: Any, labels: Any) -> None:
    """Build what `fit` would build from its first batch, which here is no batch."""
    outputs = model(images)
    model.compute_loss(images, labels, outputs)
    model.compute_metrics(images, labels, outputs)
    model.reset_metrics()


def _compiled_steps(model: keras.Model, images: Any, labels: Any, jit: bool) -> Callable[..., Any]:
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ValueError(f"Expected KERAS_BACKEND=tensorflow or jax. Received: {backend}")
    room: Any = import_module(f"hpsearch.programs.{BACKENDS[backend]}")
    made: Callable[..., Any] = room.compiled_steps(model, images, labels, jit)
    return made


def on_device(array: np.ndarray) -> Any:
    """Return `array` as a tensor of the backend, where its type stays what it is."""
    return keras.ops.convert_to_tensor(array)
