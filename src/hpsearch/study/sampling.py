"""Samplers whose suggestions can be replayed: they follow from (root seed, study, ticket, history)
and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import HyperbandPruner
from optuna.samplers import BaseSampler, GridSampler, QMCSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from hpsearch.seeds import derive
from hpsearch.space.space import Space
from hpsearch.study.history import History, PastStudy
from hpsearch.study.promotion import check_rungs
from hpsearch.study.trial_end import TrialEnd, is_retried

TICKET = "ticket"
NO_BRACKET = -1


def ticket(trial: FrozenTrial, trials: Iterable[FrozenTrial]) -> int:
    """Return the place of a trial among all `trials` of its study, retries and surplus ones left
    out.

    It is what a trial is called and seeded by. A killed trial is tried again under a new number,
    but with its ticket; those that follow are seeded as if nothing had been killed.
    """
    if TICKET in trial.user_attrs:
        return int(trial.user_attrs[TICKET])
    n_others = sum(has_no_ticket(t) for t in trials if t.number < trial.number)
    return trial.number - n_others


def has_no_ticket(trial: FrozenTrial) -> bool:
    """Return whether a trial has no ticket of its own: a retry, or one beyond the budget."""
    return "retry_of" in trial.user_attrs or TrialEnd.recorded(trial) == TrialEnd.SURPLUS


class _Numbered(NamedTuple):
    """All that Hyperband asks of a trial: in a study of thousands, copies cost more than the rest
    of its work.
    """

    number: int


class Hyperband(HyperbandPruner):
    """Optuna's Hyperband, in which a trial that was killed and tried again counts once, and keeps
    its bracket.
    """

    def __init__(self, min_resource: int, max_resource: int, reduction_factor: int) -> None:
        check_rungs(min_resource, reduction_factor)
        super().__init__(min_resource, max_resource, reduction_factor)
        study: Any = None  # which Optuna asks only where it has to guess the most epochs
        self._try_initialization(
            study
        )  # now, not at a first epoch, at which two slots may be at once

    def _get_bracket_id(self, study: Study, trial: FrozenTrial) -> int:
        if is_retried(trial):
            return NO_BRACKET
        number = trial.user_attrs.get(TICKET)
        if number is None:
            number = ticket(trial, study._storage.get_all_trials(study._study_id, deepcopy=False))
        numbered: Any = _Numbered(number)
        return super()._get_bracket_id(study, numbered)


class Prepared(NamedTuple):
    """What one trial's suggestions come from.

    Attributes:
        sampler: Built for this trial alone.
        history: The study as it was when the trial was claimed.
        ticket: What the trial is called and seeded by.
    """

    sampler: BaseSampler
    history: History
    ticket: int


class SeededSampler(BaseSampler):
    """An Optuna sampler that is built anew for each trial, and shown the study as it was when the
    trial was claimed.

    A sampler with one fixed seed repeats its draws when a study is resumed, and two workers with
    one seed propose the same point. Here both follow from what is recorded with the trial, so that
    anybody can compute it again.

    Args:
        make: Builds the sampler from a keyword `seed`.
        root_seed: The seed that the person chose.
        per_trial: False where the sampler walks one fixed sequence or grid, which all trials share.
    """

    def __init__(self, make: Callable[..., BaseSampler], root_seed: int, per_trial: bool) -> None:
        self._make, self._root_seed, self._per_trial = make, root_seed, per_trial
        self._any = make(seed=0)
        self._prepared: dict[
            int, Prepared
        ] = {}  # by Optuna's number: slots run many trials at once

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Read the history, and build the sampler for `trial`."""
        prepared = self._prepared[trial.number] = self._prepare(study, trial)
        prepared.sampler.before_trial(self._past(study, prepared), trial)

    def prepare(self, study_name: str, trial: FrozenTrial, history: History) -> BaseSampler:
        """Build and return the sampler for `trial` of a study with this history."""
        number = ticket(trial, history.trials)
        place = ("trial", number) if self._per_trial else ()
        made = self._make(seed=derive(self._root_seed, study_name, "sampler", *place))
        if isinstance(made, Sequential):
            made.begin_at(number, derive(self._root_seed, study_name, "independent", number))
        return made

    def of(self, number: int) -> Prepared:
        """Return what the suggestions of a trial that was claimed here come from, by Optuna's
        number.
        """
        return self._prepared[number]

    def forget(self, number: int) -> None:
        """Drop what a trial that has ended or is paused was suggested from."""
        self._prepared.pop(number, None)

    def _prepare(self, study: Study, trial: FrozenTrial) -> Prepared:
        history = History.now(study)
        made = self.prepare(study.study_name, trial, history)
        return Prepared(made, history, ticket(trial, history.trials))

    def _for(self, study: Study, trial: FrozenTrial) -> tuple[BaseSampler, PastStudy]:
        """A trial that was taken over meanwhile may still ask, before the storage refuses it."""
        prepared = self._prepared.get(trial.number) or self._prepare(study, trial)
        return prepared.sampler, self._past(study, prepared)

    @staticmethod
    def _past(study: Study, prepared: Prepared) -> PastStudy:
        return PastStudy.of(study, prepared.history)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As Optuna's."""
        made, past = self._for(study, trial)
        return made.infer_relative_search_space(past, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As Optuna's."""
        made, past = self._for(study, trial)
        return made.sample_relative(past, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As Optuna's."""
        made, past = self._for(study, trial)
        return made.sample_independent(past, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As Optuna's."""
        self._for(study, trial)[0].after_trial(study, trial, state, values)

    def is_exhausted(self, n_tickets: int) -> bool:
        """Return whether there is no point left after `n_tickets` trials; only a grid ever ends."""
        return isinstance(self._any, Grid) and n_tickets >= self._any.n_points


class Sequential:
    """Mixed into a sampler that walks a fixed sequence: a trial's `place` in it is its ticket.

    Optuna's own count what the study's other trials have taken, so that two workers at once take
    the same.
    """

    place = 0

    def begin_at(self, place: int, seed: int) -> None:
        """Take that place; `seed` is for what the sequence does not cover."""
        self.place = place


class Qmc(Sequential, QMCSampler):
    """Quasi-Monte Carlo: the trial with ticket i takes the i-th point of a Sobol sequence.

    Until a first trial has shown what is searched, points are drawn at random.
    """

    def begin_at(self, place: int, seed: int) -> None:
        """Take that place."""
        super().begin_at(place, seed)
        self._independent_sampler = RandomSampler(seed=seed)

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        return self.place


class Grid(Sequential, GridSampler):
    """A grid in shuffled order: the trial with ticket i takes the i-th point."""

    @property
    def n_points(self) -> int:
        """How many points the grid has."""
        return len(self._all_grids)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Nothing to reserve: no other trial has this ticket."""

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Optuna's only act here is to stop `Study.optimize`, which does not run."""

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the point's value of one hyperparameter."""
        placed = copy.copy(trial)
        placed.system_attrs = {**trial.system_attrs, "grid_id": self.place % self.n_points}
        return super().sample_independent(study, placed, param_name, param_distribution)


def grid(space: Space, n_points: int, seed: int) -> Grid:
    """Return the sampler of a grid with `n_points` per hyperparameter of `space`."""
    return Grid(space.grid(n_points), seed=seed)
