"""The command `python -m hpsearch JOB KEY=VALUE ...`, which starts one of six jobs."""

from __future__ import annotations

import importlib
import sys

from hpsearch.cli import entry
from hpsearch.cli.command_line import MULTIRUN
from hpsearch.cli.terminal import Terminal
from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.study import worker_process

JOBS = {
    "search": "Search the hyperparameters of an architecture and register the best model.",
    "evaluate": "Measure how far a registered model can be trusted.",
    "report": "Describe a study on one page.",
    "ablate": "Train variants of one architecture and compare them.",
    "compare": "Compare the best trials of several studies.",
    "doctor": "Check that a study and its MLflow runs agree, and repair them.",
}
USAGE = "Usage: python -m hpsearch JOB [KEY=VALUE ...]"


def usage() -> str:
    """Return what `python -m hpsearch --help` prints."""
    width = max(len(name) for name in JOBS)
    lines = [f"  {name:<{width}}  {what}" for name, what in JOBS.items()]
    return "\n".join(
        [USAGE, "", "Jobs:", *lines, "", "python -m hpsearch JOB --help tells more of a job."]
    )


def main() -> None:
    """Start the job that the first word of the command line names, with the words that follow it."""
    words = sys.argv[1:]
    if not words or words[0] in {"-h", "--help"}:
        print(usage())
        return
    job = words[0]
    if job not in JOBS:
        error = ConfigError(f"There is no job {job!r}.{did_you_mean(job, JOBS)} {USAGE}.")
        raise Terminal().end(f"Error: {error}", error.exit_status)
    if not set(MULTIRUN) & set(words):
        worker_process.remember()
    sys.argv[1:] = words[1:]
    module = importlib.import_module(f"hpsearch.cli.{job}")
    if job == "doctor":
        module.main()
    else:
        entry.run(job, module.main)
