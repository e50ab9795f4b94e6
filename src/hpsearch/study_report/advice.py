"""Where the bounds of a search cut: the best value lies at one, so a better one may lie beyond it.

Are more trials likely to pay? A Gaussian process is fitted to the trials, and further ones are
played on its draws.

Each draw is a world that agrees with what has been measured. In each world, further trials stand
where other worlds are best, or anywhere, half and half, as a sampler's do, and the best of them is
compared with the best so far.

What could be left at most is the bound on the regret by which Makarova et al. (2022, "Automatic
Termination for Hyperparameter Optimization") end a search: where it is below the noise, nothing is
left to find. Optuna's own form of it is deprecated, and needs PyTorch and at least 20 finished
trials.

What the trials of a study say should come next: sentences, numbers and one command.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
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

from hpsearch.seeds import derive
from hpsearch.space.bounds import Range, Value
from hpsearch.space.space import LIMITS, Space
from hpsearch.study.study import value_of
from hpsearch.study_report import commands
from hpsearch.study_report.figures import clock
from hpsearch.study_report.searched import Dimension, Searched, end_of

NEAR = 0.05  # share of a scale that counts as its end
WIDER = 0.25  # share of a scale by which a bound is moved
N_BEST = 5


@dataclass(frozen=True)
class Edge:
    """A hyperparameter with its best value.

    Attributes:
        dimension: Its bounds.
        value: The best trial's.
        position: Where that lies on the scale, 0 to 1.
        bound: `low` or `high` where it lies at that one and that one can be moved, else None.
        n_near: How many of the best N_BEST trials lie there too.
    """

    dimension: Dimension
    value: Value
    position: float
    bound: str | None
    n_near: int

    @property
    def wider(self) -> float:
        """Where the bound might be instead."""
        return self.dimension.rounded(
            self.dimension.value(-WIDER if self.bound == "low" else 1 + WIDER)
        )

    def override(self, space: Space) -> str:
        """Return the same as a setting of the search; what its HyperModel proposed alone has no
        bound yet.
        """
        d, key = self.dimension, f"space.bounds.{self.dimension.name}"
        if isinstance(space.rules.get(d.name), Range):
            return f"{key}.{self.bound}={self.wider:.6g}"
        low, high = (self.wider, d.high) if self.bound == "low" else (d.low, self.wider)
        return f"+{key}={{low: {low:.6g}, high: {high:.6g}, scale: {d.scale}}}"


def edges(searched: Searched) -> list[Edge]:
    """Return every hyperparameter that has an order, and that the best trial drew."""
    if searched.best is None:
        return []
    values, found = searched.values(searched.best), []
    for dimension in searched.dimensions:
        if dimension.choices or dimension.name not in values:
            continue
        position = dimension.position(values[dimension.name])
        bound = "low" if position < NEAR else "high" if position > 1 - NEAR else None
        if bound and not _can_move(dimension, bound):
            bound = None
        others = [searched.values(t).get(dimension.name) for t in searched.ranked[:N_BEST]]
        places = [dimension.position(v) for v in others if v is not None]
        n_near = sum(abs(place - round(position)) < NEAR for place in places) if bound else 0
        found.append(Edge(dimension, values[dimension.name], position, bound, n_near))
    return found


def _can_move(dimension: Dimension, bound: str) -> bool:
    """A rate cannot be negative, a momentum not 1."""
    wider = Edge(dimension, 0, 0, bound, 0).wider
    return all(limit.holds(wider) for limit in LIMITS if limit.names.search(dimension.name))


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
        searched: The study; at least MIN_FINISHED of its trials have finished, and something
            varied.
        seed: Of all draws.
    """

    def __init__(self, searched: Searched, seed: int) -> None:
        with threadpool_limits(
            1
        ):  # matrices this small are slower on many threads, by far where the machine is busy
            self._fit(searched, seed)

    def _fit(self, searched: Searched, seed: int) -> None:
        rng = self._rng = np.random.default_rng(seed)
        x, y = _examples(searched)
        self._best = searched.signed(value_of(searched.ranked[0]))
        self._centre, self._unit = float(y.mean()), float(y.std()) or 1.0
        kernel = ConstantKernel(1.0, (0.1, 10.0)) * Matern(np.ones(x.shape[1]), (0.1, 10.0), nu=2.5)
        process = GaussianProcessRegressor(
            kernel + WhiteKernel(0.05, (1e-4, 1.0)),
            n_restarts_optimizer=2,
            random_state=int(rng.integers(2**31)),
        )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # a length at its bound is an answer here
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
        real = np.where(
            gained > 0, np.maximum(0.0, known - np.take_along_axis(true, winner, axis=1)[:, 0]), 0.0
        )
        low, high = np.quantile(gained, [LEVEL / 2, 1 - LEVEL / 2])
        worth = float((real > self.noise).mean())
        return Gain(
            n_trials,
            gained.mean(),
            float(low),
            float(high),
            float((gained > 0).mean()),
            real.mean(),
            worth,
        )


def can_tell(searched: Searched) -> bool:
    """Return whether there are trials enough to say anything."""
    return len(searched.ranked) >= MIN_FINISHED and bool(searched.dimensions)


def _examples(searched: Searched) -> tuple[Floats, Floats]:
    """Return positions (N, D) and signed values (N,), the worst clipped."""
    trials = [
        t for t in searched.spent if searched.reached(t) is not None or end_of(t) == "diverged"
    ]
    finals = [_final(t, searched) for t in trials]
    worst = max(v for v in finals if v is not None)
    y = np.array([worst if v is None else v for v in finals])
    x = np.nan_to_num(
        searched.positions(trials), nan=0.5
    )  # not drawn: a middling place, the same for all
    kept = np.argsort(y, kind="stable")[:MAX_FITTED]
    return x[kept], np.minimum(y[kept], np.quantile(y, CLIPPED_ABOVE))


def _final(trial: FrozenTrial, searched: Searched) -> float | None:
    """A stopped trial counts as if it had gone on as the finished ones did, in the median, from
    that epoch.
    """
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
    return searched.signed(trial.intermediate_values[step]) + (
        float(np.median(rests)) if rests else 0.0
    )


def _rounded(points: Floats, searched: Searched) -> Floats:
    """Move points to the nearest choice where a dimension has choices."""
    for column, dimension in enumerate(searched.dimensions):
        if dimension.choices:
            n = len(dimension.choices) - 1
            points[:, column] = np.round(points[:, column] * n) / n
    return points


LIKELY, POSSIBLE = 0.5, 0.1  # chance of a gain above the noise
HOUR_S = 3600.0
MAX_PROPOSED = 100  # trials in one step: then look again


@dataclass(frozen=True)
class Outlook:
    """Are more trials likely to pay?

    Attributes:
        text: One sentence or two.
        worth: Chance that those of the next hour bring more than the noise; 1 where it is not
            known.
        trial_s: Seconds of work for a trial, all workers together.
        gains: Of as many trials again, and of those of the next hour; empty where too few have
            finished.
        noise: By how much two trainings with the same hyperparameters differ (standard deviation).
        regret: What could be left at most.
    """

    text: str
    worth: float
    trial_s: float
    gains: Sequence[Gain] = ()
    noise: float = float("nan")
    regret: float = float("nan")

    @classmethod
    def of(cls, searched: Searched) -> Outlook:
        """Return what the trials say."""
        n = len(searched.spent)
        trial_s = clock(searched).total_s / n if n else 0.0
        if n and not searched.dimensions:
            return cls(
                "No hyperparameter varied: more trials would only repeat the same one.",
                0.0,
                trial_s,
            )
        if not can_tell(searched):
            text = f"Too few trials have finished ({len(searched.ranked)} of at least {MIN_FINISHED}) to tell."
            return cls(text, 1.0, trial_s)
        hourly = max(1, int(HOUR_S / trial_s)) if trial_s else 1
        prospects = Prospects(searched, derive(0, searched.name, "prospects"))
        gains = [prospects.gain(n), prospects.gain(hourly)]
        worth, noise, regret = gains[-1].worth, prospects.noise, prospects.regret
        word = (
            "are likely to pay"
            if worth > LIKELY
            else "may pay"
            if worth > POSSIBLE
            else "are hardly worth it"
        )
        text = (
            f"More trials {word}: with probability {worth:.0%} the {hourly:,} trials of the next "
            f"hour better the best "
            f"one by more than {noise:.2g}, by which two trainings with the same hyperparameters "
            f"differ anyway."
        )
        if regret < noise:
            text += " What could be left at most is below that too: the search may end here."
        return cls(text, worth, trial_s, gains, noise, regret)


@dataclass(frozen=True)
class Advice:
    """What to do next, and why.

    Attributes:
        next_step: One sentence.
        command: Does it.
        outlook: Are more trials likely to pay?
        edges: Every hyperparameter that has an order, with its best value.
    """

    next_step: str
    command: str
    outlook: Outlook
    edges: Sequence[Edge]

    @property
    def cut(self) -> list[Edge]:
        """Those whose best value lies at a bound."""
        return [edge for edge in self.edges if edge.bound]


def advise(searched: Searched) -> Advice:
    """Return what should come next: wider bounds, more trials, or a look at the model."""
    outlook, found, n = Outlook.of(searched), edges(searched), len(searched.spent)
    more = n + min(max(n, MIN_FINISHED), MAX_PROPOSED)
    cut = [edge for edge in found if edge.bound]
    if cut:
        names = " and ".join(f"{edge.dimension.name}'s {edge.bound} bound" for edge in cut)
        step = f"Widen {names}, where the best trial lies, and let the search go on."
        return Advice(
            step,
            commands.search(searched, more, *(e.override(searched.space) for e in cut)),
            outlook,
            found,
        )
    if outlook.worth > POSSIBLE:
        return Advice("Let the search go on.", commands.search(searched, more), outlook, found)
    return Advice("Examine the model that was found.", commands.evaluate(searched), outlook, found)
