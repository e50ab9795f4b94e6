"""End the run of an `mlflow run` whose command was a mistake as KILLED, named by the mistake.

When the command of a project ends, MLflow 3.17 sets its run to FAILED, even where the command has
set another status before: it compares the status as text with statuses as numbers. So the status
is set by a process of its own, this module, which waits for that and outlives the command by some
milliseconds.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import suppress

from hpsearch.command_form import Project


def refuse(project: Project, sentence: str) -> None:
    """Let the run that `mlflow run` has made end as KILLED, once this process has ended.

    A run that belongs to a study by now is left alone, and so is every run if MLflow is away.

    Args:
        project: The command that has made the run.
        sentence: The mistake.
    """
    if project.run_id is None:
        return
    longest = 250  # characters that MLflow's databases keep of a name
    name = f"refused: {project.in_its_words(sentence)}"[:longest]
    words = [sys.executable, "-m", "hpsearch.cli.refused", project.run_id, name]
    process = subprocess.Popen(
        words,
        env={**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    if process.stdout is not None:
        # It can be read as soon as the process is ready to wait, or has ended.
        select.select([process.stdout], [], [], 30.0)


def main(run_id: str, name: str) -> None:
    """Name a run, wait until `mlflow run` has ended it, and set its status to KILLED."""
    # Importing this takes seconds, in which `refuse` waits.
    from mlflow import MlflowClient  # noqa: PLC0415
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    with suppress(MlflowException):
        client = MlflowClient()
        if "hpsearch.kind" in client.get_run(run_id).data.tags:
            return
        client.update_run(run_id, name=name)
        print("ready", flush=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if client.get_run(run_id).info.status != "RUNNING":
                break
            time.sleep(0.01)
        client.update_run(run_id, status="KILLED")


if __name__ == "__main__":
    main(*sys.argv[1:])
