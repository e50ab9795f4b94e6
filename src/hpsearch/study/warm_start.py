"""Start a study from another one: it tries the best trials of the other study first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypedDict

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import ConfigError, SpaceError
from hpsearch.secrets_in_text import without_secrets
from hpsearch.space.bounds import Value, as_read
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.leases import LEASE, WORKER
from hpsearch.study.other_storage import other_storage, reading_errors, same_place
from hpsearch.study.sampling import TICKET
from hpsearch.study.storage import SharedStorage
from hpsearch.study.study import SharedStudy, check_known, number_of

# The user attribute of a study that names the earlier study, and its storage if that is another
# one. The attribute of the same name of a trial names the trial that its values come from.
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
        direction: Its own direction, by which its trials are ranked.
        values: The hyperparameters of each trial as people read them, by the number of the trial;
            the best trial first.
        place: The storage of the earlier study; None if it is that of the study to begin.
    """

    name: str
    direction: Direction
    values: Mapping[int, Mapping[str, Value]]
    place: str | None = None

    @classmethod
    def of(
        cls,
        name: str,
        storage: BaseStorage,
        n_trials: int,
        place: str | None = None,
    ) -> WarmStart:
        """Read the best trials of a study by its first objective.

        Trials that break a constraint of the study are left out.

        Args:
            name: The name of the study.
            storage: The storage of the study.
            n_trials: The largest number of trials.
            place: The path or URL of the storage if it is another one than that of the study to
                begin.

        Raises:
            ConfigError: There is no such study, or none of its trials has finished within its
                constraints.
        """
        errors: AbstractContextManager[None] = nullcontext()
        if place is not None:
            errors = reading_errors(place)
        with errors:
            check_known(name, storage, " to start from (study.warm_start)")
            study = optuna.load_study(study_name=name, storage=storage)
            direction = Direction.of(study)
            complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not complete:
            raise ConfigError(
                f"No trial of study {name} has finished, so nothing can start from it."
            )
        feasible = [t for t in complete if all(over <= 0 for over in t.constraints.values())]
        if not feasible:
            raise ConfigError(
                f"All finished trials of study {name} break a constraint of it, so nothing can "
                "start from it."
            )
        best = sorted(feasible, key=lambda t: (direction.as_loss(t.values[0]), _number(t)))
        values = {}
        for trial in best[:n_trials]:
            values[_number(trial)] = _values(trial)
        return cls(name, direction, values, place)

    @classmethod
    def asked_for(
        cls,
        settings: WarmSettings,
        own_name: str,
        own_storage: SharedStorage,
    ) -> WarmStart | None:
        """Return the warm start that the settings of a study ask for.

        Args:
            settings: The settings of the study.
            own_name: The name of the study to begin.
            own_storage: The storage of the study to begin.

        Returns:
            None if they ask for none, or if the study has begun with it before; the earlier study
            need not exist any more then.

        Raises:
            ConfigError: The settings or the earlier study do not allow a warm start.
            StorageError: The storage of the earlier study cannot be read.
        """
        check_asked(settings)
        name = settings["warm_start"]
        place = settings["warm_storage"]
        n_trials = settings["n_warm_trials"]
        if not name:
            return None
        if own_name in optuna.get_all_study_names(own_storage):
            own = optuna.load_study(study_name=own_name, storage=own_storage)
            if _same(_origin(own), (name, place)):
                return None
        if not place:
            return cls.of(name, own_storage, n_trials)
        with other_storage(place) as storage:
            return cls.of(name, storage, n_trials, place)

    def begin(
        self,
        study: SharedStudy,
        space: Space,
        asked: Asked,
    ) -> str | None:
        """Let a study without trials try these trials first.

        A study that was begun from the same study before stays as it is. Of each trial, the study
        takes the values that it asks for and that lie within its bounds; the sampler draws the
        rest.

        Args:
            study: The study to begin.
            space: The bounds of the study.
            asked: The hyperparameters of the study's architecture.

        Returns:
            A sentence that says what is taken and what is not; None if the study stays as it is.

        Raises:
            ConfigError: The study was begun in another way, or can use none of the values.
        """
        own = study.optuna
        name = own.study_name
        begun = _origin(own)
        if _same(begun, (self.name, self.place)):
            return None
        if begun is not None or own._storage.get_n_trials(own._study_id):
            raise self._begun_otherwise(name, begun)
        usable = {}
        for number, values in self.values.items():
            params = _usable(values, space, asked)
            if params:
                usable[number] = params
        if not usable:
            raise ConfigError(
                f"Of the best trials of {self.name} nothing lies within the space of study {name}: "
                f"they have {_listed(self._names())}, and the architecture asks for "
                f"{_listed(asked.names)}."
            )
        for number, params in usable.items():
            source = f"{self.name} #{number}"
            own.enqueue_trial(params, user_attrs={WARM_START: source})
        started: dict[str, object] = {"study": self.name, "trials": list(usable)}
        if self.place:
            started["storage"] = same_place(self.place)
        own.set_user_attr(WARM_START, started)
        return self._told(name, usable, asked)

    def _begun_otherwise(
        self,
        name: str,
        begun: tuple[str, str | None] | None,
    ) -> ConfigError:
        how = "without a warm start"
        if begun is not None:
            how = f"from study {_in_place(*begun)}"
        return ConfigError(
            f"Study {name} was begun {how}; give study.name=NAME to start another from "
            f"{_in_place(self.name, self.place)}."
        )

    def _names(self) -> set[str]:
        return {name for values in self.values.values() for name in values}

    def _told(
        self,
        name: str,
        usable: Mapping[int, Mapping[str, Value]],
        asked: Asked,
    ) -> str:
        """Return a sentence that says what a study takes of these trials and what it does not."""
        numbers = ", ".join(f"#{number}" for number in usable)
        parts = [
            f"Study {name} tries first the values of {_in_place(self.name, self.place)} {numbers}, "
            f"the best of a study that should {self.direction} its value"
        ]
        beyond = []
        for number, values in self.values.items():
            taken = {as_read(*stored)[0] for stored in usable.get(number, {}).items()}
            for missed in sorted((values.keys() & asked.names) - taken):
                beyond.append(f"{missed} of #{number}")
        if beyond:
            parts.append(f"what its own bounds fix or do not hold is not taken: {_listed(beyond)}")
        unasked = self._names() - asked.names
        if unasked:
            parts.append(f"the architecture does not ask for {_listed(unasked)}")
        lacking = asked.names - self._names()
        if lacking:
            parts.append(f"{self.name} does not have {_listed(lacking)}")
        return "; ".join(parts) + "."


class WarmSettings(TypedDict):
    """The settings of a warm start; see conf/search.yaml."""

    warm_start: str | None
    warm_storage: str | None
    n_warm_trials: int


def check_asked(settings: WarmSettings) -> None:
    """Raise ConfigError where the settings of a study ask for an impossible warm start."""
    n_trials = settings["n_warm_trials"]
    if not isinstance(n_trials, int) or isinstance(n_trials, bool) or n_trials < 1:
        raise ConfigError(
            "study.n_warm_trials must be a whole number of at least 1, but is "
            f"{json.dumps(n_trials, default=str)}."
        )
    if settings["warm_storage"] and not settings["warm_start"]:
        raise ConfigError(
            "study.warm_storage needs the name of a study in it: study.warm_start=NAME."
        )


def _origin(study: optuna.Study) -> tuple[str, str | None] | None:
    """Return the name and the storage of the study that a study has begun with, or None."""
    recorded = study.user_attrs.get(WARM_START)
    if recorded is None:
        return None
    return recorded["study"], recorded.get("storage")


def _same(
    begun: tuple[str, str | None] | None,
    asked: tuple[str, str | None],
) -> bool:
    """Return whether a study has begun with the study that is asked for, however it is spelled."""
    if begun is None:
        return False
    return begun[0] == asked[0] and same_place(begun[1]) == same_place(asked[1])


def _in_place(name: str, place: str | None) -> str:
    if place is None:
        return name
    return f"{name} in {without_secrets(place)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _is_own(trial: FrozenTrial) -> bool:
    """Return whether a worker of hpsearch has run a trial, rather than another program."""
    return {WORKER, LEASE, TICKET} <= trial.user_attrs.keys()


def _number(trial: FrozenTrial) -> int:
    if _is_own(trial):
        return number_of(trial)
    return trial.number


def _values(trial: FrozenTrial) -> dict[str, Value]:
    """Return the hyperparameters of a trial as people read them."""
    if _is_own(trial):
        return Space({}).values(trial)
    return dict(trial.params)


def _usable(
    values: Mapping[str, Value],
    space: Space,
    asked: Asked,
) -> dict[str, Value]:
    """Return the values that a study asks for and could draw, as it stores them."""
    params: dict[str, Value] = {}
    for name, value in values.items():
        if name not in asked.names or not isinstance(value, Value):
            continue
        try:
            stored = space.params({name: value})
        except SpaceError:
            continue
        for key, kept in stored.items():
            distribution = asked.distributions.get(key)
            if _could_draw(distribution, kept):
                params[key] = _as_drawn(distribution, kept)
    return params


def _as_drawn(distribution: BaseDistribution | None, value: Value) -> Value:
    """Return a value in the type that a distribution draws, such as 3 for 3.0."""
    if distribution is None:
        return value
    internal = distribution.to_internal_repr(value)
    drawn: Value = distribution.to_external_repr(internal)
    return drawn


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
