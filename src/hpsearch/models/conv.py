"""A small convolutional net."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import keras_tuner

from hpsearch.data.statistics import DataFacts
from hpsearch.errors import ConfigError
from hpsearch.models.loss_and_optimizer import (
    OptimizerFactory,
    compile_classifier,
    draw_dropout_rate,
)
from hpsearch.models.preprocessing import standardization
from hpsearch.models.settings import (
    ActivationSetting,
    DropoutFactory,
    activated,
    check_activation,
    check_count,
    check_known,
    check_normalization,
    make_activation,
)


class ConvNet(keras_tuner.HyperModel):  # type: ignore[misc]
    """Blocks of 3x3 convolutions, each followed by max pooling and dropout; then a dense layer,
    dropout, softmax.

    Draws `learning_rate`, `momentum` and `dropout_rate` (one rate for all places). Input (N, H, W,
    C) raw pixels of any size, output (N, C) probabilities.

    Args:
        facts: Shape, classes and statistics of the train images.
        optimizer: Takes `learning_rate` and its momentum.
        filters: Filters of the convolutions, a number for each block.
        n_convolutions: Convolutions in each block.
        kernel_size_px: Side of the convolutions.
        n_units: Units of the dense layer.
        activation: A Keras activation's name, or a partial of an activation layer.
        kernel_initializer: A Keras initializer's name, for all layers but the last.
        normalization: `none`, `batch`, `batch_after` or `layer`, as `settings.activated` says.
        standardize: `channel`, `pixel` or `none`, as `preprocessing.standardization` says.
        dropout: Makes a dropout layer from a rate.

    Raises:
        ConfigError: A setting is impossible; the sentence names its key.
    """

    averaging_epochs = (
        2.0  # over which a fit averages its weights, unless the person's settings say otherwise
    )

    def __init__(
        self,
        *,
        facts: DataFacts,
        optimizer: OptimizerFactory,
        filters: Sequence[int],
        n_convolutions: int,
        kernel_size_px: int,
        n_units: int,
        activation: ActivationSetting,
        kernel_initializer: str,
        normalization: str,
        standardize: str,
        dropout: DropoutFactory,
    ) -> None:
        super().__init__()
        if isinstance(filters, int | str) or not filters:
            raise ConfigError(
                f"Expected arch.filters to be a list such as [32, 64, 128]; received {filters!r}."
            )
        self.facts = facts
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
            keras.Input(self.facts.image_shape),
            standardization(self.facts, self.standardize),
        ]
        for filters in self.filters:
            for _ in range(self.n_convolutions):
                layers += self._convolution(filters)
            # "same" rounds up, so that 8x8 digits still hold a pixel after three poolings and more.
            layers += [keras.layers.MaxPooling2D(2, padding="same"), self.dropout(rate)]
        layers += [
            keras.layers.Flatten(),
            keras.layers.Dense(self.n_units, kernel_initializer=self.kernel_initializer),
            make_activation(self.activation),
            self.dropout(rate),
            keras.layers.Dense(
                self.facts.n_classes, activation="softmax", dtype=keras.config.floatx()
            ),
        ]
        return compile_classifier(keras.Sequential(layers), hp, self.optimizer)

    def _convolution(self, filters: int) -> list[keras.Layer]:
        convolution = keras.layers.Conv2D(
            filters,
            self.kernel_size_px,
            padding="same",
            kernel_initializer=self.kernel_initializer,
            use_bias=self.normalization
            != "batch",  # BatchNormalization brings an offset of its own
        )
        return activated(convolution, self.normalization, self.activation)
