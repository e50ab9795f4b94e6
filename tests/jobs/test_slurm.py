"""A real SLURM cluster of one node: a sweep, a cancelled worker, one that is requeued; the same
end.
"""

import subprocess
import sys
from collections import Counter

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from conftest import SRC, wait_until
from workplace import SMALL

pytestmark = pytest.mark.slow
N_TRIALS = 6


def states(folder):
    """Return how many trials of each state there are, of all studies together, by study."""
    path = folder / "journal.log"
    if not path.exists():
        return {}
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return {
        s.study_name: Counter(t.state for t in storage.get_all_trials(s._study_id))
        for s in storage.get_all_studies()
    }


def test_a_sweep_survives_scancel_and_requeue(slurm, tmp_path):
    environment = {
        key: value for key, value in slurm.environment.items() if not key.startswith("MLFLOW_")
    }
    environment |= {"PYTHONPATH": str(SRC)}
    command = [
        sys.executable,
        "-m",
        "hpsearch",
        "search",
        "-m",
        "arch=elu,selu",
        "worker=0,1",
        *SMALL,
    ]
    command += ["hydra/launcher=slurm", "hydra.launcher.gres=gpu:1", "hydra.launcher.mem_gb=1"]
    command += ["hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=20"]
    command += [
        "storage=journal",
        f"storage.path={tmp_path}/journal.log",
        "data.n_train=200",
        "training.epochs=60",
    ]
    command += ["training.patience_epochs=60"]
    command += [
        f"budget.n_trials={N_TRIALS}",
        "uncertainty.n_samples=5",
        "pruner=none",
        "budget.lease_s=60",
    ]
    with open(tmp_path / "sweep.out", "wb") as log:
        sweep = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        wait_until(
            lambda: (
                sum(c[TrialState.COMPLETE] for c in states(tmp_path).values()) >= 2
                or sweep.poll() is not None
            ),
            "two finished trials",
            600,
        )
        running = sorted(slurm.jobs())
        assert len(running) == 4, (tmp_path / "sweep.out").read_text()
        slurm.ask("scancel", running[0])
        slurm.ask("scontrol", "requeue", running[3])
        wait_until(lambda: not slurm.jobs("RUNNING,PENDING,COMPLETING"), "the sweep's end", 900)
    finally:
        slurm.ask("scancel", "--user", "root")
        sweep.kill()
        sweep.wait()
    spent = {
        name: c[TrialState.COMPLETE] + c[TrialState.PRUNED] for name, c in states(tmp_path).items()
    }
    assert spent == {"digits-elu": N_TRIALS, "digits-selu": N_TRIALS}
    assert not any(c[TrialState.RUNNING] for c in states(tmp_path).values())
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri, registry_uri=uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    kinds = Counter(run.data.tags.get("hpsearch.kind") for run in runs)
    assert kinds == {"study": 2, "trial": 2 * N_TRIALS}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(m.name for m in client.search_registered_models()) == [
        "digits-elu",
        "digits-selu",
    ]
