"""Open the study and the MLflow run of a search, and the space in which it draws.

A study is continued only where its trials can be compared with the new ones, so its recorded
settings and its direction are checked first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import keras_tuner
import yaml

from hpsearch.data.split import SearchData
from hpsearch.errors import ConfigError
from hpsearch.experiments.learning_rate_test import RangeTest, below, middles
from hpsearch.jobs.composed import Plain
from hpsearch.models.moved_names import with_current_names
from hpsearch.space.space import Space
from hpsearch.study.changed_bounds import Bounds
from hpsearch.study.direction import Direction
from hpsearch.study.storage import SharedStorage
from hpsearch.study.study import SharedStudy
from hpsearch.study.warm_start import WARM_START
from hpsearch.tracking.runs import ParentRun, settings_shown
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.settings import Training
from hpsearch.trials.objective import Objective

# The recorded classes of groups that a person chooses, in words.
_CLASSES = {
    "arch.class": "model",
    "optimizer.class": "optimizer",
    "schedule.class": "schedule",
    "sampler.make.class": "sampler",
    "pruner.class": "pruner",
}


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
    # These decide what is drawn and what is stopped. Studies of earlier versions lack them.
    _OF_TRIALS: ClassVar = ("sampler", "pruner", "costs", "lr_test")

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
        of_files = ("data.path", "data.load.path", "data.channel_axis", "data.range")
        for name in (*of_files, *(f"training.{key}" for key in may_change)):
            mine.pop(name, None)
        if second_objective is not None:
            mine["costs.second_objective"] = second_objective
        study = self.study.optuna
        recorded = study.user_attrs.get("settings")
        # Earlier versions had no calibration part, and collected no moments.
        unrecorded = {"data.n_calibration": 0, "training.swag": False}
        mine = {**unrecorded, **mine}
        theirs = {**unrecorded, **(with_current_names(recorded) or mine)}
        mine = {**mine, **self._of_trials()}
        if "lr_test" not in theirs:
            theirs = {**theirs, **self._of_trials()}
        keys = mine.keys() | theirs.keys()
        different = [key for key in keys if not _are_same(key, mine, theirs)]
        if different:
            key = min(different, key=self._rank)
            was = _as_named(key, theirs.get(key))
            made = f"with {was}, not {_as_typed(mine.get(key))}"
            if key == of_data:
                was = "the same data"
            elif key in _CLASSES:
                was = f"the same {_CLASSES[key]} as then"
            raise ConfigError(self._otherwise(made, was))
        self._check_direction(training)
        if recorded is None or "lr_test" not in recorded:
            study.set_user_attr("settings", theirs)

    def _rank(self, key: str) -> tuple[bool, bool, bool, str]:
        """Return what sorts the keys of changed settings, the one that is the cause first.

        The fingerprint comes last, since other settings of the data change it too. A class comes
        first, since other classes have other settings. A pruner's settings follow from others.
        """
        is_of_trials = key.partition(".")[0] in self._OF_TRIALS
        return key == "data.fingerprint", is_of_trials, key not in _CLASSES, key

    def _check_direction(self, training: Training) -> None:
        goal = Direction.of(self.study.optuna)
        if goal != training.goal:
            made = f"to {goal} {training.monitor}, not to {training.goal}"
            raise ConfigError(self._otherwise(made, f"training.direction={goal}"))

    def _otherwise(self, made: str, back: str) -> str:
        return (
            f"Study {self.study.optuna.study_name} was made {made}; give study.name=NAME to start "
            f"another one, or {back} to go on with this one."
        )

    def _of_trials(self) -> dict[str, object]:
        """Return the settings that decide what is drawn and what is stopped."""
        shown = settings_shown(self.config, self._OF_TRIALS)
        # The choice of a version and the way of measuring change no trial.
        others = ("costs.tolerance", "costs.n_images", "costs.n_repeats", "costs.second_objective")
        return {key: value for key, value in shown.items() if key not in others}

    def check_same_bounds(self, may_change: bool, say: Callable[[str], None]) -> bool:
        """Raise an error where the study has other bounds; return whether they are changed now.

        Args:
            may_change: Whether the study goes on with changed bounds.
            say: Takes a sentence for the person.

        Raises:
            ConfigError: The study was made with other bounds, and they must not change.
        """
        shown = settings_shown(self.config, ("space",))
        bounds = {key: value for key, value in shown.items() if key.startswith("space.bounds.")}
        return Bounds(bounds).check_unchanged(self.study, may_change, say)

    def parent(
        self,
        tracking: Tracking,
        data: SearchData,
        source: str,
        *,
        has_new_bounds: bool,
    ) -> ParentRun:
        """Return the MLflow run of the study, and make it where there is none.

        The run keeps the configuration as `config.yaml`: that of the command that began the study,
        or of the last one that gave it other bounds or more trials. Other workers do not write it.

        Args:
            tracking: The MLflow store.
            data: The data set, which becomes the input of the run.
            source: The place that the data come from.
            has_new_bounds: Whether the study goes on with other bounds from now on.
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
        n_trials = self.config["budget"]["n_trials"]
        n_before = study.user_attrs.get("n_trials", 0)
        if parent.run_id != known:
            study.set_user_attr("parent_run_id", parent.run_id)
            self._log_settings(parent)
            parent.data(data, source)
        elif n_trials <= n_before and not has_new_bounds:
            return parent
        study.set_user_attr("n_trials", max(n_trials, n_before))
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


def known_run(name: str, storage: SharedStorage) -> str | None:
    """Return the id of the MLflow run that a study has recorded; None where there is none.

    Args:
        name: The name of the study, which need not exist.
        storage: The storage of the study.
    """
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return None
    run_id: str | None = storage.get_study_user_attrs(study_id).get("parent_run_id")
    return run_id


def _are_same(key: str, mine: Mapping[str, object], theirs: Mapping[str, object]) -> bool:
    """Return whether a setting of a search is that of its study."""
    values = (mine.get(key), theirs.get(key))
    # A number that null stands for is the same split; the fingerprint tells another one.
    if key == "data.n_val" and None in values:
        return True
    if key == "data.n_calibration" and None in values:
        of_data = "data.fingerprint"
        return values == (None, None) or mine.get(of_data) == theirs.get(of_data)
    return values[0] == values[1]


def _as_named(key: str, value: object) -> str:
    """Return a recorded setting as the command line takes it, or a class in words.

    No single setting gives a class of the record: its group has other settings then, too.
    """
    if key in _CLASSES:
        return f"the {_CLASSES[key]} {value}"
    # A grid has the bounds of the search among its own settings.
    typed = key.replace("sampler.make.space.", "space.")
    return f"{typed}={_as_typed(value)}"


def _as_typed(value: object) -> object:
    """Return a setting as the command line takes it: None is written `null`, True `true`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return value


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
