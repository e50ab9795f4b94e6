"""What a person types after something went wrong: the doctor tells it in sentences, and puts right
what it can.
"""

import os
import signal

import pytest
from optuna.trial import TrialState

from conftest import wait_until
from hpsearch.study.study import number_of
from workplace import SMALL

N_TRIALS = 7
AGREE = "Study digits-selu and MLflow agree.\n"


@pytest.fixture
def place(searched_copy):
    return searched_copy


@pytest.fixture
def said(place):
    """Call to run the command; returns exit status and what it says."""

    def call(*words):
        done = place.here(*words, *SMALL, f"budget.n_trials={N_TRIALS}", script="doctor")
        return done.returncode, done.stdout + done.stderr

    return call


def test_a_finished_search_agrees_and_its_suggestions_are_the_same_again(place, said):
    assert said() == (0, AGREE)
    assert said("replay") == (
        0,
        "The suggestions of 7 trials are the same again; those of 0 trials differ.\n",
    )
    assert said("sync") == (0, "Nothing waits.\n")


def test_damage_is_told_once_it_is_repaired_it_is_gone(place, said):
    by_number = {
        int(run.data.tags["hpsearch.trial"]): run.info.run_id for run in place.runs("trial")
    }
    place.client.delete_run(by_number[0])
    place.client.set_terminated(by_number[1], "FAILED")
    folder = place.folder / "checkpoints" / "digits-selu"
    folder.mkdir(parents=True)
    (folder / "3.npz").write_bytes(b"of a trial that is over")
    (folder / "4.77.part").write_bytes(b"half a checkpoint")
    status, told = said()
    assert status == 1
    assert told.count("\n") == 3
    for part in (
        "Trial 0 has no MLflow run.",
        "Trial 1 is ",
        "2 checkpoints belong to no trial that continues.",
    ):
        assert part in told
    status, told = said("--repair")
    assert (status, told.count(" Put right.\n"), told.count(" Removed.\n")) == (0, 2, 1)
    assert said() == (0, AGREE)
    assert list(folder.iterdir()) == []
    trial = place.study("digits-selu").trials[0]
    (written,) = [run for run in place.runs("trial") if run.data.tags["hpsearch.trial"] == "0"]
    assert written.data.tags["hpsearch.written_by"] == "hpsearch.doctor"
    history = place.client.get_metric_history(written.info.run_id, "val/loss")
    assert {m.step: m.value for m in history} == trial.intermediate_values


def test_every_trial_is_explained(place, said):
    trials = place.study("digits-selu").trials
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4, 5, 6]
    for trial in trials:
        status, told = said("explain", str(trial.number))
        assert status == 0
        assert told.startswith(f"Trial {trial.number} had ")
        assert "Computed again from that, they are the same." in told
        if trial.state == TrialState.PRUNED:
            assert f"It was pruned at epoch {trial.last_step} " in told
            assert "The others had: #" in told
        else:
            assert f"It finished with {trial.value:.4g}." in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["explain", "77"], "There is no trial 77 in study digits-selu; it has 0 to "),
        (["explain"], "explain needs the number of a trial, such as: explain 17."),
        (["explain", "one"], "explain needs the number of a trial, such as: explain 17."),
        (["explian", "1"], "There is no command 'explian'. Did you mean 'explain'?"),
        (
            ["study.name=nix"],
            "There is no study nix in this storage; study.name=NAME takes another",
        ),
        (
            ["storage.path=elsewhere.db"],
            "There is no study digits-selu in this storage; study.name=NAME takes another",
        ),
        (["budget.trials=3"], "There is no key budget.trials."),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, place, said):
    status, told = said(*words)
    assert status == 2
    assert told.startswith(f"Error: {sentence}")
    assert told.count("\n") == 1
    assert {path.name for path in place.folder.iterdir()} <= {
        "mlflow.db",
        "optuna.db",
        "optuna.db.lock",
    }


def epochs_of(place):
    return [len(t.intermediate_values) for t in place.study("digits-selu").trials]


@pytest.mark.slow
def test_after_kill_9_the_doctor_gives_the_trial_back_and_the_search_goes_on_from_its_checkpoint(
    workplace,
):
    words = [
        *SMALL,
        "training.epochs=60",
        "training.patience_epochs=60",
        "budget.n_trials=1",
        "pruner=none",
    ]
    words += ["checkpoints.every_s=0"]
    worker = workplace.start(*words)
    assert worker.stdout.readline().startswith("Study ")
    wait_until(lambda: any(n > 3 for n in epochs_of(workplace)), "an epoch", 120)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.communicate()
    (n_epochs,) = epochs_of(workplace)
    told = workplace.here(*words, script="doctor")
    assert told.returncode == 1
    assert "Trial 0 runs in the study, but its worker is dead (" in told.stdout
    repaired = workplace.here("--repair", *words, script="doctor")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    (run,) = workplace.runs("trial")
    assert (run.info.status, run.data.tags["hpsearch.end"]) == ("KILLED", "killed")
    assert [run.info.status for run in workplace.runs("study")] == ["KILLED"]
    assert workplace.here(*words, script="doctor").stdout == AGREE
    assert [
        path.name for path in (workplace.folder / "checkpoints" / "digits-selu").glob("*.npz")
    ] == ["0.npz"]
    assert n_epochs < 60
    done = workplace.here(*words)
    assert done.returncode == 0, done.stderr
    killed, again = workplace.study("digits-selu").trials
    assert (killed.state, again.state, number_of(again)) == (
        TrialState.FAIL,
        TrialState.COMPLETE,
        0,
    )
    (run,) = workplace.runs("trial")
    durations = workplace.client.get_metric_history(run.info.run_id, "time/epoch_s")
    assert [m.step for m in durations] == list(range(1, 61))


@pytest.mark.slow
def test_a_spool_that_could_not_be_sent_goes_later_with_sync(mlflow_server, workplace):
    words = [
        *SMALL,
        f"tracking.uri={mlflow_server.uri}",
        "tracking.patience_s=3",
        "budget.n_trials=3",
        "pruner=none",
    ]
    worker = workplace.start(*words)
    assert worker.stdout.readline().startswith("Study ")
    mlflow_server.stop()
    out, err = worker.communicate(timeout=300)
    assert worker.returncode == 2, out + err
    assert "send what waits for it with: python -m hpsearch doctor sync " in out
    assert err.startswith(
        "Error: All trials are done, but MLflow does not answer at http://127.0.0.1:"
    ), err
    away = workplace.here("sync", *words, script="doctor")
    assert (away.returncode, away.stderr.count("\n")) == (2, 1), away.stderr
    mlflow_server.start()
    sent = workplace.here("sync", *words, script="doctor")
    assert (sent.returncode, sent.stdout) == (0, "3 runs were sent.\n"), sent.stderr
    assert workplace.here("sync", *words, script="doctor").stdout == "Nothing waits.\n"
    assert not any(path.is_file() for path in (workplace.folder / "spool").rglob("*.jsonl"))
    done = workplace.here(*words)
    assert done.returncode == 0, done.stderr
    assert "Registered as version 1 of digits-selu" in done.stdout
    assert workplace.here(*words, script="doctor").stdout == AGREE
