"""Whatever a person gets wrong is answered with one sentence and the exit status, and nothing is
left behind.
"""

import re
import shlex
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import yaml

from workplace import MAINS, Workplace

CASES = yaml.safe_load(Path(__file__).with_name("bad_inputs.yaml").read_text())
OPENED = {
    "optuna.db",
    "optuna.db.lock",
}  # an empty storage, which was opened before the mistake was found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mlflow_tables):
    """What the commands find: an empty MLflow store, and data sets that are of no use."""
    place = tmp_path_factory.mktemp("bad_inputs")
    shutil.copy(mlflow_tables, place / "mlflow.db")
    images, labels = np.zeros((40, 4, 4, 1), np.float32), np.arange(40) % 2
    (place / "text.npz").write_text("no archive")
    np.savez(place / "half.npz", x_train=images, y_train=labels, x_test=images)
    wrong = images.copy()
    wrong[3, 1, 1, 0] = np.nan
    np.savez(place / "nan.npz", x_train=wrong, y_train=labels, x_test=images, y_test=labels)
    np.savez(
        place / "floats.npz", x_train=images, y_train=labels / 2, x_test=images, y_test=labels / 2
    )
    return place


def rows(database, table):
    """Return how many rows a table has; 0 where there is no database."""
    if not database.exists():
        return 0
    with sqlite3.connect(database) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def check(case, folder, run):
    script, *words = shlex.split(case["command"])
    before = {path.name for path in folder.iterdir()}
    done = run(*words, script=script)
    sentence = ".*".join(re.escape(part) for part in case["says"].split("…"))
    assert re.fullmatch(f"Error: {sentence}\n", done.stderr), done.stderr
    assert (done.returncode, done.stdout) == (case["status"], "")
    assert {path.name for path in folder.iterdir()} - before <= OPENED
    assert (rows(folder / "mlflow.db", "runs"), rows(folder / "optuna.db", "studies")) == (0, 0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["command"])
def test_a_mistake_is_one_sentence_and_leaves_nothing(case, folder):
    check(case, folder, Workplace(folder).here)


@pytest.mark.parametrize(
    "command",
    [
        "evaluate registered_model=x",
        "report study=x",
        "doctor",
        "doctor sync",
        "compare data=digits archs=[] studies=[x,y]",
        "compare data=digits archs=[elu,selu]",
        "ablate data=digits ablation=momentum from_study=x",
    ],
)
def test_a_job_that_reads_makes_no_database(command, tmp_path):
    script, *words = shlex.split(command)
    done = Workplace(tmp_path).here(*words, script=script)
    assert re.match("Error: There is no (MLflow database .* here|study )", done.stderr), done.stderr
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())


def test_there_are_enough_of_them_for_every_command():
    scripts = [case["command"].split()[0] for case in CASES]
    assert len(scripts) >= 60
    assert all(scripts.count(name) >= 5 for name in (*MAINS, "doctor"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[::24], ids=lambda case: case["command"])
def test_so_it_is_from_a_shell(case, folder):
    check(case, folder, Workplace(folder).run)
