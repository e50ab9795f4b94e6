"""Promotion: a trial that stops at a rung is paused, and goes on when it turns out to be among the
best there.

Asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter
Tuning") with trials that go on where they stopped. Optuna can only stop a trial; a paused one is
here a trial that waits in the storage, which one worker alone can take, and which samplers, budget
and reports see as a pruned one until then.
"""

from __future__ import annotations

import copy
from collections.abc import Container

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import ConfigError
from hpsearch.study.direction import Direction
from hpsearch.study.trial_end import PAUSED_AT, is_paused


def check_rungs(min_resource: int, reduction_factor: int) -> None:
    """Raise ConfigError where a pruner could not make rungs of these."""
    for name, value, least in (
        ("min_resource", min_resource, 1),
        ("reduction_factor", reduction_factor, 2),
    ):
        if value < least:
            raise ConfigError(f"pruner.{name} must be at least {least}, but is {value}.")


class Promoting(BasePruner):
    """Stops a trial at a rung unless it is among the best there, and names the paused trials that
    are by now.

    Args:
        min_resource: The first rung, in epochs.
        max_resource: The most epochs that a trial takes.
        reduction_factor: One in so many trials of a rung is promoted to the next, which lies so
            many times higher.
    """

    def __init__(self, min_resource: int, max_resource: int, reduction_factor: int) -> None:
        check_rungs(min_resource, reduction_factor)
        self.reduction_factor = reduction_factor
        self.rungs = [min_resource]
        while (
            self.rungs[-1] * reduction_factor**2 <= max_resource
        ):  # the last one leaves a whole step to the end
            self.rungs.append(self.rungs[-1] * reduction_factor)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether `trial` stands at a rung and is not among the best there."""
        if trial.last_step not in self.rungs:
            return False
        trials = study.get_trials(deepcopy=False)
        return trial.number not in self._best(
            study, trials, trial.last_step, self._n_promoted(trials, trial.last_step)
        )

    def promotable(
        self, study: optuna.Study, trials: list[FrozenTrial], *, closing: bool
    ) -> list[FrozenTrial]:
        """Return the paused trials that may go on, those of the highest rung first, the best of a
        rung first.

        Args:
            study: Whose trials.
            trials: They, as the storage has them.
            closing: Whether no new trial will come. Then one may go on however few have reached its
                rung, unless another trial has finished or is running.
        """
        paused = {t.number: t for t in trials if is_paused(t)}
        found: list[int] = []
        for rung in reversed(self.rungs):
            best = self._best(study, trials, rung, self._n_promoted(trials, rung))
            found += [
                number for number in best if number in paused and paused[number].last_step == rung
            ]
        if (
            not found
            and closing
            and not any(t.state in (TrialState.COMPLETE, TrialState.RUNNING) for t in trials)
        ):
            highest = max((t.last_step or 0 for t in paused.values()), default=0)
            found = [
                n
                for n in self._best(study, list(paused.values()), highest, len(paused))
                if n in paused
            ][:1]
        return [paused[number] for number in found]

    def _n_promoted(self, trials: list[FrozenTrial], rung: int) -> int:
        return len(_reached(trials, rung)) // self.reduction_factor

    def _best(
        self, study: optuna.Study, trials: list[FrozenTrial], rung: int, n_best: int
    ) -> list[int]:
        """Return the numbers of the best trials of a rung, by the best value that each had reached
        there.
        """
        direction = Direction.of(study)
        values = {
            t.number: min(
                direction.as_loss(value)
                for step, value in t.intermediate_values.items()
                if step <= rung
            )
            for t in _reached(trials, rung)
        }
        return sorted(values, key=lambda number: (values[number], number))[:n_best]


def _reached(trials: list[FrozenTrial], rung: int) -> list[FrozenTrial]:
    """A trial that failed counts where it was tried again, not twice."""
    return [t for t in trials if t.state != TrialState.FAIL and rung in t.intermediate_values]


class PausableStudy(optuna.Study):
    """An Optuna study whose trials can be paused; everyone but `ask` sees a paused one as pruned."""

    closing = False

    def pause(self, trial: optuna.Trial) -> None:
        """Let a running trial wait until it is promoted."""
        trial.set_user_attr(PAUSED_AT, trial._cached_frozen_trial.last_step)
        self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def promotable(self) -> list[FrozenTrial]:
        """Return the paused trials that may go on; all of them where the pruner does not pause."""
        return self._promotable(self._storage.get_all_trials(self._study_id, deepcopy=False))

    def _promotable(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        if isinstance(self.pruner, Promoting):
            return self.pruner.promotable(self, trials, closing=self.closing)
        return [t for t in trials if is_paused(t)]

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = [as_seen(t) for t in super()._get_trials(deepcopy=deepcopy, use_cache=use_cache)]
        return [t for t in trials if states is None or t.state in states]

    def _pop_waiting_trial_id(self) -> int | None:
        """As Optuna's, which takes any trial that waits: here a paused one only when it is
        promoted.
        """
        trials = self._storage.get_all_trials(
            self._study_id, deepcopy=False
        )  # once: it costs more than all else
        waiting = [t for t in trials if t.state == TrialState.WAITING and not is_paused(t)]
        for trial in [*waiting, *self._promotable(trials)]:
            try:
                if self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    return int(trial._trial_id)
            except UpdateFinishedTrialError:
                continue
        return None


def as_seen(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial as everyone but `ask` sees it: a paused one is pruned."""
    if not is_paused(trial):
        return trial
    seen = copy.copy(trial)
    seen.state = TrialState.PRUNED
    return seen
