"""The architecture `arch=dense`: a deep net of dense layers.

`DenseNet` builds the Keras model of each trial. It can make the hidden layers sparse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
from keras.layers import Dense, Flatten
from keras_tuner import HyperParameters

from hpsearch.models.settings import Net
from hpsearch.models.sparse import Sparsity, export


@dataclass(eq=False, repr=False, kw_only=True)
class DenseNet(Net):
    """A net of `n_hidden` equal hidden layers and a softmax layer.

    A hidden layer is a dense layer with optional normalization, an activation and dropout.

    Attributes:
        n_hidden: The number of hidden layers, at least 1.
        bias_initializer: The initializer of the hidden layers' biases.
        output_initializer: The initializer of the output layer's kernel.
        dropout_after: `last` puts dropout after the last hidden layer, and `all` after every one.
        sparsity: Makes the hidden layers sparse; None leaves them dense.

    Raises:
        ConfigError: A setting is impossible; the message names its key.
    """

    n_hidden: int
    bias_initializer: str | keras.Initializer
    output_initializer: str | keras.Initializer
    dropout_after: str
    sparsity: Sparsity | None = None

    def __post_init__(self) -> None:
        self._check_choice("dropout_after", "place", "last", "all")
        self._check_count("arch.n_hidden", self.n_hidden)
        super().__post_init__()
        self._check_known("bias_initializer", keras.initializers.get)
        self._check_known("output_initializer", keras.initializers.get)

    def build(self, hp: HyperParameters) -> keras.Model:
        """Return a compiled model with the hyperparameters that `hp` holds or draws."""
        rate = self._dropout_rate(hp)
        layers = self._first()
        layers.append(Flatten())
        for number in range(1, self.n_hidden + 1):
            layers += self._hidden(hp)
            is_last = number == self.n_hidden
            if is_last or self.dropout_after == "all":
                layers.append(self.dropout(rate))
        return self._compiled(layers, hp, self.output_initializer)

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

    def _hidden(self, hp: HyperParameters) -> list[keras.Layer]:
        settings = {
            "kernel_initializer": self.kernel_initializer,
            "bias_initializer": self.bias_initializer,
            "use_bias": self.normalization != "batch",  # BatchNormalization adds an offset itself
        }
        if self.sparsity is None:
            dense = Dense(self.n_units, **settings)
        else:
            dense = self.sparsity.dense(self.n_units, hp, **settings)
        return self._activated(dense)
