"""What a suggestion was based on: recorded with the trial, rebuilt to compute the suggestion again.

A sampler is shown one snapshot of the study, read when its trial was claimed. Finished trials never
change, so their numbers are enough; of those that ran, the names of what they had drawn by then are
kept too, of those that were paused, which a sampler sees as pruned, the epoch.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpsearch.study.promotion import as_seen
from hpsearch.study.trial_end import is_seen_paused

Record = dict[str, Any]
SHARED = "tpe:relative_params"  # where TPE tells other workers what a trial is about to draw


@dataclass(frozen=True)
class History:
    """The trials of a study at one moment."""

    trials: list[FrozenTrial]

    @classmethod
    def now(cls, study: Study) -> History:
        """Read it from the storage, not from the study: pruners hide a part of the trials."""
        trials = [
            as_seen(t) for t in study._storage.get_all_trials(study._study_id, deepcopy=False)
        ]
        # A storage may change a running trial in place, as it learns more of it.
        return cls([t if t.state.is_finished() else copy.copy(t) for t in trials])

    def record(self) -> Record:
        """Return it as JSON: `{"finished": "0-12,14", "running": {"dropout_rate learning_rate":
        "13"}}`.
        """
        running: dict[str, list[int]] = defaultdict(list)
        for trial in self.trials:
            if trial.state == TrialState.RUNNING:
                shared = [key for key in trial.system_attrs if key.startswith(SHARED)]
                running[" ".join([*trial.params, *shared])].append(trial.number)
        paused: dict[str, list[int]] = defaultdict(list)
        for trial in self.trials:
            if is_seen_paused(trial):
                paused[str(trial.last_step)].append(trial.number)
        finished = as_ranges(
            t.number for t in self.trials if t.state.is_finished() and not is_seen_paused(t)
        )
        record = {"running": running, "paused": paused}
        return {"finished": finished} | {
            kind: {key: as_ranges(numbers) for key, numbers in groups.items()}
            for kind, groups in record.items()
            if groups
        }

    @classmethod
    def of(cls, record: Record, trials: list[FrozenTrial]) -> History:
        """Return what a record tells of, from the trials as they are now."""
        by_number = {t.number: t for t in trials}
        then = [by_number[number] for number in from_ranges(record["finished"])]
        for names, numbers in record.get("running", {}).items():
            then += [
                _as_it_ran(by_number[number], names.split()) for number in from_ranges(numbers)
            ]
        for step, numbers in record.get("paused", {}).items():
            then += [_as_it_paused(by_number[number], int(step)) for number in from_ranges(numbers)]
        return cls(sorted(then, key=lambda t: t.number))


def _as_it_ran(trial: FrozenTrial, names: list[str]) -> FrozenTrial:
    drawn = {name: value for name, value in trial.system_attrs.items() if name in names}
    then = as_claimed(trial, user_attrs={}, system_attrs=drawn)
    then.params = {name: value for name, value in trial.params.items() if name in names}
    then.distributions = {
        name: value for name, value in trial.distributions.items() if name in names
    }
    return then


def as_claimed(
    trial: FrozenTrial, *, user_attrs: dict[str, Any], system_attrs: dict[str, Any]
) -> FrozenTrial:
    """Return a trial as it was when a worker had claimed it and nothing was drawn yet."""
    return FrozenTrial(
        number=trial.number,
        trial_id=trial._trial_id,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=trial.datetime_start,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs=user_attrs,
        system_attrs=system_attrs,
        intermediate_values={},
    )


def _as_it_paused(trial: FrozenTrial, step: int) -> FrozenTrial:
    then = copy.copy(trial)
    then.state, then.values = TrialState.PRUNED, None
    then.intermediate_values = {
        at: value for at, value in trial.intermediate_values.items() if at <= step
    }
    return then


def as_ranges(numbers: Iterable[int]) -> str:
    """Return ascending numbers as text: `0-12,14`."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def from_ranges(text: str) -> list[int]:
    """Return the numbers that `as_ranges` wrote."""
    pairs = [part.partition("-") for part in text.split(",") if part]
    return [number for a, _, b in pairs for number in range(int(a), int(b or a) + 1)]


class PastStudy(Study):
    """A study as it was at one moment, to show to a sampler.

    Args:
        name: The study's.
        study_id: The storage's key of the study.
        directions: Whether values are to be small or large, of each objective.
        history: The trials that can be seen.
        storage: Where anything else is asked for and written; None where nothing may change.
    """

    def __init__(
        self,
        name: str,
        study_id: int,
        directions: list[StudyDirection],
        history: History,
        storage: BaseStorage | None,
    ) -> None:
        self.study_name, self._study_id, self._directions = name, study_id, directions
        self._storage: Any = _PastStorage(history, storage)
        super().__setstate__(
            self.__dict__
        )  # as after unpickling: the rest is what each thread has of its own

    @classmethod
    def of(cls, study: Study, history: History) -> PastStudy:
        """Return `study` with the trials of `history`."""
        storage: Any = study._storage
        return cls(study.study_name, study._study_id, study.directions, history, storage)


class _PastStorage:
    def __init__(self, history: History, storage: BaseStorage | None) -> None:
        self._trials, self._now = history.trials, storage

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = [t for t in self._trials if states is None or t.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if self._now is not None:
            self._now.set_trial_system_attr(trial_id, key, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now, name)
