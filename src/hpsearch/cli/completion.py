"""Completion of a command line in a shell: the jobs here, everything behind a job by Hydra.

`hpsearch -sc install=bash` prints what a shell must run once. The shell then calls
`hpsearch -sc query=bash` at each Tab, with the line so far in the environment variable COMP_LINE.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence


def is_asked_for(words: Sequence[str]) -> bool:
    """Return whether a command line is one of those of this module."""
    return words[0] in ("-sc", "--shell-completion")


def answer(words: Sequence[str], jobs: Sequence[str]) -> None:
    """Print what installs the completion, or the words that may stand at the end of the line.

    Args:
        words: The command line, such as `-sc query=bash`.
        jobs: The names of all jobs.
    """
    job = "search"  # any job prints the same installation
    if any(word.startswith("query=") for word in words):
        job, begun = _job_of(os.environ.get("COMP_LINE", ""))
        if begun is not None:
            names = [name for name in jobs if name.startswith(begun)]
            print("\n".join(names))
            return
        if job not in jobs:
            return
    root = job
    if job == "doctor":  # its settings are those of a search
        root = "search"
    sys.argv[1:] = words
    module = importlib.import_module(f"hpsearch.cli.{root}")
    module.main()


def _job_of(line: str) -> tuple[str, str | None]:
    """Return the job of a line, and the begun name of a job where the job is not complete yet.

    A complete job is taken out of COMP_LINE, because Hydra expects overrides after the command.
    """
    command, _, rest = line.partition(" ")
    job, space, behind = rest.lstrip().partition(" ")
    if not space:
        return "", job
    os.environ["COMP_LINE"] = f"{command} {behind}"
    return job, None
