"""Examine whether a model's class probabilities are calibrated.

`Calibration` measures the calibration error (ECE) of both arms, before and after temperature
scaling, and compares it with the error that chance alone would show. `Conformal` makes sets of
classes that hold the right class with a chosen probability, by split conformal prediction (MAPIE).
"""

from __future__ import annotations

from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
from mapie.classification import SplitConformalClassifier
from numpy.random import Generator
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from hpsearch import metrics
from hpsearch.evaluation import settings
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Figure, Section, drawn
from hpsearch.metrics import Flags, Floats, Ints, Reliability
from hpsearch.seeds import derive


class Calibration(settings.Calibration):
    """The part of an evaluation that measures calibration.

    `evaluation.settings` describes its settings.
    """

    _HEAD: ClassVar = (
        "arm",
        "ECE",
        "null band",
        "temperature",
        "NLL scaled",
        "Brier scaled",
        "ECE scaled",
        "null band",
    )

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Measure both arms on test, before and after temperature scaling on val."""
        labels = evaluated.test.targets
        rows = [self._HEAD]
        found = {}
        confidences = {}
        rights = {}
        for arm, probs in evaluated.on_test.items():
            on_val = evaluated.on_val[arm]
            fitted = temperature(on_val, evaluated.val.targets)
            after = scaled(probs, fitted)
            arm_after = f"{arm}, scaled"
            confidences[arm] = probs.max(axis=1)
            confidence_after = after.max(axis=1)
            confidences[arm_after] = confidence_after
            low, high = self.null_band(confidences[arm], arm)
            low_after, high_after = self.null_band(confidence_after, f"{arm}_scaled")
            rights[arm] = metrics.correct(probs, labels)
            rights[arm_after] = rights[arm]  # a temperature keeps the order of the classes
            measured = {
                "/ece_null_low": low,
                "/ece_null_high": high,
                "_scaled/ece": metrics.ece(after, labels),
                "_scaled/ece_null_low": low_after,
                "_scaled/ece_null_high": high_after,
                "_scaled/temperature": fitted,
                "_scaled/nll": metrics.nll(after, labels),
                "_scaled/brier_score": metrics.brier_score(after, labels),
            }
            for key, value in measured.items():
                found[f"test/{arm}{key}"] = value
            ece = metrics.ece(probs, labels)
            row = (
                arm,
                f"{ece:.4f}",
                f"{low:.4f} to {high:.4f}",
                f"{fitted:.3f}",
                f"{measured['_scaled/nll']:.4f}",
                f"{measured['_scaled/brier_score']:.4f}",
                f"{measured['_scaled/ece']:.4f}",
                f"{low_after:.4f} to {high_after:.4f}",
            )
            rows.append(row)
        text = (
            "The null band holds the ECEs that chance alone would give a calibrated model on "
            f"{len(labels):,} images. A model with an ECE above its band is over- or "
            "underconfident. Temperatures are fitted on validation data."
        )
        diagrams = self._diagrams(confidences, rights)
        return Section("Calibration", text, rows, found, figures=[diagrams])

    def null_band(self, confidence: Floats, name: str) -> tuple[float, float]:
        """Return the ECEs, (low, high), between which a calibrated model would fall.

        Each simulation lets every answer be right with the probability that the model gave it. The
        ECE that remains is the error that N examples show by chance.

        Args:
            confidence: Probability of the predicted class of each example, (N,).
            name: A name of the model, so that each has simulations of its own.

        Reference: Broecker and Smith, "Increasing the Reliability of Reliability Diagrams", 2007.
        """
        seed = derive(self.seed, name)
        rng = np.random.default_rng(seed)
        simulated = self._simulated(confidence, self.n_simulations, rng)
        eces = [bins.ece for bins in simulated]
        low, high = np.quantile(eces, self._ends)
        return float(low), float(high)

    def _diagrams(self, confidences: dict[str, Floats], rights: dict[str, Flags]) -> Figure:
        """Draw accuracy over confidence for each arm, with the band of a calibrated model."""
        n = len(confidences)
        inches = (3.4 * n, 3.6)
        plot, axes = plt.subplots(1, n, figsize=inches, sharey=True)
        seed = derive(self.seed, "diagram")
        rng = np.random.default_rng(seed)
        for axis, name in zip(axes, confidences, strict=True):
            confidence = confidences[name]
            bins = Reliability.of(confidence, rights[name])
            simulated = self._simulated(confidence, 500, rng)
            accuracies = [simulation.accuracy for simulation in simulated]
            low, high = np.quantile(accuracies, self._ends, axis=0)
            filled = bins.count > 0
            x = bins.confidence[filled]
            y = bins.accuracy[filled]
            diagonal = [0, 1]
            axis.plot(diagonal, diagonal, color="grey", linewidth=1)
            axis.fill_between(
                x,
                low[filled],
                high[filled],
                color="tab:blue",
                alpha=0.2,
            )
            axis.plot(x, y, "o-", color="tab:blue", markersize=4)
            axis.set_title(f"{name} (ECE {bins.ece:.3f})")
            axis.set_xlabel("confidence")
            axis.set_xlim(0, 1)
            axis.set_ylim(0, 1)
        axes[0].set_ylabel("accuracy")
        caption = (
            f"Accuracy of the answers over their confidence, in {Reliability.N_BINS} bins. Each "
            "point of a calibrated model falls into the blue band with probability "
            f"{1 - self.level:.0%}. A model whose points lie below the band is overconfident."
        )
        return drawn("reliability", plot, caption)

    @property
    def _ends(self) -> list[float]:
        """The shares of simulations below the two ends of a band."""
        below = self.level / 2
        return [below, 1 - below]

    def _simulated(
        self,
        confidence: Floats,
        n: int,
        rng: Generator,
    ) -> list[Reliability]:
        """Return the bins of `n` models whose answers are right as often as they are confident."""
        found = []
        for _ in range(n):
            right = rng.random(len(confidence)) < confidence
            bins = Reliability.of(confidence, right)
            found.append(bins)
        return found


class Conformal(settings.Conformal):
    """The part of an evaluation that makes conformal sets.

    `evaluation.settings` describes its settings.
    """

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Measure coverage and mean size on test of sets that are made on val."""
        val_labels = evaluated.val.targets
        labels = evaluated.test.targets
        places = np.arange(len(labels))
        rows = [("arm", "coverage", "mean size", "empty", "single")]
        found = {}
        for arm, probs in evaluated.on_test.items():
            val_probs = evaluated.on_val[arm]
            sets = ConformalSets(val_probs, val_labels, self.coverage)
            held = sets.of(probs)
            covered = float(held[places, labels].mean())
            sizes = held.sum(axis=1)
            mean_size = float(sizes.mean())
            empty = (sizes == 0).mean()
            single = (sizes == 1).mean()
            found[f"test/{arm}/conformal_coverage"] = covered
            found[f"test/{arm}/conformal_size"] = mean_size
            row = (arm, f"{covered:.1%}", f"{mean_size:.3f}", f"{empty:.1%}", f"{single:.1%}")
            rows.append(row)
        text = (
            f"The sets are made on {len(val_labels):,} validation images so that they hold the "
            f"right class in {self.coverage:.0%} of cases. At equal coverage, smaller sets are "
            "more informative."
        )
        return Section(
            title="Conformal sets",
            text=text,
            table=rows,
            metrics=found,
        )


def temperature(probs: Floats, labels: Ints) -> float:
    """Return the temperature T that minimizes the NLL of softmax(log(probs) / T).

    Args:
        probs: Distributions, (N, C).
        labels: Class of each example, (N,).

    Reference: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    given = _GivenProbs(probs.shape[1])
    frozen = FrozenEstimator(given)
    unfitted = CalibratedClassifierCV(frozen, method="temperature")
    fitted = unfitted.fit(probs, labels)
    (classifier,) = fitted.calibrated_classifiers_
    calibrator = classifier.calibrators[0]
    return 1.0 / float(calibrator.beta_)


def scaled(probs: Floats, temperature: float) -> Floats:
    """Return softmax(log(probs) / temperature), (N, C)."""
    logits = metrics.log(probs) / temperature
    highest = logits.max(axis=1, keepdims=True)
    powers = np.exp(logits - highest)
    sums = powers.sum(axis=1, keepdims=True)
    return np.asarray(powers / sums)


class ConformalSets:
    """Sets of classes that hold the right class with a chosen probability, made by MAPIE.

    Args:
        probs: Distributions on validation data, (N, C).
        labels: Class of each of its examples, (N,).
        coverage: Probability with which a set must hold the right class, in (0, 1).

    Reference: Sadinle et al., "Least Ambiguous Set-Valued Classifiers", 2019.
    """

    def __init__(
        self,
        probs: Floats,
        labels: Ints,
        coverage: float,
    ) -> None:
        given = _GivenProbs(probs.shape[1])
        unfitted = SplitConformalClassifier(
            given,
            coverage,
            conformity_score="lac",
            prefit=True,
        )
        self._classifier = unfitted.conformalize(probs, labels)
        self._probs = probs

    def of(self, probs: Floats) -> Flags:
        """Return which classes are in the set of each example, (N, C)."""
        _, held = self._classifier.predict_set(probs)
        of_coverage = held[:, :, 0]
        return np.asarray(of_coverage, bool)

    @property
    def threshold(self) -> float:
        """The smallest probability with which a class belongs to a set."""
        self._classifier.predict_set(self._probs)  # MAPIE computes the quantile when it makes sets
        (quantile,) = self._classifier._mapie_classifier.quantiles_
        smallest = np.clip(1.0 - quantile, 0.0, 1.0)
        return float(smallest)


class _GivenProbs(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """A fitted classifier that takes distributions, (N, C), as examples and returns them."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes
        self.classes_ = np.arange(n_classes)

    def fit(self, probs: Floats, labels: Ints) -> _GivenProbs:
        """Learn nothing."""
        return self

    def predict_proba(self, probs: Floats) -> Floats:
        """Return the distributions themselves."""
        return probs

    def decision_function(self, probs: Floats) -> Floats:
        """Return the logarithms of the distributions, which are logits."""
        return metrics.log(probs)

    def predict(self, probs: Floats) -> Ints:
        """Return the most probable classes."""
        return np.asarray(probs.argmax(axis=1))
