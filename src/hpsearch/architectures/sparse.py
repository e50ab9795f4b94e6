"""Dense layers on their way to sparse ones; after training, `export` makes plain layers of them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class SparseDense(keras.layers.Dense):  # type: ignore[misc]
    """A dense layer that computes with a part of its kernel, which variables that no gradient moves tell.

    A program serves all trials, so a strength is a variable too and no part of the configuration.
    """

    def used(self, training: bool) -> Any:
        """Return the kernel that outputs are computed with, (inputs, units)."""
        raise NotImplementedError

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the outputs, (N, units)."""
        outputs = ops.matmul(inputs, self.used(training))
        return self.activation(outputs + self.bias if self.use_bias else outputs)


@keras.saving.register_keras_serializable("hpsearch")
class L1Dense(SparseDense):
    """Lasso (Tibshirani 1996): the sum of absolute weights joins the loss; outside training, small weights are zero.

    Args:
        strength: What the sum is multiplied by.
        threshold: Weights below this share of 1 / sqrt(inputs), their deviation in the beginning, are zero.
    """

    def __init__(self, units: int, *, threshold: float, strength: float = 0.0, **settings: Any) -> None:
        super().__init__(units, **settings)
        self.threshold, self._drawn = threshold, strength

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Make the kernel and the strength."""
        super().build(input_shape)
        constant = keras.initializers.Constant(self._drawn)
        self.strength = self.add_weight(shape=(), initializer=constant, trainable=False, name="strength")

    def used(self, training: bool) -> Any:
        """Return all of the kernel in training, else the large weights."""
        if training:
            self.add_loss(self.strength * ops.sum(ops.abs(self.kernel)))
            return self.kernel
        least = self.threshold / self.kernel.shape[0] ** 0.5
        return ops.where(ops.abs(self.kernel) >= least, self.kernel, ops.zeros_like(self.kernel))

    def get_config(self) -> dict[str, Any]:
        """Return the settings, without the strength."""
        return {**super().get_config(), "threshold": self.threshold}


class _Shrink:
    """The proximal step of the group lasso: each column gets shorter by `step`, down to exactly nothing."""

    def __init__(self, step: Any) -> None:
        self.step = step

    def __call__(self, kernel: Any) -> Any:
        lengths = ops.sqrt(ops.sum(ops.square(kernel), axis=0, keepdims=True))
        return kernel * ops.maximum(0.0, 1.0 - self.step / ops.maximum(lengths, 1e-12))


@keras.saving.register_keras_serializable("hpsearch")
class GroupLassoDense(SparseDense):
    """Group lasso over the weights of each unit (Yuan and Lin 2006), by a proximal step after each training step.

    Args:
        step: How much shorter each unit's weights get in each step: strength x learning rate x sqrt(inputs).
    """

    def __init__(self, units: int, *, step: float = 0.0, **settings: Any) -> None:
        super().__init__(units, **settings)
        self._drawn = step

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Make the kernel, the step, and what remembers which units are left."""
        super().build(input_shape)
        step = keras.initializers.Constant(self._drawn * input_shape[-1] ** 0.5)
        self.step = self.add_weight(shape=(), initializer=step, trainable=False, name="step")
        self.alive = self.add_weight(shape=(1, self.units), initializer="ones", trainable=False, name="alive")
        self.kernel.constraint = _Shrink(self.step)

    def used(self, training: bool) -> Any:
        """Return the kernel; outside training it may be an average over steps, in which no unit is exactly zero."""
        if training:
            self.alive.assign(ops.cast(ops.any(self.kernel != 0, axis=0, keepdims=True), self.alive.dtype))
            return self.kernel
        return self.kernel * self.alive


@keras.saving.register_keras_serializable("hpsearch")
class MaskedDense(SparseDense):
    """A dense layer whose masked weights are zero whatever training does to them."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Make the kernel and the mask."""
        super().build(input_shape)
        self.mask = self.add_weight(shape=self.kernel.shape, initializer="ones", trainable=False, name="mask")

    def used(self, training: bool) -> Any:
        """Return the unmasked weights."""
        return self.kernel * self.mask
