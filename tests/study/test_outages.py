"""A search goes on while both servers are away, and every value arrives exactly once."""

import os
import signal
import time
from collections import Counter
from datetime import datetime

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from conftest import wait_until
from hpsearch.study.storage import AdvisoryLock
from hpsearch.study.study import number_of
from workplace import SMALL

pytestmark = pytest.mark.slow


def complete_trials(url):
    """Return the finished trials of the one study; none while the workers are still starting."""
    with AdvisoryLock(url, patience_s=60)():  # opening makes the tables, as the workers do
        storage = optuna.storages.RDBStorage(url)
    trials = [
        t for study in storage.get_all_studies() for t in storage.get_all_trials(study._study_id)
    ]
    storage.engine.dispose()
    return [t for t in trials if t.state == TrialState.COMPLETE]


def n_complete_since(url, moment):
    return sum(t.datetime_complete > moment for t in complete_trials(url))


@pytest.fixture
def command(mlflow_server, postgres_server):
    url = postgres_server.new_database("outages")
    return [
        *SMALL,
        "storage=postgres",
        f"storage.url={url}",
        f"tracking.uri={mlflow_server.uri}",
        "pruner=none",
        "training.epochs=50",
        "training.patience_epochs=50",
    ]


def test_mlflow_is_away_while_trials_end_and_postgresql_for_20_s_of_that_time(
    command, mlflow_server, postgres_server, workplace
):
    (url,) = (
        word.removeprefix("storage.url=") for word in command if word.startswith("storage.url=")
    )
    begin = datetime.now()
    workers = [
        workplace.start(*command, "budget.n_trials=10000", PYTHONFAULTHANDLER="1") for _ in range(2)
    ]
    try:
        wait_until(lambda: n_complete_since(url, begin) >= 2, "two finished trials", 300)
        mlflow_server.stop()
        gone = datetime.now()
        wait_until(lambda: n_complete_since(url, gone) >= 2, "two trials without MLflow", 300)
        postgres_server.stop()
        time.sleep(20)
        postgres_server.start()
        returned = datetime.now()
        wait_until(lambda: n_complete_since(url, returned) >= 1, "a trial with PostgreSQL", 300)
        back = datetime.now()
        mlflow_server.start()
        wait_until(lambda: n_complete_since(url, back) >= 4, "four more finished trials", 300)
    finally:
        for worker in workers:
            os.killpg(worker.pid, signal.SIGINT)
        said = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [130, 130], said
    n_trials = len(complete_trials(url)) + 2  # the two that were given back
    done = workplace.here(*command, f"budget.n_trials={n_trials}")
    assert done.returncode == 0, done.stderr

    trials = {number_of(t): t for t in complete_trials(url)}
    assert len(complete_trials(url)) == len(trials) == n_trials
    n_meanwhile = sum(gone < t.datetime_complete < back for t in trials.values())
    assert n_meanwhile >= 2, "training waited for a server"
    client = MlflowClient(mlflow_server.uri)
    runs = client.search_runs(["0"], "tags.`hpsearch.kind` = 'trial'", max_results=10000)
    assert sorted(int(run.data.tags["hpsearch.trial"]) for run in runs) == sorted(trials)
    assert {run.info.status for run in runs} == {"FINISHED"}
    n_values = 0
    for run in runs:
        told = trials[int(run.data.tags["hpsearch.trial"])].intermediate_values
        history = client.get_metric_history(run.info.run_id, "val/loss")
        assert Counter((m.step, m.value) for m in history) == Counter(told.items())
        n_values += len(history)
    print(
        f"{n_values} values of {n_trials} trials, each once; {n_meanwhile} ended while a server "
        f"was away."
    )
    doctor = workplace.here(*command, script="doctor")
    assert doctor.stdout == "Study digits-selu and MLflow agree.\n", doctor.stdout + doctor.stderr
