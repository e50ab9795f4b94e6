"""Start a study from another one: it tries the best trials of the other study first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution

from hpsearch.errors import ConfigError, SpaceError
from hpsearch.space.bounds import Value
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.storage import SharedStorage
from hpsearch.study.study import SharedStudy, check_known, number_of, ranked

# The user attribute of a study that names the earlier study. The attribute of the same name of a
# trial names the trial that its values come from.
WARM_START = "warm_start"


@dataclass(frozen=True)
class Asked:
    """The hyperparameters of an architecture.

    Attributes:
        names: The names of all hyperparameters.
        distributions: The distribution of each one that a build has drawn, by its name.
    """

    names: frozenset[str]
    distributions: Mapping[str, BaseDistribution]


@dataclass(frozen=True)
class WarmStart:
    """The best finished trials of a study, with which another study begins.

    Attributes:
        name: The name of the earlier study.
        values: The hyperparameters of each trial as people read them, by the number of the trial;
            the best trial first.
    """

    name: str
    values: Mapping[int, Mapping[str, Value]]

    @classmethod
    def of(
        cls,
        name: str,
        storage: SharedStorage,
        n_trials: int,
    ) -> WarmStart:
        """Read the best trials of a study.

        Args:
            name: The name of the study.
            storage: The storage of the study.
            n_trials: The largest number of trials.

        Raises:
            ConfigError: There is no such study, or none of its trials has finished.
        """
        check_known(name, storage, " to start from (study.warm_start)")
        study = optuna.load_study(study_name=name, storage=storage)
        trials = study.get_trials(deepcopy=False)
        best = ranked(trials, Direction.of(study))
        if not best:
            raise ConfigError(
                f"No trial of study {name} has finished, so nothing can start from it."
            )
        without_bounds = Space({})
        values = {}
        for trial in best[:n_trials]:
            values[number_of(trial)] = without_bounds.values(trial)
        return cls(name, values)

    def begin(
        self,
        study: SharedStudy,
        space: Space,
        asked: Asked,
    ) -> None:
        """Let a study without trials try these trials first.

        A study that was begun from the same study before stays as it is. Of each trial, the study
        takes the values that it asks for and that lie within its bounds; the sampler draws the
        rest.

        Args:
            study: The study to begin.
            space: The bounds of the study.
            asked: The hyperparameters of the study's architecture.

        Raises:
            ConfigError: The study was begun in another way, or can use none of the values.
        """
        own = study.optuna
        name = own.study_name
        recorded = own.user_attrs.get(WARM_START, {})
        origin = recorded.get("study")
        if origin == self.name:
            return
        if origin is not None or own._storage.get_n_trials(own._study_id):
            begun = "without a warm start"
            if origin is not None:
                begun = f"from study {origin}"
            raise ConfigError(
                f"Study {name} was begun {begun}; give study.name=NAME to start another from "
                f"{self.name}."
            )
        usable = {}
        for number, values in self.values.items():
            params = _usable(values, space, asked)
            if params:
                usable[number] = params
        if not usable:
            raise ConfigError(
                f"Of the best trials of {self.name} nothing lies within the space of study {name}."
            )
        for number, params in usable.items():
            source = f"{self.name} #{number}"
            own.enqueue_trial(params, user_attrs={WARM_START: source})
        started = {"study": self.name, "trials": list(usable)}
        own.set_user_attr(WARM_START, started)


def _usable(
    values: Mapping[str, Value],
    space: Space,
    asked: Asked,
) -> dict[str, Value]:
    """Return the values that a study asks for and could draw, as it stores them."""
    params: dict[str, Value] = {}
    for name, value in values.items():
        if name not in asked.names:
            continue
        try:
            stored = space.params({name: value})
        except SpaceError:
            continue
        for key, kept in stored.items():
            if _could_draw(asked.distributions.get(key), kept):
                params[key] = kept
    return params


def _could_draw(distribution: BaseDistribution | None, value: Value) -> bool:
    """Return whether a distribution could draw a value.

    The distribution is None if the hyperparameter is drawn only under a condition; then any value
    will do.
    """
    if distribution is None:
        return True
    try:
        internal = distribution.to_internal_repr(value)
        return distribution._contains(internal)
    except ValueError:  # the value is not among the choices
        return False
