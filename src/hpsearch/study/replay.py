"""Compute the suggestions of a study again, and say why a trial had its values and its end.

Both use what was recorded with each trial when it was claimed and when it ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import HyperbandPruner
from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import UserError
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.history import History, PastStudy, as_claimed, from_ranges
from hpsearch.study.sampling import TICKET, SeededSampler
from hpsearch.study.study import number_of, ranked, value_of
from hpsearch.study.trial_end import RECORDED, TrialEnd, spends_budget


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
    trials = study.get_trials(deepcopy=False)
    result = _Replay()
    for trial in trials:
        if "history" not in trial.user_attrs or _is_surplus(trial):
            continue
        differing = _differing(trial, _suggestions(study, sampler, trial, trials))
        if differing:
            result.differing.append(f"Trial {number_of(trial)}: {', '.join(differing)}.")
        else:
            result.n_same += 1
    return result


def _is_surplus(trial: FrozenTrial) -> bool:
    return TrialEnd.recorded(trial) == TrialEnd.SURPLUS


def _differing(trial: FrozenTrial, again: Mapping[str, object]) -> list[str]:
    """Return words for each value of a trial that differs from the value computed again."""
    differing = []
    for name, now in again.items():
        was = trial.params[name]
        if was != now:
            differing.append(f"{name} was {was}, would be {now}")
    return differing


def _suggestions(
    study: Study,
    sampler: SeededSampler,
    trial: FrozenTrial,
    trials: list[FrozenTrial],
) -> dict[str, object]:
    """Return what the sampler suggests for a trial, given the history that it saw."""
    history = History.of(trial.user_attrs["history"], trials)
    past = PastStudy(study, history, storage=None)
    fixed = trial.system_attrs.get("fixed_params", {})
    attrs = {TICKET: trial.user_attrs[TICKET]}
    fresh = as_claimed(trial, user_attrs=attrs, system_attrs=dict(trial.system_attrs))
    made = sampler.prepare(study.study_name, fresh, history)
    made.before_trial(past, fresh)
    space = made.infer_relative_search_space(past, fresh)
    relative = made.sample_relative(past, fresh, space)
    again: dict[str, object] = {}
    for name, distribution in trial.distributions.items():
        if name in fixed:
            value = fixed[name]
        elif distribution.single():
            value = trial.params[name]
        elif name in relative and _contains(distribution, relative[name]):
            value = relative[name]
        else:
            value = made.sample_independent(past, fresh, name, distribution)
        again[name] = distribution.to_external_repr(distribution.to_internal_repr(value))
        fresh.params[name] = value
        fresh.distributions[name] = distribution
    return again


def _contains(distribution: BaseDistribution, value: object) -> bool:
    return distribution._contains(distribution.to_internal_repr(value))


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
    trials = study.get_trials(deepcopy=False)
    tries = []
    for trial in trials:
        if number_of(trial) == number and not _is_surplus(trial):
            tries.append(trial)
    if not tries:
        known = "it has none yet"
        if trials:
            known = f"it has 0 to {max(map(number_of, trials))}"
        raise UserError(f"There is no trial {number} in study {study.study_name}; {known}.")
    shown = []
    for name, value in space.values(tries[-1]).items():
        if isinstance(value, float):
            shown.append(f"{name} {value:.4g}")
        else:
            shown.append(f"{name} {value}")
    yield f"Trial {number} had {', '.join(shown)}."
    yield from _why_values(study, sampler, tries, trials)
    yield from _why_end(study, tries, trials)


def _why_values(
    study: Study,
    sampler: SeededSampler,
    tries: list[FrozenTrial],
    trials: list[FrozenTrial],
) -> Iterator[str]:
    recorded = [t for t in tries if "history" in t.user_attrs]
    if not recorded:
        yield "Its claim was not recorded."
        return
    trial = recorded[0]
    seen = History.of(trial.user_attrs["history"], trials).trials
    spent = [t for t in seen if spends_budget(t)]
    made = sampler.prepare(study.study_name, trial, History(seen))
    yield (
        f"{type(made).__name__} suggested them, seeded by the trial's ticket "
        f"{trial.user_attrs[TICKET]}, when it could see {len(spent)} finished or pruned "
        f"trials{_and_running(trial, seen)}."
    )
    again = _suggestions(study, sampler, trial, trials)
    if not _differing(trial, again):
        yield "Computed again from that, they are the same."
    best = ranked(spent, Direction.of(study))[:3]
    if best:
        shown = [f"#{number_of(t)} {value_of(t):.4g}" for t in best]
        yield f"The best that it could see: {', '.join(shown)}."


def _and_running(trial: FrozenTrial, seen: list[FrozenTrial]) -> str:
    """Return the end of a sentence: which other trials were running."""
    numbers = []
    for other in seen:
        if other.state == TrialState.RUNNING and other.number != trial.number:
            numbers.append(number_of(other))
    if not numbers:
        return ""
    return f" and {sorted(numbers)} running"


def _why_end(
    study: Study,
    tries: list[FrozenTrial],
    trials: list[FrozenTrial],
) -> Iterator[str]:
    for trial in tries[:-1]:
        word = trial.user_attrs.get(RECORDED)
        message = trial.user_attrs.get("message")
        yield f"A try of it ended early: {word} ({message})."
    trial = tries[-1]
    end = TrialEnd.of(trial)
    if end == TrialEnd.FINISHED:
        yield f"It finished with {value_of(trial):.4g}."
    elif end == TrialEnd.PRUNED and trial.last_step is not None:
        yield from _why_pruned(study, trial, trial.last_step, trials)
    else:
        word = ""
        if end is not None:
            word = end.word
        message = trial.user_attrs.get("message", "")
        yield f"It is {trial.state.name}: {word} {message}".rstrip() + "."


def _why_pruned(
    study: Study,
    trial: FrozenTrial,
    step: int,
    trials: list[FrozenTrial],
) -> Iterator[str]:
    found = standing(study, trial, step, trials)
    place = f"place {found.place} among {found.n}"
    if found.bracket is not None:
        place += f" of bracket {found.bracket}"
    yield f"It was pruned at epoch {step} with {found.value:.4g}, {place} at that epoch."
    message = trial.user_attrs.get("message")
    if message:
        yield f"The reason: {message}."
    if found.others:
        n_shown = 5
        shown = [f"#{number} {value:.4g}" for number, value in found.others[:n_shown]]
        more = ""
        if len(found.others) > n_shown:
            more = " and others"
        yield f"The others had: {', '.join(shown)}{more}."


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
    numbers = set(from_ranges(trial.user_attrs.get("against", "")))
    others = [t for t in trials if t.number in numbers and step in t.intermediate_values]
    bracket = None
    pruner = study.pruner
    if isinstance(pruner, HyperbandPruner):
        if not pruner._pruners:
            # Optuna's Hyperband makes its brackets only when it is asked for the first time.
            pruner._try_initialization(study)
        bracket = pruner._get_bracket_id(study, trial)
        others = [t for t in others if pruner._get_bracket_id(study, t) == bracket]
    direction = Direction.of(study)
    others.sort(key=lambda t: (direction.as_loss(t.intermediate_values[step]), number_of(t)))
    reached = []
    place = 1
    for other in others:
        value = other.intermediate_values[step]
        reached.append((number_of(other), value))
        if direction.is_better(value, mine):
            place += 1
    return _Standing(mine, reached, place, bracket)
