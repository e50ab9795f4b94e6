"""Dropout layers that are always on, for Monte Carlo Dropout.

Each class does what one of Keras's dropout layers does in training. It takes its randomness as an
input instead of keeping the state of a random generator, so a pass can be repeated exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
from keras import ops

from hpsearch.models.dropout_masks import Tensor, alpha_dropped, dropped, random_bits, uniform_of

DROPOUTS = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
)


@dataclass(frozen=True)
class Site:
    """One call of an active dropout layer in a model.

    Attributes:
        layer: The original layer.
        rate: Its test-time rate, in (0, 1).
        position: Index of the call among all calls of dropout layers in the model, from 0. The
            draws depend on it.
    """

    layer: keras.layers.Layer
    rate: float
    position: int

    def mc_layer(self) -> keras.layers.Layer:
        """Return the always-on layer that replaces the dropout layer."""
        if isinstance(self.layer, keras.layers.AlphaDropout):
            return McAlphaDropout(self)
        if isinstance(self.layer, keras.layers.GaussianDropout):
            return _McGaussianDropout(self)
        return McStandardDropout(self)


class _McLayer(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Base of the dropout layers that draw from given keys.

    A subclass defines in `noisy` what the drawn numbers do to the input.
    """

    def __init__(self, site: Site) -> None:
        super().__init__(
            name=f"mc_layer_{site.position}",
            dtype=site.layer.dtype_policy,
            autocast=False,
        )
        self.site = site

    def call(
        self,
        inputs: Tensor,
        keys: Tensor,
        rates: Tensor,
    ) -> Tensor:
        """Return the input with noise.

        Args:
            inputs: Input of the dropout layer, (B, ...).
            keys: Two 32-bit integers per row, (B, 2), or (1, 2) where all rows share one mask.
            rates: Rates of all calls of dropout layers in the model, (L,).
        """
        shape = list(ops.shape(inputs))
        shared_axes = _shared_axes(self.site.layer, len(shape))
        for axis in shared_axes:
            shape[axis] = 1
        shape[0] = -1
        position = self.site.position
        n_words = math.prod(shape[1:])
        words = random_bits(keys, position, n_words)
        words = ops.reshape(words, shape)
        uniform = uniform_of(words)
        inputs = ops.cast(inputs, self.compute_dtype)
        return self.noisy(inputs, uniform, rates[position])

    def noisy(
        self,
        inputs: Tensor,
        uniform: Tensor,
        rate: Tensor,
    ) -> Tensor:
        """Return the input with noise.

        Args:
            inputs: Input in the layer's compute dtype, (B, ...).
            uniform: Uniform random integers in [0, 2**24), which broadcast to the input.
            rate: Dropout rate, a scalar in [0, 1).
        """
        raise NotImplementedError

    def compute_output_spec(
        self,
        inputs: Tensor,
        keys: Tensor,
        rates: Tensor,
    ) -> Tensor:
        """Return the shape of the input and the compute dtype as a symbolic tensor."""
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


class McStandardDropout(_McLayer):
    """Inverted dropout, for Dropout and SpatialDropout layers (Srivastava et al., 2014)."""

    noisy = staticmethod(dropped)


class McAlphaDropout(_McLayer):
    """Alpha dropout, which preserves mean 0 and variance 1 (Klambauer et al., 2017).

    Dropped values become SELU's negative saturation value instead of 0.
    """

    noisy = staticmethod(alpha_dropped)


class _McGaussianDropout(_McLayer):
    """Multiplicative noise of mean 1 and variance rate / (1 - rate) (Srivastava et al., 2014)."""

    def noisy(
        self,
        inputs: Tensor,
        uniform: Tensor,
        rate: Tensor,
    ) -> Tensor:
        """Return input * (1 + sqrt(rate / (1 - rate)) * normal)."""
        uniform = ops.cast(uniform, "float32")
        centred = (uniform + 0.5) * 2.0**-23 - 1.0  # in (-1, 1)
        kept = 1.0 - rate
        scale = ops.sqrt(2.0 * rate / kept)  # erfinv is normal / sqrt(2)
        noise = 1.0 + scale * ops.erfinv(centred)
        return inputs * ops.cast(noise, inputs.dtype)


def _shared_axes(layer: keras.layers.Layer, n_axes: int) -> Sequence[int]:
    """Return the axes, without the batch axis, along which all values share one draw."""
    spatial = (
        keras.layers.SpatialDropout1D,
        keras.layers.SpatialDropout2D,
        keras.layers.SpatialDropout3D,
    )
    if isinstance(layer, spatial):
        data_format = getattr(layer, "data_format", "channels_last")
        if data_format == "channels_first":
            return range(2, n_axes)
        return range(1, n_axes - 1)
    noise_shape = getattr(layer, "noise_shape", None)
    if not noise_shape:
        return ()
    shared = []
    for axis, size in enumerate(noise_shape):
        if axis > 0 and size == 1:
            shared.append(axis)
    return shared
