"""The command `hpsearch JOB KEY=VALUE ...`, which starts one of six jobs."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Sequence

import hpsearch
from hpsearch.cli import completion, entry
from hpsearch.cli.command_line import MULTIRUN
from hpsearch.cli.terminal import Terminal, write_readably
from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.study.worker_process import this_process

_USAGE = "Usage: hpsearch JOB [KEY=VALUE ...]"
_JOBS = {
    "search": "Search the hyperparameters of an architecture and register the best model.",
    "evaluate": "Measure how far a registered model can be trusted.",
    "report": "Describe a study on one page.",
    "ablate": "Train variants of one architecture and compare them.",
    "compare": "Compare the best trials of several studies.",
    "doctor": "Check that a study and its MLflow runs agree, and repair them.",
}


def _help() -> str:
    """Return what `hpsearch --help` prints."""
    width = max(map(len, _JOBS))
    lines = ["Search the hyperparameters of Keras classifiers, with every trial in MLflow."]
    lines += ["", _USAGE, "", "Jobs:"]
    for name, description in _JOBS.items():
        lines.append(f"  {name:<{width}}  {description}")
    lines += ["", "A first search, of about two minutes and without a download:"]
    lines += ["  hpsearch search arch=selu data=digits", "  mlflow ui", ""]
    lines.append("hpsearch JOB --help tells more of a job, hpsearch --version the version.")
    return "\n".join(lines)


def main() -> None:
    """Start the job that the first word of the command line names."""
    write_readably()
    words = sys.argv[1:]
    if not words or words[0] in {"-h", "--help", "help"}:
        print(_help())
        return
    if "--version" in words:
        print(f"hpsearch {hpsearch.__version__}")
        return
    try:
        _check_folder()
        if completion.is_asked_for(words):
            completion.answer(words, list(_JOBS))
            return
        _check_job(words)
    except ConfigError as error:
        raise Terminal().end(f"Error: {error}", error.exit_status) from None
    _start(words)


def _check_folder() -> None:
    """Raise ConfigError where the current folder has been removed since the shell entered it."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError(
            "The current folder does not exist any more: enter another one."
        ) from error


def _check_job(words: Sequence[str]) -> None:
    """Raise ConfigError where the first word names no job."""
    job = words[0]
    if job in _JOBS:
        return
    if "=" in job:
        line = shlex.join(["hpsearch", "search", *words])
        raise ConfigError(f"A job comes before all settings, such as {line}; received {job!r}.")
    raise ConfigError(f"There is no job {job!r}.{did_you_mean(job, _JOBS)} {_USAGE}.")


def _start(words: Sequence[str]) -> None:
    job = words[0]
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
