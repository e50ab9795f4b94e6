"""Samplers whose suggestions can be replayed: seeded by (root seed, study, trial), not by how a process has run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import HyperbandPruner
from optuna.samplers import BaseSampler, GridSampler
from optuna.trial import FrozenTrial, TrialState

from hpsearch.seeds import derive
from hpsearch.space import Space

TICKET = "ticket"
RETRIED_REASONS = ("killed", "interrupted", "preempted")  # only the process was at fault
NO_BRACKET = -1


def ticket(study: Study, trial: FrozenTrial) -> int:
    """Return the place of a trial in the study, retries left out: what it is called and seeded by.

    A killed trial is tried again under a new number, but with its ticket; those that follow are seeded as if nothing
    had been killed. The storage is asked, not the study, since pruners hide a part of the trials.
    """
    if TICKET in trial.user_attrs:
        return int(trial.user_attrs[TICKET])
    trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
    return trial.number - sum("retry_of" in t.user_attrs for t in trials if t.number < trial.number)


class Hyperband(HyperbandPruner):
    """Optuna's Hyperband, in which a trial that was killed and tried again counts once, and keeps its bracket."""

    def _get_bracket_id(self, study: Study, trial: FrozenTrial) -> int:
        if trial.user_attrs.get("reason") in RETRIED_REASONS:
            return NO_BRACKET
        numbered = copy.copy(trial)
        numbered.number = ticket(study, trial)
        return super()._get_bracket_id(study, numbered)


class SeededSampler(BaseSampler):
    """An Optuna sampler that is built anew for each trial, with a seed of that trial's own.

    A sampler with one fixed seed repeats its draws when a study is resumed, and two workers with one seed propose the
    same point. Here a suggestion depends on the root seed, the study, the trial and the history alone.

    Args:
        make: Builds the sampler from a keyword `seed`.
        root_seed: The seed that the person chose.
        per_trial: False where the sampler walks one fixed sequence or grid, which all trials share.
    """

    def __init__(self, make: Callable[..., BaseSampler], root_seed: int, per_trial: bool) -> None:
        self._make, self._root_seed, self._per_trial = make, root_seed, per_trial
        self._sampler = make(seed=0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Build the sampler for `trial`."""
        place = ("trial", ticket(study, trial)) if self._per_trial else ()
        self._sampler = self._make(seed=derive(self._root_seed, study.study_name, "sampler", *place))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As Optuna's."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As Optuna's."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As Optuna's."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """As Optuna's; a grid's only act here is to stop `Study.optimize`, which does not run."""
        if not isinstance(self._sampler, GridSampler):
            self._sampler.after_trial(study, trial, state, values)

    def is_exhausted(self, study: Study) -> bool:
        """Return whether every point of a grid has been tried."""
        return isinstance(self._sampler, GridSampler) and self._sampler.is_exhausted(study)


def grid(space: Space, n_points: int, seed: int) -> GridSampler:
    """Return Optuna's sampler of a grid with `n_points` per hyperparameter of `space`."""
    return GridSampler(space.grid(n_points), seed=seed)
