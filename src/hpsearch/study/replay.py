"""Compute suggested hyperparameters again (`replay`), and explain one trial (`explain`).

`explain` says why a trial got its hyperparameters and why it ended as it did. Both read what was
recorded with the trial: `history` and `ticket` when it was claimed, `reason` and `against` when it
ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from optuna import Study
from optuna.pruners import HyperbandPruner
from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import UserError
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.history import History, PastStudy, as_claimed, from_ranges
from hpsearch.study.sampling import TICKET, SeededSampler
from hpsearch.study.study import number_of, ranked, value_of
from hpsearch.study.trial_end import RECORDED, TrialEnd


@dataclass
class _Replay:
    """The result of a replay.

    Attributes:
        n_same: The number of trials for which the suggestions are the same again.
        differing: One sentence for each other trial.
    """

    n_same: int = 0
    differing: list[str] = field(default_factory=list)


def replay(study: Study, sampler: SeededSampler) -> _Replay:
    """Compute all suggestions of a study again.

    Args:
        study: The study as it is now; it is only read.
        sampler: A sampler with the settings and the root seed of the one that made the suggestions.
    """
    again = _Again(study, sampler)
    result = _Replay()
    for trial in again.trials:
        if "history" not in trial.user_attrs or _is_surplus(trial):
            continue
        differing = again.differing(trial)
        if differing:
            number = number_of(trial)
            words = ", ".join(differing)
            result.differing.append(f"Trial {number}: {words}.")
        else:
            result.n_same += 1
    return result


def _is_surplus(trial: FrozenTrial) -> bool:
    return TrialEnd.recorded(trial) == TrialEnd.SURPLUS


def explain(
    study: Study,
    sampler: SeededSampler,
    space: Space,
    number: int,
) -> Iterator[str]:
    """Yield sentences that say why a trial had its values and why it ended as it did.

    Args:
        study: The study of the trial.
        sampler: A sampler with the settings and the root seed of the study's.
        space: The space of the study.
        number: The ticket of the trial.

    Raises:
        UserError: There is no such trial.
    """
    again = _Again(study, sampler)
    tries = []
    for trial in again.trials:
        if number_of(trial) == number and not _is_surplus(trial):
            tries.append(trial)
    if not tries:
        known = "it has none yet"
        if again.trials:
            highest = max(map(number_of, again.trials))
            known = f"it has 0 to {highest}"
        raise UserError(f"There is no trial {number} in study {study.study_name}; {known}.")
    shown = []
    for name, value in space.values(tries[-1]).items():
        if isinstance(value, float):
            shown.append(f"{name} {value:.4g}")
        else:
            shown.append(f"{name} {value}")
    values = ", ".join(shown)
    yield f"Trial {number} had {values}."
    yield from again.why_values(tries)
    yield from again.why_end(tries)


class _Again:
    """A study, and a sampler that computes its suggestions again."""

    def __init__(self, study: Study, sampler: SeededSampler) -> None:
        self.study = study
        self.sampler = sampler
        self.trials = study.get_trials(deepcopy=False)

    def differing(self, trial: FrozenTrial) -> list[str]:
        """Return words for each value of a trial that differs from the value computed again."""
        was = trial.params
        again = self._suggestions(trial)
        return [
            f"{name} was {was[name]}, would be {now}"
            for name, now in again.items()
            if was[name] != now
        ]

    def _history(self, trial: FrozenTrial) -> History:
        return History.of(trial.user_attrs["history"], self.trials)

    def _suggestions(self, trial: FrozenTrial) -> dict[str, object]:
        """Return what the sampler suggests for a trial, given the history that it saw."""
        history = self._history(trial)
        past = PastStudy(self.study, history, storage=None)
        fixed = trial.system_attrs.get("fixed_params", {})
        fresh = as_claimed(trial)
        number = trial.user_attrs[TICKET]
        fresh.user_attrs = {TICKET: number}
        fresh.system_attrs = dict(trial.system_attrs)
        made = self.sampler.of_ticket(self.study.study_name, number)
        made.before_trial(past, fresh)
        space = made.infer_relative_search_space(past, fresh)
        relative = made.sample_relative(past, fresh, space)
        again: dict[str, object] = {}
        for name, distribution in trial.distributions.items():
            as_stored = distribution.to_internal_repr
            if name in fixed:
                value = fixed[name]
            elif distribution.single():
                value = trial.params[name]
            elif name in relative and distribution._contains(as_stored(relative[name])):
                value = relative[name]
            else:
                value = made.sample_independent(past, fresh, name, distribution)
            again[name] = distribution.to_external_repr(as_stored(value))
            fresh.params[name] = value
            fresh.distributions[name] = distribution
        return again

    def why_values(self, tries: list[FrozenTrial]) -> Iterator[str]:
        """Yield sentences that say why a trial had its values, given all tries of it."""
        recorded = [t for t in tries if "history" in t.user_attrs]
        if not recorded:
            yield "Its claim was not recorded."
            return
        trial = recorded[0]
        history = self._history(trial)
        spent = [t for t in history.trials if TrialEnd.has_spent(t)]
        number = trial.user_attrs[TICKET]
        made = self.sampler.of_ticket(self.study.study_name, number)
        kind = type(made).__name__
        and_running = _and_running(trial, history)
        yield (
            f"{kind} suggested them, seeded by the trial's ticket {number}, when it could see "
            f"{len(spent)} finished or pruned trials{and_running}."
        )
        if not self.differing(trial):
            yield "Computed again from that, they are the same."
        direction = Direction.of(self.study)
        best = ranked(spent, direction)[:3]
        if best:
            shown = ", ".join(f"#{number_of(t)} {value_of(t):.4g}" for t in best)
            yield f"The best that it could see: {shown}."

    def why_end(self, tries: list[FrozenTrial]) -> Iterator[str]:
        """Yield sentences that say why a trial ended as it did, given all tries of it."""
        for trial in tries[:-1]:
            word = trial.user_attrs.get(RECORDED)
            message = trial.user_attrs.get("message")
            yield f"A try of it ended early: {word} ({message})."
        trial = tries[-1]
        end = TrialEnd.of(trial)
        if end == TrialEnd.FINISHED:
            yield f"It finished with {value_of(trial):.4g}."
        elif end == TrialEnd.PRUNED and trial.last_step is not None:
            yield from self._why_pruned(trial, trial.last_step)
        else:
            word = ""
            if end is not None:
                word = end.word
            message = trial.user_attrs.get("message", "")
            sentence = f"It is {trial.state.name}: {word} {message}"
            yield sentence.rstrip() + "."

    def _why_pruned(self, trial: FrozenTrial, step: int) -> Iterator[str]:
        found = standing(self.study, trial, step, self.trials)
        place = f"place {found.place} among {found.n}"
        if found.bracket is not None:
            place += f" of bracket {found.bracket}"
        yield f"It was pruned at epoch {step} with {found.value:.4g}, {place} at that epoch."
        message = trial.user_attrs.get("message")
        if message:
            yield f"The reason: {message}."
        if found.others:
            n_shown = 5
            best = found.others[:n_shown]
            shown = ", ".join(f"#{number} {value:.4g}" for number, value in best)
            more = ""
            if len(found.others) > n_shown:
                more = " and others"
            yield f"The others had: {shown}{more}."


def _and_running(trial: FrozenTrial, history: History) -> str:
    """Return the end of a sentence: which other trials were running."""
    others = [t for t in history.trials if t.number != trial.number]
    running = [t for t in others if t.state == TrialState.RUNNING]
    if not running:
        return ""
    numbers = sorted(map(number_of, running))
    return f" and {numbers} running"


@dataclass(frozen=True)
class _Standing:
    """The place of a pruned trial among the others that had a value of the same epoch.

    Attributes:
        value: The value that it had reached.
        others: The number and the value of each of the others at that epoch, the best first.
        place: Its own place among them, from 1.
        bracket: The bracket of Hyperband, if that was the pruner.
    """

    value: float
    others: list[tuple[int, float]]
    place: int
    bracket: int | None

    @property
    def n(self) -> int:
        """The number of trials that had a value of the epoch, with this one."""
        return len(self.others) + 1


def standing(
    study: Study,
    trial: FrozenTrial,
    step: int,
    trials: list[FrozenTrial],
) -> _Standing:
    """Return the place of a pruned trial among the others.

    Args:
        study: The study, with the pruner that stopped the trial.
        trial: The pruned trial.
        step: The epoch at which it was pruned.
        trials: All trials of the study.
    """
    mine = trial.intermediate_values[step]
    against = trial.user_attrs.get("against", "")
    numbers = set(from_ranges(against))
    others = []
    for other in trials:
        if other.number in numbers and step in other.intermediate_values:
            others.append(other)
    bracket = None
    pruner = study.pruner
    if isinstance(pruner, HyperbandPruner):
        if not pruner._pruners:
            # Optuna's Hyperband makes its brackets only when it is asked for the first time.
            pruner._try_initialization(study)
        bracket = pruner._get_bracket_id(study, trial)
        others = [t for t in others if pruner._get_bracket_id(study, t) == bracket]
    direction = Direction.of(study)
    reached = [(number_of(t), t.intermediate_values[step]) for t in others]
    reached.sort()
    reached.sort(key=lambda other: direction.as_loss(other[1]))
    n_better = sum(direction.is_better(value, mine) for _, value in reached)
    place = 1 + n_better
    return _Standing(mine, reached, place, bracket)
