"""Make dense layers sparse: lasso, group lasso and magnitude pruning.

`L1`, `GroupLasso` and `Magnitude` are the choices of `conf/sparsity`. Each makes the layers that
replace the dense layers of an architecture, draws what they need, and gives the callbacks of a fit.
After training, `export` turns such a model into one of Keras's own layers, without the hidden
units that have no weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np
from keras import ops
from keras.callbacks import Callback
from keras.layers import Dense, LayerNormalization
from keras.saving import register_keras_serializable
from keras_tuner import HyperParameters

from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.models.dropout_masks import Tensor


class _SparseDense(Dense):  # type: ignore[misc]
    """A dense layer that computes its outputs with a part of its kernel.

    Variables that are not trainable tell which part. One compiled program serves all trials, so
    the strength of a penalty is such a variable too, and it is not part of the configuration.
    """

    def used(self, training: bool) -> Tensor:
        """Return the kernel that the outputs are computed with, (inputs, units)."""
        raise NotImplementedError

    def _variable(
        self,
        name: str,
        shape: tuple[int, ...],
        initializer: keras.Initializer | str = "ones",
    ) -> keras.Variable:
        return self.add_weight(shape=shape, initializer=initializer, trainable=False, name=name)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Return the outputs, (N, units)."""
        kernel = self.used(training)
        outputs = ops.matmul(inputs, kernel)
        if self.use_bias:
            outputs = outputs + self.bias
        return self.activation(outputs)


@register_keras_serializable("hpsearch")
class L1Dense(_SparseDense):
    """A dense layer with the lasso (Tibshirani 1996).

    The sum of the absolute weights is added to the loss. Outside training, small weights are zero.

    Args:
        threshold: Weights below `threshold` / sqrt(inputs) are zero outside training. A new
            weight has a standard deviation of about 1 / sqrt(inputs).
        strength: The factor of the sum in the loss.
    """

    def __init__(
        self, units: int, *, threshold: float, strength: float = 0.0, **settings: object
    ) -> None:
        super().__init__(units, **settings)
        self.threshold = threshold
        self._drawn = strength

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Make the kernel and the strength."""
        super().build(input_shape)
        constant = keras.initializers.Constant(self._drawn)
        self.strength = self._variable("strength", (), constant)

    def used(self, training: bool) -> Tensor:
        """Return the whole kernel in training, and only its large weights otherwise."""
        if training:
            absolute_sum = ops.sum(ops.abs(self.kernel))
            self.add_loss(self.strength * absolute_sum)
            return self.kernel
        n_inputs = self.kernel.shape[0]
        least = self.threshold / n_inputs**0.5
        is_large = ops.abs(self.kernel) >= least
        zeros = ops.zeros_like(self.kernel)
        return ops.where(is_large, self.kernel, zeros)

    def get_config(self) -> dict[str, object]:
        """Return the settings, without the strength."""
        config: dict[str, object] = super().get_config()
        config["threshold"] = self.threshold
        return config


class _Shrink:
    """The proximal step of the group lasso: shorten each column by `step`, down to exactly zero."""

    def __init__(self, step: Tensor) -> None:
        self.step = step

    def __call__(self, kernel: Tensor) -> Tensor:
        squares = ops.square(kernel)
        sums = ops.sum(squares, axis=0, keepdims=True)
        lengths = ops.sqrt(sums)
        share = self.step / ops.maximum(lengths, 1e-12)
        return kernel * ops.maximum(0.0, 1.0 - share)


@register_keras_serializable("hpsearch")
class GroupLassoDense(_SparseDense):
    """A dense layer with the group lasso over the weights of each unit (Yuan and Lin 2006).

    A proximal step follows each training step.

    Args:
        step: Strength x learning rate. Each proximal step shortens the weights of each unit by
            `step` x sqrt(inputs).
    """

    def __init__(self, units: int, *, step: float = 0.0, **settings: object) -> None:
        super().__init__(units, **settings)
        self._drawn = step

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Make the kernel, the step, and the variable that tells which units are left."""
        super().build(input_shape)
        n_inputs = input_shape[-1]
        shortening = self._drawn * n_inputs**0.5
        constant = keras.initializers.Constant(shortening)
        self.step = self._variable("step", (), constant)
        self.alive = self._variable("alive", (1, self.units))
        self.kernel.constraint = _Shrink(self.step)

    def used(self, training: bool) -> Tensor:
        """Return the kernel; outside training, without the units that training has removed.

        Outside training the kernel may be an average over steps, in which no unit is exactly zero.
        """
        if not training:
            return self.kernel * self.alive
        is_alive = ops.any(self.kernel != 0, axis=0, keepdims=True)
        alive = ops.cast(is_alive, self.alive.dtype)
        self.alive.assign(alive)
        return self.kernel


@register_keras_serializable("hpsearch")
class MaskedDense(_SparseDense):
    """A dense layer whose masked weights count as zero, whatever values training gives them."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Make the kernel and the mask."""
        super().build(input_shape)
        self.mask = self._variable("mask", self.kernel.shape)

    def used(self, training: bool) -> Tensor:
        """Return the kernel with zeros for the masked weights."""
        return self.kernel * self.mask


class Sparsity(ABC):
    """What an architecture needs to make its layers sparse."""

    @abstractmethod
    def dense(self, units: int, hp: HyperParameters, **settings: object) -> keras.Layer:
        """Return the layer that replaces a dense layer, with the hyperparameters that it draws."""

    def callbacks(self) -> Sequence[Callback]:
        """Return the callbacks of a fit.

        A callback with the method `ramp_is_over` keeps earlier epochs from being the best.
        """
        return ()


@dataclass(frozen=True)
class _Lasso(Sparsity):
    """A penalty on weights, whose strength is drawn.

    Attributes:
        low: The lower bound of the drawn strength.
        high: Its upper bound.
    """

    low: float
    high: float

    def _strength(self, hp: HyperParameters) -> float:
        middle = (self.low * self.high) ** 0.5
        drawn = hp.Float(
            "sparsity_strength",
            self.low,
            self.high,
            sampling="log",
            default=middle,
        )
        return float(drawn)


@dataclass(frozen=True)
class L1(_Lasso):
    """The lasso: each weight of a hidden layer adds to the loss.

    Attributes:
        threshold: As in `L1Dense`.
    """

    threshold: float

    def dense(self, units: int, hp: HyperParameters, **settings: object) -> keras.Layer:
        """Return a dense layer that penalizes each weight."""
        strength = self._strength(hp)
        return L1Dense(units, threshold=self.threshold, strength=strength, **settings)


class GroupLasso(_Lasso):
    """The group lasso over units: each training step shortens the weights of each unit."""

    def dense(self, units: int, hp: HyperParameters, **settings: object) -> keras.Layer:
        """Return a dense layer that penalizes each unit."""
        if keras.backend.backend() != "tensorflow":
            raise ConfigError(
                "sparsity=group_lasso needs KERAS_BACKEND=tensorflow: on JAX choose l1 or "
                "magnitude."
            )
        strength = self._strength(hp)
        learning_rate = hp.Float("learning_rate", 1e-5, 1e-1, sampling="log", default=1e-3)
        step = strength * float(learning_rate)
        return GroupLassoDense(units, step=step, **settings)


@dataclass(frozen=True)
class Magnitude(Sparsity):
    """Gradual pruning of the smallest weights, or of the units with the smallest weights.

    The schedule is that of Zhu and Gupta (2017).

    Attributes:
        target: The share of each hidden layer's weights or units that is zero in the end, in
            (0, 1).
        begin: The share of the epochs that passes before pruning starts, in [0, 1).
        end: The share of the epochs after which the target is reached, in [`begin`, 1).
        scope: `weight` or `unit`.
    """

    target: float
    begin: float
    end: float
    scope: str

    def __post_init__(self) -> None:
        scopes = ("weight", "unit")
        if self.scope not in scopes:
            known = did_you_mean(str(self.scope), scopes)
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

    def dense(self, units: int, hp: HyperParameters, **settings: object) -> keras.Layer:
        """Return a dense layer with a mask."""
        return MaskedDense(units, **settings)

    def callbacks(self) -> Sequence[Callback]:
        """Return the callback that updates the masks."""
        return (_Pruning(self),)

    def share_at(self, epoch: int, n_epochs: int) -> float:
        """Return the share that is zero in an epoch, counted from 0.

        The share rises as a cubic that becomes flat towards its end.
        """
        progress = epoch / n_epochs
        if progress < self.begin:
            return 0.0
        if progress >= self.end:
            return self.target
        length = self.end - self.begin
        ramp = (progress - self.begin) / length
        left = (1 - ramp) ** 3
        return self.target * (1 - left)

    def mask(self, kernel: np.ndarray, share: float) -> np.ndarray:
        """Return a mask of a kernel: zeros for its smallest weights or units, ones for the rest.

        Args:
            kernel: The weights, (inputs, units).
            share: The share of weights or units to mask, in (0, 1). At least one remains. The size
                of a unit is the length of its weights.

        Returns:
            The mask, (inputs, units) float32.
        """
        if self.scope == "weight":
            size = np.abs(kernel)
        else:
            squares = np.square(kernel)
            size = np.sqrt(squares.sum(axis=0))
        n_masked = round(share * size.size)
        n_masked = min(n_masked, size.size - 1)
        from_smallest = np.argsort(size, axis=None, kind="stable")
        smallest = from_smallest[:n_masked]
        kept = np.ones(size.shape, np.float32)
        kept.flat[smallest] = 0.0
        mask = np.broadcast_to(kept, kernel.shape)
        return np.ascontiguousarray(mask)


class _Pruning(Callback):  # type: ignore[misc]
    """Update the masks of a model at the start of each epoch; a masked weight stays masked."""

    def __init__(self, settings: Magnitude) -> None:
        super().__init__()
        self.settings = settings

    def ramp_is_over(self, epoch: int) -> bool:
        """Return whether the target has been reached in an epoch, counted from 0."""
        progress = epoch / self.params["epochs"]
        return bool(progress >= self.settings.end)

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Mask the smallest weights or units."""
        n_epochs = self.params["epochs"]
        share = self.settings.share_at(epoch, n_epochs)
        if share == 0:
            return
        for layer in self.model.layers:
            if isinstance(layer, MaskedDense):
                kernel = ops.convert_to_numpy(layer.kernel * layer.mask)
                mask = self.settings.mask(kernel, share)
                layer.mask.assign(mask)


def export(model: keras.Model) -> keras.Model:
    """Return a Sequential model of Keras's own layers that gives the same probabilities.

    A hidden unit without weights gives the same output for every example. It is removed, and its
    output times its outgoing weights is added to the biases of the next layer. LayerNormalization
    computes with every unit, so a model that has it keeps all units.
    """
    has_layer_norm = any(isinstance(layer, LayerNormalization) for layer in model.layers)
    output = _dense_layers(model)[-1]
    exported = _Export()
    for layer in model.layers:
        if isinstance(layer, Dense):
            keep_all = has_layer_norm or layer is output
            exported.add_dense(layer, keep_all)
        else:
            exported.add_other(layer)
    image = keras.Input(model.input_shape[1:])
    made = keras.Sequential([image, *exported.layers], name=model.name)
    for layer, weights in zip(exported.layers, exported.weights, strict=True):
        if weights:
            layer.set_weights(weights)
    return made


class _Export:
    """The new layers of a model and their weights, added from the first layer to the last."""

    def __init__(self) -> None:
        self.layers: list[keras.Layer] = []
        self.weights: list[list[np.ndarray]] = []
        # The units of the last dense layer that stay; None before the first dense layer.
        self._alive: np.ndarray | None = None
        # The outputs of these units for an example that reaches none of them, (1, units).
        self._values: Tensor = None

    def add_dense(self, layer: Dense, keep_all: bool) -> None:
        """Add a dense layer, without the units that have no weights unless `keep_all` is true."""
        kernel = _kernel(layer)
        bias = np.zeros(layer.units, np.float32)
        if layer.use_bias:
            bias = ops.convert_to_numpy(layer.bias)
        if self._alive is not None:
            removed = ~self._alive
            values = ops.convert_to_numpy(self._values)[0]
            bias = bias + values[removed] @ kernel[removed]
            kernel = kernel[self._alive]
        alive = (kernel != 0).any(axis=0)
        if keep_all:
            alive[:] = True
        elif not alive.any():
            alive[0] = True  # a layer needs a unit
        n_alive = int(alive.sum())
        dense = Dense(n_alive, layer.activation, name=layer.name)
        self.layers.append(dense)
        self.weights.append([kernel[:, alive], bias[alive]])
        self._alive = alive
        self._values = ops.convert_to_tensor(bias[None])

    def add_other(self, layer: keras.Layer) -> None:
        """Add a layer of another kind, with its weights for the units that stay."""
        config = layer.get_config()
        copy = type(layer).from_config(config)
        self.layers.append(copy)
        weights = layer.get_weights()
        if self._alive is not None:
            weights = [array[..., self._alive] for array in weights]
            self._values = layer(self._values, training=False)
        self.weights.append(weights)


def _dense_layers(model: keras.Model) -> list[Dense]:
    return [layer for layer in model.layers if isinstance(layer, Dense)]


def _kernel(layer: Dense) -> np.ndarray:
    """Return the kernel that a dense layer uses outside training."""
    used = layer.kernel
    if isinstance(layer, _SparseDense):
        used = layer.used(training=False)
    # A mask leaves -0.0 where a weight was negative. Adding 0.0 makes it 0.0: a compressor cannot
    # predict the signs of zeros.
    kernel: np.ndarray = ops.convert_to_numpy(used)
    return kernel + np.float32(0.0)


class Weights(NamedTuple):
    """The weights of a model of dense layers, as counts.

    Attributes:
        n_all: Weights in the kernels of the dense layers.
        n_used: Those of them that are not zero.
        n_units: Hidden units.
        zero_shares: The share of zeros in each kernel, from the first layer to the last.
    """

    n_all: int
    n_used: int
    n_units: int
    zero_shares: list[float]

    @classmethod
    def of(cls, model: keras.Model) -> Weights:
        """Count the weights and the hidden units of a model."""
        layers = _dense_layers(model)
        kernels = [_kernel(layer) for layer in layers]
        n_all = sum(kernel.size for kernel in kernels)
        n_used = sum(int(np.count_nonzero(kernel)) for kernel in kernels)
        n_units = sum(layer.units for layer in layers[:-1])
        zero_shares = [float((kernel == 0).mean()) for kernel in kernels]
        return cls(n_all, n_used, n_units, zero_shares)
