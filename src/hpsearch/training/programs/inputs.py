"""Numbers that a compiled program reads at each call: learning rate, momentum, dropout rates."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.models.functional import Functional

from hpsearch.models.dropout_masks import alpha_dropped, dropped, uniform_like
from hpsearch.models.loss_and_optimizer import MOMENTUMS


class ProgramInput(keras.Variable):  # type: ignore[misc]
    """A number that a compiled program reads at each call.

    Keras leaves parts of a step out where `rate > 0` or `momentum != 0` is false in Python. A
    program must hold those parts whatever the number is, so to Python an input is never zero.
    """

    def __init__(self, value: float, name: str) -> None:
        super().__init__(value, trainable=False, autocast=False, dtype="float32", name=name)

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
    """Keras's own asks in Python whether its rate is 0 or 1, which a number that is read at each
    call cannot answer.

    And it draws by TensorFlow's generator, of which XLA makes code so slow on a CPU that it took
    most of a step.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        return (
            dropped(inputs, uniform_like(inputs, self.seed_generator.next()), self.rate)
            if training
            else inputs
        )


class _LiveAlphaDropout(_RateInput, keras.layers.AlphaDropout):  # type: ignore[misc]
    def call(self, inputs: Any, training: bool = False) -> Any:
        return (
            alpha_dropped(inputs, uniform_like(inputs, self.seed_generator.next()), self.rate)
            if training
            else inputs
        )


LIVE = {keras.layers.Dropout: _LiveDropout, keras.layers.AlphaDropout: _LiveAlphaDropout}


def is_dropout(layer: keras.layers.Layer) -> bool:
    """Return whether the rate of `layer` can be an input; other kinds of dropout are part of the
    program.
    """
    return (type(layer) in LIVE and layer.noise_shape is None) or isinstance(layer, _RateInput)


def dropouts(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a model whose rates can be inputs, those of Keras's own models inside of
    it too.

    A model or layer of a person's own may do anything with a rate, so what stands inside of it
    stays as it is.
    """
    if type(model) not in (keras.Sequential, Functional):
        return []
    own = [layer for layer in model.layers if is_dropout(layer)]
    return own + [
        d for layer in model.layers if isinstance(layer, keras.Model) for d in dropouts(layer)
    ]


def take_rate_from_outside(layer: keras.layers.Layer) -> None:
    """Make the rate of a dropout layer an input, in place."""
    rate = layer.__dict__.pop("rate")
    layer.__class__ = LIVE[type(layer)]
    layer._tracker.unlock()
    layer.rate = rate
    if getattr(layer, "seed_generator", None) is None:  # at rate 0 Keras makes none
        layer.seed_generator = keras.random.SeedGenerator(0)
    layer._tracker.lock()


def rate_variables(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Return the variables of learning rate and momentum; None for one that a Keras schedule
    computes or that lacks.
    """
    rate = getattr(innermost(optimizer), "_learning_rate", None)
    momentums = (getattr(innermost(optimizer), name, None) for name in MOMENTUMS)
    momentum = next((v for v in momentums if isinstance(v, ProgramInput)), None)
    return [rate if isinstance(rate, keras.Variable) else None, momentum]


def innermost(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return the optimizer that steps, where another one wraps it to scale the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def is_momentum(optimizer: keras.optimizers.Optimizer, name: str) -> bool:
    """Return whether a number of an optimizer of Keras's own can be an input; with 0 it has no
    slots for it.
    """
    value = getattr(optimizer, name, None)
    is_number = isinstance(value, ProgramInput) or (isinstance(value, float) and value != 0.0)
    return is_number and type(optimizer).__module__.startswith("keras.")


def momentum_input(optimizer: keras.optimizers.Optimizer) -> ProgramInput | None:
    """Make the momentum of `optimizer` an input and return it; None where it has none."""
    steps = innermost(optimizer)
    for name in MOMENTUMS:
        if is_momentum(steps, name):
            value = ProgramInput(getattr(steps, name), name=name)
            setattr(steps, name, value)
            return value
    return None


def momentum_of(optimizer: keras.optimizers.Optimizer) -> float:
    """Return the momentum of an optimizer as a number, 0 where it has none."""
    found = (getattr(innermost(optimizer), name, None) for name in MOMENTUMS)
    return next((float(value) for value in found if isinstance(value, float | int)), 0.0)


def learning_rate_of(optimizer: keras.optimizers.Optimizer) -> float | None:
    """Return the learning rate of an optimizer as a number, None where a Keras schedule computes
    it.
    """
    rate = getattr(innermost(optimizer), "_learning_rate", None)
    return float(keras.ops.convert_to_numpy(rate)) if isinstance(rate, keras.Variable) else None
