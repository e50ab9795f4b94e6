"""Measures of each hidden layer of a model: activations, dead units, ranks and gradients.

`inspect_layers` measures on a copy, so that the model and its optimizer stay as they are.
"""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import layers, ops

from hpsearch.data.forms import Images, Labels
from hpsearch.models.dropout_masks import Tensor
from hpsearch.models.loss_and_optimizer import labels_for


def inspect_layers(
    model: keras.Model,
    images: Images,
    labels: Labels,
) -> dict[str, list[float]]:
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
    twin = _without_dropout(model)
    measured = _activations(twin, images)
    norms = []
    with np.errstate(over="ignore", invalid="ignore"):
        for gradient in gradients(twin, model, images, labels):
            squares = np.square(gradient, dtype=np.float64)
            norm = np.sqrt(squares.sum())
            norms.append(float(norm))
    measured["gradient_norm"] = norms
    return measured


def _without_dropout(model: keras.Model) -> keras.Model:
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
    inputs = [layer.input for layer in hidden]
    to_hidden = keras.Model(twin.inputs[0], inputs)
    outputs = to_hidden(images, training=True)
    zs = keras.tree.flatten(outputs)
    measured: dict[str, list[float]] = {}
    for layer, z in zip(hidden, zs, strict=True):
        of_layer = _of_layer(layer, z)
        for name, value in of_layer.items():
            values = measured.setdefault(name, [])
            values.append(float(value))
    return measured


def _of_layer(layer: layers.Layer, z: Tensor) -> dict[str, float]:
    """Return the measures of one activation layer at its inputs `z`.

    A unit is dead where its slope, by central differences, is flat for every example. An
    activation is saturated where the slope lets almost no gradient through.
    """
    distance = ops.abs(z)
    size = ops.maximum(1.0, distance)
    step = 0.01 * size
    rise = layer(z + step) - layer(z - step)
    slope = rise / (2 * step)
    slopes = np.abs(_by_unit(slope))
    is_flat = slopes < 0.05
    is_dead = slopes.max(axis=0) < 1e-3
    outputs = _by_unit(layer(z))
    measured = {
        "mean": outputs.mean(),
        "std": outputs.std(),
        "dead": is_dead.mean(),
        "saturated": is_flat.mean(),
        "rank": math.nan,
        "distinct": math.nan,
    }
    if np.isfinite(outputs).all():
        first = outputs[:2000]
        # float32 sums of 100 products agree to 1e-5
        measured["rank"] = np.linalg.matrix_rank(first, rtol=1e-3)
        measured["distinct"] = _n_distinct(outputs)
    return measured


def _by_unit(tensor: Tensor) -> np.ndarray:
    """Return a tensor as an array with one column for each unit."""
    array = ops.convert_to_numpy(tensor)
    values = np.asarray(array, np.float64)
    return values.reshape(-1, values.shape[-1])


def _n_distinct(outputs: np.ndarray) -> int:
    """Return the number of units that differ from each other by more than rounding.

    Args:
        outputs: Activations, (N, units).
    """
    largest = np.abs(outputs).max()
    left = outputs.T / (largest or 1.0)
    n_groups = 0
    while len(left):
        gaps = np.abs(left - left[0])
        is_other = gaps.max(axis=1) > 1e-3
        left = left[is_other]
        n_groups += 1
    return n_groups


class _Recorder(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Writes each gradient into its variable.

    This is a way of Keras's own to gradients that works on every backend.
    """

    def __init__(self) -> None:
        super().__init__(learning_rate=1.0)

    def update_step(
        self,
        gradient: Tensor,
        variable: Tensor,
        learning_rate: Tensor,
    ) -> None:
        value = ops.cast(gradient, variable.dtype)
        self.assign(variable, value)


def gradients(
    twin: keras.Model,
    model: keras.Model,
    images: Images,
    labels: Labels,
) -> list[np.ndarray]:
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
        n_classes = model.output_shape[-1]
        labels = keras.utils.to_categorical(labels, n_classes)
    twin.compile(optimizer=_Recorder(), loss=loss, run_eagerly=True)
    twin.train_on_batch(images, labels)
    found = []
    for layer in twin.layers:
        if isinstance(layer, layers.Dense | layers.Conv2D):
            kernel = ops.convert_to_numpy(layer.kernel)
            found.append(kernel)
    return found
