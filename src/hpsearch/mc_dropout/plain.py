"""The plain prediction of a model: one deterministic pass, with all dropout off.

Dropout that a person has fixed to be on, such as that of a layer that ignores its mode, is off
here, too; otherwise the plain prediction would be one random pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from hpsearch.mc_dropout.interception import intercepted, layers_of
from hpsearch.mc_dropout.passes import batches, compiled
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.mc_dropout.stochastic import Deterministic
from hpsearch.metrics import Floats
from hpsearch.models.dropout_masks import Tensor
from hpsearch.models.outputs import check_outputs, distributions, rounding_of

Values = tuple[Sequence[Tensor], Sequence[Tensor]]  # of trainable variables, and of all others


class PlainModel:
    """A model that predicts without dropout.

    It is compiled on its first call, and again for each new batch size.

    Args:
        model: A built model. No variable of it changes.
        settings: Whether the model returns logits, and how many inputs a call may take.
    """

    def __init__(self, model: keras.Model, settings: McDropout) -> None:
        self.model = model
        self.settings = settings
        self._layers = layers_of(model)
        self._outputs = compiled(self._call)
        self._outputs_of = compiled(self._call_with)

    def predict(self, inputs: np.ndarray, values: Values | None = None) -> Floats:
        """Return the distributions of inputs (N, ...), (N, C).

        Args:
            inputs: Model input.
            values: Values in place of the model's trainable and of its other variables, in their
                order; None takes its own.

        Raises:
            ModelError: The outputs are not what the settings say, or not finite.
        """
        size = self.rows_per_call(len(inputs))
        parts = []
        for batch, _ in batches(inputs, size):
            tensor = ops.convert_to_tensor(batch)
            if values is None:
                outputs = self._outputs(tensor)
            else:
                outputs = self._outputs_of(tensor, *map(list, values))
            parts.append(ops.convert_to_numpy(ops.cast(outputs, "float32")))
        raw = np.concatenate(parts)[: len(inputs)]
        from_logits = bool(self.settings.from_logits)
        check_outputs(raw, from_logits=from_logits, rounding=rounding_of(self.model))
        probs = np.asarray(
            ops.convert_to_numpy(distributions(raw, from_logits=from_logits)), np.float64
        )
        return np.asarray(probs / probs.sum(axis=1, keepdims=True))

    def rows_per_call(self, n_rows: int) -> int:
        """Return how many of `n_rows` rows a compiled call takes."""
        return min(self.settings.batch_size, n_rows)

    def _call(self, inputs: Tensor) -> Tensor:
        with keras.StatelessScope(), intercepted(self._layers, Deterministic()):
            outputs = self.model(inputs, training=False)
        return keras.tree.flatten(outputs)[0]

    def _call_with(
        self,
        inputs: Tensor,
        trainable: list[Tensor],
        non_trainable: list[Tensor],
    ) -> Tensor:
        with intercepted(self._layers, Deterministic()):
            outputs, _ = self.model.stateless_call(trainable, non_trainable, inputs, training=False)
        return keras.tree.flatten(outputs)[0]
