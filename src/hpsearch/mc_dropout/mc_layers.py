"""Keras's dropout layers, always on: each takes its randomness as an input instead of keeping a
state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from hpsearch.models.dropout_masks import alpha_dropped, dropped, random_bits, uniform_of

SPATIAL = (
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
DROPOUTS = (keras.layers.Dropout, *SPATIAL, keras.layers.AlphaDropout, keras.layers.GaussianDropout)


@dataclass(frozen=True)
class Site:
    """One place where an active dropout layer is called.

    Attributes:
        layer: The original layer.
        rate: Its test-time rate, in (0, 1).
        position: Its place among all calls of dropout layers in the model, from 0: what its draws
            depend on.
    """

    layer: keras.layers.Layer
    rate: float
    position: int

    @property
    def name(self) -> str:
        """Name of the original layer."""
        return str(self.layer.name)


class AlwaysOn(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A dropout layer that draws from given keys; subclasses say what a draw does to the input."""

    def __init__(self, site: Site) -> None:
        super().__init__(
            name=f"always_on_{site.position}", dtype=site.layer.dtype_policy, autocast=False
        )
        self.site = site

    def call(self, inputs: Any, keys: Any, rates: Any) -> Any:
        """Return the input (B, ...) with noise: `keys` (B or 1, 2), `rates` (L,)."""
        shared = _shared_axes(self.site.layer, len(inputs.shape))
        shape = [1 if axis in shared else size for axis, size in enumerate(ops.shape(inputs))][1:]
        words = random_bits(keys, self.site.position, math.prod(shape))
        uniform = uniform_of(ops.reshape(words, (-1, *shape)))
        inputs = ops.cast(inputs, self.compute_dtype)
        return self.noisy(inputs, uniform, rates[self.site.position])

    def noisy(self, inputs: Any, uniform: Any, rate: Any) -> Any:
        """Return the input with noise from `uniform`: whole numbers in [0, 2**24), which broadcast
        to the input.
        """
        raise NotImplementedError

    def compute_output_spec(self, inputs: Any, keys: Any, rates: Any) -> Any:
        """Return shape and dtype of the output: those of the input."""
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


class AlwaysOnDropout(AlwaysOn):
    """Inverted dropout."""

    def noisy(self, inputs: Any, uniform: Any, rate: Any) -> Any:
        """Return the input where kept, over 1 - rate, and 0 elsewhere."""
        return dropped(inputs, uniform, rate)


class AlwaysOnAlphaDropout(AlwaysOn):
    """Dropout to SELU's negative saturation that keeps mean 0 and variance 1."""

    def noisy(self, inputs: Any, uniform: Any, rate: Any) -> Any:
        """Return the input where kept and the saturation elsewhere, scaled and shifted."""
        return alpha_dropped(inputs, uniform, rate)


class AlwaysOnGaussianDropout(AlwaysOn):
    """Multiplicative noise of mean 1 and variance rate / (1 - rate) (Srivastava et al., 2014)."""

    def noisy(self, inputs: Any, uniform: Any, rate: Any) -> Any:
        """Return the input times 1 + sqrt(rate / (1 - rate)) * normal."""
        centred = (ops.cast(uniform, "float32") + 0.5) * 2.0**-23 - 1.0
        noise = 1.0 + ops.sqrt(2.0 * rate / (1.0 - rate)) * ops.erfinv(centred)
        return inputs * ops.cast(noise, inputs.dtype)


def _shared_axes(layer: keras.layers.Layer, n_axes: int) -> Sequence[int]:
    """Return the axes along which one draw holds for all, the batch axis apart."""
    if isinstance(layer, SPATIAL):
        first = getattr(layer, "data_format", "channels_last") == "channels_first"
        return range(2, n_axes) if first else range(1, n_axes - 1)
    noise_shape = getattr(layer, "noise_shape", None) or ()
    return [axis for axis, size in enumerate(noise_shape) if axis and size == 1]


def always_on(site: Site) -> AlwaysOn:
    """Return the always-on layer that stands in for a dropout layer."""
    if isinstance(site.layer, keras.layers.AlphaDropout):
        return AlwaysOnAlphaDropout(site)
    if isinstance(site.layer, keras.layers.GaussianDropout):
        return AlwaysOnGaussianDropout(site)
    return AlwaysOnDropout(site)
