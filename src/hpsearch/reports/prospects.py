"""Are more trials likely to pay? A Gaussian process is fitted to the trials, and further ones are played on its draws.

Each draw is a world that agrees with what has been measured. In each world, further trials stand where other worlds are
best, or anywhere, half and half, as a sampler's do, and the best of them is compared with the best so far.

What could be left at most is the bound on the regret by which Makarova et al. (2022, "Automatic Termination for
Hyperparameter Optimization") end a search: where it is below the noise, nothing is left to find. Optuna's own form
of it is deprecated, and needs PyTorch and at least 20 finished trials.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

from hpsearch.reports.searched import Searched, end_of
from hpsearch.studies.study import value_of

MIN_FINISHED = 5
MAX_FITTED = 200  # the best trials alone: the fit takes the third power of their number
LOG2_POINTS, N_WORLDS = 9, 400
MAX_TRIALS = 2000
LEVEL = 0.1  # chance that the interval misses; of the bound on the regret too
CLIPPED_ABOVE = 0.75  # quantile: how bad the worst ones are tells nothing of where the best are
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """By how much further trials better the best value, in the metric's unit.

    Attributes:
        n_trials: How many trials.
        expected: Mean gain as it will be measured, luck included.
        low: End of the interval that holds it with probability 1 - LEVEL.
        high: The other end.
        chance: Probability of any gain.
        real: Mean gain that would last if the new best were trained anew.
        worth: Probability that the real gain is larger than the noise.
    """

    n_trials: int
    expected: float
    low: float
    high: float
    chance: float
    real: float
    worth: float


class Prospects:
    """What the trials of a study say of those to come.

    Args:
        searched: The study; at least MIN_FINISHED of its trials have finished, and something varied.
        seed: Of all draws.
    """

    def __init__(self, searched: Searched, seed: int) -> None:
        with threadpool_limits(1):  # matrices this small are slower on many threads, by far where the machine is busy
            self._fit(searched, seed)

    def _fit(self, searched: Searched, seed: int) -> None:
        rng = self._rng = np.random.default_rng(seed)
        x, y = _examples(searched)
        self._best = searched.signed(value_of(searched.ranked[0]))
        self._centre, self._unit = float(y.mean()), float(y.std()) or 1.0
        kernel = ConstantKernel(1.0, (0.1, 10.0)) * Matern(np.ones(x.shape[1]), (0.1, 10.0), nu=2.5)
        process = GaussianProcessRegressor(
            kernel + WhiteKernel(0.05, (1e-4, 1.0)), n_restarts_optimizer=2, random_state=int(rng.integers(2**31))
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is an answer here
            process.fit(x, (y - self._centre) / self._unit)
        self.noise = self._unit * math.sqrt(process.kernel_.k2.noise_level)
        process.kernel_.k2.noise_level = 1e-9  # worlds are without noise
        points = qmc.Sobol(x.shape[1], seed=rng).random_base2(LOG2_POINTS)
        where = np.vstack([_rounded(points, searched), x])
        self._n_new = len(points)
        draws = process.sample_y(where, N_WORLDS, random_state=int(rng.integers(2**31)))
        self._worlds: Floats = self._centre + self._unit * draws.T
        self.regret = self._regret_bound(process, where, len(searched.dimensions), len(x))

    def _regret_bound(self, process: Any, where: Floats, n_dimensions: int, n_trials: int) -> float:
        """The paper's: the best trial's upper confidence bound minus the lowest lower one."""
        mean, spread = process.predict(where, return_std=True)
        beta = math.sqrt(2 * math.log(n_dimensions * n_trials**2 * math.pi**2 / (6 * LEVEL)) / 5)
        upper, lower = mean + beta * spread, mean - beta * spread
        return float(self._unit * max(0.0, upper[self._n_new :].min() - lower.min()))

    def gain(self, n_trials: int) -> Gain:
        """Return what so many further trials are likely to bring."""
        rng, worlds, n = self._rng, self._worlds, min(n_trials, MAX_TRIALS)
        good = worlds[:, : self._n_new].argmin(axis=1)
        anywhere = rng.integers(self._n_new, size=(len(worlds), n))
        guided = good[rng.integers(len(worlds), size=(len(worlds), n))]
        chosen = np.where(rng.random((len(worlds), n)) < 0.5, guided, anywhere)
        true = np.take_along_axis(worlds, chosen, axis=1)
        measured = true + rng.normal(0.0, self.noise, true.shape)
        winner = measured.argmin(axis=1)[:, None]
        gained = np.maximum(0.0, self._best - np.take_along_axis(measured, winner, axis=1)[:, 0])
        known = worlds[:, self._n_new :].min(axis=1)
        real = np.where(gained > 0, np.maximum(0.0, known - np.take_along_axis(true, winner, axis=1)[:, 0]), 0.0)
        low, high = np.quantile(gained, [LEVEL / 2, 1 - LEVEL / 2])
        worth = float((real > self.noise).mean())
        return Gain(n_trials, gained.mean(), float(low), float(high), float((gained > 0).mean()), real.mean(), worth)


def can_tell(searched: Searched) -> bool:
    """Return whether there are trials enough to say anything."""
    return len(searched.ranked) >= MIN_FINISHED and bool(searched.dimensions)


def _examples(searched: Searched) -> tuple[Floats, Floats]:
    """Return positions (N, D) and signed values (N,), the worst clipped."""
    trials = [t for t in searched.spent if searched.reached(t) is not None or end_of(t) == "diverged"]
    finals = [_final(t, searched) for t in trials]
    worst = max(v for v in finals if v is not None)
    y = np.array([worst if v is None else v for v in finals])
    x = np.nan_to_num(searched.positions(trials), nan=0.5)  # not drawn: a middling place, the same for all
    kept = np.argsort(y, kind="stable")[:MAX_FITTED]
    return x[kept], np.minimum(y[kept], np.quantile(y, CLIPPED_ABOVE))


def _final(trial: FrozenTrial, searched: Searched) -> float | None:
    """A stopped trial counts as if it had gone on as the finished ones did, in the median, from that epoch."""
    if trial.state == TrialState.COMPLETE:
        return searched.signed(value_of(trial))
    if end_of(trial) == "diverged" or trial.last_step is None:
        return None
    step = trial.last_step
    rests = [
        searched.signed(value_of(t)) - searched.signed(t.intermediate_values[step])
        for t in searched.ranked
        if step in t.intermediate_values
    ]
    return searched.signed(trial.intermediate_values[step]) + (float(np.median(rests)) if rests else 0.0)


def _rounded(points: Floats, searched: Searched) -> Floats:
    """Move points to the nearest choice where a dimension has choices."""
    for column, dimension in enumerate(searched.dimensions):
        if dimension.choices:
            n = len(dimension.choices) - 1
            points[:, column] = np.round(points[:, column] * n) / n
    return points
