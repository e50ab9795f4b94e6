"""The trials that a sampler saw when it made a suggestion: recorded, and rebuilt from the record.

A sampler sees one snapshot of the study, which is read when the trial is claimed. With the record
of the snapshot, the suggestion can be computed again. Finished trials never change, so the record
holds only their numbers. For a running trial it also holds the names of what had been drawn by
then. A sampler sees a paused trial as a pruned one; for it the record holds the epoch.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hpsearch.study.trial_end import TrialEnd


class _Record(TypedDict):
    """A history as JSON; numbers of trials are ranges such as `0-12,14`.

    Attributes:
        finished: The numbers of the finished trials.
        running: The numbers of the running trials by the names that they had drawn.
        paused: The numbers of the paused trials by the epoch at which they were paused.
    """

    finished: str
    running: NotRequired[dict[str, str]]
    paused: NotRequired[dict[str, str]]


@dataclass(frozen=True)
class History:
    """The trials of a study at one moment."""

    trials: list[FrozenTrial]

    @classmethod
    def now(cls, study: Study) -> History:
        """Read the history from the storage, because pruners hide some trials of a study."""
        trials = []
        all_trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        for stored in all_trials:
            trial = TrialEnd.as_seen(stored)
            if not trial.state.is_finished():
                trial = copy.copy(trial)  # a storage may change a running trial in place
            trials.append(trial)
        return cls(trials)

    def record(self) -> _Record:
        """Return the history as JSON.

        For example, `{"finished": "0-12,14", "running": {"dropout_rate learning_rate": "13"}}`.
        """
        finished = []
        running = defaultdict(list)
        paused = defaultdict(list)
        for trial in self.trials:
            if trial.state == TrialState.RUNNING:
                running[_names(trial)].append(trial.number)
            elif TrialEnd.is_seen_paused(trial):
                paused[str(trial.last_step)].append(trial.number)
            elif trial.state.is_finished():
                finished.append(trial.number)
        record: _Record = {"finished": as_ranges(finished)}
        if running:
            record["running"] = {key: as_ranges(found) for key, found in running.items()}
        if paused:
            record["paused"] = {key: as_ranges(found) for key, found in paused.items()}
        return record

    @classmethod
    def of(cls, record: _Record, trials: list[FrozenTrial]) -> History:
        """Return the history that was recorded, given the trials as they are now."""
        by_number = {t.number: t for t in trials}
        finished = from_ranges(record["finished"])
        then = [by_number[number] for number in finished]
        for names, numbers in record.get("running", {}).items():
            for number in from_ranges(numbers):
                trial = _as_it_ran(by_number[number], names.split())
                then.append(trial)
        for step, numbers in record.get("paused", {}).items():
            for number in from_ranges(numbers):
                trial = _as_it_paused(by_number[number], int(step))
                then.append(trial)
        then.sort(key=lambda t: t.number)
        return cls(then)


def _names(trial: FrozenTrial) -> str:
    """Return the names of what a running trial has drawn, or has told others that it will draw."""
    # TPE tells other workers by system attributes of this prefix what a trial is about to draw.
    names = list(trial.params)
    for key in trial.system_attrs:
        if key.startswith("tpe:relative_params"):
            names.append(key)
    return " ".join(names)


def _only(values: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    chosen = {}
    for name, value in values.items():
        if name in names:
            chosen[name] = value
    return chosen


def _as_it_ran(trial: FrozenTrial, names: list[str]) -> FrozenTrial:
    then = as_claimed(trial)
    then.system_attrs = _only(trial.system_attrs, names)
    then.params = _only(trial.params, names)
    then.distributions = _only(trial.distributions, names)
    return then


def as_claimed(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial as it was right after its claim, without attributes."""
    then = copy.copy(trial)
    then.state = TrialState.RUNNING
    then.values = None
    then.datetime_complete = None
    then.params = {}
    then.distributions = {}
    then.user_attrs = {}
    then.system_attrs = {}
    then.intermediate_values = {}
    return then


def _as_it_paused(trial: FrozenTrial, step: int) -> FrozenTrial:
    then = copy.copy(trial)
    then.state = TrialState.PRUNED
    then.values = None
    then.intermediate_values = {}
    for epoch, value in trial.intermediate_values.items():
        if epoch <= step:
            then.intermediate_values[epoch] = value
    return then


def as_ranges(numbers: Iterable[int]) -> str:
    """Return numbers as text, in ascending order, such as `0-12,14`."""
    ranges: list[list[int]] = []  # the first and the last number, or a single one
    for number in sorted(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    texts = ["-".join(map(str, ends)) for ends in ranges]
    return ",".join(texts)


def from_ranges(text: str) -> list[int]:
    """Return the numbers that `as_ranges` wrote."""
    numbers: list[int] = []
    for part in text.split(","):
        if part:
            first, _, last = part.partition("-")
            end = int(last or first) + 1
            numbers += range(int(first), end)
    return numbers


class PastStudy(Study):
    """A study as it was at one moment, to show to a sampler.

    Args:
        study: The study as it is now.
        history: The trials that can be seen.
        storage: The storage for everything else that is read or written; None if nothing may
            change.
    """

    def __init__(
        self,
        study: Study,
        history: History,
        storage: BaseStorage | None,
    ) -> None:
        self.study_name = study.study_name
        self._study_id = study._study_id
        self._directions = study.directions
        self._storage: Any = _PastStorage(history, storage)
        # `__setstate__` creates the attribute in which Optuna keeps what is local to a thread.
        super().__setstate__(self.__dict__)


class _PastStorage:
    """A storage that shows the trials of a history, and passes on everything else."""

    def __init__(
        self,
        history: History,
        storage: BaseStorage | None,
    ) -> None:
        self._trials = history.trials
        self._now = storage

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        trials = list(self._trials)
        if states is not None:
            trials = [t for t in trials if t.state in states]
        if deepcopy:
            return copy.deepcopy(trials)
        return trials

    def set_trial_system_attr(
        self,
        trial_id: int,
        key: str,
        value: Any,
    ) -> None:
        if self._now is not None:
            self._now.set_trial_system_attr(trial_id, key, value)

    def __getattr__(self, name: str) -> object:
        return getattr(self._now, name)
