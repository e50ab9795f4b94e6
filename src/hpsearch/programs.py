"""Compiled programs: many training steps in one call, and one program for all trials of an architecture.

The only room that knows which backend Keras runs on. `Program.fit` is still `keras.Model.fit`, callbacks and all; what
changes is the function that `fit` calls for each element of its data set. An element is not a batch but the order of
the next `steps_per_call` batches, and the function runs them in a compiled loop over images that stay on the device.

A program outlives its trial. Learning rate, momentum and dropout rates are read from variables at each call, not
compiled in, so the next trial of the same architecture loads its weights and numbers and starts at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

MOMENTUMS = ("momentum", "beta_1")


class ProgramInput(keras.Variable):  # type: ignore[misc]
    """A number that a compiled program reads at each call.

    Keras leaves parts of a step out where `rate > 0` or `momentum != 0` is false in Python. A program must hold those
    parts whatever the number is, so to Python an input is never zero.
    """

    def __init__(self, value: float, name: str) -> None:
        super().__init__(value, trainable=False, dtype="float32", name=name)

    def __gt__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = keras.Variable.__hash__


class _RateInput:
    """Mixed into a dropout layer: the rate that its constructor sets becomes an input."""

    @property
    def rate(self) -> ProgramInput:
        return self._rate_input

    @rate.setter
    def rate(self, value: float) -> None:
        self._rate_input = ProgramInput(value, name="rate")


class _LiveDropout(_RateInput, keras.layers.Dropout):  # type: ignore[misc]
    """Keras's own asks in Python whether its rate is 0 or 1, which a number that is read at each call cannot answer."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        rate = keras.ops.cast(self.rate, inputs.dtype)
        kept = keras.random.uniform(keras.ops.shape(inputs), dtype=inputs.dtype, seed=self.seed_generator) >= rate
        return keras.ops.where(kept, inputs / (1 - rate), keras.ops.zeros_like(inputs))


class _LiveAlphaDropout(_RateInput, keras.layers.AlphaDropout):  # type: ignore[misc]
    pass


LIVE = {keras.layers.Dropout: _LiveDropout, keras.layers.AlphaDropout: _LiveAlphaDropout}


class Order(keras.utils.PyDataset):  # type: ignore[misc]
    """The order in which an epoch sees its examples: a new one each epoch.

    Element i holds int32 indices of shape (steps_per_call, batch_size), how many of the rows count, (1,), and learning
    rate and momentum of each step, (steps_per_call, 2), NaN where `rates` is None and they stay as they are. Examples
    that do not fill a last batch wait for another epoch's order. `fit` must not shuffle the elements.
    """

    def __init__(
        self, n_examples: int, batch_size: int, steps_per_call: int, seed_of_epoch: Callable[[int], int]
    ) -> None:
        super().__init__()
        self.n_examples, self.batch_size = n_examples, min(batch_size, n_examples)
        self.n_steps = n_examples // self.batch_size
        self.steps_per_call = min(steps_per_call, self.n_steps) or self.n_steps
        self.seed_of_epoch = seed_of_epoch
        self.epoch = 0
        self.rates: np.ndarray | None = None  # (n_steps, 2), of this epoch

    def __len__(self) -> int:
        return math.ceil(self.n_steps / self.steps_per_call)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = np.random.default_rng(self.seed_of_epoch(self.epoch)).permutation(self.n_examples)
        rows = order[: self.n_steps * self.batch_size].reshape(self.n_steps, self.batch_size)
        mine = slice(index * self.steps_per_call, (index + 1) * self.steps_per_call)
        return self.element(rows[mine], None if self.rates is None else self.rates[mine])

    def element(self, rows: np.ndarray, rates: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return an element of `rows` (n, batch_size) and `rates` (n, 2), filled up to the shapes of them all."""
        order = np.zeros((self.steps_per_call, self.batch_size), np.int32)
        order[: len(rows)] = rows
        table = np.full((self.steps_per_call, 2), np.nan, np.float32)
        if rates is not None:
            table[: len(rates)] = rates
        return order, np.array([len(rows)], np.int32), table


def is_dropout(layer: keras.layers.Layer) -> bool:
    """Return whether the rate of `layer` can be an input; other kinds of dropout are part of the program."""
    return (type(layer) in LIVE and layer.noise_shape is None) or isinstance(layer, _RateInput)


def signature(model: keras.Model) -> str | None:
    """Return a text that two models share if and only if one program can train both; None where none can be made."""
    layers, compiled = model.get_config(), model.get_compile_config()
    if "layers" not in layers:  # neither Sequential nor Functional
        return None
    settings = compiled["optimizer"]["config"]
    for key in ("learning_rate", *MOMENTUMS):
        if isinstance(settings.get(key), float):
            settings[key] = "input"
    dropouts = {layer.name for layer in model.layers if is_dropout(layer)}
    for layer in layers["layers"]:
        if layer["config"]["name"] in dropouts:
            layer["config"]["rate"] = "input"
    places = {layer["config"]["name"]: f"@{place}" for place, layer in enumerate(layers["layers"])}
    places |= {model.name: "@model", model.optimizer.name: "@optimizer"}
    return json.dumps(_renamed([layers, compiled], places), default=repr)


def _renamed(node: Any, places: dict[str, str]) -> Any:
    """Keras numbers its names on and on; what counts is which layer a name stands for."""
    if isinstance(node, dict):
        named = {key: places.get(value, value) for key, value in node.items() if key == "name" and _is_text(value)}
        return {key: _renamed(value, places) for key, value in node.items()} | named
    if isinstance(node, list | tuple):
        return [places.get(item, item) if _is_text(item) else _renamed(item, places) for item in node]
    return node


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


class Program:
    """A model that trains in compiled calls, for one trial after another."""

    def __init__(self, source: keras.Model, images: Any, labels: Any, averaging: float, jit: bool) -> None:
        self.model = keras.models.clone_model(source, clone_function=_with_inputs)
        compiled = source.get_compile_config()
        if averaging:
            compiled["optimizer"]["config"].update(use_ema=True, ema_momentum=averaging)
        self.averaging = averaging
        settings = compiled["optimizer"]["config"]
        settings.update({key: 0.5 for key in MOMENTUMS if settings.get(key) == 0.0})  # at 0, SGD builds no velocities
        self.model.compile_from_config(compiled | {"jit_compile": jit})
        self.model.optimizer.build(self.model.trainable_variables)
        _build_metrics(self.model, images[:2], labels[:2])
        self.momentum = _momentum_input(self.model.optimizer)
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
        if isinstance(numbers["learning_rate"], float):  # a schedule is part of the program
            self.model.optimizer.learning_rate = numbers["learning_rate"]
        if self.momentum is not None:
            self.momentum.assign(momentum)

    def state(self) -> list[np.ndarray]:
        """Return the weights of all layers, dropout aside, as `unload` takes them."""
        return _values([v for layer in self.model.layers if not is_dropout(layer) for v in layer.variables])

    def unload(self, target: keras.Model, state: list[np.ndarray]) -> None:
        """Give a model of the same architecture the weights in `state`."""
        _copy(state, [v for layer in target.layers if not is_dropout(layer) for v in layer.variables])


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


class Averaging(keras.callbacks.Callback):  # type: ignore[misc]
    """Validates the averaged weights and leaves them in the model until the epoch has ended for other callbacks.

    Keras's SwapEMAWeights does the same, at the price of a quarter of a second an epoch for 20 layers.
    """

    def on_test_begin(self, logs: Any = None) -> None:
        """Put the averaged weights in, for validation."""
        self._raw = _values(self.model.trainable_variables)
        _copy(self.model.optimizer._model_variables_moving_average, self.model.trainable_variables)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put the weights that training goes on with back."""
        _copy(self._raw, self.model.trainable_variables)


def _copy(sources: list[Any], targets: list[Any]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.assign(source)


def _with_inputs(layer: keras.layers.Layer) -> keras.layers.Layer:
    config = layer.get_config()
    if not is_dropout(layer):
        return type(layer).from_config(config)
    live: Any = LIVE[type(layer)]
    return live.from_config(config | {"rate": 0.5})  # at rate 0 Keras makes no seed generator


def _build_metrics(model: keras.Model, images: Any, labels: Any) -> None:
    """Build what `fit` would build from its first batch, which here is no batch."""
    outputs = model(images)
    model.compute_loss(images, labels, outputs)
    model.compute_metrics(images, labels, outputs)
    model.reset_metrics()


def _momentum_input(optimizer: keras.optimizers.Optimizer) -> ProgramInput | None:
    for name in MOMENTUMS:
        if isinstance(getattr(optimizer, name, None), float):
            value = ProgramInput(getattr(optimizer, name), name=name)
            setattr(optimizer, name, value)
            return value
    return None


def _compiled_steps(model: keras.Model, images: Any, labels: Any, jit: bool) -> Callable[..., Any]:
    rates = [_learning_rate_variable(model.optimizer), _momentum_variable(model.optimizer)]
    make = {"tensorflow": _tensorflow_steps, "jax": _jax_steps}.get(keras.backend.backend())
    if make is None:
        raise ValueError(f"Expected KERAS_BACKEND=tensorflow or jax. Received: {keras.backend.backend()}")
    return make(model, images, labels, rates, jit)


def _learning_rate_variable(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the variable of the learning rate; None where a Keras schedule computes it."""
    variable = getattr(optimizer, "_learning_rate", None)
    return variable if isinstance(variable, keras.Variable) else None


def _momentum_variable(optimizer: keras.optimizers.Optimizer) -> Any:
    found = (getattr(optimizer, name, None) for name in MOMENTUMS)
    return next((v for v in found if isinstance(v, ProgramInput)), None)


def _tensorflow_steps(model: keras.Model, images: Any, labels: Any, rates: list[Any], jit: bool) -> Callable[..., Any]:
    import tensorflow as tf  # noqa: PLC0415 (the backend that runs, alone)

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


def _jax_steps(model: keras.Model, images: Any, labels: Any, rates: list[Any], jit: bool) -> Callable[..., Any]:
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    ids = [id(v) for v in model.optimizer.variables]
    places = [None if v is None else ids.index(id(v)) for v in rates]

    def steps(state: Any, order: Any, n_steps: Any, table: Any) -> Any:
        def step(i: Any, state: Any) -> Any:
            optimizer = list(state[2])
            for column, place in enumerate(places):
                if place is not None:
                    optimizer[place] = jnp.where(jnp.isnan(table[i, column]), optimizer[place], table[i, column])
            state = (*state[:2], optimizer, state[3])
            return model.train_step(state, (images[order[i]], labels[order[i]]))[1]

        state = jax.lax.fori_loop(0, n_steps, step, state)
        with keras.StatelessScope(state_mapping=list(zip(model.metrics_variables, state[3], strict=True))):
            return model.get_metrics_result(), state

    run = jax.jit(steps, donate_argnums=0)

    def train(state: Any, iterator: Iterator[Any]) -> Any:
        order, n_steps, table = next(iterator)
        return run(state, order, n_steps[0], table)

    return train


def on_device(array: np.ndarray) -> Any:
    """Return `array` as a tensor of the backend, where its type stays what it is."""
    return keras.ops.convert_to_tensor(array)
