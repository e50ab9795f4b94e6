"""A study notices when it is to go on within other bounds, and remembers where it did."""

import re

import pytest

from hpsearch.errors import ConfigError
from hpsearch.study.changed_bounds import Bounds, bounds_changed_before
from hpsearch.study.trial_end import TrialEnd
from small_study import study_in, suggested

RATE = "space.bounds.learning_rate"
DEPTH = "space.bounds.depth"
FIRST = {
    f"{RATE}.low": 1e-4,
    f"{RATE}.high": 1e-1,
    f"{RATE}.scale": "log",
    "space.bounds.momentum": 0.9,
    "space.bounds.units.choices": [16, 32],
}
WIDER = {**FIRST, f"{RATE}.high": 0.5}
WITH_DEPTH = {**FIRST, f"{DEPTH}.low": 1, f"{DEPTH}.high": 3, f"{DEPTH}.scale": "linear"}


@pytest.fixture(name="study")
def study_with_a_trial(tmp_path):
    study = study_in(tmp_path, n_trials=9)
    assert open_with(study, FIRST) == (False, [])
    finish_one(study)
    return study


def open_with(study, settings, may_change=False):
    said = []
    has_changed = Bounds(settings).check_unchanged(study, may_change, said.append)
    return has_changed, said


def finish_one(study):
    trial = study.claim()
    study.complete(trial, suggested(trial)["learning_rate"])


def test_the_same_bounds_go_on_and_others_are_refused(study):
    assert open_with(study, FIRST) == (False, [])
    sentence = f"was made with {RATE}.high=0.1, not with {RATE}.high=0.5; give study.name=NAME"
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        open_with(study, WIDER)
    with pytest.raises(ConfigError, match=f"was made without {DEPTH}.high, not with"):
        open_with(study, WITH_DEPTH)
    assert bounds_changed_before(study.optuna) == []
    assert open_with(study, FIRST) == (False, [])


@pytest.mark.parametrize("settings", [WIDER, WITH_DEPTH])
def test_a_change_that_is_asked_for_is_said_and_recorded_and_holds_from_then_on(study, settings):
    said = ["The bounds have changed: trials from #1 on are drawn within the new ones."]
    assert open_with(study, settings, may_change=True) == (True, said)
    finish_one(study)
    assert open_with(study, settings, may_change=True) == (False, [])
    with pytest.raises(ConfigError):
        open_with(study, FIRST)
    assert bounds_changed_before(study.optuna) == [1]


@pytest.mark.parametrize(
    "changed",
    [
        {"space.bounds.momentum": 0.95},
        {"space.bounds.momentum": None},
        {f"{RATE}.scale": "linear"},
        {"space.bounds.units.choices": [16, 64]},
        {"space.bounds.units.choices": None},
        {f"{RATE}.low": None, f"{RATE}.high": None, f"{RATE}.scale": None, RATE: 0.01},
    ],
)
def test_what_no_trial_records_never_changes(study, changed):
    settings = {key: value for key, value in {**FIRST, **changed}.items() if value is not None}
    with pytest.raises(ConfigError, match="can change bounds only by low and high"):
        open_with(study, settings, may_change=True)
    assert open_with(study, FIRST) == (False, [])


@pytest.mark.parametrize(
    ("bound", "may_change"),
    [
        ({".low": 1e-4, ".high": 0.5, ".scale": "log"}, True),
        ({".low": 1e-4, ".high": 0.5, ".scale": "linear"}, False),
        ({".low": 1e-4, ".high": 0.5}, False),
        ({".choices": [0.1, 0.2]}, False),
        ({"": 0.1}, False),
    ],
)
def test_a_bound_of_what_the_model_itself_proposed_keeps_its_scale(tmp_path, bound, may_change):
    study = study_in(tmp_path, n_trials=9)
    others = {"space.bounds.momentum": 0.9}
    assert open_with(study, others) == (False, [])
    finish_one(study)
    settings = {**others, **{f"{RATE}{end}": value for end, value in bound.items()}}
    if may_change:
        assert open_with(study, settings, may_change=True)[0]
        return
    with pytest.raises(ConfigError, match="can change bounds only by low and high"):
        open_with(study, settings, may_change=True)


def test_a_study_without_a_trial_to_compare_with_takes_other_bounds(tmp_path):
    study = study_in(tmp_path, n_trials=9)
    assert open_with(study, FIRST) == (False, [])
    assert open_with(study, WIDER) == (True, [])
    trial = study.claim()
    study.fail(trial, TrialEnd.ERROR, "ValueError: too wide")
    assert open_with(study, FIRST) == (True, [])
    assert bounds_changed_before(study.optuna) == []


def test_a_study_of_an_earlier_version_learns_its_bounds(tmp_path):
    study = study_in(tmp_path, n_trials=9)
    finish_one(study)
    assert open_with(study, WIDER) == (False, [])
    with pytest.raises(ConfigError):
        open_with(study, FIRST)
