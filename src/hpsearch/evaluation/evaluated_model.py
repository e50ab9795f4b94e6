"""A model that is evaluated, and the comparison of its plain prediction with MC Dropout and others.

An `EvaluatedModel` holds the model, its data and its predictions, which all parts of an evaluation
share. Each way to predict is an arm: "plain" is one deterministic pass, "mc" is the mean of several
stochastic passes of the same weights, and the alternatives to MC Dropout have their own names. The
method `evaluate` measures all arms on the test set.
"""

from __future__ import annotations

import timeit
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import keras
import numpy as np

from hpsearch import metrics
from hpsearch.alternatives.method import LABELS, Alternative
from hpsearch.alternatives.settings import methods_of
from hpsearch.data.forms import Images
from hpsearch.data.pixel_range import BYTES, PixelRange
from hpsearch.data.split import Examples
from hpsearch.errors import ModelError
from hpsearch.html_report.section import Section
from hpsearch.mc_dropout.certificate import Certificate
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.plain import PlainModel
from hpsearch.mc_dropout.prediction import McDropout, McPrediction
from hpsearch.metrics import Floats


@dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """A model with the examples on which it is evaluated. Each prediction is computed once.

    A model without dropout, or whose dropout cannot be repeated pass by pass, has no arm "mc", and
    `left_out` says why.

    Args:
        model: Maps raw inputs to class probabilities. An evaluation changes none of its variables.
        settings: Settings of MC Dropout; where they name methods without mc_dropout, there is no
            arm "mc".
        val: Examples by which an evaluation may choose, such as a temperature.
        test: Examples on which it only measures.
        members: Models of the same study for ensembles, the best first. They may include `model`.
        calibration: Examples on which temperatures and conformal sets are fitted, which neither
            training nor the choice of epochs and trials has seen; None takes val.
        pixel_range: The values of black and white in the inputs; None if they are unknown.
        alternatives: Other ways to predict with uncertainty, by arm.
        not_made: Why there is none of those that were asked for, by arm, in a sentence.
    """

    model: keras.Model
    settings: McDropout
    val: Examples
    test: Examples
    members: Sequence[keras.Model] = ()
    calibration: Examples | None = None
    pixel_range: PixelRange | None = None
    alternatives: Mapping[str, Alternative] = field(default_factory=dict)
    not_made: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def pixels(self) -> PixelRange | None:
        """The values of black and white in the inputs; None where `why_no_pixels` has a reason."""
        if self.why_no_pixels:
            return None
        return self._range()

    @cached_property
    def why_no_pixels(self) -> str:
        """Why the test inputs cannot be read as pixels, in a sentence; empty where they can."""
        inputs = self.test.inputs
        if inputs.ndim != 4:
            return (
                f"Only images (H, W, C) have pixels; this model takes inputs of shape "
                f"{inputs.shape[1:]}."
            )
        found = self._range()
        if found is None:
            return (
                "The values of black and white in the inputs are unknown: the training images are "
                "neither uint8 nor go from 0 to 1, or in whole numbers from 0 to 255. The setting "
                "data.range=[LOW, HIGH] of the data set, given to its search or with data=NAME to "
                "an evaluation, says them."
            )
        if not found.is_of(inputs):
            return (
                f"Black and white are {found.written()} in the training images, but the test "
                f"images have values from {inputs.min():.4g} to {inputs.max():.4g}."
            )
        return ""

    def _range(self) -> PixelRange | None:
        if self.pixel_range is None and self.test.inputs.dtype == np.uint8:
            return BYTES
        return self.pixel_range

    @cached_property
    def _plain_model(self) -> PlainModel:
        return PlainModel(self.model, self.settings)

    def plain(self, inputs: Images) -> Floats:
        """Return the plain distributions, (N, C).

        Raises:
            ModelError: The outputs of the model are no distributions.
        """
        return self._plain_model.predict(inputs)

    @cached_property
    def _tested(self) -> tuple[Sampler, Certificate] | ModelError:
        """Stochastic passes with their self-test, or why there are none."""
        inputs = self.test.inputs
        _ = self.plain_test  # a model whose outputs are no distributions has no arm at all
        if "mc_dropout" not in methods_of(self.settings):
            return ModelError("uncertainty.methods leaves it out.")
        try:
            sampler = Sampler(self.model, self.settings, inputs.shape[1:], str(inputs.dtype))
            return sampler, Certificate.of(sampler, inputs)
        except ModelError as error:
            return error

    @property
    def left_out(self) -> str | None:
        """Why there is no MC Dropout; None where there is."""
        if isinstance(self._tested, ModelError):
            return str(self._tested)
        return None

    @property
    def sampler(self) -> Sampler:
        """Stochastic passes of the model.

        Raises:
            ModelError: There are none, and the message says why.
        """
        if isinstance(self._tested, ModelError):
            raise self._tested
        return self._tested[0]

    @property
    def certificate(self) -> Certificate | None:
        """The self-test of the stochastic passes; None where there are none."""
        if isinstance(self._tested, ModelError):
            return None
        return self._tested[1]

    @property
    def qualified(self) -> str:
        """What the dropout of the passes is, where it is not Keras's alone; for titles."""
        certificate = self.certificate
        if certificate is None:
            return ""
        return certificate.qualification

    @cached_property
    def plain_test(self) -> Floats:
        """The plain distributions on test, (N, C).

        Raises:
            ModelError: The outputs of the model are no distributions.
        """
        return self.plain(self.test.inputs)

    @cached_property
    def mc_test(self) -> McPrediction:
        """The prediction of MC Dropout on test.

        Raises:
            ModelError: There is none, and the message says why.
        """
        test = self.test
        return self.sampler.predict(test.inputs, test.targets)

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of the arms, "plain" first."""
        if self.left_out is None:
            return ("plain", "mc", *self.alternatives)
        return ("plain", *self.alternatives)

    def predict(
        self,
        arm: str,
        inputs: Images,
        *,
        n_samples: int | None = None,
        seed: int | None = None,
    ) -> Floats:
        """Return the distributions of an arm for inputs (N, ...), (N, C).

        Args:
            arm: One of `arms`.
            inputs: Model input.
            n_samples: Number of passes of MC Dropout; by default that of the settings.
            seed: Root of the random draws; by default that of the settings.
        """
        if arm == "plain":
            return self.plain(inputs)
        if arm == "mc":
            return self.sampler.predict(inputs, n_samples=n_samples, seed=seed).probs
        return self.alternatives[arm].predict(inputs, seed=seed)

    def is_random(self, arm: str) -> bool:
        """Return whether an arm predicts otherwise with another seed."""
        if arm in self.alternatives:
            return self.alternatives[arm].is_random
        return arm == "mc"

    @cached_property
    def seconds(self) -> dict[str, float]:
        """The seconds in which each arm predicts 1,000 examples, once it is compiled.

        They are the fastest of three calls with the first test examples, at most 1,000.
        """
        inputs = self.test.inputs[:1000]
        found = {}
        for arm in self.arms:
            predict = partial(self.predict, arm, inputs)
            predict()  # compiles
            fastest = min(timeit.repeat(predict, number=1, repeat=3))
            found[arm] = fastest * 1000 / len(inputs)
        return found

    @cached_property
    def on_test(self) -> dict[str, Floats]:
        """Distributions on test by arm, (N, C) each."""
        found = {"plain": self.plain_test}
        if self.left_out is None:
            found["mc"] = self.mc_test.probs
        for arm in self.alternatives:
            found[arm] = self.predict(arm, self.test.inputs)
        return found

    @cached_property
    def on_val(self) -> dict[str, Floats]:
        """Distributions on val by arm, (N, C) each."""
        return self.by_arm(self.val.inputs)

    def by_arm(self, inputs: Images, *, n_samples: int | None = None) -> dict[str, Floats]:
        """Return the distributions of inputs by arm, (N, C) each.

        Args:
            inputs: Model input, (N, ...).
            n_samples: Number of passes of MC Dropout; by default that of the settings.
        """
        return {arm: self.predict(arm, inputs, n_samples=n_samples) for arm in self.arms}

    @cached_property
    def on_calibrating(self) -> dict[str, Floats]:
        """Distributions on the examples of `calibrating` by arm, (N, C) each."""
        if self.calibration is None:
            return self.on_val
        return self.by_arm(self.calibration.inputs)

    @property
    def calibrating(self) -> Examples:
        """The examples on which temperatures and conformal sets are fitted."""
        if self.calibration is None:
            return self.val
        return self.calibration

    @property
    def calibrated_on(self) -> str:
        """What `calibrating` are, in words."""
        n = len(self.calibrating.targets)
        if self.calibration is None:
            return (
                f"{n:,} validation examples (which the search or the training may have used), as "
                "there is no calibration part that they have provably not seen"
            )
        return f"{n:,} calibration examples (which the search has not seen)"

    def evaluate(self) -> Evaluation:
        """Measure all arms on test, after testing the passes of MC Dropout.

        Raises:
            ModelError: The outputs of the model are no distributions.
        """
        labels = self.test.targets
        plain = metrics.summary(self.plain_test, labels)
        others = {arm: metrics.summary(self.on_test[arm], labels) for arm in self.alternatives}
        if self.left_out is not None:
            return Evaluation(plain, {}, 0, None, self.left_out, others)
        prediction = self.mc_test
        mc = metrics.summary(prediction.probs, labels)
        mc["expected_entropy"] = float(prediction.expected_entropy.mean())
        mc["mutual_information"] = float(prediction.mutual_information.mean())
        mc["variation_ratio"] = float(prediction.variation_ratio.mean())
        return Evaluation(plain, mc, prediction.n_samples, self.certificate, None, others)


@dataclass(frozen=True)
class Evaluation:
    """The measures of a model's arms on the test set.

    Attributes:
        plain: Measures of one deterministic pass, by name.
        mc: Measures of the mean of S passes, by name. They include the uncertainties that need
            samples, such as the mutual information. Empty where there is no MC Dropout.
        n_samples: S, the number of passes.
        certificate: The self-test of the passes; None where there are none.
        left_out: Why there is no MC Dropout; None where there is.
        others: Measures of the alternatives to MC Dropout by arm, by name.
    """

    plain: dict[str, float]
    mc: dict[str, float]
    n_samples: int
    certificate: Certificate | None
    left_out: str | None
    others: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Return all measures by their MLflow keys, such as `test/mc/nll`."""
        found = {}
        arms = {"plain": self.plain, "mc": self.mc, **self.others}
        for arm, measures in arms.items():
            for name, value in measures.items():
                found[f"test/{arm}/{name}"] = value
        return found

    def section(self) -> Section:
        """Return a section with a table of all arms and the self-test in words."""
        title = "On the test set"
        text = f"MC Dropout is left out. {self.left_out}"
        columns = {"plain": self.plain}
        if self.certificate is not None:
            if not self.others:
                title += ", same weights"
            text = self.certificate.sentence()
            columns[f"MC Dropout (S = {self.n_samples})"] = self.mc
        for arm, measures in self.others.items():
            columns[LABELS[arm]] = dict(measures)
        names = dict.fromkeys(name for measures in columns.values() for name in measures)
        rows = [["measure", *columns]]
        for name in names:
            rows.append([name, *(_cell(measures.get(name)) for measures in columns.values())])
        if len(columns) == 2:
            self._add_differences(rows, *columns.values())
        return Section(title=title, text=text, table=rows, metrics=self.metrics())

    @staticmethod
    def _add_differences(
        rows: list[list[str]],
        first: Mapping[str, float],
        second: Mapping[str, float],
    ) -> None:
        """Add a column with the second arm minus the first."""
        rows[0].append("difference")
        for row in rows[1:]:
            name = row[0]
            if name in first and name in second:
                row.append(f"{second[name] - first[name]:+z.4f}")
            else:
                row.append("")


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}"
