"""Plain against MC Dropout on the test set: the same weights, twice asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from hpsearch import metrics
from hpsearch.metrics import Floats
from hpsearch.uncertainty.certificate import Certificate, certify
from hpsearch.uncertainty.mc_dropout import McDropout, McPrediction
from hpsearch.uncertainty.passes import Sampler

LOWER_IS_BETTER = ("nll", "brier_score", "ece", "aurc", "risk_at_80")


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


@dataclass(frozen=True)
class Evaluation:
    """What a model's plain and MC Dropout predictions are worth.

    Attributes:
        plain: Measures of one deterministic pass, by name.
        mc: Measures of the mean of S passes, by name, with the uncertainties that only samples have.
        plain_probs: Plain distributions, (N, C).
        mc_prediction: Sums of the passes.
        certificate: The self-test of the conversion.
    """

    plain: dict[str, float]
    mc: dict[str, float]
    plain_probs: Floats
    mc_prediction: McPrediction
    certificate: Certificate

    def metrics(self) -> dict[str, float]:
        """Return all measures by their MLflow keys, such as `test/mc/nll`."""
        arms = {"plain": self.plain, "mc": self.mc}
        return {f"test/{arm}/{name}": value for arm, values in arms.items() for name, value in values.items()}

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return the table for a terminal: measure, plain, MC Dropout, difference; the first row is its head."""
        head = ("measure", "plain", f"MC Dropout (S = {self.mc_prediction.n_samples})", "difference")
        return [head, *(self._row(name) for name in self.mc)]

    def _row(self, name: str) -> tuple[str, str, str, str]:
        before, after = self.plain.get(name), self.mc[name]
        if before is None:
            return name, "", f"{after:.4f}", ""
        return name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"


def evaluate(model: keras.Model, test: Examples, *, settings: McDropout) -> Evaluation:
    """Compare the plain prediction with MC Dropout on test examples, after a self-test of the conversion.

    Args:
        model: A trained model: raw pixels in, class probabilities out; no variable of it changes.
        test: Examples that no search has seen.
        settings: How many passes, and how.

    Raises:
        ModelError: The model has no active dropout, cannot be converted, or fails the self-test.
    """
    sampler = Sampler(model, settings)
    certificate = certify(model, sampler, test.images)
    plain = plain_probs(model, test.images, settings)
    mc = sampler.predict(test.images, test.labels)
    return Evaluation(
        plain=metrics.summary(plain, test.labels),
        mc=metrics.summary(mc.probs, test.labels) | uncertainty(mc),
        plain_probs=plain,
        mc_prediction=mc,
        certificate=certificate,
    )


def plain_probs(model: keras.Model, images: NDArray[Any], settings: McDropout) -> Floats:
    """Return the model's own distributions in inference mode, (N, C)."""
    output = model.predict(images, batch_size=min(settings.batch_size, len(images)), verbose=0)
    if settings.from_logits:
        output = ops.convert_to_numpy(ops.softmax(output))
    return np.asarray(output, np.float64)


def uncertainty(prediction: McPrediction) -> dict[str, float]:
    """Return the measures that need samples: means over examples."""
    return {
        "expected_entropy": float(prediction.expected_entropy.mean()),
        "mutual_information": float(prediction.mutual_information.mean()),
        "variation_ratio": float(prediction.variation_ratio.mean()),
    }
