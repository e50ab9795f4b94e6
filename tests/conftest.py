"""What several test files need: real servers, each on a free port and stopped by its own process
id; a small search.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import mlflow
import pytest
import requests
from mlflow import MlflowClient

from hpsearch.tracking import spool, spool_file
from hpsearch.training import checkpoints
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
            "initdb",
            "-D",
            folder / "data",
            "-U",
            "hpsearch",
            "-A",
            "scram-sha-256",
            "--pwfile",
            folder / "password",
        )
        self.start()

    def run(self, program, *arguments):
        command = [*self.as_user, self.binaries / program, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr + done.stdout)

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self.folder}"
        self.run(
            "pg_ctl",
            "-D",
            self.folder / "data",
            "-w",
            "-o",
            options,
            "-l",
            self.folder / "log",
            "start",
        )

    def stop(self):
        self.run("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    @property
    def url(self):
        return f"postgresql+psycopg://hpsearch@127.0.0.1:{self.port}/postgres"

    def dump(self, name):
        """Return all that a database holds, as text."""
        command = [
            self.binaries / "pg_dump",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "hpsearch",
            name,
        ]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    def new_database(self, name):
        import psycopg  # noqa: PLC0415 (most tests need none)

        address = (
            f"host=127.0.0.1 port={self.port} user=hpsearch dbname=postgres "
            f"password={self.password}"
        )
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://hpsearch@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="session")
def running_postgres():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to the server's user
    folder.chmod(0o755)
    server = PostgresServer(folder, found[-1])
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def postgres_server(running_postgres, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", running_postgres.password)
    return running_postgres


@pytest.fixture(scope="session")
def mlflow_tables(tmp_path_factory):
    """An empty MLflow database, to copy: making its tables takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with chdir(path.parent):  # which MLflow makes the place of artifacts
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


class MlflowServer:
    """An `mlflow server` with a store of its own; `stop` and `start` let it be away for a while."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--port",
            str(self.port),
            "--host",
            "127.0.0.1",
        ]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with open(self.folder / "server.log", "ab") as log:
            env = {
                **os.environ,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            }  # half a dozen processes less
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_until(self.answers, "the MLflow server's start", 300)
        except BaseException:
            self.stop()
            raise

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


@contextmanager
def serving(command, folder, port, env, timeout_s, *, page="ping"):
    """Run a shell command that ends in a server on a port, until the end of the block.

    The server runs once it answers for `page`.
    """
    with open(folder / "serve.log", "wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", command],
            stdout=log,
            stderr=log,
            env=env,
            cwd=folder,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def answers():
        if process.poll() is not None:
            pytest.fail((folder / "serve.log").read_text())
        try:
            return requests.get(f"{url}/{page}", timeout=2).ok
        except requests.RequestException:
            return False

    try:
        wait_until(answers, "the server's start", timeout_s)
        yield SimpleNamespace(url=f"{url}/invocations", answers=answers)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class SlurmCluster:
    """A SLURM cluster of one node, this machine, without systemd.

    A job that is requeued waits for `cred_expire` seconds before it starts again, which are 120
    where nothing is set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        host, ports = socket.gethostname().split(".")[0], (free_port(), free_port())
        (folder / "slurm.conf").write_text(
            f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=30
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/slurmd
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
KillWait=30
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 \
    ThreadsPerCore=1 RealMemory=8000 Gres=gpu:4 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""
        )
        devices = (
            "null",
            "zero",
            "full",
            "random",
        )  # four that every machine has stand for four GPUs
        (folder / "gres.conf").write_text(
            "".join(f"Name=gpu File=/dev/{name}\n" for name in devices)
        )
        for name in ("state", "slurmd"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        munge = ["munged", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}"]
        munge += [
            f"--pid-file={folder}/munged.pid",
            f"--seed-file={folder}/seed",
            f"--log-file={folder}/munged.log",
        ]
        self.start([*munge, "--foreground"])
        wait_until((folder / "munge.socket").exists, "munged's start")
        self.start(["slurmctld", "-D"])
        self.start(["slurmd", "-D", "-N", host])
        wait_until(
            lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T"),
            "the SLURM node's start",
        )

    def start(self, command):
        with open(self.folder / f"{command[0]}.out", "ab") as log:
            self.processes.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
            )

    def ask(self, *command):
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr

    def jobs(self, states="RUNNING"):
        """Return the jobs in these states, `17_3`."""
        return self.ask(
            "squeue", "--noheader", "--array", "--format=%i", f"--states={states}"
        ).split()

    def stop(self):
        self.ask("scancel", "--user", "root")
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(30)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    if (
        not all(shutil.which(name) for name in ("munged", "slurmctld", "slurmd", "sbatch"))
        or os.getuid()
    ):
        pytest.skip(
            "SLURM is not installed (Debian's packages slurm-wlm and munge), or this is not root"
        )
    folder = tmp_path_factory.mktemp("slurm")
    for parent in [folder, *folder.parents][:3]:
        parent.chmod(0o755)
    cluster = SlurmCluster(folder)
    yield cluster
    cluster.stop()


@pytest.fixture(autouse=True)
def environment():
    """Take back what a test sets, such as MLFLOW_EXPERIMENT_ID or MLflow's address: later tests
    would inherit it.
    """
    with mock.patch.dict(os.environ):
        yield
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)


@pytest.fixture(autouse=True)
def untold():
    """A process tells a trouble with a disk once, and its end; another test may have had one."""
    for module in (checkpoints, spool, spool_file):
        module._trouble._is_told = False


@pytest.fixture
def workplace(tmp_path, mlflow_tables):
    shutil.copy(mlflow_tables, tmp_path / "mlflow.db")
    return Workplace(tmp_path)


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
    """A search of seven trials on the digits that has run to its end, and what it printed.

    The processes of one test run share it: the first to ask runs it, and the others wait.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    place = Workplace(shared / "searched")
    printed = shared / "searched.json"
    with (shared / "searched.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            place.folder.mkdir()
            done = place.run(*SMALL, "budget.n_trials=7")
            assert done.returncode == 0, done.stderr
            printed.write_text(json.dumps([done.stdout, done.stderr]))
    stdout, stderr = json.loads(printed.read_text())
    return place, subprocess.CompletedProcess(SMALL, 0, stdout, stderr)


@pytest.fixture
def searched_copy(searched, tmp_path):
    """A copy of the databases of `searched`, for a test that changes the study or its runs.

    Other tests read `searched` itself, in an order that nobody knows.
    """
    place, _ = searched
    for name in ("optuna.db", "mlflow.db"):
        shutil.copy(place.folder / name, tmp_path)
    return Workplace(tmp_path)
