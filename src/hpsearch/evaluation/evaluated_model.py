"""The model under examination, with the answers that several parts of an evaluation need.

Plain against MC Dropout on the test set: the same weights, twice asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from hpsearch import metrics
from hpsearch.html_report.section import Section
from hpsearch.mc_dropout.certificate import Certificate, certify
from hpsearch.mc_dropout.passes import Sampler, check_distributions
from hpsearch.mc_dropout.prediction import McDropout, McPrediction
from hpsearch.metrics import Floats

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
        members: Models of the same study, the best first, for ensembles; the model itself may be
            one of them.
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


@dataclass(frozen=True)
class Evaluation:
    """What a model's plain and MC Dropout predictions are worth.

    Attributes:
        plain: Measures of one deterministic pass, by name.
        mc: Measures of the mean of S passes, by name, with the uncertainties that only samples
            have.
        n_samples: S.
        certificate: The self-test of the conversion.
    """

    plain: dict[str, float]
    mc: dict[str, float]
    n_samples: int
    certificate: Certificate

    def metrics(self) -> dict[str, float]:
        """Return all measures by their MLflow keys, such as `test/mc/nll`."""
        arms = {"plain": self.plain, "mc": self.mc}
        return {
            f"test/{arm}/{name}": value
            for arm, values in arms.items()
            for name, value in values.items()
        }

    def section(self) -> Section:
        """Return both arms side by side, with the certificate in words."""
        head = ("measure", "plain", f"MC Dropout (S = {self.n_samples})", "difference")
        rows = [head, *(self._row(name) for name in self.mc)]
        return Section(
            "On the test set, same weights", self.certificate.sentence(), rows, self.metrics()
        )

    def _row(self, name: str) -> tuple[str, str, str, str]:
        before, after = self.plain.get(name), self.mc[name]
        if before is None:
            return name, "", f"{after:.4f}", ""
        return name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+z.4f}"


def evaluate(subject: Subject) -> Evaluation:
    """Compare the plain prediction with MC Dropout on test examples, after a self-test of the
    conversion.

    Raises:
        ModelError: The model has no active dropout, cannot be converted, or fails the self-test.
    """
    certificate = certify(subject.model, subject.sampler, subject.test.images)
    labels, mc = subject.test.labels, subject.mc_test
    return Evaluation(
        plain=metrics.summary(subject.on_test["plain"], labels),
        mc=metrics.summary(mc.probs, labels) | uncertainty(mc),
        n_samples=mc.n_samples,
        certificate=certificate,
    )


def uncertainty(prediction: McPrediction) -> dict[str, float]:
    """Return the measures that need samples: means over examples."""
    return {
        "expected_entropy": float(prediction.expected_entropy.mean()),
        "mutual_information": float(prediction.mutual_information.mean()),
        "variation_ratio": float(prediction.variation_ratio.mean()),
    }
