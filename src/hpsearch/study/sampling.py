"""Samplers whose suggestions can be computed again.

`SeededSampler` wraps a sampler of Optuna. A suggestion depends on nothing but the root seed, the
name of the study, the ticket of the trial and the history that the sampler saw. The ticket is the
place of a trial among all trials of its study, without retries and trials beyond the budget; a
retry has the ticket of its first try.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GridSampler, QMCSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import ConfigError
from hpsearch.seeds import derive
from hpsearch.space.space import Space
from hpsearch.study.history import History, PastStudy
from hpsearch.study.trial_end import TrialEnd

TICKET = "ticket"  # the user attribute that holds the ticket of a trial


def ticket(trial: FrozenTrial, trials: Iterable[FrozenTrial]) -> int:
    """Return the ticket of a trial, by which it is called and seeded.

    A killed trial is tried again under a new number, but with its ticket. So the trials after it
    are seeded as if no trial had been killed.

    Args:
        trial: The trial.
        trials: All trials of its study.
    """
    if TICKET in trial.user_attrs:
        return int(trial.user_attrs[TICKET])
    before = [t for t in trials if t.number < trial.number]
    n_without = sum(map(_has_no_ticket, before))
    return trial.number - n_without


def n_tickets(trials: list[FrozenTrial]) -> int:
    """Return how many tickets have been given out."""
    return len(trials) - sum(map(_has_no_ticket, trials))


def _has_no_ticket(trial: FrozenTrial) -> bool:
    """Return whether a trial has no ticket of its own: a retry, or one beyond the budget."""
    if "retry_of" in trial.user_attrs:
        return True
    return TrialEnd.recorded(trial) == TrialEnd.SURPLUS


class _Prepared(NamedTuple):
    """The source of the suggestions of one trial.

    Attributes:
        sampler: The sampler, built for this trial only.
        history: The trials of the study as they were when the trial was claimed.
        study: The study that the sampler is shown, which has this history.
        ticket: The ticket of the trial.
    """

    sampler: BaseSampler
    history: History
    study: PastStudy
    ticket: int


class SeededSampler(BaseSampler):
    """A sampler that builds an Optuna sampler for each trial, with a seed and history of its own.

    An Optuna sampler with a fixed seed repeats its draws when a study is resumed, and two workers
    with the same seed propose the same point. Here seed and history follow from what is recorded
    with the trial, so that anybody can compute the suggestions again.

    Args:
        make: Builds the Optuna sampler; called with the keyword `seed`.
        root_seed: The seed of the search.
        per_trial: Whether each trial has a seed of its own. False for a sampler that walks one
            fixed sequence or grid, which all trials share.
    """

    def __init__(
        self,
        make: Callable[..., BaseSampler],
        root_seed: int,
        per_trial: bool,
    ) -> None:
        self._make = make
        self._root_seed = root_seed
        self._per_trial = per_trial
        self._any = make(seed=0)
        # Optuna's number is the key; the slots of a worker run several trials at once.
        self._prepared: dict[int, _Prepared] = {}

    def check(self, names: Iterable[str]) -> None:
        """Raise ConfigError if the sampler has no values for a hyperparameter.

        Args:
            names: The hyperparameters that a model asks for, as Optuna knows them.
        """
        if not isinstance(self._any, Grid):
            return
        lacking = sorted(set(names) - self._any.names)
        if lacking:
            raise ConfigError(
                f"sampler=grid needs bounds of each hyperparameter, and {lacking[0]} has none: "
                f"give ++space.bounds.{lacking[0]}={{choices: [...]}} or "
                f"{{low: ..., high: ...}}, or take another sampler."
            )

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Read the history, and build the sampler for a trial."""
        prepared = self._prepare(study, trial)
        self._prepared[trial.number] = prepared
        prepared.sampler.before_trial(prepared.study, trial)

    def of_ticket(self, study_name: str, place: int) -> BaseSampler:
        """Return a sampler, built for the trial of a study that has the ticket `place`."""
        if self._per_trial:
            seed = derive(self._root_seed, study_name, "sampler", "trial", place)
        else:
            seed = derive(self._root_seed, study_name, "sampler")
        made = self._make(seed=seed)
        if isinstance(made, _Sequential):
            seed = derive(self._root_seed, study_name, "independent", place)
            made.begin_at(place, seed)
        return made

    def of(self, number: int) -> _Prepared:
        """Return the source of a trial's suggestions.

        Args:
            number: Optuna's number of a trial that this process has claimed.
        """
        return self._prepared[number]

    def forget(self, number: int) -> None:
        """Drop the source of a trial's suggestions, because it has ended or is paused."""
        self._prepared.pop(number, None)

    def _prepare(self, study: Study, trial: FrozenTrial) -> _Prepared:
        history = History.now(study)
        past = PastStudy(study, history, study._storage)
        number = ticket(trial, history.trials)
        made = self.of_ticket(study.study_name, number)
        return _Prepared(made, history, past, number)

    def _for(self, study: Study, trial: FrozenTrial) -> _Prepared:
        # If another worker has taken over the trial, the storage may not have refused it yet.
        prepared = self._prepared.get(trial.number)
        if prepared is not None:
            return prepared
        return self._prepare(study, trial)

    def infer_relative_search_space(
        self,
        study: Study,
        trial: FrozenTrial,
    ) -> dict[str, BaseDistribution]:
        """Call the method of the trial's sampler."""
        prepared = self._for(study, trial)
        return prepared.sampler.infer_relative_search_space(prepared.study, trial)

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, object]:
        """Call the method of the trial's sampler."""
        prepared = self._for(study, trial)
        return prepared.sampler.sample_relative(prepared.study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> object:
        """Call the method of the trial's sampler."""
        prepared = self._for(study, trial)
        sample = prepared.sampler.sample_independent
        return sample(prepared.study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Call the method of the trial's sampler."""
        prepared = self._for(study, trial)
        prepared.sampler.after_trial(study, trial, state, values)

    def is_exhausted(self, n_given: int) -> bool:
        """Return whether no point is left after `n_given` tickets; only a grid has an end."""
        if not isinstance(self._any, Grid):
            return False
        return n_given >= len(self._any)


class _Sequential:
    """A mixin for samplers that walk a fixed sequence, in which the ticket is the place of a trial.

    Optuna's samplers count the points that other trials have taken, so that two workers at the
    same time take the same point.
    """

    place = 0

    def begin_at(self, place: int, seed: int) -> None:
        """Set the place in the sequence; `seed` is for values outside of the sequence."""
        self.place = place


class Qmc(_Sequential, QMCSampler):
    """Quasi-Monte Carlo; the trial with ticket i takes the i-th point of a Sobol sequence.

    Points are drawn at random until a first trial has shown which hyperparameters are searched.
    """

    def begin_at(self, place: int, seed: int) -> None:
        """Set the place in the sequence, and the seed of points that are drawn at random."""
        super().begin_at(place, seed)
        self._independent_sampler = RandomSampler(seed=seed)

    def _find_sample_id(
        self,
        study: Study,
        search_space: dict[str, BaseDistribution],
    ) -> int:
        return self.place


class Grid(_Sequential, GridSampler):
    """A grid in shuffled order; the trial with ticket i takes the i-th point.

    Args:
        space: The bounds of the search.
        n_points: The number of values of each hyperparameter.
        seed: Determines the order.
    """

    def __init__(
        self,
        space: Space,
        n_points: int,
        seed: int,
    ) -> None:
        super().__init__(space.grid(n_points), seed)

    @property
    def names(self) -> set[str]:
        """The hyperparameters that the grid has values for."""
        return set(self._search_space)

    def __len__(self) -> int:
        return len(self._all_grids)

    # No point has to be reserved, since no other trial has this ticket.
    before_trial = BaseSampler.before_trial

    # Optuna would stop `Study.optimize` here, which does not run.
    after_trial = BaseSampler.after_trial

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> object:
        """Return the value of one hyperparameter at the trial's point."""
        placed = copy.copy(trial)
        placed.system_attrs = dict(trial.system_attrs)
        placed.system_attrs["grid_id"] = self.place % len(self)
        return super().sample_independent(
            study,
            placed,
            param_name,
            param_distribution,
        )
