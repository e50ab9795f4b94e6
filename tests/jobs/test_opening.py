"""A study is opened again only with the settings that decide what its trials are."""

import shutil
from copy import deepcopy

import pytest
import yaml

from hpsearch.errors import ConfigError
from hpsearch.jobs.opening import Opening
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.settings import Training
from small_study import study_in, suggested
from small_training import SETTINGS, search_data

CONFIG = {
    "data": {"name": "digits"},
    "training": {"epochs": 6},
    "seed": 42,
    "space": {"bounds": {"learning_rate": {"low": 1e-4, "high": 5e-3, "scale": "log"}}},
    "sampler": {"make": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 5}},
    "pruner": {"_target_": "hpsearch.study.pruners.Hyperband", "max_resource": 6},
    "costs": {"constraints": {"n_parameters": None}, "tolerance": 0.1},
    "lr_test": False,
    "budget": {"n_trials": 4},
    "uncertainty": {"n_samples": 100},
}
OTHER_SAMPLER = {"make": {"_target_": "optuna.samplers.RandomSampler"}}
WIDER = {"bounds": {"learning_rate": {"low": 1e-4, "high": 0.1, "scale": "log"}}}


@pytest.fixture(name="study")
def study_with_a_trial(tmp_path):
    study = study_in(tmp_path, n_trials=9)
    check(study)
    trial = study.claim()
    study.complete(trial, suggested(trial)["learning_rate"])
    return study


@pytest.fixture(name="tracking")
def store(tmp_path, mlflow_tables):
    shutil.copy(mlflow_tables, tmp_path / "mlflow.db")
    tracking = Tracking(f"sqlite:///{tmp_path}/mlflow.db", "opening", str(tmp_path), 1.0, 1.0)
    yield tracking
    tracking.close(5.0)


def opening(study, **changes):
    return Opening(study, {**deepcopy(CONFIG), **changes})


def check(study, may_change=False, **changes):
    found = opening(study, **changes)
    found.check_same_settings("f", Training(**SETTINGS), None)
    return found.check_same_bounds(may_change, lambda sentence: None)


@pytest.mark.parametrize(
    ("changes", "made"),
    [
        ({"sampler": OTHER_SAMPLER}, "the sampler optuna.samplers.TPESampler, not optuna.samplers"),
        (
            {"sampler": {"make": {**CONFIG["sampler"]["make"], "n_startup_trials": 9}}},
            "sampler.make.n_startup_trials=5, not 9",
        ),
        ({"pruner": None}, "the pruner hpsearch.study.pruners.Hyperband, not null"),
        (
            {"training": {"epochs": 7}, "pruner": {**CONFIG["pruner"], "max_resource": 7}},
            "training.epochs=6, not 7",
        ),
        ({"costs": {"constraints": {"n_parameters": 9}}}, "costs.constraints.n_parameters=null"),
        ({"lr_test": True}, "lr_test=false, not true"),
    ],
)
def test_settings_that_decide_about_trials_are_refused(study, changes, made):
    with pytest.raises(ConfigError, match=f"was made with {made}"):
        check(study, **changes)
    assert not check(study)


def test_a_grid_keeps_its_bounds_which_are_named_as_they_are_typed(tmp_path):
    def grid(space):
        return {"make": {"_target_": "hpsearch.study.sampling.Grid", "space": space}}

    study = study_in(tmp_path, n_trials=9)
    check(study, sampler=grid(CONFIG["space"]))
    said = "with space.bounds.learning_rate.high=0.005, not 0.1; give study.name=NAME .*, or space."
    with pytest.raises(ConfigError, match=said):
        check(study, may_change=True, sampler=grid(WIDER), space=WIDER)


def test_settings_that_decide_about_no_trial_may_differ(study):
    costs = {"constraints": {"n_parameters": None}, "tolerance": 0.3}
    assert not check(study, costs=costs, uncertainty={"n_samples": 3}, budget={"n_trials": 9})


def test_a_study_of_an_earlier_version_learns_what_it_has_not_recorded(study):
    settings = study.optuna.user_attrs["settings"]
    earlier = ("data.", "training.", "seed")
    kept = {key: value for key, value in settings.items() if key.startswith(earlier)}
    study.optuna.set_user_attr("settings", kept)
    with pytest.raises(ConfigError, match=r"training\.epochs=6, not 7"):
        check(study, sampler=OTHER_SAMPLER, training={"epochs": 7})
    assert not check(study, sampler=OTHER_SAMPLER)
    with pytest.raises(ConfigError, match=r"the sampler optuna\.samplers\.RandomSampler"):
        check(study)


def test_a_study_without_a_calibration_part_goes_on_only_with_the_data_that_it_had(study):
    def again(fingerprint, n_calibration):
        of_data = {**CONFIG["data"], "n_calibration": n_calibration}
        found = opening(study, data=of_data)
        found.check_same_settings(fingerprint, Training(**SETTINGS), None)

    settings = study.optuna.user_attrs["settings"]
    settings.pop("data.n_calibration")  # as an earlier version has recorded it
    study.optuna.set_user_attr("settings", settings)
    again("f", 0)
    again("f", None)  # the data are so few that null stands for 0
    said = r"made with data\.n_calibration=0, not null; .* or data\.n_calibration=0 to go on"
    with pytest.raises(ConfigError, match=said):
        again("of smaller train", None)
    with pytest.raises(ConfigError, match=r"made with data\.n_calibration=0, not 115"):
        again("of smaller train", 115)
    with pytest.raises(ConfigError, match=r"made with data\.fingerprint=f, not other"):
        again("other", 0)


def test_the_run_keeps_the_configuration_of_what_was_done(study, tracking):
    data = search_data()

    def recorded(may_change=False, **changes):
        has_new_bounds = check(study, may_change, **changes)
        of = opening(study, **changes)
        parent = of.parent(tracking, data, "digits", has_new_bounds=has_new_bounds)
        run_id = parent.run_id
        path = tracking.client.download_artifacts(run_id, "config.yaml")
        with open(path) as file:
            return yaml.safe_load(file)

    assert recorded() == CONFIG
    assert recorded(uncertainty={"n_samples": 3}, budget={"n_trials": 3}) == CONFIG
    more = {"n_trials": 9}
    assert recorded(budget=more)["budget"] == more
    assert recorded()["budget"] == more
    with pytest.raises(ConfigError, match="changed_bounds"):
        recorded(space=WIDER)
    assert recorded(may_change=True, space=WIDER) == {**CONFIG, "space": WIDER}
    assert recorded(space=WIDER, uncertainty={"n_samples": 3}) == {**CONFIG, "space": WIDER}


def test_a_study_that_recorded_nothing_of_swag_goes_on_without(study):
    settings = study.optuna.user_attrs["settings"]
    settings.pop("training.swag")  # as an earlier version has recorded it
    study.optuna.set_user_attr("settings", settings)
    assert not check(study, training={"epochs": 6, "swag": False})
    with pytest.raises(ConfigError, match=r"was made with training\.swag=false, not true"):
        check(study, training={"epochs": 6, "swag": True})
