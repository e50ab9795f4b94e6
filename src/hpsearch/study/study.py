"""What a worker tells the study of a trial that it has claimed: values, a pause, an end.

The shared study: open it, claim trials within the budget, end them, and take over those of dead
workers.

Trial numbers are tickets. A worker asks for one, and whether it may use it follows from the states
of the trials before it, so workers need nothing in common but the storage. What Optuna does not
know stands in the trial's user attributes:

    worker      the process that runs it
    lease       until when (Unix time) the trial counts as alive without a word from its worker
    job         the SLURM job that the worker is, if it is one
    reason      why it did not complete: pruned, diverged, infeasible, killed, preempted,
    interrupted, out_of_memory,
                timed_out, error, surplus
    message     the same, for people
    history     what its suggestions were based on; see history.py
    ticket      what it is called and seeded by: its number, had no trial before it been tried again
    retry_of    Optuna's number of the first try, where it is one that was killed and is tried again
    retry_after the same of the try before
    against     the trials that it was compared with when it was pruned
    paused      the epoch at which it waits to be promoted
    promoted    the epoch until which it was promoted
    warm_start  the trial of another study that it has its values from
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import ConfigError, TakenOverError, did_you_mean
from hpsearch.study.budget import Budget, n_tickets
from hpsearch.study.direction import Direction
from hpsearch.study.history import as_ranges
from hpsearch.study.leases import LEASE, WORKER, Lease, Worker, is_dead
from hpsearch.study.promotion import PausableStudy, Promoting
from hpsearch.study.retry import unless_away
from hpsearch.study.sampling import TICKET, SeededSampler, ticket
from hpsearch.study.storage import SharedStorage, storage_errors
from hpsearch.study.trial_end import PAUSED_AT, RECORDED, TrialEnd, is_paused, spends_budget
from hpsearch.study.worker_process import job_id

PROMOTED = "promoted"


class Unsent:
    """The values that wait for the storage, of each trial its own: slots report from threads of
    their own.
    """

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
        """Return whether the pruner stops a trial at an epoch; it was let go on at those before it
        was promoted.

        Raises:
            TakenOverError: As for `report`.
        """
        if self.has_cost or epoch <= trial.user_attrs.get(PROMOTED, 0):
            return False
        try:
            return bool(unless_away(trial.should_prune))
        except (
            optuna.exceptions.UpdateFinishedTrialError
        ) as error:  # pruners write down what they have seen
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
        if (
            self.has_cost
        ):  # Optuna has no pruner for two objectives, and so refuses; people want the curves
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
        # Without a worker or a lease, or it would look dead to the others when it is taken up
        # again.
        self.write(trial, {WORKER: "", LEASE: None})
        self.optuna.pause(trial)
        self.let_go(trial)

    def end_paused(self) -> list[FrozenTrial]:
        """End the trials that are still paused, unless one that runs may yet promote them, and
        return them.
        """
        if self.is_running():
            return []
        trials = self.optuna._storage.get_all_trials(self.optuna._study_id, deepcopy=False)
        paused = [t for t in trials if is_paused(t)]
        for trial in paused:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker was first
                self.write(trial, {RECORDED: TrialEnd.PRUNED.word})
                self.optuna._storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED)
        return paused

    def constrain(self, trial: optuna.Trial, excess: Mapping[str, float]) -> None:
        """Tell samplers how far a trial is beyond each constraint; 0 or less is within it."""
        for name in excess.keys() - trial.constraints.keys():
            trial.set_constraint(name, excess[name])

    def complete(self, trial: optuna.Trial, *values: float) -> None:
        """End a trial with the value of each objective."""
        self._tell(trial, TrialState.COMPLETE, {}, values)

    def prune(self, trial: optuna.Trial, end: TrialEnd, message: str = "") -> None:
        """End a trial that is not worth going on with; samplers learn from it."""
        if (
            self.has_cost
        ):  # Optuna's TPE ranks infeasible trials with two objectives, but no pruned ones
            self.constrain(trial, {end.word: 1.0})
        step = self.optuna._storage.get_trial(trial._trial_id).last_step
        others = (
            t.number
            for t in self.trials()
            if t.number != trial.number and step in t.intermediate_values
        )
        self._tell(
            trial,
            TrialState.PRUNED,
            {RECORDED: end.word, "message": message, "against": as_ranges(others)},
        )

    def _tell(
        self,
        trial: optuna.Trial,
        state: TrialState,
        attrs: dict[str, Any],
        values: Sequence[float] | None = None,
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
            trial._cached_frozen_trial.user_attrs.update(
                attrs
            )  # which Optuna reads instead of the storage


def taken_over(trial: optuna.Trial) -> TakenOverError:
    """Return the error of a trial that is another worker's now."""
    number = trial.user_attrs.get(TICKET, trial.number)
    return TakenOverError(
        f"another worker took trial {number} over, since nothing was heard of this one"
    )


CONCLUDED = "concluded"


class SharedStudy(Telling):
    """A study that many workers share through its storage."""

    def __init__(
        self, study: PausableStudy, storage: SharedStorage, sampler: SeededSampler, budget: Budget
    ) -> None:
        super().__init__(study, storage)
        self.sampler, self.budget = sampler, budget

    @classmethod
    def open(
        cls,
        name: str,
        *,
        storage: SharedStorage,
        sampler: SeededSampler,
        pruner: optuna.pruners.BasePruner,
        direction: Direction,
        budget: Budget,
        has_cost: bool = False,
    ) -> SharedStudy:
        """Open the study `name` in `storage`, or create it; `has_cost` adds a second objective that
        is to be small.
        """
        with storage_errors(f"of study {name}"):
            directions = [direction.in_optuna]
            directions += [StudyDirection.MINIMIZE] if has_cost else []
            optuna.create_study(
                study_name=name, storage=storage, directions=directions, load_if_exists=True
            )
            study = PausableStudy(name, storage, sampler, pruner)
        return cls(study, storage, sampler, budget)

    @property
    def answers(self) -> MutableMapping[str, str]:
        """What the study remembers of its models: which way they are trained, the same for all
        workers.
        """
        return Answers(self.optuna)

    def n_spent(self) -> int:
        """Return how many trials are finished or pruned."""
        return sum(spends_budget(t) for t in self.trials())

    def claim(self) -> optuna.Trial | None:
        """Return a trial to run, or None where the budget is spent or other workers hold what is
        left.

        Raises:
            SearchError: More than `max_failures` trials have failed.
        """
        trials = self.release_dead()
        self.budget.check_failures(trials)
        self.optuna.closing = not self._has_room(trials)
        if self.optuna.closing and not self.optuna.promotable():
            return None
        trial = self.optuna.ask()
        if (
            PAUSED_AT in trial.user_attrs
        ):  # it has its place in the budget, and what it was based on is recorded
            self.write(trial, {**self._signature(), PROMOTED: trial.user_attrs[PAUSED_AT]})
            return trial
        _, history, number = self.sampler.of(trial.number)
        self.write(trial, {TICKET: number, "history": history.record(), **self._signature()})
        before = [
            t for t in history.trials if t.number < trial.number
        ]  # read when `trial` was there
        if not self.budget.has_room(before) or self.sampler.is_exhausted(number):
            self.fail(
                trial, TrialEnd.SURPLUS, "another worker had claimed the last trial of the budget"
            )
            return None
        return trial

    def _signature(self) -> dict[str, Any]:
        """A worker that dies before it has signed is found by the trial's age."""
        signed: dict[str, Any] = {
            WORKER: str(self.worker),
            LEASE: time.time() + self.budget.lease_s,
        }
        return signed | ({"job": job} if (job := job_id()) else {})

    def _has_room(self, trials: list[FrozenTrial]) -> bool:
        if not self.budget.has_room(trials):
            return False
        return any(t.state == TrialState.WAITING for t in trials) or not self.sampler.is_exhausted(
            n_tickets(trials)
        )

    def lease(self, trial: optuna.Trial | FrozenTrial) -> Lease:
        """Return the lease of a claimed trial."""
        return Lease(trial, self.budget.lease_s)

    def fail(self, trial: optuna.Trial | FrozenTrial, end: TrialEnd, message: str) -> bool:
        """End a trial without a value; where only its process was at fault, it will be tried again.

        Returns:
            False where another worker was first to end it.
        """
        storage, trial_id = self.optuna._storage, trial._trial_id
        self.let_go(trial)
        try:
            self.write(trial, {RECORDED: end.word, "message": message})
            if end.is_retried:
                self._retry(
                    storage.get_trial(trial_id)
                )  # first, so that nobody sees a gap in the budget
            storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def let_go(self, trial: optuna.Trial | FrozenTrial) -> None:
        """Drop what this process still holds of a trial that it has ended, or lost."""
        super().let_go(trial)
        self.sampler.forget(trial.number)

    def release_dead(self) -> list[FrozenTrial]:
        """Fail the running trials whose worker is dead, so that they are tried again; return all
        trials after that.
        """
        trials = self.trials()
        dead = [
            t for t in trials if t.state == TrialState.RUNNING and is_dead(t, self.budget.lease_s)
        ]
        for trial in dead:
            self.fail(
                trial,
                TrialEnd.KILLED,
                f"its worker {trial.user_attrs.get(WORKER, '(unknown)')} died",
            )
        return self.trials() if dead else trials

    def _retry(self, trial: FrozenTrial) -> None:
        with (
            self.storage.exclusively()
        ):  # all who wait for the end of one lease find the same dead trial
            trials = self.trials()
            first = trial.user_attrs.get("retry_of", trial.number)
            if any(t.user_attrs.get("retry_after") == trial.number for t in trials):
                return
            n_tries = 1 + sum(t.user_attrs.get("retry_of") == first for t in trials)
            if n_tries <= self.budget.max_retries:
                again = {
                    TICKET: ticket(trial, trials),
                    "retry_of": first,
                    "retry_after": trial.number,
                }
                again |= (
                    {PROMOTED: trial.user_attrs[PROMOTED]} if PROMOTED in trial.user_attrs else {}
                )
                self.optuna.enqueue_trial(trial.params, user_attrs=again)

    def numbers_that_go_on(self) -> set[int]:
        """Return what the trials are called that run, are paused, or wait to be tried again."""
        trials = self.optuna._storage.get_all_trials(self.optuna._study_id, deepcopy=False)
        return {number_of(t) for t in trials if not t.state.is_finished()}

    def others_run(self) -> bool:
        """Return whether trials of other workers run, or wait to be tried again."""
        trials = self.trials()
        waiting = any(t.state == TrialState.WAITING for t in trials)
        return self.is_running() or (waiting and self._has_room(trials))

    def claim_conclusion(self) -> bool:
        """Return whether this worker is the one that registers the best model of the finished study
        and evaluates it.

        It is the first that asks; another one where that worker has died, or where trials have come
        since.
        """
        with self.storage.exclusively():
            n_spent, taken = self.n_spent(), self.optuna.user_attrs.get(CONCLUDED)
            if (
                taken
                and taken["n_spent"] == n_spent
                and self._is_others(Worker.of(taken[WORKER]), taken[LEASE])
            ):
                return False
            lease = time.time() + 10 * self.budget.lease_s
            self.optuna.set_user_attr(
                CONCLUDED, {"n_spent": n_spent, WORKER: str(self.worker), LEASE: lease}
            )
            return True

    def _is_others(self, worker: Worker, lease: float) -> bool:
        return str(worker) != str(self.worker) and time.time() < lease and not worker.is_seen_dead()


class Answers(MutableMapping[str, str]):
    """Texts that a study remembers by name; while its storage is away, this process alone does."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._known: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._known:
            self._known[name] = self._stored()[name]
        return self._known[name]

    def __setitem__(self, name: str, text: str) -> None:
        self._known[name] = text
        unless_away(lambda: self._study.set_user_attr(name, text))

    def __delitem__(self, name: str) -> None:
        raise TypeError("Expected an answer to be remembered for good.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored() | self._known)

    def __len__(self) -> int:
        return len(self._stored() | self._known)

    def _stored(self) -> dict[str, str]:
        return dict(unless_away(lambda: self._study.user_attrs) or {})


def check_known(name: str, storage: optuna.storages.BaseStorage) -> None:
    """Raise ConfigError where a storage has no study of that name; the sentence names those that
    there are.
    """
    known = sorted(optuna.get_all_study_names(storage))
    if name not in known:
        there = did_you_mean(name, known) if known else " There are no studies here at all."
        data, _, arch = name.partition("-")
        start = f" Start it with python -m hpsearch search arch={arch} data={data}." if arch else ""
        raise ConfigError(f"There is no study {name} in the storage.{there}{start}")


def number_of(trial: optuna.Trial | FrozenTrial) -> int:
    """Return the number that a trial is called and seeded by: a retry has that of its first try."""
    number: int = trial.user_attrs.get(TICKET, trial.number)
    return number


def value_of(trial: FrozenTrial) -> float | None:
    """Return the monitored value of a trial, which is its first where the study has two objectives."""
    return trial.values[0] if trial.values else None


def ranked(trials: list[FrozenTrial], direction: Direction) -> list[FrozenTrial]:
    """Return the completed trials, the best value first, the earliest of equals."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda t: (direction.as_loss(t.values[0]), number_of(t)))


def best_trial(trials: list[FrozenTrial], direction: Direction) -> FrozenTrial | None:
    """Return the completed trial with the best value, the earliest of equals."""
    return next(iter(ranked(trials, direction)), None)
