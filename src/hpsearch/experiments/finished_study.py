"""Studies that have been searched: their best trials, with the settings that those were trained
with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import yaml
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
        name: The study's.
        trials: Its finished trials, the best first.
        parent_run_id: Its run.
        settings: What its trials share, by path, such as `data.fingerprint`.
        direction: Whether it was to minimize or to maximize.
    """

    name: str
    trials: list[FrozenTrial]
    parent_run_id: str
    settings: Mapping[str, Any]
    direction: str

    @staticmethod
    def hyperparameters(trial: FrozenTrial, config: Mapping[str, Any]) -> dict[str, Value]:
        """Return what a trial drew and what the bounds of the search's configuration fixed, as
        people read it.
        """
        return Space(config["space"]["bounds"]).values(trial)

    def config(self, tracking: Tracking) -> dict[str, Any]:
        """Return the composed configuration that the search was started with."""
        text = tracking.client.download_artifacts(self.parent_run_id, "config.yaml")
        with open(text) as file:
            found: dict[str, Any] = with_current_names(yaml.safe_load(file))
        return found


def find(name: str, storage: optuna.storages.BaseStorage) -> FinishedStudy:
    """Return a study that has finished trials.

    Raises:
        ConfigError: There is none; the sentence names those that there are.
    """
    check_known(name, storage)
    study = optuna.load_study(study_name=name, storage=storage)
    best = ranked(study.get_trials(deepcopy=False), Direction.of(study))
    if not best:
        raise ConfigError(
            f"No trial of study {name} has finished yet; the command that started it goes on with "
            f"it."
        )
    attrs, direction = study.user_attrs, Direction.of(study)
    run_id = attrs.get("parent_run_id", "")
    return FinishedStudy(
        name, best, run_id, with_current_names(attrs.get("settings", {})), direction
    )
