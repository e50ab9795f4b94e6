"""The command `hpsearch JOB KEY=VALUE ...`, which starts one of six jobs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping

import hpsearch
from hpsearch.cli import completion, entry
from hpsearch.cli.command_line import MULTIRUN
from hpsearch.cli.terminal import Terminal
from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.study.worker_process import this_process


def _help(usage: str, jobs: Mapping[str, str]) -> str:
    """Return what `hpsearch --help` prints."""
    width = max(map(len, jobs))
    lines = [usage, "", "Jobs:"]
    for name, description in jobs.items():
        lines.append(f"  {name:<{width}}  {description}")
    lines.append("")
    lines.append("hpsearch JOB --help tells more of a job.")
    return "\n".join(lines)


def main() -> None:
    """Start the job that the first word of the command line names."""
    jobs = {
        "search": "Search the hyperparameters of an architecture and register the best model.",
        "evaluate": "Measure how far a registered model can be trusted.",
        "report": "Describe a study on one page.",
        "ablate": "Train variants of one architecture and compare them.",
        "compare": "Compare the best trials of several studies.",
        "doctor": "Check that a study and its MLflow runs agree, and repair them.",
    }
    usage = "Usage: hpsearch JOB [KEY=VALUE ...]"
    words = sys.argv[1:]
    if not words or words[0] in {"-h", "--help"}:
        print(_help(usage, jobs))
        return
    if words[0] == "--version":
        print(f"hpsearch {hpsearch.__version__}")
        return
    if completion.is_asked_for(words):
        completion.answer(words, list(jobs))
        return
    job = words[0]
    if job not in jobs:
        hint = did_you_mean(job, jobs)
        error = ConfigError(f"There is no job {job!r}.{hint} {usage}.")
        raise Terminal().end(f"Error: {error}", error.exit_status)
    is_sweep = any(word in MULTIRUN for word in words)
    if not is_sweep:
        this_process.remember()
    sys.argv[1:] = words[1:]
    # An installed script does not find modules of the current folder, as `python -m` does.
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    module = importlib.import_module(f"hpsearch.cli.{job}")
    if job == "doctor":
        module.main()
    else:
        entry.run(job, module.main)
