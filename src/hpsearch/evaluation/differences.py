"""Test whether two sets of predictions of the same examples differ by more than chance.

Accuracy is tested by McNemar's exact test. Every other measure is tested by a paired permutation
test, which swaps the two predictions of random examples: if both sets were equally good, a swap
would change the measure only by chance. Intervals come from a paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from hpsearch import metrics
from hpsearch.metrics import Flags, Floats, Ints


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


@dataclass(frozen=True)
class _Scores:
    """The scores of each example, (N,) each, and the measures that are computed from them.

    A measure takes rows of indices of examples, (R, N), and returns its value for each row, (R,).
    """

    right: Flags
    nll: Floats
    brier: Floats
    confidence: Floats

    @classmethod
    def of(cls, probs: Floats, labels: Ints) -> _Scores:
        return cls(
            right=metrics.correct(probs, labels),
            nll=metrics.example_nll(probs, labels),
            brier=metrics.example_brier(probs, labels),
            confidence=probs.max(axis=1),
        )

    def swapped(self, other: _Scores, where: Flags) -> _Scores:
        """Return these scores with the scores of `other` where `where` is true."""
        mixed = {}
        for name, own in vars(self).items():
            theirs = getattr(other, name)
            mixed[name] = np.where(where, theirs, own)
        return _Scores(**mixed)

    def accuracy(self, rows: Ints) -> Floats:
        right = self.right[rows]
        return np.asarray(right.mean(axis=1))

    def mean_nll(self, rows: Ints) -> Floats:
        nll = self.nll[rows]
        return np.asarray(nll.mean(axis=1))

    def brier_score(self, rows: Ints) -> Floats:
        brier = self.brier[rows]
        return np.asarray(brier.mean(axis=1))

    def ece(self, rows: Ints) -> Floats:
        found = []
        for row in rows:
            bins = metrics.reliability(self.confidence[row], self.right[row])
            found.append(bins.ece)
        return np.array(found)

    def aurc(self, rows: Ints) -> Floats:
        found = []
        for row in rows:
            doubt = 1.0 - self.confidence[row]
            found.append(metrics.aurc(doubt, self.right[row]))
        return np.array(found)


MEASURES: dict[str, Callable[[_Scores, Ints], Floats]] = {
    "accuracy": _Scores.accuracy,
    "nll": _Scores.mean_nll,
    "brier_score": _Scores.brier_score,
    "ece": _Scores.ece,
    "aurc": _Scores.aurc,
}


def compare(
    first: Floats,
    second: Floats,
    labels: Ints,
    *,
    n_resamples: int,
    level: float,
    seed: int,
    measures: Sequence[str] = tuple(MEASURES),
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
    arms = _Arms(_Scores.of(first, labels), _Scores.of(second, labels))
    rng = np.random.default_rng(seed)
    bootstrapped = _bootstrapped(arms, measures, n_resamples, rng)
    swapped = _swapped(arms, measures, n_resamples, rng)
    level_of_one = level / len(measures)
    found = []
    for name in measures:
        low, high = np.quantile(bootstrapped[name], [level / 2, 1 - level / 2])
        p, detectable = _tested(arms, name, swapped[name], level_of_one)
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
    return [replace(d, p=p) for d, p in zip(found, corrected, strict=True)]


class _Arms(NamedTuple):
    """The scores of the two arms."""

    first: _Scores
    second: _Scores

    def difference(self, measure: str, rows: Ints) -> Floats:
        """Return a measure of the second arm minus that of the first, (R,), for rows (R, N)."""
        compute = MEASURES[measure]
        return compute(self.second, rows) - compute(self.first, rows)

    def values(self, measure: str) -> tuple[float, float]:
        """Return a measure of the first and of the second arm over all examples."""
        compute = MEASURES[measure]
        before = compute(self.first, self.all_examples())
        after = compute(self.second, self.all_examples())
        return float(before[0]), float(after[0])

    def all_examples(self) -> Ints:
        """Return one row that holds every example, (1, N)."""
        n = len(self.first.right)
        return np.arange(n)[None, :]


def _bootstrapped(
    arms: _Arms, measures: Sequence[str], n_resamples: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """Return the differences of each measure over bootstrap samples, (n_resamples,) each."""
    n = len(arms.first.right)
    found = {name: np.empty(n_resamples) for name in measures}
    n_at_once = 100  # samples that are held in memory at once
    for start in range(0, n_resamples, n_at_once):
        stop = min(start + n_at_once, n_resamples)
        rows = rng.integers(0, n, (stop - start, n))
        for name in measures:
            found[name][start:stop] = arms.difference(name, rows)
    return found


def _swapped(
    arms: _Arms, measures: Sequence[str], n_resamples: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """Return the differences of each measure after random swaps, (n_resamples,) each."""
    first, second = arms
    all_examples = arms.all_examples()
    n = len(first.right)
    found = {name: np.empty(n_resamples) for name in measures}
    for resample in range(n_resamples):
        where = rng.random(n) < 0.5
        mixed = _Arms(first.swapped(second, where), second.swapped(first, where))
        for name in measures:
            found[name][resample] = mixed.difference(name, all_examples)[0]
    return found


def _tested(arms: _Arms, name: str, swapped: Floats, level: float) -> tuple[float, float]:
    """Return the p value of a difference and the smallest improvement with a p value of `level`.

    Args:
        arms: The scores of both arms.
        name: The measure.
        swapped: Differences of this measure after random swaps, (n_resamples,).
        level: Level of the test of this one measure.
    """
    first, second = arms
    if name == "accuracy":
        discordant = first.right ^ second.right
        gain = smallest_gain(int(discordant.sum()), level)
        return mcnemar(first.right, second.right), gain / len(discordant)
    before, after = arms.values(name)
    observed = abs(after - before)
    by_chance = np.abs(swapped)
    n_as_large = int((by_chance >= observed - 1e-12).sum())
    p = (1 + n_as_large) / (1 + len(by_chance))
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
    only_second = ~first_right & second_right
    n_first = int(only_first.sum())
    n_discordant = n_first + int(only_second.sum())
    if n_discordant == 0:
        return 1.0
    test = stats.binomtest(n_first, n_discordant)
    return float(test.pvalue)


def smallest_gain(n_discordant: int, level: float) -> int:
    """Return the smallest net number of examples that McNemar's test would have called a gain.

    `n_discordant` examples are classified correctly by only one arm. If a gain in all of them
    would not be significant, more such examples are assumed.
    """
    n = n_discordant
    while n == 0 or 2 * 0.5**n > level:
        n += 1
    lost = int(stats.binom.ppf(level / 2, n, 0.5))
    while lost >= 0 and 2 * stats.binom.cdf(lost, n, 0.5) > level:
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
