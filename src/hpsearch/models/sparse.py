"""Dense layers on their way to sparse ones; after training, `export` makes plain layers of them.

Three ways to a sparse net: what each makes of a dense layer, draws, and does between epochs. See
conf/sparsity.

From a net of sparse layers to one of plain layers, without the units that nothing reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import keras
import keras_tuner
import numpy as np
from keras import ops
from numpy.typing import NDArray

from hpsearch.errors import ConfigError, did_you_mean


class SparseDense(keras.layers.Dense):  # type: ignore[misc]
    """A dense layer that computes with a part of its kernel, which variables that no gradient moves
    tell.

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
    """Lasso (Tibshirani 1996): the sum of absolute weights joins the loss; outside training, small
    weights are zero.

    Args:
        strength: What the sum is multiplied by.
        threshold: Weights below this share of 1 / sqrt(inputs), their deviation in the beginning,
            are zero.
    """

    def __init__(
        self, units: int, *, threshold: float, strength: float = 0.0, **settings: Any
    ) -> None:
        super().__init__(units, **settings)
        self.threshold, self._drawn = threshold, strength

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Make the kernel and the strength."""
        super().build(input_shape)
        constant = keras.initializers.Constant(self._drawn)
        self.strength = self.add_weight(
            shape=(), initializer=constant, trainable=False, name="strength"
        )

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
    """The proximal step of the group lasso: each column gets shorter by `step`, down to exactly
    nothing.
    """

    def __init__(self, step: Any) -> None:
        self.step = step

    def __call__(self, kernel: Any) -> Any:
        lengths = ops.sqrt(ops.sum(ops.square(kernel), axis=0, keepdims=True))
        return kernel * ops.maximum(0.0, 1.0 - self.step / ops.maximum(lengths, 1e-12))


@keras.saving.register_keras_serializable("hpsearch")
class GroupLassoDense(SparseDense):
    """Group lasso over the weights of each unit (Yuan and Lin 2006), by a proximal step after each
    training step.

    Args:
        step: How much shorter each unit's weights get in each step: strength x learning rate x
            sqrt(inputs).
    """

    def __init__(self, units: int, *, step: float = 0.0, **settings: Any) -> None:
        super().__init__(units, **settings)
        self._drawn = step

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Make the kernel, the step, and what remembers which units are left."""
        super().build(input_shape)
        step = keras.initializers.Constant(self._drawn * input_shape[-1] ** 0.5)
        self.step = self.add_weight(shape=(), initializer=step, trainable=False, name="step")
        self.alive = self.add_weight(
            shape=(1, self.units), initializer="ones", trainable=False, name="alive"
        )
        self.kernel.constraint = _Shrink(self.step)

    def used(self, training: bool) -> Any:
        """Return the kernel; outside training it may be an average over steps, in which no unit is
        exactly zero.
        """
        if training:
            self.alive.assign(
                ops.cast(ops.any(self.kernel != 0, axis=0, keepdims=True), self.alive.dtype)
            )
            return self.kernel
        return self.kernel * self.alive


@keras.saving.register_keras_serializable("hpsearch")
class MaskedDense(SparseDense):
    """A dense layer whose masked weights are zero whatever training does to them."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Make the kernel and the mask."""
        super().build(input_shape)
        self.mask = self.add_weight(
            shape=self.kernel.shape, initializer="ones", trainable=False, name="mask"
        )

    def used(self, training: bool) -> Any:
        """Return the unmasked weights."""
        return self.kernel * self.mask


SCOPES = ("weight", "unit")


class Sparsity(Protocol):
    """What an architecture asks of a way to sparse nets."""

    def dense(
        self, units: int, hp: keras_tuner.HyperParameters, **settings: Any
    ) -> keras.layers.Layer:
        """Return the layer that stands for a dense one, with what it draws."""

    def callbacks(self) -> Sequence[keras.callbacks.Callback]:
        """Return what goes on between epochs; one with `ramp_epochs` keeps the first epochs from
        being the best.
        """


def _strength(hp: keras_tuner.HyperParameters, low: float, high: float) -> float:
    return float(
        hp.Float("sparsity_strength", low, high, sampling="log", default=(low * high) ** 0.5)
    )


@dataclass(frozen=True)
class L1:
    """The lasso; its strength is drawn between `low` and `high`. `threshold` is that of `L1Dense`."""

    low: float
    high: float
    threshold: float

    def dense(
        self, units: int, hp: keras_tuner.HyperParameters, **settings: Any
    ) -> keras.layers.Layer:
        """Return a dense layer with a price on each weight."""
        return L1Dense(
            units, threshold=self.threshold, strength=_strength(hp, self.low, self.high), **settings
        )

    def callbacks(self) -> Sequence[keras.callbacks.Callback]:
        """Return nothing."""
        return ()


@dataclass(frozen=True)
class GroupLasso:
    """The group lasso over units; its strength is drawn between `low` and `high`."""

    low: float
    high: float

    def dense(
        self, units: int, hp: keras_tuner.HyperParameters, **settings: Any
    ) -> keras.layers.Layer:
        """Return a dense layer with a price on each unit."""
        if keras.backend.backend() != "tensorflow":
            raise ConfigError(
                "sparsity=group_lasso needs KERAS_BACKEND=tensorflow: on JAX choose l1 or "
                "magnitude."
            )
        strength = _strength(hp, self.low, self.high)
        learning_rate = float(hp.Float("learning_rate", 1e-5, 1e-1, sampling="log", default=1e-3))
        return GroupLassoDense(units, step=strength * learning_rate, **settings)

    def callbacks(self) -> Sequence[keras.callbacks.Callback]:
        """Return nothing: the proximal step is part of each training step."""
        return ()


@dataclass(frozen=True)
class Magnitude:
    """Gradual pruning of the smallest weights (Zhu and Gupta 2017), or of the units with the
    smallest weights.

    Attributes:
        target: Share of each hidden layer's weights or units that is zero in the end.
        begin: Share of the epochs before the first are pruned.
        end: Share of the epochs after which the target is reached.
        scope: `weight` or `unit`.
    """

    target: float
    begin: float
    end: float
    scope: str

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            known = did_you_mean(str(self.scope), SCOPES)
            raise ConfigError(
                f"Expected sparsity.scope to be a known scope; received {self.scope!r}.{known}"
            )
        if not 0 < self.target < 1:
            raise ConfigError(
                f"Expected sparsity.target to lie between 0 and 1; received {self.target}."
            )
        if not 0 <= self.begin <= self.end < 1:
            raise ConfigError(
                f"Expected 0 <= sparsity.begin <= sparsity.end < 1; received {self.begin} and "
                f"{self.end}."
            )

    def dense(
        self, units: int, hp: keras_tuner.HyperParameters, **settings: Any
    ) -> keras.layers.Layer:
        """Return a dense layer with a mask."""
        return MaskedDense(units, **settings)

    def callbacks(self) -> Sequence[keras.callbacks.Callback]:
        """Return what makes the masks."""
        return (Pruning(self),)

    def share_at(self, epoch: int, n_epochs: int) -> float:
        """Return the share that is zero in an epoch (counted from 0): a cubic that slows down
        towards its end.
        """
        progress = epoch / n_epochs
        if progress < self.begin:
            return 0.0
        if progress >= self.end:
            return self.target
        return self.target * (1 - (1 - (progress - self.begin) / (self.end - self.begin)) ** 3)


class Pruning(keras.callbacks.Callback):  # type: ignore[misc]
    """Sits in Keras's fit and makes the masks of each epoch; what is masked stays so."""

    def __init__(self, settings: Magnitude) -> None:
        super().__init__()
        self.settings = settings

    def ramp_is_over(self, epoch: int) -> bool:
        """Return whether the target has been reached in an epoch (counted from 0)."""
        return bool(epoch / self.params["epochs"] >= self.settings.end)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Mask the smallest."""
        share = self.settings.share_at(epoch, self.params["epochs"])
        for layer in self.model.layers:
            if isinstance(layer, MaskedDense) and share:
                layer.mask.assign(
                    mask(
                        ops.convert_to_numpy(layer.kernel * layer.mask), share, self.settings.scope
                    )
                )


def mask(kernel: np.ndarray, share: float, scope: str) -> np.ndarray:
    """Return ones where weights (inputs, units) stay, zeros for the smallest `share` of them or of
    the units.
    """
    size = np.abs(kernel) if scope == "weight" else np.sqrt(np.square(kernel).sum(axis=0))
    n_masked = min(round(share * size.size), size.size - 1)
    kept = np.ones(size.size, np.float32)
    kept[np.argsort(size, axis=None, kind="stable")[:n_masked]] = 0.0
    kept = kept.reshape(size.shape)
    return np.ascontiguousarray(np.broadcast_to(kept, kernel.shape))


Array = NDArray[np.float32]


def export(model: keras.Model) -> keras.Model:
    """Return a Sequential model of Keras's own layers that gives the same probabilities.

    A hidden unit without weights gives the same output for every example: it is left out, and its
    output times its outgoing weights goes into the next layer's biases. Under LayerNormalization
    every unit counts, so all stay.
    """
    removes = not any(isinstance(layer, keras.layers.LayerNormalization) for layer in model.layers)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    made: list[keras.layers.Layer] = [keras.Input(model.input_shape[1:])]
    weights: list[list[Array] | None] = [None]
    alive: NDArray[np.bool_] | None = (
        None  # units of the last dense layer that stay; None before the first one
    )
    values: Any = None  # what its units give where nothing reaches them, (1, units)
    for layer in model.layers:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Dense):
            kernel, bias = _numbers(layer)
            if alive is not None:
                bias = bias + np.asarray(ops.convert_to_numpy(values))[0][~alive] @ kernel[~alive]
                kernel = kernel[alive]
            values = ops.convert_to_tensor(bias[None])
            alive = (
                _reached(kernel) if removes and layer is not dense[-1] else np.ones(len(bias), bool)
            )
            settings = {"name": layer.name, "activation": config["activation"], "use_bias": True}
            made.append(keras.layers.Dense.from_config({**settings, "units": int(alive.sum())}))
            weights.append([kernel[:, alive], bias[alive]])
            continue
        made.append(type(layer).from_config(config))
        if alive is None:
            weights.append([np.asarray(w) for w in layer.get_weights()])
            continue
        values = layer(values, training=False)
        weights.append([w[..., alive] for w in layer.get_weights()])
    exported = keras.Sequential(made, name=model.name)
    for layer, numbers in zip(made, weights, strict=True):
        if numbers:
            layer.set_weights(numbers)
    return exported


def _numbers(layer: keras.layers.Dense) -> tuple[Array, Array]:
    kernel = layer.used(training=False) if isinstance(layer, SparseDense) else layer.kernel
    bias = ops.convert_to_numpy(layer.bias) if layer.use_bias else np.zeros(layer.units, np.float32)
    # A mask leaves -0.0 where a weight was negative, whose sign no compressor can foresee; this
    # makes it 0.0.
    return np.asarray(ops.convert_to_numpy(kernel)) + np.float32(0.0), np.asarray(bias)


def _reached(kernel: Array) -> NDArray[np.bool_]:
    """Return which units have a weight that is not zero; of a layer without any, one stays."""
    reached = (kernel != 0).any(axis=0)
    if not reached.any():
        reached[0] = True
    return np.asarray(reached)


def zero_shares(model: keras.Model) -> list[float]:
    """Return the share of weights that are zero in each kernel, first to last."""
    kernels = [
        _numbers(layer)[0] for layer in model.layers if isinstance(layer, keras.layers.Dense)
    ]
    return [float((kernel == 0).mean()) for kernel in kernels]


class Weights(NamedTuple):
    """Weights in the kernels of dense layers, those of them that are not zero, and hidden units."""

    n_all: int
    n_used: int
    n_units: int


def n_weights(model: keras.Model) -> Weights:
    """Count them."""
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    kernels = [_numbers(layer)[0] for layer in dense]
    used = sum(int(np.count_nonzero(kernel)) for kernel in kernels)
    return Weights(
        sum(kernel.size for kernel in kernels), used, sum(layer.units for layer in dense[:-1])
    )
