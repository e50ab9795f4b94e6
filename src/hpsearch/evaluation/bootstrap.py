"""The paired bootstrap of the measures of two arms.

A resample is a row of counts: how often each of the N examples was drawn. All measures of a chunk
of resamples are computed at once from such rows, (R, N).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy import stats

from hpsearch import metrics
from hpsearch.metrics import Flags, Floats, Ints, Reliability

_CELLS_AT_ONCE = 500_000  # counts of examples that are held in memory at once


class Bootstrap(NamedTuple):
    """A measure of two arms and how far resamples deviate from their mean.

    Attributes:
        measure: The name of the measure.
        values: The measure of the first and of the second arm over all examples.
        error: Standard error of the difference.
        deviation: The distance of the difference from 0, in standard errors.
        deviations: The distance of the difference of each resample from their mean, (R,), in
            standard errors.
    """

    measure: str
    values: tuple[float, float]
    error: float
    deviation: float
    deviations: Floats

    @property
    def is_degenerate(self) -> bool:
        """Whether the resamples do not vary, so that they tell nothing of the difference."""
        return self.error == 0


class _Estimates(NamedTuple):
    """A measure of each resample, (R,) each.

    Attributes:
        first: The measure of the first arm.
        second: The measure of the second arm.
        errors: Standard error of each difference; None where the spread of the differences is
            taken for all of them.
    """

    first: Floats
    second: Floats
    errors: Floats | None


_Measure = Callable[[Floats], _Estimates]


def bootstrapped(
    first: Floats,
    second: Floats,
    labels: Ints,
    measures: Sequence[str],
    *,
    n_resamples: int,
    seed: int,
) -> list[Bootstrap]:
    """Resample the examples of two arms, and return what each measure shows.

    Args:
        first: Distributions of the first arm, (N, C).
        second: Distributions of the second arm, (N, C).
        labels: Class of each example, (N,).
        measures: Names of the measures.
        n_resamples: R, the number of resamples.
        seed: Seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    n_examples = len(labels)
    makers: dict[str, Callable[[Floats, Floats, Ints], _Measure]] = {
        "nll": _mean_of(metrics.example_nll),
        "brier_score": _mean_of(metrics.example_brier),
        "squared_calibration_error": _SquaredCalibrationError,
        "aurc": _Aurc,
    }
    functions = [makers[name](first, second, labels) for name in measures]
    everything = np.ones((1, n_examples))
    wholes = [function(everything) for function in functions]
    parts: list[list[_Estimates]] = [[] for _ in measures]
    n_at_once = max(1, _CELLS_AT_ONCE // n_examples)
    for start in range(0, n_resamples, n_at_once):
        counts = _counts(rng, min(n_at_once, n_resamples - start), n_examples)
        for function, chunks in zip(functions, parts, strict=True):
            chunks.append(function(counts))
    found = []
    for name, whole, chunks in zip(measures, wholes, parts, strict=True):
        found.append(_summarized(name, whole, chunks, n_examples))
    return found


def _counts(rng: Generator, n_rows: int, n_examples: int) -> Floats:
    """Return how often each example is in each resample, (n_rows, N)."""
    drawn = rng.integers(0, n_examples, (n_rows, n_examples))
    drawn += np.arange(n_rows)[:, None] * n_examples
    counts = np.bincount(drawn.ravel(), minlength=drawn.size)
    return counts.reshape(drawn.shape).astype(np.float64)


def _summarized(
    name: str,
    whole: _Estimates,
    chunks: Sequence[_Estimates],
    n_examples: int,
) -> Bootstrap:
    """Return the deviations of a measure's resamples."""
    differences = np.concatenate([chunk.second - chunk.first for chunk in chunks])
    values = (float(whole.first[0]), float(whole.second[0]))
    centred = np.abs(differences - differences.mean())
    if whole.errors is None:
        error = float(differences.std())
        errors = np.full(len(differences), error)
    else:
        error = float(whole.errors[0])
        errors = np.concatenate([chunk.errors for chunk in chunks if chunk.errors is not None])
    rounding = 1e-12 * max(abs(values[0]), abs(values[1]), 1e-12)
    if error <= rounding:  # all examples have the same difference
        zeros = np.zeros(len(differences))
        return Bootstrap(name, values, 0.0, 0.0, zeros)
    safe = np.maximum(errors, rounding)  # a resample may hold one example only
    if whole.errors is None:  # one error for all resamples ignores that it is itself uncertain
        error *= float(stats.t(max(n_examples - 1, 1)).ppf(0.995) / stats.norm.ppf(0.995))
    deviation = abs(values[1] - values[0]) / error
    return Bootstrap(name, values, error, deviation, centred / safe)


def _mean_of(
    scores: Callable[[Floats, Ints], Floats],
) -> Callable[[Floats, Floats, Ints], _Measure]:
    """Return what makes the measure that is the mean of a score of each example."""

    def made(first: Floats, second: Floats, labels: Ints) -> _Measure:
        before = scores(first, labels)
        after = scores(second, labels)
        change = after - before
        centred = change - change.mean()  # so that squares do not cancel
        columns = np.stack([before, after, centred, np.square(centred)], axis=1)

        def measure(counts: Floats) -> _Estimates:
            n_examples = counts.shape[1]
            means = counts @ columns / n_examples
            variances = means[:, 3] - np.square(means[:, 2])
            errors = np.sqrt(np.maximum(variances, 0.0) / n_examples)
            return _Estimates(means[:, 0], means[:, 1], errors)

        return measure

    return made


class _SquaredCalibrationError:
    """The squared calibration error of both arms in the bins of the ECE, without bias.

    It is the mean of (accuracy - confidence)^2 over the bins, weighted by their counts. A bin's
    square is estimated by the mean of the products of two different examples, whose expectation it
    is. A bin with a single example counts as 0. The result may be negative.

    Reference: Broecker, "Estimating reliability and resolution of probability forecasts through
    decomposition of the empirical score", 2012; Kumar et al., "Verified Uncertainty Calibration",
    2019.
    """

    def __init__(
        self,
        first: Floats,
        second: Floats,
        labels: Ints,
    ) -> None:
        arms = [_binned(probs, labels) for probs in (first, second)]
        self._columns = np.hstack(arms)

    def __call__(self, counts: Floats) -> _Estimates:
        """Return the estimates of resamples."""
        sums = counts @ self._columns
        n_bins = Reliability.N_BINS
        arms = []
        for arm in np.split(sums, 2, axis=1):
            sizes, gaps, squares = np.split(arm, [n_bins, 2 * n_bins], axis=1)
            products = (np.square(gaps) - squares) / np.maximum(sizes - 1, 1)
            of_pairs = np.where(sizes > 1, products, 0.0)
            arms.append(of_pairs.sum(axis=1) / counts.shape[1])
        return _Estimates(arms[0], arms[1], None)


def _binned(probs: Floats, labels: Ints) -> Floats:
    """Return each example's membership of B bins, with its gap and squared gap, (N, 3 B)."""
    confidence = probs.max(axis=1)
    gaps = metrics.correct(probs, labels) - confidence
    bins = Reliability.equal_width(confidence)
    members = np.eye(Reliability.N_BINS)[bins]
    gap = gaps[:, None]
    return np.hstack([members, members * gap, members * np.square(gap)])


class _Aurc:
    """The area under the risk-coverage curve of both arms, as `metrics.aurc` defines it."""

    def __init__(
        self,
        first: Floats,
        second: Floats,
        labels: Ints,
    ) -> None:
        inverses = 1.0 / np.arange(1, len(labels) + 1)
        self._harmonic = np.concatenate([[0.0], np.cumsum(inverses)])
        self._arms = []
        for probs in (first, second):
            doubt = 1.0 - probs.max(axis=1)
            order = np.argsort(doubt, kind="stable")
            _, starts = np.unique(doubt[order], return_index=True)
            wrong = ~metrics.correct(probs, labels)[order]
            self._arms.append((order, starts, wrong))

    def __call__(self, counts: Floats) -> _Estimates:
        """Return the areas of resamples."""
        first, second = (self._area(counts, *arm) for arm in self._arms)
        return _Estimates(first, second, None)

    def _area(
        self,
        counts: Floats,
        order: Ints,
        starts: Ints,
        wrong: Flags,
    ) -> Floats:
        """Return the area of each resample, (R,).

        Args:
            counts: How often each example is in each resample, (R, N).
            order: The examples from the most to the least certain, (N,).
            starts: The places in this order at which another certainty begins, (G,).
            wrong: Whether the prediction is wrong, in this order, (N,).
        """
        n_examples = counts.shape[1]
        sizes = counts[:, order]
        errors = sizes * wrong
        if len(starts) < n_examples:  # equally certain examples count as their mean error
            sizes = np.add.reduceat(sizes, starts, axis=1)
            errors = np.add.reduceat(errors, starts, axis=1)
        covered = sizes.cumsum(axis=1)
        wrong_before = errors.cumsum(axis=1) - errors
        before = self._harmonic[(covered - sizes).astype(np.int64)]
        steps = self._harmonic[covered.astype(np.int64)] - before
        risk = errors / np.maximum(sizes, 1.0)
        areas = errors + (wrong_before - (covered - sizes) * risk) * steps
        return np.asarray(areas.sum(axis=1) / n_examples)
