"""Examine whether a model's class probabilities are calibrated.

`Calibration` measures the calibration error (ECE) of both arms, before and after temperature
scaling, and compares it with the error that chance alone would show. `Conformal` makes sets of
classes that hold the right class with a chosen probability, by split conformal prediction (MAPIE).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.evaluation import figures
from hpsearch.evaluation.evaluated_model import ARMS, EvaluatedModel
from hpsearch.html_report.section import Section
from hpsearch.metrics import Flags, Floats, Ints
from hpsearch.seeds import derive


@dataclass(frozen=True)
class Calibration:
    """The part of an evaluation that measures calibration.

    Attributes:
        n_simulations: Number of simulated test sets behind a null band.
        level: Probability that a calibrated model falls outside of its null band.
        seed: Root of the seeds of the simulations.
    """

    n_simulations: int
    level: float
    seed: int

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Measure both arms on test, before and after temperature scaling on val."""
        labels = evaluated.test.targets
        before_head = ("arm", "ECE", "null band", "temperature")
        after_head = ("NLL scaled", "Brier scaled", "ECE scaled", "null band")
        rows = [before_head + after_head]
        found: dict[str, float] = {}
        confidences = {}
        rights = {}
        for arm in ARMS:
            probs = evaluated.on_test[arm]
            fitted = temperature(evaluated.on_val[arm], evaluated.val.targets)
            probs_after = scaled(probs, fitted)
            before = self._ece(probs, labels, arm)
            after = self._ece(probs_after, labels, f"{arm}_scaled")
            nll = metrics.nll(probs_after, labels)
            brier_score = metrics.brier_score(probs_after, labels)
            measured = {
                "/ece_null_low": before.null_low,
                "/ece_null_high": before.null_high,
                "_scaled/ece": after.value,
                "_scaled/ece_null_low": after.null_low,
                "_scaled/ece_null_high": after.null_high,
                "_scaled/temperature": fitted,
                "_scaled/nll": nll,
                "_scaled/brier_score": brier_score,
            }
            for key, value in measured.items():
                found[f"test/{arm}{key}"] = value
            before_cells = (arm, f"{before.value:.4f}", before.band(), f"{fitted:.3f}")
            after_cells = (f"{nll:.4f}", f"{brier_score:.4f}", f"{after.value:.4f}", after.band())
            rows.append(before_cells + after_cells)
            confidences[arm] = probs.max(axis=1)
            confidences[f"{arm}, scaled"] = probs_after.max(axis=1)
            rights[arm] = metrics.correct(probs, labels)
            rights[f"{arm}, scaled"] = rights[arm]  # a temperature keeps the order of the classes
        seed = derive(self.seed, "diagram")
        diagrams = figures.reliability(confidences, rights, seed, self.level)
        text = (
            "The null band holds the ECEs that chance alone would give a calibrated model on "
            f"{len(labels):,} images. A model with an ECE above its band is over- or "
            "underconfident. Temperatures are fitted on validation data."
        )
        return Section("Calibration", text, rows, found, figures=[diagrams])

    def _ece(self, probs: Floats, labels: Ints, name: str) -> _Ece:
        confidence = probs.max(axis=1)
        seed = derive(self.seed, name)
        low, high = null_band(confidence, seed, self.n_simulations, self.level)
        return _Ece(metrics.ece(probs, labels), low, high)


@dataclass(frozen=True)
class _Ece:
    """An expected calibration error with its null band."""

    value: float
    null_low: float
    null_high: float

    def band(self) -> str:
        return f"{self.null_low:.4f} to {self.null_high:.4f}"


@dataclass(frozen=True)
class Conformal:
    """The part of an evaluation that makes conformal sets.

    Attributes:
        coverage: Probability with which a set must hold the right class, in (0, 1).
    """

    coverage: float

    def __post_init__(self) -> None:
        """Refuse a coverage that is out of range."""
        if not 0 < self.coverage < 1:
            raise ConfigError(
                f"parts.conformal.coverage must lie between 0 and 1, but is {self.coverage}."
            )

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Measure coverage and mean size on test of sets that are made on val."""
        val_labels = evaluated.val.targets
        labels = evaluated.test.targets
        rows = [("arm", "coverage", "mean size", "empty", "single")]
        found: dict[str, float] = {}
        for arm in ARMS:
            sets = ConformalSets(evaluated.on_val[arm], val_labels, self.coverage)
            held = sets.of(evaluated.on_test[arm])
            holds_label = held[np.arange(len(labels)), labels]
            covered = float(holds_label.mean())
            sizes = held.sum(axis=1)
            mean_size = float(sizes.mean())
            empty = (sizes == 0).mean()
            single = (sizes == 1).mean()
            found[f"test/{arm}/conformal_coverage"] = covered
            found[f"test/{arm}/conformal_size"] = mean_size
            rows.append(
                (arm, f"{covered:.1%}", f"{mean_size:.3f}", f"{empty:.1%}", f"{single:.1%}")
            )
        text = (
            f"The sets are made on {len(val_labels):,} validation images so that they hold the "
            f"right class in {self.coverage:.0%} of cases. At equal coverage, smaller sets are "
            "more informative."
        )
        return Section("Conformal sets", text, rows, found)


def temperature(probs: Floats, labels: Ints) -> float:
    """Return the temperature T that minimizes the NLL of softmax(log(probs) / T).

    Args:
        probs: Distributions, (N, C).
        labels: Class of each example, (N,).

    Reference: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    given = FrozenEstimator(_GivenProbs(probs.shape[1]))
    unfitted = CalibratedClassifierCV(given, method="temperature")
    (classifier,) = unfitted.fit(probs, labels).calibrated_classifiers_
    return 1.0 / float(classifier.calibrators[0].beta_)


def scaled(probs: Floats, temperature: float) -> Floats:
    """Return softmax(log(probs) / temperature), (N, C)."""
    logits = _logits(probs) / temperature
    highest = logits.max(axis=1, keepdims=True)
    powers = np.exp(logits - highest)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def null_band(
    confidence: Floats, seed: int, n_simulations: int, level: float
) -> tuple[float, float]:
    """Return the ECEs, (low, high), between which a calibrated model would fall.

    Each simulation lets every answer be right with the probability that the model gave it. The ECE
    that remains is the error that N examples show by chance.

    Args:
        confidence: Probability of the predicted class of each example, (N,).
        seed: Seed of the simulations.
        n_simulations: Number of simulated test sets.
        level: Probability that a calibrated model falls outside of the band.

    Reference: Broecker and Smith, "Increasing the Reliability of Reliability Diagrams", 2007.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_simulations):
        right = rng.random(len(confidence)) < confidence
        bins = metrics.reliability(confidence, right)
        found.append(bins.ece)
    low, high = np.quantile(found, [level / 2, 1 - level / 2])
    return float(low), float(high)


class ConformalSets:
    """Sets of classes that hold the right class with a chosen probability, made by MAPIE.

    Args:
        probs: Distributions on validation data, (N, C).
        labels: Class of each of its examples, (N,).
        coverage: Probability with which a set must hold the right class, in (0, 1).

    Reference: Sadinle et al., "Least Ambiguous Set-Valued Classifiers", 2019.
    """

    def __init__(self, probs: Floats, labels: Ints, coverage: float) -> None:
        given = _GivenProbs(probs.shape[1])
        unfitted = SplitConformalClassifier(given, coverage, conformity_score="lac", prefit=True)
        self._classifier = unfitted.conformalize(probs, labels)
        self._probs = probs

    def of(self, probs: Floats) -> Flags:
        """Return which classes are in the set of each example, (N, C)."""
        _, held = self._classifier.predict_set(probs)
        return np.asarray(held[:, :, 0], bool)

    @property
    def threshold(self) -> float:
        """The smallest probability with which a class belongs to a set."""
        self._classifier.predict_set(self._probs)  # MAPIE computes the quantile when it makes sets
        (quantile,) = self._classifier._mapie_classifier.quantiles_
        lowest = np.clip(1.0 - quantile, 0.0, 1.0)
        return float(lowest)


def _logits(probs: Floats) -> Floats:
    positive = np.maximum(probs, metrics.SMALLEST)
    return np.asarray(np.log(positive))


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
        return np.asarray(probs)

    def decision_function(self, probs: Floats) -> Floats:
        """Return the logarithms of the distributions, which are logits."""
        return _logits(probs)

    def predict(self, probs: Floats) -> Ints:
        """Return the most probable classes."""
        classes = np.argmax(probs, axis=1)
        return np.asarray(classes, np.int64)
