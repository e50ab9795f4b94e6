"""A study that has been searched, with its best trials and the settings that they had.

An ablation takes hyperparameters from such a study. A comparison trains its best trials again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from hpsearch.errors import ConfigError
from hpsearch.models.moved_names import with_current_names
from hpsearch.space.bounds import Value
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.study import check_known, ranked
from hpsearch.tracking.tracking import Tracking


@dataclass(frozen=True)
class FinishedStudy:
    """A study with at least one finished trial.

    Attributes:
        name: The name of the study.
        trials: The finished trials, the best first.
        parent_run_id: The run of the study.
        settings: The settings that all trials share, by path, such as `data.fingerprint`.
        direction: Whether the monitored metric was minimized or maximized.
    """

    name: str
    trials: list[FrozenTrial]
    parent_run_id: str
    settings: Mapping[str, object]
    direction: Direction

    @classmethod
    def find(cls, name: str, storage: optuna.storages.BaseStorage) -> FinishedStudy:
        """Return a study of a storage that has finished trials.

        Raises:
            ConfigError: There is no such study. The message names the studies that there are.
        """
        check_known(name, storage)
        study = optuna.load_study(study_name=name, storage=storage)
        direction = Direction.of(study)
        best = ranked(study.get_trials(deepcopy=False), direction)
        if not best:
            raise ConfigError(
                f"No trial of study {name} has finished yet; the command that started it goes on "
                "with it."
            )
        attrs = study.user_attrs
        run_id = attrs.get("parent_run_id", "")
        settings = with_current_names(attrs.get("settings", {}))
        return cls(name, best, run_id, settings, direction)

    def config(self, tracking: Tracking) -> dict[str, Any]:
        """Return the composed configuration that the search was started with."""
        return tracking.config_of_study(self.name, self.parent_run_id)

    @staticmethod
    def hyperparameters(trial: FrozenTrial, config: Mapping[str, Any]) -> dict[str, Value]:
        """Return what a trial drew and what was fixed, by the names that people read.

        Args:
            trial: A trial of the study.
            config: The configuration of the search.
        """
        bounds = config["space"]["bounds"]
        return Space(bounds).values(trial)
