"""The main job from its command line to its end, on real data, with real stores."""

import os
import re
import shlex
import signal
import time

import mlflow
import numpy as np
import optuna
import pytest
import yaml
from optuna.trial import TrialState

from hpsearch.study.study import number_of
from workplace import SMALL

END = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned"}


def test_prints_progress_then_a_table_then_where_to_look_and_nothing_else(searched):
    _, done = searched
    *lines, look, on, understand, examine, serve = done.stdout.splitlines()
    assert lines[1] == (
        "Data digits: 1,040 examples to train on, 287 to validate, 115 to calibrate, 355 to test."
    )
    assert lines[0] == "Study digits-selu begins: 7 trials of at most 6 epochs."
    assert (
        sum(bool(re.match(r"trial \d/7  #\d lr=.*: (finished|pruned)", line)) for line in lines)
        == 7
    )
    assert re.match(
        r"Registered as version 1 of digits-selu, alias champion \(there was no champion\)\.",
        lines[-1],
    )
    assert look.startswith("Look at it:    mlflow ui --backend-store-uri sqlite:///")
    small = shlex.join(SMALL)
    assert on == f"Search on:     python -m hpsearch search {small} budget.n_trials=14"
    assert (
        examine
        == "Examine it:    python -m hpsearch evaluate registered_model=digits-selu version=1"
    )
    assert understand == "Understand it: python -m hpsearch report study=digits-selu"
    assert re.fullmatch(
        r"Serve it: .* mlflow models serve -m models:/digits-selu/1 --env-manager local", serve
    )
    assert done.stderr == ""


def test_one_parent_and_a_child_for_each_trial_with_the_status_of_its_end(searched):
    place, _ = searched
    (parent,), children = place.runs("study"), place.runs("trial")
    trials = place.study("digits-selu").trials
    assert len(children) == len(trials) == 7
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    by_number = by_trial(place)
    for trial in trials:
        run = by_number[number_of(trial)]
        end = END[trial.state]
        assert (run.info.status, run.data.tags["hpsearch.end"]) == ("FINISHED", end)
        assert float(run.data.params["learning_rate"]) == trial.params["learning_rate"]
        assert float(run.data.params["momentum"]) == pytest.approx(
            1 - trial.params["one_minus_momentum"]
        )
        reason = {"finished": "", "pruned": "pruned "}[end]
        assert run.info.run_name.startswith(f"#{number_of(trial)} {reason}lr=")


def test_each_epoch_of_a_trial_stands_in_mlflow_once_as_optuna_saw_it(searched):
    place, _ = searched
    trials, by_number = place.study("digits-selu").trials, by_trial(place)
    assert sorted(by_number) == [0, 1, 2, 3, 4, 5, 6]
    for trial in trials:
        run = by_number[number_of(trial)]
        history = place.client.get_metric_history(run.info.run_id, "val/loss")
        assert {m.step: m.value for m in history} == trial.intermediate_values
        assert min(trial.intermediate_values) == 1
        assert len(history) == len(trial.intermediate_values)
        assert {
            "train/loss",
            "train/accuracy",
            "val/loss",
            "val/accuracy",
            "time/epoch_s",
        } <= run.data.metrics.keys()


def test_the_parent_carries_config_data_best_trial_summary_and_figures(searched, tmp_path):
    place, _ = searched
    (parent,) = place.runs("study")
    best = place.study("digits-selu").best_trial
    config = yaml.safe_load(mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/config.yaml"))
    assert (config["data"]["name"], config["training"]["epochs"]) == ("digits", 6)
    (given,) = parent.inputs.dataset_inputs
    assert given.dataset.digest == parent.data.tags["hpsearch.fingerprint"]
    assert parent.data.tags["hpsearch.best_trial"] == str(number_of(best))
    assert parent.data.metrics["best/val/loss"] == pytest.approx(best.value)
    assert parent.data.metrics["trials/finished"] + parent.data.metrics["trials/pruned"] == 7
    assert f"**Best trial:** [#{number_of(best)}" in parent.data.tags["mlflow.note.content"]
    figures = {f.path for f in place.client.list_artifacts(parent.info.run_id, "figures")}
    wanted = {
        f"figures/{name}.png"
        for name in ("history", "parallel_coordinates", "slices", "learning_curves")
    }
    assert wanted <= figures


def test_the_best_model_is_a_version_that_mlflow_loads_and_that_says_what_it_is(searched):
    place, _ = searched
    best = place.study("digits-selu").best_trial
    version = place.client.get_model_version_by_alias("digits-selu", "champion")
    assert version.aliases == ["champion"]
    assert float(version.tags["hpsearch.measured_again"]) == pytest.approx(best.value, rel=1e-3)
    assert version.run_id == by_trial(place)[number_of(best)].info.run_id
    assert float(version.tags["val/loss"]) == pytest.approx(best.value)
    assert {
        "test/plain/accuracy",
        "test/mc/nll",
        "val/accuracy",
        "hpsearch.trial",
    } <= version.tags.keys()
    uri = f"sqlite:///{place.folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/digits-selu@champion")
    images = (
        np.random.default_rng(0)
        .integers(0, 17, (5, 8, 8, 1))
        .astype(model.metadata.signature.inputs.inputs[0].type)
    )
    answer = model.predict(images)
    probs = np.stack(answer["probabilities"])
    assert np.allclose(np.sum(probs, axis=1), 1, atol=1e-5)
    assert answer["class"].tolist() == [str(k) for k in probs.argmax(axis=1)]
    pins = dict(line.split("==") for line in _requirements(place, version))
    assert {"keras", "mlflow", "numpy"} <= pins.keys()
    assert all(re.match(r"\d+\.\d+", pinned) for pinned in pins.values())


def _requirements(place, version):
    path = place.client.download_artifacts(version.run_id, "model/requirements.txt")
    return [line for line in open(path).read().split() if line]


@pytest.mark.slow
def test_the_same_command_again_runs_only_what_is_missing(searched_copy):
    place = searched_copy
    before = place.study("digits-selu").trials
    done = place.here(*SMALL, "budget.n_trials=8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Study digits-selu goes on: 7 of 8 trials done.")
    after = place.study("digits-selu").trials
    assert [(t.number, t.value, t.state) for t in after[:7]] == [
        (t.number, t.value, t.state) for t in before
    ]
    assert len(after) == 8
    assert len(place.runs("study")) == 1


def test_other_data_or_settings_are_not_mixed_into_a_study(searched):
    told = refused(searched[0], "budget.n_trials=9", "training.batch_size=64")
    assert told.startswith("Error: Study digits-selu was made with training.batch_size=32, not 64;")
    assert "study.name=NAME" in told
    told = refused(searched[0], "budget.n_trials=9", "optimizer=sgd")
    assert "was made with the optimizer keras.optimizers.Nadam, not keras.optimizers.SGD;" in told
    told = refused(searched[0], "budget.n_trials=9", "sampler=random")
    assert "with the sampler optuna.samplers.TPESampler, not optuna.samplers.RandomSampler;" in told
    told = refused(searched[0], "budget.n_trials=9", "pruner=median", "training.epochs=7")
    assert "was made with training.epochs=6, not 7;" in told
    told = refused(searched[0], "budget.n_trials=9", "costs.constraints.n_parameters=9")
    assert "was made with costs.constraints.n_parameters=null, not 9;" in told
    told = refused(searched[0], "budget.n_trials=9", "space.bounds.learning_rate.high=0.1")
    assert "was made with space.bounds.learning_rate.high=0.005, not with" in told
    assert "study.changed_bounds=true" in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["training.monitor=val/los"],
            "training.monitor=val/los is no metric of this model. Did you mean 'val/loss'?",
        ),
        (["space.bounds.dropout_rate.high=1.2"], "space.bounds.dropout_rate"),
        (["space.bounds.learning_rate.low=1"], "swap them"),
        (["data.path=nowhere", "data=cifar10"], "nothing there"),
        (["storage.path=/proc/none/optuna.db"], "The study storage"),
        (
            ["tracking.uri=http://127.0.0.1:9"],
            "The MLflow server http://127.0.0.1:9 cannot be used",
        ),
        (["+space.bounds.learnin_rate=1"], "learnin_rate"),
    ],
)
def test_a_mistake_costs_one_sentence_and_leaves_no_run_and_no_study(words, sentence, workplace):
    assert sentence in refused(workplace, *words)
    database = workplace.folder / "optuna.db"
    assert not database.exists() or optuna.get_all_study_names(f"sqlite:///{database}") == []
    assert workplace.runs("study") == []


@pytest.mark.slow
def test_a_search_that_ends_in_its_learning_rate_test_ends_its_run(workplace):
    told = refused(workplace, "lr_test=true", "range_test.low=1e6", "range_test.high=1e8")
    assert "The learning rate test diverged at 1e+06" in told
    assert [run.info.status for run in workplace.runs("study")] == ["FAILED"]


@pytest.mark.slow
def test_ctrl_c_gives_the_trial_back_and_the_same_command_goes_on(workplace):
    long = [
        *SMALL,
        "training.epochs=400",
        "training.patience_epochs=400",
        "budget.n_trials=2",
        "pruner=none",
    ]
    process = workplace.start(*long)
    _wait_for_an_epoch(workplace, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "The same command goes on where this one stopped." in err
    (trial, waiting) = workplace.study("digits-selu").trials
    assert (trial.state, waiting.state) == (TrialState.FAIL, TrialState.WAITING)
    assert trial.user_attrs["reason"] == "interrupted"
    (run,) = workplace.runs("trial")
    assert (run.info.status, run.data.tags["hpsearch.end"]) == ("KILLED", "interrupted")
    assert [run.info.status for run in workplace.runs("study")] == ["KILLED"]


@pytest.mark.slow
def test_killed_and_started_again_a_search_ends_as_one_that_was_not(searched, workplace):
    calm, _ = searched
    words = [*SMALL, "budget.n_trials=7"]
    process = workplace.start(*words)
    _wait_for_an_epoch(workplace, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert sum(t.state in END for t in workplace.study("digits-selu").trials) < 7
    assert workplace.run(*words).returncode == 0
    ends = []
    for place in (calm, workplace):
        trials = [t for t in place.study("digits-selu").trials if t.state in END]
        ends.append(
            {number_of(t): (t.state, t.params, t.intermediate_values, t.value) for t in trials}
        )
        runs = place.runs("trial")
        assert len(runs) == len(trials) == 7
        assert {run.data.tags["hpsearch.end"] for run in runs} <= set(END.values())
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_anybodys_hypermodel_runs_the_same_path(workplace):
    done = workplace.here(
        "arch=hyper_resnet",
        "data=digits",
        "data.n_train=100",
        "data.n_val=50",
        "training.epochs=1",
        "pruner=none",
        "budget.n_trials=1",
        "space.bounds.version=v1",
        "space.bounds.conv3_depth=4",
        "space.bounds.conv4_depth=6",
    )
    assert done.returncode == 0, done.stderr
    assert "No MC Dropout evaluation: " in done.stdout
    version = workplace.client.get_model_version("digits-hyper_resnet", "1")
    assert version.aliases == ["challenger"], "an epoch of two steps is no better than chance"
    (run,) = workplace.runs("trial")
    assert {"learning_rate", "version", "pooling"} <= run.data.params.keys()


def by_trial(place):
    """Return each trial's run by the trial's number."""
    return {int(run.data.tags["hpsearch.trial"]): run for run in place.runs("trial")}


def refused(place, *words):
    """Return what the command says where it ends as a person's mistake."""
    done = place.here(*SMALL, *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("Error: ")
    return done.stderr


def _wait_for_an_epoch(place, process):
    """Wait until a trial has told an epoch."""
    assert process.stdout.readline().startswith("Study "), process.stderr.read()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        trials = place.study("digits-selu").trials
        if trials and trials[-1].intermediate_values:
            return
        time.sleep(0.1)
    raise AssertionError(f"no epoch within two minutes: {process.communicate()}")
