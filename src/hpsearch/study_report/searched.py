"""The hyperparameters that a study has drawn, each as an axis: where on its scale a value lies.

How the trials of a study ended: counts, and a table of the best.

A study as its reports see it: trials with their ends, names and scales as people read them.
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
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from hpsearch.space.bounds import COMPLEMENT, Value
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.study import best_trial, number_of, ranked, value_of
from hpsearch.study.trial_end import FAILED, TrialEnd, is_failure, is_retried, spends_budget
from hpsearch.tracking.runs import TrialName


@dataclass(frozen=True)
class Dimension:
    """A hyperparameter with the bounds from which the latest trial drew it.

    Attributes:
        name: As people read it: `momentum`, never `one_minus_momentum`.
        low: Its lowest value; of `choices`, 0.
        high: Its highest value; of `choices`, the place of the last one.
        scale: linear, log or log_complement.
        choices: The values of one that has no order.
    """

    name: str
    low: float
    high: float
    scale: str = "linear"
    choices: tuple[Value, ...] = ()

    @classmethod
    def of(cls, stored: str, drawn_from: BaseDistribution) -> Dimension:
        """Return the dimension that a study stores under a name."""
        if isinstance(drawn_from, CategoricalDistribution):
            choices: tuple[Value, ...] = tuple(drawn_from.choices)  # type: ignore[arg-type]
            return cls(stored, 0, len(choices) - 1, choices=choices)
        low, high, log = drawn_from.low, drawn_from.high, drawn_from.log  # type: ignore[attr-defined]
        if stored.startswith(COMPLEMENT):
            return cls(stored.removeprefix(COMPLEMENT), 1 - high, 1 - low, "log_complement")
        return cls(stored, low, high, "log" if log else "linear")

    def position(self, value: Value) -> float:
        """Return where a value lies: 0 at `low`, 1 at `high`, outside where older bounds were
        wider.
        """
        low, high = self._scaled(self.low), self._scaled(self.high)
        at = (
            self.choices.index(value)
            if self.choices and value in self.choices
            else self._scaled(value)
        )
        return (at - low) / (high - low) if high > low else 0.5

    def _scaled(self, value: Value) -> float:
        number = float(value) if not isinstance(value, str) else 0.0
        if self.scale == "log":
            return math.log(number)
        return -math.log(1 - number) if self.scale == "log_complement" else number

    def value(self, position: float) -> float:
        """Return the number at a position; the inverse of `position` for what has an order."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        at = low + position * (high - low)
        if self.scale == "log":
            return math.exp(at)
        return 1 - math.exp(-at) if self.scale == "log_complement" else at

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name} of {', '.join(map(str, self.choices))}"
        scale = "" if self.scale == "linear" else f" ({self.scale})"
        return f"{self.name} {self.shown(self.low)} to {self.shown(self.high)}{scale}"

    def rounded(self, number: float) -> float:
        """Return a number in two digits, as a person would set it as a bound."""
        if self.scale == "log_complement":
            return float(f"{1 - float(f'{1 - number:.1g}'):.6g}")
        short = float(f"{number:.2g}")
        return round(short) if isinstance(self.low, int) else short

    def shown(self, value: Value) -> str:
        """Return a value as people read it."""
        return f"{value:.3g}" if isinstance(value, float) else str(value)


def dimensions(trials: Sequence[FrozenTrial]) -> list[Dimension]:
    """Return the hyperparameters that varied, the earliest asked for first."""
    latest: dict[str, BaseDistribution] = {}
    for trial in trials:
        latest |= trial.distributions
    return [
        Dimension.of(name, drawn_from)
        for name, drawn_from in latest.items()
        if not drawn_from.single()
    ]


@dataclass(frozen=True)
class Outcome:
    """How many trials ended in which way, and the best."""

    n_finished: int
    n_pruned: int
    n_diverged: int
    n_infeasible: int
    n_failed: int
    n_epochs: int
    best: FrozenTrial | None

    @classmethod
    def of(cls, trials: list[FrozenTrial], direction: Direction) -> Outcome:
        """Count the trials of a study; one that was killed and tried again counts once."""
        ends = [TrialEnd.of(t) for t in trials]
        return cls(
            n_finished=ends.count(TrialEnd.FINISHED),
            n_pruned=ends.count(TrialEnd.PRUNED),
            n_diverged=ends.count(TrialEnd.DIVERGED),
            n_infeasible=ends.count(TrialEnd.INFEASIBLE),
            n_failed=sum(is_failure(t) for t in trials),
            n_epochs=sum(len(t.intermediate_values) for t in trials),
            best=best_trial(trials, direction),
        )

    def counts(self) -> str:
        """Return the counts in words."""
        parts = [f"{self.n_finished} finished", f"{self.n_pruned} pruned"]
        parts += [f"{self.n_diverged} diverged"] if self.n_diverged else []
        parts += [f"{self.n_infeasible} beyond a constraint"] if self.n_infeasible else []
        parts += [f"{self.n_failed} failed"] if self.n_failed else []
        return ", ".join(parts)


def numbers(trial: FrozenTrial) -> list[str]:
    """Return the values of a finished trial as people read them: weights are counted, all else is
    measured.
    """
    value, *costs = trial.values
    return [
        f"{value:.4f}",
        *(f"{cost:.0f}" if cost.is_integer() else f"{cost:.4f}" for cost in costs),
    ]


def best_rows(
    trials: list[FrozenTrial],
    space: Space,
    objectives: Sequence[str],
    direction: Direction,
    n_rows: int = 5,
) -> list[list[str]]:
    """Return the best trials as rows of a table, the first being the head."""
    rows = [(t, space.values(t)) for t in ranked(trials, direction)[:n_rows]]
    names = list(dict.fromkeys(name for _, values in rows for name in values))
    table = [["trial", *objectives, "epochs", *names]]
    for trial, values in rows:
        cells = [
            f"{values[n]:.4g}" if isinstance(values.get(n), float) else str(values.get(n, ""))
            for n in names
        ]
        table.append(
            [f"#{number_of(trial)}", *numbers(trial), str(len(trial.intermediate_values)), *cells]
        )
    return table


RUNNING = "running"
ENDS = ("finished", "pruned", "diverged", "infeasible", FAILED, RUNNING)
UNITS = {"loss": "nats", "accuracy": "share of images", "error": "share of images"}


@dataclass(frozen=True)
class Searched:
    """A study that is reported on.

    Attributes:
        name: The study's.
        study: It, with the pruner that it was searched with.
        space: Shows hyperparameters as people read them.
        monitor: The metric that was optimized.
        direction: Which of its values are better.
        config: The composed configuration of the search, as plain data.
        tracking_uri: Where its runs are.
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
        """All trials, those that were killed and tried again twice."""
        trials = self.study.get_trials(deepcopy=False)
        return [
            t
            for t in trials
            if t.state != TrialState.WAITING and TrialEnd.of(t) != TrialEnd.SURPLUS
        ]

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """All trials, each once, by the numbers that they are called by."""
        lasting = [t for t in self.tries if not is_retried(t)]
        return sorted(lasting, key=number_of)

    @cached_property
    def spent(self) -> list[FrozenTrial]:
        """Those that finished or were stopped."""
        return [t for t in self.trials if spends_budget(t)]

    @cached_property
    def ranked(self) -> list[FrozenTrial]:
        """Those that finished, the best first."""
        return ranked(self.trials, self.direction)

    @property
    def best(self) -> FrozenTrial | None:
        """The best one."""
        return self.ranked[0] if self.ranked else None

    @cached_property
    def outcome(self) -> Outcome:
        """How many ended in which way."""
        return Outcome.of(self.study.get_trials(deepcopy=False), self.direction)

    @cached_property
    def dimensions(self) -> list[Dimension]:
        """The hyperparameters that varied."""
        return dimensions(self.spent)

    @property
    def objectives(self) -> list[str]:
        """The metric, and a second objective where there is one."""
        second = self.config.get("costs", {}).get("second_objective")
        return [self.monitor, second] if second else [self.monitor]

    @property
    def label(self) -> str:
        """The metric with its unit."""
        unit = UNITS.get(self.monitor.rpartition("/")[2])
        return f"{self.monitor} ({unit})" if unit else self.monitor

    def signed(self, value: float | None) -> float:
        """Return a value such that less is better."""
        return self.direction.as_loss(value or 0.0)

    def values(self, trial: FrozenTrial) -> dict[str, Value]:
        """Return a trial's hyperparameters as people read them."""
        return self.space.values(trial)

    def title(self, trial: FrozenTrial) -> str:
        """Return what a trial is called: `#7 lr=0.0012 m=0.95 d=0.11`."""
        return str(TrialName(number_of(trial), self.values(trial)))

    def reached(self, trial: FrozenTrial) -> float | None:
        """Return a trial's value; of one that was stopped, its last."""
        if trial.state == TrialState.COMPLETE:
            return value_of(trial)
        return (
            trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
        )

    def positions(self, trials: Sequence[FrozenTrial]) -> NDArray[np.float64]:
        """Return where the trials lie on the dimensions, (N, D); NaN for what a trial did not draw."""
        values = [self.values(t) for t in trials]
        rows = [
            [d.position(v[d.name]) if d.name in v else np.nan for d in self.dimensions]
            for v in values
        ]
        return np.asarray(rows, np.float64).reshape(len(trials), len(self.dimensions))


def end_of(trial: FrozenTrial) -> str:
    """Return how a trial ended, in one of the words of ENDS."""
    end = TrialEnd.of(trial)
    if end is None:
        return RUNNING
    if end == TrialEnd.PAUSED:
        return TrialEnd.PRUNED.label
    return end.label
