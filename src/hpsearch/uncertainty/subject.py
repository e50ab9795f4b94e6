"""The model under examination, with the answers that several parts of an evaluation need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from hpsearch.metrics import Floats
from hpsearch.uncertainty.mc_dropout import McDropout, McPrediction
from hpsearch.uncertainty.passes import Sampler, check_distributions

ARMS = ("plain", "mc")


class Examples(Protocol):
    """Images with their classes.

    Attributes:
        images: Raw pixels, (N, H, W, C).
        labels: Class of each image, (N,), whole numbers from 0.
    """

    @property
    def images(self) -> NDArray[Any]: ...  # noqa: D102

    @property
    def labels(self) -> NDArray[Any]: ...  # noqa: D102


def plain_probs(model: keras.Model, images: NDArray[Any], settings: McDropout) -> Floats:
    """Return the model's own distributions in inference mode, (N, C).

    Raises:
        ModelError: They are none, such as logits.
    """
    output = model.predict(images, batch_size=min(settings.batch_size, len(images)), verbose=0)
    if settings.from_logits:
        output = ops.convert_to_numpy(ops.softmax(output))
    probs = np.asarray(output, np.float64)
    check_distributions(probs, settings.from_logits)
    return probs


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with the examples on which it is examined; each answer is computed once.

    Args:
        model: Raw pixels in, class probabilities out; no variable of it changes.
        settings: How MC Dropout is done.
        val: What may guide a choice.
        test: What no choice may see.
        members: Models of the same study, the best first, for ensembles; the model itself may be one of them.
    """

    model: keras.Model
    settings: McDropout
    val: Examples
    test: Examples
    members: Sequence[keras.Model] = ()

    @cached_property
    def sampler(self) -> Sampler:
        """Stochastic passes of the model."""
        return Sampler(self.model, self.settings)

    def plain(self, images: NDArray[Any]) -> Floats:
        """Return the plain distributions, (N, C)."""
        return plain_probs(self.model, images, self.settings)

    @cached_property
    def mc_test(self) -> McPrediction:
        """MC Dropout's answer on test."""
        return self.sampler.predict(self.test.images, self.test.labels)

    @cached_property
    def mc_val(self) -> McPrediction:
        """MC Dropout's answer on val."""
        return self.sampler.predict(self.val.images, self.val.labels)

    @cached_property
    def on_test(self) -> dict[str, Floats]:
        """Distributions on test by arm, (N, C) each."""
        return {"plain": self.plain(self.test.images), "mc": self.mc_test.probs}

    @cached_property
    def on_val(self) -> dict[str, Floats]:
        """Distributions on val by arm, (N, C) each."""
        return {"plain": self.plain(self.val.images), "mc": self.mc_val.probs}
