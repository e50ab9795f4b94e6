"""What a study may cost: which trials take a place of the budget, and which settings make sense."""

import math

import pytest
from optuna.trial import TrialState

from hpsearch.errors import ConfigError, SearchError
from hpsearch.study.budget import Budget
from small_study import trial_of

SETTINGS = {
    "n_trials": 3,
    "timeout_s": None,
    "max_failures": 1,
    "max_retries": 0,
    "lease_s": 10.0,
    "linger": True,
    "grace_s": 0.0,
}


def budget(**settings):
    return Budget(**SETTINGS | settings)


FINISHED = trial_of(TrialState.COMPLETE)
RUNNING = trial_of(TrialState.RUNNING, has_ended=False)
PRUNED = trial_of(TrialState.PRUNED, reason="pruned")
DIVERGED = trial_of(TrialState.PRUNED, reason="diverged")
ENQUEUED = trial_of(TrialState.WAITING, has_ended=False)
KILLED = trial_of(TrialState.FAIL, reason="killed")
SURPLUS = trial_of(TrialState.FAIL, reason="surplus")
ERROR = trial_of(TrialState.FAIL, reason="error", message="the first error")
OUT_OF_MEMORY = trial_of(TrialState.FAIL, reason="out_of_memory", message="too large")


def test_running_and_spent_trials_take_a_place_and_others_do_not():
    free = [ENQUEUED, KILLED, SURPLUS, ERROR, OUT_OF_MEMORY]
    assert budget().has_room([])
    assert budget().has_room([FINISHED, PRUNED, *free])
    assert not budget().has_room([FINISHED, PRUNED, DIVERGED, *free])
    assert not budget().has_room([FINISHED, RUNNING, RUNNING])
    assert not budget().has_room([FINISHED, RUNNING, RUNNING, RUNNING])
    assert budget(n_trials=1).has_room(free)
    assert not budget(n_trials=1).has_room([RUNNING])


def test_more_failures_than_allowed_end_the_search_with_what_most_failed_by():
    budget().check_failures([ERROR, KILLED, SURPLUS, DIVERGED, PRUNED, FINISHED, RUNNING])
    budget(max_failures=2).check_failures([ERROR, OUT_OF_MEMORY])
    with pytest.raises(SearchError) as raised:
        budget().check_failures([ERROR, FINISHED, OUT_OF_MEMORY, KILLED])
    assert str(raised.value) == (
        "2 trials failed, more than budget.max_failures=1: 1 of 2 by the first error."
    )
    with pytest.raises(SearchError, match=r"^1 trials failed.*: the first error\.$"):
        budget(max_failures=0).check_failures([ERROR])


@pytest.mark.parametrize(
    ("name", "wrong", "least"),
    [("n_trials", 0, 1), ("max_failures", -1, 0), ("max_retries", -1, 0), ("grace_s", -0.5, 0)],
)
def test_a_number_below_its_least_is_refused_and_the_least_is_not(name, wrong, least):
    with pytest.raises(ConfigError) as raised:
        budget(**{name: wrong})
    assert str(raised.value) == f"budget.{name} must be at least {least}, but is {wrong}."
    assert getattr(budget(**{name: least}), name) == least


@pytest.mark.parametrize("wrong", [0, -1.0])
def test_a_lease_must_last(wrong):
    with pytest.raises(ConfigError) as raised:
        budget(lease_s=wrong)
    assert str(raised.value) == f"budget.lease_s must be above 0, but is {wrong}."
    assert budget(lease_s=0.5).lease_s == 0.5


@pytest.mark.parametrize("name", ["timeout_s", "trial_timeout_s"])
@pytest.mark.parametrize("wrong", [0, -1.0, math.nan])
def test_a_limit_is_above_0_or_there_is_none(name, wrong):
    with pytest.raises(ConfigError) as raised:
        budget(**{name: wrong})
    expected = f"budget.{name} must be above 0, or null for no limit, but is {wrong}."
    assert str(raised.value) == expected
    assert getattr(budget(**{name: 0.5}), name) == 0.5
    assert getattr(budget(**{name: None}), name) is None
    assert budget().trial_timeout_s is None
