"""Open the study and the MLflow run of a search, and the space in which it draws.

A study is continued only where its trials can be compared with the new ones, so its recorded
settings and its direction are checked first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras_tuner
import yaml

from hpsearch.data.split import SearchData
from hpsearch.errors import ConfigError
from hpsearch.experiments.learning_rate_test import RangeTest, below, middles
from hpsearch.models.moved_names import with_current_names
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.study import SharedStudy
from hpsearch.study.warm_start import WARM_START
from hpsearch.tracking.runs import ParentRun, settings_shown
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.settings import Training
from hpsearch.training.trainer import Trainer

_SETTINGS_OF_A_STUDY = ("data", "arch", "optimizer", "training", "schedule", "sparsity", "seed")


def check_same_settings(
    study: SharedStudy,
    config: Mapping[str, object],
    fingerprint: str,
    second_objective: str | None,
) -> None:
    """Raise an error where a study was made with other settings, and record those of a new study.

    Trials can be compared only where data, architecture and training are the same.

    Args:
        study: The study, which remembers the settings it was made with.
        config: The composed configuration.
        fingerprint: The fingerprint of the data.
        second_objective: The cost that is minimized beside the monitored metric, or None.

    Raises:
        ConfigError: The study was made with other settings or for other objectives.
    """
    of_data = "data.fingerprint"
    mine = {of_data: fingerprint, **settings_shown(config, _SETTINGS_OF_A_STUDY)}
    # Settings that may change while a study goes on. `check_same_direction` compares the direction
    # in effect, which need not be the one in the setting.
    for name in (
        "data.path",
        "data.load.path",
        "training.steps_per_call",
        "training.jit_compile",
        "training.direction",
    ):
        mine.pop(name, None)
    if second_objective is not None:
        mine["costs.second_objective"] = second_objective
    theirs = with_current_names(study.optuna.user_attrs.get("settings"))
    if theirs is None:
        study.optuna.set_user_attr("settings", mine)
        return
    different = []
    for key in mine.keys() | theirs.keys():
        if mine.get(key) != theirs.get(key):
            different.append(key)
    if not different:
        return
    # The fingerprint comes last, since other settings of the data change it too.
    key = min(different, key=lambda name: (name == of_data, name))
    was = _as_typed(theirs.get(key))
    back = f"{key}={was}"
    if key == of_data:
        back = "the same data"
    raise ConfigError(
        f"Study {study.optuna.study_name} was made with {key}={was}, not "
        f"{_as_typed(mine.get(key))}; give study.name=NAME to start another one, or {back} to go "
        "on with this one."
    )


def _as_typed(value: object) -> object:
    """Return a setting as the command line takes it: None is written `null`."""
    if value is None:
        return "null"
    return value


def check_same_direction(study: SharedStudy, training: Training) -> None:
    """Raise an error where a study was made with the opposite direction of the monitored metric.

    Raises:
        ConfigError: The metric was maximized and is to be minimized, or the other way round.
    """
    was = Direction.of(study.optuna)
    now = training.goal
    if was != now:
        raise ConfigError(
            f"Study {study.optuna.study_name} was made to {was} {training.monitor}, not to {now}; "
            f"give study.name=NAME to start another one, or training.direction={was} to go on with "
            "this one."
        )


def open_parent(
    study: SharedStudy,
    tracking: Tracking,
    data: SearchData,
    source: str,
    config: Mapping[str, object],
) -> ParentRun:
    """Return the MLflow run of a study, and make it where there is none.

    Args:
        study: The study, which remembers its run.
        tracking: The MLflow store.
        data: The data set, which becomes the input of the run.
        source: The place that the data come from.
        config: The composed configuration, which the run keeps as `config.yaml`.
    """
    known = study.optuna.user_attrs.get("parent_run_id")
    tags = _tags_of(study, data)
    parent = tracking.open_parent(study.optuna.study_name, known, tags)
    if parent.run_id != known:
        study.optuna.set_user_attr("parent_run_id", parent.run_id)
        _log_settings(parent, config)
        parent.data(data, source)
    text = yaml.safe_dump(dict(config), sort_keys=False)
    parent.client.log_text(parent.run_id, text, "config.yaml")
    return parent


def _tags_of(study: SharedStudy, data: SearchData) -> dict[str, str]:
    tags = {"hpsearch.study": study.optuna.study_name, "hpsearch.fingerprint": data.fingerprint}
    begun = study.optuna.user_attrs.get(WARM_START)
    if begun is not None:
        numbers = ", ".join(f"#{number}" for number in begun["trials"])
        tags[f"hpsearch.{WARM_START}"] = f"{begun['study']} {numbers}"
    return tags


def _log_settings(parent: ParentRun, config: Mapping[str, object]) -> None:
    """Log the settings of a search as parameters of its run.

    `mlflow run` has logged the parameters of its command as they were typed, such as `false` or
    `1e-3`. MLflow lets no parameter change, so these are left out.
    """
    typed = parent.client.get_run(parent.run_id).data.params
    others = ("space", "costs", "sampler", "pruner", "uncertainty")
    shown = settings_shown(config, (*_SETTINGS_OF_A_STUDY, *others))
    parent.params({key: value for key, value in shown.items() if key not in typed})


def tested_space(
    test: RangeTest,
    space: Space,
    *,
    study: SharedStudy,
    parent: ParentRun,
    trainer: Trainer,
    make: Callable[[keras_tuner.HyperParameters], keras_tuner.HyperModel],
    seed: int,
) -> Space:
    """Return the space with the highest learning rate that the learning rate test allows.

    The first worker runs the test. The study remembers the result for the others. The test's
    proposal becomes the first trial of a study that has none.

    Args:
        test: The settings of the test.
        space: The bounds; the test uses the middle of those of the other hyperparameters.
        study: The study, which remembers the result.
        parent: The run of the study, which shows the result.
        trainer: Trains the model of the test.
        make: Returns the HyperModel for some hyperparameters.
        seed: The seed of weights, order of the images and dropout masks.
    """
    if "learning_rate" not in space.rules:
        return space
    known = study.optuna.user_attrs.get("lr_test")
    if known is None:
        values = middles(space)
        hp = keras_tuner.HyperParameters()
        hp.values.update(values)
        curve = test.curve(trainer, make(hp), values, seed)
        known = test.advice(space, curve)
        study.optuna.set_user_attr("lr_test", known)
        bounds = known["bounds"]
        parent.params({f"lr_test.{name}": value for name, value in bounds.items()})
        picture = curve.figure()
        parent.file(f"figures/{picture.name}.png", picture.png)
        if known["first"] and not study.trials():
            study.optuna.enqueue_trial(known["first"])
    return below(space, known["bounds"]["high"])
