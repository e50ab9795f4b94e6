"""Open the study and the MLflow run of a search, and the space in which it draws.

A study is continued only where its trials can be compared with the new ones, so its recorded
settings and its direction are checked first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import keras_tuner
import yaml

from hpsearch.data.split import SearchData
from hpsearch.errors import ConfigError
from hpsearch.experiments.learning_rate_test import RangeTest, below, middles
from hpsearch.jobs.composed import Plain
from hpsearch.models.moved_names import with_current_names
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.study import SharedStudy
from hpsearch.study.warm_start import WARM_START
from hpsearch.tracking.runs import ParentRun, settings_shown
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.settings import Training
from hpsearch.trials.objective import Objective

# The recorded classes of groups that a person chooses, in words.
_CLASSES = {"arch.class": "model", "optimizer.class": "optimizer", "schedule.class": "schedule"}


@dataclass(frozen=True)
class Opening:
    """A study that a search opens, new or known.

    Attributes:
        study: The study, which remembers its run and the settings that it was made with.
        config: The composed configuration of the search.
    """

    study: SharedStudy
    config: Plain
    # Trials can be compared only where these groups of settings are the same.
    _SETTINGS: ClassVar = ("data", "arch", "optimizer", "training", "schedule", "sparsity", "seed")

    def check_same_settings(
        self,
        fingerprint: str,
        training: Training,
        second_objective: str | None,
    ) -> None:
        """Raise an error where the study has other settings, and record those of a new study.

        Args:
            fingerprint: The fingerprint of the data.
            training: The settings with the direction in effect, which `config` need not have.
            second_objective: The cost that is minimized beside the monitored metric, or None.

        Raises:
            ConfigError: The study was made with other settings or for other objectives.
        """
        of_data = "data.fingerprint"
        mine = {of_data: fingerprint, **settings_shown(self.config, self._SETTINGS)}
        may_change = ("steps_per_call", "jit_compile", "direction")
        of_files = ("data.path", "data.load.path", "data.channel_axis")
        for name in (*of_files, *(f"training.{key}" for key in may_change)):
            mine.pop(name, None)
        if second_objective is not None:
            mine["costs.second_objective"] = second_objective
        study = self.study.optuna
        theirs = with_current_names(study.user_attrs.get("settings"))
        if theirs is None:
            study.set_user_attr("settings", mine)
            theirs = mine
        of_split = "data.n_val"
        if None in (mine.get(of_split), theirs.get(of_split)):
            # A number that null stands for is the same split; the fingerprint tells another one.
            mine.pop(of_split, None)
            theirs = {key: value for key, value in theirs.items() if key != of_split}
        keys = mine.keys() | theirs.keys()
        different = [key for key in keys if mine.get(key) != theirs.get(key)]
        if different:
            # The fingerprint comes last, since other settings of the data change it too. A class
            # comes first, since other classes have other settings.
            key = min(different, key=lambda name: (name == of_data, name not in _CLASSES, name))
            was = _as_named(key, theirs.get(key))
            made = f"with {was}, not {_as_typed(mine.get(key))}"
            if key == of_data:
                was = "the same data"
            raise ConfigError(self._otherwise(made, was))
        goal = Direction.of(study)
        if goal != training.goal:
            made = f"to {goal} {training.monitor}, not to {training.goal}"
            raise ConfigError(self._otherwise(made, f"training.direction={goal}"))

    def _otherwise(self, made: str, back: str) -> str:
        return (
            f"Study {self.study.optuna.study_name} was made {made}; give study.name=NAME to start "
            f"another one, or {back} to go on with this one."
        )

    def parent(
        self,
        tracking: Tracking,
        data: SearchData,
        source: str,
    ) -> ParentRun:
        """Return the MLflow run of the study, and make it where there is none.

        The run keeps the configuration as `config.yaml`.

        Args:
            tracking: The MLflow store.
            data: The data set, which becomes the input of the run.
            source: The place that the data come from.
        """
        study = self.study.optuna
        known = study.user_attrs.get("parent_run_id")
        tags = {"hpsearch.study": study.study_name, "hpsearch.fingerprint": data.fingerprint}
        begun = study.user_attrs.get(WARM_START)
        if begun is not None:
            numbers = ", ".join(f"#{number}" for number in begun["trials"])
            origin = f"{begun['study']} {numbers}"
            if "storage" in begun:
                origin += f" in {begun['storage']}"
            tags[f"hpsearch.{WARM_START}"] = origin
        parent = tracking.open_parent(study.study_name, known, tags)
        if parent.run_id != known:
            study.set_user_attr("parent_run_id", parent.run_id)
            self._log_settings(parent)
            parent.data(data, source)
        text = yaml.safe_dump(dict(self.config), sort_keys=False)
        parent.client.log_text(parent.run_id, text, "config.yaml")
        return parent

    def _log_settings(self, parent: ParentRun) -> None:
        """Log the settings of the search as parameters of its run.

        `mlflow run` has logged the parameters of its command as they were typed, such as `false` or
        `1e-3`. MLflow lets no parameter change, so these are left out.
        """
        run = parent.client.get_run(parent.run_id)
        typed = run.data.params
        others = ("space", "costs", "sampler", "pruner", "uncertainty")
        groups = (*self._SETTINGS, *others)
        lacking = {}
        for key, value in settings_shown(self.config, groups).items():
            if key not in typed:
                lacking[key] = value
        parent.params(lacking)


def _as_named(key: str, value: object) -> str:
    """Return a recorded setting as the command line takes it, or a class in words.

    No single setting gives a class of the record: its group has other settings then, too.
    """
    if key in _CLASSES:
        return f"the {_CLASSES[key]} {value}"
    return f"{key}={_as_typed(value)}"


def _as_typed(value: object) -> object:
    """Return a setting as the command line takes it: None is written `null`."""
    if value is None:
        return "null"
    return value


def recorded_config(tracking: Tracking, run_id: str) -> Plain:
    """Return the composed configuration that `Opening.parent` has written to the run of a study.

    Raises:
        MlflowException: MLflow has no record of it.
        OSError: Its file is gone.
    """
    path = tracking.client.download_artifacts(run_id, "config.yaml")
    text = Path(path).read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    return dict(with_current_names(found))


def tested_space(test: RangeTest, objective: Objective) -> Space:
    """Return the space with the highest learning rate that the learning rate test allows.

    The first worker runs the test, with the other hyperparameters in the middle of their bounds.
    The study remembers the result for the others, and its run shows it. The test's proposal becomes
    the first trial of a study that has none.

    Args:
        test: The settings of the test.
        objective: The trials of the study, which have not begun.
    """
    space = objective.space
    if "learning_rate" not in space.rules:
        return space
    study = objective.study
    known = study.optuna.user_attrs.get("lr_test")
    if known is None:
        values = middles(space)
        hp = keras_tuner.HyperParameters()
        hp.values.update(values)
        seed = objective.seed_of("lr_test")
        hypermodel = objective.make(hp)
        curve = test.curve(objective.trainer, hypermodel, values, seed)
        known = test.advice(space, curve)
        study.optuna.set_user_attr("lr_test", known)
        bounds = known["bounds"]
        shown = {f"lr_test.{name}": value for name, value in bounds.items()}
        objective.parent.params(shown)
        picture = curve.figure()
        objective.parent.file(f"figures/{picture.name}.png", picture.png)
        if known["first"] and not study.trials():
            study.optuna.enqueue_trial(known["first"])
    return below(space, known["bounds"]["high"])
