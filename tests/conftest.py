"""What several test files need: real servers, each on a free port and stopped by its own process id; a small search."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from workplace import SMALL, Workplace

SRC = Path(__file__).parents[1] / "src"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(holds, what, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(0.1)


class PostgresServer:
    """A PostgreSQL server of its own; `stop` and `start` let it be away for a while."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder, self.binaries, self.port = folder, binaries, free_port()
        self.password = "s3cret-of-this-test"
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self.as_user:
            shutil.chown(folder, "postgres", "postgres")
        (folder / "password").write_text(self.password)
        (folder / "password").chmod(0o644)
        self.run(
            "initdb", "-D", folder / "data", "-U", "hpsearch", "-A", "scram-sha-256", "--pwfile", folder / "password"
        )
        self.start()

    def run(self, program, *arguments):
        command = [*self.as_user, self.binaries / program, *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr + done.stdout)

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self.folder}"
        self.run("pg_ctl", "-D", self.folder / "data", "-w", "-o", options, "-l", self.folder / "log", "start")

    def stop(self):
        self.run("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    @property
    def url(self):
        return f"postgresql+psycopg://hpsearch@127.0.0.1:{self.port}/postgres"

    def new_database(self, name):
        import psycopg  # noqa: PLC0415 (most tests need none)

        address = f"host=127.0.0.1 port={self.port} user=hpsearch dbname=postgres password={self.password}"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://hpsearch@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory):
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    folder = tmp_path_factory.mktemp("postgres", numbered=True)
    for parent in [folder, *folder.parents][:3]:
        parent.chmod(0o755)
    server = PostgresServer(folder, found[-1])
    before, os.environ["PGPASSWORD"] = os.environ.get("PGPASSWORD"), server.password
    yield server
    server.stop()
    os.environ.pop("PGPASSWORD")
    if before is not None:
        os.environ["PGPASSWORD"] = before


class MlflowServer:
    """An `mlflow server` with a store of its own; `stop` and `start` let it be away for a while."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--host", "127.0.0.1"]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        log = open(self.folder / "server.log", "ab")  # noqa: SIM115 (the server writes to it)
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        wait_until(self.answers, "the MLflow server's start", 120)

    def answers(self):
        try:
            return requests.get(f"{self.uri}/health", timeout=1).ok
        except requests.RequestException:
            return False

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def mlflow_server(tmp_path):
    folder = tmp_path / "mlflow"
    folder.mkdir()
    server = MlflowServer(folder)
    yield server
    server.stop()


@pytest.fixture
def workplace(tmp_path):
    return Workplace(tmp_path)


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
    """A search of seven trials on the digits that has run to its end, and what it printed."""
    place = Workplace(tmp_path_factory.mktemp("searched"))
    done = place.run(*SMALL, "budget.n_trials=7")
    assert done.returncode == 0, done.stderr
    return place, done
