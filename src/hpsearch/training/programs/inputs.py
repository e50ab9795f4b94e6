"""Let a compiled program read learning rate, momentum and dropout rates at each call.

Keras holds the learning rate in a variable. `momentum_input` and `take_rate_from_outside` put a
variable (`ProgramInput`) in place of the momentum and of a dropout rate. Such dropout layers also
draw their masks in another way, because Keras's way is slow under XLA. `rates_of` reads the
learning rate and the momentum of an optimizer.
"""

from __future__ import annotations

import keras
from keras import ops
from keras.src.models.functional import Functional

from hpsearch.models.dropout_masks import Tensor, alpha_dropped, dropped, uniform_like
from hpsearch.models.loss_and_optimizer import MOMENTUMS


class ProgramInput(keras.Variable):  # type: ignore[misc]
    """A number that a compiled program reads at each call.

    Keras leaves parts of a step out where `rate > 0` or `momentum != 0` is false in Python. A
    program must hold those parts whatever the number is. An input is therefore greater than every
    number, and never equal to a number.
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
    """A mixin for dropout layers that turns the rate set by the constructor into an input."""

    @property
    def rate(self) -> ProgramInput:
        return self._rate_input

    @rate.setter
    def rate(self, value: float) -> None:
        self._rate_input = ProgramInput(value, name="rate")


class _LiveDropout(_RateInput, keras.layers.Dropout):  # type: ignore[misc]
    """Dropout whose rate is an input.

    Keras's layer asks in Python whether its rate is 0 or 1, which an input cannot answer. It also
    draws from TensorFlow's generator. XLA makes such slow code of this generator on a CPU that it
    took most of the time of a step.
    """

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training:
            return inputs
        words = uniform_like(inputs, self.seed_generator.next())
        return dropped(inputs, words, self.rate)


class _LiveAlphaDropout(_RateInput, keras.layers.AlphaDropout):  # type: ignore[misc]
    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training:
            return inputs
        words = uniform_like(inputs, self.seed_generator.next())
        return alpha_dropped(inputs, words, self.rate)


def _is_dropout(layer: keras.Layer) -> bool:
    """Return whether the rate of a layer can be an input.

    Other kinds of dropout are compiled into the program with their rates.
    """
    if isinstance(layer, _RateInput):
        return True
    kinds = (keras.layers.Dropout, keras.layers.AlphaDropout)
    return type(layer) in kinds and layer.noise_shape is None


def dropouts(model: keras.Model) -> list[keras.Layer]:
    """Return the layers of a model whose rates can be inputs.

    Layers inside nested Sequential and Functional models come last. Models and layers of a user's
    own class may use a rate in any way, so the layers inside them are left out.
    """
    if type(model) not in (keras.Sequential, Functional):
        return []
    found = [layer for layer in model.layers if _is_dropout(layer)]
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found.extend(dropouts(layer))
    return found


def take_rate_from_outside(layer: keras.Layer) -> None:
    """Make the rate of a dropout layer an input, in place."""
    rate = layer.__dict__.pop("rate")
    if isinstance(layer, keras.layers.AlphaDropout):
        layer.__class__ = _LiveAlphaDropout
    else:
        layer.__class__ = _LiveDropout
    layer._tracker.unlock()
    layer.rate = rate
    if getattr(layer, "seed_generator", None) is None:  # Keras makes none at rate 0
        layer.seed_generator = keras.random.SeedGenerator(0)
    layer._tracker.lock()


def rate_variables(optimizer: keras.Optimizer) -> list[keras.Variable | None]:
    """Return the variables of learning rate and momentum, in this order.

    The first is None where a Keras schedule computes the learning rate. The second is None where
    the momentum is no input.
    """
    steps = innermost(optimizer)
    rate = getattr(steps, "_learning_rate", None)
    if not isinstance(rate, keras.Variable):
        rate = None
    for name in MOMENTUMS:
        momentum = getattr(steps, name, None)
        if isinstance(momentum, ProgramInput):
            return [rate, momentum]
    return [rate, None]


def innermost(optimizer: keras.Optimizer) -> keras.Optimizer:
    """Return the optimizer that makes the steps, inside one that only scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def is_momentum(optimizer: keras.Optimizer, name: str) -> bool:
    """Return whether the attribute `name` of an optimizer is a momentum that can be an input.

    Only optimizers of Keras's own can have it as an input. A momentum of 0 cannot be one, because
    the optimizer then has no slots for it.
    """
    value = getattr(optimizer, name, None)
    if not type(optimizer).__module__.startswith("keras."):
        return False
    # An input compares as unequal to 0.
    return isinstance(value, float | ProgramInput) and value != 0.0


def momentum_input(optimizer: keras.Optimizer) -> ProgramInput | None:
    """Make the momentum of an optimizer an input and return it; return None where it has none."""
    steps = innermost(optimizer)
    for name in MOMENTUMS:
        if is_momentum(steps, name):
            value = ProgramInput(getattr(steps, name), name=name)
            setattr(steps, name, value)
            return value
    return None


def rates_of(optimizer: keras.Optimizer) -> tuple[float | None, float]:
    """Return the learning rate and the momentum of an optimizer as numbers.

    The learning rate is None where a Keras schedule computes it. The momentum is 0 where the
    optimizer has none.
    """
    rate, _ = rate_variables(optimizer)
    learning_rate = None
    if rate is not None:
        learning_rate = float(ops.convert_to_numpy(rate))
    for name in MOMENTUMS:
        momentum = getattr(innermost(optimizer), name, None)
        if isinstance(momentum, float | int):
            return learning_rate, float(momentum)
    return learning_rate, 0.0
