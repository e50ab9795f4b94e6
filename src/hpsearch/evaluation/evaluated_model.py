"""A model that is evaluated, and the comparison of its plain prediction with MC Dropout.

An `EvaluatedModel` holds the model, its data and its predictions, which all parts of an evaluation
share. Its method `evaluate` measures the two arms on the test set: "plain" is one deterministic
pass, "mc" is the mean of several stochastic passes of the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np
from keras import ops

from hpsearch import metrics
from hpsearch.data.forms import Images
from hpsearch.data.split import Examples
from hpsearch.html_report.section import Section
from hpsearch.mc_dropout.certificate import Certificate
from hpsearch.mc_dropout.passes import Sampler, check_distributions
from hpsearch.mc_dropout.prediction import McDropout, McPrediction
from hpsearch.metrics import Floats


def white(images: Images) -> float:
    """Return the value of white: 255 for uint8 and where any value exceeds 1, otherwise 1."""
    is_uint8 = images.dtype == np.uint8
    if is_uint8 or images.max() > 1:
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
        test = self.test
        return self.sampler.predict(test.inputs, test.targets)

    @cached_property
    def on_test(self) -> dict[str, Floats]:
        """Distributions on test by arm, (N, C) each."""
        plain = self.plain(self.test.inputs)
        return {"plain": plain, "mc": self.mc_test.probs}

    @cached_property
    def on_val(self) -> dict[str, Floats]:
        """Distributions on val by arm, (N, C) each."""
        images = self.val.inputs
        plain = self.plain(images)
        mc = self.sampler.predict(images)
        return {"plain": plain, "mc": mc.probs}

    def evaluate(self) -> Evaluation:
        """Measure the plain prediction and MC Dropout on test, after testing the conversion.

        Raises:
            ModelError: The model has no active dropout, cannot be converted, or fails the
                self-test.
        """
        test = self.test
        certificate = Certificate.of(self.sampler, test.inputs)
        labels = test.targets
        prediction = self.mc_test
        mc = metrics.summary(prediction.probs, labels)
        mc["expected_entropy"] = float(prediction.expected_entropy.mean())
        mc["mutual_information"] = float(prediction.mutual_information.mean())
        mc["variation_ratio"] = float(prediction.variation_ratio.mean())
        plain = metrics.summary(self.on_test["plain"], labels)
        return Evaluation(
            plain=plain,
            mc=mc,
            n_samples=prediction.n_samples,
            certificate=certificate,
        )


def plain_probs(
    model: keras.Model,
    images: Images,
    settings: McDropout,
) -> Floats:
    """Return the distributions of a model in inference mode, (N, C).

    Raises:
        ModelError: The model's outputs are not distributions but, for example, logits.
    """
    batch_size = min(settings.batch_size, len(images))
    output = model.predict(images, batch_size=batch_size, verbose=0)
    if settings.from_logits:
        output = ops.convert_to_numpy(ops.softmax(output))
    probs = np.asarray(output, np.float64)
    check_distributions(probs)
    return probs


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
        rows = [["measure", "plain", f"MC Dropout (S = {self.n_samples})", "difference"]]
        for name, mc in self.mc.items():
            plain = self.plain.get(name)
            row = [name, "", f"{mc:.4f}", ""]
            if plain is not None:
                row = [name, f"{plain:.4f}", f"{mc:.4f}", f"{mc - plain:+z.4f}"]
            rows.append(row)
        return Section(
            title="On the test set, same weights",
            text=self.certificate.sentence(),
            table=rows,
            metrics=self.metrics(),
        )
