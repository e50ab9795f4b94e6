"""What a cluster says about this process: its SLURM job, and that it must go.

Goes on in a fresh process: the same command under the same process id, where this one can no longer
be trusted.

That is where one of its threads hangs in native code, which nothing but the end of the process
stops, or where its memory has grown. The study goes on as after any other end of a process; nothing
is handed over but what a command line
cannot say: how often this has happened, and when the search's time is over.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn


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
    """Call `alarm` in the main thread, wherever that is, by a signal of the kernel's clock; what it
    raises is raised.

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
    """Raise Preempted where the cluster has asked; called where a trial can be given back without a
    loss.
    """
    if _asked:
        raise Preempted(_asked[0])


def _leave_or_wake(_number: int, _frame: Any) -> None:
    leave_if_asked()
    for alarm in _alarms:
        alarm()


@contextmanager
def leaving_on_signal(grace_s: float) -> Iterator[None]:
    """Within the block SIGTERM, and what submitit sends before a job's time is over, raise
    Preempted.

    They do at the next `leave_if_asked`, or wherever the process is after `grace_s` seconds. After
    the block the signal goes on to whoever waited for it before, so that submitit can have the job
    requeued.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, _frame: Any) -> None:
        if not _asked:  # SLURM repeats itself while the trial is given back
            _asked.append(number)
            signal.setitimer(signal.ITIMER_REAL, grace_s)

    usual = {
        signal.SIGTERM,
        signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"],
    }
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


# `PID RESTARTS DEADLINE`: what this process, and no child of it, was before
RESTARTED = "HPSEARCH_RESTARTED"
FLUSH_S = 2.0


@dataclass
class _Command:
    """What a process was started as."""

    words: list[str]
    n_own: int  # how many of them are the script's own
    environment: dict[str, str]
    folder: str
    files: frozenset[str]
    blocked: set[signal.Signals]
    overrides: list[str] = field(default_factory=list)


_started: list[_Command] = []
_deadline: list[float] = []


def remember() -> None:
    """Note what this process is, at its very start: a single command, which may be run again in its
    place.
    """
    files = frozenset(os.listdir("/proc/self/fd"))
    blocked = {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}
    words, own = list(sys.orig_argv), len(sys.argv) - 1
    _started[:] = [_Command(words, own, dict(os.environ), os.getcwd(), files, blocked)]


def forget() -> None:
    """It is no single command after all."""
    _started.clear()


def keep(override: str) -> None:
    """Give the next process one more override, such as the folder that this one writes to."""
    for command in _started:
        command.overrides.append(override)


def can_restart() -> bool:
    """Return whether this process may be replaced: not the worker of a sweep, a notebook, or
    somebody's script.
    """
    return bool(_started)


def n_restarts(pid: int, environment: dict[str, str] | None = None) -> int:
    """Return how often a process has been replaced, as its environment tells."""
    return int(_told(pid, os.environ if environment is None else environment)[0])


def deadline(timeout_s: float) -> float:
    """Return when a search's time is over, on `time.monotonic`'s clock; one that was replaced keeps
    its deadline.
    """
    _deadline[:] = [_told(os.getpid(), os.environ)[1] or time.monotonic() + timeout_s]
    return _deadline[0]


def _told(pid: int, environment: os._Environ[str] | dict[str, str]) -> tuple[int, float]:
    whose, n_before, until = (environment.get(RESTARTED) or "0 0 0").split()
    return (int(n_before), float(until)) if int(whose) == pid else (0, 0.0)


def restart() -> NoReturn:
    """Replace this process by a fresh one that runs the same command; no other thread goes on, no
    `finally` runs.

    What is to outlive it must have been written. Where the cluster has asked this process to go, it
    goes.
    """
    _flush()
    signal.setitimer(signal.ITIMER_REAL, 0)  # timers and blocked signals would outlive it
    if (number := asked_to_leave()) is not None:
        os._exit(128 + number)
    command = _started[0]
    pid = os.getpid()
    told = f"{pid} {n_restarts(pid) + 1} {_deadline[0] if _deadline else 0.0}"
    for name in set(os.listdir("/proc/self/fd")) - command.files:
        with suppress(OSError):
            os.set_inheritable(int(name), False)
    signal.pthread_sigmask(signal.SIG_SETMASK, command.blocked)
    try:
        os.chdir(command.folder)
        os.execve(sys.executable, _words(command), command.environment | {RESTARTED: told})
    except OSError as error:
        os.write(
            2,
            f"Error: no fresh process could be started ({error}); the same command goes on.\n".encode(),
        )
        os._exit(1)


def _words(command: _Command) -> list[str]:
    """Return the command again, with what is kept beside its first override: Hydra wants those in
    one piece.
    """
    words = [sys.executable, *command.words[1:]]
    begin = len(words) - command.n_own
    place = next(
        (i for i, w in enumerate(words) if i >= begin and "=" in w and not w.startswith("-")), None
    )
    if place is not None:
        words[place:place] = [word for word in command.overrides if word not in words]
    return words


def _flush() -> None:
    """Write out what waits, and show the cursor again; a thread that hangs may hold the streams for
    good.
    """

    def flush() -> None:
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h")
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()

    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    thread.join(FLUSH_S)
