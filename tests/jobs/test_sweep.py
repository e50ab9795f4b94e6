"""A sweep on one machine: Ctrl-C among two workers on a study; then two workers on each of two
studies, to the end.
"""

import os
import signal
from collections import Counter

import pytest
from optuna.trial import TrialState

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


def test_a_sweep_is_interrupted_and_another_ends(workplace):
    words = [*SMALL, "-m", "worker=0,1", "hydra/launcher=local"]
    words += [
        "data.n_train=200",
        "pruner=none",
        "uncertainty.n_samples=5",
        f"budget.n_trials={N_TRIALS}",
    ]
    long = ["arch=selu", "training.epochs=3000", "training.patience_epochs=3000"]
    sweep = workplace.start(*words, *long, "study.name=long", "hydra.launcher.n_jobs=2")
    database = workplace.folder / "optuna.db"
    wait_until(database.exists, "the first worker's start", 240)
    wait_until(lambda: n_running(workplace, "long") >= 2, "an epoch of each worker", 240)
    os.killpg(sweep.pid, signal.SIGINT)
    _, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, err
    assert "Traceback" not in err
    states = Counter((t.state, t.user_attrs.get("reason")) for t in workplace.study("long").trials)
    assert states == {(TrialState.FAIL, "interrupted"): 2, (TrialState.WAITING, None): 2}
    assert {run.info.status for run in [*workplace.runs("trial"), *workplace.runs("study")]} == {
        "KILLED"
    }
    done = workplace.run(*words, "arch=elu,selu", "hydra.launcher.n_jobs=4")
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
