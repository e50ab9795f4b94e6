"""The shared study: open it, claim trials within the budget, end them, and take over those of dead workers.

Trial numbers are tickets. A worker asks for one, and whether it may use it follows from the states of the trials before
it, so workers need nothing in common but the storage. What Optuna does not know stands in the trial's user attributes:

    worker     host, process id and start time of the process that runs it
    lease      until when (Unix time) the trial counts as alive without a word from its worker
    reason     why it did not complete: pruned, diverged, killed, interrupted, out_of_memory, error, surplus
    ticket     what it is called and seeded by: its number, had no trial before it been tried again
    retry_of   Optuna's number of the first try, where it is one that was killed and is tried again
    run_id     its MLflow run, the same for all its tries
    paused     the epoch at which it was paused; it is paused now if its state is WAITING
    promoted   the epoch up to which it was let go on when it was promoted, which no pruner decides again
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import optuna
import psutil
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.errors import SearchError
from hpsearch.promotion import PAUSED, PausableStudy, Promoting, is_paused
from hpsearch.sampling import RETRIED_REASONS, TICKET, SeededSampler, ticket
from hpsearch.storage import storage_errors

SPENT = (TrialState.COMPLETE, TrialState.PRUNED)
PROMOTED = "promoted"
FAILED_REASONS = ("error", "out_of_memory")


@dataclass(frozen=True)
class Budget:
    """What a study may cost: finished or pruned trials, seconds of one worker, failures, retries of a killed trial."""

    n_trials: int
    timeout_s: float | None
    max_failures: int
    max_retries: int
    lease_s: float


class SharedStudy:
    """A study that many workers share through its storage."""

    def __init__(self, study: PausableStudy, sampler: SeededSampler, budget: Budget) -> None:
        self.optuna, self.sampler, self.budget = study, sampler, budget
        self.worker = _this_worker()

    @classmethod
    def open(
        cls,
        name: str,
        *,
        storage: optuna.storages.BaseStorage,
        sampler: SeededSampler,
        pruner: optuna.pruners.BasePruner,
        maximize: bool,
        budget: Budget,
    ) -> SharedStudy:
        """Open the study `name` in `storage`, or create it."""
        with storage_errors(f"of study {name}"):
            direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
            optuna.create_study(study_name=name, storage=storage, direction=direction, load_if_exists=True)
            study = PausableStudy(name, storage, sampler, pruner)
        return cls(study, sampler, budget)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, as they stand in the storage now."""
        return self.optuna.get_trials(deepcopy=False)

    def n_spent(self) -> int:
        """Return how many trials are finished or pruned."""
        return sum(t.state in SPENT for t in self.trials())

    def claim(self) -> optuna.Trial | None:
        """Return a trial to run, or None where the budget is spent or other workers hold what is left.

        Raises:
            SearchError: More than `max_failures` trials have failed.
        """
        self.release_dead()
        trials = self.trials()
        failed = [t for t in trials if t.state == TrialState.FAIL and t.user_attrs.get("reason") in FAILED_REASONS]
        if len(failed) > self.budget.max_failures:
            raise SearchError(
                f"{len(failed)} trials failed, more than budget.max_failures={self.budget.max_failures}; "
                f"the last one: {failed[-1].user_attrs.get('message')}"
            )
        self.optuna.closing = _n_held(trials) >= self.budget.n_trials or self.sampler.is_exhausted(self.optuna)
        if self.optuna.closing and not self.optuna.promotable():
            return None
        trial = self.optuna.ask()
        stored = self.optuna._storage.get_trial(trial._trial_id)  # `trial` itself has not seen what its sampler wrote
        trial.set_user_attr(TICKET, ticket(self.optuna, stored))
        trial.set_user_attr("worker", self.worker)
        trial.set_user_attr("lease", time.time() + self.budget.lease_s)
        if PAUSED in trial.user_attrs:  # it has its place in the budget
            trial.set_user_attr(PROMOTED, trial.user_attrs[PAUSED])
            return trial
        before = [t for t in self.trials() if t.number < trial.number]
        if _n_held(before) >= self.budget.n_trials or _is_doubled(trial, before):
            self.fail(trial, "surplus", "another worker had claimed the last trial of the budget")
            return None
        return trial

    @contextmanager
    def lease(self, trial: optuna.Trial) -> Iterator[None]:
        """Keep the trial's lease renewed, by a thread of its own, while the block runs."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self.budget.lease_s / 3):
                # A storage that is away for a moment, or a trial that has just ended, is no reason to stop training.
                with suppress(SQLAlchemyError, optuna.exceptions.OptunaError, OSError):
                    trial.set_user_attr("lease", time.time() + self.budget.lease_s)

        thread = threading.Thread(target=renew, name=f"lease-{trial.number}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @property
    def pauses(self) -> bool:
        """Whether a trial that the pruner stops is paused, not ended."""
        return isinstance(self.optuna.pruner, Promoting)

    def pause(self, trial: optuna.Trial) -> None:
        """Let a trial wait until it is promoted; `claim` then returns it again."""
        trial.set_user_attr("worker", "")
        trial.set_user_attr("lease", None)  # or it would look dead to the others when it is taken up again
        self.optuna.pause(trial)

    def end_paused(self) -> list[FrozenTrial]:
        """End the trials that are still paused, unless one that runs may yet promote them, and return them."""
        if self.is_running():
            return []
        trials = self.optuna._storage.get_all_trials(self.optuna._study_id, deepcopy=False)
        paused = [t for t in trials if is_paused(t)]
        for trial in paused:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker was first
                self.optuna._storage.set_trial_user_attr(trial._trial_id, "reason", "pruned")
                self.optuna._storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED)
        return paused

    def is_running(self) -> bool:
        """Return whether a worker runs a trial of the study."""
        return any(t.state == TrialState.RUNNING for t in self.trials())

    def report(self, trial: optuna.Trial, value: float, epoch: int) -> None:
        """Report an epoch's value, unless that was done before the trial was paused."""
        if epoch not in trial._cached_frozen_trial.intermediate_values:
            trial.report(value, epoch)

    def should_stop(self, trial: optuna.Trial, epoch: int) -> bool:
        """Return whether the pruner stops a trial at an epoch; it was let go on at those before it was promoted."""
        return epoch > trial.user_attrs.get(PROMOTED, 0) and trial.should_prune()

    def complete(self, trial: optuna.Trial, value: float) -> None:
        """End a trial with its value."""
        self.optuna.tell(trial, value)

    def prune(self, trial: optuna.Trial, reason: str) -> None:
        """End a trial that is not worth going on with; samplers learn from it."""
        trial.set_user_attr("reason", reason)
        self.optuna.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: optuna.Trial | FrozenTrial, reason: str, message: str) -> None:
        """End a trial without a value; where only its process was at fault, it will be tried again."""
        storage, trial_id = self.optuna._storage, trial._trial_id
        try:
            storage.set_trial_user_attr(trial_id, "reason", reason)
            storage.set_trial_user_attr(trial_id, "message", message)
            storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            return  # another worker was first to see it
        if reason in RETRIED_REASONS:
            self._retry(storage.get_trial(trial_id))

    def release_dead(self) -> list[FrozenTrial]:
        """Fail the running trials whose worker is dead, so that they are tried again, and return them."""
        dead = [t for t in self.trials() if t.state == TrialState.RUNNING and self._is_dead(t)]
        for trial in dead:
            self.fail(trial, "killed", f"its worker {trial.user_attrs.get('worker', '(unknown)')} died")
        return dead

    def _is_dead(self, trial: FrozenTrial) -> bool:
        host, _, process = trial.user_attrs.get("worker", "::").partition(":")
        if host == socket.gethostname() and not _is_alive(process):
            return True
        start = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return time.time() > float(trial.user_attrs.get("lease") or start + self.budget.lease_s)

    def _retry(self, trial: FrozenTrial) -> None:
        first = trial.user_attrs.get("retry_of", trial.number)
        n_tries = 1 + sum(t.user_attrs.get("retry_of") == first for t in self.trials())
        if n_tries <= self.budget.max_retries:
            kept = {key: trial.user_attrs[key] for key in ("run_id", TICKET, PROMOTED) if key in trial.user_attrs}
            self.optuna.enqueue_trial(trial.params, user_attrs={**kept, "retry_of": first, "retry_after": trial.number})


def number_of(trial: optuna.Trial | FrozenTrial) -> int:
    """Return the number that a trial is called and seeded by: a retry has that of its first try."""
    return int(trial.user_attrs.get(TICKET, trial.number))


def _n_held(trials: list[FrozenTrial]) -> int:
    return sum(t.state in (*SPENT, TrialState.RUNNING) for t in trials)


def _is_doubled(trial: optuna.Trial, before: list[FrozenTrial]) -> bool:
    """Two workers may both have released one dead trial; the earlier retry counts."""
    of = trial.user_attrs.get("retry_after")
    return of is not None and any(t.user_attrs.get("retry_after") == of for t in before)


def _this_worker() -> str:
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def _is_alive(process: str) -> bool:
    pid, _, started = process.partition(":")
    try:
        found = psutil.Process(int(pid))
        return f"{found.create_time():.2f}" == started and found.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return False


def best_trial(trials: list[FrozenTrial], maximize: bool) -> FrozenTrial | None:
    """Return the completed trial with the best value, the earliest of equals."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    sign: Any = -1 if maximize else 1
    return min(complete, key=lambda t: (sign * t.value, t.number), default=None)
