"""A database password reaches no run, artifact, log line, process list or error message."""

import os
import subprocess
import sys

import pytest

from conftest import SRC
from hpsearch.cli import entry
from hpsearch.errors import ConfigError
from workplace import SMALL

SECRET = "geheim-und-lang"


@pytest.mark.parametrize(
    "override",
    [
        f"storage.url=postgresql+psycopg://me:{SECRET}@host/db",
        f"tracking.uri=http://me:{SECRET}@host:5000",
    ],
)
def test_a_password_on_the_command_line_is_refused_before_anything_is_written(override):
    group = ["storage=postgres"] if override.startswith("storage") else []
    with pytest.raises(ConfigError, match="must not hold a password") as caught:
        entry.check("search", [*group, override])
    assert SECRET not in str(caught.value)


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
