"""A study as its reports see it: trials with their ends, names and scales as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from hpsearch.reports.dimensions import Dimension, dimensions
from hpsearch.reports.outcome import Outcome
from hpsearch.spaces.bounds import Value
from hpsearch.spaces.space import Space
from hpsearch.studies.budget import SPENT
from hpsearch.studies.sampling import RETRIED_REASONS, SURPLUS
from hpsearch.studies.study import number_of, ranked, value_of
from hpsearch.tracking.runs import TrialName

ENDS = ("finished", "pruned", "diverged", "infeasible", "failed", "running")
UNITS = {"loss": "nats", "accuracy": "share of images", "error": "share of images"}


@dataclass(frozen=True)
class Searched:
    """A study that is reported on.

    Attributes:
        name: The study's.
        study: It, with the pruner that it was searched with.
        space: Shows hyperparameters as people read them.
        monitor: The metric that was optimized.
        maximize: Whether more of it is better.
        config: The composed configuration of the search, as plain data.
        tracking_uri: Where its runs are.
    """

    name: str
    study: optuna.Study
    space: Space
    monitor: str
    maximize: bool
    config: Mapping[str, Any]
    tracking_uri: str

    @cached_property
    def tries(self) -> list[FrozenTrial]:
        """All trials, those that were killed and tried again twice."""
        trials = self.study.get_trials(deepcopy=False)
        return [t for t in trials if t.state != TrialState.WAITING and t.user_attrs.get("reason") != SURPLUS]

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """All trials, each once, by the numbers that they are called by."""
        lasting = [t for t in self.tries if t.user_attrs.get("reason") not in RETRIED_REASONS]
        return sorted(lasting, key=number_of)

    @cached_property
    def spent(self) -> list[FrozenTrial]:
        """Those that finished or were stopped."""
        return [t for t in self.trials if t.state in SPENT]

    @cached_property
    def ranked(self) -> list[FrozenTrial]:
        """Those that finished, the best first."""
        return ranked(self.trials, self.maximize)

    @property
    def best(self) -> FrozenTrial | None:
        """The best one."""
        return self.ranked[0] if self.ranked else None

    @cached_property
    def outcome(self) -> Outcome:
        """How many ended in which way."""
        return Outcome.of(self.study.get_trials(deepcopy=False), self.maximize)

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
        return (-1 if self.maximize else 1) * (value or 0.0)

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
        return trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None

    def positions(self, trials: Sequence[FrozenTrial]) -> NDArray[np.float64]:
        """Return where the trials lie on the dimensions, (N, D); NaN for what a trial did not draw."""
        values = [self.values(t) for t in trials]
        rows = [[d.position(v[d.name]) if d.name in v else np.nan for d in self.dimensions] for v in values]
        return np.asarray(rows, np.float64).reshape(len(trials), len(self.dimensions))


def end_of(trial: FrozenTrial) -> str:
    """Return how a trial ended, in one of the words of ENDS."""
    if trial.state == TrialState.PRUNED:
        reason = str(trial.user_attrs.get("reason"))
        return reason if reason in ENDS else "pruned"
    return {TrialState.COMPLETE: "finished", TrialState.RUNNING: "running"}.get(trial.state, "failed")
