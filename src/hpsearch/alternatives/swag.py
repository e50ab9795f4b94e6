"""SWAG: models drawn from the moments of the weights that training went through.

Maddox et al. (2019), "A Simple Baseline for Bayesian Uncertainty in Deep Learning", NeurIPS. With K
snapshots of the weights, their mean, the variance of each weight around it, and the deviations D of
the snapshots (one column each), a model has the weights

    mean + sqrt(variance / 2) * z1 + D z2 / sqrt(2 (K - 1)),

where z1 and z2 are standard normal. The prediction is the mean of the distributions of many such
models. Half of their covariance is the diagonal of the variances, half that of the snapshots.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from hpsearch.alternatives.batch_statistics import BatchStatistics
from hpsearch.alternatives.settings import Uncertainty
from hpsearch.data.forms import Images
from hpsearch.data.split import Examples
from hpsearch.errors import ModelError
from hpsearch.mc_dropout.plain import PlainModel
from hpsearch.metrics import Floats
from hpsearch.models.dropout_masks import Tensor
from hpsearch.models.moments import Arrays, Moments
from hpsearch.seeds import derive


class Swag:
    """A way to predict with uncertainty, as `method.Alternative` describes.

    Args:
        model: A built model. No variable of it changes.
        moments: The moments that were collected when it was trained.
        settings: The number of models that are drawn, the seed, and whether models give logits.
        train: The examples on which it was trained. Only models with BatchNormalization need them;
            None is for all others.

    Raises:
        ModelError: The moments belong to another model; or the model has BatchNormalization whose
            statistics cannot be estimated.
    """

    needs = "moments that training.swag=true has collected"
    made_in_s = 0.0
    is_random = True

    def __init__(
        self,
        model: keras.Model,
        moments: Moments,
        settings: Uncertainty,
        train: Examples | None,
    ) -> None:
        moments.check_fits(model)
        self.model = model
        self.moments = moments
        self.settings = settings
        self._plain = PlainModel(model, settings)
        self._statistics = BatchStatistics(model, train, settings.seed)
        self._known: dict[int, list[Tensor]] = {}  # statistics of the models of the own seed

    @property
    def how(self) -> str:
        """How it was made, for people."""
        said = (
            f"{self.settings.swag_samples} models are drawn from the moments of "
            f"{self.moments.n_snapshots} snapshots of the weights; their centre is the mean of "
            "late epochs of the training, not the registered weights."
        )
        n_examples = self._statistics.n_examples
        if n_examples:
            said += (
                " The statistics of BatchNormalization are estimated anew for each of them from "
                f"{n_examples:,} training examples."
            )
        return said

    def predict(self, inputs: Images, *, seed: int | None = None) -> Floats:
        """Return the mean distributions of the drawn models for inputs (N, ...), (N, C).

        Args:
            inputs: Model input.
            seed: Root of the random draws; None takes that of the settings.

        Raises:
            ModelError: The outputs of a drawn model are no distributions, or not finite.
        """
        if seed is None:
            seed = self.settings.seed
        n_samples = self.settings.swag_samples
        total: Floats | float = 0.0
        for i in range(n_samples):
            values = self._values(i, seed)
            try:
                probs = self._plain.predict(inputs, values)
            except ModelError as error:
                raise ModelError(
                    f"Model {i + 1} of the {n_samples} that SWAG has drawn gives no distributions "
                    f"({str(error).rstrip('.')}): give uncertainty.methods without swag."
                ) from error
            total = total + probs
        return np.asarray(total / n_samples)

    def weights(self, i: int, seed: int) -> Arrays:
        """Return the trainable weights of model `i`, counted from 0, in the order of the model's.

        They depend on the seed and the number alone.
        """
        rng = np.random.default_rng(derive(seed, "swag", i))
        moments = self.moments
        n = moments.n_snapshots
        of_snapshots = rng.standard_normal(n) / np.sqrt(2 * (n - 1))
        drawn: Arrays = []
        for mean, variance, deviations in zip(
            moments.mean, moments.variance, moments.deviations, strict=True
        ):
            of_weights = rng.standard_normal(mean.shape)
            alone = np.sqrt(variance / 2) * of_weights
            together = np.tensordot(of_snapshots, deviations, axes=1)
            drawn.append((mean + alone + together).astype(mean.dtype))
        return drawn

    def _values(self, i: int, seed: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the values of all variables of model `i`: trainable, and others."""
        variables = self.model.trainable_variables
        trainable = [
            ops.cast(ops.convert_to_tensor(array), variable.dtype)
            for array, variable in zip(self.weights(i, seed), variables, strict=True)
        ]
        if seed == self.settings.seed and i in self._known:
            return trainable, self._known[i]
        others = self._statistics.of(trainable)
        if seed == self.settings.seed:
            self._known[i] = others
        return trainable, others
