"""Examine sets of classes that hold the right class with a chosen probability.

`Conformal` makes the sets by split conformal prediction, in three ways: by the probability of each
class (LAC), adapted to each example (RAPS), and with a threshold for each class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from scipy.stats import betabinom

from hpsearch.evaluation import settings
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Section
from hpsearch.metrics import Flags, Floats, Ints

Scores = Callable[[Floats], Floats]


class Conformal(settings.Conformal):
    """The part of an evaluation that makes conformal sets.

    `evaluation.settings` describes its settings.
    """

    _HEAD: ClassVar = (
        "arm",
        "method",
        "coverage",
        "by chance",
        "worst class",
        "mean size",
        "empty",
        "single",
    )

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Measure coverage and size on test of sets that are made on the calibration part."""
        labels = evaluated.calibrating.targets
        rows: list[tuple[str, ...]] = [self._HEAD]
        found = {}
        missed = []
        always: dict[int, int] = {}
        for arm, probs in evaluated.on_test.items():
            on_calibrating = evaluated.on_calibrating[arm]
            made = {
                "LAC": ConformalSets(on_calibrating, labels, self.coverage),
                "RAPS": ConformalSets(on_calibrating, labels, self.coverage, self._raps),
                "per class": ConformalSets(on_calibrating, labels, self.coverage, per_class=True),
            }
            always = made["per class"].always
            for method, sets in made.items():
                tested = _Tested.of(sets, probs, evaluated.test.targets, self.level)
                rows.append((arm, method, *tested.cells()))
                found.update(tested.metrics(f"test/{arm}/{_KEYS[method]}"))
                if tested.coverage < tested.low:
                    missed.append(f"{method} of {arm}")
        text = self._text(evaluated, missed, always)
        return Section("Conformal sets", text, rows, found)

    def _raps(self, probs: Floats) -> Floats:
        return regularized_adaptive(probs, self.raps_penalty, self.raps_rank)

    def _text(
        self,
        evaluated: EvaluatedModel,
        missed: Sequence[str],
        always: dict[int, int],
    ) -> str:
        """Return how to read the table, and what in it is to be said in words."""
        text = (
            f"The sets are made on {evaluated.calibrated_on}. They shall hold the right class in "
            f"{settings.percent(self.coverage)} of cases. At equal coverage, smaller sets are more "
            "informative. LAC would have the smallest mean size if the probabilities were right. "
            "RAPS has larger sets for harder examples and none that is empty. The sets per class "
            "cover each class alone. Sets that keep their promise, made and measured on as many "
            "examples as here, have a coverage within the interval by chance with probability "
            f"{settings.percent(1 - self.level)}. A coverage above it can also come from equal "
            "scores. "
        )
        if missed:
            text += (
                f"Below it lie {', '.join(missed)}; chance alone shows that in "
                f"{settings.percent(self.level / 2)} of cases."
            )
        else:
            text += "No coverage lies below it."
        if always:
            named = [f"{label} (has {n})" for label, n in list(always.items())[:10]]
            if len(always) > len(named):
                named.append(f"{len(always) - len(named)} more")
            text += (
                f" A threshold of a class takes {fewest(self.coverage)} examples of it. Classes "
                f"with fewer are in every set per class: {', '.join(named)}."
            )
        return text


_KEYS = {"LAC": "conformal", "RAPS": "conformal_raps", "per class": "conformal_per_class"}


class _Tested(NamedTuple):
    """What sets show on test.

    Attributes:
        coverage: Share of examples whose set holds the right class.
        low: Lower end of the interval of coverages that are shown by chance.
        high: Its upper end.
        worst: The lowest coverage of a class.
        worst_class: The label of that class.
        size: Mean number of classes in a set.
        empty: Share of sets without a class.
        single: Share of sets with one class.
    """

    coverage: float
    low: float
    high: float
    worst: float
    worst_class: int
    size: float
    empty: float
    single: float

    @classmethod
    def of(
        cls,
        sets: ConformalSets,
        probs: Floats,
        labels: Ints,
        level: float,
    ) -> _Tested:
        """Measure sets on test examples."""
        held = sets.of(probs)
        is_covered = held[np.arange(len(labels)), labels]
        of_class = {}
        for label in np.unique(labels):
            of_class[int(label)] = float(is_covered[labels == label].mean())
        worst_class = min(of_class, key=of_class.__getitem__)
        low, high = sets.by_chance(labels, level)
        sizes = held.sum(axis=1)
        return cls(
            float(is_covered.mean()),
            low,
            high,
            of_class[worst_class],
            worst_class,
            float(sizes.mean()),
            float((sizes == 0).mean()),
            float((sizes == 1).mean()),
        )

    def cells(self) -> tuple[str, ...]:
        """Return the measures as a row shows them."""
        return (
            f"{self.coverage:.1%}",
            f"{self.low:.1%} to {self.high:.1%}",
            f"{self.worst:.1%} (class {self.worst_class})",
            f"{self.size:.3f}",
            f"{self.empty:.1%}",
            f"{self.single:.1%}",
        )

    def metrics(self, key: str) -> dict[str, float]:
        """Return the measures by their MLflow keys."""
        return {
            f"{key}_coverage": self.coverage,
            f"{key}_coverage_low": self.low,
            f"{key}_coverage_high": self.high,
            f"{key}_coverage_worst_class": self.worst,
            f"{key}_size": self.size,
        }


def least_ambiguous(probs: Floats) -> Floats:
    """Return the scores of LAC: minus the probability of each class, (N, C).

    Reference: Sadinle et al., "Least Ambiguous Set-Valued Classifiers With Bounded Error Levels",
    2019.
    """
    return np.asarray(-probs, np.float64)


def regularized_adaptive(
    probs: Floats,
    penalty: float,
    rank: int,
) -> Floats:
    """Return the scores of RAPS: the mass of the classes that are more probable, (N, C).

    Each place behind the first `rank` ones adds a penalty, so that improbable classes enter few
    sets. Nothing is drawn at random: the most probable class has score 0 and is in every set.

    Args:
        probs: Distributions, (N, C).
        penalty: What each further place adds, from 0 on.
        rank: The number of places without a penalty, from 1 on.

    Reference: Angelopoulos et al., "Uncertainty Sets for Image Classifiers using Conformal
    Prediction", 2021.
    """
    order = np.argsort(-probs, axis=1, kind="stable")
    sorted_probs = np.take_along_axis(probs, order, axis=1)
    before = np.cumsum(sorted_probs, axis=1) - sorted_probs
    places = np.arange(1, probs.shape[1] + 1)
    in_order = before + penalty * np.maximum(places - rank, 0)
    scores = np.empty(probs.shape)
    np.put_along_axis(scores, order, in_order, axis=1)
    return scores


class ConformalSets:
    """Sets of classes that hold the right class with a chosen probability.

    A class is in a set where its score does not exceed a limit: the k-th smallest score of the
    right classes of n calibration examples, k = ceil((n + 1) coverage). Where k exceeds n there are
    too few examples for a limit, and each class is in the set.

    Args:
        probs: Distributions on the calibration examples, (N, C).
        labels: Class of each of them, (N,). Any classes may be missing.
        coverage: Probability with which a set must hold the right class, in (0, 1).
        scores: Returns scores (N, C) of distributions, lower for classes that fit better.
        per_class: Whether each class has a limit of its own, of the examples of this class.

    References: Vovk et al., "Algorithmic Learning in a Random World", 2005; for limits of classes
    Sadinle et al., 2019.
    """

    def __init__(
        self,
        probs: Floats,
        labels: Ints,
        coverage: float,
        scores: Scores = least_ambiguous,
        *,
        per_class: bool = False,
    ) -> None:
        self._scores = scores
        self._coverage = coverage
        self._per_class = per_class
        of_labels = scores(probs)[np.arange(len(labels)), labels]
        n_classes = probs.shape[1]
        groups = np.zeros(len(labels), int)
        n_groups = 1
        if per_class:
            groups = np.asarray(labels)
            n_groups = n_classes
        self._counts = np.bincount(groups, minlength=n_groups)
        limits = [_limit(of_labels[groups == group], coverage) for group in range(n_groups)]
        self._limits = np.broadcast_to(limits, n_classes)

    def of(self, probs: Floats) -> Flags:
        """Return which classes are in the set of each example, (N, C)."""
        return np.asarray(self._scores(probs) <= self._limits)

    @property
    def threshold(self) -> float:
        """The smallest probability with which a class belongs to a set of LAC."""
        return float(np.clip(-self._limits[0], 0.0, 1.0))

    @property
    def always(self) -> dict[int, int]:
        """The number of calibration examples of each class that is in every set for want of more.

        Only sets with a limit for each class have such classes.
        """
        if not self._per_class:
            return {}
        few = np.flatnonzero(np.isinf(self._limits))
        return {int(label): int(self._counts[label]) for label in few}

    def by_chance(self, labels: Ints, level: float) -> tuple[float, float]:
        """Return the interval (low, high) of coverages that such sets show by chance.

        The limits are made on finitely many examples and the coverage is measured on finitely many
        others. So the number of right classes that the sets hold has a beta-binomial distribution,
        as long as both kinds come from the same source and no two scores are equal.

        Args:
            labels: Class of each test example, (M,).
            level: Probability of a coverage outside of the interval, in (0, 1).

        Reference: Angelopoulos and Bates, "A Gentle Introduction to Conformal Prediction", 2021.
        """
        groups = np.zeros(len(labels), int)
        if self._per_class:
            groups = np.asarray(labels)
        n_tested = np.bincount(groups, minlength=len(self._counts))
        chances = np.ones(1)
        for n, m in zip(self._counts, n_tested, strict=True):
            k = _rank(n, self._coverage)
            of_group = np.zeros(m + 1)
            of_group[m] = 1.0
            if k <= n:
                of_group = betabinom.pmf(np.arange(m + 1), m, k, n + 1 - k)
            chances = np.convolve(chances, of_group)
        below = np.cumsum(chances)
        low, high = np.searchsorted(below, [level / 2, 1 - level / 2])
        return low / len(labels), min(high, len(labels)) / len(labels)


def fewest(coverage: float) -> int:
    """Return how many calibration examples a limit takes at least: the smallest n with k <= n."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def _limit(scores: Floats, coverage: float) -> float:
    """Return the highest score with which a class is in a set; infinity where all are."""
    k = _rank(len(scores), coverage)
    if k > len(scores):
        return math.inf
    return float(np.partition(scores, k - 1)[k - 1])


def _rank(n: int, coverage: float) -> int:
    """Return k: the k-th smallest of n scores is the limit, and there is none where k > n."""
    k = math.ceil((n + 1) * coverage - 1e-9)  # 1e-9: not one more through rounding
    return max(k, 1)
