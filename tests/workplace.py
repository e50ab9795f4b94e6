"""A folder in which tests run hpsearch's commands, and read what they leave there."""

import io
import os
import signal
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import optuna
from mlflow import MlflowClient

from hpsearch.cli import ablate, compare, doctor, entry, evaluate, report, search
from hpsearch.study.journal_file import FileLock

SRC = Path(__file__).parents[1] / "src"
SET_BY_IMPORTS = ("MLFLOW", "TF_CPP")  # of MLflow and JAX in the tests' own process
MAINS = {
    module.__name__.split(".")[2]: module.main
    for module in (search, report, evaluate, ablate, compare)
}
SMALL = (
    "data=digits",
    "arch.n_hidden=3",
    "arch.n_units=20",
    "training.epochs=6",
    "training.jit_compile=false",
)


def shell_environment() -> dict[str, str]:
    """Return what a shell has in which this Python is the first, without what imports have set
    here.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(SET_BY_IMPORTS)}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@dataclass(frozen=True)
class Workplace:
    """A folder in which hpsearch's commands run, with the study storage and the MLflow store that
    they leave there.
    """

    folder: Path

    def start(self, *words: str, script: str = "search", **env: str) -> subprocess.Popen[str]:
        """Start `python -m hpsearch SCRIPT` with a group of processes of its own."""
        if (
            signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        ):  # a shell's background jobs, and theirs, ignore Ctrl-C
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(
            (sys.executable, "-m", "hpsearch", script, *words),
            cwd=self.folder,
            env=shell_environment() | {"PYTHONPATH": str(SRC)} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *words: str, script: str = "search", **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end; killed after five minutes, whatever it started."""
        process = self.start(*words, script=script, **env)
        try:
            out, err = process.communicate(timeout=300)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def here(self, *words: str, script: str = "search") -> subprocess.CompletedProcess[str]:
        """Run it in this process, whose imports it then shares; they take longer than most of what
        tests run.
        """
        store = {
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db"
        }  # MLflow keeps a relative one for good
        status, out, err = 0, io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, store),
            mock.patch.object(sys, "argv", [script, *words]),
            chdir(self.folder),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                doctor.main() if script == "doctor" else entry.run(script, MAINS[script])
            except SystemExit as ended:
                status = int(ended.code or 0)
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    @property
    def client(self) -> MlflowClient:
        """A client of the MLflow store."""
        uri = f"sqlite:///{self.folder}/mlflow.db"
        return MlflowClient(uri, registry_uri=uri)

    def study(self, name: str) -> optuna.Study:
        """Return a study of the storage.

        Opening a storage makes its tables, so it waits for a worker that is about to do so.
        """
        database = self.folder / "optuna.db"
        with FileLock(str(database))():
            return optuna.load_study(study_name=name, storage=f"sqlite:///{database}")

    def runs(self, kind: str) -> list:
        """Return the runs that are tagged as `study` or `trial`, oldest first."""
        query = f"tags.`hpsearch.kind` = '{kind}'"
        return list(self.client.search_runs(["0"], query, order_by=["attributes.start_time ASC"]))
