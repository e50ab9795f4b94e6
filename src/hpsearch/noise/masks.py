"""What dropout does to its input, given whole numbers in [0, 2**24) that broadcast to it."""

from __future__ import annotations

from typing import Any

from keras import ops

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def dropped(inputs: Any, uniform: Any, rate: Any) -> Any:
    """Return the input where kept, over 1 - rate, and 0 elsewhere: inverted dropout (Srivastava et al., 2014)."""
    scale = ops.cast(1.0 / (1.0 - rate), inputs.dtype)
    return ops.where(_kept(uniform, rate), inputs * scale, ops.zeros((), inputs.dtype))


def alpha_dropped(inputs: Any, uniform: Any, rate: Any) -> Any:
    """Return a * (the input where kept, -alpha * scale elsewhere) + b, of mean 0 and variance 1 if the input is.

    Dropout to SELU's negative saturation (Klambauer et al., 2017).
    """
    saturated = -SELU_ALPHA * SELU_SCALE
    a = ops.rsqrt((1.0 - rate) * (1.0 + rate * saturated**2))
    b = -a * saturated * rate
    a, b = ops.cast(a, inputs.dtype), ops.cast(b, inputs.dtype)
    return ops.where(_kept(uniform, rate), a * inputs + b, a * saturated + b)


def _kept(uniform: Any, rate: Any) -> Any:
    return uniform >= ops.cast(rate * 2.0**24, "int32")
