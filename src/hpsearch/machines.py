"""What a cluster says about this process: its SLURM job, and that it must go."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def job_id() -> str | None:
    """Return the SLURM job that this process is, `17` or `17_3`, or None."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


class Preempted(BaseException):
    """The cluster wants this process to go."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name} asked this worker to go")
        self.number = number

    @property
    def exit_status(self) -> int:
        """What a shell reports of a process that this signal ended."""
        return 128 + self.number


@contextmanager
def leaving_on_signal() -> Iterator[None]:
    """Within the block SIGTERM, and what submitit sends before a job's time is over, raise Preempted.

    After the block the signal goes on to whoever waited for it before, so that submitit can have the job requeued.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = {signal.SIGTERM, signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]}

    def leave(number: int, _frame: Any) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)  # SLURM repeats itself while the trial is given back
        raise Preempted(number)

    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    except Preempted as preempted:
        _restore(before)
        handler = before[signal.Signals(preempted.number)]
        if callable(handler):
            handler(preempted.number, None)
        raise
    finally:
        _restore(before)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
