"""The settings and the layers that `DenseNet` and `ConvNet` have in common.

`Net` checks the settings. Each error names the key as the user types it, such as `arch.n_units`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import keras
from keras.layers import Activation, BatchNormalization, Dense, Identity, LayerNormalization
from keras_tuner import HyperModel, HyperParameters

from hpsearch.data.statistics import DataStatistics
from hpsearch.errors import ConfigError, ModelError, did_you_mean
from hpsearch.models.loss_and_optimizer import OptimizerFactory, make_optimizer
from hpsearch.models.preprocessing import standardization


@dataclass(eq=False, repr=False, kw_only=True)
class Net(HyperModel):  # type: ignore[misc]
    """A net from raw pixels of any size, (N, H, W, channels), to probabilities, (N, C).

    `build` draws `learning_rate`, `momentum` and `dropout_rate`, which is the same in all places.

    Attributes:
        statistics: Shape, number of classes and statistics of the train images.
        optimizer: Makes an optimizer from `learning_rate` and its momentum.
        n_units: The number of units of each dense layer but the last, at least 1.
        activation: The name of a Keras activation, or a partial of an activation layer (PReLU).
        kernel_initializer: The initializer of all kernels but the last: the name of a Keras
            initializer, or an object that `_target_` makes.
        normalization: `batch` puts BatchNormalization before each activation (Ioffe and Szegedy
            2015), and `batch_after` behind it. `layer` puts LayerNormalization before the
            activation (Ba et al. 2016). `none` adds no normalization.
        standardize: `channel`, `pixel` or `none`, as in `preprocessing.standardization`.
        dropout: Makes a dropout layer from a rate.

    Raises:
        ConfigError: A setting is impossible; the message names its key.
    """

    # A fit averages the weights over so many epochs, unless the user's settings say otherwise.
    averaging_epochs: ClassVar[float] = 2.0

    statistics: DataStatistics
    optimizer: OptimizerFactory
    n_units: int
    activation: str | Callable[[], keras.Layer]
    kernel_initializer: str | keras.Initializer
    normalization: str
    standardize: str
    dropout: Callable[[float], keras.Layer]

    def __post_init__(self) -> None:
        super().__init__()
        self._check_count("arch.n_units", self.n_units)
        if not callable(self.activation):
            self._check_known("activation", keras.activations.get)
        self._check_known("kernel_initializer", keras.initializers.get)
        self._check_choice("normalization", "kind", "none", "batch", "batch_after", "layer")

    @staticmethod
    def _check_count(key: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(
                f"Expected {key} to be a whole number of at least 1; received {value!r}."
            )

    def _check_known(self, name: str, get: Callable[[object], object]) -> None:
        """Raise ConfigError where `get`, a function of Keras, does not know a setting."""
        value = getattr(self, name)
        try:
            get(value)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"Expected arch.{name} to be a name that Keras knows; received {value!r}."
            ) from error

    def _check_choice(self, name: str, what: str, *choices: str) -> None:
        value = getattr(self, name)
        if value not in choices:
            wrong = f"Expected arch.{name} to be a known {what}; received {value!r}."
            raise ConfigError(wrong + did_you_mean(str(value), choices))

    def _first(self) -> list[keras.Layer]:
        """Return the input and the layer that standardizes it.

        Raises:
            ModelError: The inputs are no images.
        """
        shape = self.statistics.image_shape
        if len(shape) != 3:
            raise ModelError(
                f"Expected images (H, W, C) for this architecture, received inputs of shape "
                f"{shape}; give a model of your own for them: arch=own "
                f"arch._target_=mymodels.build_model."
            )
        image = keras.Input(shape)
        return [image, standardization(self.statistics, self.standardize)]

    def _activated(self, weights: keras.Layer) -> list[keras.Layer]:
        """Return a layer with weights, followed by its activation and its normalization."""
        activate = self._activate()
        if self.normalization == "batch":
            return [weights, BatchNormalization(), activate]
        if self.normalization == "batch_after":
            return [weights, activate, BatchNormalization()]
        if self.normalization == "layer":
            return [weights, LayerNormalization(), activate]
        return [weights, activate]

    def _activate(self) -> keras.Layer:
        if isinstance(self.activation, str):
            return Activation(self.activation)
        return self.activation()

    def _dropout_rate(self, hp: HyperParameters) -> float:
        """Draw the share of inputs that a dropout layer sets to zero, in [0, 1)."""
        rate = hp.Float("dropout_rate", 0.0, 0.5, default=0.1)
        return float(rate)

    def _compiled(
        self,
        layers: Sequence[keras.Layer],
        hp: HyperParameters,
        initializer: str | keras.Initializer = "glorot_uniform",
    ) -> keras.Model:
        """Return a model of these layers and a softmax layer, compiled for integer labels.

        It draws the learning rate and the momentum.
        """
        output = Dense(
            self.statistics.n_classes,
            dtype=keras.config.floatx(),
            kernel_initializer=initializer,
            activation="softmax",
        )
        model = keras.Sequential([*layers, output])
        learning_rate = hp.Float(
            "learning_rate",
            1e-5,
            1e-1,
            sampling="log",
            default=1e-3,
        )
        momentum = hp.Float("momentum", 0.5, 0.999, default=0.9)
        model.compile(
            optimizer=make_optimizer(self.optimizer, learning_rate, momentum),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        return model


def no_dropout(rate: float) -> keras.Layer:
    """Return a layer that replaces dropout and does nothing at any rate."""
    return Identity()
