"""Advice on what to do after a search: widen bounds, run more trials, or examine the model.

`Advice` holds the advice as a sentence and a command. It rests on two questions:

Does the best value lie at a bound? Then a better one may lie beyond it. `edges` finds such bounds
and says where they might be instead.

Are more trials likely to pay? `Prospects` fits a Gaussian process to the trials and draws functions
from it, called worlds. Each world agrees with what has been measured. In each world, further trials
are placed half where other worlds have their minimum and half anywhere, as a sampler would place
them, and the best of them is compared with the best so far.

`Prospects` also bounds the gain that could be left at most. It is the bound on the regret by which
Makarova et al. (2022, "Automatic Termination for Hyperparameter Optimization") end a search: where
it is below the noise, nothing is left to find. Optuna's own implementation is deprecated, and needs
PyTorch and at least 20 finished trials.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

from hpsearch.seeds import derive
from hpsearch.space.bounds import Range, Value
from hpsearch.space.space import Space, broken_limit
from hpsearch.study.failures import failures, summary
from hpsearch.study_report.commands import Commands
from hpsearch.study_report.figures import Clock
from hpsearch.study_report.searched import Dimension, Floats, Searched, end_of

# Learning rates at which few models diverge.
_LOW_RATES = "space.bounds.learning_rate={low:1e-5,high:1e-3,scale:log}"


@dataclass(frozen=True)
class Advice:
    """What to do next, and why.

    Attributes:
        next_step: What to do, in one sentence.
        command: The command that does it.
        outlook: Whether more trials are likely to pay.
        edges: Every hyperparameter that has an order, with its best value.
    """

    next_step: str
    command: str
    outlook: _Outlook
    edges: Sequence[Edge]

    @classmethod
    def of(cls, searched: Searched) -> Advice:
        """Return what should come next: wider bounds, more trials, or a look at the model."""
        commands = Commands(searched)
        outlook = _Outlook.of(searched)
        edges = Edge.all_of(searched)
        cut = [edge for edge in edges if edge.bound]
        if not cut and outlook.worth <= _Outlook.POSSIBLE:
            step = "Examine the model that was found."
            command = commands.evaluate()
            return cls(step, command, outlook, edges)
        step = "Let the search go on."
        failed = failures(searched.trials)
        changes: list[str] = []
        if failed and searched.best is None:
            step = f"Mend what makes trials fail, and let the search go on: {summary(failed)}."
        elif searched.best is None and any(end_of(t) == "diverged" for t in searched.trials):
            step = "Search at lower learning rates in another study, since all trials diverged."
            changes = [_LOW_RATES, f"study.name={searched.name}-lower"]
        elif failed:
            n_failed = sum(len(failure.trials) for failure in failed)
            step += f" {n_failed} trials failed: {summary(failed)}."
        if cut:
            bounds = [f"{edge.dimension.name}'s {edge.bound} bound" for edge in cut]
            names = " and ".join(bounds)
            step = f"Widen {names}, where the best trial lies, and let the search go on."
        changes += [edge.override(searched.space) for edge in cut]
        if cut and _walks_grid(searched):
            step = f"Widen {names}, where the best trial lies, in another study with another grid."
            changes.append(f"study.name={searched.name}-wider")
        elif cut:
            changes.append("study.changed_bounds=true")
        n_spent = len(searched.spent)
        n_again = max(n_spent, Prospects.MIN_FINISHED)
        n_more = min(n_again, 100)  # as many again, within reason
        command = commands.search(n_spent + n_more, changes)
        return cls(step, command, outlook, edges)

    @property
    def cut(self) -> list[Edge]:
        """The hyperparameters whose best value lies at a bound."""
        return [edge for edge in self.edges if edge.bound]


def _walks_grid(searched: Searched) -> bool:
    """Return whether the points of a study are those of a grid, which its bounds decide."""
    sampler = searched.config.get("sampler", {})
    return str(sampler.get("make", {}).get("_target_")).endswith(".Grid")


@dataclass(frozen=True)
class Edge:
    """A hyperparameter with its best value.

    Attributes:
        dimension: The hyperparameter and its bounds.
        value: The value of the best trial.
        position: The position of that value on the scale, 0 to 1.
        bound: `low` or `high` if the value lies at that bound and the bound can be moved, else
            None.
        n_near: How many of the best N_BEST trials lie at that bound too.
        NEAR: The share of a scale that counts as its end.
        N_BEST: The number of best trials whose values at a bound are counted.
    """

    NEAR: ClassVar[float] = 0.05
    N_BEST: ClassVar[int] = 5

    dimension: Dimension
    value: Value
    position: float
    bound: str | None
    n_near: int

    @classmethod
    def all_of(cls, searched: Searched) -> list[Edge]:
        """Return every hyperparameter that has an order and that the best trial drew."""
        if searched.best is None:
            return []
        values = searched.values(searched.best)
        found = []
        for dimension in searched.dimensions:
            if not dimension.choices and dimension.name in values:
                value = values[dimension.name]
                edge = cls._of(searched, dimension, value)
                found.append(edge)
        return found

    @classmethod
    def _of(
        cls,
        searched: Searched,
        dimension: Dimension,
        value: Value,
    ) -> Edge:
        position = dimension.position(value)
        edge = cls(dimension, value, position, None, 0)
        if cls.NEAR <= position <= 1 - cls.NEAR:
            return edge
        bound = "high"
        if position < cls.NEAR:
            bound = "low"
        at_bound = replace(edge, bound=bound)
        if broken_limit(dimension.name, at_bound.wider):  # a rate below 0, or a momentum of 1
            return edge
        column = searched.dimensions.index(dimension)
        best = searched.ranked[: cls.N_BEST]
        others = searched.positions(best)[:, column]
        distances = abs(others - round(position))
        is_near = distances < cls.NEAR
        n_near = int(is_near.sum())
        return replace(at_bound, n_near=n_near)

    @property
    def wider(self) -> float:
        """The value that the bound might have instead."""
        moved = 0.25  # share of the scale
        position = 1 + moved
        if self.bound == "low":
            position = -moved
        number = self.dimension.value(position)
        return self.dimension.rounded(number)

    def override(self, space: Space) -> str:
        """Return the setting of the search that moves the bound.

        A hyperparameter that only the HyperModel proposed has no bound in `space` yet, so the
        setting then adds both bounds and the scale.
        """
        name = self.dimension.name
        key = f"space.bounds.{name}"
        if isinstance(space.rules.get(name), Range):
            return f"{key}.{self.bound}={self.wider:.6g}"
        low = self.dimension.low
        high = self.dimension.high
        if self.bound == "low":
            low = self.wider
        else:
            high = self.wider
        return f"+{key}={{low: {low:.6g}, high: {high:.6g}, scale: {self.dimension.scale}}}"


@dataclass(frozen=True)
class _Outlook:
    """Whether more trials are likely to pay.

    Attributes:
        text: The answer in a sentence or two.
        worth: Probability that the trials of the next hour gain more than the noise; 1 if it is
            not known.
        trial_s: Seconds of work for a trial, all workers together.
        gains: The gain of as many trials again, and of those of the next hour; empty if too few
            trials have finished.
        noise: Standard deviation between trainings with the same hyperparameters.
        regret: The gain that could be left at most.
        POSSIBLE: The probability of a gain above the noise from which more trials may pay.
    """

    POSSIBLE: ClassVar[float] = 0.1

    text: str
    worth: float
    trial_s: float
    gains: Sequence[_Gain] = ()
    noise: float = float("nan")
    regret: float = float("nan")

    @classmethod
    def of(cls, searched: Searched) -> _Outlook:
        """Return the outlook of a study."""
        n_spent = len(searched.spent)
        worked_s = Clock.of_study(searched).total_s
        trial_s = worked_s / max(1, n_spent)
        if n_spent and not searched.dimensions:
            text = "No hyperparameter varied: more trials would only repeat the same one."
            return cls(text, 0.0, trial_s)
        if not Prospects.can_tell(searched):
            n_finished = f"{len(searched.ranked)} of at least {Prospects.MIN_FINISHED}"
            return cls(f"Too few trials have finished ({n_finished}) to tell.", 1.0, trial_s)
        n_hourly = 1
        if trial_s:
            n_hourly = max(1, int(3600 / trial_s))
        seed = derive(0, searched.name, "prospects")
        prospects = Prospects(searched, seed)
        as_many = prospects.gain(n_spent)
        next_hour = prospects.gain(n_hourly)
        worth = next_hour.worth
        if worth > 0.5:
            answer = "are likely to pay"
        elif worth > cls.POSSIBLE:
            answer = "may pay"
        else:
            answer = "are hardly worth it"
        text = (
            f"More trials {answer}: with probability {worth:.0%} the {n_hourly:,} trials of the "
            f"next hour better the best one by more than {prospects.noise:.2g}, by which two "
            "trainings with the same hyperparameters differ anyway."
        )
        if prospects.regret < prospects.noise:
            text += " What could be left at most is below that too: the search may end here."
        gains = [as_many, next_hour]
        return cls(
            text,
            worth,
            trial_s,
            gains,
            prospects.noise,
            prospects.regret,
        )


@dataclass(frozen=True)
class _Gain:
    """By how much further trials better the best value, in the unit of the metric.

    Attributes:
        n_trials: How many further trials.
        expected: Mean gain as it will be measured, luck included.
        low: Lower end of the interval that holds the gain with probability 1 - Prospects.LEVEL.
        high: Upper end of that interval.
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
    """A forecast of what further trials of a study will bring.

    Args:
        searched: A study for which `can_tell` is true.
        seed: The seed of all random draws.

    Attributes:
        noise: Standard deviation between trainings with the same hyperparameters.
        regret: The gain that could be left at most, in the unit of the metric.
        LEVEL: The probability that the interval of a gain misses, and that the bound on the regret
            does.
        MIN_FINISHED: The number of finished trials below which there is no forecast.
    """

    LEVEL: ClassVar[float] = 0.1
    MIN_FINISHED: ClassVar[int] = 5

    @classmethod
    def can_tell(cls, searched: Searched) -> bool:
        """Return whether enough trials of a study have finished for a forecast."""
        if not searched.dimensions:
            return False
        return len(searched.ranked) >= cls.MIN_FINISHED

    def __init__(self, searched: Searched, seed: int) -> None:
        # Matrices this small are slower on many threads, much slower on a busy machine.
        with threadpool_limits(1):
            rng = np.random.default_rng(seed)
            x, y = _examples(searched)
            centre = float(y.mean())
            unit = float(y.std()) or 1.0
            standardized = (y - centre) / unit
            fit_seed = int(rng.integers(2**31))
            process = _fitted(x, standardized, fit_seed)
            self._rng = rng
            self._best = searched.loss(searched.ranked[0])
            noise = process.kernel_.k2
            self.noise = unit * math.sqrt(noise.noise_level)
            noise.noise_level = 1e-9  # worlds are without noise
            n_trials, n_dimensions = x.shape
            sequence = qmc.Sobol(n_dimensions, seed=rng)
            points = sequence.random_base2(9)  # 512 points
            new = _rounded(points, searched)
            where = np.vstack([new, x])
            self._n_new = len(points)
            n_worlds = 400
            world_seed = int(rng.integers(2**31))
            draws = process.sample_y(where, n_worlds, random_state=world_seed)
            self._worlds: Floats = centre + unit * draws.T
            mean, spread = process.predict(where, return_std=True)
            # The confidence bounds of Makarova et al. (2022).
            odds = n_dimensions * n_trials**2 * math.pi**2 / (6 * self.LEVEL)
            width = math.sqrt(2 * math.log(odds) / 5)
            margin = width * spread
            upper = mean + margin
            lower = mean - margin
            least_upper = upper[self._n_new :].min()
            left = max(0.0, least_upper - lower.min())
            self.regret = float(unit * left)

    def gain(self, n_trials: int) -> _Gain:
        """Return what `n_trials` further trials are likely to bring; each call draws anew.

        At most 2000 trials are simulated.
        """
        worlds = self._worlds
        chosen = self._placed(min(n_trials, 2000))
        true = np.take_along_axis(worlds, chosen, axis=1)
        luck = self._rng.normal(0.0, self.noise, true.shape)
        measured = true + luck
        winner = measured.argmin(axis=1)
        rows = np.arange(len(true))
        best_true = true[rows, winner]
        best_measured = measured.min(axis=1)
        gained = np.maximum(0.0, self._best - best_measured)
        known = worlds[:, self._n_new :].min(axis=1)
        lasting = np.maximum(0.0, known - best_true)
        real = np.where(gained > 0, lasting, 0.0)
        tail = self.LEVEL / 2
        low, high = np.quantile(gained, [tail, 1 - tail])
        return _Gain(
            n_trials=n_trials,
            expected=gained.mean(),
            low=low,
            high=high,
            chance=(gained > 0).mean(),
            real=real.mean(),
            worth=(real > self.noise).mean(),
        )

    def _placed(self, n_trials: int) -> np.ndarray:
        """Draw the points of further trials in each world, (worlds, trials)."""
        n_worlds = len(self._worlds)
        shape = (n_worlds, n_trials)
        new = self._worlds[:, : self._n_new]
        minima = new.argmin(axis=1)
        anywhere = self._rng.integers(self._n_new, size=shape)
        guides = self._rng.integers(n_worlds, size=shape)
        guided = minima[guides]
        is_guided = self._rng.random(shape) < 0.5
        return np.where(is_guided, guided, anywhere)


def _fitted(x: Floats, y: Floats, seed: int) -> GaussianProcessRegressor:
    """Return a Gaussian process fitted to positions (N, D) and standardized values (N,)."""
    lengths = np.ones(x.shape[1])
    bounds = (0.1, 10.0)
    smooth = Matern(lengths, bounds, nu=2.5)
    noise = WhiteKernel(0.05, (1e-4, 1.0))
    kernel = ConstantKernel(1.0, bounds) * smooth + noise
    process = GaussianProcessRegressor(
        kernel,
        n_restarts_optimizer=2,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # A length at its bound is a valid answer here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(x, y)
    return process


def _examples(searched: Searched) -> tuple[Floats, Floats]:
    """Return the positions (N, D) and losses (N,) to fit, the worst losses clipped."""
    trials = []
    for trial in searched.spent:
        has_value = searched.reached(trial) is not None
        if has_value or end_of(trial) == "diverged":
            trials.append(trial)
    losses = [_final(trial, searched) for trial in trials]
    y = np.array(losses)
    has_diverged = np.isnan(y)
    y[has_diverged] = np.nanmax(y)
    # A trial that did not draw a hyperparameter stands in the middle, as all such trials do.
    positions = searched.positions(trials)
    x = np.nan_to_num(positions, nan=0.5)
    max_fitted = 200  # the time of a fit grows with the cube of the number of trials
    order = np.argsort(y, kind="stable")
    kept = order[:max_fitted]
    highest = np.quantile(y, 0.75)  # how bad the worst trials are says nothing of the best region
    losses_kept = np.minimum(y[kept], highest)
    return x[kept], losses_kept


def _final(trial: FrozenTrial, searched: Searched) -> float:
    """Return the loss with which a trial ended or would have ended; NaN if it diverged.

    A stopped trial counts as if it had changed from its last epoch on by the median change of the
    finished trials.
    """
    if trial.state == TrialState.COMPLETE:
        return searched.loss(trial)
    step = trial.last_step
    if end_of(trial) == "diverged" or step is None:
        return math.nan
    as_loss = searched.direction.as_loss
    changes = []
    for finished in searched.ranked:
        if step in finished.intermediate_values:
            then = as_loss(finished.intermediate_values[step])
            changes.append(searched.loss(finished) - then)
    change = float(np.median(changes or [0.0]))
    return as_loss(trial.intermediate_values[step]) + change


def _rounded(points: Floats, searched: Searched) -> Floats:
    """Move points (N, D) in place to the nearest choice where a dimension has choices."""
    for column, dimension in enumerate(searched.dimensions):
        if dimension.choices:
            n_steps = len(dimension.choices) - 1
            steps = np.round(points[:, column] * n_steps)
            points[:, column] = steps / n_steps
    return points
