"""A secret reaches no run, artifact, log line, process list or error message."""

import os
import re
import subprocess
import sys

import keras_tuner
import numpy as np
import pytest

import hpsearch
from conftest import SRC
from hpsearch.cli import entry
from hpsearch.command_form import Project, look
from hpsearch.errors import ConfigError, first_line
from hpsearch.study_report.version_page import serving
from workplace import SMALL

SECRET = "geheim-und-lang"


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


@pytest.mark.slow
def test_a_search_on_postgres_leaves_the_password_nowhere(postgres_server, tmp_path):
    url = postgres_server.new_database("secrets")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment |= {"PYTHONPATH": str(SRC), "PGPASSWORD": postgres_server.password}
    command = [sys.executable, "-m", "hpsearch", "search", *SMALL, "storage=postgres"]
    command += [
        f"storage.url={url}",
        "budget.n_trials=2",
        "training.epochs=1",
        "uncertainty.n_samples=2",
    ]
    search = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    processes = subprocess.run(
        ["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True
    ).stdout
    said, _ = search.communicate(timeout=600)
    assert search.returncode == 0, said
    wrong = [
        *command[:-3],
        "storage.url=" + url.replace(str(postgres_server.port), "1"),
        "storage.patience_s=1",
    ]
    refused = subprocess.run(
        wrong, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    everything = [said, processes, refused.stdout, refused.stderr]
    everything += [
        p.read_bytes().decode(errors="replace") for p in tmp_path.rglob("*") if p.is_file()
    ]
    everything += [postgres_server.dump("secrets")]
    assert len(everything) > 10
    assert not [text[:200] for text in everything if postgres_server.password in text]
