"""The architecture `arch=dense`: a deep net of dense layers.

`DenseNet` builds the Keras model of each trial. It can make the hidden layers sparse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import keras_tuner

from hpsearch.data.statistics import DataStatistics
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
    activated,
    check_activation,
    check_count,
    check_known,
    check_normalization,
)
from hpsearch.models.sparse import Sparsity, export


class DenseNet(keras_tuner.HyperModel):  # type: ignore[misc]
    """A net of `n_hidden` equal hidden layers and a softmax layer.

    A hidden layer is a dense layer with optional normalization, an activation and dropout. The
    input is raw pixels, (N, H, W, channels); the output is probabilities, (N, C). `build` draws
    `learning_rate`, `momentum` and `dropout_rate`.

    Args:
        statistics: Shape, number of classes and statistics of the train images.
        optimizer: Makes an optimizer from `learning_rate` and its momentum.
        n_hidden: The number of hidden layers, at least 1.
        n_units: The number of units of each hidden layer, at least 1.
        activation: The name of a Keras activation, or a partial of an activation layer.
        kernel_initializer: The initializer of the hidden layers' kernels: the name of a Keras
            initializer, or an object that `_target_` makes.
        bias_initializer: The initializer of the hidden layers' biases.
        output_initializer: The initializer of the output layer's kernel.
        normalization: `none`, `batch`, `batch_after` or `layer`, as in `settings.activated`.
        standardize: `channel`, `pixel` or `none`, as in `preprocessing.standardization`.
        dropout: Makes a dropout layer from a rate.
        dropout_after: `last` puts dropout after the last hidden layer, and `all` after every one.
        sparsity: Makes the hidden layers sparse; None leaves them dense.

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
        n_hidden: int,
        n_units: int,
        activation: ActivationSetting,
        kernel_initializer: InitializerSetting,
        bias_initializer: InitializerSetting,
        output_initializer: InitializerSetting,
        normalization: str,
        standardize: str,
        dropout: Callable[[float], keras.Layer],
        dropout_after: str,
        sparsity: Sparsity | None = None,
    ) -> None:
        super().__init__()
        places = ("last", "all")
        if dropout_after not in places:
            wrong = f"Expected arch.dropout_after to be a known place; received {dropout_after!r}."
            raise ConfigError(wrong + did_you_mean(str(dropout_after), places))
        self.statistics = statistics
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
            keras.Input(self.statistics.image_shape),
            standardization(self.statistics, self.standardize),
            keras.layers.Flatten(),
        ]
        for number in range(1, self.n_hidden + 1):
            layers += self._hidden(hp)
            if self.dropout_after == "all" or number == self.n_hidden:
                layers.append(self.dropout(rate))
        output = keras.layers.Dense(
            self.statistics.n_classes,
            dtype=keras.config.floatx(),
            kernel_initializer=self.output_initializer,
            activation="softmax",
        )
        layers.append(output)
        return compile_classifier(keras.Sequential(layers), hp, self.optimizer)

    def companions(self) -> Sequence[keras.callbacks.Callback]:
        """Return the callbacks that a fit of such a model needs."""
        if self.sparsity is None:
            return ()
        return self.sparsity.callbacks()

    def finished(self, model: keras.Model) -> keras.Model:
        """Return a trained model in the form in which it is kept, without sparse layers."""
        if self.sparsity is None:
            return model
        return export(model)

    def _hidden(self, hp: keras_tuner.HyperParameters) -> list[keras.Layer]:
        settings = {
            "kernel_initializer": self.kernel_initializer,
            "bias_initializer": self.bias_initializer,
            "use_bias": self.normalization != "batch",  # BatchNormalization adds an offset itself
        }
        if self.sparsity is None:
            dense = keras.layers.Dense(self.n_units, **settings)
        else:
            dense = self.sparsity.dense(self.n_units, hp, **settings)
        return activated(dense, self.normalization, self.activation)
