"""How a trial ends: one table with what each end means in Optuna, in MLflow and for the budget.

A trial's end is recorded with the trial, in the attribute `RECORDED`. A trial that Optuna lists as
running or waiting has not ended, unless it is paused.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from enum import Enum

from optuna.trial import FrozenTrial, TrialState

RECORDED = "reason"  # the user attribute that holds the word of a trial's end
PAUSED_AT = "paused"  # the user attribute that holds the epoch at which a trial was paused


@dataclass(eq=False)
class _Columns:
    """The columns of the table.

    Attributes:
        word: The end as it is recorded in the study and in MLflow's tag `hpsearch.end`.
        state: The state of the trial in Optuna.
        mlflow_status: The status of the trial's run in MLflow; None for a trial that has no run.
        spends_budget: Whether the trial counts toward `budget.n_trials`.
        is_failure: Whether the trial counts toward `budget.max_failures`.
        is_retried: Whether the trial is tried again under a new Optuna number, since only its
            process was at fault. A paused trial goes on under its own number.
    """

    word: str
    state: TrialState
    mlflow_status: str | None
    spends_budget: bool
    is_failure: bool
    is_retried: bool


class TrialEnd(_Columns, Enum):
    """How a trial ended."""

    FINISHED = ("finished", TrialState.COMPLETE, "FINISHED", True, False, False)
    PRUNED = ("pruned", TrialState.PRUNED, "FINISHED", True, False, False)
    INFEASIBLE = ("infeasible", TrialState.PRUNED, "FINISHED", True, False, False)
    DIVERGED = ("diverged", TrialState.PRUNED, "FAILED", True, False, False)
    PAUSED = ("paused", TrialState.WAITING, "SCHEDULED", True, False, False)
    ERROR = ("error", TrialState.FAIL, "FAILED", False, True, False)
    OUT_OF_MEMORY = ("out_of_memory", TrialState.FAIL, "FAILED", False, True, False)
    TIMED_OUT = ("timed_out", TrialState.FAIL, "FAILED", False, True, False)
    KILLED = ("killed", TrialState.FAIL, "KILLED", False, False, True)
    PREEMPTED = ("preempted", TrialState.FAIL, "KILLED", False, False, True)
    INTERRUPTED = ("interrupted", TrialState.FAIL, "KILLED", False, False, True)
    SURPLUS = ("surplus", TrialState.FAIL, None, False, False, False)

    @property
    def label(self) -> str:
        """The end as reports show it: every end without a result is `failed`."""
        if self.state == TrialState.FAIL:
            return "failed"
        return self.word

    @classmethod
    def recorded(cls, trial: FrozenTrial) -> TrialEnd | None:
        """Return the end that is recorded with a trial in any state; None if there is none.

        The attribute is written before the state changes.
        """
        word = trial.user_attrs.get(RECORDED)
        for end in cls:
            if end.word == word:
                return end
        return None

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialEnd | None:
        """Return the end of a trial; None for a trial that runs, or waits to be started."""
        if cls.is_paused(trial) or cls.is_seen_paused(trial):
            return cls.PAUSED
        if trial.state == TrialState.COMPLETE:
            return cls.FINISHED
        if not trial.state.is_finished():
            return None
        recorded = cls.recorded(trial)
        if recorded is not None and recorded.state == trial.state:
            return recorded
        if trial.state == TrialState.PRUNED:
            return cls.PRUNED
        return cls.ERROR

    @staticmethod
    def is_paused(trial: FrozenTrial) -> bool:
        """Return whether a trial waits with a checkpoint until it is promoted."""
        return trial.state == TrialState.WAITING and PAUSED_AT in trial.user_attrs

    @classmethod
    def as_seen(cls, trial: FrozenTrial) -> FrozenTrial:
        """Return a trial as everything but `PausableStudy.ask` sees it: a paused one is pruned."""
        if not cls.is_paused(trial):
            return trial
        seen = copy.copy(trial)
        seen.state = TrialState.PRUNED
        return seen

    @staticmethod
    def is_seen_paused(trial: FrozenTrial) -> bool:
        """Return whether a trial is a paused one as `as_seen` shows it: pruned, without an end."""
        return trial.state == TrialState.PRUNED and trial.datetime_complete is None

    @classmethod
    def has_spent(cls, trial: FrozenTrial) -> bool:
        """Return whether a trial has ended in a way that counts toward `budget.n_trials`."""
        end = cls.of(trial)
        return end is not None and end.spends_budget

    @classmethod
    def has_failed(cls, trial: FrozenTrial) -> bool:
        """Return whether a trial has ended in a way that counts toward `budget.max_failures`."""
        end = cls.of(trial)
        return end is not None and end.is_failure

    @classmethod
    def has_retry(cls, trial: FrozenTrial) -> bool:
        """Return whether a trial has ended in a way after which it is tried again."""
        end = cls.of(trial)
        return end is not None and end.is_retried
