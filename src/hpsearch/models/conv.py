"""The architecture `arch=cnn`: a small convolutional net.

`ConvNet` builds the Keras model of each trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
from keras.layers import Conv2D, Dense, Flatten, MaxPooling2D
from keras_tuner import HyperParameters

from hpsearch.errors import ConfigError
from hpsearch.models.settings import Net


@dataclass(eq=False, repr=False, kw_only=True)
class ConvNet(Net):
    """A net of blocks of convolutions, a dense layer and a softmax layer.

    Max pooling and dropout follow each block, and dropout follows the dense layer.

    Attributes:
        filters: The number of filters of the convolutions, one entry for each block.
        n_convolutions: The number of convolutions in each block, at least 1.
        kernel_size_px: The side of the convolutions in pixels, at least 1.

    Raises:
        ConfigError: A setting is impossible; the message names its key.
    """

    filters: Sequence[int]
    n_convolutions: int
    kernel_size_px: int

    def __post_init__(self) -> None:
        if isinstance(self.filters, int | str) or not self.filters:
            raise ConfigError(
                f"Expected arch.filters to be a list such as [32, 64, 128]; received "
                f"{self.filters!r}."
            )
        for number in self.filters:
            self._check_count("each of arch.filters", number)
        self._check_count("arch.n_convolutions", self.n_convolutions)
        self._check_count("arch.kernel_size_px", self.kernel_size_px)
        super().__post_init__()

    def build(self, hp: HyperParameters) -> keras.Model:
        """Return a compiled model with the hyperparameters that `hp` holds or draws."""
        rate = self._dropout_rate(hp)
        layers = self._first()
        for filters in self.filters:
            for _ in range(self.n_convolutions):
                layers += self._convolution(filters)
            # The padding "same" rounds sizes up: images of 8x8 keep a pixel after any number of
            # poolings.
            layers.append(MaxPooling2D(2, padding="same"))
            layers.append(self.dropout(rate))
        layers += [
            Flatten(),
            Dense(self.n_units, kernel_initializer=self.kernel_initializer),
            self._activate(),
            self.dropout(rate),
        ]
        return self._compiled(layers, hp)

    def _convolution(self, filters: int) -> list[keras.Layer]:
        convolution = Conv2D(
            filters,
            self.kernel_size_px,
            padding="same",
            kernel_initializer=self.kernel_initializer,
            use_bias=self.normalization != "batch",  # BatchNormalization adds an offset itself
        )
        return self._activated(convolution)
