"""A deep ensemble: models of one recipe, trained from fresh seeds, whose predictions are averaged.

Reference: Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using
Deep Ensembles", 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from hpsearch.data.forms import Images
from hpsearch.errors import ModelError
from hpsearch.mc_dropout.plain import PlainModel
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.metrics import Floats


class Ensemble:
    """The mean of the plain predictions of models that were trained from different seeds.

    Args:
        members: The models. No variable of them changes.
        settings: Whether the models return logits, and how many inputs a call may take.
        made_in_s: Seconds that the trainings took.
        how: How the members were made, in one or two sentences.
        shown: A few inputs (N, ...). A member whose outputs for them are not finite is left out;
            None shows the members nothing.

    Attributes:
        members: The models that predict.
        needs: What an ensemble needs beside the model, in words.
        how: As given, with a sentence on the members that are left out.
        made_in_s: As given.
        is_random: False: no seed changes the prediction.

    Raises:
        ModelError: Fewer than two members are left.
    """

    is_random = False

    def __init__(
        self,
        members: Sequence[keras.Model],
        settings: McDropout,
        made_in_s: float,
        how: str,
        shown: Images | None = None,
    ) -> None:
        self.members: Sequence[keras.Model] = members
        if shown is not None:
            self.members = [member for member in members if _is_finite(member, shown)]
        n_left_out = len(members) - len(self.members)
        if len(self.members) < 2:
            raise ModelError(
                f"An ensemble needs at least two members, but {len(self.members)} of "
                f"{len(members)} has finite outputs; more trainings help, "
                "uncertainty.ensemble_seeds=N, or another version."
            )
        self.needs = f"{len(members)} trainings"
        self.how = how
        if n_left_out:
            self.how += f" Left out for outputs that are not finite: {n_left_out}."
        self.made_in_s = made_in_s
        self._models = [PlainModel(member, settings) for member in self.members]

    def predict(self, inputs: Images, *, seed: int | None = None) -> Floats:
        """Return the mean distributions of inputs (N, ...), (N, C).

        Args:
            inputs: Model input.
            seed: Changes nothing, since nothing is drawn.

        Raises:
            ModelError: The outputs of a member are no distributions.
        """
        return np.asarray(np.mean(self.by_member(inputs), axis=0))

    def by_member(self, inputs: Images) -> list[Floats]:
        """Return the plain distributions of inputs (N, ...) of each member, (N, C) each.

        Raises:
            ModelError: The outputs of a member are no distributions.
        """
        return [model.predict(inputs) for model in self._models]


def _is_finite(model: keras.Model, inputs: Images) -> bool:
    """Return whether the outputs of a model are finite."""
    outputs = keras.ops.convert_to_tensor(inputs)
    outputs = keras.tree.flatten(model(outputs, training=False))[0]
    return bool(np.isfinite(keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))).all())
