"""Deep nets of dense layers alone."""

from __future__ import annotations

import keras
import keras_tuner

from hpsearch.architectures.compiling import OptimizerFactory, compile_classifier, draw_dropout_rate
from hpsearch.architectures.facts import DataFacts
from hpsearch.architectures.preprocessing import standardization
from hpsearch.architectures.settings import (
    ActivationSetting,
    DropoutFactory,
    check_activation,
    check_count,
    check_known,
    check_switch,
    make_activation,
)
from hpsearch.errors import ConfigError, did_you_mean

DROPOUT_AFTER = ("last", "all")


class DenseNet(keras_tuner.HyperModel):  # type: ignore[misc]
    """`n_hidden` layers of `n_units`: dense, BatchNormalization if wanted, activation, dropout; then softmax.

    Draws `learning_rate`, `momentum` and `dropout_rate`. Input (N, H, W, C) raw pixels, output (N, C) probabilities.

    Args:
        facts: Shape, classes and statistics of the train images.
        optimizer: Takes `learning_rate` and its momentum.
        n_hidden: Number of hidden layers.
        n_units: Units of each hidden layer.
        activation: A Keras activation's name, or a partial of an activation layer.
        kernel_initializer: A Keras initializer's name, for the hidden layers.
        batch_norm: Whether BatchNormalization stands between each dense layer and its activation.
        standardize: `channel`, `pixel` or `none`, as `preprocessing.standardization` says.
        dropout: Makes a dropout layer from a rate.
        dropout_after: `last`, one layer of dropout before the output layer; `all`, after every hidden layer.

    Raises:
        ConfigError: A setting is impossible; the sentence names its key.
    """

    def __init__(
        self,
        *,
        facts: DataFacts,
        optimizer: OptimizerFactory,
        n_hidden: int,
        n_units: int,
        activation: ActivationSetting,
        kernel_initializer: str,
        batch_norm: bool,
        standardize: str,
        dropout: DropoutFactory,
        dropout_after: str,
    ) -> None:
        super().__init__()
        if dropout_after not in DROPOUT_AFTER:
            wrong = f"Expected arch.dropout_after to be a known place; received {dropout_after!r}."
            raise ConfigError(wrong + did_you_mean(str(dropout_after), DROPOUT_AFTER))
        self.facts = facts
        self.optimizer = optimizer
        self.n_hidden = check_count("arch.n_hidden", n_hidden)
        self.n_units = check_count("arch.n_units", n_units)
        self.activation = check_activation("arch.activation", activation)
        self.kernel_initializer = check_known("arch.kernel_initializer", kernel_initializer, keras.initializers.get)
        self.batch_norm = check_switch("arch.batch_norm", batch_norm)
        self.standardize = standardize
        self.dropout = dropout
        self.dropout_after = dropout_after

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Return a compiled model with the hyperparameters that `hp` holds or draws."""
        rate = draw_dropout_rate(hp)
        layers = [
            keras.Input(self.facts.image_shape),
            standardization(self.facts, self.standardize),
            keras.layers.Flatten(),
        ]
        for number in range(1, self.n_hidden + 1):
            layers += self._hidden()
            if self.dropout_after == "all" or number == self.n_hidden:
                layers.append(self.dropout(rate))
        layers.append(keras.layers.Dense(self.facts.n_classes, activation="softmax", dtype="float32"))
        return compile_classifier(keras.Sequential(layers), hp, self.optimizer)

    def _hidden(self) -> list[keras.Layer]:
        dense = keras.layers.Dense(
            self.n_units,
            kernel_initializer=self.kernel_initializer,
            use_bias=not self.batch_norm,  # BatchNormalization brings an offset of its own
        )
        between = [keras.layers.BatchNormalization()] if self.batch_norm else []
        return [dense, *between, make_activation(self.activation)]
