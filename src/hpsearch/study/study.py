"""The study that many workers share: all that a worker reads from Optuna and writes to it.

A worker opens the study, claims trials while the budget has room, reports their values, pauses or
ends them, takes over the trials of dead workers, and concludes the study. The methods of
`SharedStudy` are in this order.

Workers have nothing in common but the storage. A worker creates a trial, to which Optuna gives the
next number. The states of the trials with smaller numbers decide whether the budget has room for
it. People call a trial by another number, its ticket, which also seeds it. A retry has the ticket
of its first try. A trial beyond the budget uses up no ticket: the next trial gets the same one.
User attributes of a trial hold what Optuna has no place for:

    worker      the process that runs the trial
    lease       the Unix time until which the trial counts as alive without a sign of its worker
    job         the SLURM job of the worker, if there is one
    reason      how the trial ended, in a word; see trial_end.py
    message     why the trial ended so, in a sentence
    history     the trials on which its suggestions are based; see history.py
    ticket      the number by which the trial is called and seeded; see sampling.py
    retry_of    for a retry, Optuna's number of the first try
    retry_after for a retry, Optuna's number of the try before
    against     the other trials that had a value of the epoch at which it was pruned
    paused      the epoch at which it was paused
    promoted    the epoch at which it was last promoted
    warm_start  the trial of another study that its values come from
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from hpsearch.errors import ConfigError, TakenOverError, did_you_mean
from hpsearch.study.budget import Budget
from hpsearch.study.direction import Direction
from hpsearch.study.history import as_ranges
from hpsearch.study.leases import LEASE, WORKER, Lease, Worker
from hpsearch.study.pruners import PausableStudy, Promoting
from hpsearch.study.sampling import TICKET, SeededSampler, n_tickets, ticket
from hpsearch.study.storage import SharedStorage, storage_errors
from hpsearch.study.trial_end import PAUSED_AT, RECORDED, TrialEnd
from hpsearch.study.waiting import unless_away
from hpsearch.study.worker_process import this_process


@dataclass(eq=False)
class SharedStudy:
    """A study that many workers share through its storage.

    While the storage is away, reported values and new proofs wait in this process and the pruner
    stops no trial; every other call waits for the storage.

    Attributes:
        optuna: The study as Optuna sees it.
        storage: The storage of the study.
        sampler: The sampler of the study.
        budget: What the study may cost.
        worker: The worker that this process is.
    """

    optuna: PausableStudy
    storage: SharedStorage
    sampler: SeededSampler
    budget: Budget
    worker: Worker = field(default_factory=Worker.this)

    def __post_init__(self) -> None:
        # The reported values that the storage does not have yet, by the key of the trial and the
        # epoch. No lock guards them: only the thread of a trial's slot adds values of the trial.
        # Other threads only remove all values of a trial, and `dict.pop` is atomic.
        self._unsent: dict[int, dict[int, float]] = defaultdict(dict)

    @classmethod
    def open(
        cls,
        name: str,
        *,
        storage: SharedStorage,
        sampler: SeededSampler,
        pruner: BasePruner,
        direction: Direction,
        budget: Budget,
        has_cost: bool = False,
    ) -> SharedStudy:
        """Open the study `name` in `storage`, or create it.

        With `has_cost` the study has a second objective, which is minimized.
        """
        directions = [StudyDirection[direction.name]]
        if has_cost:
            directions.append(StudyDirection.MINIMIZE)
        with storage_errors(f"of study {name}"):
            optuna.create_study(
                study_name=name,
                storage=storage,
                directions=directions,
                load_if_exists=True,
            )
            study = PausableStudy(name, storage, sampler, pruner)
        return cls(study, storage, sampler, budget)

    @property
    def has_cost(self) -> bool:
        """Whether the study has a second objective."""
        return len(self.optuna.directions) > 1

    @property
    def pauses(self) -> bool:
        """Whether a trial that the pruner stops is paused rather than ended."""
        return isinstance(self.optuna.pruner, Promoting)

    @property
    def remembered_proofs(self) -> MutableMapping[str, str]:
        """Whether a program may train models of a structure, or why not; known to all workers."""
        return _RememberedProofs(self.optuna)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials as they are in the storage now."""
        return self.optuna.get_trials(deepcopy=False)

    def n_spent(self) -> int:
        """Return the number of trials that count toward the budget."""
        return sum(map(TrialEnd.has_spent, self.trials()))

    def is_running(self) -> bool:
        """Return whether any worker runs a trial of the study."""
        states = {t.state for t in self.trials()}
        return TrialState.RUNNING in states

    def has_work_in_progress(self) -> bool:
        """Return whether any trial runs, or waits to be tried again within the budget."""
        trials = self.trials()
        states = {t.state for t in trials}
        if TrialState.RUNNING in states:
            return True
        return TrialState.WAITING in states and self.budget.has_room(trials)

    def numbers_that_go_on(self) -> set[int]:
        """Return the tickets of the trials that run, are paused, or wait to be tried again."""
        trials = self.optuna.stored_trials()
        unfinished = [t for t in trials if not t.state.is_finished()]
        return set(map(number_of, unfinished))

    def _stored(self, trial: Trial | FrozenTrial) -> FrozenTrial:
        """Return a trial as it is in the storage now."""
        return self.optuna._storage.get_trial(trial._trial_id)

    def claim(self) -> Trial | None:
        """Return a trial to run; None if the budget is spent or other workers run all that is left.

        Raises:
            SearchError: More than `max_failures` trials have failed.
        """
        trials = self.release_dead()
        self.budget.check_failures(trials)
        self.optuna.closing = not self._has_room(trials)
        if self.optuna.closing:
            stored = self.optuna.stored_trials()
            if not self.optuna.promotable(stored):
                return None
        trial = self.optuna.ask()
        if PAUSED_AT in trial.user_attrs:
            # The trial has its place in the budget, and its history is recorded.
            promoted = trial.user_attrs[PAUSED_AT]
            self._sign(trial, {"promoted": promoted})
            return trial
        seen = self.sampler.of(trial.number)
        record = seen.history.record()
        self._sign(trial, {TICKET: seen.ticket, "history": record})
        # The history was read after `trial` had been created, so it holds all earlier trials.
        before = [t for t in seen.history.trials if t.number < trial.number]
        has_room = self.budget.has_room(before)
        if not has_room or self.sampler.is_exhausted(seen.ticket):
            message = "another worker had claimed the last trial of the budget"
            self.fail(trial, TrialEnd.SURPLUS, message)
            return None
        return trial

    def _has_room(self, trials: list[FrozenTrial]) -> bool:
        if not self.budget.has_room(trials):
            return False
        states = {t.state for t in trials}
        if TrialState.WAITING in states:
            return True
        return not self.sampler.is_exhausted(n_tickets(trials))

    def _sign(self, trial: Trial, attrs: dict[str, object]) -> None:
        """Write attributes of a trial, and those that say that this worker runs it.

        If a worker dies before it has signed, the age of the trial shows that it is dead.
        """
        attrs[WORKER] = str(self.worker)
        attrs[LEASE] = time.time() + self.budget.lease_s
        if this_process.slurm_job:
            attrs["job"] = this_process.slurm_job
        self.write(trial, attrs)

    def lease(self, trial: Trial | FrozenTrial) -> Lease:
        """Return the lease of a claimed trial."""
        return Lease(trial, self.budget.lease_s)

    def report(self, trial: Trial, value: float, epoch: int) -> None:
        """Report the value of an epoch, unless it was reported before the trial was paused.

        If the storage is away, the value waits for the next call and the trial goes on.

        Raises:
            TakenOverError: Another worker has ended the trial, because this one seemed dead.
        """
        self._unsent[trial._trial_id][epoch] = value
        unless_away(lambda: self._send(trial))

    def _send(self, trial: Trial) -> None:
        unsent = self._unsent[trial._trial_id]
        try:
            for epoch, value in list(unsent.items()):
                if self.has_cost:
                    # `Trial.report` refuses two objectives, since Optuna has no pruner for them.
                    # The values are stored for the learning curves.
                    store = self.optuna._storage.set_trial_intermediate_value
                    store(trial._trial_id, epoch, value)
                elif epoch not in trial._cached_frozen_trial.intermediate_values:
                    trial.report(value, epoch)
                unsent.pop(epoch, None)
        except UpdateFinishedTrialError as error:
            self.let_go(trial)
            raise self.taken_over(trial) from error

    def should_stop(self, trial: Trial, epoch: int) -> bool:
        """Return whether the pruner stops a trial at an epoch.

        A promoted trial is not stopped up to the epoch at which it was promoted.

        Raises:
            TakenOverError: As for `report`.
        """
        promoted = trial.user_attrs.get("promoted", 0)
        if self.has_cost or epoch <= promoted:
            return False
        try:
            return bool(unless_away(trial.should_prune))
        except UpdateFinishedTrialError as error:  # some pruners write attributes of the trial
            raise self.taken_over(trial) from error

    def constrain(self, trial: Trial, excess: Mapping[str, float]) -> None:
        """Tell the sampler by how much a trial exceeds each constraint; 0 or less satisfies it."""
        new = excess.keys() - trial.constraints.keys()
        for name in sorted(new):
            trial.set_constraint(name, excess[name])

    def write(self, trial: Trial | FrozenTrial, attrs: Mapping[str, object]) -> None:
        """Set attributes of a trial, all of them or none."""
        if attrs:
            self.storage.set_trial_user_attrs(trial._trial_id, attrs)
        if isinstance(trial, Trial):
            # Optuna reads this copy instead of the storage.
            trial._cached_frozen_trial.user_attrs.update(attrs)

    def pause(self, trial: Trial) -> None:
        """Pause a trial; `claim` returns it again when it is promoted."""
        self._send(trial)
        # A worker and a lease from before the pause would let the trial look dead to other
        # workers when it is taken up again.
        self.write(trial, {WORKER: "", LEASE: None})
        # From the pause on, another slot of this process may take the trial up.
        self.let_go(trial)
        self.optuna.pause(trial)

    def end_paused(self) -> list[FrozenTrial]:
        """End the trials that are still paused, and return them.

        While a trial runs, none is ended, because the running trial may lead to a promotion.
        """
        if self.is_running():
            return []
        stored = self.optuna.stored_trials()
        paused = [t for t in stored if TrialEnd.is_paused(t)]
        for trial in paused:
            with suppress(UpdateFinishedTrialError):  # another worker has ended it
                self.write(trial, {RECORDED: TrialEnd.PRUNED.word})
                self.optuna._storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED)
        return paused

    def complete(self, trial: Trial, *values: float) -> None:
        """End a trial with the value of each objective."""
        self._tell(trial, TrialState.COMPLETE, {}, values)

    def prune(
        self,
        trial: Trial,
        end: TrialEnd,
        message: str = "",
    ) -> None:
        """End a trial that is not worth more epochs; the sampler learns from it."""
        if self.has_cost:
            # With two objectives, Optuna's TPE ranks infeasible trials but ignores pruned ones.
            self.constrain(trial, {end.word: 1.0})
        step = self._stored(trial).last_step
        at_step = [t for t in self.trials() if step in t.intermediate_values]
        others = {t.number for t in at_step} - {trial.number}
        attrs = {RECORDED: end.word, "message": message, "against": as_ranges(others)}
        self._tell(trial, TrialState.PRUNED, attrs)

    def _tell(
        self,
        trial: Trial,
        state: TrialState,
        attrs: Mapping[str, object],
        values: Sequence[float] | None = None,
    ) -> None:
        try:
            self._send(trial)
            self.write(trial, attrs)
            self.optuna.tell(trial, values, state=state)
            self.let_go(trial)
        except (UpdateFinishedTrialError, ValueError) as error:
            # If the answer to a call was lost, the call is repeated, although it had succeeded.
            ended = self._stored(trial)
            if not ended.state.is_finished():
                raise
            self.let_go(trial)
            by_this_worker = ended.user_attrs.get(WORKER) == str(self.worker)
            if not by_this_worker or ended.state != state:
                raise self.taken_over(trial) from error

    def fail(self, trial: Trial | FrozenTrial, end: TrialEnd, message: str) -> bool:
        """End a trial without a value; it is tried again if only its process was at fault.

        Returns:
            False if another worker had ended the trial before, in another way.
        """
        self.let_go(trial)
        try:
            self.write(trial, {RECORDED: end.word, "message": message})
            if end.is_retried:
                # The retry comes before the end, so that no worker sees a free place in the budget.
                self._retry(self._stored(trial))
            self.optuna._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            # If the answer to a call was lost, the call is repeated, although it had succeeded.
            return TrialEnd.recorded(self._stored(trial)) == end
        return True

    def let_go(self, trial: Trial | FrozenTrial) -> None:
        """Drop what this process still holds of a trial that it has ended, paused or lost."""
        self._unsent.pop(trial._trial_id, None)
        self.sampler.forget(trial.number)

    def has_result(self, trial: Trial | FrozenTrial) -> bool:
        """Return whether a trial is complete or pruned: other workers can only make it fail."""
        return self._stored(trial).state in (TrialState.COMPLETE, TrialState.PRUNED)

    @staticmethod
    def taken_over(trial: Trial | FrozenTrial) -> TakenOverError:
        """Return the error for a trial that another worker has taken over."""
        number = number_of(trial)
        return TakenOverError(
            f"another worker took trial {number} over, since nothing was heard of this one"
        )

    def release_dead(self) -> list[FrozenTrial]:
        """Fail the running trials whose worker is dead, and return all trials after that.

        The failed trials are tried again.
        """
        trials = self.trials()
        running = [t for t in trials if t.state == TrialState.RUNNING]
        dead = [t for t in running if self.lease(t).has_lost_worker()]
        for trial in dead:
            worker = trial.user_attrs.get(WORKER, "(unknown)")
            self.fail(trial, TrialEnd.KILLED, f"its worker {worker} died")
        if dead:
            return self.trials()
        return trials

    def _retry(self, trial: FrozenTrial) -> None:
        # Workers that wait for the end of the same lease find the same dead trial at once.
        with self.storage.exclusively():
            trials = self.trials()
            retried = [t.user_attrs.get("retry_after") for t in trials]
            if trial.number in retried:
                return
            first = trial.user_attrs.get("retry_of", trial.number)
            retries = [t for t in trials if t.user_attrs.get("retry_of") == first]
            if 1 + len(retries) > self.budget.max_retries:
                return
            attrs = {
                TICKET: ticket(trial, trials),
                "retry_of": first,
                "retry_after": trial.number,
            }
            if "promoted" in trial.user_attrs:
                attrs["promoted"] = trial.user_attrs["promoted"]
            self.optuna.enqueue_trial(trial.params, user_attrs=attrs)

    def claim_conclusion(self) -> bool:
        """Return whether this worker registers and evaluates the best model of the finished study.

        The first worker that asks does. Another worker takes its place if the first one has died,
        or if trials have been added since.
        """
        with self.storage.exclusively():
            n_spent = self.n_spent()
            taken = self.optuna.user_attrs.get("concluded")
            me = str(self.worker)
            now = time.time()
            if taken and taken["n_spent"] == n_spent and taken[WORKER] != me:
                other = Worker.of(taken[WORKER])
                if now < taken[LEASE] and not other.is_seen_dead():
                    return False
            lease = now + 10 * self.budget.lease_s
            claimed = {"n_spent": n_spent, WORKER: me, LEASE: lease}
            self.optuna.set_user_attr("concluded", claimed)
            return True


class _RememberedProofs(MutableMapping[str, str]):
    """Texts by name that a study remembers; this process keeps them while the storage is away."""

    def __init__(self, study: Study) -> None:
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
        raise TypeError("Expected a proof to be remembered for good.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored() | self._known)

    def __len__(self) -> int:
        return len(list(self))

    def _stored(self) -> dict[str, str]:
        return unless_away(lambda: self._study.user_attrs) or {}


def check_known(
    name: str,
    storage: optuna.storages.BaseStorage,
    purpose: str = "",
) -> None:
    """Raise ConfigError if a storage has no study of that name, and name the ones that it has.

    Args:
        name: The name of the study.
        storage: The storage.
        purpose: Words that say what the study is for, after a blank.
    """
    known = sorted(optuna.get_all_study_names(storage))
    if name in known:
        return
    there = " There are no studies here: run this where one was made, or give its storage."
    if known:
        there = did_you_mean(name, known)
    raise ConfigError(f"There is no study {name} in the storage{purpose}.{there}")


def number_of(trial: Trial | FrozenTrial) -> int:
    """Return the ticket of a trial: the number by which people call it and by which it is seeded.

    A retry has the number of its first try.
    """
    return int(trial.user_attrs.get(TICKET, trial.number))


def value_of(trial: FrozenTrial) -> float | None:
    """Return the monitored metric of a trial, which is the first of two objectives."""
    if not trial.values:
        return None
    return float(trial.values[0])


def ranked(trials: list[FrozenTrial], direction: Direction) -> list[FrozenTrial]:
    """Return the completed trials, the best first; of equal ones, the earliest first."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    complete.sort(key=number_of)
    return sorted(complete, key=lambda t: direction.as_loss(t.values[0]))


def best_trial(trials: list[FrozenTrial], direction: Direction) -> FrozenTrial | None:
    """Return the best completed trial, the earliest of equal ones; None if none is complete."""
    return next(iter(ranked(trials, direction)), None)
