"""What a worker tells the study of a trial that it has claimed: values, a pause, an end."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import TakenOverError
from hpsearch.studies.history import as_ranges
from hpsearch.studies.leases import LEASE, WORKER, Worker
from hpsearch.studies.patience import unless_away
from hpsearch.studies.promotion import PausableStudy, Promoting, is_paused
from hpsearch.studies.sampling import TICKET
from hpsearch.studies.storage import SharedStorage

PROMOTED = "promoted"


class Unsent:
    """The values that wait for the storage, of each trial its own: slots report from threads of their own."""

    def __init__(self) -> None:
        self._values: dict[int, dict[int, float]] = {}
        self._lock = threading.Lock()

    def add(self, trial: optuna.Trial, epoch: int, value: float) -> None:
        """Let an epoch's value wait behind those of its trial that do already."""
        with self._lock:
            self._values.setdefault(trial._trial_id, {})[epoch] = value

    def of(self, trial: optuna.Trial) -> list[tuple[int, float]]:
        """Return the epochs and values of a trial that wait, in order."""
        with self._lock:
            return list(self._values.get(trial._trial_id, {}).items())

    def sent(self, trial: optuna.Trial, epoch: int) -> None:
        """An epoch's value has arrived."""
        with self._lock:
            self._values.get(trial._trial_id, {}).pop(epoch, None)

    def drop(self, trial: optuna.Trial | FrozenTrial) -> None:
        """Forget a trial."""
        with self._lock:
            self._values.pop(trial._trial_id, None)


class Telling:
    """Tells a study, which may be away for a while: values wait for it, ends are waited for."""

    def __init__(self, study: PausableStudy, storage: SharedStorage) -> None:
        self.optuna, self.storage = study, storage
        self.worker = Worker.this()
        self._unsent = Unsent()

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, as they stand in the storage now."""
        return self.optuna.get_trials(deepcopy=False)

    def is_running(self) -> bool:
        """Return whether a worker runs a trial of the study."""
        return any(t.state == TrialState.RUNNING for t in self.trials())

    def report(self, trial: optuna.Trial, value: float, epoch: int) -> None:
        """Report an epoch's value, unless that was done before the trial was paused.

        Where the storage is away, the value waits for the next call and the trial goes on.

        Raises:
            TakenOverError: Another worker has ended the trial, taking this one for dead.
        """
        self._unsent.add(trial, epoch, value)
        unless_away(lambda: self._send(trial))

    def should_stop(self, trial: optuna.Trial, epoch: int) -> bool:
        """Return whether the pruner stops a trial at an epoch; it was let go on at those before it was promoted.

        Raises:
            TakenOverError: As for `report`.
        """
        if self.has_cost or epoch <= trial.user_attrs.get(PROMOTED, 0):
            return False
        try:
            return bool(unless_away(trial.should_prune))
        except optuna.exceptions.UpdateFinishedTrialError as error:  # pruners write down what they have seen
            raise taken_over(trial) from error

    def _send(self, trial: optuna.Trial) -> None:
        try:
            for epoch, value in self._unsent.of(trial):
                if epoch not in trial._cached_frozen_trial.intermediate_values:
                    self._report(trial, value, epoch)
                self._unsent.sent(trial, epoch)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            self.let_go(trial)
            raise taken_over(trial) from error

    def let_go(self, trial: optuna.Trial | FrozenTrial) -> None:
        """Drop the values of a trial that wait; those of other trials, in other slots, stay."""
        self._unsent.drop(trial)

    def _report(self, trial: optuna.Trial, value: float, epoch: int) -> None:
        if self.has_cost:  # Optuna has no pruner for two objectives, and so refuses; people want the curves
            self.optuna._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
        else:
            trial.report(value, epoch)

    @property
    def has_cost(self) -> bool:
        """Whether the study has a second objective."""
        return len(self.optuna.directions) > 1

    @property
    def pauses(self) -> bool:
        """Whether a trial that the pruner stops is paused, not ended."""
        return isinstance(self.optuna.pruner, Promoting)

    def pause(self, trial: optuna.Trial) -> None:
        """Let a trial wait until it is promoted; `claim` then returns it again."""
        self._send(trial)
        # Without a worker or a lease, or it would look dead to the others when it is taken up again.
        self.write(trial, {WORKER: "", LEASE: None})
        self.optuna.pause(trial)
        self.let_go(trial)

    def end_paused(self) -> list[FrozenTrial]:
        """End the trials that are still paused, unless one that runs may yet promote them, and return them."""
        if self.is_running():
            return []
        trials = self.optuna._storage.get_all_trials(self.optuna._study_id, deepcopy=False)
        paused = [t for t in trials if is_paused(t)]
        for trial in paused:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker was first
                self.write(trial, {"reason": "pruned"})
                self.optuna._storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED)
        return paused

    def constrain(self, trial: optuna.Trial, excess: Mapping[str, float]) -> None:
        """Tell samplers how far a trial is beyond each constraint; 0 or less is within it."""
        for name in excess.keys() - trial.constraints.keys():
            trial.set_constraint(name, excess[name])

    def complete(self, trial: optuna.Trial, *values: float) -> None:
        """End a trial with the value of each objective."""
        self._tell(trial, TrialState.COMPLETE, {}, values)

    def prune(self, trial: optuna.Trial, reason: str, message: str = "") -> None:
        """End a trial that is not worth going on with; samplers learn from it."""
        if self.has_cost:  # Optuna's TPE ranks infeasible trials with two objectives, but no pruned ones
            self.constrain(trial, {reason: 1.0})
        step = self.optuna._storage.get_trial(trial._trial_id).last_step
        others = (t.number for t in self.trials() if t.number != trial.number and step in t.intermediate_values)
        self._tell(trial, TrialState.PRUNED, {"reason": reason, "message": message, "against": as_ranges(others)})

    def _tell(
        self, trial: optuna.Trial, state: TrialState, attrs: dict[str, Any], values: Sequence[float] | None = None
    ) -> None:
        try:
            self._send(trial)
            self.write(trial, attrs)
            self.optuna.tell(trial, values, state=state)
            self.let_go(trial)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError) as error:
            # A call that was repeated because its answer was lost finds that it has succeeded.
            ended = self.optuna._storage.get_trial(trial._trial_id)
            if not ended.state.is_finished():
                raise
            self.let_go(trial)
            if (ended.state, ended.user_attrs.get(WORKER)) != (state, str(self.worker)):
                raise taken_over(trial) from error

    def write(self, trial: optuna.Trial | FrozenTrial, attrs: Mapping[str, Any]) -> None:
        """Set attributes of a trial, all or none."""
        if attrs:
            self.storage.set_trial_user_attrs(trial._trial_id, attrs)
        if isinstance(trial, optuna.Trial):
            trial._cached_frozen_trial.user_attrs.update(attrs)  # which Optuna reads instead of the storage


def taken_over(trial: optuna.Trial) -> TakenOverError:
    """Return the error of a trial that is another worker's now."""
    number = trial.user_attrs.get(TICKET, trial.number)
    return TakenOverError(f"another worker took trial {number} over, since nothing was heard of this one")
