"""A secret reaches no run, artifact, log line, process list or error message."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import zipfile
from contextlib import closing
from pathlib import Path

import keras_tuner
import numpy as np
import pytest
from mlflow import MlflowClient

import hpsearch
from conftest import SRC
from hpsearch.cli import entry
from hpsearch.command_form import Project, look
from hpsearch.errors import ConfigError, first_line
from hpsearch.study_report.version_page import serving
from workplace import SMALL

SECRET = "geheim-und-lang"
OF_MLFLOW = "word-of-the-store"
OF_REGISTRY = "word-of-the-registry"
TOKEN_OF_MLFLOW = "token-of-the-store"
TOKEN_OF_GIT = "ghp_token-of-git"


URL = f"postgresql+psycopg://me:{SECRET}@host/db"
REFUSED = "must not hold a secret"


@pytest.mark.parametrize(
    "words",
    [
        ["storage=postgres", f"storage.url={URL}"],
        ["storage=postgres", f"storage.url='postgresql+psycopg://host/db?passwd={SECRET}'"],
        [f"tracking.uri=http://me:{SECRET}@host:5000"],
        [f"tracking.uri='https://{SECRET}@host'"],
        [f"tracking.uri='http://host:5000?access_token={SECRET}'"],
        [f"tracking.uri='http\\://me\\:{SECRET}@host'"],
        [f"++tracking.uri=http%3A%2F%2Fme%3A{SECRET}%40host"],
        [f"tracking.uri='http://host/#api_key={SECRET}'", "tracking.uri=http://host"],
        ["-m", f"tracking.uri='http://a','http://me:{SECRET}@b'"],
        [f"study.warm_storage='host=db password={SECRET}'", "study.warm_start=a"],
        [f"data.name='{URL}'"],
        [f"++arch.notes=[a,{{b:'{URL}'}}]"],
        [f"hydra.job.env_set.MLFLOW_TRACKING_URI=http://me:{SECRET}@host"],
        [f"+hydra.job.env_set.PGPASSWORD={SECRET}"],
        [f"+hydra.job.env_set={{MLFLOW_TRACKING_TOKEN:{SECRET}}}"],
        [f"hydra.run.dir='s3://me:{SECRET}@host'"],
    ],
)
def test_a_secret_on_the_command_line_is_refused_before_anything_is_written(words):
    with pytest.raises(ConfigError, match=REFUSED) as caught:
        entry.check("search", words)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("storage/own.yaml", f"defaults: [postgres]\nurl: {URL}", ["storage=own"]),
        ("tracking/own.yaml", f"defaults: [mlflow]\nuri: http://{SECRET}@h", ["tracking=own"]),
        (
            "tracking/own.yaml",
            "defaults: [mlflow]\nuri: ${oc.env:OF_A_PERSON}",
            ["tracking=own"],
        ),
        (
            "tracking/own.yaml",
            "defaults: [mlflow]\nuri: http://me:${oc.env:WORD_OF_A_PERSON}@host",
            ["tracking=own"],
        ),
        (
            "tracking/own.yaml",
            f"defaults: [mlflow]\nuri: '${{oc.env:HARMLESS,\"http://me:{SECRET}@host\"}}'",
            ["tracking=own"],
        ),
        (
            "experiment/own.yaml",
            f"# @package _global_\nhydra: {{job: {{env_set: {{PGPASSWORD: {SECRET}}}}}}}",
            ["experiment=own"],
        ),
        (
            "experiment/own.yaml",
            f"# @package _global_\nstudy: {{warm_storage: '{URL}'}}",
            ["experiment=own"],
        ),
        (
            "storage/own.yaml",
            f"defaults: [postgres]\nurl: {URL}",
            ["-m", "storage=sqlite,journal,own"],
        ),
    ],
)
def test_a_secret_in_a_file_of_a_persons_own_is_refused(file, text, words, tmp_path, monkeypatch):
    monkeypatch.setenv("OF_A_PERSON", f"http://me:{SECRET}@host")
    monkeypatch.setenv("WORD_OF_A_PERSON", SECRET)
    monkeypatch.setenv("HARMLESS", "http://host")
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError, match=REFUSED) as caught:
        entry.check("search", [*words, f"--config-dir={tmp_path}"])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "keywords",
    [
        {"tracking_uri": f"http://me:{SECRET}@host"},
        {"config": {"tracking.uri": f"http://host/?token={SECRET}"}},
        {"config": {"++hydra.job.env_set.PGPASSWORD": SECRET}},
        {"storage": "postgres", "config": {"storage.url": URL}},
        {"experiment": URL},
    ],
)
def test_a_secret_is_refused_in_python_too(keywords, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.zeros((20, 4, 4, 1), "uint8")
    y = np.arange(20) % 2
    with pytest.raises(ConfigError, match=REFUSED) as caught:
        hpsearch.search(keras_tuner.HyperModel, x, y, **keywords)
    assert SECRET not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_postgres_without_a_password_and_a_server_of_mlflow_are_accepted():
    url = "storage.url='postgresql+psycopg://me@a:1,b:2/db?passfile=/home/me/.pgpass'"
    entry.check("search", ["storage=postgres", url, "tracking.uri=http://host:5000/a@b"])


def test_an_error_of_a_library_is_said_without_its_secrets():
    assert SECRET not in str(ConfigError(f"{URL} cannot be reached (password={SECRET})."))
    assert SECRET not in first_line(ValueError(f"no answer from {URL}"))


def test_the_traceback_of_an_unforeseen_error_has_no_secret(capsys):
    with pytest.raises(SystemExit) as ended, entry.ending():
        raise RuntimeError(f"API request to {URL} failed with exception 1")
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "RuntimeError: API request to postgresql+psycopg://me:***@host/db failed" in said
    assert SECRET not in said
    (log,) = re.findall(r"(\S+\.log) has the details", said)
    traceback = Path(log).read_text()
    Path(log).unlink()
    assert "Traceback (most recent call last)" in traceback
    assert SECRET not in traceback


@pytest.mark.parametrize(
    "uri",
    [
        f"http://me:{SECRET}@host:5000/",
        f"https://{SECRET}@host",
        f"http://host:5000/?token={SECRET}",
        URL,
        f"postgresql://me@host/db?password={SECRET}",
    ],
)
def test_commands_of_a_store_with_a_secret_can_be_pasted(uri):
    shown = [look(uri, "1", "2"), serving("models:/digits@champion", uri)]
    for text in shown:
        assert SECRET not in text
        assert "***" not in text
    assert "${MLFLOW_TRACKING_URI:?" in shown[1]
    if uri.startswith("http"):
        assert re.match(r"https?://host(:5000)?/#/experiments/1/runs/2", shown[0])
    else:
        assert "${MLFLOW_TRACKING_URI:?" in shown[0]


def test_a_projects_url_is_printed_without_its_token():
    file = str(SRC.parent / "MLproject")
    of = Project(file, [f"https://{SECRET}@host/me/project.git#sub", "-v", "main"], None)
    said = of.command("search", ["arch=selu"])
    assert said == "mlflow run 'https://host/me/project.git#sub' -v main -P arch=selu"


@pytest.fixture
def code_with_a_token(tmp_path_factory):
    """A copy of hpsearch in a git repository whose remote has a token."""
    folder = tmp_path_factory.mktemp("code")
    shutil.copytree(SRC, folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(SRC.parent / "conf", folder / "conf")
    git = ["git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@host"]
    remote = f"https://{TOKEN_OF_GIT}@host/me/project.git"
    for words in (["init", "-q"], ["remote", "add", "origin", remote]):
        subprocess.run([*git, *words], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "All"], check=True)
    return folder / "src"


def everything_in(folder):
    """Return what the files of a folder hold, also within archives and databases."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            found.append(path.read_bytes().decode(errors="replace"))
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as database:
                found.append("\n".join(database.iterdump()))
        elif path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found += [archive.read(n).decode(errors="replace") for n in archive.namelist()]
    return found


def ran_with_processes(command, folder, environment):
    """Run a command, and return its status, what it printed, and the processes meanwhile."""
    processes = []
    log = folder / "printed.log"
    with log.open("wb") as file:
        running = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        while running.poll() is None:
            listed = ["ps", "axww", "-o", "args"]
            processes.append(subprocess.run(listed, capture_output=True, text=True, check=True))
            time.sleep(0.3)
    return running.returncode, log.read_text(), "".join(done.stdout for done in processes)


@pytest.mark.slow
def test_a_search_leaves_no_secret_anywhere(
    postgres_server, mlflow_server, code_with_a_token, tmp_path
):
    url = postgres_server.new_database("secrets")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    of_mlflow = mlflow_server.uri.replace("://", f"://me:{OF_MLFLOW}@")
    environment |= {
        "PYTHONPATH": str(code_with_a_token),
        "PGPASSWORD": postgres_server.password,
        "MLFLOW_TRACKING_URI": of_mlflow,
        "MLFLOW_REGISTRY_URI": of_mlflow.replace(OF_MLFLOW, OF_REGISTRY),
        "MLFLOW_TRACKING_TOKEN": TOKEN_OF_MLFLOW,
    }
    secrets = [postgres_server.password, OF_MLFLOW, OF_REGISTRY, TOKEN_OF_MLFLOW, TOKEN_OF_GIT]
    command = [sys.executable, "-m", "hpsearch", "search", *SMALL, "storage=postgres"]
    command += [
        f"storage.url={url}",
        "budget.n_trials=2",
        "training.epochs=1",
        "uncertainty.n_samples=2",
    ]
    status, said, processes = ran_with_processes(command, tmp_path, environment)
    assert status == 0, said
    away = "storage.url=" + url.replace(str(postgres_server.port), "1")
    refused = subprocess.run(
        [*command[:-3], away, "storage.patience_s=1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    others = [refused.stdout, refused.stderr]
    everything = [said, processes, *others, *everything_in(tmp_path)]
    everything += [postgres_server.dump("secrets")]
    assert len(everything) > 50
    for secret in secrets:
        for text in everything:
            place = text.find(secret)
            assert place < 0, text[max(0, place - 300) : place + 300]
    client = MlflowClient(mlflow_server.uri, registry_uri=mlflow_server.uri)
    version = client.get_model_version("digits-selu", "1")
    assert "${MLFLOW_TRACKING_URI:?" in version.description
    remote = client.get_run(version.run_id).data.tags["mlflow.source.git.repoURL"]
    assert re.fullmatch("https://([*]{3}@)?host/me/project.git", remote)
    assert "***" not in said
