"""The table of how trials end, and how an end is read from a trial."""

import pytest
from optuna.trial import TrialState

from hpsearch.study.trial_end import TrialEnd
from small_study import trial_of

# word: state in Optuna, status in MLflow, spends the budget, counts as a failure, is tried again
TABLE = {
    "finished": ("COMPLETE", "FINISHED", True, False, False),
    "pruned": ("PRUNED", "FINISHED", True, False, False),
    "infeasible": ("PRUNED", "FINISHED", True, False, False),
    "diverged": ("PRUNED", "FAILED", True, False, False),
    "paused": ("WAITING", "SCHEDULED", True, False, False),
    "error": ("FAIL", "FAILED", False, True, False),
    "out_of_memory": ("FAIL", "FAILED", False, True, False),
    "timed_out": ("FAIL", "FAILED", False, True, False),
    "killed": ("FAIL", "KILLED", False, False, True),
    "preempted": ("FAIL", "KILLED", False, False, True),
    "interrupted": ("FAIL", "KILLED", False, False, True),
    "surplus": ("FAIL", None, False, False, False),
}


def test_the_table_has_a_row_for_each_end():
    assert [end.word for end in TrialEnd] == list(TABLE)


@pytest.mark.parametrize("end", TrialEnd, ids=lambda end: end.word)
def test_the_columns_of_an_end(end):
    columns = (end.mlflow_status, end.spends_budget, end.is_failure, end.is_retried)
    assert (end.state.name, *columns) == TABLE[end.word]


@pytest.mark.parametrize("end", [e for e in TrialEnd if e != TrialEnd.PAUSED], ids=str)
def test_a_trial_that_has_ended_is_read_back(end):
    word = "".join(list(end.word))  # as a storage returns it: equal, but another object
    trial = trial_of(end.state, reason=word)
    assert TrialEnd.of(trial) is end
    assert TrialEnd.recorded(trial) is end
    assert TrialEnd.has_spent(trial) == TABLE[end.word][2]
    assert TrialEnd.has_failed(trial) == TABLE[end.word][3]
    assert TrialEnd.has_retry(trial) == TABLE[end.word][4]


def test_a_paused_trial_waits_in_the_storage_and_is_shown_as_pruned_without_an_end():
    waiting = trial_of(TrialState.WAITING, has_ended=False, paused=3)
    shown = trial_of(TrialState.PRUNED, has_ended=False, paused=3)
    assert TrialEnd.is_paused(waiting)
    assert not TrialEnd.is_paused(shown)
    assert TrialEnd.is_seen_paused(shown)
    assert not TrialEnd.is_seen_paused(waiting)
    assert [TrialEnd.of(trial) for trial in (waiting, shown)] == [TrialEnd.PAUSED] * 2


def test_a_trial_that_runs_or_was_never_started_has_no_end():
    enqueued = trial_of(TrialState.WAITING, has_ended=False)
    running = trial_of(TrialState.RUNNING, has_ended=False, paused=3)
    for trial in (enqueued, running):
        assert TrialEnd.of(trial) is None
        assert not any(
            holds(trial) for holds in (TrialEnd.has_spent, TrialEnd.has_failed, TrialEnd.has_retry)
        )


def test_what_is_recorded_counts_before_the_state_has_changed_only_where_it_is_asked_for():
    trial = trial_of(TrialState.RUNNING, has_ended=False, reason="surplus")
    assert TrialEnd.recorded(trial) is TrialEnd.SURPLUS
    assert TrialEnd.of(trial) is None


def test_the_state_decides_where_the_record_is_missing_or_says_something_else():
    assert TrialEnd.of(trial_of(TrialState.COMPLETE)) is TrialEnd.FINISHED
    assert TrialEnd.of(trial_of(TrialState.COMPLETE, reason="killed")) is TrialEnd.FINISHED
    assert TrialEnd.of(trial_of(TrialState.PRUNED)) is TrialEnd.PRUNED
    assert TrialEnd.of(trial_of(TrialState.PRUNED, reason="killed")) is TrialEnd.PRUNED
    assert TrialEnd.of(trial_of(TrialState.FAIL)) is TrialEnd.ERROR
    assert TrialEnd.of(trial_of(TrialState.FAIL, reason="unheard of")) is TrialEnd.ERROR


def test_reports_call_every_end_without_a_result_failed():
    labels = {end.word: end.label for end in TrialEnd if end.label != end.word}
    failed = [word for word, row in TABLE.items() if row[0] == "FAIL"]
    assert labels == dict.fromkeys(failed, "failed")
