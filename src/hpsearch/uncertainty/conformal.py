"""Sets of classes that hold the right one with a chosen probability: split conformal prediction, by MAPIE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mapie.classification import SplitConformalClassifier
from numpy.typing import NDArray

from hpsearch.errors import ConfigError
from hpsearch.metrics import Floats, Ints
from hpsearch.pages.section import Section
from hpsearch.uncertainty.calibration import GivenProbs
from hpsearch.uncertainty.subject import ARMS, Subject


def conformalized(probs: Floats, labels: Ints, coverage: float) -> SplitConformalClassifier:
    """Return MAPIE's classifier, conformalized on validation distributions (N, C) (Sadinle et al., 2019)."""
    given = GivenProbs(probs.shape[1])
    return SplitConformalClassifier(given, coverage, conformity_score="lac", prefit=True).conformalize(probs, labels)


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
            raise ConfigError(f"parts.conformal.coverage must lie between 0 and 1, but is {self.coverage}.")

    def examine(self, subject: Subject) -> Section:
        """Measure coverage and mean size on test of sets made on val."""
        labels, found = subject.test.labels, dict[str, float]()
        rows: list[tuple[str, ...]] = [("arm", "coverage", "mean size", "empty", "single")]
        for arm in ARMS:
            classifier = conformalized(subject.on_val[arm], np.asarray(subject.val.labels), self.coverage)
            held = sets(classifier, subject.on_test[arm])
            size = held.sum(axis=1)
            covered = float(held[np.arange(len(labels)), labels].mean())
            found |= {f"test/{arm}/conformal_coverage": covered, f"test/{arm}/conformal_size": float(size.mean())}
            shares = (f"{(size == n).mean():.1%}" for n in (0, 1))
            rows.append((arm, f"{covered:.1%}", f"{size.mean():.3f}", *shares))
        text = (
            f"Sets made on {len(subject.val.labels):,} validation images to hold the right class in "
            f"{self.coverage:.0%} of cases. At equal coverage, smaller sets say more."
        )
        return Section("Conformal sets", text, rows, found)
