"""A model that is evaluated, and the comparison of its plain prediction with MC Dropout.

An `EvaluatedModel` holds the model, its data and its predictions, which all parts of an evaluation
share.
`evaluate` measures the two arms on the test set: "plain" is one deterministic pass, "mc" is the
mean of several stochastic passes of the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from hpsearch import metrics
from hpsearch.data.split import Examples
from hpsearch.html_report.section import Section
from hpsearch.mc_dropout.certificate import Certificate, certify
from hpsearch.mc_dropout.passes import Sampler, check_distributions
from hpsearch.mc_dropout.prediction import McDropout, McPrediction
from hpsearch.metrics import Floats

Images = NDArray[np.number]  # raw pixels, (N, H, W, C)
ARMS = ("plain", "mc")


def white(images: Images) -> float:
    """Return the value of white: 255 for uint8 and where any value exceeds 1, otherwise 1."""
    if images.dtype == np.uint8 or images.max() > 1:
        return 255.0
    return 1.0


@dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """A model with the examples on which it is evaluated. Each prediction is computed once.

    Args:
        model: Maps raw pixels to class probabilities. An evaluation changes none of its variables.
        settings: Settings of MC Dropout.
        val: Examples by which an evaluation may choose, such as a temperature.
        test: Examples on which it only measures.
        members: Models of the same study for ensembles, the best first. They may include `model`.
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

    def plain(self, images: Images) -> Floats:
        """Return the plain distributions, (N, C)."""
        return plain_probs(self.model, images, self.settings)

    @cached_property
    def mc_test(self) -> McPrediction:
        """The prediction of MC Dropout on test."""
        return self.sampler.predict(self.test.inputs, self.test.targets)

    @cached_property
    def mc_val(self) -> McPrediction:
        """The prediction of MC Dropout on val."""
        return self.sampler.predict(self.val.inputs, self.val.targets)

    @cached_property
    def on_test(self) -> dict[str, Floats]:
        """Distributions on test by arm, (N, C) each."""
        return {"plain": self.plain(self.test.inputs), "mc": self.mc_test.probs}

    @cached_property
    def on_val(self) -> dict[str, Floats]:
        """Distributions on val by arm, (N, C) each."""
        return {"plain": self.plain(self.val.inputs), "mc": self.mc_val.probs}


def plain_probs(model: keras.Model, images: Images, settings: McDropout) -> Floats:
    """Return the distributions of a model in inference mode, (N, C).

    Raises:
        ModelError: The model's outputs are not distributions but, for example, logits.
    """
    batch_size = min(settings.batch_size, len(images))
    output = model.predict(images, batch_size=batch_size, verbose=0)
    if settings.from_logits:
        output = ops.convert_to_numpy(ops.softmax(output))
    probs = np.asarray(output, np.float64)
    check_distributions(probs, settings.from_logits)
    return probs


def evaluate(evaluated: EvaluatedModel) -> Evaluation:
    """Measure the plain prediction and MC Dropout on test, after a self-test of the conversion.

    Raises:
        ModelError: The model has no active dropout, cannot be converted, or fails the self-test.
    """
    certificate = certify(evaluated.model, evaluated.sampler, evaluated.test.inputs)
    labels = evaluated.test.targets
    mc = evaluated.mc_test
    mc_measures = metrics.summary(mc.probs, labels)
    mc_measures.update(_uncertainty(mc))
    return Evaluation(
        plain=metrics.summary(evaluated.on_test["plain"], labels),
        mc=mc_measures,
        n_samples=mc.n_samples,
        certificate=certificate,
    )


def _uncertainty(prediction: McPrediction) -> dict[str, float]:
    """Return the measures that need samples, as means over examples."""
    return {
        "expected_entropy": float(prediction.expected_entropy.mean()),
        "mutual_information": float(prediction.mutual_information.mean()),
        "variation_ratio": float(prediction.variation_ratio.mean()),
    }


@dataclass(frozen=True)
class Evaluation:
    """The measures of a model's plain prediction and of MC Dropout on the test set.

    Attributes:
        plain: Measures of one deterministic pass, by name.
        mc: Measures of the mean of S passes, by name. They include the uncertainties that need
            samples, such as the mutual information.
        n_samples: S, the number of passes.
        certificate: The self-test of the conversion.
    """

    plain: dict[str, float]
    mc: dict[str, float]
    n_samples: int
    certificate: Certificate

    def metrics(self) -> dict[str, float]:
        """Return all measures by their MLflow keys, such as `test/mc/nll`."""
        found = {}
        for name, value in self.plain.items():
            found[f"test/plain/{name}"] = value
        for name, value in self.mc.items():
            found[f"test/mc/{name}"] = value
        return found

    def section(self) -> Section:
        """Return a section with a table of both arms and the certificate in words."""
        rows = [("measure", "plain", f"MC Dropout (S = {self.n_samples})", "difference")]
        for name in self.mc:
            rows.append(self._row(name))
        return Section(
            title="On the test set, same weights",
            text=self.certificate.sentence(),
            table=rows,
            metrics=self.metrics(),
        )

    def _row(self, name: str) -> tuple[str, str, str, str]:
        mc = self.mc[name]
        if name not in self.plain:
            return name, "", f"{mc:.4f}", ""
        plain = self.plain[name]
        return name, f"{plain:.4f}", f"{mc:.4f}", f"{mc - plain:+z.4f}"
