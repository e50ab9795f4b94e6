"""Is the confidence right? Calibration error with its null band, before and after temperature
scaling.

Sets of classes that hold the right one with a chosen probability: split conformal prediction, by
MAPIE.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mapie.classification import SplitConformalClassifier
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.evaluation import figures
from hpsearch.evaluation.evaluated_model import ARMS, Subject
from hpsearch.html_report.section import Section
from hpsearch.metrics import Floats, Ints
from hpsearch.seeds import derive


class GivenProbs(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A fitted classifier whose examples are the distributions that it answers with, (N, C)."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes
        self.classes_ = np.arange(n_classes)

    def fit(self, probs: Floats, labels: Ints) -> GivenProbs:
        """Learn nothing."""
        return self

    def predict_proba(self, probs: Floats) -> Floats:
        """Return the distributions themselves."""
        return np.asarray(probs)

    def decision_function(self, probs: Floats) -> Floats:
        """Return their logarithms, which are logits."""
        return np.asarray(np.log(np.maximum(probs, metrics.SMALLEST)))

    def predict(self, probs: Floats) -> Ints:
        """Return the most probable classes."""
        return np.asarray(np.argmax(probs, axis=1), np.int64)


def temperature(probs: Floats, labels: Ints) -> float:
    """Return the temperature T that minimizes the NLL of softmax(log(probs) / T) (Guo et al.,
    2017).
    """
    given = FrozenEstimator(GivenProbs(probs.shape[1]))
    fitted = CalibratedClassifierCV(given, method="temperature").fit(probs, labels)
    return 1.0 / float(fitted.calibrated_classifiers_[0].calibrators[0].beta_)


def scaled(probs: Floats, temperature: float) -> Floats:
    """Return softmax(log(probs) / temperature), (N, C)."""
    logits = np.log(np.maximum(probs, metrics.SMALLEST)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def null_band(
    confidence: Floats, seed: int, n_simulations: int, level: float
) -> tuple[float, float]:
    """Return the ECEs between which a calibrated model of these confidences would fall, (low,
    high).

    Each simulation lets every answer be right with the probability that the model gave it (Broecker
    & Smith, 2007): what is left is the error that N examples show by chance. `level` is the chance
    to fall outside.
    """
    rng = np.random.default_rng(seed)
    found = [
        metrics.reliability(confidence, rng.random(len(confidence)) < confidence).ece
        for _ in range(n_simulations)
    ]
    low, high = np.quantile(found, [level / 2, 1 - level / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Calibration:
    """Settings of the part on calibration.

    Attributes:
        n_simulations: Simulated test sets behind a null band.
        level: Chance that a calibrated model falls outside of its band.
        seed: Root of the simulations.
    """

    n_simulations: int
    level: float
    seed: int

    def examine(self, subject: Subject) -> Section:
        """Measure both arms as they are and after temperature scaling on val."""
        labels = subject.test.labels
        found: dict[str, float] = {}
        rows = [
            (
                "arm",
                "ECE",
                "null band",
                "temperature",
                "NLL scaled",
                "Brier scaled",
                "ECE scaled",
                "null band",
            )
        ]
        diagrams = {}
        for arm in ARMS:
            probs = subject.on_test[arm]
            warmth = temperature(subject.on_val[arm], subject.val.labels)
            after = scaled(probs, warmth)
            before = self._with_band(probs, labels, arm)
            then = self._with_band(after, labels, f"{arm}_scaled")
            then |= {"temperature": warmth, "nll": metrics.nll(after, labels)}
            then["brier_score"] = metrics.brier_score(after, labels)
            found |= {
                f"test/{arm}/{name}": value for name, value in before.items() if name != "ece"
            }
            found |= {f"test/{arm}_scaled/{name}": value for name, value in then.items()}
            rows.append((arm, f"{before['ece']:.4f}", _band(before), f"{warmth:.3f}", f"{then['nll']:.4f}",
                         f"{then['brier_score']:.4f}", f"{then['ece']:.4f}", _band(then)))  # fmt: skip
            diagrams[arm], diagrams[f"{arm}, scaled"] = (probs.max(axis=1), after.max(axis=1))
        right = {
            name: metrics.correct(subject.on_test[name.split(",")[0]], labels) for name in diagrams
        }
        return Section(
            "Calibration",
            f"An ECE inside its null band is what chance alone shows on {len(labels):,} images; "
            f"above it, the model is "
            "over- or underconfident. Temperatures are fitted on validation data.",
            rows,
            found,
            figures=[
                figures.reliability(diagrams, right, derive(self.seed, "diagram"), self.level)
            ],
        )

    def _with_band(self, probs: Floats, labels: Ints, name: str) -> dict[str, float]:
        low, high = null_band(
            probs.max(axis=1), derive(self.seed, name), self.n_simulations, self.level
        )
        return {"ece": metrics.ece(probs, labels), "ece_null_low": low, "ece_null_high": high}


def _band(found: dict[str, float]) -> str:
    return f"{found['ece_null_low']:.4f} to {found['ece_null_high']:.4f}"


def conformalized(probs: Floats, labels: Ints, coverage: float) -> SplitConformalClassifier:
    """Return MAPIE's classifier, conformalized on validation distributions (N, C) (Sadinle et al.,
    2019).
    """
    given = GivenProbs(probs.shape[1])
    return SplitConformalClassifier(
        given, coverage, conformity_score="lac", prefit=True
    ).conformalize(probs, labels)


def threshold(probs: Floats, labels: Ints, coverage: float) -> float:
    """Return the probability from which on a class belongs to the set."""
    classifier = conformalized(probs, labels, coverage)
    classifier.predict_set(probs)  # MAPIE takes the quantile when it makes sets
    return float(np.clip(1.0 - classifier._mapie_classifier.quantiles_[0], 0.0, 1.0))


def sets(classifier: SplitConformalClassifier, probs: Floats) -> NDArray[np.bool_]:
    """Return which classes are in each example's set, (N, C)."""
    return np.asarray(classifier.predict_set(probs)[1][:, :, 0], bool)


@dataclass(frozen=True)
class Conformal:
    """Settings of the part on conformal sets.

    Attributes:
        coverage: How often a set must hold the right class, in (0, 1).
    """

    coverage: float

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if not 0 < self.coverage < 1:
            raise ConfigError(
                f"parts.conformal.coverage must lie between 0 and 1, but is {self.coverage}."
            )

    def examine(self, subject: Subject) -> Section:
        """Measure coverage and mean size on test of sets made on val."""
        labels, found = subject.test.labels, dict[str, float]()
        rows: list[tuple[str, ...]] = [("arm", "coverage", "mean size", "empty", "single")]
        for arm in ARMS:
            classifier = conformalized(
                subject.on_val[arm], np.asarray(subject.val.labels), self.coverage
            )
            held = sets(classifier, subject.on_test[arm])
            size = held.sum(axis=1)
            covered = float(held[np.arange(len(labels)), labels].mean())
            found |= {
                f"test/{arm}/conformal_coverage": covered,
                f"test/{arm}/conformal_size": float(size.mean()),
            }
            shares = (f"{(size == n).mean():.1%}" for n in (0, 1))
            rows.append((arm, f"{covered:.1%}", f"{size.mean():.3f}", *shares))
        text = (
            f"Sets made on {len(subject.val.labels):,} validation images to hold the right class "
            f"in "
            f"{self.coverage:.0%} of cases. At equal coverage, smaller sets say more."
        )
        return Section("Conformal sets", text, rows, found)
