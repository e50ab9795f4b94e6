"""Deep nets of dense layers alone."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import keras_tuner

from hpsearch.data.statistics import DataFacts
from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.models.initializers import InitializerSetting
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
)
from hpsearch.models.sparse import Sparsity, export

DROPOUT_AFTER = ("last", "all")


class DenseNet(keras_tuner.HyperModel):  # type: ignore[misc]
    """`n_hidden` layers of `n_units`: dense, normalization if wanted, activation, dropout; then
    softmax.

    Draws `learning_rate`, `momentum` and `dropout_rate`. Input (N, H, W, C) raw pixels, output (N,
    C) probabilities.

    Args:
        facts: Shape, classes and statistics of the train images.
        optimizer: Takes `learning_rate` and its momentum.
        n_hidden: Number of hidden layers.
        n_units: Units of each hidden layer.
        activation: A Keras activation's name, or a partial of an activation layer.
        kernel_initializer: A Keras initializer, by name or made by `_target_`, for the hidden
            layers.
        bias_initializer: The same, for the biases of the hidden layers.
        output_initializer: The same, for the kernel of the output layer.
        normalization: `none`, `batch`, `batch_after` or `layer`, as `settings.activated` says.
        standardize: `channel`, `pixel` or `none`, as `preprocessing.standardization` says.
        dropout: Makes a dropout layer from a rate.
        dropout_after: `last`, one layer of dropout before the output layer; `all`, after every
            hidden layer.
        sparsity: What makes the hidden layers sparse; None leaves them dense.

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
        n_hidden: int,
        n_units: int,
        activation: ActivationSetting,
        kernel_initializer: InitializerSetting,
        bias_initializer: InitializerSetting,
        output_initializer: InitializerSetting,
        normalization: str,
        standardize: str,
        dropout: DropoutFactory,
        dropout_after: str,
        sparsity: Sparsity | None = None,
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
        known = keras.initializers.get
        self.kernel_initializer = check_known("arch.kernel_initializer", kernel_initializer, known)
        self.bias_initializer = check_known("arch.bias_initializer", bias_initializer, known)
        self.output_initializer = check_known("arch.output_initializer", output_initializer, known)
        self.normalization = check_normalization(normalization)
        self.standardize = standardize
        self.dropout = dropout
        self.dropout_after = dropout_after
        self.sparsity = sparsity

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Return a compiled model with the hyperparameters that `hp` holds or draws."""
        rate = draw_dropout_rate(hp)
        layers = [
            keras.Input(self.facts.image_shape),
            standardization(self.facts, self.standardize),
            keras.layers.Flatten(),
        ]
        for number in range(1, self.n_hidden + 1):
            layers += self._hidden(hp)
            if self.dropout_after == "all" or number == self.n_hidden:
                layers.append(self.dropout(rate))
        output = {"kernel_initializer": self.output_initializer, "activation": "softmax"}
        layers.append(
            keras.layers.Dense(self.facts.n_classes, dtype=keras.config.floatx(), **output)
        )
        return compile_classifier(keras.Sequential(layers), hp, self.optimizer)

    def companions(self) -> Sequence[keras.callbacks.Callback]:
        """Return the callbacks that a fit of its models needs."""
        return self.sparsity.callbacks() if self.sparsity else ()

    def finished(self, model: keras.Model) -> keras.Model:
        """Return a trained model as it is kept: of plain layers."""
        return export(model) if self.sparsity else model

    def _hidden(self, hp: keras_tuner.HyperParameters) -> list[keras.Layer]:
        settings = {
            "kernel_initializer": self.kernel_initializer,
            "bias_initializer": self.bias_initializer,
            "use_bias": self.normalization
            != "batch",  # BatchNormalization brings an offset of its own
        }
        if self.sparsity is None:
            dense = keras.layers.Dense(self.n_units, **settings)
        else:
            dense = self.sparsity.dense(self.n_units, hp, **settings)
        return activated(dense, self.normalization, self.activation)
