"""Weight initializers that Keras lacks, used by the ablations of initialization and of biases."""

from __future__ import annotations

import keras
from keras import ops
from keras.saving import register_keras_serializable

from hpsearch.models.dropout_masks import Tensor


@register_keras_serializable("hpsearch")
class OneDraw(keras.initializers.Initializer):  # type: ignore[misc]
    """Give all weights of a layer one value, which another initializer draws.

    Args:
        initializer: The name of a Keras initializer. The first number that it draws is the value.
    """

    def __init__(self, initializer: str) -> None:
        self.initializer = initializer

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Tensor:
        """Return a tensor of `shape` in which all numbers are equal."""
        initializer = keras.initializers.get(self.initializer)
        drawn = initializer(shape, dtype)
        numbers = ops.reshape(drawn, (-1,))
        return ops.full(shape, numbers[0], dtype)

    def get_config(self) -> dict[str, str]:
        """Return the argument of the constructor."""
        return {"initializer": self.initializer}


@register_keras_serializable("hpsearch")
class Small(keras.initializers.Initializer):  # type: ignore[misc]
    """Draw normal numbers of a given standard deviation.

    Layers that share one such object receive different numbers.

    Args:
        stddev: The standard deviation.
    """

    def __init__(self, stddev: float) -> None:
        self.stddev = stddev

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Tensor:
        """Return a tensor of `shape`."""
        normal = keras.initializers.RandomNormal(stddev=self.stddev)
        return normal(shape, dtype)

    def get_config(self) -> dict[str, float]:
        """Return the argument of the constructor."""
        return {"stddev": self.stddev}
