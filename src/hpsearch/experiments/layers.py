"""What goes on inside a net, layer by layer: activations, dead units, ranks, gradients. The net is
not changed.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from hpsearch.models.loss_and_optimizer import labels_for

Floats = NDArray[np.float64]
DROPOUTS = (keras.layers.Dropout, keras.layers.AlphaDropout)
ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.PReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.ReLU,
)
WEIGHTED = (keras.layers.Dense, keras.layers.Conv2D)
FLAT_SLOPE = 0.05  # an activation this flat lets next to no gradient through
DEAD_SLOPE = 1e-3
RANK_TOLERANCE = 1e-3  # of the largest singular value; float32 sums of 100 products agree to 1e-5


def inspect_layers(
    model: keras.Model, images: NDArray[Any], labels: NDArray[Any]
) -> dict[str, list[float]]:
    """Return measures of each hidden layer, first to last, as training sees it but without dropout.

    `mean` and `std` of the activations over examples and units; `dead`, the share of units that are
    flat for every example; `saturated`, the share of flat activations; `rank`, how many independent
    units there are; `distinct`, how many units differ from each other; `gradient_norm`, of each
    kernel, the output layer's last.

    Args:
        model: A compiled Sequential or Functional model.
        images: Raw pixels, (N, H, W, C).
        labels: Class of each image, (N,).
    """
    twin = without_dropout(model)
    measured = _activations(twin, images)
    with np.errstate(over="ignore", invalid="ignore"):
        measured["gradient_norm"] = [_norm(g) for g in gradients(twin, model, images, labels)]
    return measured


def without_dropout(model: keras.Model) -> keras.Model:
    """Return a copy of `model`, with weights of its own, whose dropout layers do nothing."""

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, DROPOUTS):
            return keras.layers.Identity(name=layer.name)
        return type(layer).from_config(layer.get_config())

    twin = keras.models.clone_model(model, clone_function=copied)
    twin.set_weights(model.get_weights())
    return twin


def _activations(twin: keras.Model, images: NDArray[Any]) -> dict[str, list[float]]:
    hidden = [layer for layer in twin.layers if isinstance(layer, ACTIVATIONS)]
    inputs = keras.Model(twin.inputs[0], [layer.input for layer in hidden])(images, training=True)
    measured: dict[str, list[float]] = {
        k: [] for k in ("mean", "std", "dead", "saturated", "rank", "distinct")
    }
    for layer, z in zip(hidden, inputs if isinstance(inputs, list) else [inputs], strict=True):
        outputs = _by_unit(layer(z))
        slopes = np.abs(_by_unit(_slope(layer, z)))
        finite = bool(np.isfinite(outputs).all())
        measured["mean"].append(float(outputs.mean()))
        measured["std"].append(float(outputs.std()))
        measured["dead"].append(float((slopes.max(axis=0) < DEAD_SLOPE).mean()))
        measured["saturated"].append(float((slopes < FLAT_SLOPE).mean()))
        measured["rank"].append(float(rank(outputs)) if finite else float("nan"))
        measured["distinct"].append(float(n_distinct(outputs)) if finite else float("nan"))
    return measured


def _by_unit(tensor: Any) -> Floats:
    values = np.asarray(ops.convert_to_numpy(tensor), np.float64)
    return values.reshape(-1, values.shape[-1])


def _slope(layer: keras.layers.Layer, z: Any) -> Any:
    step = 0.01 * ops.maximum(1.0, ops.abs(z))
    return (layer(z + step) - layer(z - step)) / (2 * step)


def rank(outputs: NDArray[Any]) -> int:
    """Return the number of independent units (columns) of activations (N, units): singular values
    above rounding.
    """
    scale = np.abs(outputs).max()
    if not scale:
        return 0
    values = np.linalg.svd(outputs[:2000] / scale, compute_uv=False)
    return int((values > RANK_TOLERANCE * values[0]).sum())


def n_distinct(outputs: NDArray[Any]) -> int:
    """Return how many units (columns) differ from each other by more than rounding."""
    scale = np.abs(outputs).max() or 1.0
    columns = (outputs / scale).T
    left = list(range(len(columns)))
    n_groups = 0
    while left:
        first = columns[left[0]]
        left = [i for i in left[1:] if np.abs(columns[i] - first).max() > RANK_TOLERANCE]
        n_groups += 1
    return n_groups


class _Recorder(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Writes each gradient where its variable was: Keras's own way to gradients on every backend."""

    def __init__(self) -> None:
        super().__init__(learning_rate=1.0)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign(variable, ops.cast(gradient, variable.dtype))


def gradients(
    twin: keras.Model, model: keras.Model, images: NDArray[Any], labels: NDArray[Any]
) -> list[NDArray[np.float32]]:
    """Return the gradient of `model`'s loss in each kernel, first to last, at the weights that
    `twin` holds.

    `twin` is used up: its variables become gradients.
    """
    loss = model.get_compile_config()["loss"]
    if labels_for(model) == "onehot":
        labels = keras.utils.to_categorical(labels, model.output_shape[-1])
    twin.compile(optimizer=_Recorder(), loss=loss, run_eagerly=True)
    twin.train_on_batch(images, labels)
    return [
        ops.convert_to_numpy(layer.kernel) for layer in twin.layers if isinstance(layer, WEIGHTED)
    ]


def _norm(gradient: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(gradient.astype(np.float64)).sum()))
