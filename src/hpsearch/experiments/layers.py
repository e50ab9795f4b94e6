"""Measures of each hidden layer of a model: activations, dead units, ranks and gradients.

`inspect_layers` measures on a copy, so that the model and its optimizer stay as they are.
"""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from hpsearch.data.split import Images, Labels
from hpsearch.mc_dropout.mc_layers import Tensor
from hpsearch.metrics import Floats
from hpsearch.models.loss_and_optimizer import labels_for


def inspect_layers(model: keras.Model, images: Images, labels: Labels) -> dict[str, list[float]]:
    """Return measures of each hidden layer in training mode but without dropout.

    Args:
        model: A compiled Sequential or Functional model.
        images: Raw pixels, (N, H, W, C).
        labels: Class of each image, (N,).

    Returns:
        A list for each measure, with one value for each hidden layer, first to last:

        - `mean` and `std`: of the activations, over examples and units;
        - `dead`: the share of units whose slope is flat for every example;
        - `saturated`: the share of activations whose slope is flat;
        - `rank`: the number of linearly independent units;
        - `distinct`: the number of units that differ from each other;
        - `gradient_norm`: the norm of the gradient in each kernel, the output layer's last.
    """
    twin = without_dropout(model)
    measured = _activations(twin, images)
    with np.errstate(over="ignore", invalid="ignore"):
        found = gradients(twin, model, images, labels)
        measured["gradient_norm"] = [_norm(gradient) for gradient in found]
    return measured


def without_dropout(model: keras.Model) -> keras.Model:
    """Return a copy of `model`, with weights of its own, whose dropout layers do nothing."""

    def copied(layer: layers.Layer) -> layers.Layer:
        if isinstance(layer, layers.Dropout | layers.AlphaDropout):
            return layers.Identity(name=layer.name)
        return type(layer).from_config(layer.get_config())

    twin = keras.models.clone_model(model, clone_function=copied)
    twin.set_weights(model.get_weights())
    return twin


def _activations(twin: keras.Model, images: Images) -> dict[str, list[float]]:
    """Return the measures of the activations of each hidden layer."""
    activations = (
        layers.Activation,
        layers.PReLU,
        layers.LeakyReLU,
        layers.ELU,
        layers.ReLU,
    )
    hidden = [layer for layer in twin.layers if isinstance(layer, activations)]
    to_hidden = keras.Model(twin.inputs[0], [layer.input for layer in hidden])
    inputs = to_hidden(images, training=True)
    if not isinstance(inputs, list):
        inputs = [inputs]
    names = ("mean", "std", "dead", "saturated", "rank", "distinct")
    measured: dict[str, list[float]] = {name: [] for name in names}
    for layer, z in zip(hidden, inputs, strict=True):
        for name, value in _of_layer(layer, z).items():
            measured[name].append(value)
    return measured


def _of_layer(layer: layers.Layer, z: Tensor) -> dict[str, float]:
    """Return the measures of one activation layer at its inputs `z`."""
    outputs = _by_unit(layer(z))
    slopes = np.abs(_by_unit(_slope(layer, z)))
    is_dead = slopes.max(axis=0) < 1e-3
    is_flat = slopes < 0.05  # such a slope lets almost no gradient through
    measured = {
        "mean": float(outputs.mean()),
        "std": float(outputs.std()),
        "dead": float(is_dead.mean()),
        "saturated": float(is_flat.mean()),
        "rank": math.nan,
        "distinct": math.nan,
    }
    if np.isfinite(outputs).all():
        measured["rank"] = float(rank(outputs))
        measured["distinct"] = float(n_distinct(outputs))
    return measured


def _by_unit(tensor: Tensor) -> Floats:
    """Return a tensor as an array with one column for each unit."""
    values = np.asarray(ops.convert_to_numpy(tensor), np.float64)
    n_units = values.shape[-1]
    return values.reshape(-1, n_units)


def _slope(layer: layers.Layer, z: Tensor) -> Tensor:
    """Return the slope of an activation at its inputs `z`, by central differences."""
    step = 0.01 * ops.maximum(1.0, ops.abs(z))
    rise = layer(z + step) - layer(z - step)
    return rise / (2 * step)


def rank(outputs: Floats) -> int:
    """Return the number of linearly independent units.

    It is the number of singular values above rounding, from at most 2000 examples.

    Args:
        outputs: Activations, (N, units).
    """
    scale = np.abs(outputs).max()
    if not scale:
        return 0
    values = np.linalg.svd(outputs[:2000] / scale, compute_uv=False)
    is_large = values > 1e-3 * values[0]  # float32 sums of 100 products agree to 1e-5
    return int(is_large.sum())


def n_distinct(outputs: Floats) -> int:
    """Return the number of units that differ from each other by more than rounding.

    Args:
        outputs: Activations, (N, units).
    """
    scale = np.abs(outputs).max()
    if not scale:
        scale = 1.0
    left = list((outputs / scale).T)
    n_groups = 0
    while left:
        first = left[0]
        left = [column for column in left[1:] if _differ(column, first)]
        n_groups += 1
    return n_groups


def _differ(column: Floats, other: Floats) -> bool:
    return bool(np.abs(column - other).max() > 1e-3)


class _Recorder(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Writes each gradient into its variable.

    This is a way of Keras's own to gradients that works on every backend.
    """

    def __init__(self) -> None:
        super().__init__(learning_rate=1.0)

    def update_step(self, gradient: Tensor, variable: Tensor, learning_rate: Tensor) -> None:
        self.assign(variable, ops.cast(gradient, variable.dtype))


def gradients(
    twin: keras.Model, model: keras.Model, images: Images, labels: Labels
) -> list[NDArray[np.float32]]:
    """Return the gradient of the loss of `model` in each kernel, first to last.

    Args:
        twin: Holds the weights at which the gradients are taken. It is used up: its variables
            become gradients.
        model: A compiled model, which gives the loss.
        images: Raw pixels, (N, H, W, C).
        labels: Class of each image, (N,).
    """
    loss = model.get_compile_config()["loss"]
    if labels_for(model) == "onehot":
        labels = keras.utils.to_categorical(labels, model.output_shape[-1])
    twin.compile(optimizer=_Recorder(), loss=loss, run_eagerly=True)
    twin.train_on_batch(images, labels)
    found = []
    for layer in twin.layers:
        if isinstance(layer, layers.Dense | layers.Conv2D):
            found.append(ops.convert_to_numpy(layer.kernel))
    return found


def _norm(gradient: NDArray[np.float32]) -> float:
    squares = np.square(gradient.astype(np.float64))
    return float(np.sqrt(squares.sum()))
