"""Whether a fresh process may replace the process of a job, and what it is told.

A worker whose memory has grown, or in which a trial hangs, goes on in a fresh process; see
`study.worker_process`. This module imports neither Keras nor Optuna.
"""

from __future__ import annotations

from hpsearch.study import worker_process


def allow() -> None:
    """Let the process of this command be replaced; called before anything else is done."""
    worker_process.remember()


def writes_to(folder: str | None) -> None:
    """Let a process that replaces this one write to the same folder.

    Args:
        folder: The folder of Hydra's record; None in a process that runs a job of a sweep, which
            must not be replaced.
    """
    if folder is None:
        worker_process.forget()
    elif "'" not in folder:
        worker_process.keep(f"hydra.run.dir='{folder}'")
