"""A study whose models are made by a person's own code notices when that code has changed."""

from dataclasses import replace

import pytest

from hpsearch.errors import ConfigError
from hpsearch.study.changed_code import OwnMaker, changed_before
from hpsearch.study.trial_end import TrialEnd
from small_study import study_in, suggested

FIRST, SECOND, THIRD = (
    OwnMaker("build_model", digest) for digest in ("1-3.11-a1", "1-3.11-b2", "1-3.11-c3")
)


@pytest.fixture(name="study")
def study_with_a_trial(tmp_path):
    """A study of 9 trials, one of which is done with the first code."""
    study = study_in(tmp_path, n_trials=9)
    assert open_with(study, FIRST) == []
    finish_one(study)
    return study


def open_with(study, maker, may_change=False):
    said = []
    maker.check_unchanged(study, may_change, said.append)
    return said


def finish_one(study):
    trial = study.claim()
    study.complete(trial, suggested(trial)["learning_rate"])


def test_the_same_code_goes_on_and_other_code_is_refused(study):
    assert open_with(study, FIRST) == []
    with pytest.raises(ConfigError, match="was made with other code of build_model than it has"):
        open_with(study, SECOND)
    assert open_with(study, FIRST) == []
    assert changed_before(study.optuna) == []


def test_a_change_that_is_asked_for_is_said_and_recorded_and_holds_from_then_on(study):
    assert open_with(study, SECOND, may_change=True) == [
        "The code of build_model has changed: trials from #1 on are of the new code."
    ]
    finish_one(study)
    assert open_with(study, SECOND, may_change=True) == []
    with pytest.raises(ConfigError):
        open_with(study, FIRST)  # a worker that still has the old code
    assert open_with(study, THIRD, may_change=True) != []
    assert changed_before(study.optuna) == [1, 2]


def test_a_trial_that_runs_counts_and_one_that_failed_does_not(tmp_path):
    study = study_in(tmp_path, n_trials=9)
    study.budget = replace(study.budget, max_failures=1)
    assert open_with(study, FIRST) == []
    trial = study.claim()
    with pytest.raises(ConfigError):
        open_with(study, SECOND)
    study.fail(trial, TrialEnd.ERROR, "ValueError: a mistake in build_model")
    assert open_with(study, SECOND) == []
    finish_one(study)
    with pytest.raises(ConfigError):
        open_with(study, FIRST)
    assert changed_before(study.optuna) == []


@pytest.mark.parametrize("digest", ["1-3.9-a1", "0-3.11-a1"])
def test_digests_that_were_made_otherwise_are_not_compared_which_is_said(study, digest):
    study.optuna.set_user_attr("code", {"digest": digest})
    (said,) = open_with(study, FIRST)
    assert "began with another version of Python or hpsearch" in said
    assert "tell whether build_model has changed" in said


def test_a_study_that_knows_no_code_learns_it(study):
    study.optuna.set_user_attr("code", {})
    assert open_with(study, SECOND) == []
    with pytest.raises(ConfigError):
        open_with(study, FIRST)
