"""Is a difference between two sets of predictions of the same examples more than chance?

Tests: McNemar's exact test for accuracy; for all else a paired permutation test, which swaps the
two predictions of
random examples: if they were equally good, that would change nothing but by chance. Intervals:
paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hpsearch import metrics
from hpsearch.metrics import Floats, Ints

LOWER_IS_BETTER = {"accuracy": False, "nll": True, "brier_score": True, "ece": True, "aurc": True}
AT_ONCE = 100  # resamples in memory


@dataclass(frozen=True)
class Difference:
    """A measure of two arms, second minus first.

    Attributes:
        measure: Its name.
        values: The measure of both arms.
        low: Lower end of the bootstrap interval of the difference.
        high: Upper end.
        p: Chance of a difference at least as large between equally good arms; Holm's correction is
            in it once `holm` has been applied.
        detectable: The smallest improvement that this test set could have shown.
    """

    measure: str
    values: tuple[float, float]
    low: float
    high: float
    p: float
    detectable: float

    @property
    def value(self) -> float:
        """Second minus first."""
        return self.values[1] - self.values[0]

    def verdict(self, level: float) -> str:
        """Return what this says of the second arm: better, worse or no detectable difference."""
        if self.p > level or self.value == 0:
            return "no detectable difference"
        return "better" if (self.value < 0) == LOWER_IS_BETTER[self.measure] else "worse"


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> float:
    """Return the two-sided p of McNemar's exact test: are the examples that one arm alone gets
    right shared evenly?
    """
    n_first, n_second = (
        int((first_right & ~second_right).sum()),
        int((~first_right & second_right).sum()),
    )
    return float(stats.binomtest(n_first, n_first + n_second).pvalue) if n_first + n_second else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, step by step (Holm, 1979): they bound the chance
    of any false one.
    """
    order = np.argsort(ps)
    stepped = np.maximum.accumulate(np.asarray(ps)[order] * np.arange(len(ps), 0, -1))
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in corrected]


def compare(
    first: Floats,
    second: Floats,
    labels: Ints,
    *,
    n_resamples: int,
    level: float,
    seed: int,
    measures: Sequence[str] = tuple(LOWER_IS_BETTER),
) -> list[Difference]:
    """Compare two sets of distributions of the same examples by every measure.

    Args:
        first: Distributions, (N, C).
        second: Distributions, (N, C), which are better, worse or neither.
        labels: Class of each example, (N,).
        n_resamples: Of the bootstrap, and of the permutation test.
        level: Intervals hold the difference with probability 1 - level; Holm's p is compared with
            it.
        seed: Of the resampling.
        measures: Which to compare.

    Returns:
        One difference a measure, with p values corrected over measures.
    """
    arms = (_Scores.of(first, labels), _Scores.of(second, labels))
    hows = {name: MEASURES[name] for name in measures}
    drawn = _resampled(arms, hows, n_resamples, np.random.default_rng(seed))
    found = []
    for name, how in hows.items():
        everyone = np.arange(len(labels))[None, :]
        values = tuple(float(how(arm, everyone)[0]) for arm in arms)
        booted, swapped = drawn[name]
        observed = abs(values[1] - values[0])
        p = (1 + int((np.abs(swapped) >= observed - 1e-12).sum())) / (1 + n_resamples)
        detectable = float(np.quantile(np.abs(swapped), 1 - level / len(hows)))
        if name == "accuracy":
            p = mcnemar(arms[0].right, arms[1].right)
            detectable = smallest_gain(
                int((arms[0].right ^ arms[1].right).sum()), level / len(hows)
            ) / len(labels)
        low, high = np.quantile(booted, [level / 2, 1 - level / 2])
        found.append(
            Difference(name, (values[0], values[1]), float(low), float(high), p, detectable)
        )
    ps = holm([d.p for d in found])
    return [
        Difference(d.measure, d.values, d.low, d.high, p, d.detectable)
        for d, p in zip(found, ps, strict=True)
    ]


def smallest_gain(n_discordant: int, level: float) -> int:
    """Return the smallest net number of examples that McNemar's test would have called a gain.

    `n_discordant` examples are right in one arm alone. Where even all of them would not do, more
    are needed.
    """
    n = n_discordant
    while n == 0 or 2 * 0.5**n > level:
        n += 1
    lost = int(stats.binom.ppf(level / 2, n, 0.5))
    while lost >= 0 and 2 * stats.binom.cdf(lost, n, 0.5) > level:
        lost -= 1
    return n - 2 * max(lost, 0)


@dataclass(frozen=True)
class _Scores:
    """What the measures need of each example, (N,) each."""

    right: np.ndarray
    nll: Floats
    brier: Floats
    confidence: Floats

    @classmethod
    def of(cls, probs: Floats, labels: Ints) -> _Scores:
        right = metrics.correct(probs, labels)
        return cls(
            right,
            metrics.example_nll(probs, labels),
            metrics.example_brier(probs, labels),
            probs.max(axis=1),
        )

    def swapped(self, other: _Scores, where: np.ndarray) -> _Scores:
        """Return self with the scores of `other` where `where` is true."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Scores(*(np.where(where, theirs, mine) for mine, theirs in pairs))


def _ece(arm: _Scores, rows: np.ndarray) -> Floats:
    return np.array([metrics.reliability(arm.confidence[r], arm.right[r]).ece for r in rows])


def _aurc(arm: _Scores, rows: np.ndarray) -> Floats:
    return np.array([metrics.aurc(1.0 - arm.confidence[r], arm.right[r]) for r in rows])


Hows = dict[str, Callable[[_Scores, np.ndarray], Floats]]
# Each takes the scores of N examples and rows of numbers of examples, (R, N), and returns (R,).
MEASURES: Hows = {
    "accuracy": lambda arm, rows: np.asarray(arm.right[rows].mean(axis=1)),
    "nll": lambda arm, rows: np.asarray(arm.nll[rows].mean(axis=1)),
    "brier_score": lambda arm, rows: np.asarray(arm.brier[rows].mean(axis=1)),
    "ece": _ece,
    "aurc": _aurc,
}


def _resampled(
    arms: tuple[_Scores, _Scores], hows: Hows, n_resamples: int, rng: np.random.Generator
) -> dict[str, tuple[Floats, Floats]]:
    """Return the differences of each measure under the bootstrap and under swapping, (n_resamples,)
    each.
    """
    first, second = arms
    n = len(first.right)
    everyone = np.arange(n)[None, :]
    booted: dict[str, list[Floats]] = {name: [] for name in hows}
    swapped: dict[str, list[Floats]] = {name: [] for name in hows}
    for start in range(0, n_resamples, AT_ONCE):
        rows = rng.integers(0, n, (min(AT_ONCE, n_resamples - start), n))
        for name, how in hows.items():
            booted[name].append(how(second, rows) - how(first, rows))
    for _ in range(n_resamples):
        where = rng.random(n) < 0.5
        one, other = first.swapped(second, where), second.swapped(first, where)
        for name, how in hows.items():
            swapped[name].append(how(other, everyone) - how(one, everyone))
    return {name: (np.concatenate(booted[name]), np.concatenate(swapped[name])) for name in hows}
