"""From a net of sparse layers to one of plain layers, without the units that nothing reaches."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from hpsearch.architectures.sparse import SparseDense

Array = NDArray[np.float32]


def export(model: keras.Model) -> keras.Model:
    """Return a Sequential model of Keras's own layers that gives the same probabilities.

    A hidden unit without weights gives the same output for every example: it is left out, and its output times its
    outgoing weights goes into the next layer's biases. Under LayerNormalization every unit counts, so all stay.
    """
    removes = not any(isinstance(layer, keras.layers.LayerNormalization) for layer in model.layers)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    made: list[keras.layers.Layer] = [keras.Input(model.input_shape[1:])]
    weights: list[list[Array] | None] = [None]
    alive: NDArray[np.bool_] | None = None  # units of the last dense layer that stay; None before the first one
    values: Any = None  # what its units give where nothing reaches them, (1, units)
    for layer in model.layers:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Dense):
            kernel, bias = _numbers(layer)
            if alive is not None:
                bias = bias + np.asarray(ops.convert_to_numpy(values))[0][~alive] @ kernel[~alive]
                kernel = kernel[alive]
            values = ops.convert_to_tensor(bias[None])
            alive = _reached(kernel) if removes and layer is not dense[-1] else np.ones(len(bias), bool)
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
    # A mask leaves -0.0 where a weight was negative, whose sign no compressor can foresee; this makes it 0.0.
    return np.asarray(ops.convert_to_numpy(kernel)) + np.float32(0.0), np.asarray(bias)


def _reached(kernel: Array) -> NDArray[np.bool_]:
    """Return which units have a weight that is not zero; of a layer without any, one stays."""
    reached = (kernel != 0).any(axis=0)
    if not reached.any():
        reached[0] = True
    return np.asarray(reached)


def zero_shares(model: keras.Model) -> list[float]:
    """Return the share of weights that are zero in each kernel, first to last."""
    kernels = [_numbers(layer)[0] for layer in model.layers if isinstance(layer, keras.layers.Dense)]
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
    return Weights(sum(kernel.size for kernel in kernels), used, sum(layer.units for layer in dense[:-1]))
