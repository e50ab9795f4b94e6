"""The architecture `arch=cnn`: a small convolutional net.

`ConvNet` builds the Keras model of each trial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import keras_tuner

from hpsearch.data.statistics import DataStatistics
from hpsearch.errors import ConfigError
from hpsearch.models.loss_and_optimizer import (
    OptimizerFactory,
    compile_classifier,
    draw_dropout_rate,
)
from hpsearch.models.preprocessing import standardization
from hpsearch.models.settings import (
    ActivationSetting,
    activated,
    check_activation,
    check_count,
    check_known,
    check_normalization,
    make_activation,
)


class ConvNet(keras_tuner.HyperModel):  # type: ignore[misc]
    """A net of blocks of convolutions, a dense layer and a softmax layer.

    Max pooling and dropout follow each block, and dropout follows the dense layer. The input is
    raw pixels of any size, (N, H, W, channels); the output is probabilities, (N, C). `build` draws
    `learning_rate`, `momentum` and `dropout_rate`, which is the same in all places.

    Args:
        statistics: Shape, number of classes and statistics of the train images.
        optimizer: Makes an optimizer from `learning_rate` and its momentum.
        filters: The number of filters of the convolutions, one entry for each block.
        n_convolutions: The number of convolutions in each block, at least 1.
        kernel_size_px: The side of the convolutions in pixels, at least 1.
        n_units: The number of units of the dense layer, at least 1.
        activation: The name of a Keras activation, or a partial of an activation layer.
        kernel_initializer: The name of a Keras initializer, for all layers but the last.
        normalization: `none`, `batch`, `batch_after` or `layer`, as in `settings.activated`.
        standardize: `channel`, `pixel` or `none`, as in `preprocessing.standardization`.
        dropout: Makes a dropout layer from a rate.

    Raises:
        ConfigError: A setting is impossible; the message names its key.
    """

    # A fit averages the weights over so many epochs, unless the user's settings say otherwise.
    averaging_epochs = 2.0

    def __init__(
        self,
        *,
        statistics: DataStatistics,
        optimizer: OptimizerFactory,
        filters: Sequence[int],
        n_convolutions: int,
        kernel_size_px: int,
        n_units: int,
        activation: ActivationSetting,
        kernel_initializer: str,
        normalization: str,
        standardize: str,
        dropout: Callable[[float], keras.Layer],
    ) -> None:
        super().__init__()
        if isinstance(filters, int | str) or not filters:
            raise ConfigError(
                f"Expected arch.filters to be a list such as [32, 64, 128]; received {filters!r}."
            )
        self.statistics = statistics
        self.optimizer = optimizer
        self.filters = [check_count("each of arch.filters", number) for number in filters]
        self.n_convolutions = check_count("arch.n_convolutions", n_convolutions)
        self.kernel_size_px = check_count("arch.kernel_size_px", kernel_size_px)
        self.n_units = check_count("arch.n_units", n_units)
        self.activation = check_activation("arch.activation", activation)
        self.kernel_initializer = check_known(
            "arch.kernel_initializer", kernel_initializer, keras.initializers.get
        )
        self.normalization = check_normalization(normalization)
        self.standardize = standardize
        self.dropout = dropout

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Return a compiled model with the hyperparameters that `hp` holds or draws."""
        rate = draw_dropout_rate(hp)
        layers = [
            keras.Input(self.statistics.image_shape),
            standardization(self.statistics, self.standardize),
        ]
        for filters in self.filters:
            for _ in range(self.n_convolutions):
                layers += self._convolution(filters)
            # The padding "same" rounds sizes up: images of 8x8 keep a pixel after any number of
            # poolings.
            layers.append(keras.layers.MaxPooling2D(2, padding="same"))
            layers.append(self.dropout(rate))
        layers += [
            keras.layers.Flatten(),
            keras.layers.Dense(self.n_units, kernel_initializer=self.kernel_initializer),
            make_activation(self.activation),
            self.dropout(rate),
            keras.layers.Dense(
                self.statistics.n_classes, activation="softmax", dtype=keras.config.floatx()
            ),
        ]
        return compile_classifier(keras.Sequential(layers), hp, self.optimizer)

    def _convolution(self, filters: int) -> list[keras.Layer]:
        convolution = keras.layers.Conv2D(
            filters,
            self.kernel_size_px,
            padding="same",
            kernel_initializer=self.kernel_initializer,
            use_bias=self.normalization != "batch",  # BatchNormalization adds an offset itself
        )
        return activated(convolution, self.normalization, self.activation)
