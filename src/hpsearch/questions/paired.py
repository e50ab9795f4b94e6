"""Differences between two arms that were trained from the same seeds, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hpsearch.uncertainty.differences import holm

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; `p` tests that the mean is 0, two-sided; all NaN but the mean where n < 2."""

    mean: float
    low: float
    high: float
    p: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:+z.4g}" + (f" [{self.low:+z.4g}, {self.high:+z.4g}]" if self.n > 1 else "")

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of values with Student's interval (n - 1 degrees of freedom)."""
    x = np.asarray([v for v in values if np.isfinite(v)], np.float64)
    n = len(x)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    mean = float(x.mean())
    if n == 1:
        return Interval(mean, float("nan"), float("nan"), float("nan"), 1)
    error = float(x.std(ddof=1)) / n**0.5
    if error == 0:
        return Interval(mean, mean, mean, 1.0 if mean == 0 else 0.0, n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Interval(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, n - 1)), n)


def difference(mine: Mapping[int, float], theirs: Mapping[int, float]) -> Interval:
    """Return mine minus theirs, paired by seed; seeds that only one of them has are left out."""
    return interval([mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())])


def holm_of(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p values that hold for the whole family; NaN ones are no tests and stay NaN."""
    tests = {name: p for name, p in p_values.items() if not math.isnan(p)}
    return dict.fromkeys(p_values, float("nan")) | dict(zip(tests, holm(list(tests.values())), strict=True))
