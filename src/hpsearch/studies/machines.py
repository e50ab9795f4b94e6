"""What a cluster says about this process: its SLURM job, and that it must go."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
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


_asked: list[int] = []
_grace_s: list[float] = []  # while signals are waited for
_alarms: list[Callable[[], None]] = []


def asked_to_leave() -> int | None:
    """Return the signal by which the cluster has asked this process to go, None where it has not."""
    return _asked[0] if _asked else None


def ring(after_s: float, every_s: float, alarm: Callable[[], None]) -> bool:
    """Call `alarm` in the main thread, wherever that is, by a signal of the kernel's clock; what it raises is raised.

    Returns:
        False where no signals are waited for, or where this is not the main thread.
    """
    if not _grace_s or threading.current_thread() is not threading.main_thread():
        return False
    _alarms[:] = [alarm]
    if not _asked:  # else the same clock tells how long this process may still be here
        signal.setitimer(signal.ITIMER_REAL, after_s, every_s)
    return True


def stop_ringing() -> None:
    """Take back what `ring` was told."""
    _alarms.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if _asked:
        signal.setitimer(signal.ITIMER_REAL, _grace_s[0])


def leave_if_asked() -> None:
    """Raise Preempted where the cluster has asked; called where a trial can be given back without a loss."""
    if _asked:
        raise Preempted(_asked[0])


def _leave_or_wake(_number: int, _frame: Any) -> None:
    leave_if_asked()
    for alarm in _alarms:
        alarm()


@contextmanager
def leaving_on_signal(grace_s: float) -> Iterator[None]:
    """Within the block SIGTERM, and what submitit sends before a job's time is over, raise Preempted.

    They do at the next `leave_if_asked`, or wherever the process is after `grace_s` seconds. After the block the signal
    goes on to whoever waited for it before, so that submitit can have the job requeued.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, _frame: Any) -> None:
        if not _asked:  # SLURM repeats itself while the trial is given back
            _asked.append(number)
            signal.setitimer(signal.ITIMER_REAL, grace_s)

    usual = {signal.SIGTERM, signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]}
    before = {number: signal.signal(number, ask) for number in usual}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _leave_or_wake)
    _grace_s[:] = [grace_s]
    try:
        yield
    finally:
        _grace_s.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        while _asked:
            asked = signal.Signals(_asked.pop())
            if callable(handler := before[asked]):
                handler(asked, None)
