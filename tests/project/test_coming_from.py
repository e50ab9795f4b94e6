"""The pages for people who come from another library: what they show before and after runs, ends
with a best value, and the dashboard of Optuna shows the studies.
"""

import os
import re
import shutil
import site
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
import requests
import yaml

from conftest import SRC, free_port, wait_until
from project_files import BLOCK, ROOT
from small_study import study_in, suggested
from workplace import shell_environment

FILE = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SMALLER = re.compile(r"(\w*(?:trials|epochs))(=|: )10\b")
SHORT = "uncertainty.n_samples=2 training.jit_compile=false"
# What uv and pip say where they reach no registry.
NO_REGISTRY = re.compile(
    "error sending request|Connection refused|Failed to establish a new connection|"
    "dns error|Name or service not known|Temporary failure in name resolution|"
    "Network is unreachable|network was disabled|timed out",
    re.IGNORECASE,
)
SWEEPER = ("hydra-optuna-sweeper", "sqlalchemy<2", "alembic<1.14", "scikit-learn")


class Page:
    """A page, whose files lie in a folder and whose blocks of commands run there."""

    def __init__(self, name: str, folder: Path, tables: Path) -> None:
        text = (ROOT / "docs" / f"coming_from_{name}.md").read_text()
        self.folder = folder
        self.printed = ""
        self.blocks = [block for _, block in BLOCK.findall(text)]
        for file, code in FILE.findall(text):
            (folder / file).write_text(SMALLER.sub(r"\g<1>\g<2>2", code))
        for database in ("mlflow.db", "before.db"):  # making the tables takes seconds
            shutil.copy(tables, folder / database)
        # The command of an installed package may be one of another tree.
        command = folder / "bin" / "hpsearch"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hpsearch "$@"\n')
        command.chmod(0o755)

    def run(self, words: str, **env: str) -> str:
        """Run the one block that holds these words, made smaller, and return what it prints."""
        (block,) = [block for block in self.blocks if words in block]
        block = SMALLER.sub(r"\g<1>\g<2>2", block)
        block = re.sub(r"\bhpsearch search\b", f"hpsearch search {SHORT}", block)
        return self.shell(block, **env)

    def shell(self, block: str, **env: str) -> str:
        environment = shell_environment() | {"PYTHONPATH": str(SRC)}
        environment["PATH"] = f"{self.folder}/bin:{environment['PATH']}"
        done = subprocess.run(
            ["bash", "-ec", block],
            cwd=self.folder,
            env=environment | env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def study(self, name: str) -> optuna.Study:
        """Return a study that hpsearch has made in the folder."""
        return optuna.load_study(study_name=name, storage=f"sqlite:///{self.folder}/optuna.db")


def best_value(output: str) -> float:
    return float(re.search(r"^best value (\S+)$", output, re.MULTILINE)[1])


def environment_with(folder: Path, *packages: str) -> Path:
    """Return the Python of a new environment with these packages; skip where no registry answers.

    What a registry answers, such as that it has no such package, is a failure.
    """
    python = folder / "bin" / "python"
    uv = shutil.which("uv")
    if uv is None:
        make = [sys.executable, "-m", "venv", str(folder)]
        install = [str(python), "-m", "pip", "install", "-q", *packages]
    else:
        make = [uv, "venv", "-q", "--python", sys.executable, str(folder)]
        install = [uv, "pip", "install", "-q", "--python", str(python), *packages]
    subprocess.run(make, check=True, capture_output=True)
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode and NO_REGISTRY.search(done.stderr):
        pytest.skip(f"no registry answers: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr
    return python


def environment_beside_keras(folder: Path, *packages: str) -> Path:
    """Return such a Python that finds what it lacks, such as Keras, where these tests find it."""
    python = environment_with(folder, *packages)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "keras.pth").write_text(site.getsitepackages()[0] + "\n")
    return python


@pytest.mark.slow
def test_from_kerastuner(tmp_path, mlflow_tables):
    page = Page("kerastuner", tmp_path, mlflow_tables)
    pinned = ("-c", str(ROOT / "requirements.txt"))
    python = environment_beside_keras(tmp_path / "venv", "tensorboard", *pinned)
    before = best_value(page.shell(f'"{python}" before.py'))
    after = best_value(page.run("python after.py"))
    page.run("python make_data.py")
    from_the_command = page.study("digits-own").best_value
    assert all(0.1 < value <= 1 for value in (before, after, from_the_command))


@pytest.mark.slow
def test_from_the_sweeper_of_hydra(tmp_path, mlflow_tables):
    page = Page("hydra_sweeper", tmp_path, mlflow_tables)
    python = environment_beside_keras(tmp_path / "venv", *SWEEPER)
    install = next(block for block in page.blocks if "pip install" in block)
    named = {word.strip('"') for word in install.splitlines()[0].split()[2:]}
    assert named == {*SWEEPER, "keras", "tensorflow"}
    page.shell(f'"{python}" train.py --multirun')
    (results,) = tmp_path.rglob("optimization_results.yaml")
    before = yaml.safe_load(results.read_text())["best_value"]
    read = (tmp_path / "sweeper.db").read_bytes()
    assert page.run("study.warm_start").startswith(
        "Study digits-after tries first the values of digits in sweeper.db #"
    )
    assert (tmp_path / "sweeper.db").read_bytes() == read
    after = page.study("digits-after")
    assert after.trials[0].params.keys() == {"n_units", "dropout_rate", "learning_rate"}
    assert all(0 < value < 3 for value in (before, after.best_value))


@pytest.fixture(scope="module")
def optuna_page(tmp_path_factory, mlflow_tables):
    """The page for people who come from Optuna, with what its search after a warm start leaves."""
    page = Page("optuna", tmp_path_factory.mktemp("optuna"), mlflow_tables)
    page.printed = page.run("python before.py")
    page.run("study.warm_start")
    return page


@pytest.mark.slow
def test_from_optuna_with_the_study_that_one_has(optuna_page):
    theirs = optuna.load_study(
        study_name="digits", storage=f"sqlite:///{optuna_page.folder}/study.db"
    )
    after = optuna_page.study("digits-after")
    assert after.trials[0].params == theirs.best_params
    assert all(0 < value < 3 for value in (best_value(optuna_page.printed), after.best_value))
    (optuna_page.folder / "study.db").unlink()
    told = optuna_page.shell("hpsearch doctor replay study.name=digits-after")
    assert "The suggestions of 2 trials are the same again" in told


def test_the_commands_without_a_warm_start_differ_from_those_with_one_by_it_alone():
    for name in ("optuna", "hydra_sweeper"):
        text = (ROOT / "docs" / f"coming_from_{name}.md").read_text()
        plain, warm = [block for _, block in BLOCK.findall(text) if "hpsearch search" in block]
        assert warm.split(" \\\n")[0] == plain.rstrip()


@contextmanager
def dashboard(python: Path, storage: str):
    """Run optuna-dashboard, and give the address of its API."""
    port = free_port()
    command = [python.with_name("optuna-dashboard"), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [*command, storage],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
    )
    api = f"http://127.0.0.1:{port}/api/studies"

    def answers():
        try:
            return requests.get(api, timeout=5).ok
        except requests.RequestException:
            return False

    try:
        wait_until(answers, "the start of the dashboard")
        yield api
    finally:
        process.terminate()
        process.wait()


def shown_by_dashboard(python: Path, storage: str, study: optuna.Study) -> None:
    """Check that the dashboard shows the trials of the only study of a storage."""
    with dashboard(python, storage) as api:
        (known,) = requests.get(api, timeout=30).json()["study_summaries"]
        found = requests.get(f"{api}/{known['study_id']}", timeout=30).json()
    assert known["study_name"] == study.study_name
    assert len(found["trials"]) == len(study.trials) > 1
    finished = [t["values"][0] for t in found["trials"] if t["state"] == "Complete"]
    assert min(finished) == study.best_value


@pytest.mark.slow
def test_the_dashboard_of_optuna_shows_studies_of_both_kinds_of_file(optuna_page, tmp_path):
    python = environment_with(
        tmp_path / "venv", "optuna-dashboard", f"optuna=={optuna.__version__}"
    )
    searched = optuna_page.study("digits-after")
    shown_by_dashboard(python, f"sqlite:///{optuna_page.folder}/optuna.db", searched)
    short = study_in(tmp_path)
    while (trial := short.claim()) is not None:
        short.complete(trial, suggested(trial)["learning_rate"])
    shown_by_dashboard(python, str(tmp_path / "study.log"), short.optuna)
