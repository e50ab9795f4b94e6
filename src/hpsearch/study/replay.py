"""Compute the suggestions of a study again, from what was recorded of each, and say why a trial is
as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from optuna import Study
from optuna.pruners import HyperbandPruner
from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import UserError
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.history import History, PastStudy, as_claimed, from_ranges
from hpsearch.study.sampling import TICKET, SeededSampler
from hpsearch.study.study import number_of, ranked, value_of
from hpsearch.study.trial_end import TrialEnd, spends_budget


@dataclass
class Replay:
    """What came out: how many trials' suggestions are the same again, and what differs, one
    sentence a trial.
    """

    n_same: int = 0
    differing: list[str] = field(default_factory=list)


def replay(study: Study, sampler: SeededSampler) -> Replay:
    """Compute every suggestion of `study` again.

    Args:
        study: As it is now; it is only read.
        sampler: Made of the same settings and root seed as the one that made the suggestions.
    """
    trials, result = study.get_trials(deepcopy=False), Replay()
    for trial in trials:
        if "history" not in trial.user_attrs or TrialEnd.recorded(trial) == TrialEnd.SURPLUS:
            continue
        again = suggestions(study, sampler, trial, trials)
        differing = {
            name: (trial.params[name], value)
            for name, value in again.items()
            if trial.params[name] != value
        }
        if differing:
            shown = ", ".join(
                f"{name} was {was}, would be {now}" for name, (was, now) in differing.items()
            )
            result.differing.append(f"Trial {number_of(trial)}: {shown}.")
        else:
            result.n_same += 1
    return result


def suggestions(
    study: Study, sampler: SeededSampler, trial: FrozenTrial, trials: list[FrozenTrial]
) -> dict[str, Any]:
    """Return what the sampler suggests for `trial`, given the history that it saw."""
    history = History.of(trial.user_attrs["history"], trials)
    past = PastStudy(study.study_name, study._study_id, study.directions, history, storage=None)
    fixed = trial.system_attrs.get("fixed_params", {})
    attrs = {TICKET: trial.user_attrs[TICKET]}
    fresh = as_claimed(trial, user_attrs=attrs, system_attrs=dict(trial.system_attrs))
    made = sampler.prepare(study.study_name, fresh, history)
    made.before_trial(past, fresh)
    space = made.infer_relative_search_space(past, fresh)
    relative = made.sample_relative(past, fresh, space)
    again: dict[str, Any] = {}
    for name, distribution in trial.distributions.items():
        if name in fixed:
            value = fixed[name]
        elif distribution.single():
            value = trial.params[name]
        elif name in relative and distribution._contains(
            distribution.to_internal_repr(relative[name])
        ):
            value = relative[name]
        else:
            value = made.sample_independent(past, fresh, name, distribution)
        again[name] = distribution.to_external_repr(distribution.to_internal_repr(value))
        fresh.params[name], fresh.distributions[name] = value, distribution
    return again


def explain(study: Study, sampler: SeededSampler, space: Space, number: int) -> Iterator[str]:
    """Yield sentences that say why the trial that is called `number` had its values, and why it
    ended as it did.

    Raises:
        UserError: There is no such trial.
    """
    trials = study.get_trials(deepcopy=False)
    tries = [
        t for t in trials if number_of(t) == number and TrialEnd.recorded(t) != TrialEnd.SURPLUS
    ]
    if not tries:
        last = max(map(number_of, trials), default=-1)
        known = f"it has 0 to {last}" if trials else "it has none yet"
        raise UserError(f"There is no trial {number} in study {study.study_name}; {known}.")
    trial = tries[-1]
    values = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                       for name, value in space.values(trial).items())  # fmt: skip
    yield f"Trial {number} had {values}."
    yield from _why_values(study, sampler, tries, trials)
    yield from _why_end(study, tries, trials)


def _why_values(
    study: Study, sampler: SeededSampler, tries: list[FrozenTrial], trials: list[FrozenTrial]
) -> Iterator[str]:
    trial = next((t for t in tries if "history" in t.user_attrs), None)
    if trial is None:
        yield "Its claim was not recorded."
        return
    seen = History.of(trial.user_attrs["history"], trials).trials
    spent = [t for t in seen if spends_budget(t)]
    running = sorted(
        number_of(t) for t in seen if t.state == TrialState.RUNNING and t.number != trial.number
    )
    name = type(sampler.prepare(study.study_name, trial, History(seen))).__name__
    yield (
        f"{name} suggested them, seeded by the trial's ticket {trial.user_attrs[TICKET]}, when it "
        f"could see "
        f"{len(spent)} finished or pruned trials{f' and {running} running' if running else ''}."
    )
    again = suggestions(study, sampler, trial, trials)
    if all(trial.params[name] == value for name, value in again.items()):
        yield "Computed again from that, they are the same."
    best = ranked(spent, Direction.of(study))[:3]
    if best:
        yield (
            "The best that it could see: "
            + ", ".join(f"#{number_of(t)} {value_of(t):.4g}" for t in best)
            + "."
        )


def _why_end(study: Study, tries: list[FrozenTrial], trials: list[FrozenTrial]) -> Iterator[str]:
    for trial in tries[:-1]:
        yield f"A try of it ended early: {trial.user_attrs.get('reason')} ({trial.user_attrs.get('message')})."
    trial = tries[-1]
    end = TrialEnd.of(trial)
    if end == TrialEnd.FINISHED:
        yield f"It finished with {value_of(trial):.4g}."
    elif end != TrialEnd.PRUNED or trial.last_step is None:
        word = "" if end is None else end.word
        message = trial.user_attrs.get("message", "")
        yield f"It is {trial.state.name}: {word} {message}".rstrip() + "."
    else:
        yield from _why_pruned(study, trial, trial.last_step, trials)


def _why_pruned(
    study: Study, trial: FrozenTrial, step: int, trials: list[FrozenTrial]
) -> Iterator[str]:
    found = standing(study, trial, step, trials)
    where = "" if found.bracket is None else f" of bracket {found.bracket}"
    place = f"place {found.place} among {found.n}{where}"
    yield f"It was pruned at epoch {step} with {found.value:.4g}, {place} at that epoch."
    if found.others:
        shown = ", ".join(f"#{number} {value:.4g}" for number, value in found.others[:5])
        yield f"Against: {shown}{' and others' if len(found.others) > 5 else ''}."


@dataclass(frozen=True)
class Standing:
    """How a trial stood when it was pruned.

    Attributes:
        value: What it had reached.
        others: Number and value of those that it was compared with at that epoch, the best first.
        place: Its own place among them, from 1.
        bracket: Hyperband's, if that was the pruner.
    """

    value: float
    others: list[tuple[int, float]]
    place: int
    bracket: int | None

    @property
    def n(self) -> int:
        """How many were compared, itself included."""
        return len(self.others) + 1


def standing(study: Study, trial: FrozenTrial, step: int, trials: list[FrozenTrial]) -> Standing:
    """Return how a pruned trial stood at epoch `step`; `study` has the pruner that stopped it."""
    mine = trial.intermediate_values[step]
    numbers = set(from_ranges(trial.user_attrs.get("against", "")))
    others = [t for t in trials if t.number in numbers and step in t.intermediate_values]
    bracket = None
    if isinstance(study.pruner, HyperbandPruner):
        if (
            not study.pruner._pruners
        ):  # Optuna's Hyperband makes its brackets when it is asked first
            study.pruner._try_initialization(study)
        bracket = study.pruner._get_bracket_id(study, trial)
        others = [t for t in others if study.pruner._get_bracket_id(study, t) == bracket]
    direction = Direction.of(study)
    reached = [(number_of(t), t.intermediate_values[step]) for t in others]
    reached.sort(key=lambda pair: (direction.as_loss(pair[1]), pair[0]))
    place = 1 + sum(direction.is_better(value, mine) for _, value in reached)
    return Standing(mine, reached, place, bracket)
