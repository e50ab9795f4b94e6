"""The statistics of BatchNormalization for other weights than those that a model was trained to.

The moving mean and variance of such a layer belong to the weights of its model. For other weights
they are estimated anew, as the mean over batches of training examples of the mean and the variance
of each batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from hpsearch.data.split import Examples
from hpsearch.errors import ModelError
from hpsearch.mc_dropout.interception import intercepted, layers_of
from hpsearch.mc_dropout.passes import compiled
from hpsearch.mc_dropout.stochastic import Deterministic
from hpsearch.mc_dropout.structure import with_training
from hpsearch.models.dropout_masks import Tensor
from hpsearch.seeds import derive

MOST_EXAMPLES = 5000
_PER_BATCH = 500  # not `uncertainty.batch_size`, on which no result depends


class BatchStatistics:
    """Estimates the statistics of BatchNormalization of one model for given weights.

    Layers that are frozen keep their statistics, as they do in training.

    Args:
        model: A built model. No variable of it changes.
        train: Training examples, of which at most `MOST_EXAMPLES` are taken; None for a model
            without BatchNormalization.
        seed: Decides which examples are taken.

    Attributes:
        n_examples: The examples that are used; 0 for a model without BatchNormalization.

    Raises:
        ModelError: The model has BatchNormalization, but there are no examples; or another layer
            has statistics that training changes.
    """

    def __init__(self, model: keras.Model, train: Examples | None, seed: int) -> None:
        self.model = model
        self._layers = layers_of(model)
        self._moving = [layer for layer in self._layers if _moves(layer)]
        self._update = compiled(self._updated)
        self._n_calls: Counter[int] = Counter()
        self._batches: list[np.ndarray] = []
        if train is not None:
            self._check_others(train)
        if self._moving:
            self._batches = self._drawn(train, seed)

    @property
    def n_examples(self) -> int:
        """The examples that are used."""
        return sum(map(len, self._batches))

    def of(self, trainable: Sequence[Tensor]) -> list[Tensor]:
        """Return the values of all variables that are not trained, for other trained weights.

        Args:
            trainable: Values of `model.trainable_variables`.
        """
        variables = self.model.non_trainable_variables
        values = [ops.convert_to_tensor(variable.value) for variable in variables]
        if not self._moving:
            return values
        places = {id(variable): i for i, variable in enumerate(variables)}
        statistics = {
            places[id(variable)]: layer
            for layer in self._moving
            for variable in (layer.moving_mean, layer.moving_variance)
        }
        # From zero, a layer's update of its statistics gives (1 - momentum) of the batch's own.
        start = [ops.zeros_like(v) if i in statistics else v for i, v in enumerate(values)]
        sums = {i: np.zeros(tuple(variables[i].shape), np.float64) for i in statistics}
        for batch in self._batches:
            updated = self._update(ops.convert_to_tensor(batch), list(trainable), start)
            for i in statistics:
                sums[i] += ops.convert_to_numpy(updated[i])
        for i, layer in statistics.items():
            # A layer that is called several times updates them as often.
            share = 1 - layer.momentum ** self._n_calls[id(layer)]
            if not share:  # it is never called
                continue
            mean = sums[i] / (len(self._batches) * share)
            values[i] = ops.convert_to_tensor(mean, variables[i].dtype)
        return values

    def _updated(
        self,
        inputs: Tensor,
        trainable: list[Tensor],
        non_trainable: list[Tensor],
    ) -> list[Tensor]:
        """Return the values of all variables that are not trained after one batch of training."""
        observer = _Normalizing(self._moving)
        with intercepted(self._layers, observer):
            _, updated = self.model.stateless_call(trainable, non_trainable, inputs, training=False)
        self._n_calls = observer.n_calls
        return list(updated)

    def _drawn(self, train: Examples | None, seed: int) -> list[np.ndarray]:
        """Return batches of equal size of training examples that are drawn at random."""
        if train is None or not len(train):
            raise ModelError(
                "Expected training examples for a model with BatchNormalization, whose statistics "
                "SWAG estimates anew: give uncertainty.methods without swag."
            )
        size = min(_PER_BATCH, len(train))
        n_batches = min(MOST_EXAMPLES, len(train)) // size
        order = np.random.default_rng(derive(seed, "swag", "examples")).permutation(len(train))
        return [train.inputs[np.sort(order[i * size :][:size])] for i in range(n_batches)]

    def _check_others(self, train: Examples) -> None:
        """Raise ModelError where a layer other than BatchNormalization has moving statistics."""
        variables = self.model.non_trainable_variables
        known = {id(variable) for layer in self._moving for variable in layer.variables}
        inputs = ops.convert_to_tensor(train.inputs[:2])
        before = [ops.copy(variable.value) for variable in variables]
        trainable = [variable.value for variable in self.model.trainable_variables]
        _, after = self.model.stateless_call(trainable, before, inputs, training=True)
        for variable, old, new in zip(variables, before, after, strict=True):
            if id(variable) in known or "float" not in str(variable.dtype):
                continue  # seeds and counters are integers
            if not np.array_equal(ops.convert_to_numpy(old), ops.convert_to_numpy(new)):
                raise ModelError(
                    f"SWAG cannot draw models with {variable.path}, which training changes in a "
                    "way of its own: give uncertainty.methods without swag."
                )


class _Normalizing(Deterministic):
    """An observer in which layers of BatchNormalization run as in training, and drop nothing.

    Args:
        moving: These layers.

    Attributes:
        n_calls: How often each was called, by its id.
    """

    def __init__(self, moving: Sequence[keras.layers.Layer]) -> None:
        self._moving = {id(layer) for layer in moving}
        self.n_calls: Counter[int] = Counter()

    def call(
        self,
        layer: keras.layers.Layer,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Return the output of a layer."""
        if id(layer) in self._moving:
            self.n_calls[id(layer)] += 1
            args, kwargs = with_training(original, args, kwargs, True)
        return original(*args, **kwargs)


def _moves(layer: keras.layers.Layer) -> bool:
    """Return whether a layer has moving statistics that training changes."""
    is_normalization = isinstance(layer, keras.layers.BatchNormalization)
    if not is_normalization or layer.moving_mean is None:  # one that is never called has none
        return False
    return bool(layer.trainable) and layer.momentum < 1
