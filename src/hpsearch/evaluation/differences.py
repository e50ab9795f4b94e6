"""Test whether two sets of predictions of the same examples differ by more than chance.

Each test asks whether both arms have the same value of a measure. Accuracy is tested by McNemar's
test with a continuity correction, whose interval is Tango's. The other measures are tested by one
paired bootstrap: a measure's deviation, in units of its standard error, is compared with the
deviations of the resamples. The p values and the intervals are two views of one test: an interval
leaves out 0 exactly where the p value is at most the level, and both are corrected for the number
of measures.

References: Tango, "Equivalence test and confidence interval for the difference in proportions for
the paired-sample design", 1998; Beran, "Balanced simultaneous confidence sets", 1988; Westfall and
Young, "Resampling-Based Multiple Testing", 1993.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from hpsearch.evaluation.bootstrap import Bootstrap, bootstrapped
from hpsearch.evaluation.settings import MEASURES
from hpsearch.metrics import Flags, Floats, Ints, correct

_POWER = 0.8  # probability with which a detectable difference is found
NONE = "no detectable difference"
DEPENDS = "depends on the masks"
LABELS = {
    "accuracy": "accuracy",
    "nll": "NLL",
    "brier_score": "Brier score",
    "squared_calibration_error": "calibration error (squared, debiased)",
    "aurc": "AURC",
}
_LARGEST = {  # no difference of a measure is larger; the NLL is clipped, see `metrics.log`
    "accuracy": 1.0,
    "nll": -math.log(np.finfo(np.float64).eps),
    "brier_score": 2.0,
    "squared_calibration_error": 2.0,
    "aurc": 1.0,
}


@dataclass(frozen=True)
class Difference:
    """The difference in one measure between two arms, second minus first.

    Attributes:
        measure: The name of the measure.
        values: The measure of the first and of the second arm.
        low: Lower end of the interval of the difference.
        high: Upper end of this interval. All intervals of a comparison hold their differences at
            once with probability 1 - level.
        p: Probability that equal arms would show a difference as clear in any of the measures. It
            is at most the level exactly where the interval leaves out 0.
        detectable: The difference that this comparison finds with a probability of 80 %.
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
        if self.p > level * (1 + 1e-9) or self.value == 0:  # 1e-9: rounding in p
            return NONE
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
        n_resamples: Number of resamples of the paired bootstrap.
        level: Probability that any of the measures is called different although its values are
            equal, in (0, 1).
        seed: Seed of the resampling.
        measures: Names of the measures, from `MEASURES`.

    Returns:
        One difference for each measure.
    """
    resampled = [name for name in measures if name != "accuracy"]
    share_of_accuracy = (len(measures) - len(resampled)) / len(measures)
    found: dict[str, Difference] = {}
    if share_of_accuracy:
        found["accuracy"] = _accuracy(first, second, labels, level, share_of_accuracy)
    if resampled:
        results = bootstrapped(first, second, labels, resampled, n_resamples=n_resamples, seed=seed)
        share = 1 - share_of_accuracy
        for difference in _joint(results, level, share):
            found[difference.measure] = difference
    if np.array_equal(first, second):
        for name, difference in found.items():
            found[name] = Difference(name, difference.values, 0.0, 0.0, 1.0, difference.detectable)
    return [found[name] for name in measures]


def verdict_over_masks(sets: Sequence[Difference], level: float) -> str:
    """Return the verdict of a measure that was compared with several sets of dropout masks.

    The verdict depends on the masks where the sets disagree, or where one more set would have
    another verdict with a probability of more than 5 %. The latter follows from how much the ends
    of the intervals vary over the sets (Student's prediction interval of one more end).

    Args:
        sets: The difference with each set of masks. With one set nothing is known of others.
        level: Level of the verdict.
    """
    counts = Counter(difference.verdict(level) for difference in sets)
    verdict, most = counts.most_common(1)[0]
    if len(sets) == 1:
        return verdict
    lows = [difference.low for difference in sets]
    highs = [difference.high for difference in sets]
    if most == len(sets):
        if not _may_cross_zero(lows) and not _may_cross_zero(highs):
            return verdict
        return f"{DEPENDS} ({verdict} with all {most} sets, but narrowly)"
    called = [name for name in ("better", "worse") if counts[name]]
    said = " and ".join(f"{name} with {counts[name]}" for name in called)
    return f"{DEPENDS} ({said} of {len(sets)} sets)"


def _may_cross_zero(ends: Sequence[float]) -> bool:
    """Return whether one more number has the other sign with a probability of more than 5 %."""
    n = len(ends)
    spread = float(np.std(ends, ddof=1))
    reach = stats.t(n - 1).ppf(0.95) * spread * math.sqrt(1 + 1 / n)
    return bool(abs(np.mean(ends)) < reach)


def _joint(results: Sequence[Bootstrap], level: float, share: float) -> list[Difference]:
    """Return the differences of measures that were resampled together.

    A measure's critical value is the k-th largest deviation of its resamples. k is the same for
    all measures, and so large that a share `level * share` of the resamples exceeds one of them.

    Args:
        results: The resamples of each measure.
        level: Level of the whole comparison.
        share: Share of the level that these measures have.
    """
    n_resamples = len(results[0].deviations)
    ranks = [stats.rankdata(-result.deviations, "max") for result in results]
    best_ranks = np.sort(np.min(ranks, axis=0))
    n_may_exceed = math.floor(level * share * (n_resamples + 1) + 1e-9) - 1
    found = []
    for result in results:
        descending = -np.sort(-result.deviations)
        n_larger = np.searchsorted(-descending, -result.deviation, "right")
        n_better = np.searchsorted(best_ranks, n_larger, "right")
        critical = math.inf
        if n_may_exceed >= 0:
            critical = float(descending[int(best_ranks[n_may_exceed]) - 1])
        p = min(1.0, (1 + int(n_better)) / (n_resamples + 1) / share)
        difference = _difference(result, critical, p)
        found.append(difference)
    return found


def _difference(result: Bootstrap, critical: float, p: float) -> Difference:
    """Return the difference of a measure whose deviations beyond a critical value are called."""
    largest = _LARGEST[result.measure]
    value = result.values[1] - result.values[0]
    reach = largest
    detectable = largest
    if math.isfinite(critical) and not result.is_degenerate:
        reach = critical * result.error
        detectable = min(largest, reach + stats.norm.ppf(_POWER) * result.error)
    return Difference(
        measure=result.measure,
        values=result.values,
        low=max(value - reach, -largest),
        high=min(value + reach, largest),
        p=p,
        detectable=float(detectable),
    )


def _accuracy(
    first: Floats,
    second: Floats,
    labels: Ints,
    level: float,
    share: float,
) -> Difference:
    """Return the difference in accuracy, whose test has a share of the level."""
    before = correct(first, labels)
    after = correct(second, labels)
    only_first = int((before & ~after).sum())
    only_second = int((after & ~before).sum())
    n_examples = len(before)
    critical = float(stats.norm.isf(level * share / 2))
    return Difference(
        measure="accuracy",
        values=(float(before.mean()), float(after.mean())),
        low=-largest_difference(only_first, only_second, n_examples, critical),
        high=largest_difference(only_second, only_first, n_examples, critical),
        p=min(1.0, mcnemar(before, after) / share),
        detectable=detectable_gain(only_first + only_second, critical) / n_examples,
    )


def mcnemar(first_right: Flags, second_right: Flags) -> float:
    """Return the two-sided p value of McNemar's test with Edwards' continuity correction.

    The test asks whether the examples that only one arm classifies correctly are divided evenly.

    Args:
        first_right: Whether the first arm classifies each example correctly, (N,).
        second_right: The same for the second arm, (N,).
    """
    n_discordant = int((first_right ^ second_right).sum())
    gain = abs(int(second_right.sum()) - int(first_right.sum()))
    if gain <= 1:
        return 1.0
    return float(2 * stats.norm.sf((gain - 1) / math.sqrt(n_discordant)))


def largest_difference(
    gained: int,
    lost: int,
    n_examples: int,
    critical: float,
) -> float:
    """Return the largest gain in accuracy that Tango's score test does not reject.

    The test has the continuity correction of `mcnemar`, which it equals for a gain of 0.

    Args:
        gained: Number of examples that only the second arm classifies correctly.
        lost: Number of examples that only the first arm classifies correctly.
        n_examples: N.
        critical: Largest deviation, in standard errors, that is not rejected.
    """
    n = n_examples

    def excess(gain: float) -> float:
        """Return by how much the deviation from a gain exceeds the largest one."""
        linear = (2 * n - gained + lost) * gain - gained - lost
        root = math.sqrt(linear**2 + 8 * n * lost * gain * (1 - gain))
        share_lost = (root - linear) / (4 * n)
        variance = n * (2 * share_lost + gain * (1 - gain))
        deviation = n * gain - (gained - lost) - 1
        return deviation - critical * math.sqrt(max(variance, 0.0))

    if excess(1.0) <= 0:
        return 1.0
    return float(optimize.brentq(excess, (gained - lost) / n, 1.0))


def detectable_gain(n_discordant: int, critical: float) -> float:
    """Return the net number of examples by which one arm must gain to be called better in 80 %.

    If this is more than the number of discordant examples, as many more are assumed.
    """
    reach = critical + float(stats.norm.ppf(_POWER))
    gain = 1 + reach * math.sqrt(n_discordant)
    if gain <= n_discordant:
        return gain
    root = (reach + math.sqrt(reach**2 + 4)) / 2
    return root**2


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
