"""Initializers that Keras lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


@keras.saving.register_keras_serializable("hpsearch")
class OneDraw(keras.initializers.Initializer):  # type: ignore[misc]
    """Gives all weights of a layer one and the same value, drawn by another initializer.

    Args:
        initializer: The name of a Keras initializer, whose first number is the value of all.
    """

    def __init__(self, initializer: str) -> None:
        self.initializer = initializer

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Return a tensor of `shape` that holds one value."""
        drawn = keras.initializers.get(self.initializer)(shape, dtype)
        return keras.ops.full(shape, keras.ops.reshape(drawn, (-1,))[0], dtype)

    def get_config(self) -> dict[str, str]:
        """Return the constructor's argument."""
        return {"initializer": self.initializer}


@keras.saving.register_keras_serializable("hpsearch")
class Small(keras.initializers.Initializer):  # type: ignore[misc]
    """Normal numbers of a given standard deviation, new ones for each layer that shares the object.

    Args:
        stddev: Their standard deviation.
    """

    def __init__(self, stddev: float) -> None:
        self.stddev = stddev

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Return a tensor of `shape`."""
        return keras.initializers.RandomNormal(stddev=self.stddev)(shape, dtype)

    def get_config(self) -> dict[str, float]:
        """Return the constructor's argument."""
        return {"stddev": self.stddev}


InitializerSetting = str | Callable[..., Any]
