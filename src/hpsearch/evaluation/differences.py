"""Test whether two sets of predictions of the same examples differ by more than chance.

Accuracy is tested by McNemar's exact test. Every other measure is tested by a paired permutation
test, which swaps the two predictions of random examples: if both sets were equally good, a swap
would change the measure only by chance. Intervals come from a paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy import stats

from hpsearch import metrics
from hpsearch.evaluation.settings import MEASURES
from hpsearch.metrics import Flags, Floats, Ints, Reliability


@dataclass(frozen=True)
class Difference:
    """The difference in one measure between two arms, second minus first.

    Attributes:
        measure: The name of the measure.
        values: The measure of the first and of the second arm.
        low: Lower end of the bootstrap interval of the difference.
        high: Upper end of this interval.
        p: Probability of a difference at least as large if both arms were equally good. `compare`
            corrects it for the number of measures.
        detectable: The smallest improvement that the test could have shown with these examples.
    """

    measure: str
    values: tuple[float, float]
    low: float
    high: float
    p: float
    detectable: float

    @property
    def value(self) -> float:
        """The difference, second minus first."""
        return self.values[1] - self.values[0]

    def verdict(self, level: float) -> str:
        """Return "better" or "worse" for the second arm, or "no detectable difference"."""
        if self.p > level or self.value == 0:
            return "no detectable difference"
        higher = self.value > 0
        if higher == (self.measure == "accuracy"):
            return "better"
        return "worse"


def compare(
    first: Floats,
    second: Floats,
    labels: Ints,
    *,
    n_resamples: int,
    level: float,
    seed: int,
    measures: Sequence[str] = MEASURES,
) -> list[Difference]:
    """Compare two sets of distributions of the same examples by several measures.

    Args:
        first: Distributions of the first arm, (N, C).
        second: Distributions of the second arm, (N, C).
        labels: Class of each example, (N,).
        n_resamples: Number of resamples of the bootstrap, and of the permutation test.
        level: Each interval holds the difference with probability 1 - level.
        seed: Seed of the resampling.
        measures: Names of the measures, from `MEASURES`.

    Returns:
        One difference for each measure. Its p value has Holm's correction for their number.
    """
    before = _Scores.of(first, labels)
    after = _Scores.of(second, labels)
    arms = _Arms(before, after)
    rng = np.random.default_rng(seed)
    bootstrapped = arms.bootstrapped(measures, n_resamples, rng)
    swapped = arms.swapped(measures, n_resamples, rng)
    ends = [level / 2, 1 - level / 2]
    level_of_one = level / len(measures)
    found = []
    for place, name in enumerate(measures):
        low, high = np.quantile(bootstrapped[place], ends)
        p, detectable = arms.tested(name, swapped[place], level_of_one)
        difference = Difference(
            measure=name,
            values=arms.values(name),
            low=float(low),
            high=float(high),
            p=p,
            detectable=detectable,
        )
        found.append(difference)
    ps = [difference.p for difference in found]
    corrected = holm(ps)
    pairs = zip(found, corrected, strict=True)
    return [replace(difference, p=p) for difference, p in pairs]


class _Scores(NamedTuple):
    """The scores of each example from which the measures are computed, (N,) each."""

    accuracy: Flags
    nll: Floats
    brier_score: Floats
    confidence: Floats

    @classmethod
    def of(cls, probs: Floats, labels: Ints) -> _Scores:
        right = metrics.correct(probs, labels)
        nll = metrics.example_nll(probs, labels)
        brier_score = metrics.example_brier(probs, labels)
        confidence = probs.max(axis=1)
        return cls(right, nll, brier_score, confidence)

    def measure(self, name: str, rows: Ints) -> Floats:
        """Return a measure for each of R rows of indices of examples, (R, N), as (R,)."""
        if name not in ("ece", "aurc"):
            scores = getattr(self, name)[rows]
            return np.asarray(scores.mean(axis=1))
        found = []
        for row in rows:
            confidence = self.confidence[row]
            right = self.accuracy[row]
            if name == "ece":
                found.append(Reliability.of(confidence, right).ece)
            else:
                found.append(metrics.aurc(1.0 - confidence, right))
        return np.array(found)


class _Arms(NamedTuple):
    """The scores of the two arms."""

    first: _Scores
    second: _Scores

    @property
    def all_examples(self) -> Ints:
        """One row that holds every example, (1, N)."""
        n = len(self.first.nll)
        return np.arange(n)[None, :]

    def difference(self, measure: str, rows: Ints) -> Floats:
        """Return a measure of the second arm minus that of the first, (R,), for rows (R, N)."""
        before = self.first.measure(measure, rows)
        return self.second.measure(measure, rows) - before

    def values(self, measure: str) -> tuple[float, float]:
        """Return a measure of the first and of the second arm over all examples."""
        rows = self.all_examples
        (before,) = self.first.measure(measure, rows)
        (after,) = self.second.measure(measure, rows)
        return float(before), float(after)

    def bootstrapped(
        self,
        measures: Sequence[str],
        n_resamples: int,
        rng: Generator,
    ) -> Floats:
        """Return the differences of M measures over bootstrap samples, (M, n_resamples)."""
        n_examples = self.all_examples.size
        parts = []
        n_at_once = 100  # samples that are held in memory at once
        for start in range(0, n_resamples, n_at_once):
            n_rows = min(n_at_once, n_resamples - start)
            shape = (n_rows, n_examples)
            rows = rng.integers(0, n_examples, shape)
            part = [self.difference(name, rows) for name in measures]
            parts.append(part)
        return np.hstack(parts)

    def swapped(
        self,
        measures: Sequence[str],
        n_resamples: int,
        rng: Generator,
    ) -> Floats:
        """Return the differences of M measures after random swaps, (M, n_resamples)."""
        rows = self.all_examples
        parts = []
        for _ in range(n_resamples):
            mixed = self._with_random_swaps(rng)
            part = [mixed.difference(name, rows) for name in measures]
            parts.append(part)
        return np.hstack(parts)

    def _with_random_swaps(self, rng: Generator) -> _Arms:
        """Return the arms with the scores of random examples exchanged."""
        where = rng.random(self.all_examples.size) < 0.5
        first = []
        second = []
        for own, theirs in zip(*self, strict=True):
            first.append(np.where(where, theirs, own))
            second.append(np.where(where, own, theirs))
        first_scores = _Scores(*first)
        second_scores = _Scores(*second)
        return _Arms(first_scores, second_scores)

    def tested(
        self,
        measure: str,
        swapped: Floats,
        level: float,
    ) -> tuple[float, float]:
        """Return the p value of a difference and the smallest improvement with a p of `level`.

        Args:
            measure: The name of the measure.
            swapped: Differences of this measure after random swaps, (n_resamples,).
            level: Level of the test of this one measure.
        """
        if measure == "accuracy":
            first = self.first.accuracy
            second = self.second.accuracy
            discordant = first ^ second
            n_discordant = int(discordant.sum())
            gain = smallest_gain(n_discordant, level)
            return mcnemar(first, second), gain / len(discordant)
        before, after = self.values(measure)
        observed = abs(after - before)
        by_chance = np.abs(swapped)
        are_as_large = by_chance >= observed - 1e-12
        n_as_large = int(are_as_large.sum())
        n_swaps = len(by_chance)
        p = (1 + n_as_large) / (1 + n_swaps)
        detectable = np.quantile(by_chance, 1 - level)
        return p, float(detectable)


def mcnemar(first_right: Flags, second_right: Flags) -> float:
    """Return the two-sided p value of McNemar's exact test.

    The test asks whether the examples that only one arm classifies correctly are divided evenly.

    Args:
        first_right: Whether the first arm classifies each example correctly, (N,).
        second_right: The same for the second arm, (N,).
    """
    only_first = first_right & ~second_right
    discordant = first_right ^ second_right
    n_only_first = int(only_first.sum())
    n_discordant = int(discordant.sum())
    if n_discordant == 0:
        return 1.0
    test = stats.binomtest(n_only_first, n_discordant)
    return float(test.pvalue)


def smallest_gain(n_discordant: int, level: float) -> int:
    """Return the smallest net number of examples that McNemar's test would have called a gain.

    `n_discordant` examples are classified correctly by only one arm. If a gain in all of them
    would not be significant, more such examples are assumed.
    """
    n = n_discordant
    while n == 0 or 2 * 0.5**n > level:
        n += 1
    losses = stats.binom(n, 0.5)
    lost = int(losses.ppf(level / 2))
    while lost >= 0 and 2 * losses.cdf(lost) > level:
        lost -= 1
    return n - 2 * max(lost, 0)


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for their number by Holm's method (Holm, 1979).

    The corrected values bound the probability of any false positive among all tests.
    """
    n = len(ps)
    order = np.argsort(ps)
    ascending = np.asarray(ps)[order]
    factors = np.arange(n, 0, -1)
    stepped = np.maximum.accumulate(ascending * factors)
    corrected = np.empty(n)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in corrected]
