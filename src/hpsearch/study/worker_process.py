"""The process of a worker: its SLURM job, the signals that it heeds, and its replacement.

A cluster asks a process to leave by a signal. Within `leaving_on_signal`, the process raises
`Preempted` where a trial can be given back without a loss, or after a grace period. The same clock
can call an alarm that looks for a trial that hangs.

`restart` replaces a process that can no longer be trusted by a fresh one, which runs the same
command under the same process id. It is needed when a thread hangs in native code, which only the
end of the process stops, or when the memory of the process has grown. The study then goes on as
after any other end of a process. The fresh process is told only what a command line cannot say:
the number of restarts so far and the deadline of the search.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from hpsearch.errors import Preempted

# This environment variable holds `PID RESTARTS DEADLINE`. The process id tells the restarted
# process from its children, which inherit the variable.
RESTARTED = "HPSEARCH_RESTARTED"


@dataclass
class _Command:
    """The command that started this process.

    Attributes:
        words: The command line, with the Python interpreter first.
        n_own: How many of the last words are arguments of the script.
        environment: The environment variables.
        folder: The working directory.
        files: The file descriptors that were open at the start.
        blocked: The signals that were blocked at the start.
        overrides: The overrides that the fresh process gets in addition.
    """

    words: list[str]
    n_own: int
    environment: dict[str, str]
    folder: str
    files: frozenset[str]
    blocked: set[signal.Signals]
    overrides: list[str] = field(default_factory=list)


@dataclass
class _State:
    """The state of this process.

    Attributes:
        heeds_signals: Whether the block of `leaving_on_signal` runs.
        grace_s: The grace period of that block, in seconds.
        asked: The signal that asked this process to leave.
        alarm: What `ring` calls.
        command: The command of this process; None if this process must not be replaced.
        deadline: When the time of the search is over; 0 if it is unknown.
    """

    heeds_signals: bool = False
    grace_s: float = 0.0
    asked: int | None = None
    alarm: Callable[[], None] | None = None
    command: _Command | None = None
    deadline: float = 0.0


_state = _State()


def job_id() -> str | None:
    """Return the SLURM job that this process is, such as `17` or `17_3`; None outside of SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return os.environ.get("SLURM_JOB_ID")


@contextmanager
def leaving_on_signal(grace_s: float) -> Iterator[None]:
    """Raise Preempted within the block after SIGTERM, or after the signal that submitit sends.

    Submitit sends its signal before the time of a job is over. `Preempted` is raised at the next
    `leave_if_asked`, or after `grace_s` seconds wherever the process is. After the block, the
    signal is passed to the handler that was installed before, so that submitit can requeue the job.
    Outside of the main thread the block runs without all this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        if _state.asked is None:  # SLURM repeats the signal while the trial is given back
            _state.asked = number
            signal.setitimer(signal.ITIMER_REAL, grace_s)

    submitit_signal = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    before = {}
    for number in {signal.SIGTERM, signal.Signals[f"SIG{submitit_signal}"]}:
        before[number] = signal.signal(number, ask)
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _leave_or_wake)
    _state.grace_s = grace_s
    _state.heeds_signals = True
    try:
        yield
    finally:
        _state.heeds_signals = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        if _state.asked is not None:
            asked = signal.Signals(_state.asked)
            _state.asked = None
            handler = before[asked]
            if callable(handler):
                handler(asked, None)


def leave_if_asked() -> None:
    """Raise Preempted if the cluster has asked this process to leave.

    It is called where a trial can be given back without a loss.
    """
    if _state.asked is not None:
        raise Preempted(_state.asked)


def _leave_or_wake(_number: int, _frame: FrameType | None) -> None:
    leave_if_asked()
    if _state.alarm is not None:
        _state.alarm()


def ring(after_s: float, every_s: float, alarm: Callable[[], None]) -> bool:
    """Call `alarm` in the main thread after some seconds, and then at regular intervals.

    A timer of the kernel interrupts the main thread wherever it is. An exception that `alarm`
    raises is raised there.

    Args:
        after_s: Seconds until the first call.
        every_s: Seconds from each call to the next; 0 for one call only.
        alarm: Called without arguments.

    Returns:
        False if no signals are waited for, or if this is not the main thread; `alarm` is then
        never called.
    """
    if not _state.heeds_signals or threading.current_thread() is not threading.main_thread():
        return False
    _state.alarm = alarm
    if _state.asked is None:  # after a request to leave, the timer measures the grace period
        signal.setitimer(signal.ITIMER_REAL, after_s, every_s)
    return True


def stop_ringing() -> None:
    """Cancel the alarm that `ring` has set."""
    _state.alarm = None
    signal.setitimer(signal.ITIMER_REAL, 0)
    if _state.asked is not None:
        signal.setitimer(signal.ITIMER_REAL, _state.grace_s)


def remember() -> None:
    """Note the command of this process, so that `restart` can run it again.

    It is called at the very start of a process that runs a single command.
    """
    files = frozenset(os.listdir("/proc/self/fd"))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    _state.command = _Command(
        words=list(sys.orig_argv),
        n_own=len(sys.argv) - 1,
        environment=dict(os.environ),
        folder=os.getcwd(),
        files=files,
        blocked={signal.Signals(number) for number in blocked},
    )


def forget() -> None:
    """Drop what `remember` noted, because this process does not run a single command."""
    _state.command = None


def keep(override: str) -> None:
    """Give a fresh process one more override, such as the folder that this process writes to."""
    if _state.command is not None:
        _state.command.overrides.append(override)


def can_restart() -> bool:
    """Return whether this process may be replaced.

    The worker of a sweep, a notebook and a script of somebody else may not.
    """
    return _state.command is not None


def n_restarts(pid: int, environment: Mapping[str, str] | None = None) -> int:
    """Return how often a process has been replaced.

    Args:
        pid: The id of the process.
        environment: Its environment variables; None for those of this process.
    """
    if environment is None:
        environment = os.environ
    n_before, _ = _restarts_and_deadline(pid, environment)
    return n_before


def deadline(timeout_s: float) -> float:
    """Return when the time of a search is over, on the clock of `time.monotonic`.

    A process that replaces another one keeps the deadline of that one.
    """
    _, until = _restarts_and_deadline(os.getpid(), os.environ)
    if not until:
        until = time.monotonic() + timeout_s
    _state.deadline = until
    return until


def _restarts_and_deadline(pid: int, environment: Mapping[str, str]) -> tuple[int, float]:
    """Return the number of restarts of a process, and its deadline; 0 for an unknown one."""
    told = environment.get(RESTARTED) or "0 0 0"
    told_pid, n_before, until = told.split()
    if int(told_pid) != pid:
        return 0, 0.0
    return int(n_before), float(until)


def restart() -> NoReturn:
    """Replace this process by a fresh one that runs the same command.

    Other threads stop, and no `finally` block runs, so everything that must outlive the process has
    to be written before. If the cluster has asked this process to leave, it exits instead.
    """
    _flush()
    signal.setitimer(signal.ITIMER_REAL, 0)  # the fresh process would inherit the timer
    if _state.asked is not None:
        os._exit(128 + _state.asked)
    command = _state.command
    if command is None:
        raise ValueError("Expected `remember` to be called before `restart`.")
    pid = os.getpid()
    environment = dict(command.environment)
    environment[RESTARTED] = f"{pid} {n_restarts(pid) + 1} {_state.deadline}"
    for name in set(os.listdir("/proc/self/fd")) - command.files:
        with suppress(OSError):
            os.set_inheritable(int(name), False)
    signal.pthread_sigmask(signal.SIG_SETMASK, command.blocked)  # inherited as well
    try:
        os.chdir(command.folder)
        os.execve(sys.executable, _words(command), environment)
    except OSError as error:
        message = f"Error: no fresh process could be started ({error}); the same command goes on.\n"
        os.write(2, message.encode())
        os._exit(1)


def _words(command: _Command) -> list[str]:
    """Return the command line for the fresh process.

    The additional overrides stand before the first override, since Hydra wants all in one piece.
    """
    words = [sys.executable, *command.words[1:]]
    added = [word for word in command.overrides if word not in words]
    for place in range(len(words) - command.n_own, len(words)):
        word = words[place]
        if "=" in word and not word.startswith("-"):
            words[place:place] = added
            break
    return words


def _flush() -> None:
    """Write out the standard streams, and show the cursor again.

    A thread of its own does this, because a thread that hangs may never release the streams.
    """

    def flush() -> None:
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h")
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()

    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    thread.join(2.0)
