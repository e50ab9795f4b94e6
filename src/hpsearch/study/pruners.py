"""Pruners: Hyperband, which stops trials for good, and Promoting, which pauses and promotes them.

`PausableStudy` is the Optuna study of every pruner. Only under Promoting are its trials paused.

Promoting is asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel
Hyperparameter Tuning") with trials that go on where they stopped. Optuna can only stop a trial, so
a paused trial is here one that waits in the storage, from which exactly one worker can take it.
Samplers, budget and reports see it as a pruned trial until then.
"""

from __future__ import annotations

from collections.abc import Container
from types import SimpleNamespace
from typing import Any

from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.trial import FrozenTrial, Trial, TrialState

from hpsearch.errors import ConfigError
from hpsearch.study.direction import Direction
from hpsearch.study.sampling import TICKET, ticket
from hpsearch.study.trial_end import PAUSED_AT, TrialEnd


def _check_rungs(min_resource: int, reduction_factor: int) -> None:
    """Raise ConfigError if a pruner cannot make rungs of these settings."""
    settings = (
        ("min_resource", min_resource, 1),
        ("reduction_factor", reduction_factor, 2),
    )
    for name, value, least in settings:
        if value < least:
            raise ConfigError(f"pruner.{name} must be at least {least}, but is {value}.")


class Hyperband(HyperbandPruner):
    """Optuna's Hyperband, in which a killed trial and its retry count once, in the same bracket.

    The ticket of a trial determines its bracket.

    Args:
        min_resource: The first rung, in epochs, at least 1.
        max_resource: The largest number of epochs of a trial.
        reduction_factor: One of this many trials of a rung goes on to the next; at least 2.
    """

    def __init__(
        self,
        min_resource: int,
        max_resource: int,
        reduction_factor: int,
    ) -> None:
        _check_rungs(min_resource, reduction_factor)
        super().__init__(min_resource, max_resource, reduction_factor)
        # The brackets are made now. Two slots may reach their first epoch at the same time.
        study: Any = None  # Optuna reads the study only to guess `max_resource`
        self._try_initialization(study)

    def _get_bracket_id(self, study: Study, trial: FrozenTrial) -> int:
        if TrialEnd.has_retry(trial):
            return -1  # in no bracket
        number = trial.user_attrs.get(TICKET)
        if number is None:
            trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
            number = ticket(trial, trials)
        # Hyperband reads nothing but the number. In a study of thousands of trials, copies of them
        # would take longer than all its other work.
        numbered: Any = SimpleNamespace(number=number)
        return super()._get_bracket_id(study, numbered)


class Promoting(BasePruner):
    """Stop a trial at a rung unless it is among the best there, and choose the trials to promote.

    Args:
        min_resource: The first rung, in epochs, at least 1.
        max_resource: The largest number of epochs of a trial.
        reduction_factor: One of this many trials of a rung is promoted to the next rung, which is
            this many times higher; at least 2.
    """

    def __init__(
        self,
        min_resource: int,
        max_resource: int,
        reduction_factor: int,
    ) -> None:
        _check_rungs(min_resource, reduction_factor)
        self.reduction_factor = reduction_factor
        self.rungs = [min_resource]
        # From the last rung to the end there is at least one whole step.
        while self.rungs[-1] * reduction_factor**2 <= max_resource:
            self.rungs.append(self.rungs[-1] * reduction_factor)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether a trial is at a rung and is not among the best there."""
        rung = trial.last_step
        if rung not in self.rungs:
            return False
        trials = study.get_trials(deepcopy=False)
        return trial.number not in self._promoted(study, trials, rung)

    def promotable(
        self,
        study: PausableStudy,
        trials: list[FrozenTrial],
    ) -> list[FrozenTrial]:
        """Return the paused trials that may go on: the highest rung first, then the best first.

        If no new trial will come, one trial may go on although too few have reached its rung.

        Args:
            study: The study of the trials.
            trials: All trials as the storage has them.
        """
        waiting = filter(TrialEnd.is_paused, trials)
        paused = {t.number: t for t in waiting}
        found = []
        for rung in reversed(self.rungs):
            for number in self._promoted(study, trials, rung):
                trial = paused.get(number)
                if trial is not None and trial.last_step == rung:
                    found.append(trial)
        if study.closing and not found:
            return self._best_of_highest_rung(study, trials)
        return found

    @staticmethod
    def _best_of_highest_rung(study: Study, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return the best paused trial of the highest rung that a paused trial has reached.

        The list is empty if a trial has finished or is running, or if no trial is paused.
        """
        states = {t.state for t in trials}
        if TrialState.COMPLETE in states or TrialState.RUNNING in states:
            return []
        paused = [t for t in trials if TrialEnd.is_paused(t)]
        steps = [t.last_step or 0 for t in paused]
        highest = max(steps, default=0)
        best = _in_order(study, paused, highest)[:1]
        return [t for t in paused if t.number in best]

    def _promoted(
        self,
        study: Study,
        trials: list[FrozenTrial],
        rung: int,
    ) -> list[int]:
        """Return the numbers of the trials of a rung that are promoted, the best first."""
        in_order = _in_order(study, trials, rung)
        n_promoted = len(in_order) // self.reduction_factor
        return in_order[:n_promoted]


def _in_order(
    study: Study,
    trials: list[FrozenTrial],
    rung: int,
) -> list[int]:
    """Return the numbers of the trials that have reached a rung, the best first.

    Trials are compared by the best value that each had reached at the rung. A failed trial is left
    out; if it is tried again, its retry counts.
    """
    direction = Direction.of(study)
    losses = []
    for trial in trials:
        reported = trial.intermediate_values
        if trial.state == TrialState.FAIL or rung not in reported:
            continue
        values = [value for step, value in reported.items() if step <= rung]
        best = min(map(direction.as_loss, values))
        losses.append((best, trial.number))
    losses.sort()
    return [number for _, number in losses]


class PausableStudy(Study):
    """An Optuna study whose trials can be paused, whichever its pruner is.

    Only `ask` sees a paused trial as waiting. Everything else sees it as pruned.
    """

    closing = False  # whether no new trial will come

    def pause(self, trial: Trial) -> None:
        """Let a running trial wait until it is promoted."""
        trial.set_user_attr(PAUSED_AT, trial._cached_frozen_trial.last_step)
        self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def stored_trials(self) -> list[FrozenTrial]:
        """Return all trials as the storage has them: a paused trial waits, and is not pruned."""
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def promotable(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return the paused trials that may go on: all of them if the pruner does not pause.

        Args:
            trials: All trials as `stored_trials` returns them.
        """
        if isinstance(self.pruner, Promoting):
            return self.pruner.promotable(self, trials)
        return [t for t in trials if TrialEnd.is_paused(t)]

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        stored = super()._get_trials(deepcopy=deepcopy, use_cache=use_cache)
        trials = list(map(TrialEnd.as_seen, stored))
        if states is None:
            return trials
        return [t for t in trials if t.state in states]

    def _pop_waiting_trial_id(self) -> int | None:
        """Take a waiting trial, and return its key.

        Optuna's method takes any trial that waits; this one takes a paused trial only if it is
        promoted.
        """
        # The trials are read once only, since that costs more than all the rest.
        trials = self.stored_trials()
        waiting = [t for t in trials if t.state == TrialState.WAITING]
        ready = [t for t in waiting if not TrialEnd.is_paused(t)]
        for trial in ready + self.promotable(trials):
            key = trial._trial_id
            try:
                if self._storage.set_trial_state_values(key, TrialState.RUNNING):
                    return key
            except UpdateFinishedTrialError:
                continue
        return None
