"""The last layer of a classifier, and what it gets: the features of an example.

Where the last layer is a `Dense` layer and the outputs are the softmax or the sigmoid of what it
computes, a classifier is a linear model of its features. That is not read from the model's form but
shown: the linear model must give the predictions of the whole model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from hpsearch.data.forms import Images
from hpsearch.errors import ModelError
from hpsearch.mc_dropout.interception import intercepted, layers_of
from hpsearch.mc_dropout.passes import batches, compiled
from hpsearch.mc_dropout.plain import PlainModel
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.mc_dropout.stochastic import Deterministic
from hpsearch.metrics import Floats
from hpsearch.models.dropout_masks import Tensor
from hpsearch.models.outputs import distributions, rounding_of

_N_SHOWN = 200  # examples on which the linear model is compared with the whole one
_TOLERANCE = 1e-4  # of a probability in float32


class LastLayer:
    """The last layer of a model as a linear model of its features.

    Args:
        model: A built model; no variable of it changes.
        settings: Whether the model returns logits, and how many inputs a call may take.
        inputs: Model inputs, (N, ...), on the first of which the linear model is tried.

    Attributes:
        kernel: Weights, (D, C), or (D, 1) for two classes.
        bias: Biases, (C,) or (1,); None where the layer has none.

    Raises:
        ModelError: The predictions are not those of a linear model of a layer's inputs.
    """

    def __init__(self, model: keras.Model, settings: McDropout, inputs: Images) -> None:
        self.model = model
        self.settings = settings
        self._layers = layers_of(model)
        shown = inputs[:_N_SHOWN]
        self._layer = self._found(shown)
        self.kernel = _array(self._layer.kernel)
        self.bias: Floats | None = None
        if self._layer.use_bias:
            self.bias = _array(self._layer.bias)
        self._features = compiled(self._call)
        self._check(shown)

    @property
    def parameters(self) -> Floats:
        """All weights and biases, (P,)."""
        if self.bias is None:
            return self.kernel.ravel()
        return np.concatenate([self.kernel.ravel(), self.bias])

    def features(self, inputs: Images) -> Iterator[Floats]:
        """Yield the features of inputs (N, ...) in batches, (B, D) each.

        Raises:
            ModelError: They are not finite.
        """
        size = min(self.settings.batch_size, len(inputs))
        for batch, rows in batches(inputs, size):
            found = _array(self._features(ops.convert_to_tensor(batch)))
            found = found[rows < len(inputs)]
            if not np.isfinite(found).all():
                raise ModelError(
                    f"Laplace needs finite inputs of the last layer {self._layer.name}, received "
                    "NaN or infinite ones for some examples: give "
                    "uncertainty.methods without laplace."
                )
            yield found

    def logits(self, features: Floats) -> Floats:
        """Return the logits of features (B, D), (B, C) or (B, 1)."""
        found = features @ self.kernel
        if self.bias is not None:
            found = found + self.bias
        return np.asarray(found)

    def _found(self, inputs: Images) -> keras.layers.Dense:
        """Return the last Dense layer that is called once, with one row for each example."""
        calls = _Calls(lambda layer: isinstance(layer, keras.layers.Dense))
        with keras.StatelessScope(), intercepted(self._layers, calls):
            self.model(ops.convert_to_tensor(inputs[:2]), training=False)
        called = [layer for layer, _ in calls.found]
        for layer, features in reversed(calls.found):
            if called.count(layer) == 1 and len(features.shape) == 2:
                return layer
        raise ModelError(
            "Laplace needs a model with a Dense layer at its end, received one without such a "
            "layer: give uncertainty.methods without laplace."
        )

    def _call(self, inputs: Tensor) -> Tensor:
        calls = _Calls(lambda layer: layer is self._layer)
        with keras.StatelessScope(), intercepted(self._layers, calls):
            self.model(inputs, training=False)
        ((_, features),) = calls.found
        return ops.cast(features, "float32")

    def _check(self, inputs: Images) -> None:
        """Raise ModelError unless the linear model predicts as the whole model does."""
        whole = PlainModel(self.model, self.settings).predict(inputs)
        features = np.concatenate(list(self.features(inputs)))
        linear = _array(distributions(self.logits(features), from_logits=True))
        tolerance = max(_TOLERANCE, 4 * rounding_of(self.model))
        if linear.shape != whole.shape or np.abs(linear - whole).max() > tolerance:
            raise ModelError(
                "Laplace needs a model whose outputs are the softmax of its last Dense layer; the "
                f"layer {self._layer.name} of this model does not give its predictions: give "
                "uncertainty.methods without laplace."
            )


class _Calls(Deterministic):
    """An observer that keeps the first argument of the calls of some layers."""

    def __init__(self, is_kept: Callable[[keras.layers.Layer], bool]) -> None:
        self.found: list[tuple[keras.layers.Layer, Tensor]] = []
        self._is_kept = is_kept

    def call(
        self,
        layer: keras.layers.Layer,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Return the output of a layer."""
        if self._is_kept(layer):
            given = inspect.signature(original).bind(*args, **kwargs).arguments
            self.found.append((layer, next(iter(given.values()))))
        return original(*args, **kwargs)


def _array(tensor: Tensor) -> Floats:
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")), np.float64)
