"""A try whose trial another worker has taken over leaves everything to the other worker."""

import math
import os
import shutil
import signal
import time
from contextlib import suppress

import optuna
import pytest

from hpsearch.study.trial_end import TrialEnd
from hpsearch.study.worker_process import this_process
from hpsearch.trials.attempt import Attempt, GivenBackError
from hpsearch.trials.watchdog import TrialTimedOutError
from short_trials import ShortTrials


@pytest.fixture
def opened(tmp_path, monkeypatch, mlflow_tables):
    """A study without trials, with its tracking and its parent run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    shutil.copy(mlflow_tables, tmp_path)
    trials = ShortTrials(f"journal:{tmp_path}/study.log", tmp_path, n_trials=3, epoch_s=0.0)
    study, tracking, parent = trials.open()
    yield trials, study, tracking, parent
    tracking.close(60)


def claimed(study, tracking, parent):
    """Return the try of the next trial, and the list of what the terminal is told of its end."""
    told = []
    trial = study.claim()
    attempt = Attempt(
        trial,
        study=study,
        tracking=tracking,
        parent=parent,
        ended=lambda *end: told.append(end),
        deadline=math.inf,
    )
    return attempt, told


@pytest.mark.parametrize(
    "error",
    [
        ValueError("late"),
        TrialTimedOutError(),
        GivenBackError("late"),
        optuna.TrialPruned("late"),
        None,
    ],
)
def test_a_try_that_was_taken_for_dead_writes_nothing_into_the_run_of_the_retry(opened, error):
    trials, study, tracking, parent = opened
    late, told = claimed(study, tracking, parent)
    other = trials.open_study(trials.open_storage())
    other.fail(other.trials()[0], TrialEnd.KILLED, "its lease was over")
    retry, _ = claimed(other, tracking, parent)
    assert retry.number == late.number
    retry.run.tag({"hpsearch.trained": "again"})
    assert tracking.spool.drain(60)
    with suppress(GivenBackError), late.kept():
        if error is not None:
            raise error
        late.finish(1.0)
    assert tracking.spool.drain(60)
    (((word, value)),) = told
    assert word.startswith("failed: another worker took trial 0 over")
    assert value is None
    assert not late.is_over  # its checkpoint stays for the retry
    run = tracking.find_child(parent, 0)
    assert run.info.status == "RUNNING"
    assert "hpsearch.end" not in run.data.tags
    retry.finish(2.0)
    assert retry.is_over
    assert [trial.user_attrs.get("reason") for trial in study.trials()] == ["killed", None]


def test_an_end_that_the_study_knows_is_not_written_again(opened):
    _, study, tracking, parent = opened
    attempt, told = claimed(study, tracking, parent)
    with pytest.raises(KeyboardInterrupt), attempt.kept():  # noqa: PT012
        attempt.finish(1.0)
        raise KeyboardInterrupt
    assert tracking.spool.drain(60)
    assert told == [("finished", 1.0)]
    run = tracking.find_child(parent, 0)
    assert (run.info.status, run.data.tags["hpsearch.end"]) == ("FINISHED", "finished")


def test_an_interrupt_while_the_study_is_told_takes_nothing_from_a_finished_trial(
    opened, monkeypatch
):
    _, study, tracking, parent = opened
    attempt, _ = claimed(study, tracking, parent)
    complete = study.complete

    def interrupted(*args):
        complete(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "complete", interrupted)
    with pytest.raises(KeyboardInterrupt), attempt.kept():
        attempt.finish(1.0)
    assert tracking.spool.drain(60)
    assert attempt.is_over
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE"]
    run = tracking.find_child(parent, 0)
    assert (run.info.status, run.data.tags["hpsearch.end"]) == ("FINISHED", "finished")


def test_a_failure_whose_answer_was_lost_is_told_once(opened, monkeypatch):
    _, study, tracking, parent = opened
    attempt, told = claimed(study, tracking, parent)
    storage = study.optuna._storage
    set_state = storage.set_trial_state_values

    def twice(*args):
        set_state(*args)
        set_state(*args)

    monkeypatch.setattr(storage, "set_trial_state_values", twice)
    with attempt.kept():
        raise ValueError("a bug")
    ((said, value),) = told
    assert said.startswith("failed: ValueError: a bug (")
    assert said.endswith('raise ValueError("a bug"))')
    assert value is None
    assert attempt.is_over
    assert attempt.has_failed


class _NightIsOver(optuna.pruners.BasePruner):
    """A pruner that looks at the clock and not at other trials."""

    def prune(self, study, trial):
        return trial.last_step == 2

    def why(self, study, trial):
        return f"epoch {trial.last_step} ended after 6:00"


def _stops_at(epoch):
    return optuna.pruners.ThresholdPruner(upper=0.0, n_warmup_steps=epoch)


@pytest.mark.parametrize(
    ("pruner", "message"),
    [
        (_stops_at(2), "ThresholdPruner stopped it in epoch 2 at val/loss=1.5"),
        (
            _NightIsOver(),
            "_NightIsOver stopped it in epoch 2 at val/loss=1.5: epoch 2 ended after 6:00",
        ),
    ],
)
def test_the_message_of_a_pruned_trial_names_the_pruner_and_its_reason(opened, pruner, message):
    _, study, tracking, parent = opened
    study.optuna.pruner = pruner
    attempt, told = claimed(study, tracking, parent)
    with attempt.kept():
        for epoch in (1, 2, 3):
            attempt.epoch(epoch, {"val/loss": 2.5 - epoch / 2}, "val/loss", is_last=epoch == 3)
    assert told == [("pruned", None)]
    (trial,) = study.trials()
    assert trial.user_attrs["message"] == message
    assert trial.last_step == 2
    assert tracking.spool.drain(60)
    run = tracking.find_child(parent, 0)
    assert run.data.tags["hpsearch.message"] == message


def test_a_trial_whose_training_is_over_finishes_although_the_pruner_would_stop_it(opened):
    _, study, tracking, parent = opened
    study.optuna.pruner = _stops_at(2)
    attempt, told = claimed(study, tracking, parent)
    with attempt.kept():
        attempt.epoch(1, {"val/loss": 2.0}, "val/loss", is_last=False)
        attempt.epoch(2, {"val/loss": 1.5}, "val/loss", is_last=True)
        attempt.finish(1.5)
    assert told == [("finished", 1.5)]
    (trial,) = study.trials()
    assert trial.value == 1.5


def _lose_an_interrupt():
    """Interrupt this process as Ctrl-C does, where a library's code catches everything."""
    with suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)


@pytest.fixture
def interruptible():
    """Let SIGINT interrupt this process, which a shell's background job would ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("after", ["an error of its own", "nothing"])
def test_an_interrupt_that_a_library_loses_ends_the_search_nevertheless(opened, after):
    _, study, tracking, parent = opened
    attempt, told = claimed(study, tracking, parent)
    with pytest.raises(KeyboardInterrupt), this_process.heeding_signals(30.0), attempt.kept():  # noqa: PT012
        _lose_an_interrupt()
        if after == "nothing":
            attempt.epoch(1, {"val/loss": 2.0}, "val/loss", is_last=False)
        raise TypeError("None cannot be converted")
    assert not this_process.is_interrupted
    assert told == []
    (trial, retry) = study.trials()
    assert TrialEnd.of(trial) == TrialEnd.INTERRUPTED
    assert retry.state == optuna.trial.TrialState.WAITING
