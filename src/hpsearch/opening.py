"""Opens what a search runs in: a study and its parent run that fit its settings, a space that its data have bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras_tuner
import yaml

from hpsearch.data.split import SearchData
from hpsearch.errors import ConfigError
from hpsearch.reports import figures
from hpsearch.spaces.space import Space
from hpsearch.studies.study import SharedStudy, maximizes
from hpsearch.studies.warm_start import WARM_START
from hpsearch.tracking.runs import ParentRun
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.range_test import RangeTest, advice, below, middles
from hpsearch.training.settings import MAXIMIZE, MINIMIZE, Training
from hpsearch.training.trainer import Trainer
from hpsearch.trials.objective import settings_shown

SETTINGS_OF_A_STUDY = ("data", "arch", "optimizer", "training", "schedule", "sparsity", "seed")
SETTINGS_OF_A_SEARCH = (*SETTINGS_OF_A_STUDY, "space", "costs", "sampler", "pruner", "uncertainty")
FREE_SETTINGS = (
    "data.path",
    "data.load.path",
    "training.steps_per_call",
    "training.jit_compile",
    "training.direction",  # what counts is which way it is, see `check_same_direction`
)
FINGERPRINT, OBJECTIVE = "data.fingerprint", "costs.second_objective"


def check_same_settings(study: SharedStudy, config: Mapping[str, Any], fingerprint: str) -> None:
    """Trials are comparable only where data, architecture and training are the same; refuse to mix others in.

    Raises:
        ConfigError: The study was made with other settings, or for other objectives.
    """
    mine = {FINGERPRINT: fingerprint, **settings_shown(config, SETTINGS_OF_A_STUDY)}
    mine = {key: value for key, value in mine.items() if key not in FREE_SETTINGS}
    if config["costs"]["second_objective"] is not None:
        mine[OBJECTIVE] = config["costs"]["second_objective"]
    theirs = study.optuna.user_attrs.get("settings")
    if theirs is None:
        study.optuna.set_user_attr("settings", mine)
        return
    name = study.optuna.study_name
    for key in sorted(mine.keys() | theirs.keys(), key=lambda k: (k == FINGERPRINT, k)):
        if mine.get(key) != theirs.get(key):
            was, now = ("null" if value is None else value for value in (theirs.get(key), mine.get(key)))
            back = "the same data" if key == FINGERPRINT else f"{key}={was}"
            raise ConfigError(
                f"Study {name} was made with {key}={was}, not {now}; "
                f"give study.name=NAME to start another one, or {back} to go on with this one."
            )


def check_same_direction(study: SharedStudy, training: Training) -> None:
    """Refuse to go on with a study that takes for better what is worse now.

    Raises:
        ConfigError: The monitored metric was maximized and is to be minimized, or vice versa.
    """
    theirs = maximizes(study.optuna)
    if theirs != training.maximize:
        was, now = (MAXIMIZE, MINIMIZE) if theirs else (MINIMIZE, MAXIMIZE)
        raise ConfigError(
            f"Study {study.optuna.study_name} was made to {was} {training.monitor}, not to {now}; "
            f"give study.name=NAME to start another one, or training.direction={was} to go on with "
            "this one."
        )


def open_parent(
    study: SharedStudy, tracking: Tracking, data: SearchData, source: str, config: Mapping[str, Any]
) -> ParentRun:
    """Open the study's run, or make it.

    Args:
        study: It remembers its run.
        tracking: The MLflow store.
        data: The run's input.
        source: Where the data come from.
        config: The composed configuration, for the record.
    """
    known, name = study.optuna.user_attrs.get("parent_run_id"), study.optuna.study_name
    tags = {"hpsearch.study": name, "hpsearch.fingerprint": data.fingerprint}
    if (begun := study.optuna.user_attrs.get(WARM_START)) is not None:
        tags[f"hpsearch.{WARM_START}"] = f"{begun['study']} " + ", ".join(f"#{number}" for number in begun["trials"])
    parent = tracking.open_parent(name, known, tags)
    if parent.run_id != known:
        study.optuna.set_user_attr("parent_run_id", parent.run_id)
        typed = parent.client.get_run(parent.run_id).data.params  # by `mlflow run`, as `false` and 1e-3, for good
        shown = settings_shown(config, SETTINGS_OF_A_SEARCH)
        parent.params({key: value for key, value in shown.items() if key not in typed})
        parent.data(data, source)
    parent.client.log_text(parent.run_id, yaml.safe_dump(dict(config), sort_keys=False), "config.yaml")
    return parent


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
    """Return the space as the learning rate test bounds it; the first worker tests, the study remembers.

    Args:
        test: Its settings.
        space: Bounds the other hyperparameters, whose middles are tested with.
        study: Remembers the result, and is given a first trial.
        parent: Shows it.
        trainer: Trains.
        make: Returns the HyperModel for some hyperparameters.
        seed: Of weights, order and masks.
    """
    if "learning_rate" not in space.rules:
        return space
    known = study.optuna.user_attrs.get("lr_test")
    if known is None:
        hp = keras_tuner.HyperParameters()
        hp.values.update(middles(space))
        curve = test.measure(trainer, make(hp), space, seed)
        known = advice(test, space, curve)
        study.optuna.set_user_attr("lr_test", known)
        parent.params({f"lr_test.{name}": value for name, value in known["bounds"].items()})
        picture = figures.range_test(curve)
        parent.file(f"figures/{picture.name}.png", picture.png)
        if known["first"] and not study.trials():
            study.optuna.enqueue_trial(known["first"])
    return below(space, known["bounds"]["high"])
