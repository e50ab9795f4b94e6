"""A study as its reports read it: its trials, how they ended and what they drew.

`Searched` is the study. `Dimension` is the scale of one hyperparameter, and `Outcome` counts the
trials by how they ended. All of them use the names and scales that people read: `momentum`, where
the study stores `one_minus_momentum`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.html_report.section import Section
from hpsearch.space.bounds import Value, as_read
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.study import best_trial, number_of, ranked, value_of
from hpsearch.study.trial_end import TrialEnd
from hpsearch.tracking.runs import TrialName

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Searched:
    """A study that is reported on.

    Attributes:
        name: The name of the study.
        study: The Optuna study, with the pruner of its search.
        space: Translates stored hyperparameters into those that people read.
        monitor: The metric that was optimized.
        direction: Says which values of the metric are better.
        config: The composed configuration of the search, as plain data.
        tracking_uri: The address of the MLflow store that holds the runs of the study.
    """

    name: str
    study: optuna.Study
    space: Space
    monitor: str
    direction: Direction
    config: Mapping[str, Any]
    tracking_uri: str

    @cached_property
    def tries(self) -> list[FrozenTrial]:
        """All tries; a trial that was killed and tried again has two or more."""
        found = []
        for trial in self.study.get_trials(deepcopy=False):
            is_waiting = trial.state == TrialState.WAITING
            if not is_waiting and TrialEnd.of(trial) != TrialEnd.SURPLUS:
                found.append(trial)
        return found

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """All trials, each once, sorted by `number_of`."""
        lasting = [trial for trial in self.tries if not TrialEnd.has_retry(trial)]
        return sorted(lasting, key=number_of)

    @cached_property
    def spent(self) -> list[FrozenTrial]:
        """The trials that finished or were stopped."""
        return [trial for trial in self.trials if TrialEnd.has_spent(trial)]

    @cached_property
    def ranked(self) -> list[FrozenTrial]:
        """The trials that finished, the best first."""
        return ranked(self.trials, self.direction)

    @property
    def best(self) -> FrozenTrial | None:
        """The best trial, or None if none has finished."""
        return next(iter(self.ranked), None)

    @cached_property
    def outcome(self) -> Outcome:
        """The number of trials that ended in each way, and the best trial."""
        trials = self.study.get_trials(deepcopy=False)
        return Outcome.of(trials, self.direction)

    @cached_property
    def dimensions(self) -> list[Dimension]:
        """The hyperparameters that varied, the earliest drawn first."""
        latest = {}
        for trial in self.spent:
            latest.update(trial.distributions)
        found = []
        for name, distribution in latest.items():
            if not distribution.single():
                found.append(Dimension.of(name, distribution))
        return found

    @cached_property
    def importances(self) -> dict[str, float]:
        """The importance of each hyperparameter by fANOVA (Hutter et al. 2014), the largest first.

        It is the share of the variance of the values, 0 to 1, on the scales of the dimensions, so
        that it does not depend on how a study stores a hyperparameter. There is none if too few
        trials have finished or all values are the same.
        """
        different = {value_of(trial) for trial in self.ranked}
        are_few = len(self.ranked) < 4
        are_same = len(different) < 2
        if are_few or are_same or not self.dimensions:
            return {}
        rescaled = optuna.create_study()
        share: BaseDistribution = FloatDistribution(0.0, 1.0)
        positions = self.positions(self.ranked)
        positions = np.clip(positions, 0.0, 1.0)
        for trial, places in zip(self.ranked, positions, strict=True):
            params = {}
            for dimension, place in zip(self.dimensions, places, strict=True):
                if not np.isnan(place):
                    params[dimension.name] = float(place)
            made = create_trial(
                value=value_of(trial),
                params=params,
                distributions=dict.fromkeys(params, share),
            )
            rescaled.add_trial(made)
        evaluator = FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(rescaled, evaluator=evaluator)
        return dict(found)

    @property
    def objectives(self) -> list[str]:
        """The metric, followed by the second objective if the study has one."""
        costs = self.config.get("costs", {})
        second = costs.get("second_objective")
        return [name for name in (self.monitor, second) if name]

    def best_by_column(self) -> Section:
        """Return a table with a column for each of the best trials.

        There may be many hyperparameters, for which a terminal has no room beside each other.
        """
        rows = self.best_rows(5)
        by_column = list(zip(*rows, strict=True))
        title = f"The best {len(rows) - 1} trials"
        if len(rows) == 2:
            title = "The best trial"
        return Section(title, "", by_column)

    @property
    def label(self) -> str:
        """The metric with its unit, as it stands at an axis."""
        units = {
            "loss": "nats",
            "accuracy": "share of images",
            "error": "share of images",
        }
        _, _, measure = self.monitor.rpartition("/")
        unit = units.get(measure)
        if unit is None:
            return self.monitor
        return f"{self.monitor} ({unit})"

    def loss(self, trial: FrozenTrial) -> float:
        """Return the value of a finished trial such that less is better."""
        return self.direction.as_loss(trial.values[0])

    def values(self, trial: FrozenTrial) -> dict[str, Value]:
        """Return the hyperparameters of a trial by the names that people read."""
        return self.space.values(trial)

    def title(self, trial: FrozenTrial) -> str:
        """Return the name of a trial: `#7 lr=0.0012 m=0.95 d=0.11`."""
        number = number_of(trial)
        name = TrialName(number, self.values(trial))
        return str(name)

    def place(self, trial: FrozenTrial) -> str:
        """Return the place of a finished trial among the finished ones, such as `2 of 9`."""
        place = self.ranked.index(trial) + 1
        return f"{place} of {len(self.ranked)}"

    def reached(self, trial: FrozenTrial) -> float | None:
        """Return the value of a finished trial, or the last value of one that was stopped."""
        if trial.state == TrialState.COMPLETE:
            return value_of(trial)
        if trial.last_step is None:
            return None
        return trial.intermediate_values[trial.last_step]

    def best_rows(self, n_rows: int) -> list[list[str]]:
        """Return a table of at most `n_rows` of the best trials: the head, then the best first."""
        best = self.ranked[:n_rows]
        names: dict[str, None] = {}
        for trial in best:
            drawn = self.values(trial)
            names.update(dict.fromkeys(drawn))
        table = [["trial", *self.objectives, "epochs", *names]]
        for trial in best:
            cells = [f"#{number_of(trial)}", *self.numbers(trial)]
            cells.append(str(len(trial.intermediate_values)))
            values = self.values(trial)
            for name in names:
                value = values.get(name, "")
                if isinstance(value, float):
                    value = f"{value:.4g}"
                cells.append(str(value))
            table.append(cells)
        return table

    @staticmethod
    def numbers(trial: FrozenTrial) -> list[str]:
        """Return the values of a finished trial as text; a whole cost has no decimals."""
        value, *costs = trial.values
        shown = [f"{value:.4f}"]
        for cost in costs:
            n_decimals = 4
            if cost.is_integer():
                n_decimals = 0
            shown.append(f"{cost:.{n_decimals}f}")
        return shown

    def positions(self, trials: Sequence[FrozenTrial]) -> Floats:
        """Return the positions of trials on the D dimensions.

        Args:
            trials: N trials of this study.

        Returns:
            An array (N, D) of positions as in `Dimension.position`; NaN where a trial did not draw
            the hyperparameter.
        """
        shape = (len(trials), len(self.dimensions))
        places = np.full(shape, np.nan)
        for row, trial in enumerate(trials):
            values = self.values(trial)
            for column, dimension in enumerate(self.dimensions):
                if dimension.name in values:
                    value = values[dimension.name]
                    places[row, column] = dimension.position(value)
        return places


@dataclass(frozen=True)
class Dimension:
    """A hyperparameter with the bounds from which the latest trial drew it.

    Attributes:
        name: The name that people read: `momentum`, never `one_minus_momentum`.
        low: The lowest value; 0 if there are `choices`.
        high: The highest value; the index of the last choice if there are `choices`.
        scale: `linear`, `log` or `log_complement`, which is uniform in log(1 - x).
        choices: The values, if they have no order; else empty.
    """

    name: str
    low: float
    high: float
    scale: str = "linear"
    choices: tuple[Value, ...] = ()

    @classmethod
    def of(cls, stored: str, drawn_from: BaseDistribution) -> Dimension:
        """Return the dimension that a study stores under the name `stored`."""
        if isinstance(drawn_from, CategoricalDistribution):
            choices = drawn_from.choices
            last = len(choices) - 1
            return cls(stored, 0, last, choices=choices)  # type: ignore[arg-type]
        low = drawn_from.low  # type: ignore[attr-defined]
        high = drawn_from.high  # type: ignore[attr-defined]
        name, highest = as_read(stored, low)
        if name != stored:
            _, lowest = as_read(stored, high)
            return cls(name, float(lowest), float(highest), "log_complement")
        if drawn_from.log:  # type: ignore[attr-defined]
            return cls(stored, low, high, "log")
        return cls(stored, low, high)

    def position(self, value: Value) -> float:
        """Return the position of a value on the scale: 0 at `low` and 1 at `high`.

        A value that was drawn from older, wider bounds lies outside 0 to 1.
        """
        low = self._scaled(self.low)
        high = self._scaled(self.high)
        if high <= low:
            return 0.5
        scaled = self._scaled(self.number(value))
        return (scaled - low) / (high - low)

    def number(self, value: Value) -> float:
        """Return a value as a number: a choice as its index."""
        if value in self.choices:
            return self.choices.index(value)
        return float(value)

    def _scaled(self, number: float) -> float:
        if self.scale == "log":
            return math.log(number)
        if self.scale == "log_complement":
            return -math.log(1 - number)
        return number

    def value(self, position: float) -> float:
        """Return the number at a position; the inverse of `position` if values have an order."""
        low = self._scaled(self.low)
        high = self._scaled(self.high)
        scaled = low + position * (high - low)
        if self.scale == "log":
            return math.exp(scaled)
        if self.scale == "log_complement":
            return 1 - math.exp(-scaled)
        return scaled

    def __str__(self) -> str:
        if self.choices:
            choices = ", ".join(map(str, self.choices))
            return f"{self.name} of {choices}"
        low = self.shown(self.low)
        high = self.shown(self.high)
        bounds = f"{self.name} {low} to {high}"
        if self.scale == "linear":
            return bounds
        return f"{bounds} ({self.scale})"

    def rounded(self, number: float) -> float:
        """Return a number rounded to two digits, as a person would set it as a bound.

        On the scale `log_complement`, 1 - x is rounded to one digit.
        """
        if self.scale == "log_complement":
            complement = float(f"{1 - number:.1g}")
            return float(f"{1 - complement:.6g}")
        short = float(f"{number:.2g}")
        if isinstance(self.low, int):
            return round(short)
        return short

    def shown(self, value: Value) -> str:
        """Return a value as text, a float with three digits."""
        if isinstance(value, float):
            return f"{value:.3g}"
        return str(value)


@dataclass(frozen=True)
class Outcome:
    """The number of trials that ended in each way, and the best trial."""

    n_finished: int
    n_pruned: int
    n_diverged: int
    n_infeasible: int
    n_failed: int
    n_epochs: int
    best: FrozenTrial | None

    @classmethod
    def of(
        cls,
        trials: list[FrozenTrial],
        direction: Direction,
    ) -> Outcome:
        """Count the trials of a study; a trial that was killed and tried again counts once."""
        ends = [TrialEnd.of(trial) for trial in trials]
        return cls(
            n_finished=ends.count(TrialEnd.FINISHED),
            n_pruned=ends.count(TrialEnd.PRUNED),
            n_diverged=ends.count(TrialEnd.DIVERGED),
            n_infeasible=ends.count(TrialEnd.INFEASIBLE),
            n_failed=sum(TrialEnd.has_failed(trial) for trial in trials),
            n_epochs=sum(len(trial.intermediate_values) for trial in trials),
            best=best_trial(trials, direction),
        )

    def counts(self) -> str:
        """Return the counts as text, without those of rare ends that did not occur."""
        parts = [f"{self.n_finished} finished", f"{self.n_pruned} pruned"]
        if self.n_diverged:
            parts.append(f"{self.n_diverged} diverged")
        if self.n_infeasible:
            parts.append(f"{self.n_infeasible} beyond a constraint")
        if self.n_failed:
            parts.append(f"{self.n_failed} failed")
        return ", ".join(parts)


def end_of(trial: FrozenTrial) -> str:
    """Return how a trial ended in a word.

    The word is `finished`, `pruned`, `diverged`, `infeasible`, `failed` or `running`.
    """
    end = TrialEnd.of(trial)
    if end is None:
        return "running"
    if end == TrialEnd.PAUSED:
        return TrialEnd.PRUNED.label
    return end.label
