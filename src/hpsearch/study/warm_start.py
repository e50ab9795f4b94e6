"""A study that begins where another one ended: the best trials of that one are tried first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from hpsearch.errors import ConfigError, SpaceError, did_you_mean
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.storage import SharedStorage
from hpsearch.study.study import SharedStudy, number_of, ranked

# names, with the study, whence it was begun; with a trial, whence it has its values
WARM_START = "warm_start"
NO_BOUNDS = Space({})


@dataclass(frozen=True)
class Asked:
    """What an architecture asks for: all names, and what is drawn for those that one build has
    drawn.
    """

    names: frozenset[str]
    distributions: Mapping[str, BaseDistribution]


@dataclass(frozen=True)
class WarmStart:
    """The best finished trials of a study, to begin another one with.

    Attributes:
        name: The earlier study's.
        values: Hyperparameters as people read them, by the trial's number, the best first.
    """

    name: str
    values: Mapping[int, Mapping[str, Any]]

    @classmethod
    def of(cls, name: str, storage: SharedStorage, n_trials: int) -> WarmStart:
        """Read the best `n_trials` of a study.

        Raises:
            ConfigError: There is no such study, or none of its trials has finished.
        """
        names = [study.study_name for study in storage.get_all_studies()]
        if name not in names:
            there = did_you_mean(name, names) if names else " It has no studies at all."
            raise ConfigError(
                f"There is no study {name} in this storage to start from (study.warm_start).{there}"
            )
        study = optuna.load_study(study_name=name, storage=storage)
        best = ranked(
            study.get_trials(deepcopy=False),
            Direction.of(study),
        )
        if not best:
            raise ConfigError(
                f"No trial of study {name} has finished, so nothing can start from it."
            )
        return cls(name, {number_of(trial): NO_BOUNDS.values(trial) for trial in best[:n_trials]})

    def begin(self, study: SharedStudy, space: Space, asked: Asked) -> None:
        """Let a study that has no trials yet try these first; one that was begun so already stays
        as it is.

        Of each trial it takes what this study asks for and its bounds hold; the sampler draws the
        rest.

        Raises:
            ConfigError: The study was begun otherwise, or can use nothing of it.
        """
        name, known = study.optuna.study_name, study.optuna.user_attrs.get(WARM_START)
        if known is not None and known["study"] == self.name:
            return
        if known is not None or study.optuna._storage.get_n_trials(study.optuna._study_id):
            begun = f"from study {known['study']}" if known else "without a warm start"
            raise ConfigError(
                f"Study {name} was begun {begun}; give study.name=NAME to start another from "
                f"{self.name}."
            )
        usable = {number: _usable(values, space, asked) for number, values in self.values.items()}
        usable = {number: params for number, params in usable.items() if params}
        if not usable:
            raise ConfigError(
                f"Of the best trials of {self.name} nothing lies within the space of study {name}."
            )
        for number, params in usable.items():
            study.optuna.enqueue_trial(params, user_attrs={WARM_START: f"{self.name} #{number}"})
        study.optuna.set_user_attr(WARM_START, {"study": self.name, "trials": list(usable)})


def _usable(values: Mapping[str, Any], space: Space, asked: Asked) -> dict[str, Any]:
    """Return what a study stores of `values`, without what it does not ask for or would not draw."""
    params: dict[str, Any] = {}
    for name, value in values.items():
        if name in asked.names:
            try:
                stored = space.params({name: value})
            except SpaceError:
                continue
            params |= {
                key: kept
                for key, kept in stored.items()
                if _holds(asked.distributions.get(key), kept)
            }
    return params


def _holds(distribution: BaseDistribution | None, value: Any) -> bool:
    """Return whether a distribution could draw a value; None is one that is drawn under a
    condition.
    """
    try:
        return distribution is None or bool(
            distribution._contains(distribution.to_internal_repr(value))
        )
    except ValueError:  # a choice that is none
        return False
