"""Whatever a person gets wrong is answered with one sentence and the exit status, and nothing is left behind."""

import re
import shlex
import shutil
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from hpsearch import ablate, compare, doctor, entry, evaluate, report, search
from workplace import Workplace

CASES = yaml.safe_load(Path(__file__).with_name("bad_inputs.yaml").read_text())
MAINS = {module.__name__.split(".")[1]: module.main for module in (search, report, evaluate, ablate, compare)}
OPENED = {"optuna.db", "optuna.db.lock"}  # an empty storage, which was opened before the mistake was found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mlflow_tables):
    """What the commands find: an empty MLflow store, and data sets that are of no use."""
    place = tmp_path_factory.mktemp("bad_inputs")
    shutil.copy(mlflow_tables, place / "mlflow.db")
    images, labels = np.zeros((40, 4, 4, 1), np.float32), np.arange(40) % 2
    (place / "text.npz").write_text("no archive")
    np.savez(place / "half.npz", x_train=images, y_train=labels)
    wrong = images.copy()
    wrong[3, 1, 1, 0] = np.nan
    np.savez(place / "nan.npz", x_train=wrong, y_train=labels, x_test=images, y_test=labels)
    np.savez(place / "floats.npz", x_train=images, y_train=labels / 2, x_test=images, y_test=labels / 2)
    return place


def rows(database, table):
    """Return how many rows a table has; 0 where there is no database."""
    if not database.exists():
        return 0
    with sqlite3.connect(database) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def check(case, folder, before, status, told):
    out, err = told
    sentence = ".*".join(re.escape(part) for part in case["says"].split("…"))
    assert re.fullmatch(f"Error: {sentence}\n", err), err
    assert (status, out) == (case["status"], "")
    assert {path.name for path in folder.iterdir()} - before <= OPENED
    assert (rows(folder / "mlflow.db", "runs"), rows(folder / "optuna.db", "studies")) == (0, 0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["command"])
def test_a_mistake_is_one_sentence_and_leaves_nothing(case, folder, monkeypatch, capsys):
    script, *words = shlex.split(case["command"])
    before = {path.name for path in folder.iterdir()}
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(SystemExit) as ended:
        doctor.main() if script == "doctor" else entry.run(script, MAINS[script])
    check(case, folder, before, ended.value.code, capsys.readouterr())


def test_there_are_enough_of_them_for_every_command():
    scripts = [case["command"].split()[0] for case in CASES]
    assert len(scripts) >= 60
    assert all(scripts.count(name) >= 5 for name in (*MAINS, "doctor"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[::12], ids=lambda case: case["command"])
def test_so_it_is_from_a_shell(case, folder):
    script, *words = shlex.split(case["command"])
    before = {path.name for path in folder.iterdir()}
    done = Workplace(folder).run(*words, script=script)
    check(case, folder, before, done.returncode, (done.stdout, done.stderr))
