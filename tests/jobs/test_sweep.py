"""A sweep on one machine: two workers on each of two studies, Ctrl-C in the middle, the same
command again.
"""

import json
import os
import signal
from collections import Counter

import numpy as np
import pytest
from optuna.trial import TrialState
from sklearn.datasets import load_digits

from conftest import wait_until
from workplace import SMALL

pytestmark = pytest.mark.slow
N_TRIALS = 4
STUDIES = ("digits-elu", "digits-selu")


def n_running(place, name):
    """Return how many trials of a study have told an epoch."""
    try:
        return sum(bool(t.intermediate_values) for t in place.study(name).trials)
    except KeyError:  # it has not begun
        return 0


def test_a_sweep_is_interrupted_and_goes_on(workplace):
    words = [
        *SMALL,
        "-m",
        "arch=elu,selu",
        "worker=0,1",
        "hydra/launcher=local",
        "hydra.launcher.n_jobs=4",
    ]
    words += [
        "data.n_train=200",
        "pruner=none",
        "uncertainty.n_samples=5",
        f"budget.n_trials={N_TRIALS}",
    ]
    long = ["training.epochs=3000", "training.patience_epochs=3000"]
    sweep = workplace.start(
        *words, *long, "study.name=long-${data.name}-${hydra:runtime.choices.arch}"
    )
    names = [f"long-{name}" for name in STUDIES]

    database = workplace.folder / "optuna.db"
    wait_until(database.exists, "the first worker's start", 240)
    wait_until(
        lambda: all(n_running(workplace, name) >= 2 for name in names),
        "an epoch of each worker",
        240,
    )
    os.killpg(sweep.pid, signal.SIGINT)
    _, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, err
    assert "Traceback" not in err
    for name in names:
        states = Counter(
            (t.state, t.user_attrs.get("reason")) for t in workplace.study(name).trials
        )
        assert states == {(TrialState.FAIL, "interrupted"): 2, (TrialState.WAITING, None): 2}
    assert {run.info.status for run in [*workplace.runs("trial"), *workplace.runs("study")]} == {
        "KILLED"
    }
    done = workplace.run(*words)
    assert done.returncode == 0, done.stderr
    for name in STUDIES:
        trials = workplace.study(name).trials
        assert [t.state for t in trials if t.state != TrialState.FAIL] == [
            TrialState.COMPLETE
        ] * N_TRIALS
    parents = {
        run.info.run_name: run.info.run_id
        for run in workplace.runs("study")
        if run.info.status == "FINISHED"
    }
    assert sorted(parents) == list(STUDIES)
    children = Counter(run.data.tags["mlflow.parentRunId"] for run in workplace.runs("trial"))
    assert {name: children[run_id] for name, run_id in parents.items()} == dict.fromkeys(
        STUDIES, N_TRIALS
    )
    assert sorted(m.name for m in workplace.client.search_registered_models()) == list(STUDIES)


TINY = [
    "data=npz",
    "data.n_val=100",
    "arch.n_hidden=1",
    "arch.n_units=5",
    "training.epochs=1",
    "training.jit_compile=false",
    "budget.n_trials=1",
    "study.name='s${hydra:job.num}'",
]


def listed(out):
    """Return how each job of a sweep has ended, of the last lines that it has printed."""
    lines = out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("The jobs of this sweep"))
    return [line.partition(": ")[2] for line in lines[first + 1 :]]


@pytest.fixture
def files(workplace):
    """A data set, and a file that is none."""
    digits = load_digits()
    x, y = digits.images[:600], digits.target[:600]
    np.savez(workplace.folder / "good.npz", x_train=x, y_train=y)
    (workplace.folder / "bad.npz").write_text("no data")
    return workplace


@pytest.mark.parametrize("launcher", ["basic", "local", "submitit_local"])
def test_one_bad_job_lets_the_others_run_and_each_end_is_listed(launcher, files):
    paths = "data.path=good.npz,bad.npz,missing.npz"
    done = files.run("-m", paths, *TINY, f"hydra/launcher={launcher}")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    good, bad, missing = listed(done.stdout)
    assert good == "finished"
    assert bad.startswith("failed: Expected bad.npz to be an .npz file")
    assert missing.startswith("failed: ")


def test_a_failed_search_ends_a_sweep_for_scripts_with_an_object_for_each_job(files):
    rates = ["space.bounds.learning_rate=1e30,1e-2", "optimizer=sgd"]
    done = files.run("-m", "data.path=good.npz", *rates, *TINY, "--json")
    failed, finished = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, failed["exit_status"], finished["end"]) == (1, 1, "finished")
    assert failed["end"].startswith("failed: No trial of study s0 finished")
    assert finished["result"]["study"] == "s1"
    assert done.stderr.startswith("job 0, space.bounds.learning_rate=1e+30: failed: No trial")
    assert len(done.stderr.splitlines()) == 1


def test_a_value_of_the_wrong_kind_is_answered_in_its_own_job(files):
    done = files.run("-m", "data.path=good.npz", "seed=abc,1", *TINY)
    assert done.returncode == 2, done.stderr
    wrong = "failed: seed must be a whole number, but is abc."
    assert listed(done.stdout) == [wrong, "finished"]


def test_a_sweep_lists_no_jobs_of_an_earlier_one_in_its_folder(files):
    words = ["-m", *TINY, "hydra.sweep.dir=sweep"]
    assert files.run(*words, "data.path=good.npz", "seed=42,abc").returncode == 2
    done = files.run(*words, "data.path=good.npz")
    assert done.returncode == 0, done.stderr
    assert listed(done.stdout) == ["finished"]
