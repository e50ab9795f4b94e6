"""Numbers that a compiled program reads at each call: learning rate, momentum, dropout rates."""

from __future__ import annotations

from typing import Any

import keras

from hpsearch.architectures.compiling import MOMENTUMS
from hpsearch.noise.draws import uniform_like
from hpsearch.noise.masks import alpha_dropped, dropped


class ProgramInput(keras.Variable):  # type: ignore[misc]
    """A number that a compiled program reads at each call.

    Keras leaves parts of a step out where `rate > 0` or `momentum != 0` is false in Python. A program must hold those
    parts whatever the number is, so to Python an input is never zero.
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
    """Keras's own asks in Python whether its rate is 0 or 1, which a number that is read at each call cannot answer.

    And it draws by TensorFlow's generator, of which XLA makes code so slow on a CPU that it took most of a step.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        return dropped(inputs, uniform_like(inputs, self.seed_generator.next()), self.rate) if training else inputs


class _LiveAlphaDropout(_RateInput, keras.layers.AlphaDropout):  # type: ignore[misc]
    def call(self, inputs: Any, training: bool = False) -> Any:
        return (
            alpha_dropped(inputs, uniform_like(inputs, self.seed_generator.next()), self.rate) if training else inputs
        )


LIVE = {keras.layers.Dropout: _LiveDropout, keras.layers.AlphaDropout: _LiveAlphaDropout}


def is_dropout(layer: keras.layers.Layer) -> bool:
    """Return whether the rate of `layer` can be an input; other kinds of dropout are part of the program."""
    return (type(layer) in LIVE and layer.noise_shape is None) or isinstance(layer, _RateInput)


def with_inputs(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return a copy of `layer`, freshly initialized, whose dropout rate is an input."""
    config = layer.get_config()
    if not is_dropout(layer):
        return type(layer).from_config(config)
    live: Any = LIVE[type(layer)]
    return live.from_config(config | {"rate": 0.5})  # at rate 0 Keras makes no seed generator


def rate_variables(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Return the variables of learning rate and momentum; None for one that a Keras schedule computes or that lacks."""
    rate = getattr(optimizer, "_learning_rate", None)
    momentums = (getattr(optimizer, name, None) for name in MOMENTUMS)
    momentum = next((v for v in momentums if isinstance(v, ProgramInput)), None)
    return [rate if isinstance(rate, keras.Variable) else None, momentum]


def momentum_input(optimizer: keras.optimizers.Optimizer) -> ProgramInput | None:
    """Make the momentum of `optimizer` an input and return it; None where it has none."""
    for name in MOMENTUMS:
        if isinstance(getattr(optimizer, name, None), float):
            value = ProgramInput(getattr(optimizer, name), name=name)
            setattr(optimizer, name, value)
            return value
    return None
